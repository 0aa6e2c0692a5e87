-- msys.audit_series: named series of windows, by address or by text.
local room = ...
local ac, arguments, host, sessions, windows = room("ac"), room("arguments"), room("host"), room("sessions"), room("windows")
local rawequal, tostring, type = rawequal, tostring, type
local series_add, series_count, series_remove = ac.series_add, ac.series_count, ac.series_remove
local bytes, codes, is, now, plain = ac.bytes, windows.codes, ac.is, sessions.now, arguments.plain
local message, question, raising, unknown = windows.message, windows.question, arguments.raising, arguments.unknown

local DEFINE = { serialize = "switch", replicate = "value", persist = "switch", max_hosts = "value", max_bytes = "value" }
local ADD = { key = true, count = true }
local COUNT = { key = true, startv = true, endv = true }
local OF_CLUSTER = ": a series counts all nodes of the cluster if it is defined with replicate = 'cluster'; leave 'cluster' out"

local series = {}

-- A wrong definition is an error here, also where no audit is known yet.
series.define = raising(function(name, kind, interval, num_windows, given)
  local where = "msys.audit_series.define"
  if type(name) ~= "string" or given ~= nil and type(given) ~= "table" then
    return where .. ": expected a name, a type, two numbers, and perhaps a table of options"
  end
  local why, chosen = arguments.read(where, given or {}, DEFINE)
  if why then
    return why
  end
  return host.series_define(
    name, plain(kind), plain(interval), plain(num_windows),
    chosen.serialize, chosen.replicate, chosen.persist, chosen.max_hosts, chosen.max_bytes
  )
end)

-- The accept construct in whose audit a key is looked up (nil while no session is being validated), the key as the core
-- takes it (nil: that construct's address), and a reason if it is not a key.
local function whose(name, key)
  local current = now.state.ac
  if type(name) ~= "string" then
    return nil, nil, message(codes.NO_SERIES, name)
  elseif key == nil or type(key) == "string" then
    return current, key
  elseif not is(key) then
    return nil, nil, tostring(plain(key)) .. ": is neither a text nor an accept construct"
  elseif current and not rawequal(key, current) then
    return ac.within(key, current)
  end
  return key
end

-- The first amount below zero of a series: Python makes the windows that hold such amounts.
local function add_negative(accept, name, key, amount)
  local why = host.series_make_room(bytes(accept), name)
  if why then
    return why
  end
  local code = series_add(accept, name, key, amount)
  return code ~= 0 and message(code, name, key) or nil
end

series.add = raising(function(name, given)
  local key, count = given, nil
  if type(given) == "table" then
    key, count = given.key, given.count
    local why = unknown("msys.audit_series.add", given, ADD)
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
    return message(codes.BAD_AMOUNT, name, count)
  elseif not accept then
    return host.absolute_add(name, text, amount)
  end
  local code = series_add(accept, name, text, amount)
  if code == codes.NEED_NEGATIVE_TREE then
    return add_negative(accept, name, text, amount)
  elseif code == codes.OTHER_FAMILY then
    return host.series_other_family(bytes(accept), name)
  elseif code ~= 0 then
    return message(code, name, code == codes.BAD_AMOUNT and amount or text)
  end
end)

series.count = raising(function(name, given)
  local where = "msys.audit_series.count"
  if type(given) == "table" and given.cluster ~= nil then
    return where .. OF_CLUSTER
  end
  local why, key, first, last = question(where, given, "key", COUNT)
  if why then
    return why
  end
  local accept, text
  accept, text, why = whose(name, key)
  if why then
    return why
  elseif not accept then
    return host.absolute_count(name, text, first, last)
  end
  local code, n = series_count(accept, name, text, first, last)
  if code == codes.OTHER_FAMILY then
    return host.series_other_family(bytes(accept), name), 0
  elseif code ~= 0 then
    return message(code, name, code == codes.BAD_WINDOW and given or text)
  end
  return nil, n
end)

series.remove_item = raising(function(name, key)
  local accept, text, why = whose(name, key)
  if why then
    return why
  elseif not accept then
    return host.series_remove_item(nil, name, text)
  end
  local code = series_remove(accept, name, text)
  if code == codes.NEED_PYTHON then
    return host.series_remove_item(bytes(accept), name, text)
  end
  return code ~= 0 and message(code, name, text) or nil
end)

return series
