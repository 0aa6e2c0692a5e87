-- The accept construct that hooks are handed: `ac:inbound_session_count(cidr, service)` and what is known of a session.
local room, _, settings = ...
local host, sessions, plain = room("host"), room("sessions"), room("arguments").plain
local ac = room(settings.ffi and "ac_ffi" or "ac_portable")
local error, find, pairs, tostring, type = error, string.find, pairs, tostring, type
local is, session_count = ac.is, ac.session_count

local MAX_CAPABILITY = 500 -- bytes: it has a line of the EHLO reply to itself
local NO_SERVICE = settings.codes.NO_SERVICE -- for a service that is not a string, which the core can't be handed

local function explain(accept, code, cidr, service)
  local why, message = host.count_message(ac.bytes(accept), code, cidr, plain(service))
  return why or message
end

-- nil and how many sessions are open, or a reason. A number is not taken for a text: "/24" is meant, not 24.
function ac.counted(accept, cidr, service)
  if cidr ~= nil and type(cidr) ~= "string" then
    return tostring(plain(cidr)) .. ": is not a text"
  elseif service ~= nil and type(service) ~= "string" then
    return explain(accept, NO_SERVICE, cidr, service)
  end
  local n = session_count(accept, cidr, service)
  if n < 0 then
    return explain(accept, n, cidr, service)
  end
  return nil, n
end
local counted = ac.counted

-- A method of `ac`: an error has the place of the caller. `call` returns a reason, or nil and a result.
local function method(usage, call)
  return function(accept, a, b)
    if not is(accept) then
      error("the accept construct is missing: call it as ac:" .. usage, 2)
    end
    local why, result, more = call(accept, a, b)
    if why then
      error(why, 2)
    end
    return result, more
  end
end

-- A capability is one line of the EHLO reply; a control character would make it several.
local function note(list)
  return function(accept, name)
    if type(name) ~= "string" or name == "" or #name > MAX_CAPABILITY or find(name, "%c") then
      return tostring(plain(name)) .. ": is not the name of an ESMTP capability"
    end
    local why, service = nil, "SMTP"
    if not sessions.now.smtp then
      why, service = host.describe(ac.bytes(accept), "service_type")
    end
    if service ~= "SMTP" then
      return why or name .. ": the session is not an SMTP session (its service is " .. service .. ")"
    end
    return sessions.capability(ac.conn_id(accept), list, name)
  end
end

local methods = {
  inbound_session_count = method("inbound_session_count(cidr, service)", counted),
  pbp_inbound_session_count_service = method("pbp_inbound_session_count_service(service, cidr)",
    function(accept, service, cidr)
      return counted(accept, cidr, service)
    end),
  decision = method("decision()", function(accept)
    return host.decision(ac.bytes(accept))
  end),
  esmtp_capability_add = method("esmtp_capability_add(name)", note("add")),
  esmtp_capability_remove = method("esmtp_capability_remove(name)", note("remove")),
}

local fields = {}
for _, name in pairs({ "remote_addr", "remote_ip", "remote_port", "conn_id", "version" }) do
  fields[name] = ac[name]
end
for _, name in pairs({ "local_addr", "service_type", "listener_name" }) do
  fields[name] = function(accept)
    local why, value = host.describe(ac.bytes(accept), name)
    if why then
      error(why, 3)
    end
    return value
  end
end

ac.set_metatable({
  __index = function(accept, key)
    local method = methods[key]
    if method then
      return method
    end
    local field = fields[key]
    return field and field(accept)
  end,
  __newindex = function(_, key)
    error("an accept construct is read-only; can't set " .. tostring(plain(key)), 2)
  end,
  __eq = function(a, b)
    return is(a) and is(b) and ac.conn_id(a) == ac.conn_id(b)
  end,
  __tostring = function(accept)
    return "accept construct " .. ac.conn_id(accept) .. " from " .. ac.remote_addr(accept)
  end,
  __metatable = false,
})

return ac
