-- Library functions that could bring the process down, made safe.
--
-- What calls back from C into a script nests on the C stack, which LuaJIT does not watch: a gsub whose function calls
-- gsub needs 8 KiB a level, a coroutine that resumes another one half a KiB. PUC Lua watches that, but matches patterns
-- recursively and its unpack overflows an int.
local create, resume = coroutine.create, coroutine.resume
local error, jit, pcall, type = error, jit, pcall, type
local find, format, gmatch, gsub, match = string.find, string.format, string.gmatch, string.gsub, string.match
local huge, sort, unpack = math.huge, table.sort, unpack

local NESTED_MOST = 40 -- some 350 KiB, so that threads with a small stack are safe too
local PATTERN_MOST = jit and huge or 1000 -- characters; each may be a level of recursion
local RESULTS_MOST = 8000 -- what PUC Lua's own stack takes

local depth = 0

local function descend()
  if depth >= NESTED_MOST then
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
local function fail(message, name)
  if type(message) ~= "string" or find(message, "^[^\n]-:%d+: ") then
    error(message, 0)
  end
  error((gsub(message, "to '%?'", "to '" .. name .. "'", 1)), 3)
end

local guards = { string = {}, table = {}, coroutine = {} }

local function check_pattern(pattern)
  if type(pattern) == "string" and #pattern > PATTERN_MOST then
    error("pattern too complex", 3)
  end
end

function guards.string.gsub(subject, pattern, replacement, most)
  check_pattern(pattern)
  descend()
  local ok, text, count = ascend(pcall(gsub, subject, pattern, replacement, most))
  if not ok then
    fail(text, "gsub")
  end
  return text, count
end

local function guarded_resume(co, ...)
  if type(co) ~= "thread" then
    error("coroutine.resume: expected a coroutine, not a " .. type(co), 2)
  end
  descend()
  return ascend(resume(co, ...))
end
guards.coroutine.resume = guarded_resume

local function unwrap(ok, ...)
  if not ok then
    error((...), 0)
  end
  return ...
end

function guards.coroutine.wrap(f)
  local co = create(f)
  return function(...)
    return unwrap(guarded_resume(co, ...))
  end
end

-- It calls __tostring.
function guards.string.format(...)
  descend()
  local ok, text = ascend(pcall(format, ...))
  if not ok then
    fail(text, "format")
  end
  return text
end

function guards.table.sort(list, less)
  descend()
  local ok, message = ascend(pcall(sort, list, less))
  if not ok then
    fail(message, "sort")
  end
end

local function short(f)
  return function(subject, pattern, ...)
    check_pattern(pattern)
    return f(subject, pattern, ...)
  end
end

if not jit then
  local short_find = short(find)
  function guards.string.find(subject, pattern, start, plain)
    return (plain and find or short_find)(subject, pattern, start, plain)
  end
  guards.string.gmatch = short(gmatch)
  guards.string.gfind = guards.string.gmatch
  guards.string.match = short(match)

  function guards.unpack(list, first, last)
    if (last or #list) - (first or 1) >= RESULTS_MOST then
      error("too many results to unpack", 2)
    end
    return unpack(list, first or 1, last or #list)
  end
end

return guards
