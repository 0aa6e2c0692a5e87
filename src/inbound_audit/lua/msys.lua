-- The `msys` table: what policies of the reference call, also without a `require`.
local room = ...
local ac, context, modules, sandbox, sessions = room("ac"), room("vctx"), room("modules"), room("sandbox"), room("sessions")
local error, find, pairs, tostring, type = error, string.find, pairs, tostring, type
local now = sessions.now

local core = {
  VALIDATE_CONT = context.VALIDATE_CONT,
  VALIDATE_DONE = context.VALIDATE_DONE,
  VCTX_CONN = context.VCTX_CONN,
  VCTX_MESS = context.VCTX_MESS,
  ECMESS_CTX_CONN = context.VCTX_CONN,
  ECMESS_CTX_MESS = context.VCTX_MESS,
  AF_INET = 2,
  AF_INET6 = 10,
}

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

local msys = {
  core = core,
  audit = room("audit"),
  audit_series = room("series"),
  cidr = room("cidr"),
  pbp = room("pbp"),
  policyeditor = {},
  extended = { ac = {}, vctx = {}, message = {} },
  expandMacro = room("macro"),
}

local registered = room("registry")

function msys.registerModule(name, hooks)
  if type(name) ~= "string" or type(hooks) ~= "table" then
    error("msys.registerModule: wants a name and a table of hooks, not " .. type(name) .. " and " .. type(hooks), 2)
  end
  local why = registered.add(name, hooks)
  if why then
    error(why, 2)
  end
end

sandbox.msys = msys
modules.loaded.msys = msys
for _, name in pairs({ "core", "audit", "audit_series", "cidr", "pbp", "policyeditor", "extended" }) do
  modules.loaded["msys." .. name] = msys[name]
end
for name, part in pairs(msys.extended) do
  modules.loaded["msys.extended." .. name] = part
end

return msys
