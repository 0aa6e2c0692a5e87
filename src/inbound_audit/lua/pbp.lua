-- msys.pbp: whitelists that one hook sets and later ones honour, sizes as people write them, and a DNS check that is not
-- carried out.
local room = ...
local absent, arguments, context, host = room("absent"), room("arguments"), room("vctx"), room("host")
local ipairs, lower, tonumber, tostring, type = ipairs, string.lower, tonumber, tostring, type
local count, match = room("steps").count, room("patterns").match
local plain, raising = arguments.plain, arguments.raising

local PREFIX = "dp_whitelist_" -- policies that call vctx:exists use it
local UNITS = { [""] = 1, b = 1, k = 1024, m = 1024 ^ 2, g = 1024 ^ 3, t = 1024 ^ 4 }

local pbp = {}

-- set_whitelist(vctx, [ctx,] name, on)
pbp.set_whitelist = raising(function(vctx, ctx, name, on)
  if type(ctx) ~= "number" then
    ctx, name, on = context.VCTX_CONN, ctx, name
  end
  if type(vctx) ~= "table" or type(name) ~= "string" then
    return "msys.pbp.set_whitelist: expected (vctx, [ctx,] name, on)"
  end
  return context.set(vctx, ctx, PREFIX .. name, on and "1" or nil)
end)

-- `list` is a name, an array of names, or a table with such an array as its `honor_whitelist`; nil honours no list.
pbp.check_whitelist = raising(function(vctx, list)
  if type(vctx) ~= "table" then
    return "msys.pbp.check_whitelist: expected (vctx, list)"
  end
  if type(list) == "table" and list.honor_whitelist ~= nil then
    list = list.honor_whitelist
  end
  for _, name in ipairs(type(list) == "table" and list or { list }) do
    count()
    local key = PREFIX .. tostring(plain(name))
    if (context.get(vctx, context.VCTX_CONN, key) or context.get(vctx, context.VCTX_MESS, key)) ~= nil then
      return nil, true
    end
  end
  return nil, false
end)

-- 31457280 for "30m"; a unit is a power of 1024, a number without one means bytes.
pbp.size_in_bytes = raising(function(size)
  local text = tostring(plain(size))
  local number, unit = match(lower(text), "^%s*(%d+%.?%d*)%s*([kmgt]?)b?%s*$")
  if not number then
    return text .. ": is not a size such as '30m'"
  end
  return nil, tonumber(number) * UNITS[unit]
end)

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
