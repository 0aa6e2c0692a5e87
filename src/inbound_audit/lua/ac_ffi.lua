-- The memory of an accept construct with LuaJIT's FFI: a copy of the core's struct, whose functions are called by
-- address. Whatever a script does with its `ac`, it holds bytes of its own; the trees that they name outlive the state.
local _, _, options = ...
local ffi = require("ffi")
local cast, copy, istype, metatype, new, to_string = ffi.cast, ffi.copy, ffi.istype, ffi.metatype, ffi.new, ffi.string
local tonumber = tonumber

-- The script's type has the size of the core's but no field with a name: no script can write a pointer into it.
ffi.cdef(options.cdef .. [[
typedef struct ia_box {
  uint32_t :32; uint32_t :32; uint32_t :32; uint32_t :32; uint32_t :32;
  uint32_t :32; uint32_t :32; uint32_t :32; uint32_t :32; uint32_t :32;
} __attribute__((aligned(8))) ia_box;
]])
local SIZE = ffi.sizeof("ia_box")
if SIZE ~= ffi.sizeof("ia_ac") or SIZE ~= options.sizeof_ac then
  error("the core's ia_ac has " .. options.sizeof_ac .. " bytes, this bridge knows one of " .. SIZE)
end

local inside, writable = ffi.typeof("const ia_ac *"), ffi.typeof("ia_ac *")
local session_count = cast("int64_t (*)(const ia_box *, const char *, size_t, const char *, size_t)", options.count)
local write_addr = cast("size_t (*)(const ia_box *, char *)", options.remote_addr)
local write_ip = cast("size_t (*)(const ia_box *, char *)", options.remote_ip)
local text = ffi.new("char[64]")

local event_count = cast("int64_t (*)(const ia_box *, int, const char *, size_t, int64_t, const char *, size_t, int64_t, "
  .. "int64_t, int64_t *)", options.event_count)
local series_add = cast("int64_t (*)(const ia_box *, const char *, size_t, const char *, size_t, int64_t)",
  options.series_add)
local series_count = cast("int64_t (*)(const ia_box *, const char *, size_t, const char *, size_t, int64_t, int64_t, "
  .. "int64_t *)", options.series_count)
local series_remove = cast("int64_t (*)(const ia_box *, const char *, size_t, const char *, size_t)",
  options.series_remove)
local out = ffi.new("int64_t[1]") -- a count of windows, which may be negative; read at once after the call

local memory = {}
local box

-- `token` is the address of a live struct, good during this call only.
function memory.open(token)
  local ac = box()
  copy(ac, cast(inside, token), 40)
  return ac
end

function memory.is(ac)
  return istype(box, ac)
end

function memory.count(ac, cidr, service)
  return tonumber(session_count(ac, cidr, cidr and #cidr or 0, service, service and #service or 0))
end

-- The four of windows answer 0, or a negative code of the core; those that count answer the count second. All numbers
-- are whole and fit an int64_t.
function memory.event_count(ac, kind, monitor, cidr, first, last)
  local code = event_count(ac, kind, monitor, #monitor, 0, cidr, cidr and #cidr or 0, first, last, out)
  return tonumber(code), tonumber(out[0])
end

function memory.series_add(ac, name, key, amount)
  return tonumber(series_add(ac, name, #name, key, key and #key or 0, amount))
end

function memory.series_count(ac, name, key, first, last)
  local code = series_count(ac, name, #name, key, key and #key or 0, first, last, out)
  return tonumber(code), tonumber(out[0])
end

function memory.series_remove(ac, name, key)
  return tonumber(series_remove(ac, name, #name, key, key and #key or 0))
end

-- The address of `ac` in the audit of `other`.
function memory.within(ac, other)
  local made = box()
  copy(made, ac, 40)
  cast(writable, made).tree = cast(inside, other).tree
  return made
end

function memory.bytes(ac)
  return to_string(ac, SIZE)
end

function memory.remote_addr(ac)
  return to_string(text, write_addr(ac, text))
end

function memory.remote_ip(ac)
  return to_string(text, write_ip(ac, text))
end

function memory.conn_id(ac)
  return tonumber(cast(inside, ac).conn_id)
end

function memory.remote_port(ac)
  return tonumber(cast(inside, ac).remote_port)
end

function memory.version(ac)
  return tonumber(cast(inside, ac).version)
end

function memory.dress(metatable)
  box = metatype("ia_box", metatable)
end

return memory
