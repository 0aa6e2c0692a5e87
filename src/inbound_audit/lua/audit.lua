-- msys.audit: counts for the session being validated, of open sessions and of what the monitors have recorded.
local room, _, settings = ...
local ac, arguments, host, sessions = room("ac"), room("arguments"), room("host"), room("sessions")
local windows = room("windows")
local error, pairs, tostring, type = error, pairs, tostring, type
local event_count, counted, codes = ac.event_count, ac.counted, windows.codes
local message, now, plain, question, raising = windows.message, sessions.now, arguments.plain, windows.question, arguments.raising

local OPTIONS = { cidr = true, startv = true, endv = true, cluster = true }

local audit = {}

audit.inbound_session_count = raising(function(cidr, service)
  if not now.state.ac then
    return "msys.audit.inbound_session_count: no session is being validated"
  end
  return counted(now.state.ac, cidr, service)
end)

-- What a monitor counted. Anything but a table of options is the cidr.
for name, kind in pairs(settings.kinds) do
  local where = "msys.audit." .. name
  audit[name] = raising(function(monitor, given)
    local why, cidr, first, last, cluster = question(where, given, "cidr", OPTIONS)
    if why then
      return why
    elseif type(monitor) ~= "string" then
      return message(codes.NO_MONITOR, nil, monitor)
    elseif cidr ~= nil and type(cidr) ~= "string" then
      return tostring(plain(cidr)) .. ": is not a text"
    end
    local accept = now.state.ac
    if not accept then
      return host.absolute_events(kind, monitor, cluster, cidr, first, last)
    end
    local code, n = event_count(accept, kind, monitor, cluster, cidr, first, last)
    if code == 0 then
      return nil, n
    elseif code == codes.NO_MONITOR then
      return message(code, monitor, monitor)
    end
    return message(code, monitor, code == codes.BAD_WINDOW and given or cidr)
  end)
end

-- How many nodes of the cluster are counted, and how many are known; without an agent 1 and 1.
function audit.nodes()
  if not now.state.ac then
    error("msys.audit.nodes: no session is being validated", 2)
  end
  local why, counted_nodes, known = host.nodes(ac.bytes(now.state.ac))
  if why then
    error(why, 2)
  end
  return counted_nodes, known
end

-- The policy needs this monitor: `serve` makes it, and any other audit that lacks it is refused when the policy is loaded.
audit.define_monitor = raising(function(monitor)
  return host.define_monitor(plain(monitor))
end)

return audit
