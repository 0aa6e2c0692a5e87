"""What limits want denied, and for whom such a denial holds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits
from inbound_audit._ipcount import publish_overrides, take_denials
from inbound_audit.errors import PolicyError

NO_END = (1 << 63) - 1


class Untended(InboundAudit):
    """No thread takes its notes."""

    def _carry_out_denials(self) -> None:
        self.asked = True


@pytest.fixture
def audit() -> Iterator[Untended]:
    with Untended() as audit:
        yield audit


def test_a_limit_leaves_one_note_for_a_prefix(audit: Untended) -> None:
    limits = Limits({"/24,/48": "0 then deny for 10m", "/32": 5})
    for host in ("192.0.2.7", "192.0.2.8", "2001:db8::7", "192.0.2.7"):
        with audit.listener("SMTP").session(host) as ac:
            assert not limits.validate_connect(ac)
    why = "over /24,/48=0 then deny for 10m"
    assert take_denials(audit) == [("192.0.2.0/24", 600, why), ("2001:db8::/48", 600, why)]
    assert take_denials(audit) == []
    assert audit.asked


@pytest.mark.parametrize("limits", [Limits({"/32": 0}), Limits({"/32": "0 then deny for 1m"}, dry_run=True)])
def test_a_limit_that_says_nothing_leaves_no_note(audit: Untended, limits: Limits) -> None:
    with audit.listener("SMTP").session("192.0.2.7") as ac:
        limits.validate_connect(ac)
    assert take_denials(audit) == []


def test_a_limit_behind_the_one_that_refuses_is_asked_too() -> None:
    """Else a client that is always over the first would never be over the second."""
    with Untended(monitors=["3600,2"]) as audit, audit.listener("SMTP").session("192.0.2.7") as ac:
        limits = Limits({"/32": [0, "3 rejections/1h then deny for 1m"], "/24": "5 then deny for 1m"})
        for _ in range(4):
            assert not limits.validate_connect(ac)
            assert take_denials(audit) == []
            ac.record_rejection()
        assert not limits.validate_connect(ac)
        assert [prefix for prefix, *_ in take_denials(audit)] == ["192.0.2.7/32"]
        assert limits.refused == {"default /32": 5}


def test_notes_are_bounded(audit: Untended) -> None:
    limits = Limits({"/32": "0 then deny for 1m"})
    for host in range(300):
        with audit.listener("SMTP").session(f"10.0.{host >> 8}.{host & 255}") as ac:
            limits.validate_connect(ac)
    assert len(take_denials(audit)) == 256


def test_a_denial_of_a_limit_holds_for_its_network_alone(audit: Untended) -> None:
    """An exempt address may lie in the prefix, and so may a named network; what a user denies holds for all."""
    networks = {"partner": {"prefixes": ["192.0.2.128/25"], "limits": {"/32": 5}}}
    limits = Limits({"/32": 5}, exempt=["192.0.2.9"], networks=networks)
    hosts = ("192.0.2.7", "192.0.2.9", "192.0.2.200")
    sessions = [audit.listener("SMTP").session(host) for host in hosts]
    publish_overrides(audit, [("192.0.2.0/24", "deny network", NO_END)])
    assert [bool(limits.validate_connect(ac)) for ac in sessions] == [False, True, True]
    assert [ac.override for ac in sessions] == ["deny"] * 3
    publish_overrides(audit, [("192.0.2.0/24", "deny network", NO_END), ("192.0.0.0/16", "deny", NO_END)])
    assert [bool(limits.validate_connect(ac)) for ac in sessions] == [False] * 3
    assert limits.denied == 4
    for ac in sessions:
        ac.close()


def test_a_thread_makes_overrides_of_the_notes() -> None:
    with InboundAudit() as audit:
        limits = Limits({"/32": "0 then deny for 1h"})
        with audit.listener("SMTP").session("192.0.2.7") as ac:
            assert limits.validate_connect(ac) is limits.refusal
            eventually(lambda: audit.decisions(), "the denial")
            assert limits.validate_connect(ac) is limits.denial
            ((prefix, action, until, why, since, by, _),) = audit.decisions()
            assert (prefix, action, by, round(until - since)) == ("192.0.2.7/32", "deny", "limit", 3600)
            assert why == "over /32=0 then deny for 1h"
            assert audit.lift("192.0.2.7")
            assert limits.validate_connect(ac) is limits.refusal  # and is denied again
            eventually(lambda: audit.decisions(), "the denial")


def test_a_limit_does_not_overrule_a_user() -> None:
    with InboundAudit() as audit:
        audit.deny("192.0.2.7", for_s=1e6, why="by hand")
        audit._overrides.begin_denials()
        other = Limits({"/32": "0 then deny for 1h"})
        with audit.listener("SMTP").session("192.0.2.8") as ac:
            other.validate_connect(ac)
            eventually(lambda: len(audit.decisions()) == 2, "the denial")
        assert audit.decisions()[0].why == "by hand"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"/0": "10 then deny for 1m"}, "would deny every address"),
        ({"/24,/0": ["300/5m then deny for 1m"]}, "would deny every address"),
        ({"/32": "10 then deny for ever"}, "write a duration"),
        ({"/32": "10 then deny for 0s"}, "write a duration"),
        ({"/32": "10 then deny"}, "write a number and a duration"),
        ({"/32": "ten then deny for 1m"}, "write a number and a duration"),
        ({"/32": "99999999999999999999 then deny for 1m"}, "write a number and a duration"),
        ({"/32": f"{2**63} then deny for 1m"}, "the number is above"),
        ({"/32": [10, "10 then deny for 1m"]}, "both limit open sessions"),
    ],
)
def test_what_can_not_be_denied(limits, words) -> None:
    with pytest.raises(PolicyError, match=words):
        Limits(limits)


def test_a_total_denies_no_network() -> None:
    partner = {"prefixes": ["192.0.2.0/24"], "total": "5 then deny for 1m"}
    with pytest.raises(PolicyError, match="would deny the whole network"):
        Limits(networks={"partner": partner})


def test_limits_are_written_as_they_are_read() -> None:
    text = "/24=10 then deny for 10m /24=20 rejections/1h then deny for 1d"
    assert Limits({"/24": ["10 then deny for 600s", "20 rejections/60m then deny for 24h"]}).describe() == text
