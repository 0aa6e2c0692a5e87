-- msys.audit_series: the names exist, so that a script loads; counting series is of a later version.
local error = error

local series = {}
for _, name in ipairs({ "define", "add", "count", "remove_item" }) do
  series[name] = function()
    error("msys.audit_series." .. name .. " is not available: windows and series are not counted by this version", 2)
  end
end
return series
