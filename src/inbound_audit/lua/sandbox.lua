-- The globals that a script sees: Lua 5.1 without files, processes, bytecode, metatables of its host, and Python.
local room = ...
local host, compile, guards = room("host"), room("compile"), room("guards")
local collectgarbage, concat, date, debug, error = collectgarbage, table.concat, os.date, debug, error
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
  "_VERSION", "assert", "error", "getmetatable", "ipairs", "next", "pairs", "pcall", "rawequal", "rawget", "rawset",
  "select", "setmetatable", "tonumber", "tostring", "xpcall",
}) do
  globals[name] = OUTSIDE[name]
end
globals._G = globals
globals.unpack = guards.unpack or unpack
globals.string = copy(string, guards.string)
globals.string.dump = nil
globals.table = copy(table, guards.table)
globals.math = copy(math)
globals.coroutine = copy(coroutine, guards.coroutine)
globals.bit = bit and copy(bit) -- LuaJIT's own library, where there is one
globals.os = { clock = os.clock, date = date, difftime = os.difftime, time = os.time }
globals.debug = { traceback = debug.traceback }

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
  local words = {}
  for i = 1, select("#", ...) do
    words[i] = tostring((select(i, ...)))
  end
  host.log(concat(words, "\t"))
end

-- A script may look at the memory in use and tidy up; that the collector runs at all is not its choice.
function globals.collectgarbage(option)
  option = option or "collect"
  if option ~= "collect" and option ~= "count" and option ~= "step" then
    error("collectgarbage: only 'collect', 'count' and 'step' are available", 2)
  end
  return collectgarbage(option)
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
    if piece == "" then
      break
    end
    text[#text + 1] = piece
  end
  return from_text(concat(text), name or "=(load)")
end

room("modules")

return globals
