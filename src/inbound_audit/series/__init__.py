"""Named series and monitors. The core records and counts; here a series is defined, kept and removed.

    definition   what a series and a monitor are, and what is wrong with one
    table        `audit.series`: the series of an audit

A series is a ring of windows (docs/windows.md). A monitor is three series that record the sessions of an audit.
"""

from inbound_audit.series.definition import Definition
from inbound_audit.series.table import Folded, SeriesSet

__all__ = ["Definition", "Folded", "SeriesSet"]
