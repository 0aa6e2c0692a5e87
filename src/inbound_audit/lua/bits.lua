-- The dialect's bit operators and its integer division, on whole numbers that a double holds exactly (below 2^53).
--
-- A negative number is two's complement without end, as in a language with big integers: ~0 is -1, -1 >> 1 is -1, and
-- 192 << 24 is 3221225472 whatever the machine's word is.
local room = ...
local raising = room("arguments").raising
local floor, tonumber, tostring = math.floor, tonumber, tostring

local LIMIT, WIDTH = 2 ^ 53, 53

local function whole(x)
  local n = tonumber(x)
  if not n or n ~= floor(n) or n <= -LIMIT or n >= LIMIT then
    return tostring(x) .. ": is not a whole number below 2^53"
  end
  return nil, n
end

-- `operate` gets two whole numbers, and returns a reason, or nil and its result.
local function binary(operate)
  return raising(function(a, b)
    local why, x = whole(a)
    local why_b, y = whole(b)
    if why or why_b then
      return why or why_b
    end
    return operate(x, y)
  end)
end

-- After WIDTH bits only the signs are left: 0 or -1, of which the truth table makes the sign of the result.
local function by_truth(none, one, two)
  local truth = { [0] = none, [1] = one, [2] = two }
  return binary(function(x, y)
    local result, weight = 0, 1
    for _ = 1, WIDTH do
      result = result + truth[x % 2 + y % 2] * weight
      x, y, weight = floor(x / 2), floor(y / 2), weight * 2
    end
    return nil, result - truth[x % 2 + y % 2] * weight
  end)
end

local function shift(x, n)
  local result = x == 0 and 0 or floor(x * 2 ^ n)
  if result <= -LIMIT or result >= LIMIT then
    return tostring(x) .. " << " .. tostring(n) .. ": goes beyond 2^53"
  end
  return nil, result
end

return {
  band = by_truth(0, 0, 1),
  bor = by_truth(0, 1, 1),
  bxor = by_truth(0, 1, 0),
  lshift = binary(shift),
  rshift = binary(function(x, n)
    return shift(x, -n)
  end),
  bnot = raising(function(a)
    local why, x = whole(a)
    return why, x and -x - 1
  end),
  -- Rounds down, as Lua's % expects of its division.
  idiv = raising(function(a, b)
    local x, y = tonumber(a), tonumber(b)
    if not x or not y then
      return "attempt to divide a value that is not a number"
    elseif y == 0 then
      return "attempt to perform n\\0"
    end
    return nil, floor(x / y)
  end),
}
