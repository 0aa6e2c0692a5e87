"""A configuration file: read and checked as a whole, each problem with its line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from inbound_audit.cli.config import keys
from inbound_audit.cli.config.keys import Key, Networks, ValueProblem
from inbound_audit.cli.config.positions import Path, lines_of, parse
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.errors import InboundAuditError, did_you_mean
from inbound_audit.regular_file import read_setting

if TYPE_CHECKING:
    from pydantic import BaseModel

_NOTHING: Mapping[str, Any] = {}
_TOO_DEEP = "is nested too deeply"
_FIELD = "key_{}"
"""The names of fields differ from those of the keys: some of these are methods of models."""


class Problem(NamedTuple):
    """What is wrong with a file; `path` is empty if it is no TOML."""

    line: int
    path: Path
    why: str

    @property
    def key(self) -> str:
        """``serve.limit."/24"``, ``serve.listen[1]``."""
        parts = (f"[{part}]" if isinstance(part, int) else f".{_written(part)}" for part in self.path)
        return "".join(parts).removeprefix(".")


class ConfigError(Failure):
    """A file that can't be used as it is. The message has the first of its problems."""

    exit_code = 2

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = sorted(problems)
        more = len(problems) - 1
        rest = f" (and {more} more: inbound-audit check {file})" if more else ""
        super().__init__(self.lines[0] + rest)

    @property
    def lines(self) -> list[str]:
        """One for each problem: ``FILE:LINE: KEY: why``."""
        return [": ".join(filter(None, [f"{self.file}:{one.line}", one.key, one.why])) for one in self.problems]


class Document:
    """A file whose keys and values are right. Raises ConfigError if they are not, and Failure if it can't be read."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._raw = read_setting(path)
        except OSError as error:
            raise Failure(f"--config {path}: {reason(error)}") from None
        self._text, self._table = self._parse()
        self._values = self._validate()

    @property
    def commands(self) -> list[str]:
        """The commands that have a table here."""
        return [name for name in keys.tables() if name in self._table]

    def options(self, command: str, given: Mapping[str, Any] = _NOTHING) -> dict[str, Any]:
        """The values of a command's options, by the names of its parameters: those of its table, and of the keys before
        all tables that its table does not have. Those that are `given` come before them."""
        table, common = keys.tables()[command], keys.common_keys()
        shared = {name for name, key in table.items() if common.get(name) == key}
        values = {name: value for name, value in self._values.items() if name in shared}
        values |= self._values.get(command, {})
        found = {str(table[name].option.name): value for name, value in values.items()} | dict(given)
        networks = found.get("network")
        if isinstance(networks, Networks):
            found["network"], found["limit"] = networks.networks, (*found.get("limit", ()), *networks.limits)
        return found

    def problem(self, command: str, message: str) -> Problem:
        """What is wrong with options together: at the first option that the message names and that the file has, or at
        the command's table."""
        table = keys.tables()[command]
        named = [name for name in re.findall(r"--([a-z][a-z-]*)", message) if name in table]
        paths: list[Path] = [(*of, name) for name in named for of in ((command,), ())]
        path = next((path for path in (*paths, (command,)) if path in self._lines), ())
        return Problem(self._lines.get(path, 1), path, message.rstrip("."))

    def _parse(self) -> tuple[str, dict[str, Any]]:
        try:
            text = self._raw.decode()
            return text, parse(text)
        except UnicodeDecodeError as error:
            line, why = self._raw.count(b"\n", 0, error.start) + 1, "is no text in UTF-8"
        except RecursionError:
            line, why = 1, _TOO_DEEP
        except ValueError as error:  # a number of many thousand digits is one, too
            found = re.fullmatch(r"(.*?) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
            last = self._raw.count(b"\n") + 1
            line, why = (int(found[2] or last), found[1]) if found else (1, str(error))
        raise ConfigError(self.path, [Problem(line, (), why)])

    @cached_property
    def _lines(self) -> dict[Path, int]:
        return lines_of(self._text)

    def _validate(self) -> dict[str, Any]:
        from pydantic import ValidationError

        try:
            found = model().model_validate(self._table)
        except ValidationError as error:
            raise ConfigError(self.path, self._problems(error)) from None
        return _given(found)

    def _problems(self, error: Any) -> list[Problem]:
        lines, found = self._lines, []
        for one in error.errors(include_url=False):
            path, inner = one["loc"], one.get("ctx", {}).get("problems", [((), one["msg"])])
            if one["type"] == "extra_forbidden":
                inner = [((), _unknown(path))]
            elif one["type"] in ("model_type", "model_attributes_type"):
                inner = [((), f"write a table: [{_written(str(path[0]))}]")]
            found += [_at(lines, (*path, *below), why) for below, why in inner]
        return found


def _given(model: BaseModel) -> dict[str, Any]:
    """The values by the names of their keys."""
    from pydantic import BaseModel

    fields = type(model).model_fields
    values = {str(fields[name].alias): getattr(model, name) for name in model.model_fields_set}
    return {name: _given(value) if isinstance(value, BaseModel) else value for name, value in values.items()}


def _at(lines: Mapping[Path, int], path: Path, why: str) -> Problem:
    """At the line of that key, or of the table in which it is missing."""
    while path not in lines and path:
        path = path[:-1]
    return Problem(lines.get(path, 1), path, why)


def _written(name: str) -> str:
    """A part of a key as TOML has it."""
    if re.fullmatch(r"[A-Za-z0-9_-]+", name):
        return name
    return json.dumps(name)


def _unknown(path: Path) -> str:
    name, tables = str(path[-1]), keys.tables()
    owners = [command for command, table in tables.items() if name in table]
    if len(path) == 1 and owners:
        return f"unknown key here; write it in [{owners[0]}]"
    return f"unknown key{did_you_mean(name, tables[str(path[0])] if len(path) > 1 else (*keys.common_keys(), *tables))}"


# ---- the models


@cache
def model() -> type[BaseModel]:
    """The model of a file, made from the options of the commands."""
    from pydantic import Field

    fields: dict[str, Any] = _fields(keys.common_keys())
    for name, table in keys.tables().items():
        fields[_FIELD.format(name)] = (
            _model(name, _fields(table)),
            Field(None, alias=name, description=f"Options of inbound-audit {name}."),
        )
    return _model("configuration", fields)


def schema() -> dict[str, Any]:
    """The JSON Schema of a file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **model().model_json_schema()}


def _model(name: str, fields: Mapping[str, Any]) -> type[BaseModel]:
    from pydantic import ConfigDict, create_model

    config = ConfigDict(extra="forbid", title=name, field_title_generator=lambda _, about: str(about.alias))
    return create_model(name, __config__=config, **fields)


def _fields(table: Mapping[str, Key]) -> dict[str, Any]:
    from typing import Annotated

    from pydantic import Field, PlainValidator, WithJsonSchema

    return {
        _FIELD.format(key.option.name): (
            Annotated[Any, PlainValidator(_reader(key)), WithJsonSchema(key.schema)],
            Field(default_factory=lambda: None, alias=name, description=key.about),
        )
        for name, key in table.items()
    }


def _reader(key: Key) -> Any:
    from pydantic_core import PydanticCustomError

    def read(value: object) -> Any:
        try:
            return key.read(value)
        except ValueProblem as problem:
            problems = problem.problems
        except (ValueError, InboundAuditError) as error:
            problems = [((), str(error))]
        raise PydanticCustomError("value", "is wrong", {"problems": problems})

    return read
