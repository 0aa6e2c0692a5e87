"""`--config`: the values of a file where the command line has none, at the start and again at each reload."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click
from click.core import ParameterSource

from inbound_audit.cli.config.keys import CONFIG
from inbound_audit.cli.settings import Settings

if TYPE_CHECKING:
    from inbound_audit.cli.config.document import Document


_T = TypeVar("_T")


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
class Source(Generic[_T]):
    """Where the settings of a command come from: a file, and the options that the command line has."""

    command: click.Command
    path: str
    given: dict[str, Any]
    make: Callable[[dict[str, Any]], _T]
    options: Mapping[str, Any]
    """The values of all options at the start."""

    def read(self) -> _T:
        """The settings as they are in the file now. Raises Failure, which names the file and the line."""
        return self.read_beside()[0]

    def read_beside(self) -> tuple[_T, list[str]]:
        """As `read`; beside the settings the parameters whose values differ from those at the start."""
        from inbound_audit.cli.config.document import ConfigError, Document

        document = Document(self.path)
        values = document.options(self.name, self.given)
        try:
            options = self.command.make_context(self.name, [], default_map=values).params
        except click.UsageError as error:  # a key that is needed is gone
            raise ConfigError(self.path, [document.problem(self.name, error.format_message())]) from None
        changed = sorted(name for name, value in options.items() if value != self.options[name])
        return self.made(document, options), changed

    def made(self, document: Document, options: dict[str, Any]) -> _T:
        """Raises Failure for options that do not go together."""
        from inbound_audit.cli.config.document import ConfigError

        try:
            return self.make(dict(options))
        except click.UsageError as error:
            raise ConfigError(self.path, [document.problem(self.name, error.message)]) from None

    def within(self, root: str) -> Source[_T]:
        """The same in a changed root, for a file that lies there."""
        inside = os.path.relpath(os.path.realpath(self.path), os.path.realpath(root))
        return self if inside.startswith("..") else replace(self, path=f"/{inside}")

    @property
    def name(self) -> str:
        return str(self.command.name)


def settings_from(options: dict[str, Any], make: Callable[[dict[str, Any]], Settings]) -> Settings:
    """The settings of the command that runs; `make` makes them of options. With `--config` they can be read again.

    Raises click.UsageError, and Failure if there is a file.
    """
    source = _source(options, make)
    if source is None:
        return make(options)
    return replace(source.made(click.get_current_context().meta[CONFIG], options), source=source)


def options_again(options: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Returns the options of the command that runs, as they are in its file by then. Without `--config` they are always
    the same. The function raises Failure."""
    source = _source(options, dict)
    return (lambda: options) if source is None else source.read


def completed(options: dict[str, Any]) -> dict[str, Any]:
    """The options of the command that runs, with what only its file as a whole says: the limits of its networks. Raises
    Failure."""
    _source(options, dict)
    return options


def _source(options: dict[str, Any], make: Callable[[dict[str, Any]], _T]) -> Source[_T] | None:
    """None without `--config`. Completes `options` by what only the file as a whole says."""
    context = click.get_current_context()
    document = context.meta.get(CONFIG)
    if document is None:
        return None
    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    options |= document.options(str(context.command.name), given)
    return Source(context.command, document.path, given, make, dict(options))
