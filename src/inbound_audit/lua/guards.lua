-- Library functions that could bring the process down, or hold it up, made safe.
--
-- What calls back from C into a script nests on the C stack, which LuaJIT does not watch: a gsub whose function calls
-- gsub needs 8 KiB a level, a coroutine that resumes another one half a KiB. PUC Lua watches that, but its unpack
-- overflows an int. And what does much in one call pays for it in steps before it begins.
local room = ...
local patterns, steps = room("patterns"), room("steps")
local collectgarbage, create, date, resume, rep = collectgarbage, coroutine.create, os.date, coroutine.resume, string.rep
local concat, insert, move, next, remove, sort = table.concat, table.insert, table.move, next, table.remove, table.sort
local error, find, floor, format, gsub, max = error, string.find, math.floor, string.format, string.gsub, math.max
local pairs, pcall, rawget, select, tonumber, tostring, type = pairs, pcall, rawget, select, tonumber, tostring, type
local char, string, traceback, unpack, xpcall = string.char, string, debug.traceback, unpack, xpcall
local check, count, expired, fail = steps.check, steps.count, steps.expired, steps.fail
local pay, text, weigh = steps.pay, steps.text, steps.weigh

local MAX_NESTED = 40 -- some 350 KiB, so that threads with a small stack are safe too
local MAX_RESULTS = 8000 -- what PUC Lua's own stack takes
local MAX_ARGUMENTS = 255 -- of string.format
local MAX_FORMAT = 1000 -- bytes of a format of os.date
local MAX_POSITION = 2 ^ 31 - 1 -- in a table; the library takes an int
local GC_STEPS = 200 -- per KiB of the memory in use
local ITEMS = 100 -- arguments or results that are handed over in the time of a step

local depth = 0

local function descend()
  if depth >= MAX_NESTED then
    error("C stack overflow", 3)
  end
  depth = depth + 1
end

local function ascend(...)
  depth = depth - 1
  return ...
end

-- Raises the error of a protected call again. The library's own errors have lost two things: the place, which is that
-- of the caller, and the function's name.
local function raise(message, name)
  if type(message) == "string" then
    message = gsub(message, "^inbound_audit/lua/[^\n:]+:%d+: ", "") -- PUC Lua may name the guard's own line
  end
  if type(message) ~= "string" or find(message, "^[^\n]-:%d+: ") then
    error(message, 0)
  end
  fail((gsub(message, "to '%?'", "to '" .. name .. "'", 1)))
end

-- The results of a protected call of the library's function of that name, or its error at the script's place.
local function results(name, ok, ...)
  if not ok then
    raise((...), name)
  end
  return ...
end

-- The results of a protected call, unless the hook's steps or time are used up: that error goes all the way up. A call
-- without memory fails before it is weighed, and may have taken long.
local function passed(...)
  local ok, message = ...
  if not ok and message == "not enough memory" then
    check()
  end
  if expired() then
    error(expired(), 0)
  end
  return ...
end

local guards = { string = {}, table = {}, coroutine = {} }

function guards.pcall(...)
  return passed(pcall(...))
end

function guards.xpcall(...)
  return passed(xpcall(...))
end

local function guarded_resume(co, ...)
  if type(co) ~= "thread" then
    error("coroutine.resume: expected a coroutine, not a " .. type(co), 2)
  end
  descend()
  return passed(ascend(resume(co, ...)))
end
guards.coroutine.resume = guarded_resume

local function unwrap(ok, ...)
  if not ok then
    error((...), 0)
  end
  return ...
end

function guards.coroutine.create(f)
  count()
  return create(f)
end

function guards.coroutine.wrap(f)
  count()
  local co = create(f)
  return function(...)
    return unwrap(guarded_resume(co, ...))
  end
end

guards.string.find, guards.string.match, guards.string.gmatch = patterns.find, patterns.match, patterns.gmatch
guards.string.gfind = patterns.gmatch

function guards.string.gsub(subject, pattern, replacement, most)
  descend()
  local ok, result, n = ascend(pcall(patterns.gsub, subject, pattern, replacement, most))
  if not ok then
    raise(result, "gsub")
  end
  return text(result), n
end

-- These go over the whole text. Many of them in a row, without a loop, are not to outlast the hook's time.
for _, name in pairs({ "byte", "lower", "reverse", "sub", "upper" }) do
  local f = string[name]
  guards.string[name] = function(...)
    count()
    text((...))
    return results(name, pcall(f, ...))
  end
end

function guards.string.char(...)
  pay(1 + select("#", ...) / ITEMS)
  return results("char", pcall(char, ...))
end

function guards.select(...)
  pay(1 + select("#", ...) / ITEMS)
  return results("select", pcall(select, ...))
end

function guards.tonumber(...)
  text((...))
  return results("tonumber", pcall(tonumber, ...))
end

function guards.next(...)
  count()
  return results("next", pcall(next, ...))
end

-- PUC Lua appends all that comes behind the message, whatever it is.
function guards.traceback(message, ...)
  count()
  if select("#", ...) > 2 then
    fail("debug.traceback: more than 3 arguments")
  end
  return text(traceback(text(message), ...))
end

-- It calls __tostring.
function guards.string.format(...)
  local n, bytes, arguments = select("#", ...), 0, { ... }
  if n > MAX_ARGUMENTS then
    fail("string.format: more than " .. MAX_ARGUMENTS .. " arguments")
  end
  descend()
  pay(1 + n / ITEMS)
  for i = 1, n do
    local argument = arguments[i]
    if type(argument) == "table" then
      argument = tostring(argument)
      arguments[i] = argument
    end
    bytes = bytes + (type(argument) == "string" and #argument or 0)
  end
  weigh(bytes)
  local ok, result = ascend(pcall(format, unpack(arguments, 1, n)))
  if not ok then
    raise(result, "format")
  end
  return text(result)
end

function guards.string.rep(s, n, separator)
  local times, bytes = tonumber(n), (type(s) == "string" and #s or 24) + (type(separator) == "string" and #separator or 0)
  if times and times > 0 then
    pay(1)
    weigh(times * max(bytes, 1))
  end
  return results("rep", pcall(rep, s, n, separator))
end

-- Compares in steps that are counted, also where the library would compare by itself.
function guards.table.sort(list, less)
  descend()
  local ok, message = ascend(pcall(sort, list, less ~= nil and type(less) ~= "function" and less or function(a, b)
    count()
    if less then
      return less(a, b)
    end
    return a < b
  end))
  if not ok then
    raise(message, "sort")
  end
end

function guards.table.concat(list, separator, first, last)
  if type(list) == "table" then
    local bytes, between = 0, type(separator) == "string" and #separator or 24
    for i = tonumber(first) or 1, tonumber(last) or #list do
      local part = rawget(list, i)
      if type(part) ~= "string" and type(part) ~= "number" then
        break
      end
      count()
      bytes = bytes + between + (type(part) == "string" and #part or 24)
    end
    weigh(bytes)
  end
  return results("concat", pcall(concat, list, separator, first, last))
end

-- Checks a position in a table, and pays for what the library will move between it and the end.
local function position(list, where, name)
  local at = tonumber(where)
  if at and not (at >= -MAX_POSITION and at < MAX_POSITION) then
    fail("bad argument #2 to '" .. name .. "' (position out of bounds)")
  elseif at and type(list) == "table" then
    pay(max(0, #list - at))
  end
end

function guards.table.insert(list, ...)
  if select("#", ...) == 2 then
    position(list, (...), "insert")
  end
  return results("insert", pcall(insert, list, ...))
end

function guards.table.remove(list, ...)
  position(list, (...), "remove")
  return results("remove", pcall(remove, list, ...))
end

if move then
  function guards.table.move(list, first, last, at, other)
    pay(max(0, (tonumber(last) or 0) - (tonumber(first) or 0)))
    return move(list, first, last, at, other)
  end
end

-- These three walk over a whole table.
function guards.table.maxn(list)
  local most = 0
  for key in next, list do
    count()
    most = type(key) == "number" and key > most and key or most
  end
  return most
end

function guards.table.foreach(list, f)
  for key, value in next, list do
    count()
    local result = f(key, value)
    if result ~= nil then
      return result
    end
  end
end

function guards.table.foreachi(list, f)
  for i = 1, #list do
    count()
    local result = f(i, list[i])
    if result ~= nil then
      return result
    end
  end
end

function guards.unpack(list, first, last)
  if (last or #list) - (first or 1) >= MAX_RESULTS then
    error("too many results to unpack", 2)
  end
  pay(1 + max(0, (last or #list) - (first or 1)) / ITEMS)
  return unpack(list, first or 1, last or #list)
end
guards.table.unpack = table.unpack and guards.unpack

function guards.date(form, time)
  count()
  if type(form) == "string" and #form > MAX_FORMAT then
    fail("os.date: a format has at most " .. MAX_FORMAT .. " bytes")
  end
  return date(form, time)
end

-- A script may look at the memory in use and tidy up; that the collector runs at all is not its choice.
function guards.collectgarbage(option)
  option = option or "collect"
  if option ~= "collect" and option ~= "count" and option ~= "step" then
    error("collectgarbage: only 'collect', 'count' and 'step' are available", 2)
  elseif option ~= "count" then
    pay(floor(GC_STEPS * collectgarbage("count")))
  end
  return collectgarbage(option)
end

return guards
