-- msys.audit_series: named series of windows, by address or by text.
local room = ...
local ac, host, options, sessions, windows = room("ac"), room("host"), room("options"), room("sessions"), room("windows")
local error, rawequal, tostring, type = error, rawequal, tostring, type
local memory, codes = ac.memory, windows.codes
local series_add, series_count, series_remove = memory.series_add, memory.series_count, memory.series_remove
local is, now, plain, message = ac.is, sessions.now, options.plain, windows.message

local DEFINE = { serialize = true, replicate = true, persist = true, max_hosts = true, max_bytes = true }
local ADD = { key = true, count = true }
local COUNT = { key = true, startv = true, endv = true }

local series = {}

local function define(name, kind, interval, num_windows, given)
  local where = "msys.audit_series.define"
  given = given == nil and {} or given
  if type(name) ~= "string" or type(given) ~= "table" then
    return where .. ": expected a name, a type, two numbers, and perhaps a table of options"
  end
  local why = options.unknown(where, given, DEFINE)
  if why then
    return why
  end
  local serialize, persist
  serialize, why = options.switch(where, "serialize", given.serialize)
  if serialize == nil then
    return why
  end
  persist, why = options.switch(where, "persist", given.persist)
  if persist == nil then
    return why
  end
  return (host.series_define(
    name, plain(kind), plain(interval), plain(num_windows),
    serialize, plain(given.replicate), persist, plain(given.max_hosts), plain(given.max_bytes)
  ))
end

-- A wrong definition is an error here, also where no audit is known yet.
function series.define(name, kind, interval, num_windows, given)
  local why = define(name, kind, interval, num_windows, given)
  if why then
    error(why, 2)
  end
end

-- The accept construct in whose audit a key is looked up (nil while no session is being validated), the key as the core
-- takes it (nil: that construct's address), and a reason if it is not a key.
local function whose(name, key)
  local current = now.state.ac
  if type(name) ~= "string" then
    return nil, nil, message(codes.NO_SERIES, nil, name)
  elseif key == nil or type(key) == "string" then
    return current, key
  elseif not is(key) then
    return nil, nil, tostring(plain(key)) .. ": is neither a text nor an accept construct"
  elseif current and not rawequal(key, current) then
    return memory.within(key, current)
  end
  return key
end

-- The first amount below zero of a series: Python makes the windows that hold such amounts.
local function add_negative(accept, name, key, amount)
  local why = host.series_make_room(memory.bytes(accept), name)
  if why then
    return why
  end
  local code = series_add(accept, name, key, amount)
  return code ~= 0 and message(code, key, name) or nil
end

-- Returns nothing, or the reason.
local function add(name, given)
  local key, count = given, nil
  if type(given) == "table" then
    key, count = given.key, given.count
    local why = options.unknown("msys.audit_series.add", given, ADD)
    if why then
      return why
    end
  end
  local accept, text, why = whose(name, key)
  if why then
    return why
  end
  local amount = count == nil and 1 or windows.amount(count)
  if not amount then
    return message(codes.BAD_AMOUNT, count, name)
  elseif not accept then
    return (host.absolute_add(name, text, amount))
  end
  local code = series_add(accept, name, text, amount)
  if code == codes.NEED_NEGATIVE_TREE then
    return add_negative(accept, name, text, amount)
  elseif code == codes.OTHER_FAMILY then
    return (host.series_other_family(memory.bytes(accept), name))
  elseif code ~= 0 then
    return message(code, code == codes.BAD_AMOUNT and amount or text, name)
  end
end

function series.add(name, given)
  local why = add(name, given)
  if why then
    error(why, 2)
  end
end

-- A count, or nil and the reason.
local function count(name, given)
  local key, startv, endv = given, nil, nil
  if type(given) == "table" then
    key, startv, endv = given.key, given.startv, given.endv
    local why = options.unknown("msys.audit_series.count", given, COUNT)
    if why then
      return nil, why
    end
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
    local reason, n = host.absolute_count(name, text, first, last)
    return n, reason
  end
  local code, n = series_count(accept, name, text, first, last)
  if code == codes.OTHER_FAMILY then
    why = host.series_other_family(memory.bytes(accept), name)
    return not why and 0 or nil, why
  elseif code ~= 0 then
    return nil, message(code, code == codes.BAD_WINDOW and windows.range_text(startv, endv) or text, name)
  end
  return n
end

function series.count(name, given)
  local n, why = count(name, given)
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
    return (host.series_remove_item(nil, name, text))
  end
  local code = series_remove(accept, name, text)
  if code == codes.NEED_PYTHON then
    return (host.series_remove_item(memory.bytes(accept), name, text))
  end
  return code ~= 0 and message(code, text, name) or nil
end

function series.remove_item(name, key)
  local why = remove_item(name, key)
  if why then
    error(why, 2)
  end
end

return series
