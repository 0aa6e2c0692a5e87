-- The modules that a policy has registered, in order.
local room = ...
local ask, sessions, steps = room("ask"), room("sessions"), room("steps")
local error, find, pairs, setmetatable, tostring, type = error, string.find, pairs, setmetatable, tostring, type

local HOOKS = {
  init = true, deinit = true, core_validate_accept = true, validate_connect = true, validate_ehlo = true,
  validate_mailfrom = true, validate_rcptto = true, validate_data = true, validate_data_spool = true,
  validate_data_spool_each_rcpt = true, validate_dealloc = true,
}

local registry = { modules = {} }
local modules, started = registry.modules, false

local function warn_of_misspelt(module)
  for name in pairs(module.hooks) do
    if type(name) == "string" and find(name, "validate_") and not HOOKS[name] then
      ask.warn("module '" .. module.name .. "' has a function " .. name .. ", which is no hook and is never called")
    end
  end
end

local function start(module)
  warn_of_misspelt(module)
  local init = module.hooks.init
  if init and init(module.hooks) == false then
    return "init of module '" .. module.name .. "' answered false"
  end
end

-- `session` is the metatable of the tables that this module's hooks are called with, one a session.
function registry.add(name, hooks)
  local module = { name = name, hooks = hooks, session = { __index = hooks } }
  modules[#modules + 1] = module
  return started and start(module) or nil
end

-- Runs the init of every module. What is registered later is started at once.
function registry.start()
  sessions.none()
  steps.refill()
  started = true
  for i = 1, #modules do
    local why = start(modules[i])
    if why then
      error(why, 0)
    end
  end
  return #modules
end

function registry.stop()
  sessions.none()
  steps.refill()
  for i = 1, #modules do
    local deinit = modules[i].hooks.deinit
    if deinit then
      deinit(modules[i].hooks)
    end
  end
end

return registry
