"""The configuration file: a table for each command that has `--config`, a key for each of its options.

keys       tables and keys, made from the options of the commands; a value of TOML in, the option's value out
positions  the line of each key in a text
document   a file: read, checked as a whole, with the line of each problem
source     `--config`: values of a file where the command line has none, at the start and at a reload
"""
