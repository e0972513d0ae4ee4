"""The books of one transport: events buffered per thread, counts per series, and the way from one to the other.

Anybody appends to a book at any time; everything else happens under the collector's lock. A book ends only when
its recorder is dead, because nothing less proves that no event can still come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

from reference_impl.metrics.histogram import CREDIBLE_SECONDS, Buckets, Histogram, Scheme, credible, order
from reference_impl.metrics.series import (
    ATTEMPTS,
    CLOSED,
    FAILED,
    INVALID,
    OCTAVES,
    OPENED,
    OTHER,
    RECEIVED,
    SECONDS,
    SENT,
    Series,
    Tally,
    counts_of,
    latency_of,
    pack,
    plus,
    rested_at,
    unpack,
)


class Ledger:
    """All that is known about one transport. Every field is guarded by the collector's lock, but for `connect`."""

    __slots__ = ("books", "connect", "full", "latency", "nothing", "octaves", "packed", "place", "totals")

    def __init__(self, fine: Scheme, octaves: Scheme, full: Callable[[Book], None]) -> None:
        self.full = full  # called by writers when a book has reached its limit
        self.octaves = octaves
        self.nothing: Tally = [*([0] * SECONDS), 0.0, *([0] * len(octaves.values))]
        self.totals = self.nothing.copy()
        self.latency = Buckets(fine)
        self.connect = Histogram(fine)
        self.place = [OCTAVES + fine.octave(bucket) for bucket in range(len(fine.values))]  # in a tally, by bucket
        self.packed: dict[bytes, bytes] = {}  # every series by peer, those at rest in the order they came to rest
        self.books: dict[int, dict[bytes, Book]] = {}  # by thread, by peer

    def all_books(self) -> Iterator[tuple[bytes, Book]]:
        for books in self.books.values():
            yield from books.items()

    def warm(self) -> list[tuple[bytes, Tally]]:
        """Copies of what was counted since it was last packed; a peer may appear once per thread."""
        return [(peer, book.tally.copy()) for peer, book in self.all_books() if book.tally]

    def open(self, peer: bytes) -> None:
        """Start a series, unless there is one."""
        self.packed.setdefault(peer, b"")

    def rest(self, few: int, now: float) -> int:
        """End books without a recorder; pack the tallies of those and of books idle since the last sweep.

        Their limits return to `few`; returns by how much that lowered the sum of all limits.
        """
        freed = 0
        for thread, books in list(self.books.items()):
            for peer, book in list(books.items()):
                dead = book.recorder() is None
                if dead:
                    book.count(len(book.marks), len(book.pending))
                    del books[peer]
                if dead or not book.touched:
                    freed += book.limit - few
                    book.limit = few
                    self._pack(peer, book, now)
                book.touched = False
            # A dict that was once large stays large until it is copied.
            self.books[thread] = books.copy()
            if not books:
                del self.books[thread]
        return freed

    def evict(self, most: int, before: float, now: float) -> int:
        """Fold up to `most` series that came to rest before then into `OTHER`, oldest first; returns how many."""
        live = {peer for peer, _ in self.all_books()} | {OTHER}
        idle: list[bytes] = []
        for peer, packed in self.packed.items():
            if peer not in live:
                if len(idle) >= most or rested_at(packed) > before:
                    break
                idle.append(peer)
        if idle:
            size = len(self.octaves.values)
            tallies = [unpack(self.packed.pop(peer), size) for peer in (*idle, OTHER) if peer in self.packed]
            self.packed[OTHER] = pack(reduce(plus, tallies), int(now))
            self.packed = self.packed.copy()  # as in `rest`
        return len(idle)

    def _pack(self, peer: bytes, book: Book, now: float) -> None:
        if book.tally:
            packed = self.packed.pop(peer, b"")  # a child forked below this line has none
            tally = plus(unpack(packed, len(self.octaves.values)), book.tally) if packed else book.tally
            self.packed[peer] = pack(tally, int(now))
            book.tally = []


def _nobody() -> None:
    return None


class Book:
    """One thread's buffers for one series. Anybody appends at any time; only the holder of the lock removes.

    `marks` holds one byte per connection event, the index of its count. `pending` holds requests flat, three numbers
    each: seconds, bytes sent, bytes received. Flat, because a list of tuples costs twice the memory and wakes the
    cyclic garbage collector.
    """

    __slots__ = ("ledger", "limit", "marks", "pending", "recorder", "tally", "touched")

    def __init__(self, ledger: Ledger, limit: int) -> None:
        self.ledger = ledger
        self.limit = limit  # numbers in `pending` at which the ledger is called
        self.marks = bytearray()
        self.pending: list[Any] = []
        self.tally: Tally = []  # empty while nothing was counted since it was last packed
        self.touched = True  # counted something since the last sweep
        self.recorder: Callable[[], Any] = _nobody  # a weak reference: its death ends the book

    def count(self, marks: int, pending: int) -> None:
        """Turn so many buffered marks and numbers into counts. The caller holds the lock."""
        self.touched = True
        if not self.tally:
            self.tally = self.ledger.nothing.copy()
        if marks:
            events = bytes(self.marks[:marks])
            del self.marks[:marks]
            for kind in set(events):
                self._add(kind, events.count(kind))
        if pending:
            requests = self.pending[:pending]
            del self.pending[:pending]
            self._count_requests(requests)

    def _count_requests(self, flat: list[Any]) -> None:
        sums = _sums(flat)
        if sums is None:
            sound = [request for request in zip(*[iter(flat)] * 3, strict=True) if _sound(*request)]
            self._add(INVALID, len(flat) // 3 - len(sound))
            sums = _sums([number for request in sound for number in request])
            if sums is None:  # not one of them was sound
                return
        durations, seconds, sent, received = sums
        self._add(SECONDS, seconds)
        self._add(SENT, sent)
        self._add(RECEIVED, received)
        tally, totals, place = self.tally, self.ledger.totals, self.ledger.place
        for bucket, n in self.ledger.latency.add(durations, seconds):
            tally[place[bucket]] += n
            totals[place[bucket]] += n

    def _add(self, index: int, n: float) -> None:
        self.tally[index] += n
        self.ledger.totals[index] += n


FEW = 16  # requests a recorder buffers before it has shown to be busy: 2 KB
_MARKS = 256  # connection events, one byte each, until they are counted


class BufferedRecorder:
    """The recorder of one book. Nothing here waits or fails, so that finalizers may use it too."""

    __slots__ = ("__weakref__", "_book")

    def __init__(self, book: Book) -> None:
        self._book = book

    def attempt(self) -> None:
        marks = self._book.marks
        marks.append(ATTEMPTS)
        if len(marks) >= _MARKS:
            self._book.ledger.full(self._book)

    def failed(self) -> None:
        self._mark(FAILED)

    def closed(self) -> None:
        self._mark(CLOSED)

    def opened(self, seconds: float) -> None:
        self._mark(OPENED)
        if 0.0 <= seconds <= CREDIBLE_SECONDS:
            self._book.ledger.connect.observe(seconds)
        else:
            self._mark(INVALID)

    def request(self, seconds: float, sent: int, received: int) -> None:
        book = self._book
        pending = book.pending
        pending.extend((seconds, sent, received))
        if len(pending) >= book.limit:
            book.ledger.full(book)

    def _mark(self, kind: int) -> None:
        marks = self._book.marks
        marks.append(kind)
        if len(marks) >= _MARKS:
            self._book.ledger.full(self._book)


def _sums(flat: list[Any]) -> tuple[list[float], float, int, int] | None:
    """Ascending durations, their sum and those of both sizes; None when there is none or one is not sound."""
    durations, sent, received = flat[0::3], flat[1::3], flat[2::3]
    seconds = order(durations)
    if seconds is None:
        return None
    try:
        if min(sent) >= 0 and min(received) >= 0:
            sums = sum(sent), sum(received)
            if type(sums[0]) is type(sums[1]) is int:
                return durations, seconds, *sums
    except TypeError:
        pass
    return None


def _sound(seconds: object, sent: object, received: object) -> bool:
    return credible(seconds) and isinstance(sent, int) and isinstance(received, int) and min(sent, received) >= 0


def read_series(
    transport: str, octaves: Scheme, packed: dict[bytes, bytes], warm: list[tuple[bytes, Tally]]
) -> Iterator[Series]:
    """The series of a ledger's copied `packed` and `warm`; needs no lock."""
    tallies: dict[bytes, Tally] = {}
    for peer, tally in warm:
        tallies[peer] = plus(tallies[peer], tally) if peer in tallies else tally
    for peer, resting in packed.items():
        tally = unpack(resting, len(octaves.values))
        if peer in tallies:
            tally = plus(tally, tallies[peer]) if resting else tallies[peer]
        yield Series(peer, transport, counts_of(tally), latency_of(tally, octaves))
