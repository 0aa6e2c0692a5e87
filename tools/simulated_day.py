"""A day of a mail server, at speed, in a shared audit: for pictures of it, and to try what looks at one (`make day`).

    python tools/simulated_day.py [NAME] [--seconds 60] [--until HOUR] [--once] [--hold] [--sessions N] [--seed N]

Ordinary mail comes by the hour. A partner has many sessions from one /28. From nine to three a botnet attacks:
thousands of hosts all over IPv4, most of them in 198.51.100.0/24. From eleven to five hosts of one IPv6 /32 come, each
once. Limits refuse what is too much, an override denies a network, and a decision log says why. What happens follows
from the seed alone; a line per hour says what is open and what was refused.

    --once      no day: what is open at the hour of --until, at once
    --hold      goes on at the end as at that hour, until Ctrl-C or TERM
"""

import argparse
import contextlib
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners import Guard
from inbound_audit.listeners.admission import Admission
from inbound_audit.listeners.decision_log import DecisionLog
from inbound_audit.listeners.log_sinks import LogFile

PARTNER, DENIED = "203.0.113.16/28", "192.0.2.0/24"
MONITORS = ("1,90",)
"""A window a second: a day of a minute or two is seen as a curve."""
STEPS_AN_HOUR = 4
MIN_PAUSE_S = 1.0
"""Between two steps that are held."""
LEFT_A_STEP = 0.15
"""Which share of the sessions of a group ends with each step; others come for them."""


def mail_networks(draw: random.Random) -> Callable[[], str]:
    """Hosts of a few hundred networks that send mail, a few of which send most of it; one in five is IPv6."""
    eights = [draw.randrange(11, 192) for _ in range(40)]
    four = [f"{draw.choice(eights)}.{draw.randrange(256)}.{draw.randrange(256)}." for _ in range(300)]
    six = [f"2a0{draw.randrange(10)}:{draw.randrange(1, 0x2000):x}:{draw.randrange(4):x}:" for _ in range(60)]

    def host() -> str:
        at = draw.random() ** 2
        if draw.random() < 0.2:
            return f"{six[int(at * len(six))]}{draw.randrange(256):x}::{draw.randrange(1, 64):x}"
        return f"{four[int(at * len(four))]}{draw.randrange(1, 255)}"

    return host


def botnet(draw: random.Random) -> Callable[[], str]:
    """Hosts everywhere; of three, two are in one /24. A few are in a network that is denied."""
    regions = [draw.randrange(1, 224) << 8 | draw.randrange(256) for _ in range(2000)]

    def host() -> str:
        if draw.random() < 0.02:
            return f"192.0.2.{draw.randrange(1, 255)}"
        if draw.random() < 2 / 3:
            return f"198.51.100.{draw.randrange(1, 255)}"
        region = draw.choice(regions)
        return f"{region >> 8}.{region & 255}.{draw.randrange(256)}.{draw.randrange(1, 255)}"

    return host


def partner(draw: random.Random) -> Callable[[], str]:
    return lambda: f"203.0.113.{draw.randrange(16, 32)}"


def scan(draw: random.Random) -> Callable[[], str]:
    """Each from another /64 of the /32."""
    return lambda: f"2001:db8:{draw.randrange(1 << 16):x}:{draw.randrange(1 << 16):x}::{draw.randrange(1, 1 << 16):x}"


@dataclass
class Group:
    """Who comes, and which share of all sessions it has at its busiest. `hours`: how busy it is, by the hour."""

    share: float
    hours: tuple[float, ...]
    host: Callable[[], str]
    guard: Guard
    open: list[Admission] = field(default_factory=list)

    def wanted(self, hour: float) -> float:
        first = int(hour) % 24
        return self.hours[first] + (hour % 1) * (self.hours[(first + 1) % 24] - self.hours[first])

    def move(self, hour: float, sessions: int, draw: random.Random) -> None:
        """Ends some, and lets as many come as there are at that hour."""
        draw.shuffle(self.open)
        target = int(sessions * self.share * self.wanted(hour))
        kept = min(target, int(len(self.open) * (1 - LEFT_A_STEP)))
        while len(self.open) > kept:
            self.open.pop().close()
        for _ in range(target - kept):
            admission = self.guard.admit((self.host(), draw.randrange(1024, 65536)))
            if admission.let_in:
                self.open.append(admission)
            else:
                admission.close()


def between(first: int, last: int) -> tuple[float, ...]:
    return tuple(float(first <= hour < last) for hour in range(24))


BUSINESS = (
    *(0.3, 0.25, 0.2, 0.2, 0.25, 0.3, 0.45, 0.65, 0.85, 1.0, 1.0, 0.95),
    *(0.9, 0.95, 1.0, 0.95, 0.9, 0.8, 0.65, 0.55, 0.5, 0.45, 0.4, 0.35),
)


class Day:
    """The audit, its guards, and who comes."""

    def __init__(self, name: str, sessions: int, seed: int, log: Path) -> None:
        self.sessions = sessions
        self.draw = draw = random.Random(seed)
        self.audit = InboundAudit(shared=name, monitors=MONITORS)
        self.decisions = DecisionLog(LogFile(str(log)))
        limits = Limits(
            {"/32,/64": 40, "/24,/48": sessions // 10, "/16,/32": sessions // 8},
            networks={"partner": {"prefixes": [PARTNER], "total": sessions}},
        )
        mx, submission = (
            Guard(self.audit.listener("SMTP", name=each), limits, decisions=self.decisions)
            for each in ("mx", "submission")
        )
        self.groups = [
            Group(0.35, BUSINESS, mail_networks(draw), mx),
            Group(0.1, BUSINESS, mail_networks(draw), submission),
            Group(0.05, BUSINESS, partner(draw), mx),
            Group(0.3, between(9, 15), botnet(draw), mx),
            Group(0.15, between(11, 17), scan(draw), mx),
        ]
        self.guards = (mx, submission)
        self.audit.deny(DENIED, why="spam from all over it")

    def hours(self, first: float, last: float) -> Iterator[float]:
        """Plays the steps from one hour to another."""
        for step in range(int(first * STEPS_AN_HOUR), int(last * STEPS_AN_HOUR) + 1):
            self.move(step / STEPS_AN_HOUR)
            yield step / STEPS_AN_HOUR

    def move(self, hour: float) -> None:
        for group in self.groups:
            group.move(hour, self.sessions, self.draw)

    def describe(self, hour: float) -> str:
        refused = sum(guard.refused for guard in self.guards)
        return f"{int(hour):02}:{int(hour % 1 * 60):02}  {self.audit.total():,} open, {refused:,} refused"

    def close(self) -> None:
        for guard in self.guards:
            guard.close_all()
        self.decisions.close()
        self.audit.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", nargs="?", default="day", help="what the audit is shared under")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the day takes")
    parser.add_argument("--until", type=float, default=24.0, help="the hour at which it ends")
    parser.add_argument("--once", action="store_true", help="no day: what is open at the hour of --until, at once")
    parser.add_argument("--hold", action="store_true", help="go on at the end as at that hour, until Ctrl-C or TERM")
    parser.add_argument("--sessions", type=int, default=20_000, help="how many would be open if all came at once")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(KeyboardInterrupt):
        log = Path(directory) / "decisions.log"
        with contextlib.closing(Day(asked.name, asked.sessions, asked.seed, log)) as day:
            play(day, asked)


def play(day: Day, asked: argparse.Namespace) -> None:
    first = min(asked.until, 24.0) - 1 if asked.once else 0.0
    pause = 0.0 if asked.once else asked.seconds / 24 / STEPS_AN_HOUR
    begun = time.monotonic()
    for number, hour in enumerate(day.hours(first, asked.until), 1):
        if hour == int(hour):
            print(day.describe(hour), flush=True)
        time.sleep(max(0.0, begun + number * pause - time.monotonic()))
    if asked.hold:
        print("held until Ctrl-C", flush=True)
        while True:
            time.sleep(max(MIN_PAUSE_S, pause))
            day.move(asked.until)


if __name__ == "__main__":
    main()
