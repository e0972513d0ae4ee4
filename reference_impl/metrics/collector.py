"""Room 6, metrics collection: what happened with whom, cheap enough to leave on.

Law 1: an event is one atomic append to a buffer of the thread that took the recorder; it never waits, not even in
a finalizer that interrupts a reader. Law 2: buffers become numbers only under the lock, so a snapshot is a cut: an
event is in all of its counters or in none, and no counter ever goes back. Law 3: nothing is dropped: series leave
memory only by joining their transport's `OTHER` series, and only once their recorder's death proves them silent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Protocol
from weakref import ref

from reference_impl import forks
from reference_impl.metrics.histogram import CREDIBLE_SECONDS, Scheme, unpatched
from reference_impl.metrics.ledger import FEW, Book, BufferedRecorder, Ledger, read_series
from reference_impl.metrics.locked_metrics import LockedMetrics
from reference_impl.metrics.series import (
    OTHER,
    Snapshot,
    Transport,
    counts_of,
    gauges_of,
    total,
)
from reference_impl.optimizations import Switch
from reference_impl.settings import count, ordered, positive

_get_ident: Callable[[], int] = unpatched("_thread", "get_ident")


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Settings of both twins; each comment gives unit and the reason for the default."""

    max_series: int = 10_000  # (peer, transport) pairs kept apart: 2.4 MB at rest, what one node serves at once
    idle_after: float = 300.0  # s without an open connection until a series joins OTHER: Prometheus' staleness
    shortest: float = 1e-6  # s, first bucket edge: below a loopback request there is nothing to tell apart
    longest: float = 64.0  # s, last bucket edge at least: beyond every timeout of this layer
    subdivisions: int = 4  # buckets per octave of a transport's histogram: quantiles within 11 % in 1.2 KB
    sample_bound: int = 100  # durations per series in the off twin: the fewest that resolve a p99
    batch: int = 256  # requests a busy recorder buffers (30 KB): more no longer lowers the cost of one
    batch_budget: int = 4_096  # requests buffered by all busy recorders together: at most 0.5 MB

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name in ("max_series", "subdivisions", "sample_bound", "batch", "batch_budget"):
            count(owner, name, getattr(self, name))
        for name in ("idle_after", "shortest", "longest"):
            positive(owner, name, getattr(self, name))
        ordered(owner, "shortest", self.shortest, "longest", self.longest)
        ordered(owner, "longest", self.longest, "CREDIBLE_SECONDS", CREDIBLE_SECONDS)


class Recorder(Protocol):
    """The metrics of one (peer, transport), held by a connection so that the hot path does no look-up."""

    def attempt(self) -> None: ...
    def opened(self, seconds: float) -> None: ...
    def failed(self) -> None: ...
    def request(self, seconds: float, sent: int, received: int) -> None:
        """One answered request: latency in seconds, payload bytes. The hot path: one call per request."""

    def closed(self) -> None: ...


class Metrics(Protocol):
    """A collector, for any thread or greenlet; a recorder, once taken, serves finalizers too."""

    def recorder(self, peer: bytes, transport: str) -> Recorder: ...
    def snapshot(self) -> Snapshot: ...
    def sweep(self) -> int:
        """Fold idle series into `OTHER`; returns how many."""

    def gauges(self) -> dict[str, float]:
        """Totals under the fields' names, plus `active`, `series` and `evicted`."""


class PerThreadMetrics:
    """The on twin: events are buffered per (thread, peer, transport) and counted in batches, cold series are packed.

    Threads are told apart by the unpatched `get_ident`, and once, when a recorder is taken: greenlets of a thread
    share a buffer, and a connection that wanders to another thread keeps its own, since an append is atomic anyway.
    What an exited thread buffered stays where it is until it is counted.

    A forked child goes on from its parent's counts, connections open in the parent included. It may lack, or see in
    a total and not in its series, the batch that a thread of the parent was counting and the series it was folding.
    """

    def __init__(self, settings: MetricsSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._start = clock()
        self._scheme = Scheme.log_linear(settings.shortest, settings.longest, settings.subdivisions)
        self._octaves = Scheme.log_linear(settings.shortest, settings.longest, 1)
        self._ledgers: dict[str, Ledger] = {}
        self.after_fork()
        self._few = 3 * min(FEW, settings.batch)
        self._budget = settings.batch_budget
        self._evicted = 0
        self._crowded = False  # the last attempt to make room found too little; a sweep may change that
        forks.join(self)

    def recorder(self, peer: bytes, transport: str) -> Recorder:
        with self._lock:
            ledger = self._ledgers.get(transport)
            if ledger is None:
                ledger = self._ledgers[transport] = Ledger(self._scheme, self._octaves, self._relieve)
            if peer not in ledger.packed:
                peer = self._admit(ledger, peer)
            books = ledger.books.setdefault(_get_ident(), {})
            book = books.get(peer)
            if book is None:
                book = books[peer] = Book(ledger, self._few)
            recorder: Recorder | None = book.recorder()
            if recorder is None:
                recorder = BufferedRecorder(book)
                book.recorder = ref(recorder)
            return recorder

    def snapshot(self) -> Snapshot:
        with self._lock:
            connects = {name: ledger.connect.read() for name, ledger in self._ledgers.items()}
            self._count_all()
            transports = tuple(
                Transport(name, counts_of(ledger.totals), ledger.latency.read(), connects[name])
                for name, ledger in self._ledgers.items()
            )
            packed = [ledger.packed.copy() for ledger in self._ledgers.values()]
            warm = [ledger.warm() for ledger in self._ledgers.values()]
        names = (one.transport for one in transports)
        series = chain.from_iterable(map(read_series, names, repeat(self._octaves), packed, warm))
        return Snapshot(total(one.counts for one in transports), transports, tuple(series))

    def sweep(self) -> int:
        with self._lock:
            self._count_all()
            self._rest()
            self._crowded = False
            return self._evict(self._size(), self._now() - self._settings.idle_after)

    def gauges(self) -> dict[str, float]:
        with self._lock:
            self._count_all()
            totals = total(counts_of(ledger.totals) for ledger in self._ledgers.values())
            return gauges_of(totals, self._size(), self._evicted)

    def after_fork(self) -> None:
        self._lock = unpatched("_thread", "allocate_lock")()
        for ledger in self._ledgers.values():
            ledger.connect.after_fork()

    def _now(self) -> float:
        return self._clock() - self._start

    def _size(self) -> int:
        return sum(len(ledger.packed) for ledger in self._ledgers.values())

    def _relieve(self, book: Book) -> None:
        """Count a full book now, unless the lock is taken: the book's next event tries again."""
        lock = self._lock
        if not lock.acquire(False):
            return
        try:
            book.count(len(book.marks), len(book.pending))
            more = book.limit // 3
            if 2 * more <= self._settings.batch and more <= self._budget:
                self._budget -= more
                book.limit *= 2
        finally:
            lock.release()

    def _count_all(self) -> None:
        books = [book for ledger in self._ledgers.values() for _, book in ledger.all_books()]
        buffers = [buffer for book in books for buffer in (book.marks, book.pending)]
        # The cut: one C call, during which no other thread runs; from here on buffers only grow at their end.
        lengths = list(map(len, buffers))
        for book, marks, pending in zip(books, lengths[::2], lengths[1::2], strict=True):
            if marks or pending:
                book.count(marks, pending)

    def _rest(self) -> None:
        for ledger in self._ledgers.values():
            self._budget += ledger.rest(self._few, self._now()) // 3

    def _admit(self, ledger: Ledger, peer: bytes) -> bytes:
        """The peer under which to count: itself, or `OTHER` when all series are in use."""
        full = self._size() >= self._settings.max_series
        if full and not self._crowded:
            self._rest()
            share = max(1, self._settings.max_series // 16)
            made = self._evict(share, self._now())
            self._crowded = made < share // 4  # looking costs O(series): only as long as it is repaid
            full = self._size() >= self._settings.max_series
        if full:
            peer = OTHER
        ledger.open(peer)
        return peer

    def _evict(self, most: int, before: float) -> int:
        evicted = sum(ledger.evict(most, before, self._now()) for ledger in self._ledgers.values())
        self._evicted += evicted
        return evicted


METRICS: Switch[Metrics] = Switch("metrics", off=LockedMetrics, on=PerThreadMetrics)
