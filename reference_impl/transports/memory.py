"""In process: dialer and node in one process, no sockets, no loop, no waiting; for tests and for isolating costs.

The channel is the real one (Noise), so identities, pins, records, buffers and hooks are as on TCP, and what is missing
from its cost is the kernel's part and the loop's. The node's work runs in the caller's thread, at once, inside the
caller's send: an answer that is not there after that will never come, so a read that would wait times out
immediately. Several threads may dial at a time; a connection has one user at a time, as everywhere.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

from reference_impl.buffer_pool import Buffers
from reference_impl.buffer_pool.inbox import READ_AHEAD
from reference_impl.errors import HandshakeError
from reference_impl.pooling.resumption import NO_TICKETS, Resumption
from reference_impl.security.channel import SECOND_BYTES, Channel, Initiation
from reference_impl.security.identity import Identity
from reference_impl.security.noise import Bytes
from reference_impl.transports.base import Accept, Address, MakeSession, Peer
from reference_impl.transports.tcp import TcpLink
from reference_impl.transports.tcp_server import NoiseAcceptance

_HOST = "memory"
_ports: dict[int, MakeSession] = {}
"""Who listens: what the kernel's table of ports is to TCP."""
_numbers = itertools.count(1)


class MemorySocket:
    """The dialing end: as much of a socket's interface as a link uses."""

    __slots__ = ("_closed", "_end", "_received")

    def __init__(self, make_session: MakeSession) -> None:
        self._received: deque[bytes] = deque()
        self._closed = False
        self._end = MemoryEnd(make_session(), self._received)

    def sendall(self, data: Bytes) -> None:
        self.send(data)

    def send(self, data: Bytes) -> int:
        if self._closed:
            raise OSError("socket is closed")
        if self._end.closed:
            raise ConnectionResetError("peer closed the connection")
        self._end.deliver(memoryview(data))
        return len(data)

    def recv(self, size: int) -> bytes:
        if self._closed:
            raise OSError("socket is closed")
        try:
            data = self._received.popleft()
        except IndexError:
            if self._end.closed:
                return b""
            raise TimeoutError("the peer has not answered, and in one process never will") from None
        if len(data) > size:
            self._received.appendleft(data[size:])
        return data[:size]

    def recv_into(self, view: memoryview) -> int:
        data = self.recv(len(view))
        view[: len(data)] = data
        return len(data)

    def is_quiet(self) -> bool:
        """Nothing to read and nobody has closed."""
        return not (self._received or self._closed or self._end.closed)

    def close(self) -> None:
        """Close both ends."""
        self._closed = True
        self._end.abort()


class MemoryEnd:
    """The node's end: as much of an asyncio transport as a session uses. Writing never blocks and is never short."""

    __slots__ = ("_received", "_session", "closed")

    def __init__(self, session: Any, received: deque[bytes]) -> None:
        self._session: Any = session
        self._received = received
        self.closed = False
        session.connection_made(self)

    def deliver(self, data: memoryview) -> None:
        """Bytes from the dialer: the session answers before this returns."""
        session = self._session
        for at in range(0, len(data), READ_AHEAD):
            part = data[at : at + READ_AHEAD]
            session.arena = part  # the bytes are received where they lie
            session.buffer_updated(len(part))
            if self.closed:
                return

    def write(self, data: Bytes) -> None:
        if not self.closed:
            self._received.append(bytes(data))

    def abort(self) -> None:
        """Close at once; the session hears of it."""
        if not self.closed:
            self.closed = True
            self._session.connection_lost(None)

    close = abort

    def get_extra_info(self, name: str) -> Any:
        return (_HOST, 0) if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """There is nothing to limit."""


class MemoryLink(TcpLink):
    """A link whose liveness is a look at its own process."""

    __slots__ = ("_memory",)

    def __init__(self, connected: MemorySocket, channel: Channel) -> None:
        super().__init__(connected, channel)  # type: ignore[arg-type]  # as much of a socket as a link uses
        self._memory = connected

    def is_idle_and_alive(self) -> bool:
        return self._memory.is_quiet()


class _Untrimmed:
    """A channel whose owner is a caller's thread: the loop's housekeeping must not touch its ciphers."""

    __slots__ = ("close", "feed", "inbox", "peer_id", "seal")

    def __init__(self, channel: Channel) -> None:
        self.peer_id, self.inbox = channel.peer_id, channel.inbox
        self.seal, self.feed, self.close = channel.seal, channel.feed, channel.close

    def trim(self) -> None:
        """Left alone."""


class _MemoryAcceptance:
    __slots__ = ("_noise",)

    def __init__(self, identity: Identity, buffers: Buffers, tickets: Resumption) -> None:
        self._noise = NoiseAcceptance(identity, buffers, tickets)

    @property
    def channel(self) -> _Untrimmed | None:
        channel = self._noise.channel
        return None if channel is None else _Untrimmed(channel)

    @property
    def rest(self) -> bytes:
        return self._noise.rest

    def receive(self, data: bytes) -> bytes:
        return self._noise.receive(data)


class MemoryListener:
    """Brings connections from this process."""

    name = "memory"

    def __init__(self, buffers: Buffers, tickets: Resumption = NO_TICKETS) -> None:
        self._buffers = buffers
        self._tickets = tickets

    def acceptor(self, identity: Identity) -> Accept:
        return lambda: _MemoryAcceptance(identity, self._buffers, self._tickets)

    async def listen(self, make_session: MakeSession, host: str, port: int, backlog: int) -> tuple[MemoryPort, Address]:
        """`host` and `backlog` mean nothing here; `port` 0 takes the next free number."""
        number = port or next(number for number in _numbers if number not in _ports)
        if number in _ports:
            raise OSError(f"memory port {number} is taken")
        _ports[number] = make_session
        return MemoryPort(number), (_HOST, number)


class MemoryPort:
    """A taken port."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def close(self) -> None:
        """Give the number back."""
        _ports.pop(self._number, None)


class MemoryTransport:
    """Dials memory ports."""

    name = "memory"

    def __init__(self, identity: Identity, buffers: Buffers, tickets: Resumption = NO_TICKETS) -> None:
        self._identity = identity
        self._buffers = buffers
        self._tickets = tickets

    def open(self, address: Address) -> MemorySocket:
        make_session = _ports.get(address[1])
        if make_session is None:
            raise ConnectionRefusedError(f"nobody listens on memory port {address[1]}")
        return MemorySocket(make_session)

    def secure(self, resource: MemorySocket, peer: Peer) -> MemoryLink:
        initiation = Initiation(self._identity, bytes(peer), self._tickets if peer.resumes else NO_TICKETS)
        resource.sendall(initiation.first)
        answer = resource.recv(SECOND_BYTES)
        if not answer:
            raise HandshakeError("peer left during the handshake")
        last, channel = initiation.finish(answer, self._buffers)
        resource.sendall(last)
        return MemoryLink(resource, channel)
