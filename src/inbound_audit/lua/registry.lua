-- The modules that a policy has registered, in order.
local room, _, settings = ...
local arguments, host, sessions, steps = room("arguments"), room("host"), room("sessions"), room("steps")
local concat, error, gmatch, pairs, sort, tostring, type = table.concat, error, string.gmatch, pairs, table.sort, tostring, type

local function set_of(names)
  local set = {}
  for name in gmatch(names, "%S+") do
    set[name] = true
  end
  return set
end

local HOOKS = set_of(settings.hooks) -- those that this package calls
local OTHER_HOOKS = set_of(settings.other_hooks) -- the reference's others
local DECIDES_NOTHING = { init = true, deinit = true, validate_dealloc = true }

local MAX_MODULES = 1000 -- each hook walks over all of them

local registry = { modules = {} }
local modules, others, started = registry.modules, 0, false

-- The names of a module's functions, in order: the reference's hooks that are not called here, and those that are no hook.
local function uncalled(module)
  local others, unknown = {}, {}
  for name, value in pairs(module.hooks) do
    if type(name) == "string" and type(value) == "function" and not HOOKS[name] then
      local kind = OTHER_HOOKS[name] and others or unknown
      kind[#kind + 1] = name
    end
  end
  sort(others)
  sort(unknown)
  return others, unknown
end

-- Logs each function whose name is nearly that of a hook; returns the first such name and "; did you mean ...?".
local function misspelt(module, unknown)
  local first, meant
  for i = 1, #unknown do
    local why, hint = host.did_you_mean(unknown[i], settings.hooks)
    if not why and hint ~= "" then
      host.warn("module '" .. module.name .. "' has a function " .. unknown[i]
        .. ", which is not a hook and is never called" .. hint)
      first, meant = first or unknown[i], meant or hint
    end
  end
  return first, meant
end

-- Returns a reason why the module can't be used. A hook may also come from a metatable of the module's table. A module
-- with a misspelt hook and none that decides would let everybody in.
local function check(module)
  local found, decides = false, false
  for name in pairs(HOOKS) do
    local hook = module.hooks[name]
    if hook ~= nil and type(hook) ~= "function" then
      return name .. " of module '" .. module.name .. "' is a " .. type(hook) .. ", not a function"
    end
    found = found or hook ~= nil
    decides = decides or hook ~= nil and not DECIDES_NOTHING[name]
  end
  local others, unknown = uncalled(module)
  if #others > 0 then
    host.warn("module '" .. module.name .. "' has hooks of the reference that inbound_audit does not call: "
      .. concat(others, ", "))
  end
  local wrong, meant = misspelt(module, unknown)
  local none = "module '" .. module.name .. "' has no hook"
  if decides or #others > 0 then
    return
  elseif wrong then
    return none .. (found and " that decides: " or ": ") .. wrong .. " is not a hook" .. meant
  elseif not found then
    return unknown[1] == nil and none .. " such as validate_connect"
      or none .. ": " .. unknown[1] .. " is not a hook" .. arguments.hint(unknown[1], HOOKS)
  end
end

-- init and deinit return true; nothing at all means the same.
local function fail(module, hook, answer)
  if answer ~= nil and answer ~= true then
    return hook .. " of module '" .. module.name .. "' returned " .. tostring(arguments.plain(answer)) .. ", not true"
  end
end

local function start(module)
  local why = check(module)
  if why then
    return why
  end
  sessions.ends[module.number] = module.hooks.validate_dealloc ~= nil
  local init = module.hooks.init
  return init and fail(module, "init", init(module.hooks))
end

-- `session` is the metatable of the tables that this module's hooks are called with, one per session.
function registry.add(name, hooks)
  if #modules == MAX_MODULES then
    return "msys.registerModule: a policy has at most " .. MAX_MODULES .. " modules"
  end
  local module = { name = name, hooks = hooks, session = { __index = hooks }, number = #modules + 1 }
  modules[module.number] = module
  return started and start(module) or nil
end

-- A registration for something that does not happen here.
function registry.add_other(name)
  others = others + 1
  host.warn(name .. " is not part of inbound_audit: what it registers is never called")
end

-- Runs the init of every module, and returns how much the policy has registered. A module that is registered later is started at once.
function registry.start()
  sessions.none()
  steps.refill(true)
  started = true
  for i = 1, #modules do
    local why = start(modules[i])
    if why then
      error(why, 0)
    end
  end
  return #modules + others
end

function registry.stop()
  sessions.none()
  steps.refill()
  for i = 1, #modules do
    local deinit = modules[i].hooks.deinit
    local why = deinit and fail(modules[i], "deinit", deinit(modules[i].hooks))
    if why then
      error(why, 0)
    end
  end
end

return registry
