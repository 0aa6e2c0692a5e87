"""Settings of engines: what can't be right is an error that says what to do, before anything is opened."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from inbound_audit.cluster.certificates import check_certificate
from inbound_audit.cluster.engine import EngineSettings, open_engine, single_join_warning
from inbound_audit.errors import ClusterError

NODE = EngineSettings("eu", "mx1")
LIBRARIES = {"zenoh": "zenoh", "redis": "redis"}


def opened(kind: str, **settings: object) -> object:
    pytest.importorskip(LIBRARIES[kind], reason=f"needs the extra cluster-{kind}")
    return open_engine(kind, NODE._replace(**settings))


def test_an_unknown_engine_is_named():
    with pytest.raises(ClusterError, match=r"'zeno': no such engine .known: zenoh, redis.; did you mean 'zenoh'"):
        open_engine("zeno", NODE)


@pytest.mark.parametrize("kind", LIBRARIES)
def test_a_library_that_is_not_installed_is_an_error_with_its_extra(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, LIBRARIES[kind], None)
    monkeypatch.delitem(sys.modules, f"inbound_audit.cluster.{kind}_engine", raising=False)
    with pytest.raises(ClusterError, match=rf"pip install 'inbound-audit\[cluster-{kind}\]'"):
        open_engine(kind, NODE)


@pytest.mark.parametrize("kind", LIBRARIES)
@pytest.mark.parametrize("name", ["", "mx 1", "mx/1", "*", "a" * 64, "m\u00fcnchen", "-mx", "ia:eu", "mx1\n"])
def test_names_of_clusters_and_nodes_have_a_grammar(kind, name):
    for option, settings in (("--cluster", NODE._replace(cluster=name)), ("--node", NODE._replace(node=name))):
        with pytest.raises(ClusterError, match=f"{option} .*: a name is 1 to 63 letters"):
            open_engine(kind, settings)


ADDRESSES = ["tcp/127.0.0.1:7447", "tcp/127.9.9.9:1", "tcp/localhost:65535", "tcp/[::1]:7447"]
NO_ADDRESSES = [
    *(
        "",
        "mx2",
        "mx2:7447",
        "tcp/mx2",
        "tcp/:7447",
        "tcp/mx2:",
        "tcp/mx2:0",
        "tcp/mx2:65536",
        "tcp/mx2:x",
        "tcp/::1:1",
    ),
    *(
        "tcp/[::1:7447",
        "tcp/[]:1",
        "udp/mx2:7447",
        "TCP/mx2:1",
        "tcp//mx2:1",
        "tcp/mx2:1?rel=0",
        "tcp/mx2:1#iface=eth0",
    ),
    *("tcp/mx2 :1", "tcp/mx2:+1", "tcp/mx2:\u0661", "tcp/a,tcp/b:1", "redis://127.0.0.1:6379/0"),
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_zenoh_takes_addresses_of_this_machine_without_tls(address):
    assert opened("zenoh", listen=(address,), join=(address,))


@pytest.mark.parametrize("address", NO_ADDRESSES)
@pytest.mark.parametrize("option", ["listen", "join"])
def test_what_is_no_address_is_named(option, address):
    with pytest.raises(ClusterError, match=f"--{option} .*: not an address such as tls/mx2:7447"):
        opened("zenoh", **{option: (address,)}, insecure=True)


@given(st.text(st.sampled_from("tcpls/[]:.0159amx?# "), max_size=24))
def test_an_address_is_taken_or_refused(text):
    said = "--listen"
    try:
        opened("zenoh", listen=(text,), insecure=True)
    except ClusterError as error:
        said = str(error)
    assert "--listen" in said


@pytest.mark.parametrize("address", ["tcp/0.0.0.0:7447", "tcp/[::]:7447", "tcp/mx2:7447", "tcp/192.0.2.1:7447"])
@pytest.mark.parametrize("option", ["listen", "join"])
def test_other_hosts_need_tls_or_a_word(option, address):
    with pytest.raises(ClusterError, match=f"--{option} .*without TLS any host .* --insecure"):
        opened("zenoh", **{option: (address,)})
    assert opened("zenoh", **{option: (address,)}, insecure=True)


def test_zenoh_needs_an_address():
    with pytest.raises(ClusterError, match=r"--listen.*--join"):
        opened("zenoh")


# ---- certificates


class Files:
    """Settings with certificates of one authority."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._authority = trustme.CA()
        self.ca = str(place / "ca.pem")
        self._authority.cert_pem.write_to_path(self.ca)

    def of(self, name: str | None, **more: object) -> dict[str, str]:
        made = self._authority.issue_cert("host.example", common_name=name, **more)
        chain, key = self._place / f"{name}.pem", self._place / f"{name}.key"
        made.private_key_pem.write_to_path(key)
        chain.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        return {"tls_cert": str(chain), "tls_key": str(key), "tls_ca": self.ca}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def check(node: str, settings: dict[str, str]) -> None:
    check_certificate(settings["tls_cert"], settings["tls_key"], settings["tls_ca"], node)


def test_a_certificate_of_the_node_is_taken(files):
    check("mx1", files.of("mx1"))


def test_a_certificate_of_another_name_is_an_error_with_both_names(files):
    with pytest.raises(ClusterError, match=r"common name is 'mx2', and this node is 'mx1'.*--node mx2"):
        check("mx1", files.of("mx2"))
    with pytest.raises(ClusterError, match="common name is None, and this node is 'mx1'"):
        check("mx1", files.of(None))


def test_an_expired_certificate_is_an_error(files):
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    expired = files.of("mx1", not_before=past, not_after=past + datetime.timedelta(days=1))
    with pytest.raises(ClusterError, match=r"--tls-cert .*: certificate has expired"):
        check("mx1", expired)


def test_a_certificate_of_another_authority_is_an_error(files, tmp_path):
    (tmp_path / "other").mkdir()
    other = Files(tmp_path / "other")
    with pytest.raises(ClusterError, match=r"--tls-cert .*--tls-ca .*certificate"):
        check("mx1", files.of("mx1") | {"tls_ca": other.ca})


@pytest.mark.parametrize("option", ["tls_cert", "tls_key", "tls_ca"])
def test_files_that_are_missing_or_something_else_are_named(files, option, tmp_path):
    settings = files.of("mx1")
    words = f"--{option.replace('_', '-')}"
    junk = tmp_path / "junk"
    junk.write_text("-----BEGIN CERTIFICATE-----\nno\n")
    for file in (junk, tmp_path / "nothing", tmp_path):
        with pytest.raises(ClusterError, match=f"{words} .*{file}"):
            check("mx1", settings | {option: str(file)})


def test_a_key_of_another_certificate_is_an_error(files):
    with pytest.raises(ClusterError, match="not a certificate and its unencrypted key"):
        check("mx1", files.of("mx1") | {"tls_key": files.of("mx2")["tls_key"]})


def test_zenoh_needs_all_three_files(files):
    for option in ("tls_cert", "tls_key", "tls_ca"):
        settings = files.of("mx1") | {option: None}
        with pytest.raises(ClusterError, match=f"go together: --{option.replace('_', '-')} is missing"):
            opened("zenoh", listen=("tls/[::]:7447",), **settings)


def test_certificates_and_addresses_go_together(files):
    with pytest.raises(ClusterError, match="tls/mx2:7447: give --tls-cert"):
        opened("zenoh", join=("tls/mx2:7447",))
    with pytest.raises(ClusterError, match="with --tls-cert every address begins with tls/"):
        opened("zenoh", join=("tcp/127.0.0.1:7447",), **files.of("mx1"))


@pytest.mark.parametrize("host", ["192.0.2.2", "[2001:db8::2]", "localhost", "127.0.0.1"])
def test_with_tls_the_names_of_nodes_are_known(files, host):
    """A certificate speaks for its own name alone, so the engine is given the names."""
    address = f"tls/{host}:7447"
    with pytest.raises(ClusterError, match=r"--join .*: with TLS .* give --nodes"):
        opened("zenoh", join=(address,), **files.of("mx1"))
    assert opened("zenoh", join=(address,), nodes=("mx1", "mx2"), **files.of("mx1"))
    assert opened("zenoh", join=("tls/mx2.example.net:7447",), **files.of("mx1"))
    with pytest.raises(ClusterError, match="--nodes 'mx 2': a name is"):
        opened("zenoh", join=(address,), nodes=("mx 2",), **files.of("mx1"))


# ---- the server


@pytest.mark.parametrize(
    "url",
    [
        *("", "redis", "127.0.0.1:6379", "http://127.0.0.1", "redis://", "redis:///0", "redis://[::1", "redis://h:x/0"),
        *("redis://127.0.0.1/zero", "redis://127.0.0.1/-1", "redis://127.0.0.1:99999", "redis://127.0.0.1/0?ssl=1"),
    ],
)
def test_what_is_no_url_is_named(url):
    with pytest.raises(ClusterError, match=r"--join .*: not the URL of a server, such as rediss://"):
        opened("redis", join=(url,), insecure=True)


@pytest.mark.parametrize("url", ["redis://127.0.0.1", "redis://localhost:6380/1", "redis://[::1]:6379/0"])
def test_redis_takes_a_server_on_this_machine_without_tls(url):
    assert opened("redis", join=(url,))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "--join takes the URL of one server"),
        ({"join": ("redis://127.0.0.1", "redis://127.0.0.1")}, "--join takes the URL of one server"),
        ({"join": ("redis://127.0.0.1",), "listen": ("tcp/127.0.0.1:1",)}, "--listen .*: leave it out"),
        ({"join": ("redis://192.0.2.1",)}, "without TLS any host .* --insecure"),
        ({"join": ("redis://me:secret@127.0.0.1",)}, "give --user, --password-file"),
        ({"join": ("redis://127.0.0.1",), "password_file": "/nothing"}, "--password-file /nothing: No such file"),
        ({"join": ("rediss://192.0.2.1",), "tls_ca": "/nothing"}, "--tls-ca /nothing: No such file"),
        ({"join": ("rediss://192.0.2.1",), "tls_cert": "/nothing"}, "--tls-cert and --tls-key go together"),
    ],
)
def test_settings_of_a_server_that_can_not_be_right(settings, words):
    with pytest.raises(ClusterError, match=words) as raised:
        opened("redis", **settings)
    assert "secret" not in str(raised.value)


def test_the_password_is_the_first_line_of_its_file(tmp_path):
    file = tmp_path / "password"
    file.write_text("p\u00e4ss word\nanything\n")
    assert NODE._replace(password_file=str(file)).password() == "p\u00e4ss word"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ClusterError, match="is not text"):
        NODE._replace(password_file=str(file)).password()


# ---- one address


def test_one_address_for_many_nodes_is_a_warning():
    one = NODE._replace(join=("tls/mx2:7447",))
    assert single_join_warning(one, 2) is None
    assert "--join has one address, tls/mx2:7447, and the cluster has 3 nodes" in (single_join_warning(one, 3) or "")
    assert single_join_warning(NODE._replace(join=("tls/mx2:7447", "tls/mx3:7447")), 100) is None
    assert single_join_warning(NODE._replace(listen=("tls/[::]:7447",)), 100) is None
    assert single_join_warning(NODE._replace(join=("rediss://redis.example.net",)), 100) is None


def test_parts_of_a_snapshot_that_others_send_are_bounded():
    pytest.importorskip("redis", reason="needs the extra cluster-redis")
    from inbound_audit.cluster.redis_engine import Answers

    answers = Answers()
    header = b"answer 1"
    for junk in (b"", header, header + bytes(4), header + b"\1\0\1\0", header + b"\0\0\1\1", header + bytes(300_000)):
        assert answers.add(junk) is None
    assert answers.add(header + b"\0\0\2\0one") is None
    for number in range(100):
        assert answers.add(b"other%03d" % number + b"\0\0\2\0x") is None
    assert answers.add(header + b"\0\0\2\0one again") is None
    assert answers.add(header + b"\1\0\2\0two") == [b"one again", b"two"]
