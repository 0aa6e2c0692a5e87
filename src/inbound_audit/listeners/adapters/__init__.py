"""Adapters of frameworks that need more than `listeners.sockets.counted_socket`; each imports its framework.

twisted     a wrapping factory
uvloop      an event loop that takes counted sockets, under any server that runs in one
"""
