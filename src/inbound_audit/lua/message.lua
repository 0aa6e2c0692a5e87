-- The message of the running SMTP transaction, as far as it is known when a hook is asked.
local setmetatable = setmetatable

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

local metatable = { __index = methods, __metatable = false }

return function(size, mailfrom, rcptto)
  return setmetatable({ _size = size, _mailfrom = mailfrom, _rcptto = rcptto }, metatable)
end
