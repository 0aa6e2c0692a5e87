-- From a script's text to a function in the script's own environment.
local room = ...
local host, bits, steps = room("host"), room("bits"), room("steps")
local loadstring, setfenv = loadstring, setfenv

local compile = { globals = {} } -- the sandbox fills it

-- The function, or nil and the compiler's message. The plain form is compiled first, because its messages are those of
-- the script as it was written; bytecode is refused by the translation.
function compile.chunk(text, name)
  local why, plain, counted = host.translate(text, name)
  if why then
    return nil, why
  end
  local made
  made, why = loadstring(plain, name)
  if not made then
    return nil, why
  end
  made, why = loadstring(counted, name)
  if not made then
    return nil, why
  end
  return setfenv(made, compile.globals)(steps.count, bits)
end

return compile
