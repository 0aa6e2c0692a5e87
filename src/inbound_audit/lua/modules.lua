-- `require`, `module` and `package` of a script. What they find is Lua source, and gets the treatment of the policy.
local room, _, options = ...
local host, compile = room("host"), room("compile")
local error, getfenv, gmatch, ipairs, match = error, getfenv, string.gmatch, ipairs, string.match
local rawget, rawset, setfenv, setmetatable, tostring, type = rawget, rawset, setfenv, setmetatable, tostring, type

local OUTSIDE = getfenv(0)
local globals = compile.globals
local package = { loaded = { _G = globals }, preload = {}, path = options.path, config = "/\n;\n?\n!\n-\n" }
globals.package = package

for _, name in ipairs({ "string", "table", "math", "coroutine", "os", "debug", "bit" }) do
  package.loaded[name] = globals[name]
end

-- Modules of the reference that a script may require and that are not available, by name: functions that return a table.
-- A file of that name comes first.
local absent = {}

-- Stands in package.loaded while a module loads: two that require one another are an error and no endless recursion.
local function loading() end

local function loader_of(name)
  local preloaded = package.preload[name]
  if preloaded then
    return preloaded
  end
  local why, text, chunkname = host.find(name, tostring(package.path))
  if why then
    return absent[name], why
  end
  return compile.chunk(text, chunkname)
end

function globals.require(name)
  if type(name) ~= "string" then
    error("require: the name of a module must be a string, not a " .. type(name), 2)
  end
  local loaded = package.loaded
  local found = loaded[name]
  if found == loading then
    error("loop or previous error loading module '" .. name .. "'", 2)
  elseif found ~= nil then
    return found
  end
  local loader, why = loader_of(name)
  if not loader then
    error(why, 2)
  end
  loaded[name] = loading
  local result = loader(name)
  if result ~= nil then
    loaded[name] = result
  elseif loaded[name] == loading then
    loaded[name] = true
  end
  return loaded[name]
end

-- The table under a dotted name below the globals; `make` makes those that are missing. nil where a part of the name is
-- something else.
local function table_under(name, make)
  local t, so_far = globals, ""
  for part in gmatch(name, "[^.]+") do
    so_far = so_far == "" and part or so_far .. "." .. part
    local inner = rawget(t, part)
    if inner == nil then
      inner = make(so_far)
      rawset(t, part, inner)
    elseif type(inner) ~= "table" then
      return nil
    end
    t = inner
  end
  return t
end

local function new_table()
  return {}
end

function package.seeall(t)
  setmetatable(t, { __index = globals })
end

function globals.module(name, ...)
  local t = package.loaded[name]
  if type(t) ~= "table" then
    t = table_under(name, new_table)
    if not t then
      error("name conflict for module '" .. tostring(name) .. "'", 2)
    end
    package.loaded[name] = t
  end
  if rawget(t, "_NAME") == nil then
    t._M, t._NAME, t._PACKAGE = t, name, match(name, "^(.*%.)[^.]*$") or ""
  end
  if getfenv(2) == OUTSIDE then
    error("'module' is called by the chunk of a module", 2)
  end
  setfenv(2, t)
  for _, option in ipairs({ ... }) do
    option(t)
  end
end

return { loaded = package.loaded, absent = absent, table_under = table_under }
