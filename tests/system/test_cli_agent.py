"""`inbound-audit agent` and `cluster` as processes: over Zenoh, with stand-bys, kills and wrong options."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from tests.support.agent_hosts import Host, hosts_of
from tests.support.command_line import environment
from tests.support.waiting import PATIENCE, eventually

pytest.importorskip("zenoh")
pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def two() -> Iterator[list[Host]]:
    with hosts_of(2) as hosts:
        yield hosts


def test_two_agents_count_each_other_and_one_takes_over(two: list[Host]) -> None:
    one, other = two
    first = one.start()
    other.start()
    with one.audit() as here, other.audit() as there:
        with here.listener().session("192.0.2.7"), there.listener().session("192.0.2.8"):
            eventually(lambda: here.inbound_session_count("192.0.2.0/24", "inbound_cidr") == 2)
            eventually(lambda: there.inbound_session_count("192.0.2.0/24", "inbound_cidr") == 2)
            eventually(lambda: one.nodes() == {"mx1": ("this host", 1), "mx2": ("heard", 1)})
            check_views(one)
            second = one.start()
            eventually(lambda: "this one waits" in one.log)  # from now on it receives signals
            first.kill()
            eventually(lambda: here.inbound_session_count("192.0.2.0/24", "inbound_cidr") == 2 and len(here.nodes) == 2)
        eventually(lambda: there.total("inbound_cidr") == 0)
        second.terminate()
        assert second.wait(PATIENCE) == 0
        eventually(lambda: [node.state for node in there.nodes] == ["this host", "lost"])


def check_views(host: Host) -> None:
    """What every command says of a node and of the sum."""
    tree = [{"prefix": "192.0.2.8/32", "count": 1}]
    host.await_output(lambda said: json.loads(said)["tree"] == tree, "show", "mail", "--node", "mx2", "--json")
    host.await_output(lambda said: json.loads(said)["total"] == 1, "top", "mail", "--node", "mx1", "--json")
    of_all = ("top", "mail", "--service", "inbound_cidr", "--json")
    host.await_output(lambda said: json.loads(said)["total"] == 2, *of_all)
    first, last = "cluster test, node mx1, connected", "2 of 2 nodes are counted, 2 sessions"
    host.await_output(lambda said: said.splitlines()[:: len(said.splitlines()) - 1] == [first, last], "cluster", "mail")
    console = host.run("console", "mail", "cluster", "membership").stdout
    assert [line.split()[0] for line in console.splitlines()] == ["mx1", "mx2"]
    shown = f"lazy, snapped cidrtree 'inbound_cidr', view 'mx2'\n{1:7d}{' ' * 25}192.0.2.8/32\n"
    show = ("console", "mail", "cluster", "shared", "show", "inbound_cidr", "from", "mx2")
    host.await_output(lambda said: said == shown, *show)
    wrong = host.run("show", "mail", "--node", "mx9")
    assert wrong.returncode == 1
    assert "mx9" in wrong.stderr
    assert "mx2" in wrong.stderr


def test_without_an_agent_it_says_what_to_start(two: list[Host]) -> None:
    with two[0].audit() as audit:
        done = two[0].run("cluster", "mail")
        assert done.returncode == 1
        assert "no agent runs here (inbound-audit agent mail --cluster CLUSTER --node NODE)" in done.stderr
        assert audit.nodes == ()
        assert "no agent runs" in two[0].run("show", "mail", "--node", "mx1").stderr


def test_an_agent_that_is_stopped_is_no_missing_agent(two: list[Host]) -> None:
    one, other = two
    for host in two:
        host.start()
    with one.audit() as here, other.audit() as there, there.listener().session("192.0.2.8"):
        listed = ("console", "mail", "cluster", "shared", "list")
        eventually(lambda: here.total("inbound_cidr") == 1)
        one.await_output(lambda said: said.endswith(", view of 2 of 2 nodes\n"), *listed)
        one.agent.send_signal(signal.SIGSTOP)
        done = one.run("cluster", "mail")
        assert done.returncode == 1
        assert f"the agent does not answer (process {one.agent.pid} did not answer within 2 s)" in done.stderr
        assert done.stdout.splitlines()[-1] == "2 of 2 nodes are counted, 1 session"
        console = one.run("console", "mail", "cluster", "membership").stdout
        assert console.startswith("the agent does not answer")
        assert one.run("cluster", "mail", "--json").stdout.count('"agent": null') == 1
        one.agent.send_signal(signal.SIGCONT)
        other.agent.kill()
        one.await_output(lambda said: said.endswith(", view of 1 of 2 nodes\n"), *listed)
        eventually(lambda: here.total("inbound_cidr") == 0, "the same here")
        rows = json.loads(one.run("console", "mail", "--json", "cluster", "shared", "list").stdout)["rows"]
        assert (rows[0]["nodes_counted"], rows[0]["nodes_known"]) == (1, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cluster", "eu", "--node", "a b", "--listen", "tcp/127.0.0.1:0"], "--node 'a b'"),
        (["--cluster", "e/u", "--node", "a", "--listen", "tcp/127.0.0.1:0"], "--cluster 'e/u'"),
        (["--cluster", "eu", "--node", "a", "--listen", "127.0.0.1"], "--listen '127.0.0.1'"),
        (["--cluster", "eu", "--node", "a", "--listen", "tcp/192.0.2.1:7447"], "--insecure"),
        (["--cluster", "eu", "--node", "a", "--join-file", "/none"], "--join-file /none: no such file"),
        (["--cluster", "eu", "--node", "a"], "--listen"),
        (["--cluster", "eu", "--node", "a", "--listen", "tls/127.0.0.1:0", "--tls-cert", "/none"], "--tls-"),
        (["--cluster", "eu", "--node", "a", "--engine", "redis", "--join", "http://x"], "rediss://"),
    ],
)
def test_wrong_options_are_errors_that_say_what_to_write(options: list[str], words: str, two: list[Host]) -> None:
    done = two[0].run("agent", "mail", *options)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_certificate_of_another_node_is_an_error_with_both_names(two: list[Host], tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    made = authority.issue_cert("127.0.0.1", common_name="mx2")
    made.private_key_and_cert_chain_pem.write_to_path(tmp_path / "mx2.pem")
    files = [
        f"--tls-{what}={tmp_path / name}" for what, name in (("cert", "mx2.pem"), ("key", "mx2.pem"), ("ca", "ca.pem"))
    ]
    done = two[0].run("agent", "mail", "--cluster", "eu", "--node", "mx1", "--listen", "tls/[::]:7447", *files)
    assert done.returncode == 1
    assert "its common name is 'mx2', and this node is 'mx1'" in done.stderr


def test_a_node_of_another_cluster_is_reported_and_not_counted(two: list[Host]) -> None:
    one, other = two
    other.options[other.options.index("--cluster") + 1] = "us"
    for host in two:
        host.start()
    with one.audit() as here, other.audit() as there, there.listener().session("192.0.2.8"):
        words = "node mx2, to which this one has a link, is of the cluster us and not of test: see --cluster and --join"
        eventually(lambda: words in one.log, "it is reported")
        assert [node.name for node in here.nodes] == ["mx1"]
        assert here.total("inbound_cidr") == 0


def test_the_example_shows_the_same_sum_on_every_node() -> None:
    """`make cluster`, until all three nodes count sessions of all three."""
    example = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "cluster_demo.py")], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert example.stdout is not None
    views: list[list[str]] = [[]]
    try:
        for line in example.stdout:
            if line.strip():
                views[-1].append(line)
                continue
            if all_agree(views[-1]):
                break
            views.append([])
    finally:
        example.send_signal(signal.SIGINT)
        example.communicate(timeout=PATIENCE)
    assert example.returncode == 0
    assert all_agree(views[-1])


def all_agree(view: list[str]) -> bool:
    """``mx1 counts  mx1 4  mx2 6  mx3 1  in all 11``, with other first words, three times; none of them is 0."""
    counts = {line.partition(" counts ")[2].strip() for line in view}
    return len(view) == 3 and len(counts) == 1 and " 0" not in counts.pop() and all("counts" in line for line in view)
