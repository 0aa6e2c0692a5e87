"""How much is measured. A full run takes about ten minutes of two cores, `BENCH_QUICK=1` about one."""

from __future__ import annotations

import os
from pathlib import Path

QUICK = os.environ.get("BENCH_QUICK", "") not in ("", "0")

OUT = Path(__file__).resolve().parents[1] / ".bench"
RESULTS = OUT / "results.json"

ROUNDS = 9 if QUICK else 41
"""Rounds of a bar. The median of 41 ratios moves by some 2 % from run to run where one ratio moves by 20 %."""
PEER_ROUNDS = 3 if QUICK else 7
PEER_SIZES = (1_000, 100_000) if QUICK else (1_000, 100_000, 1_000_000)
TRIE_SIZES = (1_000, 100_000, 1_000_000) if QUICK else (1_000, 100_000, 1_000_000, 10_000_000)
BUILD_MOST = 2.0 if QUICK else 8.0
"""Seconds that filling a peer may take; one that needs longer is left out at that size, and the report says so."""

SMTP_BLOCKS = 1 if QUICK else 3
SMTP_ROUNDS = 12 if QUICK else 40
SMTP_CONNECTIONS = 150

FLOOD_ROUNDS = 3 if QUICK else 15
FLOOD_CONNECTIONS = 3_000 if QUICK else 10_000
FORWARDED_ROUNDS = 3 if QUICK else 15
FORWARDED_CONNECTIONS = 2_000 if QUICK else 5_000
FORWARDED_MEGABYTES = 300 if QUICK else 1_000
FLOOD_REFUSALS = 200_000 if QUICK else 10_000_000

HOSTILE_S = 10 if QUICK else 60
"""Seconds for which hostile peers do their worst."""

PROCESSES = (16, 64) if QUICK else (16, 64, 128, 256)
AUDITS = (100, 500) if QUICK else (100, 500, 1000, 2000)
"""Processes of one audit, and audits of one process."""

POSTFIX_ROUNDS = 3 if QUICK else 9
POSTFIX_CONNECTIONS = {"EHLO and QUIT": 200, "a message": 60} if QUICK else {"EHLO and QUIT": 600, "a message": 150}
"""Of a round: a process tells of its processor time in hundredths of a second."""

REPLAY_LINES = 500_000 if QUICK else 10_000_000
