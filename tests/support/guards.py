"""`inbound-audit guard` in a process of its own, and servers for it to stand in front of."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence

from tests.support.command_line import Serve


class GuardProcess(Serve):
    """`inbound-audit guard --json` before one server or several."""

    command_name = "guard"

    def __init__(self, to: int | Sequence[int | str], *arguments: str, command: Sequence[str] | None = None) -> None:
        back_ends = [to] if isinstance(to, int) else to
        places = [one if isinstance(one, str) else f"127.0.0.1:{one}" for one in back_ends]
        words = [word for place in places for word in ("--to", place)]
        super().__init__(*words, *arguments, listen=["127.0.0.1:0"], hostname=None, command=command)

    @property
    def port(self) -> int:
        return self.addresses[0][1]


class Echo:
    """A server in threads that sends back what comes, until its peer's end. `name` comes first."""

    def __init__(self, name: bytes = b"", port: int = 0) -> None:
        self._name = name
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listening.getsockname()[1]
        self.open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listening.accept()
                self.open.append(peer)
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            peer.sendall(self._name)
            while data := peer.recv(1 << 16):
                peer.sendall(data)

    def stop_listening(self) -> None:
        """Those that are connected go on."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # ends `accept`
        self._thread.join()
        self._listening.close()

    def close(self) -> None:
        self.stop_listening()
        for peer in self.open:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def echo(name: bytes = b"") -> Iterator[Echo]:
    with contextlib.closing(Echo(name)) as server:
        yield server
