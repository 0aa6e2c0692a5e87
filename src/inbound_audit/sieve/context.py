"""Functions of context variables: what a script keeps of the connection and of the message.

A script runs before the banner, so no message is there yet: its variables are those that the script sets itself.
"""

from __future__ import annotations

from functools import partial

from inbound_audit.sieve.functions import Function, Parameter
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.values import UNSET, Value, text


def vctx_get(run: Run, key: str, *, scope: str) -> Value:
    return run.context[scope].get(key, UNSET)


def vctx_set(run: Run, key: str, value: str, *, scope: str) -> None:
    run.context[scope][key] = value


def vctx_delete(run: Run, key: str, *, scope: str) -> None:
    run.context[scope].pop(key, None)


SCOPES = ("vctx_conn", "vctx_mess")
_KEY = Parameter("key", text)

CONTEXT = {}
for _scope in SCOPES:
    CONTEXT[f"{_scope}_get"] = Function(partial(vctx_get, scope=_scope), (_KEY,), (1,), has_value=True)
    CONTEXT[f"{_scope}_set"] = Function(partial(vctx_set, scope=_scope), (_KEY, Parameter("value", text)), (2,))
    CONTEXT[f"{_scope}_delete"] = Function(partial(vctx_delete, scope=_scope), (_KEY,), (1,))
