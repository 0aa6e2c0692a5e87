-- Names of the reference that inbound_audit does not have: what is sent, stored or asked of other services. A module of
-- them may be required; a call is an error that names it.
local _, _, options = ...
local error, find, gmatch, setmetatable, type = error, string.find, string.gmatch, setmetatable, type

local absent = {}

-- Iterates over the absent names of a kind, which Python lists (reference.py): msg, vctx, modules.
function absent.names(kind)
  local next_name = gmatch(options["absent_" .. kind], "%S+")
  return function()
    local name = next_name()
    return name, name
  end
end

function absent.method(name)
  return function()
    error(name .. " is not part of inbound_audit", 2)
  end
end

-- Makes calls of all functions that a table of the reference has and ours lacks such an error. Its constants stay nil,
-- unless `constant` raises an error for one.
function absent.rest(t, name, constant)
  return setmetatable(t, {
    __index = function(_, key)
      if type(key) == "string" and find(key, "^%l") then
        return absent.method(name .. "." .. key)
      elseif constant and type(key) == "string" then
        constant(key)
      end
    end,
    __metatable = false,
  })
end

return absent
