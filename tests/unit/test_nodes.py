"""The nodes of the cluster, as an audit and its policies have them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inbound_audit import InboundAudit, LuaPolicy, SievePolicy
from inbound_audit._ipcount import NODE_STATES, NodeTrees
from inbound_audit.nodes import STATES, counted_of

LUA = """
local policy = {}
function policy:validate_connect(ac, vctx)
  local counted, known = msys.audit.nodes()
  vctx:set_code(421, counted .. " of " .. known)
  return msys.core.VALIDATE_DONE
end
msys.registerModule("nodes", policy)
"""
SIEVE = 'require "ec_action";\n($counted, $known) = audit_nodes;\nec_action 421 "${counted} of ${known}";\n'


@pytest.fixture
def audit() -> Iterator[InboundAudit]:
    with InboundAudit() as made:
        yield made


def said(audit: InboundAudit, directory: Path) -> set[str]:
    """How many nodes are counted and known, as a policy in each language finds it."""
    (directory / "p.lua").write_text(LUA)
    (directory / "p.sieve").write_text(SIEVE)
    with audit.listener().session("192.0.2.7") as ac:
        policies = (
            LuaPolicy(directory / "p.lua", on_error="refuse"),
            SievePolicy(directory / "p.sieve", on_error="refuse"),
        )
        return {policy.validate_connect(ac).text for policy in policies}


def test_a_host_without_an_agent_is_a_cluster_of_one(audit: InboundAudit, tmp_path: Path) -> None:
    assert audit.nodes == ()
    assert counted_of(audit.nodes) == (1, 1)
    assert said(audit, tmp_path) == {"1 of 1"}


def test_nodes_that_are_lost_are_known_and_not_counted(audit: InboundAudit, tmp_path: Path) -> None:
    trees = NodeTrees(audit)
    for name, state in (("mx1", "this host"), ("mx3", "heard"), ("mx2", "lost")):
        trees.add(name).set_word(NODE_STATES[state], 1)
    assert [(node.name, node.state, node.counted) for node in audit.nodes] == [
        ("mx1", "this host", True),
        ("mx2", "lost", False),
        ("mx3", "heard", True),
    ]
    assert audit.nodes[0].age_s == 0
    assert audit.nodes[1].age_s > 0
    assert said(audit, tmp_path) == {"2 of 3"}


def test_outside_of_a_hook_there_is_no_session_to_ask_for(tmp_path: Path, audit: InboundAudit) -> None:
    (tmp_path / "p.lua").write_text(LUA + "msys.audit.nodes()\n")
    with pytest.raises(Exception, match=r"msys.audit.nodes: no session is being validated"):
        LuaPolicy(tmp_path / "p.lua")
    assert audit.nodes == ()


def test_every_state_has_a_name() -> None:
    assert {number: name for name, number in NODE_STATES.items()}.items() <= STATES.items()
