-- msys.cidr: named address lists, which Python reads and searches.
local room = ...
local ac, host, options, sessions = room("ac"), room("host"), room("options"), room("sessions")
local error, lower, next, tostring, type = error, string.lower, next, tostring, type
local now = sessions.now

local REFRESH_S = 1800 -- between two checks of the file, as in the reference; 0: only msys.cidr.reload reads it again
local OPTIONS = {
  type = true, source = true, record_type = true, value = true, refresh = true, default_value = true, interpolate = true,
  optimize = true, optimize_hosts = true,
}

local lists = {} -- by name: { default, interpolate }

local cidr = {}

-- A policy may keep tables of its own beside the options, as the reference's training policy does; an option is never a table.
local function unknown(where, given)
  local settings = {}
  for key, value in next, given do
    if type(value) ~= "table" then
      settings[key] = value
    end
  end
  return options.unknown(where, settings, OPTIONS)
end

local function read(where, name, given)
  local kind = lower(tostring(given.record_type or given.value or "a"))
  if kind ~= "a" and kind ~= "txt" then
    return where .. "record_type " .. kind .. " of '" .. name .. "' is neither A nor TXT"
  end
  local refresh = given.refresh == nil and REFRESH_S or given.refresh
  if type(refresh) ~= "number" or not (refresh >= 0) or type(given.source) ~= "string" then
    return where .. "'" .. name .. "' needs a source (a file) and a refresh (seconds)"
  end
  local why = host.define(name, given.source, kind, refresh)
  return why and where .. why
end

local function define(name, given)
  local where = "msys.cidr.define: "
  if type(given) == "string" then
    given = { type = given }
  end
  if type(name) ~= "string" or type(given) ~= "table" then
    return where .. "expected a name and a table of options"
  end
  local why = unknown("msys.cidr.define", given)
  if why then
    return why
  end
  local interpolate
  interpolate, why = options.switch("msys.cidr.define", "interpolate", given.interpolate)
  if interpolate == nil then
    return why
  end
  if given.type == "datasource" then
    return where .. "type datasource of '" .. name .. "' is not part of inbound_audit; use rbldnsd"
  elseif given.type == "rbldnsd" then
    why = read(where, name, given)
  elseif given.type == "empty" then
    why = host.define(name)
  else
    why = where .. "type " .. tostring(options.plain(given.type)) .. " of '" .. name .. "' is neither rbldnsd nor empty"
  end
  if why then
    return why
  end
  lists[name] = { default = given.default_value, interpolate = interpolate or given.interpolate == nil }
end

function cidr.define(name, given)
  local why = define(name, given)
  if why then
    error(why, 2)
  end
end

-- The value of the longest match for `ip`, the connecting IP if it is nil; the list's default without a match.
local function query(name, ip)
  local list = lists[name]
  if not list then
    return tostring(name) .. ": no such list; msys.cidr.define makes one"
  end
  if ip == nil and now.state.ac then
    ip = ac.remote_ip(now.state.ac)
  end
  if type(ip) ~= "string" then
    return "msys.cidr.query: " .. tostring(ip) .. " is not an address"
  end
  local why, value = host.query(name, ip, list.interpolate)
  if value == nil then
    return why, list.default
  end
  return nil, value
end

function cidr.query(name, ip)
  local why, value = query(name, ip)
  if why then
    error(why, 2)
  end
  return value
end

function cidr.reload(name)
  local why = lists[name] and host.reload(name) or not lists[name] and tostring(name) .. ": no such list"
  if why then
    error(why, 2)
  end
end

return cidr
