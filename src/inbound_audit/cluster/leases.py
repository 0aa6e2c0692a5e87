"""How often a node says that it is there, and for how long it is counted without a word.

Each node has to take the heartbeats of all others. So beyond MANY_NODES they come less often, and a lease is longer:
four heartbeats, as with few nodes.
"""

from __future__ import annotations

HEARTBEAT_S, LONG_HEARTBEAT_S = 0.25, 0.6
"""Seconds from one heartbeat to the next."""

LEASE_S, LONG_LEASE_S = 1.35, 2.5
"""A node that restarts within a second is not dropped, with a heartbeat and the way of a frame added."""

SILENCE_S, LONG_SILENCE_S = 3 * HEARTBEAT_S, 3 * LONG_HEARTBEAT_S
"""A node that has a link over Zenoh and was not heard for so long gets new links."""

MANY_NODES = 100


def heartbeat_s(nodes: int) -> float:
    """`nodes`: how many this node knows, itself among them."""
    return LONG_HEARTBEAT_S if nodes > MANY_NODES else HEARTBEAT_S


def lease_s(nodes: int) -> float:
    return LONG_LEASE_S if nodes > MANY_NODES else LEASE_S


def silence_s(nodes: int) -> float:
    """The longer one from half as many nodes on: others may know twice as many as this node, which has just begun."""
    return LONG_SILENCE_S if 2 * nodes > MANY_NODES else SILENCE_S
