"""The pool of buffers: one owner at a time, wiped between owners, capped, trimmed; and the contract of both twins."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from reference_impl.buffer_pool import Allocating, Buffers, BufferSettings, CryptoBufferPool
from reference_impl.buffer_pool.buffers import BufferReleased, PooledBuffer
from reference_impl.security.frame import MAX_BODY, MAX_SINGLE, wire_size
from reference_impl.security.noise import CipherState
from reference_impl.settings import SettingsError

SMALL = BufferSettings(small_buffers=2, medium_buffers=2, large_buffers=1)


def cap(given: BufferSettings) -> int:
    classes = (
        (given.small, given.small_buffers),
        (given.medium, given.medium_buffers),
        (given.large, given.large_buffers),
    )
    return sum(wire_size(size) * most for size, most in classes)


class Pool(RuleBasedStateMachine):
    """Any order of acquire, write, release and sweep."""

    lent = Bundle("lent")

    def __init__(self) -> None:
        super().__init__()
        self.pool = CryptoBufferPool(SMALL)
        self.owned: dict[int, tuple[PooledBuffer, int]] = {}
        self.stamp = 0

    @rule(target=lent, size=st.sampled_from([1, 4096, 4119, 4120, 65_537, 1_000_000, 2_000_000]), secret=st.booleans())
    def acquire(self, size: int, secret: bool) -> PooledBuffer:
        buffer = self.pool.acquire(size, secret=secret)
        assert len(buffer.view) == size
        self.stamp = self.stamp % 255 + 1
        buffer.view[:] = bytes([self.stamp]) * size
        self.owned[id(buffer)] = (buffer, self.stamp)
        return buffer

    @rule(buffer=consumes(lent))
    def release(self, buffer: PooledBuffer) -> None:
        _, stamp = self.owned.pop(id(buffer))
        assert buffer.view.tobytes() == bytes([stamp]) * len(buffer.view), "somebody else wrote into it"
        storage, secret, size = buffer._storage, buffer._secret, len(buffer.view)
        buffer.release()
        if secret:
            assert not any(storage[:size])
        with pytest.raises(BufferReleased):
            buffer.release()
        with pytest.raises(BufferReleased):
            len(buffer.view)

    @rule()
    def sweep(self) -> None:
        before = self.pool.retained()
        assert self.pool.sweep() == before - self.pool.retained()

    @invariant()
    def capped_and_never_shared(self) -> None:
        assert self.pool.retained() <= cap(SMALL)
        storages = [id(buffer._storage.obj) for buffer, _ in self.owned.values()]
        storages += [id(storage.obj) for kind in self.pool._classes for storage in kind.free]
        assert len(storages) == len(set(storages))


Pool.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestPool = Pool.TestCase


def test_the_hottest_buffer_is_lent_first() -> None:
    pool = CryptoBufferPool(BufferSettings())
    first, second = pool.acquire(5000), pool.acquire(5000)
    hot = second._storage.obj
    first.release()
    second.release()
    assert pool.acquire(5000)._storage.obj is hot


def test_idle_classes_are_trimmed_to_nothing_and_busy_ones_are_not() -> None:
    pool = CryptoBufferPool(BufferSettings())
    for buffer in [pool.acquire(5000) for _ in range(20)] + [pool.acquire(100) for _ in range(20)]:
        buffer.release()
    pool.sweep()
    for _ in range(6):
        pool.acquire(100).release()
        pool.sweep()
    assert pool.retained() == 20 * wire_size(4096)


def test_oversize_requests_are_served_and_not_retained() -> None:
    pool = CryptoBufferPool(BufferSettings())
    with pool.acquire(MAX_BODY) as buffer:
        assert len(buffer.view) == MAX_BODY
    assert pool.retained() == 0
    assert pool.gauges()["oversize"] == 1


def test_eight_threads_never_own_the_same_buffer() -> None:
    pool = CryptoBufferPool(BufferSettings(medium_buffers=4))
    start = threading.Barrier(8)

    def user(number: int) -> int:
        start.wait()
        wrong = 0
        for _ in range(300):
            with pool.acquire(20_000) as buffer:
                buffer.view[:8] = number.to_bytes(8, "big")
                wrong += int.from_bytes(buffer.view[:8], "big") != number
        return wrong

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(user, range(8))) == 0
    assert len(pool._medium.free) <= 4


def test_of_two_releases_of_one_buffer_only_one_counts() -> None:
    pool = CryptoBufferPool(BufferSettings())
    buffer = pool.acquire(10)
    buffer.release()
    with pytest.raises(BufferReleased):
        buffer.release()
    assert len(pool._small.free) == 1


@pytest.mark.parametrize("twin", [Allocating, CryptoBufferPool])
def test_contract_of_both_twins(twin: type[Allocating] | type[CryptoBufferPool]) -> None:
    buffers: Buffers = twin(BufferSettings())
    key = os.urandom(32)
    sender, inbox = CipherState(key), buffers.inbox(CipherState(key))
    for size in (0, 100, 16_384, 16_385, 200_000, 3_000_000):
        body = os.urandom(size)
        sealed = buffers.seal(sender, 9, body)
        wire = sealed if isinstance(sealed, bytes) else b"".join(bytes(piece.view) for piece in sealed)
        (message,) = inbox.feed(wire)
        assert (message.kind, bytes(message.body)) == (9, body)
        message.release()
        message.release()
        assert message.body == b"" or isinstance(message.body, bytes)
    retained = buffers.gauges()["retained_bytes"]
    assert retained <= cap(BufferSettings())
    freed = buffers.sweep() + buffers.sweep()  # what was used since the last one stays for one more
    assert buffers.gauges()["retained_bytes"] == retained - freed
    assert (freed > 0) == (twin is CryptoBufferPool)


def test_at_a_megabyte_reused_buffers_cost_at_most_a_page_fault_per_message() -> None:
    pool = CryptoBufferPool(BufferSettings())
    key = os.urandom(32)
    sender, inbox = CipherState(key), pool.inbox(CipherState(key))
    body = bytes(1024 * 1024)

    def message() -> None:
        sealed = pool.seal(sender, 1, body)
        assert not isinstance(sealed, bytes)
        for piece in sealed:
            with piece:
                for received in inbox.feed(piece.view):
                    received.release()

    for _ in range(3):
        message()
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(100):
        message()
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before <= 100


@pytest.mark.parametrize(
    ("name", "value"),
    [("small", 0), ("medium", -1), ("large", 2**21), ("small_buffers", 0), ("pool_above", -1), ("large_buffers", 1.5),
     ("small", 100_000), ("medium", 2_000_000), ("pool_above", MAX_SINGLE + 1), ("large", 65_535)],
)  # fmt: skip
def test_bad_settings_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"buffer_pool.{name}"):
        BufferSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, MAX_SINGLE, MAX_SINGLE + 1, 65_520, 300_000])
@pytest.mark.parametrize(
    "chosen",
    [{"pool_above": 0}, {"pool_above": MAX_SINGLE}, {"small": 1, "medium": 1, "large": 65_536}, {"medium": 2**20}],
)
def test_the_smallest_and_largest_settings_speak_the_protocol(chosen: dict[str, int], size: int) -> None:
    pool, body = CryptoBufferPool(BufferSettings(**chosen)), os.urandom(size)
    sealed, inbox = (
        pool.seal(CipherState(bytes(32)), 7, body),
        Allocating(BufferSettings()).inbox(CipherState(bytes(32))),
    )
    wire = sealed if isinstance(sealed, bytes) else b"".join(bytes(piece.view) for piece in sealed)
    (message,) = inbox.feed(wire)
    assert (message.kind, bytes(message.body)) == (7, body)


def test_a_view_that_was_kept_reaches_nothing_after_the_release() -> None:
    pool = CryptoBufferPool(BufferSettings())
    buffer = pool.acquire(20_000)
    view = buffer.view
    buffer.release()
    with pytest.raises(ValueError, match="released"):
        view[0] = 1


def test_a_storage_that_somebody_still_uses_is_not_lent_again() -> None:
    pool = CryptoBufferPool(BufferSettings())
    buffer = pool.acquire(20_000)
    using = memoryview(buffer.view)  # as a transport does while it sends
    exported = pickle.PickleBuffer(buffer.view)
    buffer.release()
    assert pool.retained() == 0
    using[0] = 1
    assert pool.acquire(20_000).view[0] == 0
    exported.release()
