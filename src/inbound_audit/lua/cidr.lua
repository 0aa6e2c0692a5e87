-- msys.cidr: named address lists, which Python reads and searches.
local room = ...
local ac, ask, sessions = room("ac"), room("ask"), room("sessions")
local error, gsub, lower, tostring, type = error, string.gsub, string.lower, tostring, type
local now = sessions.now

local REFRESH = 1800 -- seconds between two looks at the file, as in the reference; 0: only msys.cidr.reload looks

local lists = {} -- by name: { default, interpolate }

local cidr = {}

local function define(name, options)
  if type(name) ~= "string" or type(options) ~= "table" then
    return "msys.cidr.define: wants a name and a table of options"
  end
  if options.type ~= "rbldnsd" then
    return "msys.cidr.define: type " .. tostring(options.type) .. " of '" .. name .. "' is not available, only rbldnsd"
  end
  local kind = lower(tostring(options.record_type or options.value or "a"))
  if kind ~= "a" and kind ~= "txt" then
    return "msys.cidr.define: record_type " .. kind .. " of '" .. name .. "' is neither A nor TXT"
  end
  local refresh = options.refresh == nil and REFRESH or options.refresh
  if type(refresh) ~= "number" or not (refresh >= 0) or type(options.source) ~= "string" then
    return "msys.cidr.define: '" .. name .. "' wants a source (a file) and a refresh (seconds)"
  end
  local why = ask.define(name, options.source, kind, refresh)
  if why then
    return "msys.cidr.define: " .. why
  end
  lists[name] = { default = options.default_value, interpolate = options.interpolate }
end

function cidr.define(name, options)
  local why = define(name, options)
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
    return "msys.cidr.query: " .. tostring(ip) .. " is no address"
  end
  local why, value = ask.query(name, ip)
  if value == nil then
    return why, list.default
  end
  return nil, list.interpolate and (gsub(value, "%$", ip)) or value
end

function cidr.query(name, ip)
  local why, value = query(name, ip)
  if why then
    error(why, 2)
  end
  return value
end

function cidr.reload(name)
  local why = lists[name] and ask.reload(name) or not lists[name] and tostring(name) .. ": no such list"
  if why then
    error(why, 2)
  end
end

return cidr
