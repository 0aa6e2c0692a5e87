-- The Python functions that Lua may call. Each returns a reason first (nil if all is well), then its values, and raises
-- nothing: a Python exception would arrive as an object that a script could walk.
local room, functions, options = ...
local steps = room("steps")
local collectgarbage, pairs = collectgarbage, pairs

local CEILING = options.ceiling -- KiB; beyond it Python could not even hand over a string, which ends the process

local CALL_STEPS = 20
local SLOW = { -- Python reads a file, makes memory, or compiles
  define = true, find = true, pcre_match = true, pcre_replace = true, pcre_split = true, reload = true, series_remove_item = true,
  series_define = true, series_make_room = true, translate = true,
}

local host = {}
for name, call in pairs(functions) do
  local slow = SLOW[name]
  host[name] = function(...)
    if collectgarbage("count") > CEILING then
      return "not enough memory"
    elseif slow then
      steps.check()
    else
      steps.reserve(CALL_STEPS)
    end
    return steps.call(call, ...)
  end
end
return host
