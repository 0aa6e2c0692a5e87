-- The bound on what one hook may do. A script's functions and loops call `steps.count` (dialect.py puts the calls in);
-- once a hook has used up its steps every further one is an error, so a pcall around an endless loop does not help.
local _, _, options = ...
local error = error

local MOST = options.max_steps
local left = MOST

local steps = {}

function steps.count()
  left = left - 1
  if left < 0 then
    error("more than " .. MOST .. " steps (function calls and loop passes) in one hook", 2)
  end
end

function steps.refill()
  left = MOST
end

return steps
