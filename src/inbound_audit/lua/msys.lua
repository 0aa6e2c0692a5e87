-- The `msys` table: what policies of the reference call, also without a `require`.
local room = ...
local absent, ac, context, modules, sandbox = room("absent"), room("ac"), room("vctx"), room("modules"), room("sandbox")
local arguments, sessions = room("arguments"), room("sessions")
local error, match, pairs, tostring, type = error, string.match, pairs, tostring, type
local find = room("patterns").find
local now = sessions.now

local core = {
  VCTX_CONN = context.VCTX_CONN,
  VCTX_MESS = context.VCTX_MESS,
  ECMESS_CTX_CONN = context.VCTX_CONN,
  ECMESS_CTX_MESS = context.VCTX_MESS,
  AF_INET = 2,
  AF_INET6 = 10,
}
for name, answer in pairs(context.answers) do
  core[name] = answer
end

-- A misspelt answer would be nil, and nil lets the client in.
absent.rest(core, "msys.core", function(key)
  if find(key, "^VALIDATE_") then
    error("msys.core." .. key .. ": no such answer of a hook" .. arguments.hint(key, context.answers), 3)
  end
end)

-- The family of `ac.remote_addr`: "1.2.3.4:port" is IPv4, "address.port" IPv6. nil for anything else.
function core.ec_sockaddr_family(sockaddr)
  local text = tostring(sockaddr)
  if find(text, "^%d+%.%d+%.%d+%.%d+:?%d*$") then
    return core.AF_INET
  end
  return find(text, ":", 1, true) and core.AF_INET6 or nil
end

function core.accept_construct_get_message_construct(accept)
  if not ac.is(accept) or ac.conn_id(accept) ~= now.state.id then
    error("accept_construct_get_message_construct: not the accept construct of the session being validated", 2)
  end
  return { message = now.state.message, ctx = now.state.vctx }
end

-- One thread at a time runs Lua, and a hook that an error ends must not leave a lock behind: a lock is always free.
local function always()
  return true
end
local thread = absent.rest({ MUTEX_NORMAL = 0, MUTEX_RECURSIVE = 1, MUTEX_ERRORCHECK = 2 }, "thread")
function thread.mutex()
  return { lock = always, unlock = always, trylock = always }
end

local msys = {
  core = core,
  audit = room("audit"),
  audit_series = room("series"),
  cidr = room("cidr"),
  dumper = room("dumper"),
  pbp = room("pbp"),
  pcre = room("pcre"),
  policyeditor = {},
  extended = { ac = {}, vctx = {}, message = {} },
  expandMacro = room("macro"),
}

local registered = room("registry")

msys.registerModule = arguments.raising(function(name, hooks)
  if type(name) ~= "string" or type(hooks) ~= "table" then
    return "msys.registerModule: expected a name and a table of hooks, not " .. type(name) .. " and " .. type(hooks)
  end
  return registered.add(name, hooks)
end)

-- The table under a dotted name, made where it is missing: each call of a function that it does not have is an error.
local function absent_module(path)
  return modules.table_under(path, function(so_far)
    return absent.rest({}, so_far)
  end)
end

sandbox.msys, sandbox.thread = msys, thread
modules.loaded.msys, modules.loaded.thread = msys, thread
for name, part in pairs(msys) do
  if type(part) == "table" then
    modules.loaded["msys." .. name] = part
  end
end
for name, part in pairs(msys.extended) do
  modules.loaded["msys.extended." .. name] = part
end
for _, name in absent.names("msys") do
  msys[name] = absent.method("msys." .. name)
end
-- Those of msys are there without a require, too.
for _, path in absent.names("modules") do
  modules.absent[path] = function()
    return absent_module(path)
  end
  if find(path, "^msys%.") then
    absent_module(path)
  end
end
for _, path in absent.names("registrations") do
  local parent, name = match(path, "^(.*)%.([^.]+)$")
  absent_module(parent)[name] = function()
    registered.add_other(path)
  end
end

return msys
