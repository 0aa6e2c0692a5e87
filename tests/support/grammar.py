"""The grammar of the argument as one table: Python, LuaJIT and portable Lua are all held to it.

`populate` opens sessions; `CASES` says what a session from `PEER4` or `PEER6` on SMTP/mx must return. An answer that
is a text is an error, and the text stands in its message.
"""

from __future__ import annotations

from inbound_audit import InboundAudit, Session

PEER4, PEER6 = "192.0.2.7", "2001:db8::7"

OPEN = {
    ("SMTP", "mx"): [
        *["192.0.2.7"] * 2, "192.0.2.9", "192.0.3.1", "::ffff:192.0.2.200", "198.51.100.1", "127.0.0.1", "127.9.9.9",
        "2001:db8::7", "2001:db8::8", "2001:db8:0:1::1", "2001:db9::1", "::1",
    ],
    ("SMTP", "submission"): ["192.0.2.7", "2001:db8::7", "2001:db8::7"],
    ("Control", "default"): ["192.0.2.7", "192.0.2.8", "2001:db8::7", "10.0.0.1"],
    ("IMAP", "default"): ["192.0.2.99", "2001:db8::99"],
}  # fmt: skip

LENGTH = "beyond the address family"
NAME = "never resolved"

Answer = int | str

CASES: list[tuple[tuple[object, ...], Answer, Answer]] = [
    # arguments                              from PEER4     from PEER6
    ((),                                     2,             1),
    ((None,),                                2,             1),
    ((None, None),                           2,             1),
    ((None, "SMTP"),                         3,             3),
    ((None, "Control"),                      1,             1),
    ((None, "ECStream"),                     0,             0),
    ((None, "IMAP"),                         0,             0),
    ((None, "inbound_cidr"),                 3,             3),
    (("/0",),                                9,             7),
    (("/0", "Control"),                      3,             1),
    (("/8",),                                6,             6),
    (("/24",),                               5,             6),
    (("/24", "IMAP"),                        1,             1),
    (("/32",),                               3,             3),
    (("/24,/56",),                           5,             5),
    (("/24,/64",),                           5,             4),
    (("/0,/32",),                            9,             5),
    (("/32,/128",),                          3,             3),
    (("/23",),                               6,             6),
    (("/64",),                               LENGTH,        4),
    (("/128",),                              LENGTH,        3),
    (("/33",),                               LENGTH,        5),
    (("/129",),                              LENGTH,        LENGTH),
    (("/33,/64",),                           LENGTH,        LENGTH),
    (("/24,/129",),                          LENGTH,        LENGTH),
    (("192.0.2.7",),                         3,             3),
    (("192.0.2.77/24",),                     5,             5),
    (("192.0.2.0/24", "Control"),            2,             2),
    (("192.0.2.0/255.255.255.0",),           5,             5),
    (("192.0.2.0/255.255.254.0",),           6,             6),
    (("0.0.0.0/0",),                         9,             9),
    (("0.0.0.0/0.0.0.0",),                   9,             9),
    (("::/0",),                              7,             7),
    (("2001:db8::7",),                       3,             3),
    (("[2001:db8::7]",),                     3,             3),
    (("2001:db8::/32",),                     5,             5),
    (("[2001:db8::]/32",),                   5,             5),
    (("[2001:db8::/32]",),                   5,             5),
    (("2001:DB8:0:0::/64",),                 4,             4),
    (("2001:db8::7%eth0",),                  3,             3),
    (("2001:db8::7%eth0/64",),               4,             4),
    (("::ffff:192.0.2.7",),                  3,             3),
    (("[::ffff:c000:207]",),                 3,             3),
    (("::ffff:192.0.2.0/120",),              5,             5),
    (("::ffff:0:0/96",),                     9,             9),
    (("::ffff:0:0/95",),                     0,             0),
    (("localhost",),                         1,             1),
    (("localhost/32",),                      1,             1),
    (("localhost/8",),                       2,             2),
    (("localhost/128",),                     1,             1),
    (("localhost/33",),                      1,             1),
    (("203.0.113.1",),                       0,             0),
    # errors
    (("",),                                  "is empty",    "is empty"),
    ((" 192.0.2.7",),                        "blanks",      "blanks"),
    (("192.0.2.7 ",),                        "blanks",      "blanks"),
    (("192.0.2.7\n",),                       "blanks",      "blanks"),
    (("/24 ",),                              "blanks",      "blanks"),
    (("192.0.02.7",),                        "leading zero", "leading zero"),
    (("192.0.2",),                           "few or too many", "few or too many"),
    (("192.0.2.7.1",),                       "few or too many", "few or too many"),
    (("192.0.2.",),                          "few or too many", "few or too many"),
    (("192.0.2.256",),                       "over 255",    "over 255"),
    (("1:2:3:4:5:6:7",),                     "few or too many", "few or too many"),
    (("1:2:3:4:5:6:7:8:9",),                 "few or too many", "few or too many"),
    (("1::2::3",),                           "few or too many", "few or too many"),
    (("2001:db8::12345",),                   "four digits", "four digits"),
    (("2001:db8::g",),                       "character",   "character"),
    (("fe80::1%",),                          "zone",        "zone"),
    (("fe80::1%a%b",),                       "zone",        "zone"),
    (("fe80::1%a\0",),                       "NUL",         "NUL"),
    (("fe80::1% eth0",),                     "blanks",      "blanks"),
    (("192.0.2.0/33",),                      LENGTH,        LENGTH),
    (("2001:db8::/129",),                    LENGTH,        LENGTH),
    (("192.0.2.0/",),                        LENGTH,        LENGTH),
    (("/",),                                 LENGTH,        LENGTH),
    (("192.0.2.0/-8",),                      "sign",        "sign"),
    (("192.0.2.0/+8",),                      "sign",        "sign"),
    (("/-1",),                               "sign",        "sign"),
    (("192.0.2.0/24/8",),                    "second slash", "second slash"),
    (("[2001:db8::/32]/32",),                "second slash", "second slash"),
    (("/24/8",),                             "second slash", "second slash"),
    (("192.0.2.0/255.0.255.0",),             "ones followed by zeros", "ones followed by zeros"),
    (("192.0.2.0/0.0.0.255",),               "ones followed by zeros", "ones followed by zeros"),
    (("192.0.2.0/24\0",),                    "NUL",         "NUL"),
    (("\0",),                                "NUL",         "NUL"),
    (("192.0.2.\u0667",),                         "non-ASCII",   "non-ASCII"),
    (("/\uff12\uff14",),                              "non-ASCII",   "non-ASCII"),
    (("mail.example.org",),                  NAME,          NAME),
    (("localhosts",),                        NAME,          NAME),
    (("Localhost",),                         NAME,          NAME),
    (("[192.0.2.7]",),                       "brackets",    "brackets"),
    (("[2001:db8::7",),                      "brackets",    "brackets"),
    (("[2001:db8::7]x",),                    "brackets",    "brackets"),
    (("/24,56",),                            "character",   "character"),
    (("192.0.2.7:25",),                      "character",   "character"),
    ((24,),                                  "not a text",  "not a text"),
    ((True,),                                "not a text",  "not a text"),
    (("/24", "smtp"),                        "did you mean 'SMTP'", "did you mean 'SMTP'"),
    (("/24", "Nonesuch"),                    "known: SMTP", "known: SMTP"),
    (("/24", ""),                            "no such service type", "no such service type"),
    ((None, "SMTP\0"),                       "no such service type", "no such service type"),
    ((None, 7),                              "no such service type", "no such service type"),
]  # fmt: skip


def populate(audit: InboundAudit) -> tuple[Session, Session, list[Session]]:
    """Opens everything; answers the sessions that ask, from PEER4 and PEER6, and all of them."""
    sessions = [
        audit.listener(*where).session((remote, 40000 + i, 0, 0))
        for where, remotes in OPEN.items()
        for i, remote in enumerate(remotes)
    ]
    mine = [s for s in sessions if s.listener_name == "mx"]
    peer4 = next(s for s in mine if s.remote_ip == PEER4)
    peer6 = next(s for s in mine if s.remote_ip == PEER6)
    return peer4, peer6, sessions


def case_id(case: tuple[tuple[object, ...], Answer, Answer]) -> str:
    return ascii(case[0])
