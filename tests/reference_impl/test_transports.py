"""What every transport owes its users, whatever lies beneath: one contract over tcp, tls and memory."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from reference_impl import assemble
from reference_impl.dialer import Dialer
from reference_impl.errors import IdentityError, Rejected
from reference_impl.optimizations import parse
from reference_impl.security.frame import MAX_BODY, MAX_SINGLE
from reference_impl.security.identity import Identity
from reference_impl.service import ECHO
from reference_impl.settings import SettingsError
from reference_impl.transports.base import Link, Peer, Transport
from tests.ports import held
from tests.reference_impl.conftest import CLIENT, NODES, TLS, RunningNode
from tests.reference_impl.helpers import wait_until

Start = Callable[..., RunningNode]
Make = Callable[..., Dialer]
TRANSPORTS = ["tcp", "tls", "memory"]
SIZES = (0, 1, MAX_SINGLE - 5, MAX_SINGLE, MAX_SINGLE + 1, 65_519, 65_520, 262_144, MAX_BODY)


def transport_of(name: str) -> Transport:
    """One transport as the dialer has it."""
    dialer = assemble.dialer(parse(["all"]), CLIENT, {"tls": TLS})
    return dialer._transports[name]


@contextlib.contextmanager
def linked(node: RunningNode, name: str) -> Iterator[tuple[Any, Link]]:
    """A resource and the link over it to the node's first peer."""
    transport = transport_of(name)
    resource = transport.open(node.peers[0].addresses[name])
    try:
        yield resource, transport.secure(resource, node.peers[0])
    finally:
        resource.close()


@pytest.mark.parametrize("arm", ["none", "buffer_pool", "all"])
@pytest.mark.parametrize("name", TRANSPORTS)
def test_messages_of_every_size_arrive_whole(running: Start, dialing: Make, name: str, arm: str) -> None:
    node, dialer = running(arm, name), dialing(arm)
    pattern = os.urandom(4099)
    with dialer.connect(node.peers[0]) as connection:
        for size in SIZES:
            body = (pattern * (size // 4099 + 1))[:size]
            assert connection.request(body) == body
            assert connection.upload(memoryview(body)) == size
            with connection.download(size) as message:
                assert bytes(message.body) == (bytes(range(256)) * (size // 256 + 1))[:size]
        assert connection.key == (NODES[0].peer_id, name)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_the_node_learns_who_the_client_is(running: Start, dialing: Make, name: str) -> None:
    node = running("all", name)
    with dialing().connect(node.peers[1]) as connection:
        connection.request(b"x")
        names = {each.peer for each in node.node.rooms.metrics.snapshot().series if each.counts.requests}
    assert names == {CLIENT.peer_id}


@pytest.mark.parametrize("arm", ["none", "all"])
@pytest.mark.parametrize("name", TRANSPORTS)
def test_somebody_else_is_refused_and_nothing_is_kept(running: Start, dialing: Make, name: str, arm: str) -> None:
    node, dialer = running(arm, name), dialing(arm, circuit_breaker={"retries": 0})
    wrong = Peer(Identity.from_seed(b"somebody else").peer_id, node.peers[0].addresses)
    with pytest.raises(IdentityError, match="expected"):
        dialer.connect(wrong)
    assert dialer.cleanup.open_connections() == 0
    assert wait_until(lambda: node.node.cleanup.open_connections() == 0 and not node.node.unfinished)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_link_lives_until_its_peer_closes(running: Start, name: str) -> None:
    node = running("all", name)
    with linked(node, name) as (_, link):
        assert link.usable
        assert link.is_idle_and_alive()
        assert bytes(link.exchange(ECHO, b"one").body) == b"one"
        assert link.is_idle_and_alive()
        node.call(node.node.cleanup.close)
        assert wait_until(lambda: not link.is_idle_and_alive())
        with pytest.raises(OSError, match=r"closed|reset|[Bb]roken"):
            link.exchange(ECHO, b"two")
        assert not link.usable


@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_wiped_link_is_unusable_and_says_so(running: Start, name: str) -> None:
    node = running("all", name)
    with linked(node, name) as (_, link):
        link.wipe()
        assert not link.usable
        with pytest.raises(RuntimeError, match="in use"):
            link.exchange(ECHO, b"x")


@pytest.mark.parametrize("name", ["tcp", "tls"])
@pytest.mark.parametrize("reset", [False, True])
def test_peers_that_leave_are_forgotten(running: Start, name: str, reset: bool) -> None:
    node = running("all", name)
    with linked(node, name) as (resource, link):
        link.exchange(ECHO, b"x")
        if reset:
            resource.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        else:
            resource.shutdown(socket.SHUT_WR)
            assert resource.recv(1) == b"", "a half-closed connection is closed by the node"
    assert wait_until(lambda: node.node.cleanup.open_connections() == 0)
    assert node.node.recorders == {}


@pytest.mark.parametrize("name", ["tcp", "tls"])
def test_a_message_that_breaks_off_leaves_nothing(running: Start, name: str) -> None:
    node = running("all", name)
    with linked(node, name) as (resource, link):
        wire = link._channel.seal(ECHO, b"x" * 10_000)  # type: ignore[attr-defined]
        resource.sendall(wire[:5_000])
        assert wait_until(lambda: node.node.cleanup.open_connections() == 1)
    assert wait_until(lambda: node.node.cleanup.open_connections() == 0)


@pytest.mark.parametrize("arm", ["none", "all"])
@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_forged_byte_kills_the_connection_and_nothing_else(
    running: Start, dialing: Make, name: str, arm: str
) -> None:
    node, dialer = running(arm, name), dialing("pooling")
    with dialer.connect(node.peers[0]) as connection, linked(node, name) as (resource, link):
        wire = link._channel.seal(ECHO, b"x" * 1000)  # type: ignore[attr-defined]
        resource.sendall(wire[:-1] + bytes([wire[-1] ^ 1]))
        assert resource.recv(1000) == b""
        assert connection.request(b"unaffected") == b"unaffected"
        assert wait_until(lambda: node.node.cleanup.open_connections() == 1)


@pytest.mark.parametrize("arm", ["none", "all"])
@pytest.mark.parametrize("name", TRANSPORTS)
def test_two_requests_at_once_kill_the_connection(running: Start, name: str, arm: str) -> None:
    node = running(arm, name)
    with linked(node, name) as (resource, link):
        channel = link._channel  # type: ignore[attr-defined]
        resource.sendall(channel.seal(ECHO, b"one") + channel.seal(ECHO, b"two"))
        assert resource.recv(1000) == b""
        assert wait_until(lambda: node.node.cleanup.open_connections() == 0)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_limits_hold_say_when_to_retry_and_the_connection_lives(running: Start, dialing: Make, name: str) -> None:
    node = running("all", name, rate_limit={"max_requests_per_second": 0.001, "burst_size": 2})
    dialer = dialing()
    for _ in range(2):
        with dialer.connect(node.peers[0]) as connection:
            connection.request(b"x")
    with dialer.connect(node.peers[0]) as connection, pytest.raises(Rejected) as rejected:
        connection.request(b"x")
    assert 0 < rejected.value.retry_after <= 1000
    assert dialer.gauges()["pooling"]["idle"] == 1


@pytest.mark.parametrize(
    ("name", "arm"), [*((name, "all") for name in TRANSPORTS), ("tcp", "none"), ("tcp", "first-day-reuse")]
)
def test_many_threads_share_a_dialer(running: Start, dialing: Make, name: str, arm: str) -> None:
    node, dialer = running(arm, name, node={"tick": 0.01}), dialing(arm)

    def user(number: int) -> int:
        good = 0
        for turn in range(30):
            body = b"%d/%d " % (number, turn) * 50
            with dialer.connect(node.peers[(number + turn) % 4]) as connection:
                good += connection.request(body) == body
        return good

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(user, range(8))) == 8 * 30
    assert dialer.gauges()["pooling"]["in_use"] == 0


@pytest.mark.parametrize("arm", ["none", "all"])
def test_unfinished_handshakes_of_tls_are_capped_and_die_in_time(running: Start, dialing: Make, arm: str) -> None:
    node = running(arm, "tls", node={"max_handshakes": 5, "handshake_timeout": 600.0, "tick": 0.05})
    flood = [socket.create_connection(node.address) for _ in range(20)]
    try:
        for each in flood:
            with contextlib.suppress(OSError):  # the refused ones may be gone already
                each.sendall(b"\x16\x03\x01\x40")  # the beginning of a handshake record
        assert wait_until(lambda: node.node.refused == 15)
        assert len(node.node.unfinished) == 5
        node.call(lambda: node.node.unfinished.update(dict.fromkeys(node.node.unfinished, 0.0)))  # their time is up
        assert wait_until(lambda: not node.node.unfinished)
        with dialing(arm).connect(node.peers[0]) as connection:
            assert connection.request(b"hello") == b"hello"
    finally:
        for each in flood:
            each.close()


def test_a_dead_transport_is_skipped_while_its_breaker_is_open(running: Start, dialing: Make) -> None:
    node = running("all", "tls")
    with held() as port:
        peer = Peer(NODES[0].peer_id, {"tcp": ("127.0.0.1", port), "tls": node.peers[0].addresses["tls"]})
        settings = {"failure_threshold": 3, "timeout": 29.0}
        dialer = dialing("circuit_breaker", circuit_breaker=settings)
        for _ in range(10):  # no pool: a dial each
            with dialer.connect(peer) as connection:
                assert connection.key[1] == "tls"
    breakers = dialer.gauges()["circuit_breaker"]
    assert (breakers["open"], breakers["closed_to_open"]) == (1, 1)
    assert breakers["attempts"] == 3 + 10, "three dials of tcp failed, the other seven were not made"
    attempts = {each.transport: each.counts.connection_attempts for each in dialer.metrics.snapshot().transports}
    assert attempts == {"tcp": 3, "tls": 10}


def test_a_transport_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="'quic'; expected one of: tcp, tls, memory"):
        assemble.node(parse(["all"]), NODES, {}, ["quic"])


_GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys, gevent, json
from reference_impl import assemble
from reference_impl.errors import IdentityError
from reference_impl.security.identity import Identity
from reference_impl.optimizations import parse
from reference_impl.transports.base import Peer

ready = json.loads(sys.argv[1])
for arm in ("none", "all"):
    dialer = assemble.dialer(parse([arm]), Identity.generate(), {"tls": ready["tls"]})
    peers = [Peer(bytes.fromhex(p["peer_id"]), {"tls": tuple(p["addresses"]["tls"])}) for p in ready["peers"]]
    def user(number):
        for turn in range(5):
            body = b"%d/%d " % (number, turn) * 9000
            with dialer.connect(peers[turn % 2]) as connection:
                assert connection.request(body) == body and connection.is_alive()
        return number
    users = [gevent.spawn(user, number) for number in range(8)]
    gevent.joinall(users, raise_error=True)
    try:
        dialer.connect(Peer(b"x" * 32, {"tls": peers[0].addresses["tls"]}))
    except IdentityError as error:
        assert "expected" in str(error), error
    dialer.close()
    assert dialer.cleanup.open_connections() == 0
print("served", len(users))
"""


def test_greenlets_speak_tls_to_a_node_of_its_own_process() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "reference_impl", "--transports", "tcp,tls", "--peers", "2"],
        stdout=subprocess.PIPE,
        text=True,
    ) as node:
        try:
            assert node.stdout is not None
            ready = node.stdout.readline()
            users = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", _GREENLETS, ready],
                check=False, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
        finally:
            node.terminate()
    assert (users.stdout, users.stderr, node.returncode) == ("served 8\n", "", 0)
