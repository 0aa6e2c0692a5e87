-- msys.audit: counts for the session being validated, of open sessions and of what the monitors have seen.
local room = ...
local ac, ask, sessions, windows = room("ac"), room("ask"), room("sessions"), room("windows")
local error, pairs, tostring, type = error, pairs, tostring, type
local event_count = ac.memory.event_count
local now, range, words = sessions.now, windows.range, windows.words

local KINDS = { connections = 0, connection = 0, receptions = 1, rejections = 2 }

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
  if code == windows.NO_MONITOR then
    return monitor
  end
  return code == windows.BAD_WINDOW and windows.asked(startv, endv) or cidr
end

-- What a monitor counted, or nil and the reason. Options that are no table are the cidr.
local function counted(kind, monitor, options)
  local cidr, startv, endv = options, nil, nil
  if type(options) == "table" then
    cidr, startv, endv = options.cidr, options.startv, options.endv
  end
  if type(monitor) ~= "string" then
    return nil, words(windows.NO_MONITOR, monitor)
  end
  if cidr ~= nil and type(cidr) ~= "string" then
    return nil, tostring(windows.plain(cidr)) .. ": is not a text"
  end
  local first, last = range(startv, endv)
  if not first then
    return nil, last
  end
  local accept = now.state.ac
  if not accept then
    local why, n = ask.absolute_events(kind, monitor, cidr, first, last)
    return n, why
  end
  local code, n = event_count(accept, kind, monitor, cidr, first, last)
  if code ~= 0 then
    return nil, words(code, what_of(code, monitor, cidr, startv, endv), monitor)
  end
  return n
end

for name, kind in pairs(KINDS) do
  audit[name] = function(monitor, options)
    local n, why = counted(kind, monitor, options)
    if not n then
      error(why, 2)
    end
    return n
  end
end

return audit
