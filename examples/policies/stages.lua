-- A policy that speaks at each stage of an SMTP session: it slows a busy network down, closes on a client that names
-- itself by our name, and has a limit of its own for recipients.
require("msys.core")
require("msys.extended.ac")
require("msys.extended.message")
require("msys.extended.vctx")
require("msys.pbp")

local CONT, DONE = msys.core.VALIDATE_CONT, msys.core.VALIDATE_DONE
local OUR_NAME = "mx.example.org"
local MOST_RECIPIENTS, MOST_BYTES = 100, msys.pbp.size_in_bytes("30m")

local mod = {}

function mod:validate_connect(ac, vctx)
  ac:esmtp_capability_add("SIZE " .. MOST_BYTES)
  -- Half a second for every ten sessions of the network, five seconds at most.
  vctx:tarpit(math.min(5, (ac:inbound_session_count("/24,/48") \ 10) / 2))
  return CONT
end

function mod:validate_ehlo(name, ac, vctx)
  if name:lower() == OUR_NAME then
    return vctx:disconnect(554, "5.7.1 " .. name .. " is us, and you are " .. ac.remote_ip)
  end
  return CONT
end

-- `self` is a table of this module that lives as long as the session.
function mod:validate_mailfrom(sender, ac, vctx)
  self.recipients = 0
  return CONT
end

function mod:validate_rcptto(msg, recipient, ac, vctx)
  self.recipients = (self.recipients or 0) + 1
  if self.recipients > MOST_RECIPIENTS then
    vctx:set_code(452, "4.5.3 too many recipients")
    return DONE
  end
  return CONT
end

function mod:validate_data(msg, ac, vctx)
  if msg:get_message_size() > MOST_BYTES then
    vctx:set_code(552, "5.3.4 message too large")
    return DONE
  end
  return CONT
end

msys.registerModule("stages", mod)
