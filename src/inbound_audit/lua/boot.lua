-- Builds the Lua world of one policy out of the rooms beside this file, then empties the globals under it.
--
--     host       the Python functions that Lua may call, guarded
--     arguments  what a script hands over, and the errors about it
--     absent     names of the reference that are not available
--     ac         the accept construct; its memory is in ac_ffi or ac_portable
--     vctx       the validation context and the reply that a hook sets
--     message    the message of the running transaction
--     bits       the bit operators of the dialect
--     steps      the bounds on what one hook may do
--     matcher    patterns, matched in steps that are counted
--     patterns   string.find, match, gmatch and gsub in bounded time
--     compile    from text to function: dialect, steps, environment
--     guards     library functions that could bring the process down or hold it up
--     sandbox    the globals that a script sees
--     modules    `require` and `module`
--     msys       the names that policies use, in audit, series, cidr, dumper, pbp, pcre and macro
--     registry   the modules that the policy has registered
--     windows    what monitors and named series have in common
--     sessions   what the hooks keep from one command of a session to the next
--     hooks      the entry points that Python calls
--
-- A room is one chunk that gets (room, functions, settings) and returns what it makes; it names the rooms that it uses,
-- once and at its start. It also takes every global that it needs into a local: after the boot no global is left.
local source, functions, settings = ...
local assert, loadstring, next, rawset = assert, loadstring, next, rawset

local rooms = {}

local function room(name)
  local made = rooms[name]
  if made == nil then
    made = assert(loadstring(source(name), "=inbound_audit/lua/" .. name .. ".lua"))(room, functions, settings)
    rooms[name] = made
  end
  return made
end

local entry_points = room("hooks")

local function empty(t)
  for key in next, t do
    rawset(t, key, nil)
  end
end

-- A script has an environment of its own and no way to this one; what is reachable from here could leave the sandbox.
local globals = _G
empty(package.loaded)
empty(package.preload)
empty(globals)
-- lupa looks for debug.traceback in this table before each call and outside of any pcall: no allocation, no metatable.
globals.debug = false

return entry_points
