"""Pooling: what lending an idle connection and taking it back costs.

Connections are stubs: what a new connection costs is measured in channel.py. `off` therefore shows only the bookkeeping
of a connection per request, without the handshake that each of its checkouts pays in real use.
"""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

from reference_impl.pooling import POOLING, ConnectionPool, PoolSettings
from scenarios.micro.suite import TURNS, Builder, Case, Goal, Room, Setup, Timed, each, in_threads, main

PEERS = [random.Random(number).randbytes(32) for number in range(1000)]


class Alive:
    """A connected socket whose other end stays silent, with the poll that our transport uses."""

    def __init__(self, stack: ExitStack) -> None:
        self.socket, other = socket.socketpair()
        stack.callback(self.socket.close)
        stack.callback(other.close)
        self.poll = select.poll()
        self.poll.register(self.socket.fileno(), select.POLLIN | select.POLLPRI)

    def is_readable(self) -> bool:
        return bool(self.poll.poll(0))


Work = Callable[[Iterable[Any]], object]
Maker = Callable[[Setup, int], tuple[Work, list[Any]]]
"""(setup, peers) -> (what lends and takes back for each key, the keys)."""


def _ours(twin: Callable[..., Any], *, poll: bool = False) -> Maker:
    def make(setup: Setup, peers: int) -> tuple[Work, list[Any]]:
        alive = Alive(setup.stack)
        settings = PoolSettings(liveness_after=0.0 if poll else 0.5)
        pool = twin(
            settings,
            connect=lambda peer: alive,
            close=lambda connection: None,
            is_alive=lambda connection: not connection.poll.poll(0),
        )
        checkout, checkin = pool.checkout, pool.checkin

        def work(keys: Iterable[bytes]) -> None:
            for peer in keys:
                checkin(checkout(peer))

        return work, PEERS[:peers]

    return make


def _urllib3(setup: Setup, peers: int) -> tuple[Work, list[Any]]:
    # As it ships: a LIFO queue under a lock; polls the socket at every checkout. No age, no idle cap over all peers,
    # no leak detection. Going past its PoolManager, straight to the peer's own pool, spares it the look-up by URL.
    from urllib3 import HTTPConnectionPool

    alive = Alive(setup.stack)
    pools = {}
    for peer in PEERS[:peers]:
        pools[peer] = pool = HTTPConnectionPool("127.0.0.1", maxsize=setup.threads, block=True)
        connections = [pool._get_conn() for _ in range(setup.threads)]
        for connection in connections:
            connection.sock = alive.socket  # type: ignore[attr-defined]
            pool._put_conn(connection)

    def work(keys: Iterable[bytes]) -> None:
        for peer in keys:
            pool = pools[peer]
            pool._put_conn(pool._get_conn())

    return work, PEERS[:peers]


class _Database:
    """What SQLAlchemy's pool needs of a connection."""

    def __init__(self, alive: Alive) -> None:
        self.alive = alive

    def rollback(self) -> None:
        pass

    def close(self) -> None:
        pass


def _sqlalchemy(*, poll: bool) -> Maker:
    # A LIFO queue under a condition, age limit and events; resetting on return (a database's ROLLBACK) is turned off.
    # It polls only with pre_ping, for which it asks the dialect, here: our poll.
    def make(setup: Setup, peers: int) -> tuple[Work, list[Any]]:
        from sqlalchemy.engine.default import DefaultDialect
        from sqlalchemy.pool import QueuePool

        class Dialect(DefaultDialect):
            def do_ping(self, dbapi_connection: Any) -> bool:
                return not dbapi_connection.alive.poll.poll(0)

        alive = Alive(setup.stack)
        pools = {
            peer: QueuePool(
                lambda: _Database(alive),  # type: ignore[arg-type]
                pool_size=setup.threads,
                max_overflow=0,
                use_lifo=True,
                reset_on_return=None,
                pre_ping=poll,
                dialect=Dialect(),
            )
            for peer in PEERS[:peers]
        }

        def work(keys: Iterable[bytes]) -> None:
            for peer in keys:
                pools[peer].connect().close()

        return work, PEERS[:peers]

    return make


class _Idle:
    """What httpcore's pool asks of a connection; it answers a request at once, and is busy until that is closed."""

    def __init__(self, origin: Any, alive: Alive, answer: Callable[..., Any]) -> None:
        self.origin, self.alive, self.answer, self.busy = origin, alive, answer, False

    def handle_request(self, request: Any) -> Any:
        self.busy = True
        return self.answer(200, content=self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def close(self) -> None:
        self.busy = False

    def can_handle_request(self, origin: Any) -> bool:
        return bool(origin == self.origin)

    def is_available(self) -> bool:
        return not self.busy

    is_idle = is_available

    def has_expired(self) -> bool:
        return self.alive.is_readable()

    def is_closed(self) -> bool:
        return False


def _httpcore(setup: Setup, peers: int) -> tuple[Work, list[Any]]:
    # Walks all connections of all peers at every request and again at every response's end, and polls each idle one
    # (as its HTTP/1.1 connections do when asked whether they have expired); caps, keep-alive expiry, FIFO waiters.
    import httpcore

    alive = Alive(setup.stack)

    class Pool(httpcore.ConnectionPool):
        def create_connection(self, origin: Any) -> Any:
            return _Idle(origin, alive, httpcore.Response)

    most = max(peers, setup.threads)
    pool = Pool(max_connections=most, max_keepalive_connections=most)
    requests = [httpcore.Request("GET", f"http://peer{number}/") for number in range(peers)]

    def work(keys: Iterable[Any]) -> None:
        for request in keys:
            pool.handle_request(request).close()

    return work, requests


def _one_thread(make: Maker, peers: int) -> Builder:
    def build(setup: Setup) -> Timed:
        work, keys = make(setup, peers)
        work(keys)  # connections to all peers are open
        return each(random.Random(peers).sample(keys, len(keys)), work)

    return build


def _many_threads(make: Maker) -> Builder:
    def build(setup: Setup) -> Timed:
        work, keys = make(setup, 1)
        return in_threads(setup.threads, lambda number: lambda loops: work(keys * loops))

    return build


TWINS: dict[str, Maker] = {
    "off": _ours(POOLING.off),
    "first-day-reuse": _ours(POOLING.controls["first-day-reuse"]),
    "on": _ours(ConnectionPool),
}
LIBRARIES: dict[str, Maker] = {"urllib3": _urllib3, "sqlalchemy": _sqlalchemy(poll=False)}
HTTPCORE: dict[str, Maker] = {"httpcore": _httpcore}
POLLING: dict[str, Maker] = {
    "on": _ours(ConnectionPool, poll=True),
    "urllib3": _urllib3,
    "sqlalchemy": _sqlalchemy(poll=True),
    "httpcore": _httpcore,
}
ONE = "checkout + checkin"


def _case(name: str, makers: dict[str, Maker], peers: int, *goals: Goal, weight: float = 1.0) -> Case:
    return Case(name, {key: _one_thread(make, peers) for key, make in makers.items()}, goals, weight=weight)


ROOM = Room(
    "pooling",
    __doc__,
    (
        _case(ONE, TWINS | LIBRARIES | HTTPCORE, 1, Goal(500 / 2716, "urllib3", "500 ns where urllib3 takes 2,716")),
        _case(
            f"{ONE}, liveness poll", POLLING, 1,
            Goal(1000 / 2716, "urllib3", "1,000 ns where urllib3, which always polls, takes 2,716"),
        ),
        _case(
            f"{ONE}, 1,000 peers", TWINS | LIBRARIES, 1000,
            Goal(1.25, "on", "at most a quarter more than with one peer", ONE),
        ),
        _case(f"{ONE}, 10 connections", {"on": TWINS["on"], **HTTPCORE}, 10),
        _case(f"{ONE}, 100 connections", {"on": TWINS["on"], **HTTPCORE}, 100),
        Case(
            f"{ONE}, threads",
            {key: _many_threads(make) for key, make in (TWINS | LIBRARIES | HTTPCORE).items()},
            (Goal(800 / 2716, "urllib3", "800 ns where urllib3 takes 2,716 on one thread", ONE),),
            weight=TURNS,
        ),
    ),
    needs={"urllib3": "urllib3", "sqlalchemy": "sqlalchemy", "httpcore": "httpcore"},
)  # fmt: skip

if __name__ == "__main__":
    main(ROOM)
