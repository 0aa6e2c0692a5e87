-- The memory of an accept construct for a Lua without FFI: a userdata that stands for the bytes of the core's struct,
-- which Python takes apart and hands to the core's functions.
local room = ...
local ask = room("ask")
local error, getmetatable, newproxy, pairs, setmetatable = error, getmetatable, newproxy, pairs, setmetatable
local sub = string.sub

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

local function answer(question, ...)
  local why, value, second = question(...)
  if why then
    error(why, 0)
  end
  return value, second
end

function memory.count(ac, cidr, service)
  return answer(ask.count, bytes_of[ac], cidr, service)
end

-- As in ac_ffi.
function memory.event_count(ac, kind, monitor, cidr, first, last)
  return answer(ask.event_count, bytes_of[ac], kind, monitor, cidr, first, last)
end

function memory.series_add(ac, name, key, amount)
  return answer(ask.series_add, bytes_of[ac], name, key, amount)
end

function memory.series_count(ac, name, key, first, last)
  return answer(ask.series_count, bytes_of[ac], name, key, first, last)
end

function memory.series_remove(ac, name, key)
  return answer(ask.series_remove, bytes_of[ac], name, key)
end

-- Bytes 9 to 16 are the pointer to the tree, through which the core finds the audit.
function memory.within(ac, other)
  local bytes = bytes_of[ac]
  return memory.open(sub(bytes, 1, 8) .. sub(bytes_of[other], 9, 16) .. sub(bytes, 17))
end

function memory.bytes(ac)
  return bytes_of[ac]
end

function memory.dress(metatable)
  local own = getmetatable(template)
  for event, handler in pairs(metatable) do
    own[event] = handler
  end
end

for _, name in pairs({ "remote_addr", "remote_ip", "conn_id", "remote_port", "version" }) do
  memory[name] = function(ac)
    return answer(ask.read, bytes_of[ac], name)
  end
end

return memory
