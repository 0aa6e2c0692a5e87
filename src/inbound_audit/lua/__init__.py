"""Policies written in Lua. `policy` is the entry point; lupa is imported only when it is used.

policy     LuaPolicy: hooks in, verdicts out
world      one Lua state: which Lua, how much memory, the Python functions that Lua may call
sources    where scripts lie, and what `require` finds
dialect    the reference's Lua as Lua 5.1
operators  the extent of each bit operator's operands
counting   the core's C functions, called from Python for a Lua without FFI
networks   the address lists of msys.cidr
rbldnsd    the file format of those lists
*.lua      what runs inside; boot.lua names the rooms
"""
