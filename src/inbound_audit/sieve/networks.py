"""Functions of address lists in files: ``define_cidr``, ``check_cidr``, ``query_cidr``, ``reload_cidr``.

A script runs once per session, so a list is read when it is first defined. A definition that is the same does nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from inbound_audit.errors import PolicyError
from inbound_audit.sieve.functions import Function, Parameter, options
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.values import Hash, Value, text, whole

TRUE, FALSE = "true", "false"


def one_of(*known: str) -> Callable[[Value], str]:
    """Reads one of some words."""

    def read(value: Value) -> str:
        word = text(value).lower()
        if word not in known:
            raise PolicyError(f"{text(value)!r}: expected {' or '.join(map(repr, known))}")
        return word

    return read


def source(value: Value) -> tuple[str, str]:
    """Reads ``"/path/of/list?want=a"``: the path, and the record that a match returns. Raises PolicyError."""
    path, mark, want = text(value).rpartition("?want=")
    if not mark or want not in ("a", "txt"):
        raise PolicyError(f"{text(value)!r}: expected the file, followed by ?want=a or ?want=txt")
    return path, want


_OPTIONS = {
    "cidrname": text,
    "dstype": text,
    "cachename": text,
    "query": source,
    "type": one_of("boolean", "value"),
    "refresh": whole,
    "interpolate": one_of(TRUE, FALSE),
    "optimize": one_of(TRUE, FALSE),
    "cidr_column": text,
    "value_column": text,
    "default_value": text,
}


def define_cidr(run: Run, *_: str | int) -> None:
    raise PolicyError("data sources are not part of inbound_audit; define_cidr takes a hash with dstype rbldnsd")


def define_by_hash(run: Run, given: Hash) -> None:
    chosen = options(given, _OPTIONS)
    if chosen.get("dstype") != "rbldnsd":
        raise PolicyError(f"option 'dstype': expected 'rbldnsd', not {chosen.get('dstype', '')!r}")
    for name in ("cidrname", "query"):
        if name not in chosen:
            raise PolicyError(f"option {name!r} is missing")
    run.host.define_list(chosen["cidrname"], chosen)


def query_cidr(run: Run, name: str, *, ip: str | None = None) -> Value:
    """The value of a match, or the default value; of a boolean list ``true`` or ``false``."""
    chosen = run.host.list_options(name)
    expand = chosen.get("interpolate") != FALSE
    found = run.host.lists.query(name, run.ac.remote_ip if ip is None else ip, expand)
    if chosen.get("type") != "value":
        return FALSE if found is None else TRUE
    if found is None:
        return str(chosen.get("default_value", ""))
    return found


def check_cidr(run: Run, name: str, expected: str = TRUE, *, ip: str | None = None) -> bool:
    """Whether a boolean list has the address. A list of values never has, as in the reference."""
    if run.host.list_options(name).get("type") == "value":
        return expected == FALSE
    return query_cidr(run, name, ip=ip) == expected


def reload_cidr(run: Run, name: str) -> None:
    run.host.list_options(name)
    run.host.lists.reload(name)


_NAME, _IP = Parameter("name", text), {"ip": Parameter("address", text)}

NETWORKS = {
    "define_cidr": Function(
        define_cidr,
        tuple(Parameter(name, text) for name in ("name", "datasource", "query", "refresh interval")),
        (3, 4),
        by_hash=define_by_hash,
    ),
    "query_cidr": Function(query_cidr, (_NAME,), (1,), has_value=True, tags=_IP),
    "reload_cidr": Function(reload_cidr, (_NAME,), (1,)),
}
CHECK_CIDR = Function(check_cidr, (_NAME, Parameter("expected", one_of(TRUE, FALSE))), (1, 2), has_value=True, tags=_IP)
