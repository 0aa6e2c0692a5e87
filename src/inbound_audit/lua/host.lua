-- The Python functions that Lua may call. Each returns a reason first (nil if all is well), then its values, and raises
-- nothing: a Python exception would arrive as an object that a script could walk.
local _, functions, options = ...
local collectgarbage, pairs = collectgarbage, pairs

local CEILING = options.ceiling -- KiB; beyond it Python could not even hand over a string, which ends the process

local host = {}
for name, call in pairs(functions) do
  host[name] = function(...)
    if collectgarbage("count") > CEILING then
      return "not enough memory"
    end
    return call(...)
  end
end
return host
