"""Configuration files: any text is used, or is refused with the lines of its problems; each key has a line."""

from __future__ import annotations

import os

import click
from tests.support.toml import paths_of

from inbound_audit.cli import COMMANDS
from inbound_audit.cli.config.document import ConfigError, Document
from inbound_audit.cli.config.positions import lines_of, parse

fd = os.memfd_create("config")
path = f"/proc/self/fd/{fd}"


def run(data: bytes) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)
    last = data.count(b"\n") + 1
    try:
        document = Document(path)
        for command in COMMANDS:
            if command.name in document.commands:
                use(command, document)
    except ConfigError as error:
        assert error.problems
        assert all(1 <= problem.line <= last and problem.why for problem in error.problems), error.problems
        if not any(problem.path for problem in error.problems):
            return
    text = data.decode()
    lines = lines_of(text)
    assert lines.keys() == set(paths_of(parse(text)))
    assert all(1 <= line <= last for line in lines.values())


def use(command: click.Command, document: Document) -> None:
    """As a start does, short of making settings of the options."""
    name = str(command.name)
    try:
        command.make_context(name, [], default_map=document.options(name))
    except click.UsageError as error:
        raise ConfigError(path, [document.problem(name, error.format_message())]) from None
