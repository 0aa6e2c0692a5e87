-- msys.cidr: named address lists, which Python reads and searches.
local room = ...
local ac, arguments, host, sessions = room("ac"), room("arguments"), room("host"), room("sessions")
local lower, next, tostring, type = string.lower, next, tostring, type
local count, now, plain, raising = room("steps").count, sessions.now, arguments.plain, arguments.raising

local REFRESH_S = 1800 -- between two checks of the file, as in the reference; 0: only msys.cidr.reload reads it again
local WHERE = "msys.cidr.define"
local OPTIONS = {
  type = "value", source = "value", record_type = "value", value = "value", refresh = "value", default_value = "value",
  interpolate = "switch", optimize = "value", optimize_hosts = "value",
}

local lists = {} -- by name: { default, interpolate }

local cidr = {}

-- A policy may keep tables of its own beside the options, as the reference's training policy does; an option is never a table.
local function without_tables(given)
  local kept = {}
  for key, value in next, given do
    count()
    if type(value) ~= "table" then
      kept[key] = value
    end
  end
  return kept
end

local function read(name, chosen)
  local kind = lower(tostring(chosen.record_type or chosen.value or "a"))
  if kind ~= "a" and kind ~= "txt" then
    return "record_type " .. kind .. " of '" .. name .. "' is neither A nor TXT"
  end
  local refresh = chosen.refresh == nil and REFRESH_S or chosen.refresh
  if type(refresh) ~= "number" or not (refresh >= 0) or type(chosen.source) ~= "string" then
    return "'" .. name .. "' needs a source (a file) and a refresh (seconds)"
  end
  return (host.define(name, chosen.source, kind, refresh))
end

local function define(name, chosen)
  if chosen.type == "datasource" then
    return "type datasource of '" .. name .. "' is not part of inbound_audit; use rbldnsd"
  elseif chosen.type == "rbldnsd" then
    return read(name, chosen)
  elseif chosen.type == "empty" then
    return (host.define(name))
  end
  return "type " .. tostring(chosen.type) .. " of '" .. name .. "' is neither rbldnsd nor empty"
end

cidr.define = raising(function(name, given)
  if type(given) == "string" then
    given = { type = given }
  end
  if type(name) ~= "string" or type(given) ~= "table" then
    return WHERE .. ": expected a name and a table of options"
  end
  local why, chosen = arguments.read(WHERE, without_tables(given), OPTIONS)
  if why then
    return why
  end
  why = define(name, chosen)
  if why then
    return WHERE .. ": " .. why
  end
  lists[name] = { default = given.default_value, interpolate = chosen.interpolate or given.interpolate == nil }
end)

-- The value of the longest match for `ip`, the connecting IP if it is nil; the list's default without a match.
cidr.query = raising(function(name, ip)
  local list = lists[name]
  if not list then
    return tostring(plain(name)) .. ": no such list; msys.cidr.define makes one"
  end
  if ip == nil and now.state.ac then
    ip = ac.remote_ip(now.state.ac)
  end
  if type(ip) ~= "string" then
    return "msys.cidr.query: " .. tostring(plain(ip)) .. " is not an address"
  end
  local why, value = host.query(name, ip, list.interpolate)
  if value == nil then
    value = list.default
  end
  return why, value
end)

cidr.reload = raising(function(name)
  if not lists[name] then
    return tostring(plain(name)) .. ": no such list"
  end
  return host.reload(name)
end)

return cidr
