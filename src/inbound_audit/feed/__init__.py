"""What people look at: one audit from outside, its pictures, limits, refusals and overrides, at a moment.

    look              a look: plain values, and its form as JSON
    feed              makes looks, and changes overrides
    rules             by what the processes decide, as they answer
    limits            how full their limits are
    what_if           whom other limits would refuse
    refusals          the latest refusals, from the decision logs that they name
    decision_lines    the lines of such a log: what is opened, and what is believed

`watch`, `web` and `map` draw what is here. No process of the audit does anything for a look, which reads what they
share; they are asked by what they decide, every ten seconds.
"""

from inbound_audit.feed.feed import Feed
from inbound_audit.feed.look import OPEN, LimitRow, Look, RefusalRow, Source
from inbound_audit.feed.what_if import WouldRefuse

__all__ = ["OPEN", "Feed", "LimitRow", "Look", "RefusalRow", "Source", "WouldRefuse"]
