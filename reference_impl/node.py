"""A node: listens on several ports, each with an identity of its own, in one process on one event loop.

Laws: nothing unauthenticated lives longer than the handshake timeout or beyond the cap on unfinished handshakes,
whatever the transport; nor do peers, whose identities cost nothing, hold more than so many connections and messages;
all ports of a node share its rooms.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reference_impl import settings as check
from reference_impl.buffer_pool import Buffers
from reference_impl.buffer_pool.inbox import READ_AHEAD
from reference_impl.cleanup import Cleanup
from reference_impl.errors import FrameError, HandshakeError
from reference_impl.metrics import Metrics, Recorder
from reference_impl.pooling.resumption import Resumption
from reference_impl.rate_limit import RateLimiter
from reference_impl.security.identity import Identity
from reference_impl.service import Service
from reference_impl.session import Entrance, Session
from reference_impl.transports.base import Address, Closable, Listener
from reference_impl.transports.base import MakeSession as MakeProtocol

_RETRY_SECONDS = 0.1
MakeSession = Callable[[Entrance], Session]


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Limits of a node that no optimization switches.

    `handshake_timeout`: seconds from accept to authenticated. `message_timeout`: seconds from the first byte of a
    request to its last, and for a peer to take an answer; 30, so that 4 MiB need no more than 1.2 Mbit/s.
    `max_handshakes`: unfinished handshakes at once. `max_connections`: connections at once. `max_owing`: messages at
    once that have begun and not ended, or are not taken, each with buffers of up to 4 MiB for it; one more ends the
    connection that has owed for longest.
    `tick`: seconds between housekeeping rounds; a channel idle for one to two ticks is trimmed. `backlog`: the listen
    queue of each port.
    """

    handshake_timeout: float = 5.0
    message_timeout: float = 30.0
    max_handshakes: int = 1024
    max_connections: int = 50_000
    max_owing: int = 128
    tick: float = 2.0
    backlog: int = 1024

    def __post_init__(self) -> None:
        check.positive("node", "handshake_timeout", self.handshake_timeout)
        check.positive("node", "message_timeout", self.message_timeout)
        check.positive("node", "tick", self.tick)
        check.count("node", "max_handshakes", self.max_handshakes)
        check.count("node", "max_connections", self.max_connections)
        check.count("node", "max_owing", self.max_owing)
        check.count("node", "backlog", self.backlog, most=check.INT_MAX)


@dataclass(frozen=True, slots=True)
class Rooms:
    """The twins a node is wired with; `make_cleanup` takes the two hooks."""

    make_cleanup: Callable[..., Cleanup]
    source_limit: RateLimiter
    peer_limit: RateLimiter
    buffers: Buffers
    metrics: Metrics
    tickets: Resumption


@dataclass(frozen=True, slots=True)
class Door:
    """Where a node listens, so that it can come back there."""

    listener: Listener
    make_session: MakeProtocol
    address: Address


def _collections() -> int:
    """Runs of the garbage collector since the process began, of all generations."""
    return sum(each["collections"] for each in gc.get_stats())


class Node:
    """Listens, authenticates, answers. Made by `assemble.node`; `start`, then `close`."""

    def __init__(
        self,
        identities: Sequence[Identity],
        rooms: Rooms,
        settings: NodeSettings,
        listeners: Sequence[Listener],
        make_session: MakeSession = Session,
    ) -> None:
        self.identities = tuple(identities)
        self.rooms = rooms
        self.cleanup = rooms.make_cleanup(self.on_close, self.on_connection_closed)
        self.settings = settings
        self.service = Service(self.stats, self.snapshot)
        self.arena = memoryview(bytearray(READ_AHEAD))
        self.recorders: dict[int, Recorder] = {}
        self.unfinished: dict[Session, float] = {}
        """Sessions in their handshake, with their deadlines."""
        self.owing: dict[Session, float] = {}
        """Sessions in the middle of a message, or whose answer is not taken, with their deadlines."""
        self.touched: dict[Session, None] = {}  # a set, in half the memory of one
        self.refused = 0
        self._cooling: dict[Session, None] = {}
        self._evict_at = dict.fromkeys((rooms.source_limit, rooms.peer_limit), 0.0)
        self._listeners = tuple(listeners)
        self._make_session = make_session
        self._doors: list[Door] = []
        self._servers: list[Closable] = []
        self._away: list[Door] = []
        self._reopening: asyncio.TimerHandle | None = None
        self._returning: asyncio.Task[None] | None = None
        self.more_gauges: dict[str, Callable[[], Mapping[str, float]]] = {}
        """Gauges beside the rooms' own, by name."""
        self._housekeeping: asyncio.TimerHandle | None = None
        self._collections_before = 0

    async def start(self, host: str = "127.0.0.1", ports: Sequence[int] = ()) -> list[dict[str, Address]]:
        """Listen; returns, per identity, an address per transport.

        `ports` go to the first identity's transports, then to the second's ...; port 0 (the default) lets the kernel
        choose. Raises `OSError`.
        """
        chosen = itertools.chain(ports, itertools.repeat(0))
        addresses = [await self._open(identity, host, chosen) for identity in self.identities]
        self._housekeeping = asyncio.get_running_loop().call_later(self.settings.tick, self._keep_house)
        self._collections_before = _collections()
        return addresses

    async def _open(self, identity: Identity, host: str, ports: Iterator[int]) -> dict[str, Address]:
        addresses: dict[str, Address] = {}
        for listener in self._listeners:
            name = listener.name
            arrivals = self.rooms.metrics.recorder(b"", name)
            entrance = Entrance(self, name, listener.acceptor(identity), arrivals)
            make = functools.partial(self._make_session, entrance)
            server, address = await listener.listen(make, host, next(ports), self.settings.backlog)
            self._servers.append(server)
            self._doors.append(Door(listener, make, address))
            addresses[name] = address
        return addresses

    def close(self) -> None:
        """Stop listening and close every connection."""
        for timer in (self._housekeeping, self._reopening):
            if timer is not None:
                timer.cancel()
        self._doors.clear()
        self._away = []
        self._go_away()
        self.rooms.tickets.close()

    def crash(self, seconds: float) -> None:
        """All connections die and nobody listens for `seconds`; then the same addresses do again."""
        self._go_away()
        if self._reopening is not None:
            self._reopening.cancel()  # of an earlier crash
        self._away = list(self._doors)
        self._return_in(seconds)

    def _return_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()

        def begin() -> None:
            self._returning = loop.create_task(self._come_back())

        self._reopening = loop.call_later(seconds, begin)

    def _go_away(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        self.cleanup.close()
        self.rooms.tickets.forget()  # as a process that crashed would have

    async def _come_back(self) -> None:
        away = self._away
        while away:
            door = away[-1]
            try:
                server, _ = await door.listener.listen(door.make_session, *door.address, self.settings.backlog)
            except OSError:  # somebody has the port for the moment
                if away is self._away:
                    self._return_in(_RETRY_SECONDS)
                return
            if away is not self._away:  # closed, or crashed again, meanwhile
                server.close()
                return
            self._servers.append(server)
            away.pop()

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
            "process": {"collections": _collections() - self._collections_before},
            "pooling": rooms.tickets.gauges(),
            "cleanup": self.cleanup.gauges(),
            "source_limit": rooms.source_limit.gauges(),
            "rate_limit": rooms.peer_limit.gauges(),
            "buffer_pool": rooms.buffers.gauges(),
            "metrics": rooms.metrics.gauges(),
            **{name: gauges() for name, gauges in self.more_gauges.items()},
        }

    def snapshot(self) -> dict[str, Any]:
        """Take a snapshot of the metrics, as a scrape does; how many series were in it."""
        return {"series": len(self.rooms.metrics.snapshot().series)}

    def _keep_house(self) -> None:
        # First: whatever a session or a room raises below, the next round comes.
        self._housekeeping = asyncio.get_running_loop().call_later(self.settings.tick, self._keep_house)
        now = time.monotonic()
        for session, deadline in list(self.unfinished.items()):
            if deadline > now:
                break  # all have the same timeout, so they stand in order of their deadlines
            session.fail(HandshakeError("handshake took too long"))
        for session, deadline in list(self.owing.items()):
            if deadline > now:
                break
            session.give_up(FrameError("a message took too long"))
        for session in self._cooling.keys() - self.touched.keys():
            session.trim()
        self._cooling, self.touched = self.touched, {}
        rooms = self.rooms
        for room in (self.cleanup, rooms.buffers, rooms.metrics, rooms.tickets):
            room.sweep()
        for limiter, due in self._evict_at.items():
            if now >= due:  # not every tick: a whole sweep of 100,000 keys holds the loop for 12 ms
                limiter.sweep()
                self._evict_at[limiter] = now + limiter.eviction_interval
