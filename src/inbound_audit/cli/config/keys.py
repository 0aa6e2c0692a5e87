"""The tables and keys of a configuration file: the commands that have `--config`, and their other options.

A key has the name of its option and the value that the option has. What may stand several times is a list, or a table
where the option's text is a pair. Numbers and switches are TOML's own, all else is the text of the command line.

    limit = {"/24,/48" = [100, "300/5m"]}
    network.partner = {prefixes = ["192.0.2.0/24"], limits = {"/32" = 50}, total = 500}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import click

from inbound_audit.cli import params
from inbound_audit.cli.config.positions import Path
from inbound_audit.errors import InboundAuditError, did_you_mean

CONFIG = "config"
"""The parameter of a command that has a table."""

_PAIRS = ("/LENGTH=N", "LIMIT", "COLUMN=NAME")
"""The kinds of options whose text is a pair."""

_NUMBER_OR_TEXT = {"type": ["integer", "string"]}
_PAIR_SCHEMA = {
    "type": "object",
    "additionalProperties": {"anyOf": [_NUMBER_OR_TEXT, {"type": "array", "items": _NUMBER_OR_TEXT}]},
}
_MEMBERS: dict[str, Any] = {
    "prefixes": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    "limits": _PAIR_SCHEMA,
    "total": _PAIR_SCHEMA["additionalProperties"],
}
_NETWORK_SCHEMA = {
    "type": "object",
    "properties": _MEMBERS,
    "required": ["prefixes"],
    "additionalProperties": False,
}

_Part = tuple[Path, Callable[[], Any]]


class ValueProblem(ValueError):
    """What is wrong inside of a value: where, and why."""

    def __init__(self, problems: list[tuple[Path, str]]) -> None:
        super().__init__(problems)
        self.problems = problems


class Networks(NamedTuple):
    """The value of a table of networks: that of the option, and values of the option for limits."""

    networks: tuple[Any, ...]
    limits: tuple[Any, ...]


@dataclass(frozen=True)
class Key:
    """One option as a key of a table."""

    option: click.Parameter

    @property
    def name(self) -> str:
        """Of the option, without its dashes; of an argument, its own."""
        return next((one[2:] for one in self.option.opts if one.startswith("--")), str(self.option.name))

    @property
    def about(self) -> str:
        return getattr(self.option, "help", None) or f"The argument {self.option.human_readable_name}."

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of a value."""
        kind: Any = self.option.type
        found: dict[str, Any]
        if self._is_switch:
            found = {"type": "boolean"}
        elif self._is_network or self._is_pair:
            return _PAIR_SCHEMA if self._is_pair else {"type": "object", "additionalProperties": _NETWORK_SCHEMA}
        else:
            found = {"enum": list(kind.choices)} if isinstance(kind, click.Choice) else dict(self._kind_schema)
        if self._is_list:
            return {"type": "array", "items": found}
        default = self.option.default
        if isinstance(default, (bool, int, str)):
            found["default"] = int(default) if found.get("type") == "integer" else default
        return found

    @property
    def _kind_schema(self) -> Mapping[str, Any]:
        return getattr(self.option.type, "schema", None) or {"type": "string"}

    @property
    def _is_switch(self) -> bool:
        return bool(getattr(self.option, "is_flag", False))

    @property
    def _is_list(self) -> bool:
        return self.option.multiple or self.option.nargs != 1

    @property
    def _is_pair(self) -> bool:
        return self.option.type.name in _PAIRS

    @property
    def _is_network(self) -> bool:
        return self.option.type is params.named_network

    def read(self, value: object) -> Any:
        """The value of the option. Raises ValueError, which may be a ValueProblem, or InboundAuditError."""
        if self._is_switch:
            return _of_type(bool, value, "write true or false")
        if self._is_network:
            return _networks(_of_type(dict, value, 'write a table, such as partner = {prefixes = ["192.0.2.0/24"]}'))
        if self._is_pair:
            return tuple(_collect(_pairs(self.option.type, _of_type(dict, value, "write a table"))))
        if not self._is_list:
            return self._read_one(value)
        values = _of_type(list, value, "write a list, in brackets")
        return tuple(_collect(((number,), partial(self._read_one, each)) for number, each in enumerate(values)))

    def _read_one(self, value: object) -> Any:
        kind: Any = self.option.type
        types = self._kind_schema["type"]
        if "integer" in types and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        elif types == "integer":
            raise ValueError("write a whole number, without quotes")
        return _convert(kind, _text(value))


@cache
def tables() -> dict[str, dict[str, Key]]:
    """The keys of each command that has `--config`, by their names."""
    from inbound_audit.cli import COMMANDS

    found = {str(command.name): {str(one.name): Key(one) for one in command.params} for command in COMMANDS}
    return {
        name: {key.name: key for parameter, key in keys.items() if parameter != CONFIG}
        for name, keys in found.items()
        if CONFIG in keys
    }


@cache
def common_keys() -> dict[str, Key]:
    """The keys that may stand before all tables: of options that several commands have in common."""
    keys = [key for table in tables().values() for key in table.values()]
    number = Counter(id(key.option) for key in keys)
    return {key.name: key for key in keys if number[id(key.option)] > 1}


def _of_type(kind: type, value: object, advice: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(advice)
    return value


def _text(value: object) -> str:
    text: str = _of_type(str, value, "write a text, in quotes")
    if "\0" in text:
        raise ValueError("a text has no NUL")
    return text


def _convert(kind: Any, text: str) -> Any:
    if isinstance(kind, params.Kind):
        return kind.read(text)
    if isinstance(kind, click.Choice) and text not in kind.choices:
        raise ValueError(f"{text!r}: write one of {', '.join(kind.choices)}{did_you_mean(text, kind.choices)}")
    return text


def _collect(parts: Iterable[_Part]) -> list[Any]:
    """What the functions return. Raises ValueProblem with all that they raise, each below its path."""
    found: list[Any] = []
    problems: list[tuple[Path, str]] = []
    for path, read in parts:
        try:
            found.append(read())
        except ValueProblem as problem:
            problems += [((*path, *inner), why) for inner, why in problem.problems]
        except (ValueError, InboundAuditError) as error:
            problems.append((path, str(error)))
    if problems:
        raise ValueProblem(problems)
    return found


def _pairs(kind: Any, table: Mapping[str, object], of: str = "") -> Iterator[_Part]:
    """Each value of each key, as the text of an option."""
    for name, value in table.items():
        values = value if isinstance(value, list) else [value]
        for number, each in enumerate(values):
            path: Path = (name, number) if isinstance(value, list) else (name,)
            yield path, partial(_pair, kind, f"{of}{name}", each)


def _pair(kind: Any, name: str, value: object) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("write a number or a text")
    return _convert(kind, _text(f"{name}={value}"))


def _networks(table: Mapping[str, object]) -> Networks:
    found = _collect(((name,), partial(_network, name, network)) for name, network in table.items())
    return Networks(tuple(one for one, _ in found), tuple(limit for _, limits in found for limit in limits))


def _network(name: str, network: object) -> tuple[Any, list[Any]]:
    members: dict[str, Any] = _of_type(dict, network, "write a table with prefixes, and with limits or total")
    readers: dict[str, Callable[[], Any]] = {
        "prefixes": partial(_prefixes, name, members.get("prefixes")),
        "limits": lambda: _of_type(dict, members.get("limits", {}), "write a table of prefix lengths"),
    }
    unknown = [((key,), partial(_unknown, key)) for key in members if key not in _MEMBERS]
    named, limits = _collect([*unknown, *(((key,), read) for key, read in readers.items())])[-2:]
    of = f"{name}:"
    parts = [(("limits", *path), read) for path, read in _pairs(params.limit, limits, of)]
    parts += _pairs(params.limit, {"total": members["total"]} if "total" in members else {}, of)
    return named, _collect(parts)


def _prefixes(name: str, value: object) -> Any:
    values = _of_type(list, value, 'write a list, such as prefixes = ["192.0.2.0/24"]')
    texts = _collect(((number,), partial(_prefix, each)) for number, each in enumerate(values))
    if "=" in name:
        raise ValueError(f"{name!r}: write a name without an equals sign")
    return params.named_network.read(f"{name}={','.join(texts)}")


def _prefix(value: object) -> Any:
    return params.network.read(_text(value))


def _unknown(key: str) -> None:
    raise ValueError(f"unknown key{did_you_mean(key, _MEMBERS)}")
