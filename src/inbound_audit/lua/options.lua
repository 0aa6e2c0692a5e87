-- Tables of options that a script hands over: an unknown key is an error with the nearest known one, and so is a value
-- of the wrong kind.
local room = ...
local host = room("host")
local concat, next, pairs, sort, tostring, type = table.concat, next, pairs, table.sort, tostring, type

local options = {}

-- A value as Python may be handed it: no table, no function, and nothing else that can run Lua code.
function options.plain(value)
  local kind = type(value)
  if kind == "nil" or kind == "number" or kind == "string" or kind == "boolean" then
    return value
  end
  local text = tostring(value)
  return type(text) == "string" and text or kind
end
local plain = options.plain

-- "; did you mean 'x'?" for the known name that is nearest to a wrong one, otherwise the known names.
function options.hint(wrong, known)
  local names = {}
  for name in pairs(known) do
    names[#names + 1] = name
  end
  sort(names)
  local why, hint = host.did_you_mean(plain(wrong), concat(names, " "))
  return not why and hint ~= "" and hint or " (known: " .. concat(names, ", ") .. ")"
end

-- The first wrong key in the order of texts, so that of several always the same one is named.
local function wrong_key(where, given, known)
  local wrong
  for key in next, given do
    if known[key] == nil then
      local name = tostring(plain(key))
      wrong = (wrong == nil or name < wrong) and name or wrong
    end
  end
  return where .. ": unknown option '" .. wrong .. "'" .. options.hint(wrong, known)
end

-- Returns nothing if each key of the table is known, otherwise a reason that begins with the function's name.
function options.unknown(where, given, known)
  for key in next, given do
    if known[key] == nil then
      return wrong_key(where, given, known)
    end
  end
end

-- An option that is on or off: true, false, 1, 0, or not given. Returns whether it is on, or nil and a reason.
function options.switch(where, name, value)
  if value == nil or value == false or value == 0 then
    return false
  elseif value == true or value == 1 then
    return true
  end
  return nil, where .. ": option '" .. name .. "' must be true or false, not '" .. tostring(plain(value)) .. "'"
end

return options
