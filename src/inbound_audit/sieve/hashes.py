"""Hashes, and values of the connection."""

from __future__ import annotations

from inbound_audit.sieve.functions import Function, Parameter
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.values import UNSET, Hash, Value, mapping, text


def anything(value: Value) -> Value:
    return value


def hash_create(run: Run) -> Value:
    return {}


def hash_set(run: Run, into: Hash, key: str, value: Value) -> None:
    into[key] = value


def hash_get(run: Run, of: Hash, key: str) -> Value:
    return of.get(key, UNSET)


def vctx_conn_set(run: Run, key: str, value: str) -> None:
    run.context[key] = value


def vctx_conn_get(run: Run, key: str) -> Value:
    return run.context.get(key, UNSET)


_HASH, _KEY = Parameter("hash", mapping), Parameter("key", text)

HASHES = {
    "hash_create": Function(hash_create, answers=True),
    "hash_set": Function(hash_set, (_HASH, _KEY, Parameter("value", anything)), (3,)),
    "hash_get": Function(hash_get, (_HASH, _KEY), (2,), answers=True),
    "vctx_conn_set": Function(vctx_conn_set, (_KEY, Parameter("value", text)), (2,)),
    "vctx_conn_get": Function(vctx_conn_get, (_KEY,), (1,), answers=True),
}
