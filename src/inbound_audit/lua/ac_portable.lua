-- The memory of an accept construct for a Lua without FFI: a userdata that stands for the bytes of the core's struct,
-- which Python hands to the core's functions. The functions are those of ac_ffi.
local room = ...
local host = room("host")
local error, getmetatable, newproxy, pairs, setmetatable = error, getmetatable, newproxy, pairs, setmetatable

local bytes_of = setmetatable({}, { __mode = "k" })
local template = newproxy(true)

local memory = {}

-- `token` is the bytes of a struct.
function memory.open(token)
  local ac = newproxy(template)
  bytes_of[ac] = token
  return ac
end

function memory.is(ac)
  return bytes_of[ac] ~= nil
end

local function value_of(why, value, second)
  if why then
    error(why, 0)
  end
  return value, second
end

for _, name in pairs({ "session_count", "event_count", "series_add", "series_count", "series_remove" }) do
  local call = host[name]
  memory[name] = function(ac, ...)
    return value_of(call(bytes_of[ac], ...))
  end
end

for _, name in pairs({ "remote_addr", "remote_ip", "conn_id", "remote_port", "version" }) do
  memory[name] = function(ac)
    return value_of(host.field(bytes_of[ac], name))
  end
end

-- The address of `ac` in the audit of `other`.
function memory.within(ac, other)
  return memory.open(value_of(host.within(bytes_of[ac], bytes_of[other])))
end

function memory.bytes(ac)
  return bytes_of[ac]
end

function memory.set_metatable(metatable)
  local own = getmetatable(template)
  for event, handler in pairs(metatable) do
    own[event] = handler
  end
end

return memory
