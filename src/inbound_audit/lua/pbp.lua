-- msys.pbp: whitelists that one hook sets and later ones honour, sizes as people write them, and a DNS check that is not
-- carried out.
local room = ...
local absent, context, host = room("absent"), room("vctx"), room("host")
local error, ipairs, match, tonumber, tostring, type = error, ipairs, string.match, tonumber, tostring, type
local lower = string.lower

local PREFIX = "dp_whitelist_" -- policies that call vctx:exists use it
local UNITS = { [""] = 1, b = 1, k = 1024, m = 1024 ^ 2, g = 1024 ^ 3, t = 1024 ^ 4 }

local pbp = {}

-- set_whitelist(vctx, [ctx,] name, on)
function pbp.set_whitelist(vctx, ctx, name, on)
  if type(ctx) ~= "number" then
    ctx, name, on = context.VCTX_CONN, ctx, name
  end
  if type(vctx) ~= "table" or type(name) ~= "string" then
    error("msys.pbp.set_whitelist: expected (vctx, [ctx,] name, on)", 2)
  end
  local why = context.set(vctx, ctx, PREFIX .. name, on and "1" or nil)
  if why then
    error(why, 2)
  end
end

local function listed(vctx, name)
  local key = PREFIX .. tostring(name)
  return context.get(vctx, context.VCTX_CONN, key) ~= nil or context.get(vctx, context.VCTX_MESS, key) ~= nil
end

-- `list` is a name, an array of names, or a table with such an array as its `honor_whitelist`; nil honours no list.
function pbp.check_whitelist(vctx, list)
  if type(vctx) ~= "table" then
    error("msys.pbp.check_whitelist: expected (vctx, list)", 2)
  end
  if type(list) == "table" and list.honor_whitelist ~= nil then
    list = list.honor_whitelist
  end
  for _, name in ipairs(type(list) == "table" and list or { list }) do
    if listed(vctx, name) then
      return true
    end
  end
  return false
end

-- 31457280 for "30m"; a unit is a power of 1024, a number without one means bytes.
function pbp.size_in_bytes(size)
  local number, unit = match(lower(tostring(size)), "^%s*(%d+%.?%d*)%s*([kmgt]?)b?%s*$")
  if not number then
    error(tostring(size) .. ": is not a size such as '30m'", 2)
  end
  return tonumber(number) * UNITS[unit]
end

-- No name is ever resolved here, so the check can't fail: "not checked" is neither a reason to refuse nor a proof.
local warned = false
function pbp.fcdns_check(_, vctx)
  if type(vctx) == "table" then
    context.set(vctx, context.VCTX_CONN, "fcdns_status", "not checked")
  end
  if not warned then
    warned = true
    host.warn("msys.pbp.fcdns_check: names are not resolved by inbound_audit; every client counts as not checked")
  end
  return true, "not checked", "not checked"
end

return absent.rest(pbp, "msys.pbp")
