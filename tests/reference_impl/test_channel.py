"""Channels of both buffer twins: any message, cut anywhere, arrives once and whole, or the connection dies clean."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_impl.buffer_pool import Allocating, Buffers, BufferSettings, CryptoBufferPool
from reference_impl.buffer_pool.buffers import BufferReleased, Message, PooledBuffer
from reference_impl.buffer_pool.inbox import READ_AHEAD, JoinedInbox, PooledInbox
from reference_impl.errors import ChannelError, FrameError, HandshakeError, IdentityError
from reference_impl.security.channel import FIRST_BYTES, SECOND_BYTES, THIRD_BYTES, Acceptance, Channel, Initiation
from reference_impl.security.frame import HEAD, MAX_BODY, MAX_FRAME, MAX_PLAINTEXT, MAX_SINGLE, wire_size
from reference_impl.security.identity import Identity
from reference_impl.security.noise import CipherState

ALICE, BOB, EVE = (Identity.from_seed(name) for name in (b"alice", b"bob", b"eve"))
TWINS = [Allocating, CryptoBufferPool]
SIZES = [0, 1, 1024, 4096, 4097, MAX_SINGLE, MAX_SINGLE + 1, 65_519, 65_520, 131_038, 131_039, 1024 * 1024, MAX_BODY]


def make(twin: type[Buffers]) -> Buffers:
    return twin(BufferSettings())  # type: ignore[call-arg]


def connect(one: Buffers, two: Buffers) -> tuple[Channel, Channel]:
    initiation, acceptance = Initiation(ALICE, BOB.peer_id), Acceptance(BOB)
    answer = acceptance.answer(initiation.first)
    last, alice = initiation.finish(answer, one)
    assert (len(initiation.first), len(answer), len(last)) == (FIRST_BYTES, SECOND_BYTES, THIRD_BYTES)
    return alice, acceptance.finish(last, two)


def wire(channel: Channel, kind: int, body: bytes) -> bytes:
    sealed = channel.seal(kind, body)
    if isinstance(sealed, bytes):
        return sealed
    out = b""
    for piece in sealed:
        with piece:
            out += piece.view
    return out


def taken(messages: list[Message]) -> list[tuple[int, bytes]]:
    out = []
    for message in messages:
        with message:
            out.append((message.kind, bytes(message.body)))
    return out


@pytest.fixture(
    params=[(a, b) for a in TWINS for b in TWINS], ids=lambda pair: f"{pair[0].__name__}-{pair[1].__name__}"
)
def pair(request: pytest.FixtureRequest) -> tuple[Channel, Channel]:
    return connect(make(request.param[0]), make(request.param[1]))


def test_both_ends_know_whom_they_talk_to(pair: tuple[Channel, Channel]) -> None:
    assert pair[0].peer_id == BOB.peer_id
    assert pair[1].peer_id == ALICE.peer_id


def test_every_size_arrives_in_both_directions(pair: tuple[Channel, Channel]) -> None:
    for sender, receiver in (pair, pair[::-1]):
        for size in SIZES:
            body = os.urandom(min(size, 4096)) * (size // 4096 + 1)
            sealed = wire(sender, 7, body[:size])
            assert len(sealed) == wire_size(size)
            assert taken(receiver.feed(sealed)) == [(7, body[:size])]


@settings(max_examples=60)
@given(
    sizes=st.lists(
        st.integers(0, 5000) | st.sampled_from([MAX_SINGLE, MAX_SINGLE + 1, 65_519, 65_520, 140_000]), max_size=4
    ),
    cuts=st.lists(st.integers(1, 70_000), min_size=1, max_size=8),
    twins=st.tuples(st.sampled_from(TWINS), st.sampled_from(TWINS)),
)
def test_messages_cut_at_any_byte(
    sizes: list[int], cuts: list[int], twins: tuple[type[Buffers], type[Buffers]]
) -> None:
    sender, receiver = connect(*(make(twin) for twin in twins))
    bodies = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    stream = b"".join(wire(sender, number, body) for number, body in enumerate(bodies))
    got, at, turn = [], 0, 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        got += taken(receiver.feed(memoryview(stream)[at : at + step]))
        at, turn = at + step, turn + 1
    assert got == list(enumerate(bodies))


@pytest.mark.parametrize("twin", TWINS)
def test_cut_after_every_single_byte(twin: type[Buffers]) -> None:
    sender, receiver = connect(make(twin), make(twin))
    stream = wire(sender, 1, b"abc") + wire(sender, 2, bytes(20_000))
    got = []
    for at in range(len(stream)):
        got += taken(receiver.feed(stream[at : at + 1]))
    assert got == [(1, b"abc"), (2, bytes(20_000))]


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("size", [100, 20_000, 200_000])
def test_forged_replayed_and_reordered_frames_kill_the_channel(twin: type[Buffers], size: int) -> None:
    for attack in ("forge", "replay", "reorder", "cut"):
        lent: list[PooledBuffer] = []
        buffers = make(twin)
        if isinstance(buffers, CryptoBufferPool):
            acquire = buffers.acquire

            def remember(size: int, *, secret: bool = False, acquire: Any = acquire, lent: Any = lent) -> PooledBuffer:
                buffer: PooledBuffer = acquire(size, secret=secret)
                lent.append(buffer)
                return buffer

            buffers._acquire = remember
        sender, receiver = connect(make(twin), buffers)
        first, second = wire(sender, 1, b"x" * size), wire(sender, 1, b"y" * size)
        if attack == "forge":
            stream = first[:-1] + bytes([first[-1] ^ 1])
        elif attack == "replay":
            stream = first + first
        elif attack == "reorder":
            stream = second + first
        else:
            stream = first[:-16] + second  # without its tag: of one byte less, one tag in 256 would end as it must
        with pytest.raises(ChannelError):
            receiver.feed(stream)
        receiver.close()
        for each in lent:
            with pytest.raises(BufferReleased):
                _ = each.view
        assert lent or size <= MAX_SINGLE or attack == "reorder" or twin is Allocating
        if isinstance(buffers, CryptoBufferPool):
            for free in (kind.free for kind in buffers._classes):
                assert not any(b"xxxx" in bytes(storage) for storage in free)


@pytest.mark.parametrize("inbox", [JoinedInbox, PooledInbox])
@pytest.mark.parametrize(
    "records",
    [
        [b""],
        [b"abc"],
        [HEAD.pack(1, 5) + b"four"],
        [HEAD.pack(1, MAX_BODY + 1)],
        [HEAD.pack(1, MAX_SINGLE + 1) + b"body beside a long head"],
        [HEAD.pack(1, 70_000), b"x"],
        [HEAD.pack(1, 70_000), b""],
        [HEAD.pack(1, 70_000), bytes(MAX_PLAINTEXT), bytes(4482)],
    ],
    ids=[
        "empty",
        "short head",
        "short body",
        "oversize",
        "long beside head",
        "short record",
        "empty record",
        "long last",
    ],
)
def test_malformed_messages_are_refused(inbox: type[JoinedInbox] | type[PooledInbox], records: list[bytes]) -> None:
    key = os.urandom(32)
    sender, receiver = CipherState(key), CipherState(key)
    pool = CryptoBufferPool(BufferSettings())
    box = JoinedInbox(receiver) if inbox is JoinedInbox else PooledInbox(pool.acquire, receiver)
    frames = [len(sealed).to_bytes(2, "big") + sealed for sealed in (sender.encrypt(record) for record in records)]
    with pytest.raises(FrameError):
        _ = [box.feed(frame) for frame in frames]
    box.close()


@pytest.mark.parametrize("twin", TWINS)
def test_a_body_over_the_limit_is_never_sent(twin: type[Buffers]) -> None:
    sender, _ = connect(make(twin), make(twin))
    with pytest.raises(FrameError, match="at most"):
        wire(sender, 1, bytes(MAX_BODY + 1))


def test_an_idle_inbox_holds_no_buffer() -> None:
    pool = CryptoBufferPool(BufferSettings())
    sender, receiver = connect(make(Allocating), pool)
    stream = wire(sender, 1, bytes(300_000))
    for at in range(0, len(stream), 40_000):
        for message in receiver.feed(stream[at : at + 40_000]):
            message.release()
    inbox = receiver.inbox
    assert isinstance(inbox, PooledInbox)
    assert inbox._message is inbox._partial is None
    assert inbox.space() is None


@pytest.mark.parametrize("twin", TWINS)
@given(first=st.integers(1, 100_000), size=st.integers(2 * READ_AHEAD, 4 * READ_AHEAD))
def test_full_reads_cut_no_record_after_the_first(twin: type[Buffers], first: int, size: int) -> None:
    """Who reads what `ahead` says never holds a piece of a record, however much came with the head."""
    sender, receiver = connect(make(Allocating), make(twin))
    stream, inbox = memoryview(wire(sender, 1, bytes(size))), receiver.inbox
    assert inbox.ahead == 0
    messages, at = receiver.feed(stream[:first]), first
    while not messages:
        ahead = inbox.ahead or READ_AHEAD
        assert ahead <= READ_AHEAD
        whole = bool(inbox.ahead) and at + ahead <= len(stream)
        messages = receiver.feed(stream[at : at + ahead])
        at += ahead
        assert not (whole and getattr(inbox, "_partial" if twin is CryptoBufferPool else "_pending"))
    (message,) = messages
    assert len(message.body) == size
    message.release()


def test_the_largest_frame_fits_a_medium_buffer() -> None:
    pool = CryptoBufferPool(BufferSettings())
    with pool.acquire(MAX_FRAME) as buffer:
        assert len(buffer.view) == MAX_FRAME
    assert len(pool._medium.free) == 1


def test_the_dialer_accepts_no_other_peer() -> None:
    initiation, impostor = Initiation(ALICE, BOB.peer_id), Acceptance(EVE)
    with pytest.raises(IdentityError, match="expected"):
        initiation.finish(impostor.answer(initiation.first), make(Allocating))


def test_a_stolen_proof_does_not_fit_another_static_key() -> None:
    thief = Identity.from_seed(b"thief")
    thief.proof = BOB.proof
    initiation = Initiation(ALICE, BOB.peer_id)
    with pytest.raises(IdentityError, match="signature"):
        initiation.finish(Acceptance(thief).answer(initiation.first), make(Allocating))
    acceptance = Acceptance(BOB)
    forged = Initiation(thief, BOB.peer_id)
    last, _ = forged.finish(acceptance.answer(forged.first), make(Allocating))
    with pytest.raises(IdentityError, match="signature"):
        acceptance.finish(last, make(Allocating))


@pytest.mark.parametrize("size", [0, FIRST_BYTES - 1, FIRST_BYTES + 1])
def test_handshake_frames_of_a_wrong_size_are_refused(size: int) -> None:
    with pytest.raises(HandshakeError):
        Acceptance(BOB).answer(bytes(size))


def test_close_wipes_the_keys() -> None:
    alice, _ = connect(make(Allocating), make(Allocating))
    alice.close()
    with pytest.raises(ChannelError):
        wire(alice, 1, b"x")
