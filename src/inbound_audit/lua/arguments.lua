-- What a script hands over, and the errors about it: they name the nearest known option and the place of the caller.
local room = ...
local host, count = room("host"), room("steps").count
local concat, error, next, pairs, sort, tostring, type = table.concat, error, next, pairs, table.sort, tostring, type

local arguments = {}

-- Makes a function for scripts of one that returns a reason (nil if all is well), then its result.
function arguments.raising(call)
  return function(a, b, c, d, e)
    local why, result = call(a, b, c, d, e)
    if why then
      error(why, 2)
    end
    return result
  end
end

-- A value as Python may be handed it: no table, no function, and nothing else that can run Lua code.
local function plain(value)
  local kind = type(value)
  if kind == "nil" or kind == "number" or kind == "string" or kind == "boolean" then
    return value
  end
  local text = tostring(value)
  return type(text) == "string" and text or kind
end
arguments.plain = plain

-- "; did you mean 'x'?" for the known name that is nearest to a wrong one, otherwise the known names.
function arguments.hint(wrong, known)
  local names = {}
  for name in pairs(known) do
    names[#names + 1] = name
  end
  sort(names)
  local why, hint = host.did_you_mean(plain(wrong), concat(names, " "))
  return not why and hint ~= "" and hint or " (known: " .. concat(names, ", ") .. ")"
end

-- Returns nothing if each key of the table is known, otherwise a reason: of several wrong keys, the first in the order of
-- texts.
function arguments.unknown(where, given, known)
  local wrong
  for key in next, given do
    count()
    if known[key] == nil then
      local name = tostring(plain(key))
      wrong = (wrong == nil or name < wrong) and name or wrong
    end
  end
  return wrong and where .. ": unknown option '" .. wrong .. "'" .. arguments.hint(wrong, known)
end

local SWITCHES = { [false] = false, [0] = false, [true] = true, [1] = true }

-- Reads an option that is on (true, 1) or off (false, 0, absent): a reason, or nil and a boolean.
local function switch(where, name, value)
  local on = SWITCHES[value or false]
  if on == nil then
    return where .. ": option '" .. name .. "' must be true or false, not '" .. tostring(plain(value)) .. "'"
  end
  return nil, on
end
arguments.switch = switch

-- Reads a table of options: nil and their plain values, or a reason. An option that is known as "switch" is one.
function arguments.read(where, given, known)
  local values, why = {}, arguments.unknown(where, given, known)
  for name, kind in pairs(known) do
    local value = given[name]
    if kind ~= "switch" then
      values[name] = plain(value)
    else
      local wrong
      wrong, values[name] = switch(where, name, value)
      why = why or wrong
    end
  end
  return why, values
end

return arguments
