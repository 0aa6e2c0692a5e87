-- msys.dumper.Dumper(value): the value as Lua source, for logs. Keys are in order; each table inside itself is named.
local room = ...
local guards, steps = room("guards"), room("steps")
local concat, format, next, rep, sort = table.concat, string.format, next, string.rep, guards.table.sort
local find, tostring, type = string.find, tostring, type

local dump

local function before(a, b)
  if type(a) ~= type(b) then
    return type(a) < type(b)
  end
  return type(a) == "number" and a < b or type(a) ~= "number" and tostring(a) < tostring(b)
end

local function key_of(key, depth, above)
  if type(key) == "string" and find(key, "^[%a_][%w_]*$") then
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
    keys[#keys + 1] = key
  end
  sort(keys, before)
  local blanks = rep("  ", depth + 1)
  for i = 1, #keys do
    lines[i] = blanks .. key_of(keys[i], depth + 1, above) .. " = " .. dump(t[keys[i]], depth + 1, above) .. ",\n"
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
  return format("%q", tostring(value))
end

return {
  Dumper = function(value)
    return dump(value, 0, {})
  end,
}
