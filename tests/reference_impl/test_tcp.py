"""Connecting: numeric addresses, host names, and nobody there."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from reference_impl.buffer_pool import Allocating, BufferSettings
from reference_impl.errors import HandshakeError
from reference_impl.security.identity import Identity
from reference_impl.transports.tcp import TcpSettings, TcpTransport, _receive_second
from tests.clock import Clock
from tests.ports import held


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def transport() -> TcpTransport:
    return TcpTransport(Identity.generate(), Allocating(BufferSettings()), TcpSettings(connect_timeout=20))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_address_may_be_numeric_or_a_name(transport: TcpTransport, listening: socket.socket, host: str) -> None:
    port = listening.getsockname()[1]
    with transport.open((host, port)) as connected:
        assert connected.getpeername() == ("127.0.0.1", port)
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert connected.gettimeout() == 20


def test_nobody_there_is_an_error_and_no_descriptor_lost(transport: TcpTransport) -> None:
    with held() as port:
        before = len(os.listdir("/dev/fd"))
        with pytest.raises(ConnectionRefusedError):
            transport.open(("127.0.0.1", port))
        assert len(os.listdir("/dev/fd")) == before


def test_a_peer_that_drips_its_handshake_gains_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, limits = Clock(0.0), [5.0]

    class Dripping:
        def recv(self, size: int) -> bytes:
            clock.now += 1.0
            return b"\x00"

        def settimeout(self, seconds: float) -> None:
            limits.append(seconds)

    monkeypatch.setattr("reference_impl.transports.tcp.time.monotonic", clock)
    with pytest.raises(HandshakeError, match="fell silent"):
        _receive_second(Dripping(), 5.0)  # type: ignore[arg-type]  # as much of a socket as it uses
    assert limits == [5.0, 4.0, 3.0, 2.0, 1.0]
