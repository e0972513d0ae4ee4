"""Resumption: any two ends, whether they remember or not, get a channel; a ticket serves once, its owner alone."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from reference_impl.buffer_pool import Allocating, BufferSettings
from reference_impl.errors import HandshakeError, IdentityError
from reference_impl.pooling import ConnectionPool
from reference_impl.pooling.lease import Lease, PoolSettings
from reference_impl.pooling.resumption import NAME_BYTES, FullHandshakes, Resumption, Ticket, Tickets
from reference_impl.security.channel import (
    CONFIRMATION_BYTES,
    FIRST_BYTES,
    OFFER_BYTES,
    RESUMED_BYTES,
    SECOND_BYTES,
    THIRD_BYTES,
    Acceptance,
    Channel,
    Initiation,
)
from reference_impl.security.frame import wire_size
from reference_impl.security.identity import Identity
from reference_impl.security.noise import Handshake
from reference_impl.transports import tcp
from reference_impl.transports.base import Peer
from reference_impl.transports.tcp import TcpSettings, TcpTransport
from tests.clock import Clock
from tests.reference_impl.conftest import CLIENT, NODES, RunningNode
from tests.reference_impl.helpers import wait_until

ALICE, BOB, EVE = (Identity.from_seed(name) for name in (b"alice", b"bob", b"eve"))
BUFFERS = Allocating(BufferSettings())
FULL = (SECOND_BYTES, THIRD_BYTES)
RESUMED = (RESUMED_BYTES, CONFIRMATION_BYTES)


def tickets(clock: Callable[[], float] | None = None, **settings: Any) -> Tickets:
    return Tickets(PoolSettings(**settings), clock or Clock(0.0))


def connect(
    near: Resumption, far: Resumption, *, dialer: Identity = ALICE, listener: Identity = BOB
) -> tuple[int, tuple[int, int]]:
    """A channel that works both ways; the sizes of the first frame, and of the second and third."""
    initiation, acceptance = Initiation(dialer, listener.peer_id, near), Acceptance(listener, far)
    answer = acceptance.answer(initiation.first)
    last, one = initiation.finish(answer, BUFFERS)
    two = acceptance.finish(last, BUFFERS)
    assert (one.peer_id, two.peer_id) == (listener.peer_id, dialer.peer_id)
    assert len(last) == acceptance.third_bytes
    for sender, receiver in ((one, two), (two, one)):
        assert said(sender, receiver) == b"hello"
    return len(initiation.first), (len(answer), len(last))


def said(sender: Channel, receiver: Channel) -> bytes:
    sealed = sender.seal(1, b"hello")
    assert isinstance(sealed, bytes)
    (message,) = receiver.feed(sealed)
    with message:
        return bytes(message.body)


@pytest.mark.parametrize("far", [FullHandshakes, Tickets])
@pytest.mark.parametrize("near", [FullHandshakes, Tickets])
def test_every_two_ends_understand_each_other(near: Callable[..., Resumption], far: Callable[..., Resumption]) -> None:
    one, two = near(PoolSettings()), far(PoolSettings())
    assert connect(one, two) == (OFFER_BYTES if one.resuming else FIRST_BYTES, FULL)
    both = one.resuming and two.resuming
    for _ in range(3):  # each leaves a ticket for the next
        assert connect(one, two)[1] == (RESUMED if both else FULL)
    assert two.gauges() == {"tickets": int(both), "resumed": 3 * both}
    assert one.gauges() == {"tickets": int(one.resuming), "resumed": 3 * both}
    for end in (one, two):
        end.forget()
        assert end.gauges()["tickets"] == end.sweep() == 0
    assert connect(one, two)[1] == FULL


def test_each_connection_has_keys_of_its_own() -> None:
    near, far = tickets(), tickets()
    wires = set()
    for _ in range(3):
        initiation, acceptance = Initiation(ALICE, BOB.peer_id, near), Acceptance(BOB, far)
        last, channel = initiation.finish(acceptance.answer(initiation.first), BUFFERS)
        acceptance.finish(last, BUFFERS)
        wires.add(bytes(channel.seal(1, b"the same words")))  # type: ignore[arg-type]
    assert len(wires) == 3


def test_a_listener_that_forgot_costs_no_round_trip() -> None:
    near, far = tickets(), tickets()
    connect(near, far)
    far.forget()
    assert connect(near, far) == (OFFER_BYTES, FULL)
    assert connect(near, far) == (OFFER_BYTES, RESUMED)


def test_who_knows_a_tickets_name_alone_neither_resumes_nor_spends_it() -> None:
    near, far = tickets(), tickets()
    connect(near, far)
    (kept,) = near._kept[BOB.peer_id]
    thief = Initiation(EVE, BOB.peer_id, tickets())
    forged = thief.first[:2] + kept.name + thief.first[2 + NAME_BYTES :]
    acceptance = Acceptance(BOB, far)
    with pytest.raises(HandshakeError):  # a full handshake, whose prologue is not the thief's own
        thief.finish(acceptance.answer(forged), BUFFERS)
    assert acceptance.third_bytes == THIRD_BYTES
    assert connect(near, far)[1] == RESUMED


def test_an_offer_is_good_once() -> None:
    near, far = tickets(), tickets()
    connect(near, far)
    overheard = Initiation(ALICE, BOB.peer_id, near).first
    assert len(Acceptance(BOB, far).answer(overheard)) == RESUMED_BYTES
    assert len(Acceptance(BOB, far).answer(overheard)) == SECOND_BYTES


def test_a_ticket_is_good_between_the_two_it_was_issued_to() -> None:
    near, far = tickets(), tickets()  # one node, whose identities share its tickets
    connect(near, far)
    astray = Initiation(ALICE, BOB.peer_id, near)
    assert len(Acceptance(EVE, far).answer(astray.first)) == SECOND_BYTES
    assert len(Acceptance(BOB, far).answer(astray.first)) == RESUMED_BYTES
    connect(near, far)
    theirs = tickets()
    stolen = near.take(BOB.peer_id)
    assert stolen is not None
    theirs.keep(BOB.peer_id, stolen)
    assert connect(theirs, far, dialer=EVE)[1] == FULL


def test_an_impostor_cannot_resume() -> None:
    near, far = tickets(), tickets()
    connect(near, far)
    initiation = Initiation(ALICE, BOB.peer_id, near)
    with pytest.raises(IdentityError, match="expected"):
        initiation.finish(Acceptance(EVE, tickets()).answer(initiation.first), BUFFERS)
    connect(near, far)
    initiation = Initiation(ALICE, BOB.peer_id, near)
    impostor = X25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(HandshakeError, match="authentication"):
        initiation.finish((RESUMED_BYTES - 2).to_bytes(2, "big") + impostor + os.urandom(16), BUFFERS)


def test_who_offers_nothing_is_not_answered_by_a_resumption() -> None:
    initiation = Initiation(ALICE, BOB.peer_id, tickets())
    with pytest.raises(HandshakeError, match="malformed"):
        initiation.finish((RESUMED_BYTES - 2).to_bytes(2, "big") + os.urandom(RESUMED_BYTES - 2), BUFFERS)


@given(data=st.data())
def test_any_flipped_bit_ends_it(data: st.DataObject) -> None:
    near, far = tickets(), tickets()
    connect(near, far)
    initiation, acceptance = Initiation(ALICE, BOB.peer_id, near), Acceptance(BOB, far)
    broken = data.draw(st.booleans(), label="the answer")
    frame = acceptance.answer(initiation.first) if broken else initiation.first
    bit = data.draw(st.integers(0, len(frame) * 8 - 1), label="bit")
    frame = frame[: bit // 8] + bytes([frame[bit // 8] ^ 1 << bit % 8]) + frame[bit // 8 + 1 :]

    def go_on() -> None:
        last, _ = initiation.finish(frame if broken else acceptance.answer(frame), BUFFERS)
        acceptance.finish(last, BUFFERS)

    with pytest.raises(HandshakeError):
        go_on()


@given(st.binary(min_size=OFFER_BYTES - 2, max_size=OFFER_BYTES - 2))
def test_garbage_of_the_right_size_gets_a_full_handshake_or_a_refusal(garbage: bytes) -> None:
    acceptance = Acceptance(BOB, tickets())
    with contextlib.suppress(HandshakeError):
        assert len(acceptance.answer((OFFER_BYTES - 2).to_bytes(2, "big") + garbage)) == SECOND_BYTES


def test_a_connection_that_is_retired_on_time_proves_its_identities_afresh() -> None:
    clock = Clock(0.0)
    near = tickets(clock, max_lifetime=100, lifetime_jitter=0.1)
    far = tickets(clock, max_lifetime=100, lifetime_jitter=0.1)
    connect(near, far)
    clock.now = 60
    assert connect(near, far)[1] == RESUMED
    clock.now = 90  # the youngest age of retirement; the resumption at 60 has not begun a new lifetime
    assert connect(near, far)[1] == FULL
    clock.now = 179
    assert connect(near, far)[1] == RESUMED
    (one,), (two,) = near._kept[BOB.peer_id], next(reversed(far._kept.values()))
    clock.now = 180
    assert (near.sweep(), far.sweep()) == (1, 2)  # the listener's of the first lifetime too, which nobody offered
    assert one.secret == two.secret == bytes(32)


class Dated(Tickets):
    """Tickets that know when the identities behind each were proved; `proved` is when those of the last one were."""

    def __init__(self, settings: PoolSettings, clock: Clock) -> None:
        super().__init__(settings, clock)
        self._dates: dict[bytes, float] = {}
        self._now = clock
        self.proved = 0.0

    def remember(
        self, handshake: Handshake, peer_id: bytes, chain: Ticket | None = None, *, by_name: bool = False
    ) -> None:
        self.proved = self._now() if chain is None else self._dates[chain.name]
        super().remember(handshake, peer_id, chain, by_name=by_name)

    def keep(self, key: bytes, ticket: Ticket) -> None:
        self._dates[ticket.name] = self.proved
        super().keep(key, ticket)


@given(
    steps=st.lists(st.tuples(st.floats(0.0, 12.0), st.sampled_from(["borrow", "return", "break"])), max_size=40),
    seed=st.integers(0, 9),
)
@example(steps=[(4.0, "borrow"), (0.0, "break")] * 20, seed=0)  # ends only as tickets inherit their end
@example(steps=[(8.5, "borrow"), (8.5, "return")] * 20, seed=0)
def test_no_connection_that_is_lent_has_a_proof_older_than_two_lifetimes(
    steps: list[tuple[float, str]], seed: int
) -> None:
    """Pool and tickets as a dialer has them, on one clock."""
    clock, settings = Clock(0.0), PoolSettings(max_lifetime=10.0, lifetime_jitter=0.1, max_idle_time=10.0)
    near, far = Dated(settings, clock), Dated(settings, clock)

    def dial(peer: bytes) -> float:
        connect(near, far)
        return near.proved

    pool = ConnectionPool(settings, dial, lambda proved: None, lambda proved: True, clock, random.Random(seed))
    lent: list[Lease[float]] = []
    for gap, step in steps:
        clock.now += gap
        if step == "borrow" and len(lent) < settings.max_connections_per_peer:
            lent.append(pool.checkout(BOB.peer_id))
            assert clock.now - lent[-1].connection < 2 * settings.max_lifetime
        elif step != "borrow" and lent:
            (pool.checkin if step == "return" else pool.discard)(lent.pop(0))


def test_who_keeps_no_tickets_offers_none() -> None:
    never = tickets(max_tickets=0)
    assert not never.resuming
    for _ in range(2):
        assert connect(never, tickets()) == (FIRST_BYTES, FULL)
    assert connect(tickets(), never) == (OFFER_BYTES, FULL)
    assert never.gauges() == {"tickets": 0, "resumed": 0}


def test_what_comes_after_closing_is_wiped() -> None:
    kept = tickets()
    kept.keep(b"early", early := ticket(1))
    kept.close()
    kept.keep(b"late", late := ticket(2))
    assert not any(early.secret + late.secret)
    assert kept.gauges()["tickets"] == 0


def test_threads_never_get_one_ticket_twice() -> None:
    kept = tickets(max_tickets=2000)
    for number in range(2000):
        kept.keep(b"one key", Ticket(number.to_bytes(2), bytearray(32), b"", 1e9))
    taken: list[bytes] = []

    def take() -> None:
        while (each := kept.take(b"one key")) is not None:
            taken.append(each.name)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(taken) == [number.to_bytes(2) for number in range(2000)]


def test_what_is_used_expired_or_crowded_out_is_wiped() -> None:
    clock = Clock(0.0)
    kept = tickets(clock, max_tickets=2)
    made = [ticket(number) for number in range(4)]
    for number, each in enumerate(made):
        kept.keep(bytes([number]), each)
    assert [any(each.secret) for each in made] == [False, False, True, True]
    made[2].expires_at = clock.now
    assert kept.take(b"\2") is None
    assert not any(made[2].secret)
    kept.forget()
    assert not any(made[3].secret)
    near, far = tickets(), tickets()
    connect(near, far)
    (one,), (two,) = near._kept[BOB.peer_id], next(iter(far._kept.values()))
    assert one.secret == two.secret != bytes(32)
    connect(near, far)
    assert one.secret == two.secret == bytes(32)


def test_who_got_no_ticket_for_longest_loses_one_first() -> None:
    kept = tickets(max_tickets=3)
    made = [ticket(number) for number in range(4)]
    for key, each in zip(b"abac", made, strict=True):
        kept.keep(bytes([key]), each)
    assert kept.take(b"b") is None
    assert [kept.take(b"a"), kept.take(b"a"), kept.take(b"c")] == [made[2], made[0], made[3]]


def ticket(number: int) -> Ticket:
    """A ticket of no handshake."""
    return Ticket(bytes([number]), bytearray(b"x" * 32), b"", 1e9)


@given(st.lists(st.tuples(st.sampled_from("ktk"), st.integers(0, 3)), max_size=40), st.integers(1, 5))
def test_each_ticket_is_handed_out_once_newest_first_and_no_more_are_kept_than_allowed(
    steps: list[tuple[str, int]], allowed: int
) -> None:
    kept, seen = tickets(max_tickets=allowed), set()
    model: list[tuple[bytes, Ticket]] = []
    for step, (action, number) in enumerate(steps):
        key = bytes([number])
        if action == "k":
            made = ticket(step)
            kept.keep(key, made)
            model.append((key, made))
        elif (taken := kept.take(key)) is not None:
            assert taken.name not in seen
            seen.add(taken.name)
            assert taken is [each for at, each in model if at == key][-1]
            model.remove((key, taken))
        model = [(at, each) for at, each in model if any(each.secret)]  # crowded out ones are wiped
        assert kept.gauges()["tickets"] == len(model) <= allowed


@pytest.mark.parametrize("transport", ["tcp", "memory"])
def test_a_connection_that_the_pool_let_go_comes_back_cheaply(
    running: Callable[..., RunningNode], dialing: Callable[..., Any], transport: str
) -> None:
    node = running("pooling", transport)
    dialer = dialing("pooling", pooling={"max_idle_total": 1})

    def visit(number: int) -> tuple[float, float]:
        with dialer.connect(node.peers[number]) as connection:
            assert connection.request(b"hello") == b"hello"
        return dialer.gauges()["pooling"]["resumed"], node.node.stats()["pooling"]["resumed"]

    assert [visit(number) for number in (0, 1, 0, 1)] == [(0, 0), (0, 0), (1, 1), (2, 2)]
    assert dialer.gauges()["pooling"]["tickets"] == node.node.stats()["pooling"]["tickets"] == 2
    node.call(lambda: node.node.crash(0.0))
    assert node.node.stats()["pooling"]["tickets"] == 0
    assert wait_until(lambda: not node.node._away)
    assert visit(0) == (2, 2)
    assert visit(1) == (2, 2)
    assert visit(0) == (3, 3)
    dialer.close()
    node.call(node.node.close)
    assert dialer.gauges()["pooling"]["tickets"] == node.node.stats()["pooling"]["tickets"] == 0


@pytest.mark.parametrize("arm", ["none", "first-day-reuse"])
def test_without_pooling_nobody_offers(
    running: Callable[..., RunningNode], dialing: Callable[..., Any], arm: str
) -> None:
    node, dialer = running("pooling"), dialing(arm)
    for number in (0, 1, 0, 1):
        with dialer.connect(node.peers[number]) as connection:
            connection.request(b"hello")
    assert node.node.stats()["pooling"] == {"tickets": 0, "resumed": 0}


def test_both_ends_forget_in_their_housekeeping(
    running: Callable[..., RunningNode], dialing: Callable[..., Any]
) -> None:
    node, dialer = running("pooling"), dialing("pooling")
    with dialer.connect(node.peers[0]) as connection:
        connection.request(b"hello")
    ends: list[Any] = [dialer.tickets, node.node.rooms.tickets]
    for end in ends:
        (each,) = next(iter(end._kept.values()))
        each.expires_at = 0.0
    dialer.sweep()
    node.call(node.node._keep_house)
    assert dialer.gauges()["pooling"]["tickets"] == node.node.stats()["pooling"]["tickets"] == 0


def offering(node: RunningNode, kept: Tickets) -> Initiation:
    """A handshake with the node's first peer that offers a ticket, which a full one has left."""
    with socket.create_connection(node.address) as first:
        first.settimeout(20)
        initiation = Initiation(CLIENT, NODES[0].peer_id, kept)
        first.sendall(initiation.first)
        third, channel = initiation.finish(first.recv(SECOND_BYTES), BUFFERS)
        first.sendall(third + bytes(channel.seal(1, b"hello")))  # type: ignore[arg-type]
        assert first.recv(100)
    return Initiation(CLIENT, NODES[0].peer_id, kept)


def test_frames_may_come_byte_by_byte_and_the_first_request_with_the_third(running: Callable[..., RunningNode]) -> None:
    node = running()
    initiation = offering(node, tickets(time.monotonic))
    with socket.create_connection(node.address) as hasty:
        hasty.settimeout(20)
        hasty.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in initiation.first:
            hasty.sendall(bytes([byte]))
        third, channel = initiation.finish(hasty.recv(SECOND_BYTES), BUFFERS)
        (session,) = node.node.unfinished
        for byte in third[:-1]:
            hasty.sendall(bytes([byte]))
        assert session in node.node.unfinished  # nothing of it is authenticated yet
        request = bytes(channel.seal(1, b"early"))  # type: ignore[arg-type]
        for byte in third[-1:] + request:
            hasty.sendall(bytes([byte]))
        (message,) = channel.feed(hasty.recv(wire_size(5)))
        assert bytes(message.body) == b"early"
        assert not node.node.owing
        assert not node.node.unfinished


@pytest.mark.parametrize("arm", ["pooling", "none"])
def test_a_connection_may_wait_for_its_first_request_for_as_long_as_it_likes(
    running: Callable[..., RunningNode], dialing: Callable[..., Any], arm: str
) -> None:
    """A resumed one too, which the node would let go at the end of its handshake's time were it not confirmed."""
    node = running("pooling", node={"handshake_timeout": 1.0, "tick": 0.05})
    dialer = dialing(arm, pooling={"max_idle_total": 1})
    for number in (0, 1):
        with dialer.connect(node.peers[number]) as connection:
            connection.request(b"hello")
    began = time.monotonic()
    with dialer.connect(node.peers[0]) as connection:
        assert dialer.gauges()["pooling"].get("resumed", 0) == (arm == "pooling")
        assert wait_until(lambda: not node.node.unfinished)
        assert wait_until(lambda: time.monotonic() > began + 1.2)
        assert connection.request(b"at last") == b"at last"


@pytest.mark.parametrize("more", [b"", b"\x00", bytes(40)])
def test_a_replayed_offer_does_not_outlive_the_handshake_timeout(
    running: Callable[..., RunningNode], more: bytes
) -> None:
    """Nor does it with some bytes behind it, which confirm nothing; and it is nobody's connection."""
    node = running("all", node={"handshake_timeout": 1.0, "message_timeout": 1e6, "tick": 0.05})  # 1 s for the full one
    overheard = offering(node, tickets(time.monotonic)).first
    opened = node.node.rooms.metrics.gauges()["successful_connections"]
    with socket.create_connection(node.address) as attacker:
        attacker.settimeout(20)
        attacker.sendall(overheard)
        assert len(attacker.recv(SECOND_BYTES)) == RESUMED_BYTES
        attacker.sendall(more)
        assert not node.node.owing
        with contextlib.suppress(ConnectionResetError):
            assert attacker.recv(100) == b""
    assert wait_until(lambda: not node.node.unfinished and node.node.cleanup.open_connections() == 0)
    found = node.node.rooms.metrics.gauges()
    assert found["successful_connections"] == opened
    assert found["connection_attempts"] == opened + found["failed_connections"] == opened + 1


def test_who_replays_an_offer_and_leaves_has_failed_to_connect(running: Callable[..., RunningNode]) -> None:
    node = running()
    overheard = offering(node, tickets(time.monotonic)).first
    with socket.create_connection(node.address) as attacker:
        attacker.sendall(overheard)
        assert len(attacker.recv(SECOND_BYTES)) == RESUMED_BYTES
    assert wait_until(lambda: node.node.cleanup.open_connections() == 0)
    assert wait_until(lambda: node.node.rooms.metrics.gauges()["failed_connections"] == 1)
    assert node.node.rooms.metrics.gauges()["connection_attempts"] == 2
    assert not node.node.unfinished


def test_a_peer_that_drips_its_second_frame_gains_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = count(0.0, 0.3)  # each look at the clock is as much later
    monkeypatch.setattr(tcp, "time", SimpleNamespace(monotonic=lambda: next(now)))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(bytes(SECOND_BYTES))
        dripping = MagicMock(wraps=ours)
        dripping.recv = lambda size: ours.recv(1)
        with pytest.raises(HandshakeError, match="fell silent during the handshake"):
            tcp._receive_second(dripping, 1.0)
        assert len(ours.recv(SECOND_BYTES)) > SECOND_BYTES - 6


def test_the_dialer_reads_a_second_frame_in_pieces() -> None:
    near, far = tickets(), tickets()
    connect(near, far)
    ours, theirs = socket.socketpair()
    peer = Peer(BOB.peer_id, {}, resumes=True)
    transport = TcpTransport(ALICE, BUFFERS, TcpSettings(), near)

    def listen() -> None:
        answer = Acceptance(BOB, far).answer(theirs.recv(OFFER_BYTES))
        for byte in answer:
            theirs.sendall(bytes([byte]))

    listener = threading.Thread(target=listen)
    with ours, theirs:
        listener.start()
        transport.secure(ours, peer)
        listener.join()
    assert near.gauges()["resumed"] == 1
