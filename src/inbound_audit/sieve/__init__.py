"""Policies in Sieve, with the reference's additions: a script is parsed and compiled once, and run for each session.

From the ground up:

faults       errors with line and column
source       a file as text
tree         what a script is made of
texts        quoted and multi-line texts, and what is expanded in them
grammar      the language, for lark; parse makes a tree of a text
values       texts, numbers, lists and hashes, and what functions make of their arguments
regex        patterns; automaton runs them, in time that grows with the text alone
compare      comparators and match types
run          what one run of a script keeps, and the verdict that it comes to
functions    what a function is; sessions, windows, hashes and replies are the functions
expressions  values, calls, tests and statements, compiled: expressions, calls, conditions, assign, require, compile
policy       SievePolicy
"""
