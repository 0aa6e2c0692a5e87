"""The formats of logs, each one regular expression that matches every line of such a log, one match a line.

A line is a connect (`address` and `key`), a disconnect (`closed`), a message that came in a session (`received`) or a
refusal in one (`rejected`), a whole session (`address` and, if the line has it, `duration`), or something else that the
program or another one has logged: then there is the time stamp alone. Groups:

    stamp, fraction, zone   the time
    key                     what the connect and the disconnect of one session have in common
    id                      a better one, where the line has it
    address                 the client
    closed                  a disconnect; what it matched is the key if there is no `key`
    duration                in `unit` seconds
    received, rejected      of the session that `id` or `key` names
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import methodcaller
from typing import Protocol

GROUPS = ("stamp", "fraction", "zone", "key", "id", "address", "closed", "duration", "received", "rejected")

Text = bytes | None
Fields = tuple[Text, Text, Text, Text, Text, Text, Text, Text, Text, Text]
"""By `GROUPS`."""

# RFC 3164, RFC 3339, and the RFC 5424 header with which some forwarders begin.
_SYSLOG = (
    rb"(?:<\d{1,3}>(?:1 )?)?"
    rb"(?P<stamp>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)"
    rb"(?:[.,](?P<fraction>\d{1,9}))?(?P<zone>Z| ?[+-]\d\d:?\d\d)? "
)
_CLOCK = rb"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d"
_ADDRESS = rb"(?P<address>[^\]\s,]{1,80})"


class LineFormat(Protocol):
    """What reads the lines of a log: a `Format`, or the columns of a file (room `columns`)."""

    @property
    def name(self) -> str: ...
    @property
    def paired(self) -> bool: ...
    @property
    def one_at_a_time(self) -> bool: ...
    @property
    def starts(self) -> bool: ...
    @property
    def tells_messages(self) -> bool:
        """Whether lines may be receptions or rejections."""

    @property
    def unit(self) -> float: ...
    def fields(self, block: bytes) -> Iterator[Fields]:
        """One for each line of the block that is a line of this format."""

    def fits(self, line: bytes) -> bool:
        """Whether `fields` has it."""


@dataclass(frozen=True)
class Format:
    """One row of the table.

    `paired`: a session's connect and disconnect are two lines. `one_at_a_time`: a key has one session, so that a second
    connect ends the first. `starts`: the time stamp is the session's beginning, not its end.
    """

    name: str
    text: bytes
    paired: bool = False
    one_at_a_time: bool = False
    starts: bool = False
    unit: float = 1.0

    @cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        return re.compile(rb"^" + self.text + rb"[^\n]*(?P<nothing>(?!))?", re.MULTILINE)

    @property
    def tells_messages(self) -> bool:
        return "rejected" in self._pattern.groupindex

    def fields(self, block: bytes) -> Iterator[Fields]:
        groups = self._pattern.groupindex
        take = methodcaller("group", *(groups.get(name, groups["nothing"]) for name in GROUPS))
        return map(take, self._pattern.finditer(block))

    def fits(self, line: bytes) -> bool:
        return self._pattern.match(line) is not None


FORMATS: Sequence[Format] = (
    # https://www.postfix.org/DEBUG_README.html; a process of smtpd serves one client at a time. It names the client
    # of a message when that gets its queue file; no later line has both. Refusals are its own, or a milter's.
    Format(
        "postfix",
        _SYSLOG + rb"(?:(?P<key>\S+ [^\s\[]*/smtpd(?:\[\d+\]:| \d+ \S+ \S+)) "
        rb"(?:(?P<closed>dis)?connect from [^\[\n]*\[" + _ADDRESS + rb"\]"
        rb"|[0-9A-Za-z]{1,40}: (?:(?P<received>client=)|(?P<rejected>(?:milter-|proxy-)?reject: ))))?",
        paired=True,
        one_at_a_time=True,
    ),
    # https://www.exim.org/exim-html-current/doc/html/spec_html/ch-log_files.html: log_selector = +smtp_connection, and
    # +incoming_port or +connection_id, which tell sessions of one client apart. A connect has the count of connections.
    # "<=" is a message that has arrived; the ACLs log what they have rejected.
    Format(
        "exim",
        _SYSLOG + rb"(?:(?:\S+ \S+: )?(?:\S+ \S+ )?(?:\[\d+\] )?"
        rb"(?:SMTP (?:(?:command|data) timeout (?:\(message abandoned\) )?on (?:TLS )?)?connection from "
        rb"|\S{1,40} (?P<received><=) [^\n]{0,400}? H="
        rb"|(?:\S{1,40} )?H=(?=[^\n]{0,800}? (?P<rejected>rejected) ))"
        rb"(?:[^\s\[(]\S* )?(?:\([^)\n]*\) )?(?P<key>\[" + _ADDRESS + rb"\](?::\d+)?)"
        rb"(?:[^\n]*? Ci=(?P<id>\S+))?(?:[^\n]*\(TCP/IP connection count|(?P<closed>)))?",
        paired=True,
    ),
    # https://doc.dovecot.org/2.3/admin_manual/logging/: a login, its end by the id of the session, and a client
    # that has not logged in within so many seconds.
    Format(
        "dovecot",
        _SYSLOG + rb"(?:(?:\S+ dovecot(?:\[\d+\])?: )?"
        rb"(?:(?:imap|pop3|managesieve|submission)-login: (?:Info: )?"
        rb"(?:Login: |[^\n]{0,200}? (?:in|waited) (?P<duration>\d+) secs)[^\n]*? rip="
        + _ADDRESS
        + rb"(?:[^\n]*? session=<(?P<key>[^>\n]+)>)?"
        rb"|(?:imap|pop3|managesieve|submission)\([^)\n]*\)<\d+><(?P<closed>[^>\n]+)>: (?:Info: )?"
        rb"(?:Disconnected|Logged out|Connection closed)))?",
        paired=True,
    ),
    # https://nginx.org/en/docs/http/ngx_http_log_module.html and .../stream/ngx_stream_log_module.html: "combined",
    # with $request_time or $session_time at the end of the line if it is there. Apache's combined format is the same.
    Format(
        "nginx",
        _ADDRESS + rb" [^\[\n]*\[(?P<stamp>" + _CLOCK + rb") (?P<zone>[+-]\d{4})\]"
        rb"(?:[^\n]*[ =\"](?P<duration>\d+\.\d{3})\"?$)?",
    ),
    # https://docs.haproxy.org/3.0/configuration.html#8.2: option tcplog and option httplog. The time in brackets is
    # when the connection was accepted; the last of the timers is how long it took.
    Format(
        "haproxy",
        rb"(?:(?:(?:<\d{1,3}>)?[A-Z\d][^\n]{0,100}?haproxy[^\s\[]{0,50}\[\d+\]: )?"
        + _ADDRESS
        + rb":\d{1,5} \[(?P<stamp>"
        + _CLOCK
        + rb")\.(?P<fraction>\d{3})\](?: \S+ \S+ (?:-?\d+/)+\+?(?P<duration>-?\d+) )?"
        rb"|(?:<\d{1,3}>)?[A-Z\d][^\n]{0,100}?haproxy[^\s\[]{0,50}\[\d+\]: )",
        starts=True,
        unit=0.001,
    ),
    # The same program without these options.
    Format("haproxy-connect", _SYSLOG + rb"(?:\S+ haproxy\[\d+\]: Connect from " + _ADDRESS + rb":\d{1,5} to )?"),
)
