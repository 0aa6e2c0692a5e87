-- The dialect's bit operators and its integer division, on whole numbers that a double holds exactly (below 2^53).
--
-- A negative number is two's complement without end, as in a language with big integers: ~0 is -1, -1 >> 1 is -1, and
-- 192 << 24 is 3221225472 whatever the machine's word is.
local error, floor, tonumber, tostring = error, math.floor, tonumber, tostring

local LIMIT, WIDTH = 2 ^ 53, 53

local function whole(x)
  local n = tonumber(x)
  if not n or n ~= floor(n) or n <= -LIMIT or n >= LIMIT then
    return nil, tostring(x) .. ": is not a whole number below 2^53"
  end
  return n
end

local function both(a, b)
  local x, why = whole(a)
  if not x then
    return nil, nil, why
  end
  local y
  y, why = whole(b)
  return x, y, why
end

-- After WIDTH bits only the signs are left: 0 or -1, of which the truth table makes the sign of the result.
local function combine(x, y, truth)
  local result, weight = 0, 1
  for _ = 1, WIDTH do
    result = result + truth[x % 2 + y % 2] * weight
    x, y, weight = floor(x / 2), floor(y / 2), weight * 2
  end
  return result - truth[x % 2 + y % 2] * weight
end

local function binary(operate)
  return function(a, b)
    local x, y, why = both(a, b)
    if why then
      error(why, 2)
    end
    local result
    result, why = operate(x, y)
    if why then
      error(why, 2)
    end
    return result
  end
end

local function by_truth(none, one, two)
  local truth = { [0] = none, [1] = one, [2] = two }
  return binary(function(x, y)
    return combine(x, y, truth)
  end)
end

local function shift(x, n)
  local result = x == 0 and 0 or floor(x * 2 ^ n)
  if result <= -LIMIT or result >= LIMIT then
    return nil, tostring(x) .. " << " .. tostring(n) .. ": goes beyond 2^53"
  end
  return result
end

local bits = {
  band = by_truth(0, 0, 1),
  bor = by_truth(0, 1, 1),
  bxor = by_truth(0, 1, 0),
  lshift = binary(shift),
  rshift = binary(function(x, n)
    return shift(x, -n)
  end),
}

function bits.bnot(a)
  local x, why = whole(a)
  if why then
    error(why, 2)
  end
  return -x - 1
end

-- Rounds down, as Lua's % expects of its division.
function bits.idiv(a, b)
  local x, y = tonumber(a), tonumber(b)
  if not x or not y then
    error("attempt to divide a value that is not a number", 2)
  end
  if y == 0 then
    error("attempt to perform n\\0", 2)
  end
  return floor(x / y)
end

return bits
