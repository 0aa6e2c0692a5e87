"""`--config`: the values of a file where the command line has none, at the start and again at each reload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from inbound_audit.cli.config.keys import CONFIG

if TYPE_CHECKING:
    from inbound_audit.cli.config.document import Document
    from inbound_audit.cli.settings import Settings


def _use(context: click.Context, _: click.Parameter, path: str | None) -> str | None:
    """Gives the other options their values."""
    if path is not None:
        from inbound_audit.cli.config.document import Document

        context.meta[CONFIG] = document = Document(path)
        context.default_map = document.options(str(context.command.name))
    return path


config_option = click.option(
    "--config",
    metavar="FILE.toml",
    is_eager=True,
    expose_value=False,
    callback=_use,
    help="Read options from this file, too; those of the command line come before them.",
)
"""An option of a command, which then has a table in configuration files."""


@dataclass(frozen=True)
class Source:
    """Where the settings of a command come from: a file, and the options that the command line has."""

    command: click.Command
    path: str
    given: dict[str, Any]
    make: Callable[[dict[str, Any]], Settings]

    def read(self) -> Settings:
        """The settings as they are in the file now. Raises Failure, which names the file and the line."""
        from inbound_audit.cli.config.document import Document

        document = Document(self.path)
        name = str(self.command.name)
        values = document.options(name, self.given)
        return self.made(document, self.command.make_context(name, [], default_map=values).params)

    def made(self, document: Document, options: dict[str, Any]) -> Settings:
        """Raises Failure for options that do not go together."""
        from inbound_audit.cli.config.document import ConfigError

        try:
            return replace(self.make(options), source=self)
        except click.UsageError as error:
            problem = document.problem(str(self.command.name), error.message)
            raise ConfigError(self.path, [problem]) from None


def settings_from(options: dict[str, Any], make: Callable[[dict[str, Any]], Settings]) -> Settings:
    """The settings of the command that runs; `make` makes them of options. With `--config` they can be read again.

    Raises click.UsageError, and Failure if there is a file.
    """
    context = click.get_current_context()
    document = context.meta.get(CONFIG)
    if document is None:
        return make(options)
    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    options |= document.options(str(context.command.name), given)
    return Source(context.command, document.path, given, make).made(document, options)
