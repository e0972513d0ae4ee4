"""The in-process transport's own promises: no waiting, no descriptors, ports that are taken and given back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

from reference_impl.buffer_pool import Allocating, BufferSettings
from reference_impl.dialer import Dialer
from reference_impl.transports.base import Peer
from reference_impl.transports.memory import MemoryListener, MemorySocket, MemoryTransport
from tests.reference_impl.conftest import CLIENT, NODES, RunningNode


def test_a_connection_takes_no_descriptor_and_no_loop(
    running: Callable[..., RunningNode], dialing: Callable[..., Dialer]
) -> None:
    node, dialer = running("all", "memory"), dialing()
    descriptors = os.listdir("/dev/fd")
    with dialer.connect(node.peers[0]) as connection:
        assert connection.request(b"x" * 1_000_000) == b"x" * 1_000_000
        assert os.listdir("/dev/fd") == descriptors
        node.call(node.node._keep_house)  # the loop's housekeeping leaves ciphers in use by other threads alone
        node.call(node.node._keep_house)
        assert connection.request(b"again") == b"again"


def test_what_is_not_there_at_once_never_comes(running: Callable[..., RunningNode]) -> None:
    node = running("all", "memory")
    transport = MemoryTransport(CLIENT, Allocating(BufferSettings()))
    resource = transport.open(node.peers[0].addresses["memory"])
    with pytest.raises(TimeoutError, match="never will"):
        resource.recv(1)
    resource.sendall(b"\xff" * 200)  # no handshake
    assert resource.recv(1) == b""
    assert not resource.is_quiet()
    with pytest.raises(ConnectionResetError):
        resource.send(b"x")
    resource.close()
    for use in (lambda: resource.send(b"x"), lambda: resource.recv(1)):
        with pytest.raises(OSError, match="socket is closed"):
            use()
    assert node.node.cleanup.open_connections() == 0


def test_bytes_come_in_the_pieces_that_are_asked_for() -> None:
    class Greeter:
        def connection_made(self, end: Any) -> None:
            end.write(b"hello")

        def connection_lost(self, error: Exception | None) -> None: ...

    resource = MemorySocket(Greeter)  # type: ignore[arg-type]
    space = memoryview(bytearray(3))
    assert resource.recv_into(space) == 3
    assert bytes(space) + resource.recv(10) == b"hello"


def test_ports_are_taken_once_and_given_back() -> None:
    listener = MemoryListener(Allocating(BufferSettings()))
    transport = MemoryTransport(CLIENT, Allocating(BufferSettings()))

    async def listen(port: int) -> Any:
        return await listener.listen(asyncio.BufferedProtocol, "", port, 1)

    taken, address = asyncio.run(listen(0))
    with pytest.raises(OSError, match="is taken"):
        asyncio.run(listen(address[1]))
    taken.close()
    with pytest.raises(ConnectionRefusedError, match="nobody listens"):
        transport.open(address)
    again, same = asyncio.run(listen(address[1]))
    assert same == address
    again.close()


def test_a_refused_source_sees_the_connection_closed(
    running: Callable[..., RunningNode], dialing: Callable[..., Dialer]
) -> None:
    node = running("all", "memory", source_limit={"max_requests_per_second": 0.001, "burst_size": 1})
    dialer = dialing("cleanup", circuit_breaker={"retries": 0})
    with dialer.connect(node.peers[0]) as connection:
        connection.request(b"x")
    with pytest.raises(ConnectionError):
        dialer.connect(Peer(NODES[0].peer_id, node.peers[0].addresses))
    assert node.node.refused == 1
    assert dialer.cleanup.open_connections() == 0
