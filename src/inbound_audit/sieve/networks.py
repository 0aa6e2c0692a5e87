"""Functions of address lists in files: ``define_cidr``, ``check_cidr``, ``query_cidr``, ``reload_cidr``.

A script runs once per session, so a list is read when it is first defined. A definition that is the same does nothing.
"""

from __future__ import annotations

from typing import Annotated

from inbound_audit.errors import PolicyError
from inbound_audit.sieve.functions import AsText, AsWhole, Reader, function, functions
from inbound_audit.sieve.run import DEFAULT_REFRESH_S, AddressList, Run
from inbound_audit.sieve.values import Value, text

TRUE, FALSE = "true", "false"


def one_of(*known: str) -> Reader:
    """Reads one of some words."""

    def read(value: Value) -> str:
        word = text(value).lower()
        if word not in known:
            raise PolicyError(f"{text(value)!r}: expected {' or '.join(map(repr, known))}")
        return word

    return Reader(read)


def _source(value: Value) -> tuple[str, str]:
    """Reads ``"/path/of/list?want=a"``: the path, and the record that a match returns. Raises PolicyError."""
    path, mark, want = text(value).rpartition("?want=")
    if not mark or want not in ("a", "txt"):
        raise PolicyError(f"{text(value)!r}: expected the file, followed by ?want=a or ?want=txt")
    return path, want


Source = Annotated["tuple[str, str]", Reader(_source)]
Kind = Annotated[str, one_of("boolean", "value")]
Truth = Annotated[str, one_of(TRUE, FALSE)]
Refresh = Annotated[str, Reader(text, "refresh interval")]


def define_cidr(run: Run, name: AsText, datasource: AsText, query: AsText, refresh: Refresh = "") -> None:
    raise PolicyError("data sources are not part of inbound_audit; define_cidr takes a hash with dstype rbldnsd")


def define_list(
    run: Run,
    cidrname: AsText,
    query: Source,
    dstype: AsText = "",
    cachename: AsText = "",
    type: Kind = "boolean",
    refresh: AsWhole = DEFAULT_REFRESH_S,
    interpolate: Truth = TRUE,
    optimize: Truth = TRUE,
    cidr_column: AsText = "",
    value_column: AsText = "",
    default_value: AsText = "",
) -> None:
    """The options of the reference; those of its data sources change nothing here."""
    if dstype != "rbldnsd":
        raise PolicyError(f"option 'dstype': expected 'rbldnsd', not {dstype!r}")
    chosen = AddressList(*query, refresh, type == "value", default_value, interpolate == TRUE)
    run.host.define_list(cidrname, chosen)


def query_cidr(run: Run, name: AsText, *, ip: Annotated[str | None, Reader(text, "address")] = None) -> Value:
    """The value of a match, or the default value; of a boolean list ``true`` or ``false``."""
    chosen = run.host.defined_list(name)
    found = run.host.lists.query(name, run.ac.remote_ip if ip is None else ip, chosen.expands)
    if not chosen.has_values:
        return FALSE if found is None else TRUE
    return chosen.default if found is None else found


def check_cidr(
    run: Run, name: AsText, expected: Truth = TRUE, *, ip: Annotated[str | None, Reader(text, "address")] = None
) -> Value:
    """Whether a boolean list has the address. A list of values never has, as in the reference."""
    if run.host.defined_list(name).has_values:
        return expected == FALSE
    return query_cidr(run, name, ip=ip) == expected


def reload_cidr(run: Run, name: AsText) -> None:
    run.host.defined_list(name)
    run.host.lists.reload(name)


DEFINE_LIST = function(define_list)
NETWORKS = {
    "define_cidr": function(define_cidr, by_hash=DEFINE_LIST),
    "query_cidr": function(query_cidr, tags=("ip",)),
    **functions(reload_cidr),
}
CHECK_CIDR = function(check_cidr, tags=("ip",))
