"""What people look at: one audit from outside, its pictures, limits, refusals and overrides, at a moment.

    look      a look: plain values, and its form as JSON
    feed      makes looks, and changes overrides

`watch`, `web` and `map` draw what is here. No process of the audit does anything for a look: it reads what they share.
"""

from inbound_audit.feed.feed import Feed
from inbound_audit.feed.look import OPEN, Look, Source

__all__ = ["OPEN", "Feed", "Look", "Source"]
