-- msys.pcre: regular expressions, matched by RE2 in time that grows with the length of the text alone. A pattern that RE2
-- does not know (a look-around or a back-reference) counts as one that can't be compiled: nil, the reason, and a number.
local room = ...
local host = room("host")
local error, tonumber, tostring, type, unpack = error, tonumber, tostring, type, unpack
local gmatch, match, sub = string.gmatch, string.match, string.sub

local CANT_COMPILE = 1

local pcre = {}

-- Python returns nil and results; an error; or, after a "!", the reason why a pattern can't be compiled. This returns
-- whether there are results, and what else the function of the script returns.
local function run(name, ask, ...)
  local given = { ... }
  for i = 1, #given do
    if type(given[i]) ~= "string" and type(given[i]) ~= "number" then
      error("msys.pcre." .. name .. ": expected strings, not a " .. type(given[i]), 3)
    end
    given[i] = tostring(given[i])
  end
  local why, first, second = ask(unpack(given))
  if not why then
    return true, first, second
  end
  local reason = match(why, "^!(.*)$")
  if not reason then
    error(why, 3)
  end
  host.warn("msys.pcre." .. name .. ": " .. reason)
  return false, reason
end

-- A table of the groups by number (0 is the whole match) and by name, nil without a match.
function pcre.match(subject, pattern)
  local ok, spans, names = run("match", host.pcre_match, subject, pattern)
  if not ok then
    return nil, spans, CANT_COMPILE
  elseif spans == nil then
    return nil
  end
  local found, number = {}, 0
  for first, last in gmatch(spans, "(%-?%d+) (%-?%d+)") do
    found[number] = first ~= "-1" and sub(subject, first + 1, last) or nil
    number = number + 1
  end
  for name, index in gmatch(names, "(%S+)=(%d+)") do
    found[name] = found[tonumber(index)]
  end
  return found
end

-- An array of what lies between the matches.
function pcre.split(subject, pattern)
  local ok, spans = run("split", host.pcre_split, subject, pattern)
  if not ok then
    return nil, spans, CANT_COMPILE
  end
  local parts = {}
  for first, last in gmatch(spans, "(%d+) (%d+)") do
    parts[#parts + 1] = sub(subject, first + 1, last)
  end
  return parts
end

-- The text with each match replaced; $0 to $9 in the replacement are the groups, $$ is a dollar sign.
function pcre.replace(subject, pattern, replacement)
  local ok, text = run("replace", host.pcre_replace, subject, pattern, replacement)
  if not ok then
    return nil, text, CANT_COMPILE
  end
  return text
end

return pcre
