"""The bytes of a message: where it ends, what becomes of dots, CR and LF, and what is refused; however it is cut up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_audit.listeners.budget import SessionBudget
from inbound_audit.listeners.smtp_data import MAX_SIZE_FACTOR, IncomingMessage, MessageMemory

BUDGET = SessionBudget(max_message_bytes=400, max_line_bytes=20)


def taken(pieces: list[bytes], budget: SessionBudget = BUDGET) -> tuple[object, bytes | None, int]:
    """What a message that comes in these pieces becomes: its content or its refusal, what follows it, its size."""
    memory = MessageMemory(1 << 30, budget)
    message = IncomingMessage(budget, memory)
    rest = None
    for number, piece in enumerate(pieces):
        rest = message.feed(piece)
        if rest is not None:
            rest += b"".join(pieces[number + 1 :])
            break
    result = message.content() if message.refusal is None else message.refusal[:3]
    message.release()
    message.release()
    assert memory.used == 0
    return result, rest, message.size


def content(data: bytes) -> object:
    result, rest, size = taken([data])
    assert rest == b""
    assert size == len(result)  # type: ignore[arg-type]
    return result


def plainly(data: bytes) -> tuple[object, bytes | None]:
    """The same, byte by byte, as the two RFCs have it."""
    text, end, _ = (b"\r\n" + data).partition(b"\r\n.\r\n")
    rest = (b"\r\n" + data)[len(text) + len(end) :] if end else None
    lines = (text + (b"\r\n" if end else b"")).split(b"\r\n")[1:]
    whole = b"\r\n".join(line.removeprefix(b".") for line in lines)
    out = bytearray()
    for position, byte in enumerate(whole):
        before, after = whole[position - 1 : position], whole[position + 1 : position + 2]
        bare = (byte == 10 and before != b"\r") or (byte == 13 and after != b"\n")
        out += (b"\r\n" if byte == 10 else b" ") if bare else bytes([byte])
    if len(out) > BUDGET.max_message_bytes:
        return b"552", rest
    if any(len(line) + 2 > BUDGET.max_line_bytes for line in out.split(b"\r\n")):
        return b"500", rest
    return bytes(out), rest


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b".\r\n", b""),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"\r\n.\r\n", b"\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b".a\r\n.\r\n", b"a\r\n"),
        (b"a\r\n..\r\n...\r\n.\r\n", b"a\r\n.\r\n..\r\n"),
        (b"a.\r\n.\r\n", b"a.\r\n"),
    ],
)
def test_dots(sent: bytes, kept: bytes) -> None:
    assert content(sent) == kept


@pytest.mark.parametrize(
    "end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\n.\r", b"\r\n.\0\r\n"]
)
def test_nothing_but_crlf_dot_crlf_ends_a_message(end: bytes) -> None:
    result, rest, _ = taken([b"a" + end + b"MAIL FROM:<>\r\n.\r\nNOOP\r\n"])
    assert rest == b"NOOP\r\n"
    assert isinstance(result, bytes)
    assert result.endswith(b"MAIL FROM:<>\r\n")


def test_a_bare_lf_is_a_lines_end_and_a_bare_cr_is_a_blank() -> None:
    assert content(b"a\nb\rc\r\nd\n\ne\r\r\n.\r\n") == b"a\r\nb c\r\nd\r\n\r\ne \r\n"


@given(
    st.lists(
        st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"a", b"b" * 17, b"c" * 21]), max_size=40
    ),
    st.data(),
)
def test_a_message_is_the_same_however_it_is_cut_up(words: list[bytes], data: st.DataObject) -> None:
    sent = b"".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    pieces = [sent[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    expected, rest = plainly(sent)
    result, following, _ = taken(pieces)
    assert following == rest
    if rest is not None:
        assert result == expected


def test_the_longest_line_and_the_largest_message() -> None:
    line = b"x" * 18 + b"\r\n"
    assert content(line * 20 + b".\r\n") == line * 20
    assert taken([line * 20, b"\r\n.\r\n"])[0] == b"552"
    assert taken([b"x" + line + b".\r\n"])[0] == b"500"
    assert taken([b"." + line + b".\r\n"])[0] == line  # the added dot does not count
    assert taken([b"x" * 401 + b"\r\n.\r\n"])[0] == b"552"


def test_what_is_refused_is_read_until_it_is_endless() -> None:
    message = IncomingMessage(BUDGET, MessageMemory(400, BUDGET))
    for _ in range(MAX_SIZE_FACTOR):
        assert message.feed(b"x" * 400) is None
    assert not message.is_endless
    assert message.feed(b"x") is None
    assert message.is_endless


def test_messages_share_a_memory() -> None:
    memory = MessageMemory(600, BUDGET)
    one, two, three = (IncomingMessage(BUDGET, memory) for _ in range(3))
    line = b"x" * 8 + b"\r\n"
    one.feed(line * 35)
    two.feed(line * 35)
    assert (one.refusal, two.refusal) == (None, b"451 4.3.1 no memory for the message, try again later")
    one.release()
    three.feed(line * 35 + b".\r\n")
    assert three.refusal is None
    three.release()
    assert memory.used == 0


def test_a_memory_without_room_for_one_message() -> None:
    with pytest.raises(ValueError, match="399 bytes for messages are less than one message of 400 bytes"):
        MessageMemory(399, BUDGET)


def test_a_memory_is_resized_while_messages_have_some_of_it() -> None:
    memory = MessageMemory(600, BUDGET)
    assert memory.reserve(500)
    memory.resize(400, BUDGET)
    assert not memory.reserve(1)
    memory.release(500)
    assert memory.reserve(400)
    with pytest.raises(ValueError, match="399 bytes for messages"):
        memory.resize(399, BUDGET)
    memory.release(1)
    assert memory.reserve(1)
