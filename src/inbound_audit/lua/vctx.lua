-- The validation context: values that live as long as the connection or its message, and the reply of the hook that
-- runs. A field with an underscore is ours; `_conn` and `_mess` exist once something was set in them.
local room = ...
local arguments = room("arguments")
local error, floor, gsub, ipairs, match = error, math.floor, string.gsub, ipairs, string.match
local rawset, setmetatable, tonumber, tostring, type = rawset, setmetatable, tonumber, tostring, type
local plain, raising, place = arguments.plain, arguments.raising, room("steps").place

local ANSWERS = { VALIDATE_CONT = 0, VALIDATE_DONE = 1, VALIDATE_AGAIN = 2 } -- of a hook
local VALIDATE_DONE = ANSWERS.VALIDATE_DONE
local VCTX_CONN, VCTX_MESS = 1, 2
local REFUSED, MIN_CODE, MAX_CODE = 421, 200, 599
local MAX_REPLY = 8192 -- bytes, as a verdict takes
local MAX_TARPIT_S = 86400 -- a day is beyond any client's patience and still a number that can be slept

local REPLY = { "_code", "_text", "_tarpit", "_refused", "_disconnect", "_place" }
local STORES = { [VCTX_CONN] = "_conn", [VCTX_MESS] = "_mess" }

local function store_of(ctx, key)
  local store = STORES[ctx]
  if not store then
    return tostring(plain(ctx)) .. ": is neither msys.core.VCTX_CONN nor msys.core.VCTX_MESS"
  elseif type(key) ~= "string" then
    return tostring(plain(key)) .. ": the key of a context value must be a string"
  end
  return nil, store
end

-- A value is text, as in the reference; for a number write tonumber(vctx:get(...)).
local function set(vctx, ctx, key, value)
  local why, store = store_of(ctx, key)
  if why then
    return why
  end
  local kind = type(value)
  if kind == "table" or kind == "function" or kind == "thread" then
    return "the value of " .. key .. " must be a text or a number, not a " .. kind
  end
  if not vctx[store] then
    rawset(vctx, store, {})
  end
  vctx[store][key] = value ~= nil and tostring(value) or nil
end

local function get(vctx, ctx, key)
  local values = vctx[STORES[ctx]]
  return values and values[key]
end

local function read(vctx, ctx, key)
  local why = store_of(ctx, key)
  if why then
    return why
  end
  return nil, get(vctx, ctx, key)
end

-- 1 or 0, as the reference's C function returns, and not a boolean.
local function exists(vctx, ctx, key)
  local why, value = read(vctx, ctx, key)
  return why, value ~= nil and 1 or 0
end

-- Whether a code needs no reading. Patterns are avoided where they can be: LuaJIT does not compile a hook that uses one.
local function is_code(code)
  return type(code) == "number" and code >= MIN_CODE and code <= MAX_CODE and floor(code) == code
end

local function text_of(text)
  return text ~= nil and tostring(plain(text)) or ""
end

-- The code may be a number, its digits, or the start of the text: 421, "421", "421 come back later".
local function split(code, text)
  text = text_of(text)
  if is_code(code) then
    return nil, code, text
  end
  local digits, rest = match(text_of(code), "^(%d%d%d)[%s-]*(.*)$")
  local number = tonumber(digits)
  if not number then
    return tostring(plain(code)) .. ": is not an SMTP reply code"
  elseif number < MIN_CODE or number > MAX_CODE then
    return digits .. ": is not an SMTP reply code between " .. MIN_CODE .. " and " .. MAX_CODE
  end
  return nil, number, rest .. (rest ~= "" and text ~= "" and " " or "") .. text
end

-- A text without control characters, which would let a client that chose part of it write replies of its own. A script
-- has few texts, so the last ones are remembered.
local clean, cleaned, MAX_CLEAN = {}, 0, 256
local function without_controls(text)
  local known = clean[text]
  if known == nil then
    if cleaned == MAX_CLEAN then
      clean, cleaned = {}, 0
    end
    known = gsub(text, "%c+", " ")
    clean[text], cleaned = known, cleaned + 1
  end
  return known
end

-- Where the script has set the reply, if that is wanted: "script:line: ". A tail call leaves no line.
local explains = false
local function mark(vctx)
  if explains then
    rawset(vctx, "_place", place())
  end
end

-- Sets the reply. Returns a reason, or nil and what a hook returns that ends so: `return vctx:pbp_action(...)`.
local function reply(vctx, code, text)
  local why, number, words = split(code, text)
  if why or #words > MAX_REPLY then
    return why or "the text of a reply has at most " .. MAX_REPLY .. " bytes"
  end
  rawset(vctx, "_code", number)
  rawset(vctx, "_text", without_controls(words))
  mark(vctx)
  return nil, VALIDATE_DONE
end

local disconnect = raising(function(vctx, code, text)
  if code == nil then
    code = REFUSED
  elseif not is_code(code) and not match(text_of(code), "^%d") then
    code, text = REFUSED, text_of(code) .. (text ~= nil and " " .. text_of(text) or "")
  end
  local why = reply(vctx, code, text)
  if why then
    return why
  end
  rawset(vctx, "_refused", true)
  rawset(vctx, "_disconnect", true)
  return nil, VALIDATE_DONE
end)

local methods = {
  set = raising(set),
  get = raising(read),
  exists = raising(exists),
  set_code = raising(function(vctx, code, text)
    return (reply(vctx, code, text))
  end),
  pbp_action = raising(reply),
  disconnect = disconnect,
  pbp_disconnect = disconnect,

  -- Several modules may slow a session down: the longest time asked for is waited.
  tarpit = raising(function(vctx, seconds)
    local time = tonumber(seconds)
    if not time or not (time >= 0 and time <= MAX_TARPIT_S) then
      return tostring(plain(seconds)) .. ": is not a number of seconds between 0 and " .. MAX_TARPIT_S
    end
    if time > (vctx._tarpit or 0) then
      rawset(vctx, "_tarpit", time)
      if not vctx._code then
        mark(vctx)
      end
    end
  end),
}

local metatable = {
  __index = methods,
  __metatable = false,
  __tostring = function()
    return "validation context"
  end,
  -- `vctx.disconnect = 1`: close after the reply that was set. It never becomes a raw field, so the method stays.
  __newindex = function(vctx, key, value)
    if key == "disconnect" then
      rawset(vctx, "_disconnect", (value and value ~= 0) or nil)
      mark(vctx)
    elseif methods[key] then
      error("vctx:" .. key .. " is a method and can't be set", 2)
    else
      rawset(vctx, key, value)
    end
  end,
}

local context = {
  answers = ANSWERS,
  VCTX_CONN = VCTX_CONN,
  VCTX_MESS = VCTX_MESS,
  get = get,
  set = set,
  read = read,
  exists = exists,
  methods = methods,
}

function context.new()
  return setmetatable({}, metatable)
end

local function count(vctx, key)
  set(vctx, VCTX_CONN, key, (tonumber(get(vctx, VCTX_CONN, key)) or 0) + 1)
end

-- The context variables of an address: the whole of it, and what is before and after the last "@".
function context.set_address(vctx, name, address)
  local localpart, domain = match(address, "^(.*)@([^@]*)$")
  set(vctx, VCTX_MESS, name .. "_string", address)
  set(vctx, VCTX_MESS, name .. "_localpart", localpart or address)
  set(vctx, VCTX_MESS, name .. "_domain", domain or "")
end

-- MAIL FROM: what was set for the message before is forgotten.
function context.begin_message(vctx, mailfrom)
  rawset(vctx, "_mess", nil)
  context.set_address(vctx, "mailfrom", mailfrom)
  count(vctx, "connection_message_count")
  set(vctx, VCTX_CONN, "message_rcpt_count", 0)
end

-- RCPT TO.
function context.begin_recipient(vctx, rcptto)
  context.set_address(vctx, "rcptto", rcptto)
  count(vctx, "connection_rcpt_count")
  count(vctx, "message_rcpt_count")
end

-- Forgets the reply of the last hook.
function context.reset(vctx)
  for _, field in ipairs(REPLY) do
    rawset(vctx, field, nil)
  end
end

-- Whether a context holds anything that the next hook would miss.
function context.used(vctx)
  return vctx._conn ~= nil or vctx._mess ~= nil
end

-- From now on `verdict` returns where the reply was set, too.
function context.explain()
  explains = true
end

-- The reply as (accepted, code, text, tarpit, disconnect); nothing at all when the hook had nothing to say. A code
-- from 400 refuses; `vctx.disconnect = 1` without any reply can only mean that the client shall go.
function context.verdict(vctx)
  local code, tarpit, leave = vctx._code, vctx._tarpit, vctx._disconnect
  if not code and not tarpit and not leave then
    return
  end
  local refused = vctx._refused or (code or (leave and REFUSED or 0)) >= 400
  code = code or (refused and REFUSED or 0)
  if explains then
    return not refused, code, vctx._text or "", tarpit or 0, leave or false, vctx._place or ""
  end
  return not refused, code, vctx._text or "", tarpit or 0, leave or false
end

return context
