"""Overrides: prefixes that an administrator, or a limit, lets in or refuses until some time, whatever the limits say.

    entry    one override, and how it is written as a line
    table    the overrides of an audit: of two changes of one prefix the later one counts
    files    the files of a shared audit, and their copy in a state directory
    audit    what `InboundAudit` asks: changes, and what is published to the native map

The native part (`_core/overrides.pxd`) decides; this room knows why, and who said so.
"""

from inbound_audit.overrides.entry import Decision as Decision
