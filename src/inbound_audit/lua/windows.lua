-- What monitors and named series have in common: values that a script may hand over, and the words of the core's codes.
local room = ...
local ac, ask, sessions = room("ac"), room("ask"), room("sessions")
local floor, tonumber, tostring, type = math.floor, tonumber, tostring, type
local bytes = ac.memory.bytes
local now = sessions.now

local NO_MONITOR, NO_SERIES, BAD_WINDOW, BAD_AMOUNT = -26, -25, -29, -31 -- codes of the core
local BEYOND = 2^31 -- a window that no ring has
local AMOUNT_MOST = 4294967295

local windows = { NO_MONITOR = NO_MONITOR, NO_SERIES = NO_SERIES, BAD_WINDOW = BAD_WINDOW, BAD_AMOUNT = BAD_AMOUNT }

-- A value as Python may be handed it: no table, no function, nothing that Lua code hides behind.
function windows.plain(value)
  local kind = type(value)
  if kind == "nil" or kind == "number" or kind == "string" or kind == "boolean" then
    return value
  end
  local text = tostring(value)
  return type(text) == "string" and text or kind
end

-- What is no whole number is nil; what no int64_t holds is a window that there is not.
local function window(value)
  local number = tonumber(value)
  if not number or floor(number) ~= number then
    return nil
  end
  return (number < 0 and -1) or (number > BEYOND and BEYOND) or number
end

-- The windows of a question as the core takes them, or nil and the reason. No last one: the same as the first.
function windows.range(startv, endv)
  local first = startv == nil and 0 or window(startv)
  local last = endv == nil and first or window(endv)
  if not first or not last then
    return nil, tostring(windows.plain(first and endv or startv)) .. ": is no number of a window"
  end
  return first, last
end

-- They as they were asked for.
function windows.asked(startv, endv)
  local first = tostring(startv == nil and 0 or startv)
  local last = endv == nil and first or tostring(endv)
  return first == last and first or first .. " to " .. last
end

-- An amount as the core takes it, nil when it takes no such one.
function windows.amount(value)
  local number = tonumber(value)
  if number and floor(number) == number and number >= -AMOUNT_MOST and number <= AMOUNT_MOST then
    return number
  end
end

-- The words of a code. `what` is the text that was asked for, `name` the monitor or series.
function windows.words(code, what, name)
  local accept = now.state.ac
  local why, words = ask.window_words(accept and bytes(accept), code, windows.plain(what), windows.plain(name))
  return why or words
end

return windows
