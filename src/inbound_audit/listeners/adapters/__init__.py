"""Adapters of frameworks that need more than `listeners.sockets.counted_socket`; each imports its framework.

gunicorn    a hook of its configuration file, for sync, threaded and ASGI workers
hypercorn   a configuration whose sockets count
twisted     a wrapping factory
uvloop      an event loop that takes counted sockets, under any server that runs in one
"""
