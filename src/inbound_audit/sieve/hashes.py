"""Functions of hashes."""

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


def hash_keys(run: Run, of: Hash) -> Value:
    """In the order in which the keys were first set."""
    return [*of]


def hash_values(run: Run, of: Hash) -> Value:
    """In the order of the keys; a list as one text. Raises PolicyError for a hash among them."""
    return [value if isinstance(value, (int, float)) else text(value) for value in of.values()]


_HASH, _KEY = Parameter("hash", mapping), Parameter("key", text)

HASHES = {
    "hash_create": Function(hash_create, has_value=True),
    "hash_set": Function(hash_set, (_HASH, _KEY, Parameter("value", anything)), (3,)),
    "hash_get": Function(hash_get, (_HASH, _KEY), (2,), has_value=True),
    "hash_keys": Function(hash_keys, (_HASH,), (1,), has_value=True),
    "hash_values": Function(hash_values, (_HASH,), (1,), has_value=True),
}
