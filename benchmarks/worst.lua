-- The worst policy that is known: each hook does for ever what takes long, another thing each time, and catches every error
-- that can be caught. worst.txt beside it is a long address list.
local A, BIG = ("a"):rep(2 ^ 17), {}
for i = 1, 1e5 do
  BIG[i] = i % 7
end
local DOTS = ("."):rep(500) .. "y"

local worst = {
  function() while true do end end,
  function() DOTS:match("^(.-)%.(.-)%.(.-)%.(.-)%.x$") end,
  function() local t = {} while true do t[#t + 1] = A .. #t end end,
  function() local t = {} while true do t = { t, t, t, t } end end,
  function() while true do msys.cidr.reload("list") end end,
  function() local function f() pcall(f) pcall(f) pcall(f) end f() end,
  function() local function f() coroutine.resume(coroutine.create(f)) coroutine.resume(coroutine.create(f)) end f() end,
  function() table.sort(BIG, function(a, b) return a > b end) end,
  function() for i = 1, 1e9 do msys.audit_series.add("series", { key = "k" .. i }) end end,
  function() loadstring("return 1" .. (" + 1"):rep(2000)) end,
  function() (("a"):rep(8000)):gsub("(a*)*b", A) end,
  function() msys.pcre.match(A:sub(1, 7000), "((x{1,100}){1,10})*y") end,
  function() for _ = 1, 100 do table.concat(BIG, A, 1, 1e5) end end,
}

local turn = 0
local function hook()
  turn = turn % #worst + 1
  while true do
    pcall(worst[turn])
  end
end

msys.audit_series.define("series", "string", 60, 6)
msys.cidr.define("list", { type = "rbldnsd", source = "worst.txt" })
msys.registerModule("worst", {
  deinit = hook, core_validate_accept = hook, validate_connect = hook, validate_ehlo = hook, validate_mailfrom = hook,
  validate_rcptto = hook, validate_data = hook, validate_data_spool = hook, validate_data_spool_each_rcpt = hook,
  validate_dealloc = hook,
})
