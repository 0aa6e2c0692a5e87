-- What a policy keeps from one hook of a session to the next: its validation context, the tables that hooks are
-- called with, and the capabilities that it asked for.
--
-- Only what a hook has written is kept, so a policy that just counts at accept leaves nothing behind. It is forgotten
-- when the session ends. A listener that never reports the end can't make it grow without bound: beyond MAX_SESSIONS the
-- oldest are forgotten. How a hook ends (it returns, raises, runs out of steps or of memory) makes no difference: what was
-- written before is there afterwards.
local room, _, options = ...
local context, host = room("vctx"), room("host")
local next, setmetatable = next, setmetatable

local MAX_SESSIONS = options.max_sessions

local MAX_CAPABILITIES = 100

local kept, live = {}, 0
local order, first, last = {}, 1, 0 -- connection ids by the number under which they were kept; `first` is at most the oldest's

local NO_SESSION = {} -- while init or deinit runs no session is being validated

-- `now.state` is the session whose hook runs (or ran last): its id, accept construct, validation context, message.
-- `now.smtp`: whether that hook belongs to an SMTP command.
local now = { state = NO_SESSION, smtp = false }

-- `ends` has the numbers of the modules that have a validate_dealloc: it is owed to each session that they have seen.
local sessions = { now = now, ends = {} }

-- The state of the running question. It is still set when the next question comes if an error ended the last one.
local running

-- The state of a session that left nothing behind; it is used again, since no script ever sees it. What scripts do
-- see (accept construct, context, self) is always new: they may keep it.
local spare

function sessions.enter(id, ac)
  if running then
    sessions.leave(running)
  end
  local state = kept[id]
  if state then
    context.reset(state.vctx)
  else
    state = spare or { false, most = 0 }
    spare = nil
    state.id, state.vctx = id, context.new()
  end
  state.ac, state.message = ac, nil
  now.state, now.smtp = state, false
  running = state
  return state
end

function sessions.none()
  now.state = NO_SESSION
end

-- The table that hooks of module number `i` are called with.
function sessions.self(state, i, metatable)
  local self = state[i]
  if not self then
    self = setmetatable({}, metatable)
    state[i] = self
    if i > state.most then
      state.most = i
    end
  end
  return self
end

local function written(state)
  if state.add or state.remove or context.used(state.vctx) then
    return true
  end
  for i = 1, state.most do
    local self = state[i]
    if self and (sessions.ends[i] or next(self) ~= nil) then
      return true
    end
  end
  return false
end

local function forget(id)
  order[kept[id].number] = nil
  kept[id] = nil
  live = live - 1
end

local function forget_oldest()
  while order[first] == nil do
    first = first + 1
  end
  forget(order[first])
  host.dropped()
end

-- Where memory runs out, here too, the next question tries again: `running` is not cleared before all is done.
local function keep(id, state)
  state.number = last + 1
  order[state.number] = id
  kept[id] = state
  live = live + 1
  last = state.number
  if live > MAX_SESSIONS then
    forget_oldest()
  end
end

function sessions.leave(state)
  if kept[state.id] then
    running = nil
    return
  elseif written(state) then
    keep(state.id, state)
  else
    for i = 1, state.most do
      state[i] = false
    end
    state.most = 0
    spare = state
  end
  running = nil
end

-- The state of a session of which something is kept, or will be.
local function state_kept(id)
  if running and running.id == id and (kept[id] or written(running)) then
    return running
  end
  return kept[id]
end

-- Forgets a session, and returns its state for the hooks that run at its end; nil if nothing was kept.
function sessions.finish(id, ac)
  local state = state_kept(id)
  if kept[id] then
    forget(id)
  end
  if running and running.id == id then
    running = nil
  elseif running then
    sessions.leave(running)
  end
  if state then
    context.reset(state.vctx)
    state.ac, state.message = ac, nil
    now.state, now.smtp = state, false
  end
  return state
end

function sessions.count()
  if running and not kept[running.id] and written(running) then
    return live + 1
  end
  return live
end

local function state_of(id)
  return id == now.state.id and now.state or kept[id]
end

-- Notes an ESMTP capability; returns a reason if the session is over.
function sessions.capability(id, list, name)
  local state = state_of(id)
  if not state then
    return name .. ": the session of this accept construct is not being validated"
  end
  state[list] = state[list] or {}
  local names = state[list]
  for i = 1, #names do
    if names[i] == name then
      return
    end
  end
  if #names == MAX_CAPABILITIES then
    return name .. ": a session has at most " .. MAX_CAPABILITIES .. " capabilities of a policy"
  end
  names[#names + 1] = name
end

function sessions.capabilities(id, list)
  local state = state_kept(id)
  return state and state[list]
end

return sessions
