-- The message of the running SMTP transaction, as far as it is known when a hook is asked, and its recipients.
local room = ...
local absent, ac, context, host, sessions = room("absent"), room("ac"), room("vctx"), room("host"), room("sessions")
local error, gmatch, setmetatable = error, string.gmatch, setmetatable
local now, raising = sessions.now, room("arguments").raising

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

-- Context variables are those of the validation context; an unset one is "" here.
methods.context_get = raising(function(message, ctx, key)
  local why, value = context.read(message._vctx, ctx, key)
  return why, value or ""
end)

-- 1 and the value if the variable is set, otherwise 0.
function methods.context_exists_and_get(message, ctx, key)
  local why, value = context.read(message._vctx, ctx, key)
  if why then
    error(why, 2)
  end
  return value ~= nil and 1 or 0, value
end

methods.context_exists = raising(function(message, ctx, key)
  return context.exists(message._vctx, ctx, key)
end)

-- Returns whether it was set, as 1 or 0.
methods.context_delete = raising(function(message, ctx, key)
  local why, is_set = context.exists(message._vctx, ctx, key)
  return why or context.set(message._vctx, ctx, key, nil), is_set
end)

methods.context_set = raising(function(message, ctx, key, value)
  return context.set(message._vctx, ctx, key, value)
end)

-- The accepted recipients of the message, as an array. To change them is not part of inbound_audit.
context.methods.recipient_list = raising(function(vctx, addresses)
  if addresses ~= nil then
    return "vctx:recipient_list(addresses) is not part of inbound_audit: recipients can't be changed"
  end
  local list = {}
  if now.state.ac and now.state.vctx == vctx then
    local why, recipients = host.recipients(ac.bytes(now.state.ac))
    if why then
      return why
    end
    for recipient in gmatch(recipients, "[^\n]+") do
      list[#list + 1] = recipient
    end
  end
  return nil, list
end)

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
