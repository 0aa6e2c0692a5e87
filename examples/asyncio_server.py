"""A line server that repeats what it reads, with a limit on the sessions from one network.

    python examples/asyncio_server.py [HOST [PORT]]

Try it: `nc localhost 7007`, in three windows. The third is refused.
"""

import asyncio
import signal
import sys

from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners import Guard
from inbound_audit.listeners.aio import counted_callback, session_of


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    ac = session_of(writer)  # the accept construct; None for a peer that has no address to be counted by
    if ac is not None:
        here = ac.inbound_session_count("/24,/64", ac.service_type)
        writer.write(f"hello {ac.remote_ip}, your network has {here} open\n".encode())
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def main(host: str = "127.0.0.1", port: str = "7007") -> None:
    listener = InboundAudit().listener("ECHO")
    guard = Guard(listener, Limits({"/32": 2, "/24,/64": 20, "/0": 1000}))
    callback = counted_callback(converse, guard, refusal=lambda verdict: f"{verdict.text}\n".encode())
    server = await asyncio.start_server(callback, host, int(port))
    for bound in server.sockets:
        print("listening on", *bound.getsockname()[:2], flush=True)
    stop_requested = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop_requested.set)
    await stop_requested.wait()
    server.close()
    print(f"{guard.accepted} accepted, {guard.refused} refused, {guard.open} open")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
