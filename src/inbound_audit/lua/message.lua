-- The message of the running SMTP transaction, as far as it is known when a hook is asked, and its recipients.
local room = ...
local absent, ac, context, host, sessions = room("absent"), room("ac"), room("vctx"), room("host"), room("sessions")
local error, gmatch, setmetatable = error, string.gmatch, setmetatable
local now = sessions.now

local methods = {}

function methods.get_message_size(message)
  return message._size
end

function methods.mailfrom(message)
  return message._mailfrom
end

-- The recipient that validate_data_spool_each_rcpt is asked about; elsewhere the last one, "" without any.
function methods.rcptto(message)
  return message._rcptto
end

-- Context variables are those of the validation context. Each of these functions returns 1 or 0 for whether the variable
-- is set, its value, or both; an unset one is "" for context_get.
local function reader(result)
  return function(message, ctx, key)
    local why, value = context.read(message._vctx, ctx, key)
    if why then
      error(why, 2)
    end
    return result(value, value ~= nil and 1 or 0, message, ctx, key)
  end
end

methods.context_get = reader(function(value)
  return value or ""
end)
methods.context_exists = reader(function(_, is_set)
  return is_set
end)
methods.context_exists_and_get = reader(function(value, is_set)
  return is_set, value
end)
methods.context_delete = reader(function(_, is_set, message, ctx, key)
  context.set(message._vctx, ctx, key, nil)
  return is_set
end)

function methods.context_set(message, ctx, key, value)
  local why = context.set(message._vctx, ctx, key, value)
  if why then
    error(why, 2)
  end
end

-- The accepted recipients of the message, as an array. To change them is not part of inbound_audit.
function context.methods.recipient_list(vctx, addresses)
  if addresses ~= nil then
    error("vctx:recipient_list(addresses) is not part of inbound_audit: recipients can't be changed", 2)
  end
  local list = {}
  if now.state.ac and now.state.vctx == vctx then
    local why, recipients = host.recipients(ac.memory.bytes(now.state.ac))
    if why then
      error(why, 2)
    end
    for recipient in gmatch(recipients, "[^\n]+") do
      list[#list + 1] = recipient
    end
  end
  return list
end

for _, name in absent.names("vctx") do
  context.methods[name] = absent.method("vctx:" .. name)
end
for _, name in absent.names("msg") do
  methods[name] = absent.method("msg:" .. name)
end

local metatable = { __index = methods, __metatable = false }

return function(vctx, size, mailfrom, rcptto)
  return setmetatable({ _vctx = vctx, _size = size, _mailfrom = mailfrom, _rcptto = rcptto }, metatable)
end
