"""A node: listens on several ports, each with an identity of its own, in one process on one event loop.

Laws: a connection owns no buffer while it is idle; a peer has one request under way at a time; nothing
unauthenticated lives longer than the handshake timeout or beyond the cap on unfinished handshakes.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reference_impl import settings as check
from reference_impl.buffer_pool import Buffers
from reference_impl.buffers import Message, PooledBuffer
from reference_impl.channel import FIRST_BYTES, THIRD_BYTES, Acceptance, Channel
from reference_impl.cleanup import Cleanup
from reference_impl.errors import ChannelError, FrameError, HandshakeError
from reference_impl.identity import Identity
from reference_impl.metrics import Metrics, Recorder
from reference_impl.rate_limit import RateLimiter
from reference_impl.service import Service, rejection

_READ_BYTES = 256 * 1024
_WRITE_HIGH = 4095


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Limits of a node that no optimization switches.

    `handshake_timeout`: seconds from accept to authenticated. `max_handshakes`: unfinished handshakes at once.
    `tick`: seconds between housekeeping rounds; a channel idle for one to two ticks is trimmed. `backlog`: listen queue.
    """

    handshake_timeout: float = 5.0
    max_handshakes: int = 1024
    tick: float = 2.0
    backlog: int = 1024

    def __post_init__(self) -> None:
        check.positive("node", "handshake_timeout", self.handshake_timeout)
        check.positive("node", "tick", self.tick)
        check.count("node", "max_handshakes", self.max_handshakes)
        check.count("node", "backlog", self.backlog)


@dataclass(frozen=True, slots=True)
class Rooms:
    """The twins a node is wired with; `make_cleanup` takes the two hooks."""

    make_cleanup: Callable[..., Cleanup]
    source_limit: RateLimiter
    peer_limit: RateLimiter
    buffers: Buffers
    metrics: Metrics


class Node:
    """Listens, authenticates, answers. Made by `assemble.node`; `start`, then `close`."""

    def __init__(self, identities: Sequence[Identity], rooms: Rooms, settings: NodeSettings) -> None:
        self.identities = tuple(identities)
        self.rooms = rooms
        self.cleanup = rooms.make_cleanup(self.on_close, self.on_connection_closed)
        self.settings = settings
        self.service = Service(self.stats)
        self.arena = memoryview(bytearray(_READ_BYTES))
        """Every connection reads into this one buffer: the loop fills and empties it in one step."""
        self.arrivals = rooms.metrics.recorder(b"", "tcp")
        self.recorders: dict[int, Recorder] = {}
        self.unfinished: dict[Session, float] = {}
        self.touched: set[Session] = set()
        self._cooling: set[Session] = set()
        self._servers: list[asyncio.Server] = []
        self._housekeeping: asyncio.TimerHandle | None = None
        self.refused = 0

    async def start(self, host: str = "127.0.0.1", ports: Sequence[int] = ()) -> list[tuple[str, int]]:
        """Listen; returns one address per identity. Port 0 (the default) lets the kernel choose. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        addresses: list[tuple[str, int]] = []
        chosen = itertools.chain(ports, itertools.repeat(0))
        for identity, port in zip(self.identities, chosen, strict=False):
            server = await loop.create_server(
                lambda identity=identity: Session(self, identity),  # type: ignore[misc]
                host,
                port,
                backlog=self.settings.backlog,
            )
            self._servers.append(server)
            addresses.append(server.sockets[0].getsockname()[:2])
        self._housekeeping = loop.call_later(self.settings.tick, self._keep_house)
        return addresses

    def close(self) -> None:
        """Stop listening and close every connection."""
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        for server in self._servers:
            server.close()
        self.cleanup.close()

    def on_close(self, number: int) -> None:
        """The metrics' hook of the guards: connection `number` is being released."""
        if number in self.recorders:
            self.recorders[number].closed()

    def on_connection_closed(self, number: int) -> None:
        """The manager's hook of the guards: forget `number`; one that never finished its handshake is unknown here."""
        self.recorders.pop(number, None)

    def stats(self) -> dict[str, Any]:
        """The node's gauges by room: what a stats request returns."""
        rooms = self.rooms
        return {
            "node": {
                "connections": self.cleanup.open_connections(),
                "unfinished_handshakes": len(self.unfinished),
                "refused": self.refused,
            },
            "cleanup": self.cleanup.gauges(),
            "source_limit": rooms.source_limit.gauges(),
            "rate_limit": rooms.peer_limit.gauges(),
            "buffer_pool": rooms.buffers.gauges(),
            "metrics": rooms.metrics.gauges(),
        }

    def _keep_house(self) -> None:
        now = time.monotonic()
        for session, deadline in list(self.unfinished.items()):
            if deadline > now:
                break  # all have the same timeout, so they stand in order of their deadlines
            session.fail(HandshakeError("handshake took too long"))
        for session in self._cooling - self.touched:
            session.trim()
        self._cooling, self.touched = self.touched, set()
        rooms = self.rooms
        for room in (self.cleanup, rooms.source_limit, rooms.peer_limit, rooms.buffers, rooms.metrics):
            room.sweep()
        self._housekeeping = asyncio.get_running_loop().call_later(self.settings.tick, self._keep_house)


class Session(asyncio.BufferedProtocol):
    """One accepted connection: first its handshake, then its requests."""

    __slots__ = (
        "_acceptance",
        "_began",
        "_channel",
        "_guard",
        "_identity",
        "_node",
        "_received",
        "_recorder",
        "_transport",
        "_unsent",
    )  # fmt: skip

    def __init__(self, node: Node, identity: Identity) -> None:
        self._node = node
        self._identity = identity
        self._transport: Any = None
        self._guard: Any = None
        self._channel: Channel | None = None
        self._acceptance: Acceptance | None = None
        self._received = b""
        self._recorder = node.arrivals
        self._unsent: list[PooledBuffer] | None = None
        self._began = 0.0

    def connection_made(self, transport: Any) -> None:
        node = self._node
        node.arrivals.attempt()
        source = (transport.get_extra_info("peername") or ("?",))[0]
        if len(node.unfinished) >= node.settings.max_handshakes or node.rooms.source_limit.check(source):
            node.refused += 1
            transport.abort()
            return
        self._transport = transport
        self._guard = node.cleanup.guard(transport)
        self._began = time.monotonic()
        node.unfinished[self] = self._began + node.settings.handshake_timeout
        transport.set_write_buffer_limits(high=_WRITE_HIGH, low=0)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._node.arena

    def buffer_updated(self, nbytes: int) -> None:
        data = self._node.arena[:nbytes]
        channel = self._channel
        try:
            if channel is None:
                if self._guard is not None:
                    self._greet(bytes(data))
                return
            messages = channel.feed(data)
            if messages:
                if len(messages) > 1:
                    raise FrameError("peer sent a request before the answer to the last one")
                self._answer(messages[0])
        except ChannelError as error:
            self.fail(error)

    def _greet(self, data: bytes) -> None:
        """Advance the handshake by whatever has arrived; it may hold the first request already."""
        received = self._received + data
        if self._acceptance is None:
            if len(received) < FIRST_BYTES:
                self._received = received
                return
            self._acceptance = Acceptance(self._identity)
            self._transport.write(self._acceptance.answer(received[:FIRST_BYTES]))
            received = received[FIRST_BYTES:]
        if len(received) < THIRD_BYTES:
            self._received = received
            return
        node = self._node
        self._channel = channel = self._acceptance.finish(received[:THIRD_BYTES], node.rooms.buffers)
        self._acceptance, self._received = None, b""
        del node.unfinished[self]
        self._recorder = recorder = node.rooms.metrics.recorder(channel.peer_id, "tcp")
        recorder.opened(time.monotonic() - self._began)
        node.recorders[self._guard.id] = recorder
        node.touched.add(self)
        if len(received) > THIRD_BYTES:
            for message in channel.feed(received[THIRD_BYTES:]):
                self._answer(message)

    def _answer(self, message: Message) -> None:
        began = time.perf_counter()
        node = self._node
        channel = self._channel
        assert channel is not None
        retry_after = node.rooms.peer_limit.check(channel.peer_id)
        kind, body = rejection(retry_after) if retry_after else node.service.answer(message.kind, message.body)
        sent, received = len(body), len(message.body)
        wire = channel.seal(kind, body)
        if isinstance(wire, bytes):
            self._transport.write(wire)
        else:
            self._write_buffers(wire)
        message.release()
        node.touched.add(self)
        self._recorder.request(time.perf_counter() - began, sent, received)

    def _write_buffers(self, pieces: Iterable[PooledBuffer]) -> None:
        """Write pooled buffers; each stays ours until the transport has nothing left to send."""
        transport = self._transport
        unsent = self._unsent = self._unsent or []
        for piece in pieces:
            transport.write(piece.view)
            unsent.append(piece)
        if transport.get_write_buffer_size() == 0:
            self._release_sent()
        else:
            asyncio.get_running_loop().call_soon(self._after_write)

    def _after_write(self) -> None:
        if self._transport.get_write_buffer_size() == 0:
            self._release_sent()

    def _release_sent(self) -> None:
        unsent, self._unsent = self._unsent, None
        for piece in unsent or ():
            piece.release()

    def pause_writing(self) -> None:
        """The peer reads too slowly: take no further request until it has taken the answer."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._release_sent()
        self._transport.resume_reading()

    def trim(self) -> None:
        """Idle for a while: keep the keys, drop the AEAD contexts."""
        if self._channel is not None:
            self._channel.trim()

    def fail(self, error: ChannelError) -> None:
        """The peer broke the protocol: the connection dies, by way of its guard."""
        guard = self._guard
        if self._channel is None:
            self._node.unfinished.pop(self, None)
            self._node.arrivals.failed()
            self._guard = None  # nothing was established, so there is nothing to close a second time
        if guard is not None:
            guard.__exit__(type(error), error, None)

    def connection_lost(self, exc: Exception | None) -> None:
        node = self._node
        if self._channel is None:
            if self._guard is not None:
                self.fail(HandshakeError("peer left during the handshake"))
        else:
            self._channel.close()
            self._channel = None
        self._release_sent()
        node.touched.discard(self)
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.release()
