"""How a process of a shared audit is asked to change its own counts: one JSON object per line over a Unix socket.

protocol    the commands, their fields, and how each is handled by the audit's own methods
server      the socket of a process and the thread that handles requests
client      sends a request to one process or to several at once
"""
