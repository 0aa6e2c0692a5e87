-- The doors that Python calls, one a hook. Each takes a token of the accept construct and texts, runs the hook of every
-- module until one answers VALIDATE_DONE, and answers nothing (all is well) or (accepted, code, text, tarpit, leave).
--
-- Nothing here catches an error: it ends the hook and lupa's own pcall hands it to Python. The fast path makes three
-- small tables and no closure, and has no loop over the modules, so that LuaJIT compiles it together with the script.
local room = ...
local ac, compile, context, message = room("ac"), room("compile"), room("vctx"), room("message")
local registry, sessions, steps = room("registry"), room("sessions"), room("steps")
room("sandbox")
room("msys")
local concat, error, gmatch, tostring = table.concat, error, string.gmatch, tostring

local CONT, DONE, VCTX_CONN = context.VALIDATE_CONT, context.VALIDATE_DONE, context.VCTX_CONN
local modules, now = registry.modules, sessions.now
local self_of, verdict = sessions.self, context.verdict

local function nonsense(module, hook, answer)
  error(hook .. " of module '" .. module.name .. "' answered " .. tostring(answer)
    .. ", which is neither msys.core.VALIDATE_CONT nor VALIDATE_DONE", 0)
end

-- Asks module `i` and those after it. No answer at all means VALIDATE_CONT: many a script forgets its last line.
local function each(i, hook, state, a, b, c, d)
  local module = modules[i]
  if module == nil then
    return
  end
  local ask = module.hooks[hook]
  if ask ~= nil then
    local answer = ask(self_of(state, i, module.session), a, b, c, d)
    if answer == DONE then
      return
    elseif answer ~= nil and answer ~= CONT then
      nonsense(module, hook, answer)
    end
  end
  return each(i + 1, hook, state, a, b, c, d)
end

local function enter(token, about)
  local accept = ac.open(token)
  steps.refill()
  return accept, sessions.enter(ac.conn_id(accept), accept, about)
end

local doors = {}

-- core_validate_accept, then validate_connect unless the first has already said that the client shall go.
function doors.validate_connect(token)
  local accept, state = enter(token, nil)
  local vctx = state.vctx
  each(1, "core_validate_accept", state, accept, vctx)
  if not vctx._disconnect then
    each(1, "validate_connect", state, accept, vctx)
  end
  sessions.leave(state)
  return verdict(vctx)
end

function doors.validate_ehlo(token, text)
  local accept, state = enter(token, nil)
  context.set(state.vctx, VCTX_CONN, "ehlo_domain", text)
  context.set(state.vctx, VCTX_CONN, "ehlo_string", text)
  each(1, "validate_ehlo", state, text, accept, state.vctx)
  sessions.leave(state)
  return verdict(state.vctx)
end

-- A new message begins: what was set for the one before is forgotten.
function doors.validate_mailfrom(token, text)
  local accept, state = enter(token, message(0, text, ""))
  state.vctx._mess = nil
  each(1, "validate_mailfrom", state, text, accept, state.vctx)
  sessions.leave(state)
  return verdict(state.vctx)
end

function doors.validate_rcptto(token, text, size, mailfrom)
  local about = message(size, mailfrom, text)
  local accept, state = enter(token, about)
  each(1, "validate_rcptto", state, about, text, accept, state.vctx)
  sessions.leave(state)
  return verdict(state.vctx)
end

function doors.validate_data(token, size, mailfrom, last)
  local about = message(size, mailfrom, last)
  local accept, state = enter(token, about)
  each(1, "validate_data", state, about, accept, state.vctx)
  sessions.leave(state)
  return verdict(state.vctx)
end

-- validate_data_spool, then validate_data_spool_each_rcpt for each of `recipients` (one a line) while none is refused:
-- SMTP has one reply for all of them.
function doors.validate_data_spool(token, size, mailfrom, last, recipients)
  local about = message(size, mailfrom, last)
  local accept, state = enter(token, about)
  local vctx = state.vctx
  each(1, "validate_data_spool", state, about, accept, vctx)
  for recipient in gmatch(recipients, "[^\n]+") do
    if verdict(vctx) == false then
      break
    end
    about = message(size, mailfrom, recipient)
    now.state.message = about
    each(1, "validate_data_spool_each_rcpt", state, about, accept, vctx)
  end
  sessions.leave(state)
  return verdict(vctx)
end

-- The session is over: validate_dealloc of every module, then its tables are forgotten, whatever the hooks do.
function doors.end_session(token)
  local _, state = enter(token, nil)
  sessions.forget(state.id)
  each(1, "validate_dealloc", state)
end

-- The ESMTP capabilities that hooks of the session asked for, one a line: to be added, to be removed.
function doors.capabilities(token)
  local id = ac.conn_id(ac.open(token))
  return concat(sessions.capabilities(id, "add") or {}, "\n"), concat(sessions.capabilities(id, "remove") or {}, "\n")
end

-- Runs the policy's own file, then the init of its modules; answers their number.
function doors.load(text, name)
  sessions.none()
  steps.refill()
  local chunk, why = compile.chunk(text, name)
  if not chunk then
    error(why, 0)
  end
  chunk()
  return registry.start()
end

doors.stop = registry.stop
doors.sessions = sessions.count

return doors
