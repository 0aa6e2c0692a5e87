-- The memory of an accept construct for a Lua without FFI: a userdata that stands for the bytes of the core's struct,
-- which Python hands to the core's functions.
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

local function value_of(question, ...)
  local why, value, second = question(...)
  if why then
    error(why, 0)
  end
  return value, second
end

function memory.count(ac, cidr, service)
  return value_of(host.session_count, bytes_of[ac], cidr, service)
end

-- As in ac_ffi.
function memory.event_count(ac, kind, monitor, cidr, first, last)
  return value_of(host.event_count, bytes_of[ac], kind, monitor, cidr, first, last)
end

function memory.series_add(ac, name, key, amount)
  return value_of(host.series_add, bytes_of[ac], name, key, amount)
end

function memory.series_count(ac, name, key, first, last)
  return value_of(host.series_count, bytes_of[ac], name, key, first, last)
end

function memory.series_remove(ac, name, key)
  return value_of(host.series_remove, bytes_of[ac], name, key)
end

-- The address of `ac` in the audit of `other`.
function memory.within(ac, other)
  return memory.open(value_of(host.within, bytes_of[ac], bytes_of[other]))
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

for _, name in pairs({ "remote_addr", "remote_ip", "conn_id", "remote_port", "version" }) do
  memory[name] = function(ac)
    return value_of(host.field, bytes_of[ac], name)
  end
end

return memory
