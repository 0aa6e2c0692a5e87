-- One session a host: the first is let in, every further one that comes while it is open is not.
require("msys.core")
require("msys.extended.ac")
require("msys.extended.vctx")

local max_conn = 1

local mod = {}

function mod:validate_connect(ac, vctx)
  local count = ac:inbound_session_count("/32")
  if count > max_conn then
    vctx:disconnect(421, "4.7.1 " .. ac.remote_ip .. ": " .. count - 1 .. " of " .. max_conn .. " sessions are open")
    return msys.core.VALIDATE_DONE
  end
  return msys.core.VALIDATE_CONT
end

msys.registerModule("training", mod)
