"""Noise over TCP, listening side: the handshake as bytes trickle in, and the sockets that bring connections."""

from __future__ import annotations

import asyncio

from reference_impl.buffer_pool import Buffers
from reference_impl.pooling.resumption import Resumption
from reference_impl.security.channel import Acceptance, Channel, first_bytes
from reference_impl.security.identity import Identity
from reference_impl.transports.base import Accept, Address, Closable, MakeSession


class NoiseAcceptance:
    """Collects the frames of fixed size that a dialer sends; makes no keys before the first one is whole."""

    __slots__ = ("_acceptance", "_buffers", "_identity", "_tickets", "channel", "rest")

    def __init__(self, identity: Identity, buffers: Buffers, tickets: Resumption) -> None:
        self._identity = identity
        self._buffers = buffers
        self._tickets = tickets
        self._acceptance: Acceptance | None = None
        self.channel: Channel | None = None
        self.rest = b""

    def receive(self, data: bytes) -> bytes:
        received = self.rest + data
        answer = b""
        if self._acceptance is None:
            size = first_bytes(received)
            if len(received) < size:
                self.rest = received
                return b""
            self._acceptance = Acceptance(self._identity, self._tickets)
            answer = self._acceptance.answer(received[:size])
            received = received[size:]
        size = self._acceptance.third_bytes
        if len(received) >= size:
            self.channel = self._acceptance.finish(received[:size], self._buffers)
            received = received[size:]
        self.rest = received
        return answer


class TcpListener:
    """Brings TCP connections, authenticated by Noise."""

    name = "tcp"

    def __init__(self, buffers: Buffers, tickets: Resumption) -> None:
        self._buffers = buffers
        self._tickets = tickets

    def acceptor(self, identity: Identity) -> Accept:
        return lambda: NoiseAcceptance(identity, self._buffers, self._tickets)

    async def listen(self, make_session: MakeSession, host: str, port: int, backlog: int) -> tuple[Closable, Address]:
        return await listen_on_socket(make_session, host, port, backlog)


async def listen_on_socket(
    make_session: MakeSession, host: str, port: int, backlog: int
) -> tuple[asyncio.Server, Address]:
    """A listening TCP socket on the running loop, and its address. Raises `OSError`."""
    server = await asyncio.get_running_loop().create_server(make_session, host, port, backlog=backlog)
    bound, number = server.sockets[0].getsockname()[:2]
    return server, (bound, number)
