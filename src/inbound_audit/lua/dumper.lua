-- msys.dumper.Dumper(value): the value as Lua source, for logs. Keys are in order; each table inside itself is named.
local room = ...
local guards, arguments, steps = room("guards"), room("arguments"), room("steps")
local concat, format, next = guards.table.concat, string.format, next
local rep, sort, text = guards.string.rep, guards.table.sort, steps.text
local find, gmatch, tostring, type = string.find, string.gmatch, tostring, type

local dump

-- The text of a key or value that is neither a table nor a number: never another kind, whatever its metatable returns.
local function plain(value)
  return tostring(arguments.plain(value))
end

-- Words that can't be written as a key without brackets.
local RESERVED = {}
for word in gmatch("and break do else elseif end false for function goto if in local nil not or repeat return then true until while", "%l+") do
  RESERVED[word] = true
end

local function before(a, b)
  if type(a) ~= type(b) then
    return type(a) < type(b)
  end
  return type(a) == "number" and a < b or type(a) ~= "number" and plain(a) < plain(b)
end

local function key_of(key, depth, above)
  if type(key) == "string" and find(key, "^[%a_][%w_]*$") and not RESERVED[key] then
    return key
  end
  return "[" .. dump(key, depth, above) .. "]"
end

local function dump_table(t, depth, above)
  if above[t] then
    return '"(the table itself)"'
  end
  above[t] = true
  local keys, lines = {}, {}
  for key in next, t do
    steps.count()
    keys[#keys + 1] = key
  end
  sort(keys, before)
  local blanks = rep("  ", depth + 1)
  for i = 1, #keys do
    lines[i] = text(blanks .. key_of(keys[i], depth + 1, above) .. " = " .. dump(t[keys[i]], depth + 1, above) .. ",\n")
  end
  above[t] = nil
  return #lines == 0 and "{}" or "{\n" .. concat(lines) .. rep("  ", depth) .. "}"
end

function dump(value, depth, above)
  steps.count()
  if type(value) == "string" then
    return format("%q", value)
  elseif type(value) == "table" then
    return dump_table(value, depth, above)
  elseif type(value) == "number" or type(value) == "boolean" or value == nil then
    return tostring(value)
  end
  return format("%q", plain(value))
end

return {
  Dumper = function(value)
    return dump(value, 0, {})
  end,
}
