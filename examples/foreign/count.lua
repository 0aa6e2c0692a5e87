-- How many sessions of a shared audit are open from a prefix, asked by a LuaJIT that has no Python in it.
--
--   export LUA_PATH="$(python -c 'import inbound_audit.readers as r; print(r.lua_module().parent)')/?.lua"
--   luajit count.lua mail 192.0.2.0/24 SMTP
local ia = require("inbound_audit")
local name, prefix, service = ...

if not prefix then
  io.stderr:write("usage: luajit count.lua NAME PREFIX [SERVICE]\n")
  os.exit(2)
end

local ok, why = pcall(function()
  local view = ia.open(name)
  print(view:count(prefix, service))
  view:close()
end)
if not ok then
  io.stderr:write(why, "\n")
  os.exit(1)
end
