"""Benchmarks: where the project stands against its bars and its peers. `make bench` runs them all.

scale      how much is measured: the full run, or `BENCH_QUICK=1`
measure    batches of several subjects in turn, and ratios of the same round
bars.md    what has to be held; `bars` reads it
workloads  addresses, by name and size, from fixed seeds
peers      other ways to count, each checked against the gold model before it is timed
floor      what any method call costs: compiled from floor.pyx into .bench/
resident   how much memory a structure takes, each in a process of its own
mail       an SMTP server and a client that are no part of one another
bench_*.py what pytest runs; each result is one entry of .bench/results.json
report     that file as docs/performance.md; `pages` has its words, `machine` says where it was measured
instructions  the same hot calls under valgrind: how many instructions, whatever else the machine does
"""
