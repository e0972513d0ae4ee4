"""A real node in a thread of its own, on loopback ports that the kernel chooses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import uvloop

from reference_impl import assemble
from reference_impl.dialer import Dialer
from reference_impl.node import Node
from reference_impl.optimizations import parse
from reference_impl.security.certificates import Authority
from reference_impl.security.identity import Identity
from reference_impl.transports.base import Peer
from tests.reference_impl.helpers import eager_thread_switches

CLIENT = Identity.from_seed(b"client")
AUTHORITY = Authority.generate()
TLS = {"authority": AUTHORITY.pem}
NODES = tuple(Identity.from_seed(b"node %d" % number) for number in range(4))


class RunningNode:
    """A node on its own event loop and thread; `peers` reach its identities."""

    def __init__(self, enabled: str, transports: str, tables: dict[str, dict[str, Any]]) -> None:
        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self.node: Node = assemble.node(parse(enabled.split(",")), NODES, {"tls": TLS, **tables}, transports.split(","))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        addresses = self.call(self.node.start)
        resumes = self.node.rooms.tickets.resuming
        self.peers = tuple(
            Peer(identity.peer_id, reached, resumes=resumes) for identity, reached in zip(NODES, addresses, strict=True)
        )
        self.address = next(iter(addresses[0].values()))

    def call(self, function: Callable[[], Any]) -> Any:
        """The result of `function` (which may be a coroutine function), run on the node's loop."""

        async def run() -> Any:
            result = function()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(20)

    def close(self) -> None:
        self.call(self.node.close)
        self.call(lambda: asyncio.sleep(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def running() -> Iterator[Callable[..., RunningNode]]:
    """Starts nodes with the given optimizations, transports and settings tables, and ends them."""
    with ExitStack() as ends:

        def start(enabled: str = "all", transports: str = "tcp", **tables: dict[str, Any]) -> RunningNode:
            node = RunningNode(enabled, transports, tables)
            ends.callback(node.close)
            return node

        yield start


@pytest.fixture
def dialing() -> Iterator[Callable[..., Dialer]]:
    """Makes dialers with the given optimizations and settings tables, and closes them."""
    dialers: list[Dialer] = []

    def make(enabled: str = "all", **tables: dict[str, Any]) -> Dialer:
        dialers.append(assemble.dialer(parse(enabled.split(",")), CLIENT, {"tls": TLS, **tables}))
        return dialers[-1]

    yield make
    for dialer in dialers:
        dialer.close()


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Let the interpreter change threads as often as it can."""
    with eager_thread_switches():
        yield
