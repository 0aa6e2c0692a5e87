-- The entry points that Python calls, one per hook. Each takes a token of the accept construct and texts, runs the hook of
-- every module until one returns VALIDATE_DONE, and returns nothing (all is well) or (accepted, code, text, tarpit, leave).
--
-- Nothing here catches an error: it ends the hook and lupa's own pcall hands it to Python. The next question finds what
-- the hook had written (room sessions). The fast path makes three small tables and no closure, and has no loop over the
-- modules, so that LuaJIT compiles it together with the script.
local room = ...
local ac, compile, context, message = room("ac"), room("compile"), room("vctx"), room("message")
local registry, sessions, steps = room("registry"), room("sessions"), room("steps")
room("sandbox")
room("msys")
local concat, error, gmatch, sub, tostring = table.concat, error, string.gmatch, string.sub, tostring

local MAX_SHOWN = 100 -- bytes of a wrong answer in its error

local answers = context.answers
local CONT, DONE, AGAIN = answers.VALIDATE_CONT, answers.VALIDATE_DONE, answers.VALIDATE_AGAIN
local VCTX_CONN = context.VCTX_CONN
local modules, now = registry.modules, sessions.now
local begin, plain, self_of, verdict = steps.begin, room("arguments").plain, sessions.self, context.verdict

local function fail(module, hook, answer)
  local name = hook .. " of module '" .. module.name .. "' returned "
  if answer == AGAIN then
    error(name .. "msys.core.VALIDATE_AGAIN, which is not part of inbound_audit: no hook is asked again", 0)
  end
  error(name .. sub(tostring(plain(answer)), 1, MAX_SHOWN) .. ", which is neither msys.core.VALIDATE_CONT nor VALIDATE_DONE", 0)
end

-- Asks module `i` and those after it. No answer at all means VALIDATE_CONT: many a script forgets its last line.
local function each(i, hook, state, a, b, c, d)
  local module = modules[i]
  if module == nil then
    return
  end
  local ask = module.hooks[hook]
  if ask ~= nil then
    begin()
    local answer = ask(self_of(state, i, module.session), a, b, c, d)
    if answer == DONE then
      return
    elseif answer ~= nil and answer ~= CONT then
      fail(module, hook, answer)
    end
  end
  return each(i + 1, hook, state, a, b, c, d)
end

local function enter(token)
  local accept = ac.open(token)
  steps.refill()
  return accept, sessions.enter(ac.conn_id(accept), accept)
end

-- The same for an SMTP command.
local function command(token)
  local accept, state = enter(token)
  now.smtp = true
  return accept, state, state.vctx
end

-- The same for one about a message.
local function about(token, size, mailfrom, rcptto)
  local accept, state, vctx = command(token)
  state.message = message(vctx, size, mailfrom, rcptto)
  return accept, state, vctx
end

local function leave(state)
  sessions.leave(state)
  return verdict(state.vctx)
end

local entry_points = {}

-- core_validate_accept, then validate_connect unless the first has already disconnected the client.
function entry_points.validate_connect(token)
  local accept, state = enter(token)
  local vctx = state.vctx
  each(1, "core_validate_accept", state, accept, vctx)
  if not vctx._disconnect then
    each(1, "validate_connect", state, accept, vctx)
  end
  return leave(state)
end

-- TLS has begun; no hook runs. `cipher` is "" where it is not known.
function entry_points.validate_tls(token, cipher)
  local _, state, vctx = command(token)
  context.set(vctx, VCTX_CONN, "tls", "true")
  context.set(vctx, VCTX_CONN, "tls_cipher", cipher)
  sessions.leave(state)
end

-- What the mail server says of the session's client; no hook runs.
function entry_points.attribute(token, name, value)
  local _, state, vctx = command(token)
  context.set(vctx, VCTX_CONN, name, value)
  sessions.leave(state)
end

function entry_points.validate_ehlo(token, text)
  local accept, state, vctx = command(token)
  context.set(vctx, VCTX_CONN, "ehlo_domain", text)
  context.set(vctx, VCTX_CONN, "ehlo_string", text)
  each(1, "validate_ehlo", state, text, accept, vctx)
  return leave(state)
end

-- A new message begins: what was set for the one before is forgotten.
function entry_points.validate_mailfrom(token, text)
  local accept, state, vctx = about(token, 0, text, "")
  context.begin_message(vctx, text)
  each(1, "validate_mailfrom", state, text, accept, vctx)
  return leave(state)
end

function entry_points.validate_rcptto(token, text, size, mailfrom)
  local accept, state, vctx = about(token, size, mailfrom, text)
  context.begin_recipient(vctx, text)
  each(1, "validate_rcptto", state, state.message, text, accept, vctx)
  return leave(state)
end

function entry_points.validate_data(token, size, mailfrom, last)
  local accept, state, vctx = about(token, size, mailfrom, last)
  each(1, "validate_data", state, state.message, accept, vctx)
  return leave(state)
end

-- validate_data_spool, then validate_data_spool_each_rcpt for each of `recipients` (one per line) while none is refused:
-- SMTP has one reply for all of them.
function entry_points.validate_data_spool(token, size, mailfrom, last, recipients)
  local accept, state, vctx = about(token, size, mailfrom, last)
  each(1, "validate_data_spool", state, state.message, accept, vctx)
  for recipient in gmatch(recipients, "[^\n]+") do
    if verdict(vctx) == false then
      break
    end
    state.message = message(vctx, size, mailfrom, recipient)
    context.set_address(vctx, "rcptto", recipient)
    each(1, "validate_data_spool_each_rcpt", state, state.message, accept, vctx)
  end
  return leave(state)
end

-- The session is over: validate_dealloc of each module that it has met. Its tables are forgotten, whatever the hooks do.
function entry_points.end_session(token)
  local accept = ac.open(token)
  steps.refill()
  local state = sessions.finish(ac.conn_id(accept), accept)
  for i = 1, state and state.most or 0 do
    local module = modules[i]
    local ask = module.hooks.validate_dealloc
    if state[i] and ask then
      begin()
      local answer = ask(state[i])
      if answer ~= nil and answer ~= CONT and answer ~= DONE then
        fail(module, "validate_dealloc", answer)
      end
    end
  end
end

-- The ESMTP capabilities that hooks of the session asked for, one per line: to be added, to be removed.
function entry_points.capabilities(token)
  steps.refill() -- whatever the hook before has used up
  local id = ac.conn_id(ac.open(token))
  return concat(sessions.capabilities(id, "add") or {}, "\n"), concat(sessions.capabilities(id, "remove") or {}, "\n")
end

-- Runs the policy's own file, then the init of its modules; returns their number.
function entry_points.load(text, name)
  sessions.none()
  steps.refill(true)
  local chunk, why = compile.chunk(text, name)
  if not chunk then
    error(why, 0)
  end
  chunk()
  return registry.start()
end

entry_points.stop = registry.stop
entry_points.suspend, entry_points.overrun = steps.suspend, steps.overrun
entry_points.sessions, entry_points.explain = sessions.count, context.explain

return entry_points
