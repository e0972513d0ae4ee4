"""Node and dialer over real sockets: every request kind on every arm, and peers that misbehave."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from reference_impl import assemble
from reference_impl import session as session_module
from reference_impl.buffer_pool import Allocating, BufferSettings, CryptoBufferPool
from reference_impl.buffer_pool.buffers import PooledBuffer
from reference_impl.circuit_breaker.breaker import CircuitOpen, CircuitState
from reference_impl.dialer import Connection, Dialer
from reference_impl.errors import ChannelError, FrameError, RemoteError
from reference_impl.optimizations import OPTIMIZATIONS, parse
from reference_impl.pooling.lease import LeaseError
from reference_impl.security.channel import SECOND_BYTES, Channel, Initiation
from reference_impl.security.frame import MAX_BODY, wire_size
from reference_impl.service import ECHO, OK, SIZE, SOURCE
from reference_impl.session import Session
from reference_impl.transports.base import Peer
from reference_impl.transports.memory import MemoryEnd, MemorySocket, MemoryTransport
from tests.ports import held
from tests.reference_impl.conftest import CLIENT, NODES, RunningNode
from tests.reference_impl.helpers import wait_until
from tests.reference_impl.test_forks import forked, run

Start = Callable[..., RunningNode]
Make = Callable[..., Dialer]
BUFFERS = Allocating(BufferSettings())
ARMS = ["none", "first-day-reuse", "all", *OPTIMIZATIONS]


@pytest.mark.parametrize("arm", ARMS)
def test_every_request_on_every_arm(running: Start, dialing: Make, arm: str) -> None:
    node, dialer = running(arm), dialing(arm)
    for peer in node.peers:
        with dialer.connect(peer) as connection:
            assert connection.peer_id == bytes(peer)
            for size in (0, 1, 1024, 65_519, 65_520, MAX_BODY):
                body = os.urandom(min(size, 997)) * (size // 997 + 1) if size else b""
                assert connection.request(body[:size]) == body[:size]
                assert connection.upload(body[:size]) == size
                with connection.download(size) as message:
                    assert bytes(message.body) == (bytes(range(256)) * (size // 256 + 1))[:size]
    with dialer.connect(node.peers[0]) as connection:
        stats = connection.stats()
        assert connection.snapshot() == stats["metrics"]["series"]
    assert stats["metrics"]["requests"] == 4 * 6 * 3
    assert stats["node"]["unfinished_handshakes"] == 0


def test_it_tells_how_often_its_garbage_was_collected_since_it_was_made(running: Start) -> None:
    node = running()
    before = node.node.stats()["process"]["collections"]
    gc.collect()
    assert node.node.stats()["process"]["collections"] >= before + 1
    assert running().node.stats()["process"]["collections"] < sum(each["collections"] for each in gc.get_stats())


def test_malformed_requests_are_answered_with_an_error_and_the_connection_lives(running: Start, dialing: Make) -> None:
    node, dialer = running(), dialing()
    with dialer.connect(node.peers[0]) as connection:
        for kind, body, said in ((99, b"", "unknown"), (SOURCE, b"x", "4-byte"), (SOURCE, b"\xff" * 4, "at most")):
            with pytest.raises(RemoteError, match=said):
                connection.exchange(kind, body)
        assert connection.request(b"still here") == b"still here"


def test_nobody_listens(running: Start, dialing: Make) -> None:
    with held() as port:
        for arm in ("none", "all"):
            dialer = dialing(arm, circuit_breaker={"retries": 0})
            with pytest.raises(ConnectionRefusedError):
                dialer.connect(Peer(NODES[0].peer_id, {"tcp": ("127.0.0.1", port)}))


@pytest.mark.parametrize("arm", ["none", "all"])
def test_a_peer_on_transports_that_the_dialer_lacks_is_not_reached(dialing: Make, arm: str) -> None:
    with pytest.raises(ConnectionError, match=r"the peer is reached by carrier pigeon, this dialer reaches by tcp"):
        dialing(arm).connect(Peer(NODES[0].peer_id, {"carrier pigeon": ("127.0.0.1", 1)}))


@pytest.mark.parametrize("arm", ["none", "all"])
def test_garbage_and_silence_do_not_outlive_the_handshake_timeout(running: Start, arm: str) -> None:
    node = running(arm, node={"handshake_timeout": 0.2, "tick": 0.05})
    with socket.create_connection(node.address) as silent, socket.create_connection(node.address) as garbage:
        garbage.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
        for each in (silent, garbage):
            each.settimeout(10)
            assert each.recv(100) == b""
    assert wait_until(lambda: not node.node.unfinished)


def test_unfinished_handshakes_are_capped_and_honest_peers_served_after(running: Start, dialing: Make) -> None:
    node = running("all", node={"max_handshakes": 5, "handshake_timeout": 600.0, "tick": 0.05})
    flood = [socket.create_connection(node.address) for _ in range(20)]
    try:
        assert wait_until(lambda: node.node.refused == 15)
        assert len(node.node.unfinished) == 5
        node.call(lambda: node.node.unfinished.update(dict.fromkeys(node.node.unfinished, 0.0)))  # their time is up
        assert wait_until(lambda: not node.node.unfinished)
        with dialing().connect(node.peers[0]) as connection:
            assert connection.request(b"hello") == b"hello"
    finally:
        for each in flood:
            each.close()


def test_connections_are_counted_whoever_has_them(running: Start, dialing: Make) -> None:
    node = running("all", node={"max_connections": 3})
    peers = [RawPeer(node, BUFFERS) for _ in range(3)]
    assert wait_until(lambda: not node.node.unfinished)
    dialer = dialing("none", circuit_breaker={"retries": 0})
    with pytest.raises(OSError, match=r".+"):
        dialer.connect(node.peers[0])
    assert node.node.refused == 1
    peers[0].socket.close()
    assert wait_until(lambda: node.node.cleanup.open_connections() == 2)
    with dialer.connect(node.peers[0]) as connection:
        assert connection.request(b"hello") == b"hello"
    for each in peers[1:]:
        each.socket.close()


@pytest.mark.parametrize("arm", ["none", "all"])
def test_peers_that_take_no_answer_hold_no_more_than_so_many(running: Start, dialing: Make, arm: str) -> None:
    """Nor do those that send no more than the beginning of a message."""
    node = running(arm, node={"max_owing": 3})
    peers = [RawPeer(node, BUFFERS, window=4096) for _ in range(8)]
    for number, each in enumerate(peers):
        if number % 2:
            each.send(SOURCE, SIZE.pack(MAX_BODY))
        else:
            begun = each.channel.seal(ECHO, bytes(MAX_BODY))
            assert not isinstance(begun, bytes)
            each.socket.sendall(next(iter(begun)).view)
    assert wait_until(lambda: node.node.cleanup.open_connections() == 3)
    assert len(node.node.owing) == 3
    with dialing().connect(node.peers[0]) as connection:
        assert connection.request(b"z" * 1_000_000) == b"z" * 1_000_000
    for each in peers:
        each.socket.close()


def test_fresh_sources_are_limited_before_the_handshake(running: Start, dialing: Make) -> None:
    node = running("all", source_limit={"max_requests_per_second": 0.001, "burst_size": 2})
    dialer = dialing("none", circuit_breaker={"retries": 0})
    for _ in range(2):
        with dialer.connect(node.peers[0]) as connection:
            connection.request(b"x")
    with pytest.raises(OSError, match=r".+"):
        dialer.connect(node.peers[0])
    assert node.node.refused == 1


def wait_for_backpressure(node: RunningNode) -> list[Session]:
    """The sessions whose answers the transport could not send at once."""

    def waiting() -> list[Session]:
        sessions = node.node.touched | node.node._cooling
        return [each for each in sessions if each._transport.get_write_buffer_size() > 0]

    assert wait_until(lambda: bool(node.call(waiting)))
    found: list[Session] = node.call(waiting)
    return found


class RawPeer:
    """A client that speaks the protocol by hand, so that it can misbehave."""

    def __init__(self, node: RunningNode, buffers: Any, window: int = 0) -> None:
        self.socket = socket.socket()
        if window:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.socket.connect(node.address)
        self.socket.settimeout(20)
        initiation = Initiation(CLIENT, NODES[0].peer_id)
        self.socket.sendall(initiation.first)
        answer = b""
        while len(answer) < SECOND_BYTES:
            answer += self.socket.recv(SECOND_BYTES - len(answer))
        last, self.channel = initiation.finish(answer, buffers)
        self.socket.sendall(last)

    def send(self, kind: int, body: bytes) -> None:
        sealed = self.channel.seal(kind, body)
        assert isinstance(sealed, bytes)
        self.socket.sendall(sealed)

    def receive(self, read: int) -> Any:
        while True:
            messages = self.channel.feed(self.socket.recv(read))
            if messages:
                return messages[0]


@pytest.mark.parametrize("arm", ["none", "all"])
def test_a_slow_reader_gets_every_byte_while_others_share_the_buffers(running: Start, dialing: Make, arm: str) -> None:
    node = running(arm)
    dialer = dialing("pooling")
    slow = RawPeer(node, CryptoBufferPool(BufferSettings()), window=64 * 1024)
    for _ in range(3):  # 12 MiB; of each 4 MiB the sockets hold only a part
        slow.send(SOURCE, SIZE.pack(MAX_BODY))
        (session,) = wait_for_backpressure(node)
        assert session._transport.get_write_buffer_size() > 0
        with dialer.connect(node.peers[1]) as connection:
            for size in (100_000, 900_000):  # would overwrite a buffer that was given back too early
                assert connection.request(b"z" * size) == b"z" * size
        with slow.receive(100_000) as message:
            assert message.kind == OK
            assert bytes(message.body) == bytes(range(256)) * (MAX_BODY // 256)
    slow.socket.close()


def test_the_first_request_may_travel_with_the_last_handshake_frame(running: Start) -> None:
    node = running()
    with socket.create_connection(node.address) as hasty:
        hasty.settimeout(20)
        initiation = Initiation(CLIENT, NODES[0].peer_id)
        for byte in initiation.first:
            hasty.sendall(bytes([byte]))
        last, channel = initiation.finish(hasty.recv(SECOND_BYTES), CryptoBufferPool(BufferSettings()))
        request = channel.seal(1, b"early")
        assert isinstance(request, bytes)
        hasty.sendall(last + request)
        (message,) = channel.feed(hasty.recv(wire_size(5)))
        assert (message.kind, bytes(message.body)) == (OK, b"early")


def test_idle_channels_are_trimmed_and_work_again(running: Start, dialing: Make) -> None:
    node, dialer = running("all", node={"tick": 1e6}), dialing()
    with dialer.connect(node.peers[0]) as connection:
        connection.request(b"x")
        (session,) = node.node.touched
        for _ in range(2):  # one tick to see that it was idle in, one to trim
            node.call(node.node._keep_house)
        assert not node.node.touched
        assert not node.node._cooling
        assert isinstance(channel := session._channel, Channel)
        assert channel._sending._aead is channel._receiving._aead is None, "only the keys are left"
        assert connection.request(b"again") == b"again"


def test_an_exchange_that_was_cut_short_leaves_the_link_unusable(running: Start, dialing: Make) -> None:
    node, dialer = running(), dialing("all", tcp={"request_timeout": 0.05})
    blocked, freed = threading.Event(), threading.Event()
    lent = dialer.connect(node.peers[0])
    link = lent._established.link

    def hold() -> None:
        blocked.set()
        freed.wait()

    node._loop.call_soon_threadsafe(hold)
    blocked.wait()  # from here on the node answers nobody
    try:
        with pytest.raises(TimeoutError), lent as connection:
            connection.request(b"x")
    finally:
        freed.set()
    assert not link.usable
    assert dialer.gauges()["pooling"]["idle"] == 0
    assert dialer.cleanup.open_connections() == 0


def test_channels_are_not_shared_by_two_users_at_once(running: Start, dialing: Make) -> None:
    node, dialer = running(), dialing()
    with dialer.connect(node.peers[0]) as connection:
        link = connection._established.link
        token = link._turn.pop()  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="in use"):
            connection.request(b"x")
        link._turn.append(token)  # type: ignore[attr-defined]


@pytest.mark.parametrize("arm", ["none", "first-day-reuse", "all"])
def test_a_connection_given_back_reaches_nothing(running: Start, dialing: Make, arm: str) -> None:
    node, dialer = running(arm), dialing(arm)
    with dialer.connect(node.peers[0]) as kept:
        assert kept.request(b"mine") == b"mine"
    with dialer.connect(node.peers[0]) as other:
        for use in (lambda: kept.request(b"x"), lambda: kept.download(1), kept.stats, lambda: kept.upload(b"x")):
            with pytest.raises(LeaseError, match="given back"):
                use()
        for name in ("peer_id", "usable", "key"):
            with pytest.raises(LeaseError, match="given back"):
                getattr(kept, name)
        with pytest.raises(LeaseError, match="given back"):
            kept.__exit__(None, None, None)
        assert other.request(b"still") == b"still"
    assert dialer.gauges()["pooling"]["in_use"] == 0


@pytest.mark.parametrize("arm", ARMS)
def test_a_use_that_is_broken_off_keeps_nobody_else_waiting(running: Start, dialing: Make, arm: str) -> None:
    node, dialer = running(arm), dialing(arm, pooling={"wait_timeout": 0.05, "max_connections_per_peer": 1})

    def broken_off() -> None:
        with dialer.connect(node.peers[0]) as connection:
            connection._established.link._turn.pop()  # type: ignore[attr-defined]  # as in the middle of an exchange
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            broken_off()
    with dialer.connect(node.peers[0]) as connection:
        assert connection.request(b"x") == b"x"
    assert dialer.gauges()["pooling"]["in_use"] == 0


@pytest.mark.parametrize("arm", ["none", "first-day-reuse", "all"])
def test_an_error_in_a_hook_keeps_nobody_else_waiting(running: Start, dialing: Make, arm: str) -> None:
    node, dialer = running(arm), dialing(arm, pooling={"wait_timeout": 0.05})

    def broken(number: int) -> None:
        raise KeyboardInterrupt

    def broken_off() -> None:
        with dialer.connect(node.peers[0]) as connection:
            connection._established.link._turn.pop()  # type: ignore[attr-defined]
            raise ConnectionResetError

    cleanup: Any = dialer.cleanup
    hooks = {name: getattr(cleanup, name) for name in ("_hooks", "_on_close") if hasattr(cleanup, name)}
    for name in hooks:
        setattr(cleanup, name, (broken, broken) if name == "_hooks" else broken)
    with pytest.raises(KeyboardInterrupt):
        broken_off()
    for name, before in hooks.items():
        setattr(cleanup, name, before)
    with dialer.connect(node.peers[0]) as connection:
        assert connection.request(b"x") == b"x"
    assert dialer.gauges()["pooling"]["in_use"] == 0


def test_the_pools_cleanup_interval_paces_the_dialers_housekeeping(running: Start, dialing: Make) -> None:
    node, dialer = running(), dialing("all", pooling={"cleanup_interval": 1e-6, "max_idle_time": 1e-6})
    with dialer.connect(node.peers[0]) as connection:
        connection.request(b"x")
    with dialer.connect(node.peers[1]):
        assert dialer.gauges()["pooling"]["evicted"] == 1


def test_each_limiter_is_swept_in_its_own_interval(running: Start, dialing: Make) -> None:
    often, seldom = {"eviction_interval": 0.02}, {"eviction_interval": 1e6}
    node, dialer = running("all", node={"tick": 0.02}, source_limit=often, rate_limit=seldom), dialing()
    rooms = node.node.rooms
    assert wait_until(lambda: max(node.node._evict_at.values()) > 1e5)  # the first round, with nothing to forget
    with dialer.connect(node.peers[0]) as connection:
        connection.request(b"x")
        assert wait_until(lambda: len(rooms.source_limit) == 0)
        assert len(rooms.peer_limit) == 1


def a_child_inherits_a_connection() -> None:
    node = RunningNode("all", "tcp", {})
    dialer = assemble.dialer(parse(["all"]), CLIENT, {})

    def use_it_too() -> None:
        with pytest.raises(RuntimeError):
            connection.request(b"same nonce again")

    try:
        with dialer.connect(node.peers[0]) as connection:
            connection.request(b"before")
            assert forked(use_it_too) == 0
            assert connection.request(b"after") == b"after"
    finally:
        dialer.close()
        node.close()


def test_a_forked_child_can_use_no_inherited_connection() -> None:
    run(__name__, "a_child_inherits_a_connection")


@pytest.mark.parametrize("arm", ["none", "all"])
@pytest.mark.parametrize("size", [3, 4096], ids=["a record cut short", "a body that never comes"])
def test_a_message_that_is_never_finished_is_not_waited_for(running: Start, arm: str, size: int) -> None:
    node = running(arm, node={"tick": 0.02, "message_timeout": 0.05})
    idle, lazy = RawPeer(node, CryptoBufferPool(BufferSettings())), RawPeer(node, CryptoBufferPool(BufferSettings()))
    pieces = lazy.channel.seal(1, bytes(1 << 20))
    assert not isinstance(pieces, bytes)
    for piece in pieces:
        with piece:
            lazy.socket.sendall(piece.view[:size])
        break
    assert lazy.socket.recv(1) == b"", "the node closes it"
    assert wait_until(lambda: not node.node.owing)
    assert node.node.cleanup.open_connections() == 1
    request = idle.channel.seal(1, b"as long as it wants")
    assert isinstance(request, bytes)
    idle.socket.sendall(request)
    assert idle.channel.feed(idle.socket.recv(1000))[0].kind == OK
    for each in (idle, lazy):
        each.socket.close()


@pytest.mark.parametrize("arm", ["none", "all"])
def test_nor_is_one_that_begins_behind_a_whole_one(running: Start, arm: str) -> None:
    node = running(arm, node={"tick": 0.02, "message_timeout": 0.05})
    lazy = RawPeer(node, CryptoBufferPool(BufferSettings()))
    whole = lazy.channel.seal(1, b"answer me")
    (piece, *_) = lazy.channel.seal(1, bytes(20_000))
    assert isinstance(whole, bytes)
    assert isinstance(piece, PooledBuffer)
    lazy.socket.sendall(whole + bytes(piece.view[:100]))
    assert lazy.channel.feed(lazy.socket.recv(1000))[0].kind == OK
    assert lazy.socket.recv(1) == b""
    lazy.socket.close()


@pytest.mark.parametrize("arm", ["none", "all"])
def test_and_counts_as_under_way_from_its_first_byte(running: Start, arm: str) -> None:
    """Else as many as there are connections could each have a buffer of 4 MiB until the node's next tick."""
    node = running(arm, node={"tick": 60.0, "max_owing": 3})
    peers = [RawPeer(node, CryptoBufferPool(BufferSettings())) for _ in range(8)]
    for lazy in peers:
        whole = lazy.channel.seal(1, b"answer me")
        (piece, *_) = lazy.channel.seal(1, bytes(MAX_BODY))
        assert isinstance(whole, bytes)
        assert isinstance(piece, PooledBuffer)
        lazy.socket.sendall(whole + bytes(piece.view[:100]))
    assert wait_until(lambda: node.node.cleanup.open_connections() == 3)
    assert len(node.node.owing) == 3
    for lazy in peers:
        lazy.socket.close()


def test_who_leaves_in_the_middle_of_a_message_leaves_neither_keys_nor_buffer(running: Start) -> None:
    node = running("buffer_pool", node={"tick": 60.0})
    buffers: Any = node.node.rooms.buffers
    lazy = RawPeer(node, CryptoBufferPool(BufferSettings()))
    head, *_ = (bytes(piece.view) for piece in lazy.channel.seal(1, bytes(MAX_BODY)) if isinstance(piece, PooledBuffer))
    lazy.socket.sendall(head)
    assert wait_until(lambda: bool(node.node.owing))
    assert buffers.gauges()["acquired"] > 0
    session: Any = next(iter(node.node.owing))
    channel = session._channel
    lazy.socket.close()
    assert wait_until(lambda: session._channel is None)
    assert channel.inbox.between, "what was half received went back, wiped"
    with pytest.raises(ChannelError):
        channel.seal(1, b"x")
    with pytest.raises(ChannelError):
        channel._receiving.encrypt(b"x")


@pytest.mark.parametrize("arm", ["none", "all"])
def test_nor_is_one_that_begins_behind_one_whose_answer_is_taken_late(running: Start, arm: str) -> None:
    node = running(arm, node={"tick": 0.02, "message_timeout": 600.0})
    lazy = RawPeer(node, CryptoBufferPool(BufferSettings()), window=4096)
    whole = lazy.channel.seal(SOURCE, SIZE.pack(MAX_BODY))
    (piece, *_) = lazy.channel.seal(1, bytes(20_000))
    assert isinstance(whole, bytes)
    assert isinstance(piece, PooledBuffer)
    lazy.socket.sendall(whole + bytes(piece.view[:100]))
    assert wait_until(lambda: bool(node.node.owing)), "it waits for the answer to be taken"
    (session,) = node.node.owing
    assert lazy.receive(1 << 16).kind == OK
    assert wait_until(lambda: node.call(session._transport.get_write_buffer_size) == 0)
    assert list(node.node.owing) == [session], "it waits for the rest of the next"
    assert not session._unsent, "the buffers of the answer are back"
    lazy.socket.close()


@pytest.mark.parametrize("broken", [False, True])
def test_nor_is_the_little_that_is_left_of_one(running: Start, monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    """So little that the transport never says that it is too much."""
    node = running("all", "memory", node={"tick": 60.0})
    left = 100
    monkeypatch.setattr(MemoryEnd, "get_write_buffer_size", lambda _: left)
    monkeypatch.setattr(session_module, "_LOOK_AGAIN", 0.001)

    async def ask() -> MemorySocket:
        transport = MemoryTransport(CLIENT, CryptoBufferPool(BufferSettings()))
        link = transport.secure(resource := transport.open(node.peers[0].addresses["memory"]), node.peers[0])
        with link.exchange(SOURCE, SIZE.pack(MAX_BODY)) as message:
            assert len(message.body) == MAX_BODY
        return resource

    resource = node.call(ask)
    assert wait_until(lambda: bool(node.node.owing))
    (session,) = node.node.owing
    assert session._unsent
    if broken:
        node.call(lambda: resource.send(b"\x00\x01x"))  # no record: it does not wait for the rest to be taken either
        assert not resource.is_quiet()
        assert node.node.cleanup.open_connections() == 0
    else:
        left = 0
    assert wait_until(lambda: not node.node.owing)
    assert not session._unsent


@pytest.mark.parametrize("arm", ["none", "all"])
def test_an_answer_that_is_never_taken_is_not_kept(running: Start, arm: str) -> None:
    node = running(arm, node={"tick": 0.02, "message_timeout": 600.0})
    lazy = RawPeer(node, CryptoBufferPool(BufferSettings()), window=4096)  # more than the kernel's buffers take
    lazy.send(SOURCE, SIZE.pack(MAX_BODY))
    assert wait_until(lambda: bool(node.node.owing)), "it waits for the answer to be taken"
    node.call(lambda: node.node.owing.update(dict.fromkeys(node.node.owing, 0.0)))  # its time is up
    assert wait_until(lambda: node.node.cleanup.open_connections() == 0)
    assert wait_until(lambda: not node.node.owing), "its buffers are gone, too"
    lazy.socket.close()


def test_a_payload_that_is_too_long_costs_the_caller_alone(running: Start, dialing: Make) -> None:
    node, dialer = running(), dialing("all")
    for _ in range(10):
        with pytest.raises(FrameError, match="at most"), dialer.connect(node.peers[0]) as connection:
            connection.request(bytes(MAX_BODY + 1))
    with dialer.connect(node.peers[0]) as connection:
        assert connection.request(b"the same connection") == b"the same connection"
    assert dialer.gauges()["pooling"]["misses"] == 1
    assert dialer.gauges()["circuit_breaker"]["closed_to_open"] == 0


@pytest.mark.parametrize("on", ["none", "first-day-reuse", "all"])
def test_an_error_dealt_with_inside_the_block_gives_the_seat_back(running: Start, dialing: Make, on: str) -> None:
    node, dialer = running(), dialing(on)
    blocked, freed = threading.Event(), threading.Event()

    def hold() -> None:
        blocked.set()
        freed.wait()

    with dialer.connect(node.peers[0]) as connection:
        connection._established.link._socket.settimeout(0.05)  # type: ignore[attr-defined]
        node._loop.call_soon_threadsafe(hold)
        blocked.wait()
        try:
            with pytest.raises(TimeoutError):
                connection.request(b"x")
        finally:
            freed.set()
    with dialer.connect(node.peers[0]) as connection:
        assert connection.request(b"anew") == b"anew"
    assert dialer.cleanup.open_connections() == (0 if on == "none" else 1)


def test_a_peer_that_moved_is_dialed_where_it_is_now(running: Start, dialing: Make) -> None:
    node, dialer = running(), dialing("all")
    with held() as port, dialer.connect(node.peers[0]) as kept:
        with pytest.raises(ConnectionRefusedError):
            dialer.connect(Peer(bytes(node.peers[0]), {"tcp": ("127.0.0.1", port)}))
        with dialer.connect(node.peers[0]) as connection:  # and back again
            assert kept.request(b"x") + connection.request(b"y") == b"xy"


def test_a_second_crash_while_ports_come_back_ends_with_all_of_them_back(running: Start) -> None:
    node = running("all", "tcp,tls")
    ports = {address for peer in node.peers for address in peer.addresses.values()}

    async def crash_twice() -> None:
        node.node.crash(0.0)
        while not node.node._servers:
            await asyncio.sleep(0)
        assert node.node._away
        node.node.crash(0.2)
        assert not node.node._servers

    node.call(crash_twice)
    assert wait_until(lambda: len(node.node._servers) == len(ports) and not node.node._away)
    for address in ports:
        socket.create_connection(address, 5.0).close()


def test_a_lease_without_a_request_says_nothing_about_the_peer(running: Start, dialing: Make) -> None:
    node, dialer = running(), dialing(circuit_breaker={"failure_threshold": 3, "retries": 0})
    with dialer.connect(node.peers[0]) as connection:
        key = connection.key
    for _ in range(2):
        dialer.attempts.failed(key)
    with dialer.connect(node.peers[0]):
        pass
    dialer.attempts.failed(key)
    assert dialer.attempts.state(key) is CircuitState.OPEN  # type: ignore[attr-defined]


def broken_by(connection: Connection, error: BaseException) -> None:
    """Have the next request over the connection end by `error`, once it is sent."""

    def receive(size: int) -> bytes:
        raise error

    connection._established.link._recv = receive  # type: ignore[attr-defined]


def test_requests_that_break_open_the_breaker_and_one_that_works_forgives(running: Start, dialing: Make) -> None:
    node, dialer = running(), dialing(circuit_breaker={"failure_threshold": 2, "retries": 0})
    states = []
    for breaks in (True, False, True, True):
        with suppress(ConnectionResetError), dialer.connect(node.peers[0]) as connection:
            key = connection.key
            if breaks:
                broken_by(connection, ConnectionResetError("gone"))
            connection.request(b"x")
        states.append(dialer.attempts.state(key))  # type: ignore[attr-defined]
    assert states == [CircuitState.CLOSED] * 3 + [CircuitState.OPEN]


@pytest.mark.parametrize("arm", ["circuit_breaker", "all"])
@pytest.mark.parametrize("dealt_with", [True, False])
def test_a_request_that_is_cancelled_says_nothing_about_the_peer(
    running: Start, dialing: Make, arm: str, dealt_with: bool
) -> None:
    node, dialer = running(), dialing(arm, circuit_breaker={"failure_threshold": 1, "retries": 0})
    with suppress(KeyboardInterrupt), dialer.connect(node.peers[0]) as connection:
        key = connection.key
        broken_by(connection, KeyboardInterrupt())
        with suppress(KeyboardInterrupt) if dealt_with else nullcontext():
            connection.request(b"x")
    assert dialer.attempts.state(key) is CircuitState.CLOSED  # type: ignore[attr-defined]
    assert dialer.pool.gauges()["in_use"] == 0


@pytest.mark.parametrize("told_as", [None, OSError, ValueError])
def test_a_request_that_breaks_counts_whatever_its_caller_makes_of_the_error(
    running: Start, dialing: Make, told_as: type[Exception] | None
) -> None:
    node, dialer = running(), dialing(circuit_breaker={"failure_threshold": 1, "retries": 0})
    with suppress(OSError, ValueError), dialer.connect(node.peers[0]) as connection:
        key = connection.key
        broken_by(connection, FrameError("out of step"))
        try:
            connection.request(b"x")
        except OSError as error:
            if told_as is not None:
                raise told_as("in words of the caller's own") from error
    assert dialer.attempts.state(key) is CircuitState.OPEN  # type: ignore[attr-defined]
    assert dialer.gauges()["circuit_breaker"]["closed_to_open"] == 1
    assert dialer.cleanup.open_connections() == 0


def opens_and_closes(dialer: Dialer, key: tuple[bytes, str]) -> None:
    """An outage, as others see it who use the same peer."""
    attempts: Any = dialer.attempts

    def dial() -> bool:
        with suppress(CircuitOpen):
            attempts.connect([key], id)
        return attempts.state(key) is CircuitState.CLOSED

    while attempts.state(key) is CircuitState.CLOSED:
        attempts.failed(key)
    assert wait_until(dial)


SHORT_OUTAGE = {"failure_threshold": 2, "success_threshold": 1, "timeout": 0.001, "retries": 0}


def test_a_request_from_before_an_outage_that_breaks_after_it_does_not_count(running: Start, dialing: Make) -> None:
    node, dialer = running(), dialing(circuit_breaker={**SHORT_OUTAGE, "failure_threshold": 1})

    def hang(size: int) -> bytes:
        opens_and_closes(dialer, key)
        raise TimeoutError

    with suppress(TimeoutError), dialer.connect(node.peers[0]) as connection:
        key = connection.key
        connection._established.link._recv = hang  # type: ignore[attr-defined]
        connection.request(b"x")
    assert dialer.attempts.state(key) is CircuitState.CLOSED  # type: ignore[attr-defined]
    assert dialer.gauges()["circuit_breaker"]["closed_to_open"] == 1


def test_an_answer_from_before_an_outage_forgives_nothing_after_it(running: Start, dialing: Make) -> None:
    node, dialer = running(), dialing(circuit_breaker=SHORT_OUTAGE)
    with dialer.connect(node.peers[0]) as connection:
        key = connection.key
        connection.request(b"x")
        opens_and_closes(dialer, key)
        dialer.attempts.failed(key)
    dialer.attempts.failed(key)
    assert dialer.attempts.state(key) is CircuitState.OPEN  # type: ignore[attr-defined]


def noting(swept: list[str], *names: str) -> dict[str, Any]:
    """Rooms that tell when they are swept."""
    return {name: SimpleNamespace(sweep=partial(swept.append, name)) for name in names}


def test_housekeeping_of_a_dialer_reaches_every_room(dialing: Make) -> None:
    dialer, swept = dialing(), list[str]()
    rooms = noting(swept, "attempts", "buffers", "cleanup", "metrics", "pool", "tickets")
    with pytest.MonkeyPatch.context() as patched:
        for name, room in rooms.items():
            patched.setattr(dialer, name, room)
        dialer.sweep()
    assert sorted(swept) == sorted(rooms)


def test_housekeeping_of_a_node_reaches_every_room(running: Start) -> None:
    node, swept = running(node={"tick": 1e6}), list[str]()
    rooms = noting(swept, "buffers", "metrics", "tickets")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(node.node, "rooms", replace(node.node.rooms, **rooms))
        patched.setattr(node.node, "cleanup", noting(swept, "cleanup")["cleanup"])
        node.call(node.node._keep_house)
    assert sorted(swept) == sorted([*rooms, "cleanup"])
