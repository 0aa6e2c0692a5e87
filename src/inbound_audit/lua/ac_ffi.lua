-- The memory of an accept construct with LuaJIT's FFI: a copy of the core's struct, whose functions are called by
-- address. Whatever a script does with its `ac`, it holds bytes of its own; the trees that they name outlive the state.
local _, _, options = ...
local ffi = require("ffi")
local cast, copy, istype, metatype, to_string = ffi.cast, ffi.copy, ffi.istype, ffi.metatype, ffi.string
local gsub, match, rep = string.gsub, string.match, string.rep
local pairs, tonumber = pairs, tonumber

-- A script's type has the size of the core's but no field with a name: no script can write a pointer into it. The core's
-- functions are declared a second time, with pointers to that type.
local SIZE = options.sizeof_ac
ffi.cdef(options.cdef)
if SIZE ~= ffi.sizeof("ia_ac") then
  error("ia_ac has " .. SIZE .. " bytes in the core, and " .. ffi.sizeof("ia_ac") .. " as declared")
end
ffi.cdef("typedef struct ia_box {" .. rep("uint32_t :32;", SIZE / 4) .. "} __attribute__((aligned(8))) ia_box;")
ffi.cdef((gsub(gsub(match(options.cdef, "} ia_ac;(.*)"), "ia_ac", "ia_box"), "_fn%)", "_box)")))

local inside, writable = ffi.typeof("const ia_ac *"), ffi.typeof("ia_ac *")
local session_count = cast("ia_session_count_box", options.session_count)
local write_addr = cast("ia_remote_addr_box", options.remote_addr)
local write_ip = cast("ia_remote_ip_box", options.remote_ip)
local event_count = cast("ia_event_count_box", options.event_count)
local series_add = cast("ia_series_add_box", options.series_add)
local series_count = cast("ia_series_count_box", options.series_count)
local series_remove = cast("ia_series_remove_box", options.series_remove)
local text = ffi.new("char[?]", options.sizeof_text)
local out = ffi.new("int64_t[1]") -- a count of windows, which may be negative; read at once after the call

local memory = {}
local box

-- `token` is the address of a live struct, good during this call only.
function memory.open(token)
  local ac = box()
  copy(ac, cast(inside, token), SIZE)
  return ac
end

function memory.is(ac)
  return istype(box, ac)
end

function memory.session_count(ac, cidr, service)
  return tonumber(session_count(ac, cidr, cidr and #cidr or 0, service, service and #service or 0))
end

-- The four functions of windows return 0, or a negative code of the core; those that count return the count second. All
-- numbers are whole and fit an int64_t.
function memory.event_count(ac, kind, monitor, cluster, cidr, first, last)
  local code = event_count(ac, kind, monitor, #monitor, cluster, cidr, cidr and #cidr or 0, first, last, out)
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
  copy(made, ac, SIZE)
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

for _, name in pairs({ "conn_id", "remote_port", "version" }) do
  memory[name] = function(ac)
    return tonumber(cast(inside, ac)[name])
  end
end

function memory.set_metatable(metatable)
  box = metatype("ia_box", metatable)
end

return memory
