"""Listeners: adapters that count the connections of a server framework, one per file.

    guard       counts a connection and asks the policy; every adapter uses it. Its connections are in admission
    gate        accepts, counts and refuses without Python, before any adapter; its parts are gate_server (asyncio) and
                gate_reply (what a refused peer is sent)
    time_limit  the time of a connection of any protocol
    pending     asyncio servers: a connection until it is accepted or refused
    aio         asyncio servers
    budget      what one session may use
    smtp        aiosmtpd; its parts are smtp_session, smtp_dialogue, smtp_usage, smtp_reader, smtp_data,
                smtp_policy and proxy
    threads     socketserver
    sockets     listening sockets that count, for every server that calls their `accept`
    adapters    frameworks that need more than such a socket

Import an adapter by its own name; a program then loads only the frameworks that it uses.
"""

from inbound_audit.listeners.admission import Admission
from inbound_audit.listeners.guard import Guard
from inbound_audit.listeners.time_limit import TimeLimit
from inbound_audit.policy.base import Policy

__all__ = ["Admission", "Guard", "Policy", "TimeLimit"]
