-- What monitors and named series have in common: the key, windows and amount that a script hands over, and the messages
-- of the core's codes.
local room, _, settings = ...
local ac, arguments, host, sessions = room("ac"), room("arguments"), room("host"), room("sessions")
local floor, min, tonumber, tostring, type = math.floor, math.min, tonumber, tostring, type
local bytes, plain, switch, unknown = ac.bytes, arguments.plain, arguments.switch, arguments.unknown
local now, reserve = sessions.now, room("steps").reserve

local BEYOND = 2^31 -- a window that no ring has
local WINDOW_STEPS, MAX_WINDOWS = 20, settings.max_windows -- for each window that is added up; no ring has more
local MAX_AMOUNT = settings.max_amount

local windows = { codes = settings.codes }
local BAD_WINDOW = windows.codes.BAD_WINDOW

-- nil for what is not a whole number; a number that an int64_t can't hold becomes a window that no ring has.
local function window(value)
  local number = tonumber(value)
  if not number or floor(number) ~= number then
    return nil
  end
  return (number < 0 and -1) or (number > BEYOND and BEYOND) or number
end

-- Reads what is asked for: a key alone, or a table of the `known` options, among them the key, `startv` and `endv` (the
-- same as `startv` if it is not given). Returns a reason, or nil, the key, the windows as the core takes them, and
-- whether all nodes of the cluster are meant.
function windows.question(where, given, key_option, known)
  if type(given) ~= "table" then
    return nil, given, 0, 0, false
  end
  local startv, endv = given.startv, given.endv
  local first = startv == nil and 0 or window(startv)
  local last = endv == nil and first or window(endv)
  local why, cluster = unknown(where, given, known), false
  if not why and given.cluster ~= nil then
    why, cluster = switch(where, "cluster", given.cluster)
  end
  if not why and not (first and last) then
    why = tostring(plain(first and endv or startv)) .. ": is not the number of a window"
  end
  if not why and last > first then
    reserve(WINDOW_STEPS * min(last - first, MAX_WINDOWS))
  end
  return why, given[key_option], first, last, cluster
end

-- An amount as the core takes it, nil if the core takes no such amount.
function windows.amount(value)
  local number = tonumber(value)
  if number and floor(number) == number and number >= -MAX_AMOUNT and number <= MAX_AMOUNT then
    return number
  end
end

-- The message of a code. `name` is the monitor or series, `what` the text or table that was asked for.
function windows.message(code, name, what)
  if code == BAD_WINDOW then
    local first = tostring(what.startv == nil and 0 or what.startv)
    local last = what.endv == nil and first or tostring(what.endv)
    what = first == last and first or first .. " to " .. last
  end
  local accept = now.state.ac
  local why, message = host.window_message(accept and bytes(accept), code, plain(what), plain(name))
  return why or message
end

return windows
