"""Guards that are asked what they would decide, while others come and go."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from threading import Thread

import pytest

from inbound_audit import InboundAudit, inquiries


class Asked:
    def would_decide(self, address: str) -> inquiries.Answer:
        return {"address": address}

    def decides_by(self) -> inquiries.Answer:
        return {"policy": None}


def test_each_guard_that_lives_is_asked() -> None:
    with InboundAudit() as one, InboundAudit() as other:
        first, second = Asked(), Asked()
        inquiries.note(one, first)
        inquiries.note(one, second)
        assert inquiries.answers_of(one, "192.0.2.7") == [{"address": "192.0.2.7"}] * 2
        del second
        assert len(inquiries.answers_of(one, "192.0.2.7")) == 1
        assert inquiries.answers_of(other, "192.0.2.7") == []


def test_a_guard_comes_while_others_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    comes: list[Thread] = []

    class Slow(weakref.WeakSet[inquiries.Deciding]):
        """While it is read, another thread adds to it, if it can."""

        def __iter__(self) -> Iterator[inquiries.Deciding]:
            for one in super().__iter__():
                yield one
                if not comes:
                    comes.append(Thread(target=inquiries.note, args=(audit, guards[2])))
                    comes[0].start()
                    comes[0].join(0.1)

    monkeypatch.setattr(inquiries.weakref, "WeakSet", Slow)
    with InboundAudit() as audit:
        guards = [Asked() for _ in range(3)]
        for guard in guards[:2]:
            inquiries.note(audit, guard)
        assert len(inquiries.answers_of(audit, "192.0.2.7")) == 2
        comes[0].join()
        assert len(inquiries.answers_of(audit, "192.0.2.7")) == 3
