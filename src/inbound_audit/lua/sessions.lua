-- What a policy keeps from one hook of a session to the next: its validation context, the tables that hooks are
-- called with, and the capabilities that it asked for.
--
-- Only what a hook has written is kept, so a policy that just counts at accept leaves nothing behind. It is forgotten
-- when the session ends. A listener that never says so can't make it grow without bound: beyond MOST the oldest go.
local room, _, options = ...
local context, ask = room("vctx"), room("ask")
local next, setmetatable = next, setmetatable

local MOST = options.max_sessions

local kept, live = {}, 0
local order, first, last = {}, 1, 0 -- connection ids in the order in which they were kept, with those that have ended

local NOBODY = {} -- while init or deinit runs no session is being validated

-- `now.state` is the session whose hook runs (or ran last): its id, accept construct, validation context, message.
local now = { state = NOBODY }

local sessions = { now = now }

-- The state of a session that left nothing behind; it is used again, since no script ever sees it. What scripts do
-- see (accept construct, context, self) is always new: they may keep it.
local spare

function sessions.enter(id, ac, message)
  local state = kept[id]
  if state then
    context.reset(state.vctx)
  else
    state = spare or { false, most = 0 }
    spare = nil
    state.id, state.vctx = id, context.new()
  end
  state.ac, state.message = ac, message
  now.state = state
  return state
end

function sessions.none()
  now.state = NOBODY
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
    if self and next(self) ~= nil then
      return true
    end
  end
  return false
end

-- Drops the ids of ended sessions, which pile up behind one that lives long. Costs what was added since the last time.
local function compact()
  local lasting, n = {}, 0
  for i = first, last do
    if kept[order[i]] then
      n = n + 1
      lasting[n] = order[i]
    end
  end
  order, first, last = lasting, 1, n
end

local function forget_oldest()
  local id
  repeat
    id = order[first]
    order[first] = nil
    first = first + 1
  until kept[id]
  kept[id] = nil
  live = live - 1
  ask.dropped()
end

local function keep(id, state)
  kept[id] = state
  live = live + 1
  last = last + 1
  order[last] = id
  if live > MOST then
    forget_oldest()
  end
  if last - first > 2 * live + 100 then
    compact()
  end
end

function sessions.leave(state)
  if kept[state.id] then
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
end

function sessions.forget(id)
  if kept[id] then
    kept[id] = nil
    live = live - 1
  end
end

function sessions.count()
  return live
end

local function state_of(id)
  return id == now.state.id and now.state or kept[id]
end

-- Notes an ESMTP capability; answers a reason when the session is over.
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
  names[#names + 1] = name
end

function sessions.capabilities(id, list)
  local state = kept[id]
  return state and state[list]
end

return sessions
