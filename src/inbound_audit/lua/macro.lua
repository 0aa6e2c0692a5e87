-- msys.expandMacro: %{i} is the connecting IP, %{vctx_conn:KEY} and %{vctx_mess:KEY} are context values, %{spfv1:...} the
-- macros of RFC 7208, section 7. A key that is not set expands to nothing; an unknown macro stays as it is.
local room = ...
local ac, context, host, sessions = room("ac"), room("vctx"), room("host"), room("sessions")
local byte, find, format, gmatch = string.byte, string.find, string.format, string.gmatch
local lower, match = string.lower, string.match
local gsub = room("patterns").gsub
local concat, error, tonumber, type = table.concat, error, tonumber, type
local now, text_of = sessions.now, room("steps").text

local CONTEXTS = { vctx_conn = context.VCTX_CONN, vctx_mess = context.VCTX_MESS }

local function value(ctx, key)
  return context.get(now.state.vctx, ctx, key) or ""
end

local function helo()
  return value(context.VCTX_CONN, "ehlo_domain")
end

-- The sender; without one the postmaster of the name in EHLO, as in RFC 7208, section 2.4.
local function sender(part)
  local localpart, domain = match(value(context.VCTX_MESS, "mailfrom_string"), "^(.*)@([^@]*)$")
  localpart, domain = localpart or "postmaster", domain or helo()
  return part == "s" and localpart .. "@" .. domain or part == "l" and localpart or domain
end

local function connecting_ip(transformed)
  local ip = ac.remote_ip(now.state.ac)
  if transformed and find(ip, ":", 1, true) then
    local why, dotted = host.dotted(ip)
    return dotted or error(why, 0)
  end
  return ip
end

local LETTERS = {
  s = sender, l = sender, o = sender, d = sender,
  h = helo,
  i = function(_, transformed)
    return connecting_ip(transformed)
  end,
  v = function()
    return find(connecting_ip(false), ":", 1, true) and "ip6" or "in-addr"
  end,
}

-- Splits at the delimiters, reverses, keeps the last parts, and joins with dots.
local function transform(text, digits, reversed, delimiters)
  local parts = {}
  local class = "[" .. gsub(delimiters == "" and "." or delimiters, ".", "%%%0") .. "]"
  for part in gmatch(gsub(text, class, "\0") .. "\0", "([^%z]*)%z") do
    parts[#parts + 1] = part
  end
  if reversed then
    for i = 1, #parts / 2 do
      parts[i], parts[#parts + 1 - i] = parts[#parts + 1 - i], parts[i]
    end
  end
  local count = tonumber(digits) or #parts
  return concat(parts, ".", count < #parts and #parts - count + 1 or 1)
end

local function spf(macro)
  local letter, digits, reversed, delimiters = match(macro, "^(%a)(%d*)([rR]?)([-.+,/_=]*)$")
  local read = letter and LETTERS[lower(letter)]
  if not read or tonumber(digits) == 0 then
    return nil
  end
  local transformed = digits ~= "" or reversed ~= "" or delimiters ~= ""
  local text = read(lower(letter), transformed)
  text = transformed and transform(text, digits, reversed ~= "", delimiters) or text
  if letter ~= lower(letter) then -- an upper-case letter asks for the form of a URL
    text = gsub(text, "[^%w%-._~]", function(character)
      return format("%%%02X", byte(character))
    end)
  end
  return text
end

local function expand(macro)
  if macro == "i" then
    return connecting_ip(false)
  end
  local kind, key = match(macro, "^([%w_]+):(.*)$")
  if kind == "spfv1" then
    return spf(key)
  end
  return CONTEXTS[kind] and value(CONTEXTS[kind], key)
end

return function(text)
  if type(text) ~= "string" then
    error("msys.expandMacro: the text must be a string, not a " .. type(text), 2)
  end
  if not now.state.ac then
    error("msys.expandMacro: no session is being validated", 2)
  end
  local expanded = gsub(text, "%%{([^}]*)}", expand)
  return text_of(expanded)
end
