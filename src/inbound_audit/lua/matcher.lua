-- Lua's patterns once more, in steps that are counted: for those texts and patterns on which the library's own functions,
-- which nothing can interrupt, might take too long.
local room = ...
local steps = room("steps")
local byte, find, sub = string.byte, string.find, string.sub
local tonumber, tostring, unpack = tonumber, tostring, unpack
local char = string.char
local count = steps.count

local matcher = {}

local SINGLE, OPEN, CLOSE, POSITION, BALANCE, FRONTIER, BACK, END = 1, 2, 3, 4, 5, 6, 7, 8
local UNCLOSED, AT = -1, -2 -- lengths of captures: not closed yet, and a position

-- The bytes that an item (a character, a class or a set) matches. The library says so for one byte at a time.
local MAX_SETS = 200
local sets, known = {}, 0
local function set_of(item)
  local set = sets[item]
  if not set then
    steps.pay(256)
    sets, known = known == MAX_SETS and {} or sets, known % MAX_SETS + 1
    set = {}
    local is_class = #item > 1 or item == "."
    for code = 0, 255 do
      set[code] = is_class and find(char(code), "^" .. item) ~= nil or item == char(code)
    end
    sets[item] = set
  end
  return set
end

-- The place after the item that begins at `i`.
local function item_end(pattern, i)
  local first = sub(pattern, i, i)
  if first == "%" then
    if i == #pattern then
      steps.fail("malformed pattern (ends with '%')")
    end
    return i + 2
  elseif first ~= "[" then
    return i + 1
  end
  i = sub(pattern, i + 1, i + 1) == "^" and i + 2 or i + 1
  repeat
    if i > #pattern then
      steps.fail("malformed pattern (missing ']')")
    end
    i = i + (sub(pattern, i, i) == "%" and 2 or 1)
  until sub(pattern, i, i) == "]"
  return i + 1
end

-- What begins at `i`, and the place after it.
local function element(pattern, i)
  local first, two = sub(pattern, i, i), sub(pattern, i, i + 1)
  if two == "()" then
    return { kind = POSITION }, i + 2
  elseif first == "(" or first == ")" then
    return { kind = first == "(" and OPEN or CLOSE }, i + 1
  elseif first == "$" and i == #pattern then
    return { kind = END }, i + 1
  elseif two == "%b" then
    if i + 3 > #pattern then
      steps.fail("unbalanced pattern")
    end
    return { kind = BALANCE, opens = byte(pattern, i + 2), closes = byte(pattern, i + 3) }, i + 4
  elseif two == "%f" then
    local after = item_end(pattern, i + 2)
    if sub(pattern, i + 2, i + 2) ~= "[" then
      steps.fail("missing '[' after '%f' in pattern")
    end
    return { kind = FRONTIER, set = set_of(sub(pattern, i + 2, after - 1)) }, after
  elseif find(two, "^%%%d") then
    return { kind = BACK, number = tonumber(sub(two, 2)) }, i + 2
  end
  local after = item_end(pattern, i)
  local made = { kind = SINGLE, set = set_of(sub(pattern, i, after - 1)) }
  local quantifier = sub(pattern, after, after)
  if quantifier ~= "" and find("*+-?", quantifier, 1, true) then
    made.quantifier, after = quantifier, after + 1
  end
  return made, after
end

local function compile(pattern, i)
  local elements = {}
  while i <= #pattern do
    count()
    elements[#elements + 1], i = element(pattern, i)
  end
  return elements
end

-- One attempt: the text, the elements, and the captures so far.
local match

local function match_single(attempt, k, at)
  local one, text = attempt.elements[k], attempt.text
  local set, quantifier = one.set, one.quantifier
  if quantifier == "-" then
    while true do
      local after = match(attempt, k + 1, at)
      if after or not set[byte(text, at)] then
        return after
      end
      at = at + 1
    end
  end
  local n, least, most = 0, quantifier == "+" and 1 or 0, quantifier == "?" and 1 or #text
  while n < most and set[byte(text, at + n)] do
    count()
    n = n + 1
  end
  while n >= least do
    local after = match(attempt, k + 1, at + n)
    if after then
      return after
    end
    n = n - 1
  end
end

local function match_capture(attempt, k, at, length)
  local number = attempt.level + 1
  attempt.level, attempt[number], attempt[-number] = number, at, length
  local after = match(attempt, k + 1, at)
  if not after then
    attempt.level = number - 1
  end
  return after
end

local function match_close(attempt, k, at)
  local number = attempt.level
  while number > 0 and attempt[-number] ~= UNCLOSED do
    number = number - 1
  end
  if number == 0 then
    steps.fail("invalid pattern capture")
  end
  attempt[-number] = at - attempt[number]
  local after = match(attempt, k + 1, at)
  if not after then
    attempt[-number] = UNCLOSED
  end
  return after
end

-- The place after a balanced text, nil without one.
local function balanced(text, at, opens, closes)
  if byte(text, at) ~= opens then
    return nil
  end
  local depth = 1
  for i = at + 1, #text do
    count()
    local code = byte(text, i)
    if code == closes then
      depth = depth - 1
      if depth == 0 then
        return i + 1
      end
    elseif code == opens then
      depth = depth + 1
    end
  end
end

function matcher.captured(attempt, number)
  local length = attempt[-number]
  if number < 1 or number > attempt.level or length == UNCLOSED then
    steps.fail(length == UNCLOSED and number <= attempt.level and "unfinished capture" or "invalid capture index")
  end
  return length == AT and attempt[number] or sub(attempt.text, attempt[number], attempt[number] + length - 1)
end

-- The place after the elements that do not branch, nil if one of them does not match.
local function match_plain(attempt, one, at)
  local text = attempt.text
  if one.kind == SINGLE then
    return one.set[byte(text, at)] and at + 1 or nil
  elseif one.kind == END then
    return at == #text + 1 and at or nil
  elseif one.kind == BALANCE then
    return balanced(text, at, one.opens, one.closes)
  elseif one.kind == FRONTIER then
    return not one.set[at > 1 and byte(text, at - 1) or 0] and one.set[byte(text, at) or 0] and at or nil
  end
  local before = matcher.captured(attempt, one.number)
  if attempt[-one.number] == AT then
    return nil -- a place is no text: the library's own functions find nothing, too
  end
  steps.pay(#before / 16)
  return sub(text, at, at + #before - 1) == before and at + #before or nil
end

function match(attempt, k, at)
  while at do
    count()
    local one = attempt.elements[k]
    if one == nil then
      return at
    elseif one.quantifier then
      return match_single(attempt, k, at)
    elseif one.kind == OPEN or one.kind == POSITION then
      return match_capture(attempt, k, at, one.kind == OPEN and UNCLOSED or AT)
    elseif one.kind == CLOSE then
      return match_close(attempt, k, at)
    end
    at, k = match_plain(attempt, one, at), k + 1
  end
end

-- An attempt at matches of a pattern; `anchors`: a "^" at its start is an anchor.
function matcher.attempt(text, pattern, anchors)
  pattern = tostring(pattern)
  local anchored = anchors and sub(pattern, 1, 1) == "^"
  return { text = tostring(text), elements = compile(pattern, anchored and 2 or 1), anchored = anchored, level = 0 }
end

-- The first match at `at` or later: where it begins and the place after it.
function matcher.search(attempt, at)
  local text, first = attempt.text, attempt.elements[1]
  local starts = first and first.kind == SINGLE and (not first.quantifier or first.quantifier == "+") and first.set
  repeat
    if not starts or starts[byte(text, at)] then
      attempt.level = 0
      local after = match(attempt, 1, at)
      if after then
        return at, after
      end
    else
      count()
    end
    at = at + 1
  until at > #text + 1 or attempt.anchored
end

-- The captures of the match that was found last; without any the whole of it if `first` is given.
function matcher.captures(attempt, first, after)
  local values = {}
  for number = 1, attempt.level do
    values[number] = matcher.captured(attempt, number)
  end
  if first and attempt.level == 0 then
    values[1] = sub(attempt.text, first, after - 1)
  end
  return unpack(values)
end

return matcher
