-- The accept construct that hooks are handed: `ac:inbound_session_count(cidr, service)` and what is known of a session.
local room, _, settings = ...
local host, sessions = room("host"), room("sessions")
local memory = room(settings.ffi and "ac_ffi" or "ac_portable")
local error, find, pairs, tostring, type = error, string.find, pairs, tostring, type
local is, count = memory.is, memory.count

local NO_SERVICE = settings.codes.NO_SERVICE -- for a service that is not a string, which the core can't be handed

local function explain(ac, code, cidr, service)
  local why, message = host.count_message(memory.bytes(ac), code, cidr, service)
  return why or message
end

-- How many sessions are open, or nil and the reason. A number is not taken for a text: "/24" is meant, not 24.
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

-- A method of `ac`: an error has the place of the caller. `call` returns a result, or nil and a reason.
local function method(usage, call)
  return function(ac, a, b)
    if not is(ac) then
      error("the accept construct is missing: call it as ac:" .. usage, 2)
    end
    local result, why = call(ac, a, b)
    if why then
      error(why, 2)
    end
    return result
  end
end

methods.inbound_session_count = method("inbound_session_count(cidr, service)", counted)
methods.pbp_inbound_session_count_service = method("pbp_inbound_session_count_service(service, cidr)",
  function(ac, service, cidr)
    return counted(ac, cidr, service)
  end)

-- A capability is one line of the EHLO reply; a control character would make it several.
local function note(list)
  return function(ac, name)
    if type(name) ~= "string" or name == "" or find(name, "%c") then
      return nil, tostring(name) .. ": is not the name of an ESMTP capability"
    end
    local why, service = nil, "SMTP"
    if not sessions.now.smtp then
      why, service = host.describe(memory.bytes(ac), "service_type")
    end
    if service ~= "SMTP" then
      return nil, why or name .. ": the session is not an SMTP session (its service is " .. service .. ")"
    end
    return nil, sessions.capability(memory.conn_id(ac), list, name)
  end
end

methods.esmtp_capability_add = method("esmtp_capability_add(name)", note("add"))
methods.esmtp_capability_remove = method("esmtp_capability_remove(name)", note("remove"))

local fields = {
  remote_addr = memory.remote_addr,
  remote_ip = memory.remote_ip,
  remote_port = memory.remote_port,
  conn_id = memory.conn_id,
  version = memory.version,
}
for _, name in pairs({ "local_addr", "service_type", "listener_name" }) do
  fields[name] = function(ac)
    local why, value = host.describe(memory.bytes(ac), name)
    if why then
      error(why, 3)
    end
    return value
  end
end

memory.set_metatable({
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
