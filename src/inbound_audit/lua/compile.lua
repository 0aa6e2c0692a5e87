-- From a script's text to a function in the script's own environment.
local room = ...
local host, bits, steps = room("host"), room("bits"), room("steps")
local loadstring, setfenv = loadstring, setfenv

local compile = { globals = {} } -- the sandbox fills it

local function all(...)
  return ...
end

local MAX_TEXT = 8192 -- bytes of a text that is compiled while a hook runs: some 10 ms

-- The function, or nil and the compiler's message. The plain form is compiled first, because its messages are those of
-- the script as it was written; bytecode is refused by the translation.
function compile.chunk(text, name)
  if not steps.starting() and #text > MAX_TEXT then
    steps.fail("a chunk that is loaded by a hook has at most " .. MAX_TEXT .. " bytes")
  end
  local why, plain, counted, has_long_text = host.translate(text, name)
  if why then
    return nil, why
  elseif has_long_text then
    steps.weigh(#text)
  end
  local made
  made, why = loadstring(plain, name)
  if made then
    made, why = loadstring(counted, name)
  end
  return made and setfenv(made, compile.globals)(steps.count, bits, steps.text, all), why
end

return compile
