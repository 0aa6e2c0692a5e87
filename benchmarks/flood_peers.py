"""nginx and HAProxy as they refuse a flood, configured as their documentation says: one process, one thread, no log.

nginx (stream, `limit_conn`) closes a connection that is over its limit and sends nothing. So that it sends a line, the
limit is a dry run, and `return` says what its outcome asks for. One connection is held, so that all others are over the
limit of 1; each is also counted by its address, as a limit per address needs it.

HAProxy counts connections by address in a stick table (`conn_cur`), and rejects before it makes a session
(`tcp-request connection reject`). It sends nothing then.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

LINE = "421 4.7.0 connection limit exceeded"
START_S = 20.0

NGINX = """\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log /dev/null crit;
events {{ worker_connections 8192; multi_accept on; }}
stream {{
    limit_conn_zone $binary_remote_addr zone=peers:64m;
    limit_conn_zone $server_addr zone=all:1m;
    limit_conn peers 10;
    limit_conn all 1;
    map $limit_conn_status $reply {{ REJECTED_DRY_RUN "{line}\\r\\n"; default ""; }}
    server {{ listen 127.0.0.1:{held}; proxy_pass 127.0.0.1:{behind}; proxy_timeout 1h; }}
    server {{ listen 127.0.0.1:{silent} backlog=1024; proxy_pass 127.0.0.1:{behind}; }}
    server {{ listen 127.0.0.1:{speaking} backlog=1024; limit_conn_dry_run on; return $reply; }}
}}
"""

HAPROXY = """\
global
    nbthread 1
    maxconn 8192
defaults
    mode tcp
    timeout client 10s
    timeout server 10s
    timeout connect 10s
frontend flood
    bind 127.0.0.1:{silent} backlog 1024
    stick-table type ip size 1m expire 30s store conn_cur
    tcp-request connection track-sc0 src
    tcp-request connection reject if {{ sc0_conn_cur gt 0 }}
    default_backend behind
backend behind
    server one 127.0.0.1:{behind}
"""

_VERSION = {"nginx": ["-v"], "haproxy": ["-v"]}


def program(name: str) -> str | None:
    """Where it is installed; it need not be in the path of a user."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def versions() -> dict[str, str]:
    """The version of each, or that it is missing."""
    found = {}
    for name, flags in _VERSION.items():
        path = program(name)
        said = path and subprocess.run([path, *flags], capture_output=True, text=True)
        text = re.search(r"[\d.]+[\w+~.-]*", said.stdout + said.stderr) if said else None
        found[name] = text[0] if text else "missing: it is not installed"
    return found


def _free_ports(number: int) -> list[int]:
    with ExitStack() as bound:
        made = [bound.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [one.getsockname()[1] for one in made]


@contextmanager
def _running(command: list[str], port: int) -> Iterator[int]:
    """A server's process id, once it accepts."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + START_S
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError as error:
                    if process.poll() is not None or time.monotonic() > end:
                        process.kill()
                        raise RuntimeError(f"{command[0]}: {error}; {process.communicate()[1]}") from None
                    time.sleep(0.05)
            yield process.pid
        finally:
            process.terminate()


@contextmanager
def serving() -> Iterator[dict[str, tuple[int, int]]]:
    """The process id and the port of each peer that is installed."""
    found: dict[str, tuple[int, int]] = {}
    with ExitStack() as undo:
        directory = undo.enter_context(tempfile.TemporaryDirectory())
        behind = undo.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        if (path := program("nginx")) is not None:
            held, silent, speaking = _free_ports(3)
            text = NGINX.format(**locals(), line=LINE)
            conf = Path(directory, "nginx.conf")
            conf.write_text(text)
            pid = undo.enter_context(_running([path, "-c", str(conf), "-p", directory], speaking))
            undo.enter_context(socket.create_connection(("127.0.0.1", held)))
            found["nginx limit_conn, silent"] = pid, silent
            found["nginx limit_conn, return"] = pid, speaking
        if (path := program("haproxy")) is not None:
            (silent,) = _free_ports(1)
            conf = Path(directory, "haproxy.cfg")
            conf.write_text(HAPROXY.format(**locals()))
            found["HAProxy conn_cur, silent"] = undo.enter_context(_running([path, "-f", str(conf)], silent)), silent
        yield found
