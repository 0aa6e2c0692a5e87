"""Policies in Sieve, with the reference's additions: a script is parsed and compiled once, and run for each session.

From the ground up:

tree         what a script is made of, and errors with line and column
parse        the language, for lark; makes a tree of a text
values       texts, numbers, lists and hashes, and what functions make of their arguments
compare      comparators and match types
run          what one run of a script keeps, and the verdict that it comes to
functions    what a function is; counts, networks, builtins and replies are the functions
expressions  values, compiled; calls: calls and assignments; conditions: tests; compile: statements
needs        what a script needs of the audit
policy       SievePolicy
"""
