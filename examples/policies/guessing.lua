-- Against clients that guess addresses: each unknown recipient is recorded in a named series by the client's IP, and
-- makes the client wait one second longer; after ten within the hour it is refused. A message that is accepted clears it.
--
-- A second series counts by a text, the sender's domain: at most 1000 messages an hour for one.
require("msys.core")
require("msys.audit_series")
require("msys.extended.vctx")

local KNOWN = { ["postmaster@example.org"] = true, ["abuse@example.org"] = true, ["sales@example.org"] = true }
local MOST_UNKNOWN, MOST_MESSAGES = 10, 1000

-- The last hour, with the window that has just begun.
local HOUR = { startv = 0, endv = 6 }

local function unknown()
  return msys.audit_series.count("unknown_recipients", HOUR)
end

local mod = {}

function mod:init()
  msys.audit_series.define("unknown_recipients", "ip", 600, 7)
  msys.audit_series.define("sender_domains", "string", 600, 7)
  return true
end

function mod:validate_connect(ac, vctx)
  if unknown() >= MOST_UNKNOWN then
    return vctx:disconnect(421, "4.7.1 too many unknown recipients, try again in an hour")
  end
  return msys.core.VALIDATE_CONT
end

function mod:validate_mailfrom(sender, ac, vctx)
  self.domain = sender:match("@([^@]+)$")
  if self.domain == nil then
    return msys.core.VALIDATE_CONT
  end
  self.domain = self.domain:lower()
  if msys.audit_series.count("sender_domains", { key = self.domain, startv = 0, endv = 6 }) >= MOST_MESSAGES then
    vctx:set_code(451, "4.7.1 " .. self.domain .. " has sent enough for this hour")
    return msys.core.VALIDATE_DONE
  end
  return msys.core.VALIDATE_CONT
end

function mod:validate_rcptto(msg, recipient, ac, vctx)
  if KNOWN[recipient:lower()] then
    return msys.core.VALIDATE_CONT
  end
  msys.audit_series.add("unknown_recipients")
  vctx:tarpit(unknown())
  vctx:set_code(550, "5.1.1 no such recipient here")
  return msys.core.VALIDATE_DONE
end

function mod:validate_data_spool(msg, ac, vctx)
  msys.audit_series.remove_item("unknown_recipients")
  if self.domain then
    msys.audit_series.add("sender_domains", self.domain)
  end
  return msys.core.VALIDATE_CONT
end

msys.registerModule("guessing", mod)
