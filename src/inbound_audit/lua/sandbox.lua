-- The globals that a script sees: Lua 5.1 without files, processes, bytecode, metatables of its host, and Python.
local room = ...
local host, compile, guards, steps = room("host"), room("compile"), room("guards"), room("steps")
local debug, error = debug, error
local getfenv, getmetatable, os, pairs, rawtype = getfenv, getmetatable, os, pairs, type
local select, setfenv, tostring = select, setfenv, tostring

local OUTSIDE = getfenv(0) -- the environment of everything that is not a script's
local globals = compile.globals

-- The members of a library, with those of ours in the place of the ones that are not safe.
local function copy(library, safe)
  local made = {}
  for name, member in pairs(library) do
    made[name] = safe and safe[name] or member
  end
  return made
end

for _, name in pairs({
  "_VERSION", "assert", "error", "getmetatable", "ipairs", "pairs", "rawequal", "rawget", "rawset", "setmetatable",
  "tostring",
}) do
  globals[name] = OUTSIDE[name]
end
globals._G = globals
for _, name in pairs({ "collectgarbage", "next", "pcall", "select", "tonumber", "unpack", "xpcall" }) do
  globals[name] = guards[name]
end
globals.string = copy(string, guards.string)
globals.string.dump = nil
globals.table = copy(table, guards.table)
globals.math = copy(math)
globals.coroutine = copy(coroutine, guards.coroutine)
globals.bit = bit and copy(bit) -- LuaJIT's own library, where there is one
globals.os = { clock = os.clock, date = guards.date, difftime = os.difftime, time = os.time }
globals.debug = { traceback = guards.traceback }

-- ("x"):upper() finds what a script adds to its `string`, and no script finds the table behind it.
local of_strings = getmetatable("")
of_strings.__index = globals.string
of_strings.__metatable = false

-- An accept construct is a userdata in the reference; the cdata of FFI is hidden behind that name.
function globals.type(...)
  local kind = rawtype(...)
  return kind == "cdata" and "userdata" or kind
end

function globals.print(...)
  local words = { ... }
  for i = 1, select("#", ...) do
    words[i] = tostring(words[i])
  end
  host.log(guards.table.concat(words, "\t"))
end

-- Functions of the sandbox and of C live outside; a script that asks for their environment is shown its own.
function globals.getfenv(f)
  if f == 0 then
    return globals
  end
  local environment = getfenv(rawtype(f) == "number" and f + 1 or f or 2)
  return environment == OUTSIDE and globals or environment
end

function globals.setfenv(f, environment)
  local target = rawtype(f) == "number" and f ~= 0 and f + 1 or f
  if f == 0 or getfenv(target) == OUTSIDE then
    error("'setfenv' cannot change the environment of this function", 2)
  end
  local changed = setfenv(target, environment)
  return rawtype(f) == "number" and globals or changed
end

local function from_text(text, name)
  return compile.chunk(text, name == nil and text or tostring(name))
end

function globals.loadstring(text, name)
  if rawtype(text) ~= "string" then
    error("loadstring: the chunk must be a string, not a " .. rawtype(text), 2)
  end
  return from_text(text, name)
end

function globals.load(pieces, name)
  if rawtype(pieces) == "string" then
    return from_text(pieces, name)
  end
  local text = {}
  for piece in pieces do
    steps.count()
    if piece == "" then
      break
    end
    text[#text + 1] = piece
  end
  return from_text(guards.table.concat(text), name or "=(load)")
end

room("modules")

return globals
