-- msys.expandMacro: %{i} and %{spfv1:i} are the connecting IP, %{vctx_conn:KEY} and %{vctx_mess:KEY} context values.
-- A key that is not set expands to nothing; a macro that is not known stays as it is.
local room = ...
local ac, context, sessions = room("ac"), room("vctx"), room("sessions")
local error, gsub, match, type = error, string.gsub, string.match, type
local now = sessions.now

local CONTEXTS = { vctx_conn = context.VCTX_CONN, vctx_mess = context.VCTX_MESS }

local function expand(macro)
  if macro == "i" or macro == "spfv1:i" then
    return ac.remote_ip(now.state.ac)
  end
  local kind, key = match(macro, "^([%w_]+):(.*)$")
  local ctx = CONTEXTS[kind]
  if ctx then
    return context.get(now.state.vctx, ctx, key) or ""
  end
end

return function(text)
  if type(text) ~= "string" then
    error("msys.expandMacro: the text must be a string, not a " .. type(text), 2)
  end
  if not now.state.ac then
    error("msys.expandMacro: no session is being validated", 2)
  end
  local expanded = gsub(text, "%%{([^}]*)}", expand)
  return expanded
end
