-- The counts of a shared audit, read by a stand-alone LuaJIT: no Python, no library, no other module than its own FFI.
--
--   local ia = require("inbound_audit")
--   local view = ia.open("mail")           -- or a directory, with a slash in it
--   view:count("192.0.2.0/24", "SMTP")     -- SMTP is the service when none is named
--   view:total("SMTP")
--   view:refresh()                         -- finds new owners, drops dead ones
--   view:owners()                          -- { { id =, pid =, started =, damaged =, listeners = { { service =, name =,
--   view:close()                           --     total = }, ... } }, ... }
--
-- Whatever goes wrong is an error that says what: a count is never nil and never a guess. An owner whose file is
-- damaged is not counted, and says so in `damaged`; one of another layout is an error of every count.
--
-- This is for looking in, not for a hot path: a count makes three system calls and one per node on its path, some
-- microseconds per listener. It reads with pread and maps nothing, so that no damage to a file can end this program. For
-- programs that count at each connection there is inbound_audit.h.
--
-- What an owner counts is seen at once; a new owner, a new listener and the death of an owner are seen by `refresh`.
-- Linux on x86-64 and arm64. docs/bytes.md draws what is read. Windows of time, which lie in the same files, are not.
local ffi, bit = require("ffi"), require("bit")
local band, bxor, lshift, rshift, tobit = bit.band, bit.bxor, bit.lshift, bit.rshift, bit.tobit
local error, ipairs, pairs, setmetatable = error, ipairs, pairs, setmetatable
local max, min, tonumber, tostring, type = math.max, math.min, tonumber, tostring, type

-- Numbers that the kernel keeps for good, and that differ from machine to machine.
local MACHINES = {
  x64 = { getdents64 = 217, statx = 332, O_DIRECTORY = 0x10000, O_NOFOLLOW = 0x20000 },
  arm64 = { getdents64 = 61, statx = 291, O_DIRECTORY = 0x4000, O_NOFOLLOW = 0x8000 },
}
local machine = MACHINES[jit.arch]
if not machine or jit.os ~= "Linux" or not ffi.abi("le") then
  error("inbound_audit reads on Linux, x86-64 or arm64, and not on " .. jit.os .. " " .. jit.arch)
end
local O_NONBLOCK, O_CLOEXEC = 0x800, 0x80000
local AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW = -100, 0x1000, 0x100
local F_OFD_GETLK, F_RDLCK, F_UNLCK = 36, 0, 2
local ENOENT, EINTR, ENOTDIR, ELOOP = 2, 4, 20, 40
local AF_INET, AF_INET6 = 2, 10

-- The names are our own, so that they can't clash with declarations of the program.
ffi.cdef([[
int ia_openat(int, const char *, int, int) __asm__("openat");
int ia_close(int) __asm__("close");
int ia_fcntl(int, int, void *) __asm__("fcntl");
int64_t ia_pread(int, void *, size_t, int64_t) __asm__("pread");
int64_t ia_getdents(int64_t, int64_t, void *, size_t) __asm__("syscall");
int64_t ia_statx(int64_t, int64_t, const char *, int64_t, int64_t, void *) __asm__("syscall");
int ia_inet_pton(int, const char *, void *) __asm__("inet_pton");
uint32_t ia_geteuid(void) __asm__("geteuid");
uint32_t ia_getegid(void) __asm__("getegid");
int ia_getgroups(int, uint32_t *) __asm__("getgroups");
const char *ia_strerror(int) __asm__("strerror");
]])
local C = ffi.C
local new, typeof = ffi.new, ffi.typeof
local Lock = typeof("struct { int16_t type, whence; int64_t start, len; int32_t pid; }")
local Statx = typeof([[struct {
  uint32_t mask, blksize; uint64_t attributes; uint32_t nlink, uid, gid; uint16_t mode, spare; uint64_t ino, size;
  uint8_t rest[208];
}]])
local Descriptor = typeof("struct { int fd; }")

local LAYOUT, BYTE_ORDER = 2, 0x01020304
local OWNER_MAGIC, SECTION_MAGIC = 0x72656e776f6169ULL, 0x7464756169ULL
local HEADER, TREES_MOST = 65536, 4096
local SESSIONS = 0 -- the kind of a section that is counted here: others are of windows of time
local SUFFIX, LEAF, SMALL, FULL = 1, 2, 3, 4
local SPINS, TRIES = 16, 1024

local NODE_MOST = 32 + 64 + 256 * 8
local bytes = new("uint64_t[?]", NODE_MOST / 8) -- what was read last
local u8, u16, u32 = ffi.cast("uint8_t *", bytes), ffi.cast("uint16_t *", bytes), ffi.cast("uint32_t *", bytes)

local function why(number)
  return ffi.string(C.ia_strerror(number or ffi.errno()))
end

local function descriptor(fd)
  return ffi.gc(new(Descriptor, fd), function(held)
    C.ia_close(held.fd)
  end)
end

local function let_go(held)
  ffi.gc(held, nil)
  C.ia_close(held.fd)
end

-- Reads into `bytes`; returns how many there were.
local function read(fd, offset, size)
  local got
  repeat
    got = C.ia_pread(fd, bytes, size, offset)
  until got >= 0 or ffi.errno() ~= EINTR
  return max(tonumber(got), 0)
end

local function stat(fd)
  local found = new(Statx)
  if C.ia_statx(machine.statx, fd, "", AT_EMPTY_PATH, 0x7ff, found) ~= 0 then
    error("statx: " .. why(), 0)
  end
  return found
end

-- Of a path, which is not followed if it is a link; nil when nothing is there.
local function lstat(path)
  local found = new(Statx)
  return C.ia_statx(machine.statx, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, 0x7ff, found) == 0 and found or nil
end

---- a count. An address is a table of its 4 or 16 bytes, from 1; a word of the file holds its first byte last.

local SLOTS = { [0] = 3, 5, 8, 16, 32, 64 }

-- The first `length` bits of an address: `have(i)` is its byte i, from 0.
local function lies_below(have, address, length)
  local i = 0
  while length >= 8 do
    if have(i) ~= address[i + 1] then
      return false
    end
    i, length = i + 1, length - 8
  end
  return length <= 0 or rshift(bxor(have(i), address[i + 1]), 8 - length) == 0
end

local function path4(i)
  return u8[4 + bxor(i, 3)]
end

local function path6(i)
  return u8[16 + bxor(i, 7)]
end

local function leaf(i)
  return u8[bxor(i, 7)]
end

-- All or nothing of what the entry of a host counts.
local function host(section, address, length, child, count, reach)
  local last, have = #address, leaf
  if rshift(child, 29) == SUFFIX then -- the last three bytes; the others are those of the path
    have = function(i)
      return i < last - 3 and address[i + 1] or band(rshift(child, 8 * (last - 1 - i)), 255)
    end
  else
    local unit = band(child, 0x1fffffff)
    if unit >= reach or read(section.fd, section.offset + unit * 16, 16) < 16 then
      return 0
    end
  end
  return lies_below(have, address, length) and count or 0
end

-- Goes through the small node in `bytes`: child and count of the entry for the byte, or the sum of those that share its
-- first bits.
local function small(size, head, byte, bits)
  local slots = SLOTS[band(u8[0], 7)]
  local keys = slots and max(slots, 8)
  local child, total = 0, 0
  if not slots or head + keys + 8 * slots > size then
    return 0, 0
  end
  for slot = 0, slots - 1 do
    local in_use = band(rshift(u32[slot < 32 and 2 or 3], slot), 1) == 1
    if in_use and rshift(bxor(u8[head + slot], byte), 8 - bits) == 0 then
      local at = (head + keys) / 4 + 2 * slot
      child, total = u32[at], total + u32[at + 1]
    end
  end
  return child, total
end

-- The same for a full node.
local function full(size, head, byte, bits)
  local span = lshift(1, 8 - bits)
  local first = byte - byte % span
  local child, total = 0, 0
  if head + 64 + 2048 > size then
    return 0, 0
  end
  if bits <= 4 then -- sixteen sums of sixteen
    for i = first / 16, (first + span) / 16 - 1 do
      total = total + u32[head / 4 + i]
    end
    return 0, total
  end
  for i = first, first + span - 1 do
    local at = (head + 64) / 4 + 2 * i
    child, total = u32[at], total + u32[at + 1]
  end
  return child, total
end

-- Sessions below a prefix in one tree. At most 16 steps, whatever the bytes are: each leads deeper than the one before.
local function walk(section, address, length)
  local v6 = #address == 16
  if read(section.fd, section.offset, 64) < 64 then
    return 0
  end
  local root, reach = v6 and 4 or 2, min(u32[15], section.stride / 16)
  local child, count, depth = u32[root], u32[root + 1], 0
  while length > 8 * depth do
    local tag, unit = rshift(child, 29), band(child, 0x1fffffff)
    if tag == SUFFIX or tag == LEAF then
      return host(section, address, length, child, count, reach)
    elseif (tag ~= SMALL and tag ~= FULL) or unit >= reach then
      return 0
    end
    local head, at = v6 and 32 or 16, unit * 16
    local size = read(section.fd, section.offset + at, min(NODE_MOST, section.stride - at))
    local own = u8[1]
    if size < head or own < depth or own >= #address then
      return 0
    end
    if own > depth then -- bytes were skipped: do they lie on the path?
      if not lies_below(v6 and path6 or path4, address, min(length, 8 * own)) then
        return 0
      elseif length <= 8 * own then
        return count
      end
      depth = own
    end
    local bits = min(length - 8 * depth, 8)
    child, count = (tag == FULL and full or small)(size, head, address[depth + 1], bits)
    if bits < 8 then
      return count
    end
    depth = depth + 1
  end
  return count
end

-- Exact as of one moment: the writer's number was even, and is the same afterwards. A writer that stands still in
-- mid-update leaves it odd, and what can be reached is sound: that answer lacks at most its one update.
local function count_tree(section, address, length)
  local seen, sound = 0, nil
  for attempt = 1, TRIES do
    if read(section.fd, section.offset, 8) < 8 then
      return 0
    end
    local began = bytes[0]
    seen = walk(section, address, length)
    if read(section.fd, section.offset, 8) == 8 and bytes[0] == began then
      if began % 2 == 0 or attempt > SPINS then
        return seen
      end
      sound = seen
    end
  end
  return sound or seen
end

---- prefixes

local FAMILIES = { { 0, 0, 0, 0 }, { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 } }

-- An address or "address/length" as bytes and a length; IPv4-mapped IPv6 is IPv4, from a length of 96 on.
local function parse(cidr)
  local text, length = tostring(cidr), nil
  if text:find("/", 1, true) then
    text, length = text:match("^([^/]*)/(%d+)$")
  end
  local v6 = text and text:find(":", 1, true)
  local size = v6 and 16 or 4
  length = tonumber(length or 8 * size)
  local family = v6 and AF_INET6 or AF_INET
  if not text or length > 8 * size or text:find("%z") or C.ia_inet_pton(family, text, bytes) ~= 1 then
    error(tostring(cidr) .. ': is not a prefix: expected "address" or "address/length"', 3)
  end
  local address = {}
  for i = 1, size do
    address[i] = u8[i - 1]
  end
  if v6 and length >= 96 and bytes[0] == 0 and u16[4] == 0 and u16[5] == 0xffff then
    return { address[13], address[14], address[15], address[16] }, length - 96
  end
  return address, length
end

---- owners

-- No process holds the lock of a dead owner's file.
local function lives(fd)
  local lock = new(Lock)
  lock.type, lock.len = F_RDLCK, 1
  if C.ia_fcntl(fd, F_OFD_GETLK, lock) ~= 0 then
    error("F_OFD_GETLK: " .. why(), 0)
  end
  return lock.type ~= F_UNLCK
end

-- What is wrong with the magic number, layout and byte order at that word of `bytes`; nil: nothing.
local function strange(at, magic)
  if bytes[at] ~= magic then
    return "does not begin with the mark of an owner's file"
  elseif u32[2 * at + 3] ~= BYTE_ORDER then
    return "was written on a machine of another byte order"
  elseif u32[2 * at + 2] ~= LAYOUT then
    return "has layout " .. u32[2 * at + 2] .. ", and only " .. LAYOUT .. " is understood here"
  end
end

-- FNV-1a over what a section's header says of whose tree it is; both sizes fit.
local function label_sum()
  local sum = tobit(2166136261)
  local function take(value)
    sum = bxor(sum, value) -- times 16777619, which is 2^24 + 403: a number holds 53 bits, and no product of 32 by 25
    sum = tobit(lshift(sum, 24) + sum % 4294967296 * 403)
  end
  for _, name in ipairs({ { 72, u32[16] }, { 136, u32[17] } }) do
    for i = name[1], name[1] + name[2] - 1 do
      take(u8[i])
    end
    take(name[2])
  end
  for _, at in ipairs({ 204, 232, 236, 240, 244 }) do -- kind, interval, slots, slot, sign
    take(u32[at / 4])
  end
  return sum
end

-- The tree of a section; or nil, why not, and whether its layout is another.
local function section_of(owner, number)
  local offset = HEADER + number * owner.stride
  if read(owner.fd, offset, 248) < 248 then
    return nil, "was cut short"
  end
  local fault = strange(5, SECTION_MAGIC)
  if fault then
    return nil, fault, true
  end
  local service_size, listener_size = u32[16], u32[17]
  if service_size < 1 or service_size > 63 or listener_size > 64 or label_sum() ~= tobit(u32[50]) then
    return nil, "holds numbers that no owner writes"
  end
  return {
    fd = owner.fd,
    offset = offset,
    stride = owner.stride,
    kind = u32[51],
    service = ffi.string(u8 + 72, service_size),
    name = ffi.string(u8 + 136, listener_size),
  }
end

-- Reads what the file says now. Returns why it can't be counted, and whether it has another layout.
local function read_sections(owner)
  owner.sections = {}
  local size = tonumber(stat(owner.fd).size)
  if size < owner.size or read(owner.fd, 0, 48) < 48 then
    return "was cut short"
  end
  owner.size = size
  local fault = strange(0, OWNER_MAGIC)
  if fault then
    return fault, true
  end
  local trees = u32[6]
  owner.stride, owner.pid, owner.started = tonumber(bytes[2]), u32[7], tonumber(bytes[4]) / 1e6
  if owner.stride < HEADER or owner.stride > 2 ^ 33 or owner.stride % HEADER ~= 0 or trees > TREES_MOST then
    return "holds numbers that no owner writes"
  end
  for number = 0, trees - 1 do
    local section, wrong, other = section_of(owner, number)
    if not section then
      owner.sections = {}
      return wrong, other
    end
    if section.kind == SESSIONS then
      owner.sections[#owner.sections + 1] = section
    end
  end
end

---- the directory

local function is_member(group)
  local groups = new("uint32_t[?]", 1024)
  for i = 0, C.ia_getgroups(1024, groups) - 1 do
    if groups[i] == group then
      return true
    end
  end
  return C.ia_getegid() == group
end

local function shares_with_us(found)
  return band(found.mode, 0x38) ~= 0 and is_member(found.gid)
end

-- Whoever may put files there decides what is counted: it has to be our own user, or a group that we belong to. Root is
-- shown any user's, if it says which by the path.
local function open_directory(path, by_path)
  local fd = C.ia_openat(AT_FDCWD, path, machine.O_DIRECTORY + machine.O_NOFOLLOW + O_CLOEXEC, 0)
  if fd < 0 then
    local number = ffi.errno()
    if number == ENOENT then
      error(path .. ": no process counts there; it does not exist", 0)
    end
    local is_none = number == ENOTDIR or number == ELOOP
    error(path .. ": refused: " .. (is_none and "it is a link or no directory" or why(number)), 0)
  end
  local held = descriptor(fd)
  local found, me = stat(fd), C.ia_geteuid()
  local ours = found.uid == me or (me == 0 and by_path) or (me ~= 0 and shares_with_us(found))
  if not ours or band(found.mode, 7) ~= 0 then
    error(path .. ": refused: it belongs to another user, or lets everybody in", 0)
  end
  return held
end

-- The names of owners' files: the kernel's own records, since no two C libraries have the same.
local function names_in(fd)
  local names, records = {}, new("uint8_t[?]", 32768)
  while true do
    local size = tonumber(C.ia_getdents(machine.getdents64, fd, records, 32768))
    if size < 0 then
      error("getdents64: " .. why(), 0)
    elseif size == 0 then
      return names
    end
    local at = 0
    while at < size do -- inode (8 bytes), offset (8), length of the record (2), type (1), name
      local name = ffi.string(records + at + 19)
      if #name == 22 and name:find("^%x+%.owner$") and name == name:lower() then
        names[#names + 1] = name
      end
      at = at + records[at + 16] + 256 * records[at + 17]
    end
  end
end

local function open_owner(view, directory, name)
  local fd = C.ia_openat(directory.fd, name, machine.O_NOFOLLOW + O_NONBLOCK + O_CLOEXEC, 0)
  if fd < 0 then
    local number = ffi.errno()
    if number == ENOENT or number == ELOOP then
      return nil
    end
    error(name .. ": " .. why(number), 0)
  end
  local held, found = descriptor(fd), stat(fd)
  local counts = band(found.mode, 0xf000) == 0x8000 and lives(fd)
  for _, owner in pairs(view.attached) do
    counts = counts and owner.inode ~= found.ino -- else a second name of its file
  end
  if not counts then
    let_go(held)
    return nil
  end
  return { id = name:sub(1, 16), fd = fd, held = held, inode = found.ino, size = 0, sections = {} }
end

---- what is offered

local View = {}
View.__index = View

-- Looks for new owners and listeners, and drops dead owners. A few system calls for each.
function View:refresh()
  if self.closed then
    error("the view is closed", 2)
  end
  for name, owner in pairs(self.attached) do
    if not lives(owner.fd) then
      let_go(owner.held)
      self.attached[name] = nil
    end
  end
  local directory = open_directory(self.directory, self.by_path)
  for _, name in ipairs(names_in(directory.fd)) do
    self.attached[name] = self.attached[name] or open_owner(self, directory, name)
  end
  let_go(directory)
  self.fault = nil
  for name, owner in pairs(self.attached) do
    local other
    owner.damaged, other = read_sections(owner)
    if other then
      self.fault = self.directory .. "/" .. name .. ": " .. owner.damaged
    end
  end
end

local function sum(view, service, address, length)
  if view.closed or view.fault then
    error(view.fault or "the view is closed", 3)
  end
  local total = 0
  service = (service == nil or service == "inbound_cidr") and "SMTP" or service
  for _, owner in pairs(view.attached) do
    for _, section in ipairs(owner.sections) do
      if section.service == service then
        total = total + count_tree(section, address, length)
      end
    end
  end
  return total
end

-- Sessions of a service (nil: SMTP) that are open now from an address or prefix; 0 for a service without a listener.
function View:count(cidr, service)
  local address, length = parse(cidr)
  return (sum(self, service, address, length))
end

-- Both families.
function View:total(service)
  return sum(self, service, FAMILIES[1], 0) + sum(self, service, FAMILIES[2], 0)
end

-- The owners that live, by id. `pid` and `started` (seconds) are their own words.
function View:owners()
  local list = {}
  for _, owner in pairs(self.attached) do
    local row = { id = owner.id, pid = owner.pid, started = owner.started, damaged = owner.damaged, listeners = {} }
    for i, section in ipairs(owner.sections) do
      local total = count_tree(section, FAMILIES[1], 0) + count_tree(section, FAMILIES[2], 0)
      row.listeners[i] = { service = section.service, name = section.name, total = total }
    end
    list[#list + 1] = row
  end
  table.sort(list, function(a, b)
    return a.id < b.id
  end)
  return list
end

-- Lets everything go. Idempotent.
function View:close()
  for _, owner in pairs(self.attached) do
    let_go(owner.held)
  end
  self.attached, self.closed = {}, true
end

local ia = {}

-- A service has a directory where only root or its own user makes any; each user may make one in /dev/shm.
local function roots()
  local found, me = lstat("/run/inbound_audit"), C.ia_geteuid()
  local trusted = found
    and band(found.mode, 0xf000) == 0x4000
    and (found.uid == 0 or found.uid == me or me == 0)
    and band(found.mode, 0x12) == 0
  return trusted and { "/run/inbound_audit", "/dev/shm" } or { "/dev/shm" }
end

-- Where the files of an audit lie: our own, else those of a group of ours, else those of any user.
function ia.directory_of(name)
  if type(name) ~= "string" or #name > 63 or not name:find("^%w[%w._-]*$") then
    error(tostring(name) .. ": is not the name of an audit", 2)
  end
  local place = os.getenv("INBOUND_AUDIT_SHM") or ""
  for path in ("%s:"):format(os.getenv("RUNTIME_DIRECTORY") or ""):gmatch("([^:]*):") do
    place = place == "" and path:sub(1, 1) == "/" and path or place
  end
  local best, least = nil, 4
  for _, root in ipairs(place == "" and roots() or { place }) do
    local path = root .. "/inbound_audit-" .. name
    local found, me = lstat(path), C.ia_geteuid()
    local rank = not found and 3 or found.uid == me and 0 or shares_with_us(found) and 1 or 2
    if rank < least or rank == 3 then
      best, least = least < rank and best or path, min(least, rank)
    end
  end
  return best
end

-- Opens the audit of that name, or of that directory when there is a slash in it.
function ia.open(name)
  local by_path = tostring(name):find("/", 1, true) ~= nil
  local directory = by_path and tostring(name) or ia.directory_of(name)
  local view = setmetatable({ directory = directory, by_path = by_path, attached = {} }, View)
  view:refresh()
  if view.fault then
    error(view.fault, 2)
  end
  return view
end

return ia
