"""How a process of a shared audit is asked to change its own counts: one JSON object per line over a Unix socket.

protocol    what both sides know: the largest request, and where a socket is
server      the socket of a process and the thread that handles requests
client      sends a request to one process or to several at once
"""
