-- msys.audit_series: named series of windows, by address or by text.
local room = ...
local ac, ask, sessions, windows = room("ac"), room("ask"), room("sessions"), room("windows")
local error, rawequal, tostring, type = error, rawequal, tostring, type
local memory = ac.memory
local series_add, series_count, series_remove = memory.series_add, memory.series_count, memory.series_remove
local is, now, plain, words = ac.is, sessions.now, windows.plain, windows.words

local NEED_NEGATIVE_TREE, NEED_PYTHON, OTHER_FAMILY = -27, -28, -35 -- what Python does, then all goes on as before

local series = {}

local function on(option)
  return (option and option ~= 0) and true or false
end

-- What is wrong is an error here, also where no audit is known yet.
function series.define(name, kind, interval, num_windows, options)
  options = options == nil and {} or options
  if type(name) ~= "string" or type(options) ~= "table" then
    error("msys.audit_series.define: wants a name, a type, two numbers, and perhaps a table of options", 2)
  end
  local why = ask.series_define(
    name, plain(kind), plain(interval), plain(num_windows),
    on(options.serialize), plain(options.replicate), on(options.persist), plain(options.max_hosts), plain(options.max_bytes)
  )
  if why then
    error(why, 2)
  end
end

-- The accept construct in whose audit a key is looked for (nil while no session is being validated), the key as the
-- core takes it (nil: that construct's address), and a reason when it is none.
local function whose(name, key)
  local current = now.state.ac
  if type(name) ~= "string" then
    return nil, nil, words(windows.NO_SERIES, nil, name)
  elseif key == nil or type(key) == "string" then
    return current, key
  elseif not is(key) then
    return nil, nil, tostring(plain(key)) .. ": is neither a text nor an accept construct"
  elseif current and not rawequal(key, current) then
    return memory.within(key, current)
  end
  return key
end

local function made_room(accept, name, key, amount)
  local why = ask.series_make_room(memory.bytes(accept), name)
  if why then
    return why
  end
  local code = series_add(accept, name, key, amount)
  return code ~= 0 and words(code, key, name) or nil
end

-- Answers nothing, or the reason.
local function add(name, options)
  local key, count = options, nil
  if type(options) == "table" then
    key, count = options.key, options.count
  end
  local accept, text, why = whose(name, key)
  if why then
    return why
  end
  local amount = count == nil and 1 or windows.amount(count)
  if not amount then
    return words(windows.BAD_AMOUNT, count, name)
  elseif not accept then
    return (ask.absolute_add(name, text, amount))
  end
  local code = series_add(accept, name, text, amount)
  if code == NEED_NEGATIVE_TREE then
    return made_room(accept, name, text, amount)
  elseif code == OTHER_FAMILY then
    return (ask.series_other_family(memory.bytes(accept), name))
  elseif code ~= 0 then
    return words(code, code == windows.BAD_AMOUNT and amount or text, name)
  end
end

function series.add(name, options)
  local why = add(name, options)
  if why then
    error(why, 2)
  end
end

-- A count, or nil and the reason.
local function count(name, options)
  local key, startv, endv = options, nil, nil
  if type(options) == "table" then
    key, startv, endv = options.key, options.startv, options.endv
  end
  local accept, text, why = whose(name, key)
  if why then
    return nil, why
  end
  local first, last = windows.range(startv, endv)
  if not first then
    return nil, last
  end
  if not accept then
    local reason, n = ask.absolute_count(name, text, first, last)
    return n, reason
  end
  local code, n = series_count(accept, name, text, first, last)
  if code == OTHER_FAMILY then
    local why = ask.series_other_family(memory.bytes(accept), name)
    return not why and 0 or nil, why
  elseif code ~= 0 then
    return nil, words(code, code == windows.BAD_WINDOW and windows.asked(startv, endv) or text, name)
  end
  return n
end

function series.count(name, options)
  local n, why = count(name, options)
  if not n then
    error(why, 2)
  end
  return n
end

local function remove_item(name, key)
  local accept, text, why = whose(name, key)
  if why then
    return why
  elseif not accept then
    return (ask.series_remove_item(nil, name, text))
  end
  local code = series_remove(accept, name, text)
  if code == NEED_PYTHON then
    return (ask.series_remove_item(memory.bytes(accept), name, text))
  end
  return code ~= 0 and words(code, text, name) or nil
end

function series.remove_item(name, key)
  local why = remove_item(name, key)
  if why then
    error(why, 2)
  end
end

return series
