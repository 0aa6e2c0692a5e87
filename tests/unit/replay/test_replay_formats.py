"""The table of formats, with lines as each program's documentation describes them."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_audit.replay.formats import FORMATS, GROUPS
from inbound_audit.replay.reading import RECEPTION, REJECTION, Event, LogReader, form_of, tells_ends
from inbound_audit.replay.stamps import StampReader

UTC = timezone.utc
NAMED = {form.name: form for form in FORMATS}


def at(hour: int, minute: int, second: float = 0, day: int = 6, month: int = 2, year: int = 2026) -> float:
    return datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp() + second


def events(name: str, *lines: str, duration: float = 5.0) -> list[tuple[object, ...]]:
    """Time, key, address and end of each connect and disconnect; every line must be one of the format."""
    found = all_of(name, *lines, duration=duration)
    assert not {event[4] for event in found} & {RECEPTION, REJECTION}
    return [event[:4] for event in found]


def all_of(name: str, *lines: str, duration: float = 5.0) -> list[Event]:
    reader = LogReader("log", NAMED[name], StampReader(at(0, 0, day=28, month=11), None, UTC), duration)
    found = list(reader.events(["\n".join(lines).encode()]))
    assert (reader.bad, reader.lines) == (0, len(lines))
    return found


PID = b"mx1 postfix/smtpd[123]:"
# https://www.postfix.org/DEBUG_README.html and .../postconf.5.html#smtpd_client_port_logging
POSTFIX = [
    ("Feb  6 12:14:14 mx1 postfix/smtpd[123]: connect from unknown[192.0.2.7]", (PID, "192.0.2.7")),
    ("Feb  6 12:14:14 mx1 postfix/smtpd[123]: connect from a.example[192.0.2.7]:40436", (PID, "192.0.2.7")),
    ("Feb  6 12:14:14 mx1 postfix/smtpd[123]: disconnect from a.example[192.0.2.7] ehlo=1 commands=2", (PID, None)),
    ("2026-02-06T12:14:14+00:00 mx1 postfix/smtpd[123]: connect from a.example[2001:db8::7]", (PID, "2001:db8::7")),
    ("2026-02-06T13:14:14+0100 mx1 postfix/smtpd[123]: connect from a.example[::ffff:192.0.2.7]",
     (PID, "::ffff:192.0.2.7")),
    ("Feb  6 12:14:14 mx1 postfix/submission/smtpd[9]: connect from a.example[192.0.2.7]",
     (b"mx1 postfix/submission/smtpd[9]:", "192.0.2.7")),
    ("Feb  6 12:14:14 mx1 postfix-in/smtpd[9]: connect from a.example[192.0.2.7]",
     (b"mx1 postfix-in/smtpd[9]:", "192.0.2.7")),
    ("<22>1 2026-02-06T12:14:14Z mx1 postfix/smtpd 9 - - connect from a.example[192.0.2.7]",
     (b"mx1 postfix/smtpd 9 - -", "192.0.2.7")),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), POSTFIX)
def test_postfix(line, expected):
    assert events("postfix", line) == [(at(12, 14, 14), *expected, None)]


# https://www.postfix.org/SMTPD_ACCESS_README.html, .../RESTRICTION_CLASS_README.html, .../MILTER_README.html,
# .../SMTPD_PROXY_README.html and .../SASL_README.html
POSTFIX_MAIL = [
    ("4F1A2: client=a.example[192.0.2.7]", RECEPTION),
    ("4JyVvW1Y2bz5bR: client=unknown[2001:db8::7], sasl_method=PLAIN, sasl_username=u", RECEPTION),
    ("NOQUEUE: reject: RCPT from a.example[192.0.2.7]: 554 5.7.1 <b@example.org>: Relay access denied; "
     "from=<a@example.net> to=<b@example.org> proto=ESMTP helo=<a.example>", REJECTION),
    ("NOQUEUE: reject: CONNECT from unknown[192.0.2.7]: 421 4.7.0 unknown[192.0.2.7]: Error: too many connections",
     REJECTION),
    ("4F1A2: reject: RCPT from a.example[192.0.2.7]: 450 4.2.0 <b@example.org>: Recipient address rejected: Greylisted",
     REJECTION),
    ("NOQUEUE: milter-reject: EHLO from a.example[192.0.2.7]: 550 5.7.1 Command rejected; proto=SMTP", REJECTION),
    ("NOQUEUE: proxy-reject: END-OF-MESSAGE: 550 5.7.1 no; from=<a@example.net> to=<b@example.org>", REJECTION),
]  # fmt: skip


@pytest.mark.parametrize(("text", "what"), POSTFIX_MAIL)
def test_what_postfix_received_and_rejected(text, what):
    for head, key in (
        ("Feb  6 12:14:14 mx1 postfix/smtpd[123]:", PID),
        ("2026-02-06T12:14:14.000000+00:00 mx1 postfix/submission/smtpd[9]:", b"mx1 postfix/submission/smtpd[9]:"),
    ):
        assert all_of("postfix", f"{head} {text}") == [(at(12, 14, 14), key, None, None, what)]


@pytest.mark.parametrize(
    "line",
    [
        "Feb  6 12:14:14 mx1 postfix/smtpd[123]: NOQUEUE: reject_warning: RCPT from a.example[192.0.2.7]: 554 5.7.1 no",
        "Feb  6 12:14:14 mx1 postfix/smtpd[123]: warning: hostname a.example does not resolve to address 192.0.2.7",
        "Feb  6 12:14:14 mx1 postfix/smtpd[123]: NOQUEUE: filter: RCPT from a.example[192.0.2.7]: action x client=y",
        "Feb  6 12:14:14 mx1 postfix/cleanup[124]: 4F1A2: reject: header Subject: x from a.example[192.0.2.7]; 5.7.1",
        "Feb  6 12:14:14 mx1 postfix/postscreen[5]: NOQUEUE: reject: RCPT from [192.0.2.7]:40436: 550 5.7.1 blocked",
        "Feb  6 12:14:14 mx1 postfix/smtp[8]: 4F1A2: to=<b@example.org>, relay=x[192.0.2.9]:25, dsn=2.0.0, status=sent",
        "Feb  6 12:14:14 mx1 postfix/qmgr[6]: 4F1A2: from=<a@example.net>, size=4688, nrcpt=1 (queue active)",
        "Feb  6 12:14:14 mx1 postfix/cleanup[124]: 4F1A2: message-id=<connect from x[192.0.2.7]>",
        "Feb  6 12:14:14 mx1 postfix/smtpd[123]: lost connection after RCPT from a.example[192.0.2.7]",
        "Feb  6 12:14:14 mx1 postfix/anvil[5]: statistics: max connection count 3 for (smtp:192.0.2.7)",
        "Feb  6 12:14:14 mx1 postfix/postscreen[5]: CONNECT from [192.0.2.7]:40436 to [192.0.2.1]:25",
        "Feb  6 12:14:14 mx1 kernel: connect from unknown[192.0.2.7]",
    ],
)
def test_what_else_postfix_and_others_log(line):
    assert events("postfix", line) == []


# https://www.exim.org/exim-html-current/doc/html/spec_html/ch-log_files.html (smtp_connection, incoming_port, pid)
KEY = b"[192.0.2.7]:40436"
EXIM = [
    ("2026-02-06 12:14:14 SMTP connection from [192.0.2.7]:40436 (TCP/IP connection count = 16)", (KEY, "192.0.2.7")),
    ("2026-02-06 12:14:14 SMTP connection from a.example [192.0.2.7]:40436 closed by QUIT", (KEY, None)),
    ("2026-02-06 12:14:14 SMTP connection from a.example (helo) [192.0.2.7]:40436 lost D=3s", (KEY, None)),
    ("2026-02-06 12:14:14 SMTP connection from ([10.0.0.1]) [192.0.2.7]:40436 lost", (KEY, None)),
    ("2026-02-06 12:14:14 SMTP command timeout on connection from a.example [192.0.2.7]:40436 D=5m", (KEY, None)),
    ("2026-02-06 13:14:14 +0100 [77] SMTP connection from [192.0.2.7] I=[192.0.2.1]:25 (TCP/IP connection count = 1)",
     (b"[192.0.2.7]", "192.0.2.7")),
    ("2026-02-06 12:14:14 SMTP connection from [2001:db8::7]:9 Ci=Ab1 I=[::1]:25 (TCP/IP connection count = 1)",
     (b"Ab1", "2001:db8::7")),
    ("Feb  6 12:14:14 mx1 exim[5]: 2026-02-06 12:14:14 SMTP connection from [192.0.2.7]:40436 "
     "(TCP/IP connection count = 1)", (KEY, "192.0.2.7")),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), EXIM)
def test_exim(line, expected):
    assert events("exim", line) == [(at(12, 14, 14), *expected, None)]


# The same chapter, sections 3 to 5, and .../ch-access_control_lists.html
EXIM_MAIL = [
    ("1kAbCd-000000-XX <= a@example.org H=a.example [192.0.2.7]:40436 P=esmtp S=4688", RECEPTION),
    ("1kAbCd-000000-XX <= <> R=1kAbCd-000000-XY H=a.example (helo H=) [192.0.2.7]:40436 I=[::1]:25 P=esmtp S=9",
     RECEPTION),
    ("16ZCW1-0005MB-00 <= \"a b\"@example.net H=(localhost) [192.0.2.7]:40436 P=smtp S=3", RECEPTION),
    ("H=[192.0.2.7]:40436 F=<a@example.net> rejected RCPT <b@example.org>: relay not permitted", REJECTION),
    ("H=a.example ([10.0.0.1]) [192.0.2.7]:40436 F=<> temporarily rejected RCPT <b@example.org>: later", REJECTION),
    ('H=a.example [192.0.2.7]:40436 rejected connection in "connect" ACL: no', REJECTION),
    ("1kAbCd-000000-XX H=a.example (helo) [192.0.2.7]:40436 X=TLS1.3:x CV=no rejected after DATA: no",
     REJECTION),
]  # fmt: skip


@pytest.mark.parametrize(("text", "what"), EXIM_MAIL)
def test_what_exim_received_and_rejected(text, what):
    syslog = "Feb  6 12:14:14 mx1 exim[5]: 2026-02-06 12:14:14"
    for head in ("2026-02-06 12:14:14", "2026-02-06 13:14:14 +0100 [77]", syslog):
        assert all_of("exim", f"{head} {text}") == [(at(12, 14, 14), KEY, None, None, what)]
    line = f"2026-02-06 12:14:14 {text}".replace("]:40436", "]:40436 Ci=Ab1")
    assert all_of("exim", line) == [(at(12, 14, 14), b"Ab1", None, None, what)]


def test_what_else_exim_logs():
    lines = (
        "2026-02-06 12:14:14 1kAbCd-000000-XX <= u@example.org U=u P=local S=4688",
        "2026-02-06 12:14:14 1kAbCd-000000-XX => b@example.org R=dns T=smtp H=b.example [192.0.2.9]:25",
        "2026-02-06 12:14:14 H=a.example [192.0.2.7]:40436 Warning: was not refused",
        "2026-02-06 12:14:14 1kAbCd-000000-XX SMTP connection outbound 1448610553",
        "2026-02-06 12:14:14 no host name found for IP address 192.0.2.7",
        "2026-02-06 12:14:14 SMTP connection from root",
    )
    assert events("exim", *lines) == []


# https://doc.dovecot.org/2.3/admin_manual/logging/ and .../configuration_manual/login_log (login_log_format_elements)
LOGIN = "user=<u@example.org>, method=PLAIN, rip=192.0.2.7, lip=192.0.2.1, mpid=17, TLS, session=<DA631X4/AB>"


def test_dovecot():
    login = (at(12, 14, 14), b"DA631X4/AB", "192.0.2.7", None)
    assert events("dovecot", f"Feb  6 12:14:14 imap1 dovecot: imap-login: Login: {LOGIN}") == [login]
    assert events("dovecot", f"Feb  6 12:14:14 pop3-login: Info: Login: {LOGIN}") == [login]
    for end in ("Disconnected: Logged out in=1 out=2", "Logged out in=166 out=10", "Connection closed (IDLE) in=1"):
        line = f"Feb  6 12:14:15 imap1 dovecot: imap(u@example.org)<17><DA631X4/AB>: {end}"
        assert events("dovecot", line) == [(at(12, 14, 15), b"DA631X4/AB", None, None)]


@pytest.mark.parametrize(
    "why",
    [
        "Disconnected: Connection closed (auth failed, 1 attempts in 2 secs):",
        "Disconnected (no auth attempts in 2 secs):",
        "Aborted login (auth failed, 3 attempts in 2 secs):",
        "Login aborted: Connection closed (no auth attempts in 2 secs) (no_auth_attempts):",
        "Disconnected (disconnected before auth was ready, waited 2 secs):",
    ],
)
def test_a_client_that_does_not_log_in_has_been_there_for_so_long(why):
    line = f"Feb  6 12:14:16 imap1 dovecot: imap-login: {why} user=<>, rip=2001:db8::7, lip=::1, session=<x>"
    assert events("dovecot", line) == [(at(12, 14, 14), None, "2001:db8::7", at(12, 14, 16))]


def test_a_login_without_an_id_lasts_as_long_as_the_option_says():
    line = "Feb  6 12:14:14 imap1 dovecot: imap-login: Login: user=<u>, rip=192.0.2.7, lip=192.0.2.1"
    assert events("dovecot", line) == [(at(12, 14, 14), None, "192.0.2.7", at(12, 14, 19))]


def test_what_else_dovecot_logs():
    lines = (
        "Feb  6 12:14:14 imap1 dovecot: auth: passwd-file(u,192.0.2.7): unknown user",
        "Feb  6 12:14:14 imap1 dovecot: imap(u)<17><DA631X4/AB>: Error: Disconnected",
    )
    assert events("dovecot", *lines) == []


# https://nginx.org/en/docs/http/ngx_http_log_module.html and https://nginx.org/en/docs/stream/ngx_stream_log_module.html
def test_nginx():
    start = '192.0.2.7 - - [06/Feb/2026:12:14:14 +0000] "GET / HTTP/1.1" 200 612 "-" "curl/8"'
    assert events("nginx", start) == [(at(12, 14, 14), None, "192.0.2.7", at(12, 14, 19))]
    for end in (" 1.500", " rt=1.500", ' "1.500"'):
        assert events("nginx", start + end) == [(at(12, 14, 12.5), None, "192.0.2.7", at(12, 14, 14))]
    stream = "2001:db8::7 [06/Feb/2026:12:14:14 +0000] TCP 200 1234 567 0.250"
    assert events("nginx", stream) == [(at(12, 14, 13.75), None, "2001:db8::7", at(12, 14, 14))]


# https://docs.haproxy.org/3.0/configuration.html#8.2, .1 to .3
def test_haproxy():
    tcp = (
        "Feb  6 12:12:56 lb haproxy[14387]: 10.0.1.2:33313 [06/Feb/2026:12:12:51.443] fnt bck/srv1 "
        "0/0/5007 212 -- 0/0/0/0/3 0/0"
    )
    [(start, key, address, end)] = events("haproxy", tcp)
    assert (start, key, address) == (at(12, 12, 51.443), None, "10.0.1.2")
    assert end == pytest.approx(start + 5.007)
    http = (
        "haproxy[14389]: 2001:db8::7:33317 [06/Feb/2026:12:14:14.655] http-in~ static/srv1 10/0/-1/69/+109 200 2750 "
        '- - ---- 1/1/1/1/0 0/0 {1wt.eu} {} "GET /index.html HTTP/1.1"'
    )
    [(start, key, address, end)] = events("haproxy", f"Feb  6 12:14:14 lb {http}")
    assert (start, key, address) == (at(12, 14, 14.655), None, "2001:db8::7")
    assert end == pytest.approx(start + 0.109)


def test_haproxy_of_connections_that_never_began():
    line = "Feb  6 12:14:14 lb haproxy[9]: 10.0.1.2:1 [06/Feb/2026:12:14:14.000] in/1: SSL handshake failure"
    assert events("haproxy", line, duration=0.0) == [(at(12, 14, 14), None, "10.0.1.2", at(12, 14, 14))]
    aborted = (
        "Feb  6 12:14:14 lb haproxy[9]: 10.0.1.2:1 [06/Feb/2026:12:14:14.000] in in/<NOSRV> -1/-1/-1 0 PR 1/1/0/0/0 0/0"
    )
    assert events("haproxy", aborted) == [(at(12, 14, 14), None, "10.0.1.2", at(12, 14, 14))]


def test_haproxy_without_log_options():
    line = "Feb  6 12:12:09 lb haproxy[14385]: Connect from 10.0.1.2:33312 to 10.0.3.31:8012 (www/HTTP)"
    assert events("haproxy-connect", line) == [(at(12, 12, 9), None, "10.0.1.2", at(12, 12, 14))]


SAMPLES = {
    "postfix": POSTFIX[0][0],
    "exim": EXIM[0][0],
    "dovecot": f"Feb  6 12:14:14 imap1 dovecot: imap-login: Login: {LOGIN}",
    "nginx": '192.0.2.7 - - [06/Feb/2026:12:14:14 +0000] "GET / HTTP/1.1" 200 612 "-" "curl/8"',
    "haproxy": "Feb  6 12:12:56 lb haproxy[1]: 10.0.1.2:33313 [06/Feb/2026:12:12:51.443] f b/s 0/0/5007 212 -- 0/0",
    "haproxy-connect": "Feb  6 12:12:09 lb haproxy[14385]: Connect from 10.0.1.2:33312 to 10.0.3.31:8012 (www/HTTP)",
}


@pytest.mark.parametrize("name", NAMED)
def test_each_format_is_found(name):
    head = SAMPLES[name].encode()
    assert form_of(b"-- a line of the journal --\n" + head, None, {}) is NAMED[name]
    assert tells_ends(NAMED[name], head) == (name not in ("nginx", "haproxy-connect"))


def test_the_format_with_most_connections_is_taken():
    head = "\n".join([SAMPLES["dovecot"], *[SAMPLES["postfix"]] * 2]).encode()
    assert form_of(head, None, {}).name == "postfix"
    assert form_of(head, "dovecot", {}).name == "dovecot"


def test_a_log_of_messages_alone_has_no_connections():
    head = "\n".join(f"2026-02-06 12:14:14 {text}" for text, _ in EXIM_MAIL).encode()
    with pytest.raises(ValueError, match="no connection"):
        form_of(head, None, {})


def test_no_format_is_found():
    with pytest.raises(ValueError, match=r"write --format postfix\|exim\|"):
        form_of(b"nothing of this\nis a log", None, {})


JUNK = st.one_of(st.binary(max_size=200), st.sampled_from([line.encode() for line in SAMPLES.values()]))


@given(st.lists(st.tuples(JUNK, st.integers(0, 200), st.integers(0, 200)), max_size=30), st.sampled_from(FORMATS))
def test_any_bytes_are_lines_of_the_format_or_not(pieces, form):
    """Torn and binary lines: each one is counted once, and none stops the reader."""
    lines = [(line[:cut] + line[skip:]).replace(b"\r", b" ").replace(b"\n", b" ") for line, cut, skip in pieces]
    block = b"\n".join(lines)
    fields = list(form.fields(block))
    assert all(len(each) == len(GROUPS) for each in fields)
    assert len(fields) == sum(form.fits(line) for line in lines)
    reader = LogReader("log", form, StampReader(at(0, 0, day=28), None, UTC))
    list(reader.events([block]))
    assert reader.lines == block.count(b"\n") + 1
    assert reader.bad >= sum(1 for line in lines if line.strip() and not form.fits(line))


REPEATED = [
    b"Feb  6 12:14:14 imap1 dovecot: imap-login: Aborted login: " + b" in 2 secs" * 100_000,
    b"Feb  6 12:14:14 imap1 dovecot: imap-login: Login: " + b" rip=" * 200_000,
    b"Feb  6 12:14:14 " + b"haproxy" * 150_000,
    b"Feb  6 12:14:14 " + b"haproxy[1]: " * 80_000,
    b"2026-02-06 12:14:14 SMTP connection from [192.0.2.7] " + b" Ci= (TCP/IP" * 80_000,
    b"2026-02-06 12:14:14 1kAbCd-000000-XX <= a" + b" H=" * 300_000,
    b"2026-02-06 12:14:14" + b" H=a rejecte" * 80_000,
    b"Feb  6 12:14:14 mx1 postfix/smtpd[1]: " + b"reject: " * 120_000,
    b"192.0.2.7 [06/Feb/2026:12:14:14 +0000] " + b" 1.234x" * 140_000,
    b"192.0.2.7 " + b"[06/Feb/2026:12:14:14 " * 50_000,
]


def test_a_line_of_a_megabyte_is_matched_in_time():
    for form in FORMATS:
        sample = SAMPLES[form.name].encode()
        for line in (b"x" * 1_000_000, sample + b" [" * 500_000, b"1 " * 500_000, *REPEATED):
            assert sum(1 for _ in form.fields(line)) <= 1
