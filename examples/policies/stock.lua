-- The stock policy: at most 10 sessions from one host, 100 from the network around it, 20000 in all. An address in
-- whitelist.txt is limited by the last alone.
--
-- Two lengths are one for each family, "/24,/48" the /24 of an IPv4 client and the /48 of an IPv6 one: an IPv6 customer
-- has a whole /64, so a limit for single addresses would have no effect.
require("msys.core")
require("msys.cidr")
require("msys.extended.ac")
require("msys.extended.vctx")

local REFUSAL = "connection limit exceeded"

local limits = {
  { prefix = "/32,/64", most = 10, whitelist = true },
  { prefix = "/24,/48", most = 100, whitelist = true },
  { prefix = "/0", most = 20000 },
}

local mod = {}

function mod:init()
  msys.cidr.define("whitelist", {
    type = "rbldnsd",
    source = "whitelist.txt",
    record_type = "TXT",
    refresh = 60,
    default_value = "",
  })
  return true
end

function mod:validate_connect(ac, vctx)
  for i = 1, #limits do
    local limit = limits[i]
    -- The session that asks is counted too. The list is searched only for a client over a limit.
    if ac:inbound_session_count(limit.prefix) > limit.most
        and not (limit.whitelist and msys.cidr.query("whitelist") != "") then
      vctx:disconnect(421, REFUSAL)
      return msys.core.VALIDATE_DONE
    end
  end
  return msys.core.VALIDATE_CONT
end

msys.registerModule("stock", mod)
