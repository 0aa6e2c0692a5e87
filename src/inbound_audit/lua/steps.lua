-- The bounds on what one hook may do: steps, time, and waits in functions of Python. A script's functions and loops call
-- `steps.count` (dialect.py puts the calls in), and library functions pay for what they do in one call. Every few hundred
-- steps the clock is read: that of the thread where FFI can reach it, otherwise that of the process. Once a hook has used up
-- its steps or its time every further step is an error, and guards.lua lets no pcall and no coroutine catch it.
local _, functions, options = ...
local clock, collectgarbage, error, floor, getinfo = os.clock, collectgarbage, error, math.floor, debug.getinfo
local find, max, min, type = string.find, math.max, math.min, type

local MAX_STEPS, MAX_MS, SUSPENDED = options.max_steps, options.max_hook_ms, options.suspended
local START_FACTOR = 100 -- loading and init may take so many times as long as a hook: nothing waits for them
local CHUNK, LONG_CHUNK = 500, 50 -- steps between two looks at the clock; the second once there are long texts
local HEAP_CHUNK = 500000 -- steps times KiB: a step may walk over a table as large as the memory in use
local LONG_TEXT, MAX_TEXT = 4096, 2 ^ 18 -- bytes

local WAITS = 2 -- so many times as long as it may run a hook may wait

-- The time of day, as far as differences show it.
local function wall()
  local _, seconds = functions.now()
  return seconds
end

if options.ffi then
  local ffi = require("ffi")
  ffi.cdef("typedef struct { int64_t s, ns; } ia_time; int clock_gettime(int, ia_time *);")
  local C, time, to_number = ffi.C, ffi.new("ia_time"), tonumber
  local function seconds(id)
    C.clock_gettime(id, time)
    return to_number(time.s) + to_number(time.ns) / 1e9
  end
  function clock()
    return seconds(options.clock)
  end
  function wall()
    return seconds(options.monotonic)
  end
end

local normal = CHUNK -- steps until the next look at the clock
local chunk = normal -- those with which `left` began
local left = chunk
local used, estimated = 0, 0 -- steps before this chunk; those of this chunk that may not have been needed
local began, began_wall, limit_s, expired = nil, nil, 0, nil -- `expired`: the message once there are no more steps, or time
local waits = 0 -- seconds
local has_long_texts = false
local suspended, next_suspended = false, false -- whether this hook is not to be run, and the next one

local steps = { MAX_TEXT = MAX_TEXT }

-- "script:line: " of the innermost function of a script.
local function place()
  local level = 3
  local info = getinfo(level, "Sl")
  while info do
    if info.currentline > 0 and not find(info.source, "^=inbound_audit/lua/") then
      return info.short_src .. ":" .. info.currentline .. ": "
    end
    level = level + 1
    info = getinfo(level, "Sl")
  end
  return ""
end

steps.place = place

-- Raises an error that no pcall catches.
local function expire(why)
  expired = expired or place() .. why
  chunk, left, estimated = 0, 0, 0
  error(expired, 0)
end

-- Begins the next chunk, unless the steps or the time are used up.
local function look()
  used = used + chunk - left - estimated
  normal = max(1, min(has_long_texts and LONG_CHUNK or CHUNK, floor(HEAP_CHUNK / collectgarbage("count"))))
  chunk = max(0, min(normal, MAX_STEPS - used))
  left, estimated = chunk, 0
  if expired or used > MAX_STEPS then
    expire("more than " .. MAX_STEPS .. " steps (function calls and loop passes) in one hook; max_steps bounds them")
  end
  local now = clock()
  if not began then
    began, began_wall = now, wall()
  end
  if now - began > limit_s then
    expire("more than " .. limit_s * 1000 .. " ms in one hook; max_hook_ms bounds them")
  end
end

function steps.count()
  left = left - 1
  if left < 0 then
    look()
  end
end

-- Counts `n` steps that one call of a library function is about to take.
function steps.pay(n)
  left = left - n
  if left < 0 then
    look()
  end
end

-- The same for steps that it may take: they bring the next look at the clock nearer, and nothing else.
function steps.reserve(n)
  left, estimated = left - n, estimated + n
  if left < 0 then
    look()
  end
end

-- Reads the clock before and after something that may take long.
function steps.check()
  look()
  estimated, left = estimated + left, 0
end

-- What a function of Python returned that was called at `before`. Another thread may have had Python meanwhile.
local function returned(before, ...)
  waits = waits + wall() - before
  if waits > WAITS * limit_s and not steps.starting() then
    expire("more than " .. WAITS * limit_s * 1000 .. " ms of waits in one hook; max_hook_ms bounds them")
  end
  return ...
end

-- Calls a function of Python. Where FFI can't measure it the clock of the process shows what other threads do.
if options.ffi then
  function steps.call(f, ...)
    return returned(wall(), f(...))
  end
else
  function steps.call(f, ...)
    return f(...)
  end
end

-- Raises an error at the innermost place of a script.
function steps.fail(why)
  error(place() .. why, 0)
end

-- Raises an error for a text of so many bytes that is too long. It was perhaps made by then, and took time as well.
function steps.weigh(bytes)
  if bytes > LONG_TEXT then
    has_long_texts = true
    if left > LONG_CHUNK then
      estimated, left = estimated + left - LONG_CHUNK, LONG_CHUNK
    end
    steps.reserve(floor(bytes / 4096))
  end
  if bytes > MAX_TEXT then
    steps.fail("a text of a policy has at most " .. MAX_TEXT .. " bytes")
  end
end

-- A text that a script has made.
function steps.text(text)
  if type(text) == "string" and #text > LONG_TEXT then
    steps.weigh(#text)
  end
  return text
end

-- The message, if the hook's steps or time are used up.
function steps.expired()
  return expired
end

-- How many seconds the hook took that ran last, if it has used up its steps or its time, or `memory`; otherwise 0.
function steps.overrun(memory)
  return (expired or memory) and began_wall and wall() - began_wall or 0
end

-- The functions of scripts for the next hook are not run. What is kept of its session is kept all the same.
function steps.suspend()
  next_suspended = true
end

-- Comes before each function of a script that a hook calls: an error if it is not to be run.
function steps.begin()
  if suspended then
    error(SUSPENDED, 0)
  end
end

-- Whether the policy is being loaded or started, and no hook runs.
function steps.starting()
  return limit_s > MAX_MS / 1000
end

-- A hook begins; `starting`: or loading, or init.
function steps.refill(starting)
  used, estimated, began, began_wall, expired, waits = 0, 0, nil, nil, nil, 0
  limit_s = (starting and START_FACTOR or 1) * MAX_MS / 1000
  suspended, next_suspended = next_suspended, false
  chunk = min(normal, MAX_STEPS)
  left = chunk
end

return steps
