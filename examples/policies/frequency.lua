-- A limit on the rate of connections, where stock.lua limits those that are open at once: at most 300 connections from a network within the last
-- three windows of five minutes. A client close to the limit has to wait. A client with 50 rejections and no accepted
-- message in half an hour is refused.
--
-- The audit counts by a monitor of that name: InboundAudit(monitors=["300,6"]), or serve --monitor 300,6.
require("msys.core")
require("msys.audit")
require("msys.extended.vctx")

local MONITOR, NETWORK = "300,6", "/24,/48"
local MOST_CONNECTIONS, MOST_REJECTIONS = 300, 50

local function count(what, cidr, last)
  return msys.audit[what](MONITOR, { cidr = cidr, startv = 0, endv = last })
end

local mod = {}

function mod:validate_connect(ac, vctx)
  local connections = count("connections", NETWORK, 2)
  if connections > MOST_CONNECTIONS then
    return vctx:disconnect(421, "4.7.0 too many connections from your network, try again later")
  end
  -- No cidr: exactly the connecting IP.
  if count("rejections", nil, 5) >= MOST_REJECTIONS and count("receptions", nil, 5) == 0 then
    return vctx:disconnect(554, "5.7.1 nothing of what you send is wanted here")
  end
  if connections > MOST_CONNECTIONS / 2 then
    vctx:tarpit(2)
  end
  return msys.core.VALIDATE_CONT
end

msys.registerModule("frequency", mod)
