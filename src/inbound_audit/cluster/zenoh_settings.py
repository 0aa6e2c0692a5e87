"""What Zenoh is configured with: addresses, certificates, and who may say what."""

from __future__ import annotations

from typing import NamedTuple

from inbound_audit.cluster.certificates import check_certificate
from inbound_audit.cluster.engine import EngineSettings, check_protected, is_loopback
from inbound_audit.cluster.frames import MAX_FRAME_BYTES, is_name
from inbound_audit.errors import ClusterError

LEASE_MS = 1500
"""A link that is silent for so long is closed. Each end sends a sign of life four times in that time."""

RETRY_MS = {"period_init_ms": 100, "period_max_ms": 500, "period_increase_factor": 2}
"""Waits between attempts to connect."""

OPEN_TIMEOUT_MS = 1500
"""An attempt to connect takes so long at most. The kernel sends its first packet again after 1 s, 3 s and 7 s: attempts
of 10 s, which is Zenoh's default, find a network that is whole again seconds later."""

MAX_MESSAGE_BYTES = 2 * MAX_FRAME_BYTES
"""Of a message of Zenoh. What is longer than a frame is dropped here."""

MAX_UNHEARD = 256
"""Frames that wait in Zenoh until they are taken. It reads no more before: when a network is whole again, all that the
other nodes have tried to send may come in one moment."""

_FROM_OTHERS = ["put", "delete", "reply", "declare_queryable", "liveliness_token"]
_TO_US = ["declare_subscriber", "query", "liveliness_query", "declare_liveliness_subscriber"]


class Address(NamedTuple):
    """Where a node listens: `tls/mx2:7447`, `tcp/[::1]:7447`."""

    protocol: str
    host: str
    port: int


def parse_address(option: str, text: str) -> Address:
    """Raises ClusterError, which names the option, if the text is no address."""
    protocol, slash, place = text.partition("/")
    host, colon, port = place.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    ok = slash and colon and protocol in ("tcp", "tls") and name and not set(name) & set("[]/?#, ")
    if not ok or (":" in name and not bracketed) or not (port.isdecimal() and port.isascii() and 0 < int(port) < 65536):
        raise ClusterError(
            f"{option} {text!r}: not an address such as tls/mx2:7447, tcp/127.0.0.1:7447 or tls/[::]:7447"
        )
    return Address(protocol, name, int(port))


def speakers(settings: EngineSettings) -> tuple[str, ...]:
    """The names of the nodes that may speak, this one among them. Raises ClusterError if they are not known."""
    names = list(settings.nodes)
    if not names:
        for text in settings.join:
            host = parse_address("--join", text).host
            if not is_name(host) or is_loopback(host) or host.replace(".", "").isdecimal():
                raise ClusterError(
                    f"--join {text}: with TLS a node speaks under the name in its certificate, and an address has "
                    "none: give --nodes the names of all nodes, such as mx1,mx2"
                )
            names.append(host)
    for name in names:
        if not is_name(name):
            raise ClusterError(f"--nodes {name!r}: a name is 1 to 63 letters, digits, '.', '_' and '-', such as mx1")
    return tuple(dict.fromkeys([settings.node, *names]))


def _access(cluster: str, names: tuple[str, ...]) -> dict[str, object]:
    """Zenoh's access control: a certificate of a name has the keys of that name, and everybody hears."""
    rules: list[dict[str, object]] = [
        {"id": "/out", "flows": ["egress"], "messages": _FROM_OTHERS + _TO_US, "key_exprs": ["**"]},
        {"id": "/in", "flows": ["ingress"], "messages": _TO_US, "key_exprs": ["ia/**"]},
    ]
    subjects: list[dict[str, object]] = [{"id": "/all"}]
    policies: list[dict[str, object]] = [{"rules": ["/out", "/in"], "subjects": ["/all"]}]
    for name in names:
        keys = [f"ia/{cluster}/{name}/**", f"ia/*/{name}/alive"]  # that it is of another cluster is heard, too
        rules.append({"id": name, "flows": ["ingress"], "messages": _FROM_OTHERS, "key_exprs": keys})
        subjects.append({"id": name, "cert_common_names": [name]})
        policies.append({"rules": [name], "subjects": [name]})
    allowed = [{"permission": "allow", **rule} for rule in rules]
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": allowed,
        "subjects": subjects,
        "policies": policies,
    }


def _tls(settings: EngineSettings) -> dict[str, object]:
    """The transport of certificates. The name in one is checked by access control, not against the address: addresses
    that nodes pass on to one another are numbers."""
    return {
        "root_ca_certificate": settings.tls_ca,
        "listen_certificate": settings.tls_cert,
        "listen_private_key": settings.tls_key,
        "connect_certificate": settings.tls_cert,
        "connect_private_key": settings.tls_key,
        "enable_mtls": True,
        "verify_name_on_connect": False,
        "close_link_on_expiration": True,
    }


def _check_addresses(settings: EngineSettings, tls: bool) -> None:
    for option, addresses in (("--listen", settings.listen), ("--join", settings.join)):
        for text in addresses:
            address = parse_address(option, text)
            if (address.protocol == "tls") != tls:
                raise ClusterError(
                    f"{option} {text}: give --tls-cert, --tls-key and --tls-ca"
                    if not tls
                    else f"{option} {text}: with --tls-cert every address begins with tls/"
                )
            check_protected(option, text, address.host, tls, settings.insecure)


def configuration(settings: EngineSettings) -> dict[str, object]:
    """What Zenoh is configured with, by its paths. Raises ClusterError for settings that can't be right."""
    files = {"--tls-cert": settings.tls_cert, "--tls-key": settings.tls_key, "--tls-ca": settings.tls_ca}
    missing = [option for option, file in files.items() if file is None]
    tls = not missing
    if missing and len(missing) < len(files):
        raise ClusterError(f"{', '.join(files)} go together: {' and '.join(missing)} is missing")
    if not settings.listen and not settings.join:
        raise ClusterError("a node needs --listen, at which others reach it, or --join, at which it reaches them")
    _check_addresses(settings, tls)
    paths: dict[str, object] = {
        "mode": "peer",
        "listen/endpoints": list(settings.listen),
        "connect/endpoints": list(settings.join),
        "connect/timeout_ms": -1,
        "connect/exit_on_failure": False,
        "connect/retry": RETRY_MS,
        "scouting/multicast/enabled": False,
        "open/return_conditions": {"connect_scouted": False, "declares": False},
        "transport/link/protocols": ["tls" if tls else "tcp"],
        "transport/link/tx/lease": LEASE_MS,
        "transport/link/rx/max_message_size": MAX_MESSAGE_BYTES,
        "transport/unicast/open_timeout": OPEN_TIMEOUT_MS,
        "transport/unicast/max_sessions": 4000,
        "transport/shared_memory/enabled": False,  # another user's memory is not to be mapped
    }
    if tls:
        check_certificate(str(settings.tls_cert), str(settings.tls_key), str(settings.tls_ca), settings.node)
        paths |= {
            "transport/link/tls": _tls(settings),
            "access_control": _access(settings.cluster, speakers(settings)),
        }
    return paths
