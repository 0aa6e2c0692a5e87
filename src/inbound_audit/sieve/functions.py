"""What a function of the language is: a Python function whose annotations say how each argument is read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeAlias, get_args

from inbound_audit.errors import InboundAuditError, PolicyError, did_you_mean
from inbound_audit.sieve.values import Hash, Scalar, Value, mapping, members, real, text, whole

NO_DEFAULT = inspect.Parameter.empty


class Reader(NamedTuple):
    """How an argument is read: `read` makes of a value what the function works with. Raises InboundAuditError.

    `check` also reads constant arguments, so that an error is raised when the script is loaded. `name` is what
    messages call the argument, in place of the parameter's own name.
    """

    read: Callable[[Value], Any]
    name: str = ""
    check: Callable[[Any], object] | None = None


AsIs = Annotated[Value, Reader(lambda value: value)]
AsText = Annotated[str, Reader(text)]
AsList = Annotated[list[Scalar], Reader(members)]
AsHash = Annotated[Hash, Reader(mapping, "hash")]
AsReal = Annotated[float, Reader(real, "number")]
AsWhole = Annotated[int, Reader(whole)]

Runner: TypeAlias = Callable[..., Value | None]


class Parameter(NamedTuple):
    name: str
    reader: Reader
    default: object


def _any_fit(known: Mapping[str, Any]) -> None:
    """A check that every combination of arguments passes."""


@dataclass(frozen=True)
class Function:
    """A function or an action: `run` is called with the run, the place of the call if `placed`, and the arguments."""

    run: Runner
    parameters: tuple[Parameter, ...]
    """What may be given by position."""
    options: Mapping[str, Parameter]
    """What a hash may give, by name: the parameters, and those that have no position."""
    takes: tuple[int, ...]
    """Numbers of arguments that make sense."""
    has_value: bool
    """It has a value, which may be assigned."""
    placed: bool
    by_hash: Function | None = None
    """What runs instead, with the hash's options, when the only argument is a hash."""
    tags: tuple[str, ...] = ()
    """Options that it takes as tags, each followed by a value."""
    ends: bool = False
    """With arguments it is terminal: the script ends with the rule that it stands in."""
    check: Callable[[Mapping[str, Any]], object] = _any_fit
    """Raises InboundAuditError for arguments that do not fit together; takes those that are constants, by name."""

    def read_options(self, given: Hash) -> dict[str, Any]:
        """The options in a hash, each read by its own reader. Raises PolicyError for an unknown or missing one, too."""
        found = {name: self.read_option(name, value) for name, value in given.items()}
        for name, (_, _, default) in self.options.items():
            if default is NO_DEFAULT and name not in found:
                raise PolicyError(f"option {name!r} is missing")
        return found

    def read_option(self, name: str, value: Value) -> Any:
        """Raises PolicyError."""
        if name not in self.options:
            known = ", ".join(self.options)
            raise PolicyError(f"no option {name!r} (there are {known}){did_you_mean(name, self.options)}")
        try:
            return self.options[name].reader.read(value)
        except InboundAuditError as error:
            raise PolicyError(f"option {name!r}: {error}") from None


def function(run: Runner, **more: Any) -> Function:
    """The function that runs `run`: its parameters are those that are annotated with a `Reader`. O(parameters).

    A keyword-only one can't be given by position. `more` are attributes that `run` does not show.
    """
    signature = inspect.signature(run, eval_str=True)
    options: dict[str, Parameter] = {}
    positional: list[Parameter] = []
    for name, parameter in signature.parameters.items():
        reader = _reader(parameter.annotation)
        if reader is not None:
            options[name] = Parameter(reader.name or name, reader, parameter.default)
            if parameter.kind is not parameter.KEYWORD_ONLY:
                positional.append(options[name])
    least = sum(parameter.default is NO_DEFAULT for parameter in positional)
    shown = {
        "takes": tuple(range(least, len(positional) + 1)),
        "has_value": signature.return_annotation is not None,
        "placed": "at" in signature.parameters,
    }
    return Function(run, tuple(positional), options, **{**shown, **more})


def _reader(hint: object) -> Reader | None:
    """The reader that an annotation has, be it optional or not."""
    data = [data for one in (hint, *get_args(hint)) for data in getattr(one, "__metadata__", ())]
    return next((one for one in data if isinstance(one, Reader)), None)


def functions(*runs: Runner) -> dict[str, Function]:
    """Functions with the names that they have in Python."""
    return {run.__name__: function(run) for run in runs}
