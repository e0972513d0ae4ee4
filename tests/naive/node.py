"""A node as one writes it on the first day: asyncio streams under uvloop, a task per connection, echo only.

Speaks the target contract: one JSON ready line, `--peers` identities on ports that the kernel chooses. uvloop sets
TCP_NODELAY on every connection.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from functools import partial

import uvloop

from tests.naive.secure import ECHO, ERROR, OK, CipherState, Identity, Responder, SecurityError, frame, parse, seal

HANDSHAKE_SECONDS = 5.0


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(2), "big")
    return await reader.readexactly(size)


async def read_message(reader: asyncio.StreamReader, cipher: CipherState) -> tuple[int, bytes]:
    """(kind, body)"""
    kind, body, missing = parse(cipher.decrypt(await read_frame(reader)))
    if not missing:
        return kind, body
    parts = []
    while missing > 0:
        parts.append(cipher.decrypt(await read_frame(reader)))
        missing -= len(parts[-1])
    return kind, b"".join(parts)


async def answer_requests(identity: Identity, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Handshake, then one answer per request until the client leaves."""
    responder = Responder(identity)
    async with asyncio.timeout(HANDSHAKE_SECONDS):
        writer.write(frame(responder.second(await read_frame(reader))))
        responder.finish(await read_frame(reader))
    sending, receiving = responder.ciphers()
    while True:
        kind, body = await read_message(reader, receiving)
        answer = (OK, body) if kind == ECHO else (ERROR, b"this node only echoes")
        writer.write(seal(sending, *answer))
        await writer.drain()


async def serve_connection(identity: Identity, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, closed however it ends."""
    try:
        await answer_requests(identity, reader, writer)
    except (asyncio.IncompleteReadError, OSError, TimeoutError, SecurityError):
        pass  # the client is done, gone, too slow, or not one of ours
    finally:
        writer.close()


async def serve(peers: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ready = []
    for identity in (Identity() for _ in range(peers)):
        server = await asyncio.start_server(partial(serve_connection, identity), "127.0.0.1", 0, backlog=1024)
        address = server.sockets[0].getsockname()
        ready.append({"peer_id": identity.peer_id.hex(), "addresses": {"tcp": address}})
    line = {"contract": 1, "pid": os.getpid(), "optimizations": [], "peers": ready}
    os.write(1, json.dumps(line).encode() + b"\n")
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=int, default=256)
    uvloop.run(serve(parser.parse_args().peers))


if __name__ == "__main__":
    main()
