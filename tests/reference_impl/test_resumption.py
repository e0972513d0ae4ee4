"""Resumption: any two ends, whether they remember or not, get a channel; a ticket serves once, its owner alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.buffer_pool import Allocating, BufferSettings
from reference_impl.channel import (
    FIRST_BYTES,
    OFFER_BYTES,
    RESUMED_BYTES,
    SECOND_BYTES,
    THIRD_BYTES,
    Acceptance,
    Channel,
    Initiation,
)
from reference_impl.errors import HandshakeError, IdentityError
from reference_impl.identity import Identity
from reference_impl.lease import PoolSettings
from reference_impl.resumption import NAME_BYTES, FullHandshakes, Resumption, Ticket, Tickets
from tests.reference_impl.conftest import RunningNode

ALICE, BOB, EVE = (Identity.from_seed(name) for name in (b"alice", b"bob", b"eve"))
BUFFERS = Allocating(BufferSettings())
FULL = (SECOND_BYTES, THIRD_BYTES)
RESUMED = (RESUMED_BYTES, 0)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def tickets(clock: Callable[[], float] | None = None, **settings: Any) -> Tickets:
    return Tickets(PoolSettings(**settings), clock or Clock())


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
    theirs.keep(BOB.peer_id, near.take(BOB.peer_id))
    assert connect(theirs, far, dialer=EVE)[1] == FULL


def test_an_impostor_cannot_resume() -> None:
    near, far = tickets(), tickets()
    connect(near, far)
    initiation = Initiation(ALICE, BOB.peer_id, near)
    with pytest.raises(IdentityError, match="expected"):
        initiation.finish(Acceptance(EVE, tickets()).answer(initiation.first), BUFFERS)


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


def test_identities_are_proved_afresh_once_a_lifetime() -> None:
    clock = Clock()
    near, far = tickets(clock, max_lifetime=100), tickets(clock, max_lifetime=100)
    connect(near, far)
    clock.now = 60
    assert connect(near, far)[1] == RESUMED
    clock.now = 100  # the resumption at 60 has not begun a new lifetime
    assert connect(near, far)[1] == FULL
    clock.now = 199
    assert connect(near, far)[1] == RESUMED
    (one,), (two,) = near._kept[BOB.peer_id], next(iter(far._kept.values()))
    clock.now = 200
    assert (near.sweep(), far.sweep()) == (1, 2)  # the listener's of the first lifetime too, which nobody offered
    assert one.secret == two.secret == bytes(32)


def test_what_is_used_expired_or_crowded_out_is_wiped() -> None:
    clock = Clock()
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


def ticket(number: int) -> Ticket:
    """A ticket of no handshake."""
    made = Ticket.__new__(Ticket)
    made.name, made.secret, made.peer_id, made.expires_at = bytes([number]), bytearray(b"x" * 32), b"", 1e9
    return made


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


def test_a_forked_child_has_no_tickets_and_its_parent_keeps_its_own() -> None:
    near, far = tickets(), tickets()
    connect(near, far)
    child = os.fork()
    if child == 0:
        try:
            os._exit(int(near.gauges()["tickets"] != 0 or connect(near, far)[1] != FULL))
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert connect(near, far)[1] == RESUMED


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
    node.call(node.node.rooms.tickets.forget)  # as a node that crashed
    assert visit(0) == (2, 2)
    dialer.close()
    assert dialer.gauges()["pooling"]["tickets"] == 0
