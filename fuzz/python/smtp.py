"""The SMTP dialogue of a peer that sends anything: each reply is one that SMTP has, and nothing is left at its end.

The first byte of an input says in pieces of what size the rest arrives, the second one what it is: commands from the
banner on, or the bytes of a message. A message that is stored is the one that RFC 5321 (4.5.2) finds in the bytes:
nothing but CRLF . CRLF ends it. In a message a lone LF is a line's end, and a lone CR is a blank.
"""

from __future__ import annotations

from fuzz.python.smtp_server import Server, check_replies, pieces

MAX_BYTES = 1 << 16
END = b"\r\n.\r\n"

server = Server(data_size_limit=MAX_BYTES)


def run(data: bytes) -> None:
    if len(data) < 2:
        return
    size, what, rest = data[0], data[1], data[2:]
    transport = server.open()
    assert server.audit.total() == 1, "a session is counted"
    if what % 2:
        message(transport, rest, size)
    else:
        server.send(transport, pieces(rest, size))
    server.end(transport)
    replies = check_replies(bytes(transport.written))
    assert replies[0].startswith(b"220 "), replies
    accepted = sum(reply.startswith(b"250 2.0.0 stored") for reply in replies)
    assert accepted == len(server.mailbox.messages), "each message that is stored is answered, and no other"


def message(transport: object, content: bytes, size: int) -> None:
    """The bytes are sent as a message, with an end behind them."""
    start = [b"EHLO c.example\r\n", b"MAIL FROM:<a@c.example>\r\n", b"RCPT TO:<b@d.example>\r\n", b"DATA\r\n"]
    server.send(transport, start)
    assert transport.written.endswith(b"354 End data with <CR><LF>.<CR><LF>\r\n")
    before = len(transport.written)
    server.send(transport, pieces(content + END, size))
    replies = check_replies(bytes(transport.written[before:]))
    assert replies, "a message that has ended is answered"
    if replies[0].startswith(b"250 2.0.0 stored"):
        assert server.mailbox.messages[0] == gold(content), (server.mailbox.messages[0], gold(content))


def gold(content: bytes) -> bytes:
    """The message that the bytes are, up to the first end: leading dots taken away."""
    whole = b"\r\n" + content + END
    body = whole[2 : whole.index(END) + 2]
    lines = [line.removeprefix(b".") for line in body.split(b"\r\n")]
    return b"\r\n".join(line.replace(b"\r", b" ").replace(b"\n", b"\r\n") for line in lines)
