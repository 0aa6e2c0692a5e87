-- msys.audit: the count for the session being validated; its windows are of a later version.
local room = ...
local ac, sessions = room("ac"), room("sessions")
local error = error
local now = sessions.now

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

local function later(name)
  return function()
    error("msys.audit." .. name .. " is not available: windows and series are not counted by this version", 2)
  end
end

for _, name in ipairs({ "connections", "connection", "receptions", "rejections" }) do
  audit[name] = later(name)
end

return audit
