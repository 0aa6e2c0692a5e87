-- The accept construct that hooks are handed: `ac:inbound_session_count(cidr, service)` and what is known of a session.
local room, _, options = ...
local ask, sessions = room("ask"), room("sessions")
local memory = room(options.ffi and "ac_ffi" or "ac_portable")
local error, find, pairs, tostring, type = error, string.find, pairs, tostring, type
local is, count = memory.is, memory.count

local NO_SERVICE = -19 -- the core's code, for what is no string and so can't be handed to it

local function explain(ac, code, cidr, service)
  local why, words = ask.explain(memory.bytes(ac), code, cidr, service)
  return why or words
end

-- How many sessions are open, or nil and the reason. Numbers are no texts here: "/24" is meant, not 24.
local function counted(ac, cidr, service)
  if cidr ~= nil and type(cidr) ~= "string" then
    return nil, tostring(cidr) .. ": is not a text"
  end
  if service ~= nil and type(service) ~= "string" then
    return nil, explain(ac, NO_SERVICE, cidr, type(service) == "number" and service or tostring(service))
  end
  local n = count(ac, cidr, service)
  if n < 0 then
    return nil, explain(ac, n, cidr, service)
  end
  return n
end

local methods = {}

function methods.inbound_session_count(ac, cidr, service)
  if not is(ac) then
    error("the accept construct is missing: call it as ac:inbound_session_count(cidr, service)", 2)
  end
  local n, why = counted(ac, cidr, service)
  if not n then
    error(why, 2)
  end
  return n
end

function methods.pbp_inbound_session_count_service(ac, service, cidr)
  if not is(ac) then
    error("the accept construct is missing: call it as ac:pbp_inbound_session_count_service(service, cidr)", 2)
  end
  local n, why = counted(ac, cidr, service)
  if not n then
    error(why, 2)
  end
  return n
end

-- A capability is one line of the EHLO reply; a control character would make it several.
local function note(list, ac, name)
  if not is(ac) then
    return "the accept construct is missing: call it as ac:esmtp_capability_" .. list .. "(name)"
  end
  if type(name) ~= "string" or name == "" or find(name, "%c") then
    return tostring(name) .. ": is no name of an ESMTP capability"
  end
  return sessions.capability(memory.conn_id(ac), list, name)
end

function methods.esmtp_capability_add(ac, name)
  local why = note("add", ac, name)
  if why then
    error(why, 2)
  end
end

function methods.esmtp_capability_remove(ac, name)
  local why = note("remove", ac, name)
  if why then
    error(why, 2)
  end
end

local fields = {
  remote_addr = memory.remote_addr,
  remote_ip = memory.remote_ip,
  remote_port = memory.remote_port,
  conn_id = memory.conn_id,
  version = memory.version,
}
for _, name in pairs({ "local_addr", "service_type", "listener_name" }) do
  fields[name] = function(ac)
    local why, value = ask.describe(memory.bytes(ac), name)
    if why then
      error(why, 3)
    end
    return value
  end
end

memory.dress({
  __index = function(ac, key)
    local method = methods[key]
    if method then
      return method
    end
    local field = fields[key]
    return field and field(ac)
  end,
  __newindex = function(_, key)
    error("an accept construct is read-only; can't set " .. tostring(key), 2)
  end,
  __eq = function(a, b)
    return is(a) and is(b) and memory.conn_id(a) == memory.conn_id(b)
  end,
  __tostring = function(ac)
    return "accept construct " .. memory.conn_id(ac) .. " from " .. memory.remote_addr(ac)
  end,
  __metatable = false,
})

return {
  open = memory.open,
  is = is,
  conn_id = memory.conn_id,
  remote_ip = memory.remote_ip,
  counted = counted,
  memory = memory,
}
