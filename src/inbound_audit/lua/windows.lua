-- What monitors and named series have in common: values that a script may hand over, and the messages of the core's codes.
local room, _, settings = ...
local ac, host, options, sessions = room("ac"), room("host"), room("options"), room("sessions")
local floor, tonumber, tostring = math.floor, tonumber, tostring
local bytes, plain = ac.memory.bytes, options.plain
local now = sessions.now

local BEYOND = 2^31 -- a window that no ring has
local MAX_AMOUNT = settings.max_amount

local windows = { codes = settings.codes }

-- nil for what is not a whole number; a number that an int64_t can't hold becomes a window that no ring has.
local function window(value)
  local number = tonumber(value)
  if not number or floor(number) ~= number then
    return nil
  end
  return (number < 0 and -1) or (number > BEYOND and BEYOND) or number
end

-- The windows of a question as the core takes them, or nil and the reason. Without a last one: the same as the first.
function windows.range(startv, endv)
  local first = startv == nil and 0 or window(startv)
  local last = endv == nil and first or window(endv)
  if not first or not last then
    return nil, tostring(plain(first and endv or startv)) .. ": is not the number of a window"
  end
  return first, last
end

-- They as they were asked for.
function windows.range_text(startv, endv)
  local first = tostring(startv == nil and 0 or startv)
  local last = endv == nil and first or tostring(endv)
  return first == last and first or first .. " to " .. last
end

-- An amount as the core takes it, nil if the core takes no such amount.
function windows.amount(value)
  local number = tonumber(value)
  if number and floor(number) == number and number >= -MAX_AMOUNT and number <= MAX_AMOUNT then
    return number
  end
end

-- The message of a code. `what` is the text that was asked for, `name` the monitor or series.
function windows.message(code, what, name)
  local accept = now.state.ac
  local why, message = host.window_message(accept and bytes(accept), code, plain(what), plain(name))
  return why or message
end

return windows
