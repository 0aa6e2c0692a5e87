-- string.find, match, gmatch and gsub in bounded time. The library's functions are called where the lengths of text and
-- pattern show that they end soon, whatever both are; elsewhere `matcher` does it, in steps that are counted.
--
-- A quantifier, %b, a back-reference, or the missing anchor of a pattern may try each place of the text. With k of these
-- and n characters there are at most (n + k choose k) ways to try.
local room = ...
local matcher, steps = room("matcher"), room("steps")
local concat, min, tonumber, tostring, type = table.concat, math.min, tonumber, tostring, type
local find, gmatch, gsub, match, sub = string.find, string.gmatch, string.gsub, string.match, string.sub

local count = steps.count

local SOON, LATER = 1e4, 1e6 -- ways that take some 50 microseconds, and 5 ms
local MAX_PATTERN = 1000 -- bytes; each may be a level of recursion
local MAX_CACHED = 500
local SPECIAL = "[][^$*+?.(%%-]" -- without one of them the library, too, searches for the text

local soon, later, cached = {}, {}, 0 -- by pattern: the longest text for which it ends soon, or later

local function ways(n, k)
  local product = 1
  for i = 1, k do
    product = product * (n + i) / i
  end
  return product
end

local function longest(k, bound)
  local n = 0
  for power = 18, 0, -1 do
    if ways(n + 2 ^ power, k) <= bound then
      n = n + 2 ^ power
    end
  end
  return n
end

local function measure(pattern)
  if #pattern > MAX_PATTERN then
    steps.fail("pattern too complex")
  end
  local _, quantifiers = gsub(pattern, "[*+?-]", "")
  local _, scans = gsub(pattern, "%%[b1-9]", "")
  local k = quantifiers + scans + (sub(pattern, 1, 1) == "^" and 0 or 1)
  if cached == MAX_CACHED then
    soon, later, cached = {}, {}, 0
  end
  local weight = 1 + #pattern / 16
  soon[pattern], later[pattern], cached = longest(k, SOON / weight), longest(k, LATER / weight), cached + 1
  return soon[pattern]
end

-- Whether the library's function may be called. It raises the error if one is neither a text nor a number.
local function is_short(text, pattern)
  text = type(text) == "number" and tostring(text) or text
  pattern = type(pattern) == "number" and tostring(pattern) or pattern
  if type(text) ~= "string" or type(pattern) ~= "string" or #text <= (soon[pattern] or measure(pattern)) then
    return true
  elseif #text > later[pattern] then
    return false
  end
  steps.reserve(200)
  return true
end

local patterns = {}

local function start_of(text, start)
  start = tonumber(start) or 1
  start = start < 0 and start + #text + 1 or start
  return start < 1 and 1 or min(start - start % 1, #text + 1)
end

-- A search for a text and not for a pattern: each place may compare all of it.
local function find_plain(text, wanted, start)
  for at = start_of(text, start), #text - #wanted + 1 do
    steps.pay(1 + #wanted / 16)
    if sub(text, at, at + #wanted - 1) == wanted then
      return at, at + #wanted - 1
    end
  end
  return nil
end

function patterns.find(text, pattern, start, plain)
  count()
  if plain then
    if type(text) ~= "string" or type(pattern) ~= "string" or #text * #pattern <= SOON then
      return find(text, pattern, start, plain)
    end
    return find_plain(text, pattern, start)
  end
  local most = soon[pattern]
  if most and type(text) == "string" and #text <= most or is_short(text, pattern) then
    return find(text, pattern, start)
  elseif not find(pattern, SPECIAL) then
    return find_plain(tostring(text), tostring(pattern), start)
  end
  local attempt = matcher.attempt(text, pattern, true)
  local first, after = matcher.search(attempt, start_of(attempt.text, start))
  if first then
    return first, after - 1, matcher.captures(attempt)
  end
  return nil
end

function patterns.match(text, pattern, start)
  count()
  local most = soon[pattern]
  if most and type(text) == "string" and #text <= most or is_short(text, pattern) then
    return match(text, pattern, start)
  end
  local attempt = matcher.attempt(text, pattern, true)
  local first, after = matcher.search(attempt, start_of(attempt.text, start))
  if first then
    return matcher.captures(attempt, first, after)
  end
  return nil
end

function patterns.gmatch(text, pattern)
  count()
  if is_short(text, pattern) then
    return gmatch(text, pattern)
  end
  local attempt, at = matcher.attempt(text, pattern, false), 1
  return function()
    local first, after
    if at <= #attempt.text + 1 then
      first, after = matcher.search(attempt, at)
    end
    if first then
      at = after > first and after or first + 1
      return matcher.captures(attempt, first, after)
    end
    at = #attempt.text + 2
    return nil
  end
end

-- The replacement by a text: %0 to %9 are the match and its captures.
local function expander(replacement)
  return function(attempt, first, after)
    return (gsub(replacement, "%%(.)", function(character)
      local number = tonumber(character)
      if number == 0 or number == 1 and attempt.level == 0 then
        return sub(attempt.text, first, after - 1)
      end
      return number and matcher.captured(attempt, number) or character
    end))
  end
end

-- A function that makes the replacement of one match.
local function replacer(replacement)
  local kind = type(replacement)
  if kind == "string" or kind == "number" then
    return expander(tostring(replacement))
  end
  return function(attempt, first, after)
    if kind == "function" then
      return replacement(matcher.captures(attempt, first, after))
    end
    return replacement[(matcher.captures(attempt, first, after))]
  end
end

local function replace_slowly(text, pattern, replacement, most)
  local attempt, replace = matcher.attempt(text, pattern, true), replacer(replacement)
  local parts, at, bytes, found = {}, 1, 0, 0
  local function add(part)
    bytes = bytes + #part
    steps.weigh(bytes)
    parts[#parts + 1] = part
  end
  while found < most do
    local first, after = matcher.search(attempt, at)
    if not first then
      break
    end
    found = found + 1
    local value = replace(attempt, first, after)
    if value and type(value) ~= "string" and type(value) ~= "number" then
      steps.fail("invalid replacement value (a " .. type(value) .. ")")
    end
    add(sub(text, at, first - 1))
    add(value and tostring(value) or sub(text, first, after - 1))
    at = after
    if after == first then
      add(sub(text, at, at))
      at = at + 1
    end
    if at > #text + 1 or attempt.anchored then
      break
    end
  end
  add(sub(text, at))
  return concat(parts), found
end

-- A replacement whose texts are weighed as they are added up.
local function weighed(replacement)
  local bytes = 0
  return function(...)
    local value = type(replacement) == "table" and replacement[(...)] or type(replacement) == "function" and replacement(...)
    bytes = bytes + (type(value) == "string" and #value or 0)
    steps.weigh(bytes)
    return value
  end
end

function patterns.gsub(text, pattern, replacement, most)
  count()
  local kind, short = type(replacement), is_short(text, pattern)
  if kind == "table" or kind == "function" then
    replacement = short and weighed(replacement) or replacement
  elseif kind == "string" then
    short = short and (type(text) ~= "string" or (#text + 1) * (#replacement + 1) <= steps.MAX_TEXT)
  else
    short = short or kind ~= "number"
  end
  if short then
    return gsub(text, pattern, replacement, most)
  end
  if most ~= nil and not tonumber(most) then
    steps.fail("bad argument #4 to 'gsub' (number expected, got " .. type(most) .. ")")
  end
  text = tostring(text)
  return replace_slowly(text, pattern, replacement, tonumber(most) or #text + 1)
end

return patterns
