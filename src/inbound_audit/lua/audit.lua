-- msys.audit: counts for the session being validated, of open sessions and of what the monitors have recorded.
local room, _, settings = ...
local ac, host, options, sessions, windows = room("ac"), room("host"), room("options"), room("sessions"), room("windows")
local error, pairs, tostring, type = error, pairs, tostring, type
local event_count, codes = ac.memory.event_count, windows.codes
local now, message, plain, range = sessions.now, windows.message, options.plain, windows.range

local OPTIONS = { cidr = true, startv = true, endv = true, cluster = true }

local audit = {}

function audit.inbound_session_count(cidr, service)
  if not now.state.ac then
    error("msys.audit.inbound_session_count: no session is being validated", 2)
  end
  local n, why = ac.counted(now.state.ac, cidr, service)
  if not n then
    error(why, 2)
  end
  return n
end

local function what_of(code, monitor, cidr, startv, endv)
  if code == codes.NO_MONITOR then
    return monitor
  end
  return code == codes.BAD_WINDOW and windows.range_text(startv, endv) or cidr
end

-- What a monitor counted, or nil and the reason. Anything but a table of options is the cidr.
local function counted(name, kind, monitor, given)
  local cidr, startv, endv = given, nil, nil
  if type(given) == "table" then
    cidr, startv, endv = given.cidr, given.startv, given.endv
    local why = options.unknown("msys.audit." .. name, given, OPTIONS)
    if why then
      return nil, why
    end
  end
  if type(monitor) ~= "string" then
    return nil, message(codes.NO_MONITOR, monitor)
  end
  if cidr ~= nil and type(cidr) ~= "string" then
    return nil, tostring(plain(cidr)) .. ": is not a text"
  end
  local first, last = range(startv, endv)
  if not first then
    return nil, last
  end
  local accept = now.state.ac
  if not accept then
    local why, n = host.absolute_events(kind, monitor, cidr, first, last)
    return n, why
  end
  local code, n = event_count(accept, kind, monitor, cidr, first, last)
  if code ~= 0 then
    return nil, message(code, what_of(code, monitor, cidr, startv, endv), monitor)
  end
  return n
end

for name, kind in pairs(settings.kinds) do
  audit[name] = function(monitor, given)
    local n, why = counted(name, kind, monitor, given)
    if not n then
      error(why, 2)
    end
    return n
  end
end

-- The policy needs this monitor: `serve` makes it, and any other audit that lacks it is refused when the policy is loaded.
function audit.define_monitor(monitor)
  local why = host.define_monitor(plain(monitor))
  if why then
    error(why, 2)
  end
end

return audit
