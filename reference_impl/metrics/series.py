"""What a metrics snapshot is made of, and the two forms in which a series is kept for it.

Warm, a series is a `Tally`: a plain list of the numbers named by the constants below, then one count per octave of
request latency. At rest it is a `bytes`, as narrow as its numbers allow: a dict or a list of boxed integers costs
several times what it counts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from operator import add, attrgetter
from typing import Any

from reference_impl.metrics.histogram import Latency, Scheme

OTHER = b"other"  # the peer that stands for all without a series of their own

ATTEMPTS, OPENED, FAILED, CLOSED, INVALID, SENT, RECEIVED, SECONDS, OCTAVES = range(9)
Tally = list[Any]  # integers, but a float at SECONDS


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened, since the start. `invalid` counts events with a duration or size that cannot be: NaN,
    infinite, negative. An invalid request counts nowhere else; an invalid connect time still opened."""

    connection_attempts: int = 0
    successful_connections: int = 0
    failed_connections: int = 0
    closed_connections: int = 0
    invalid: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    requests: int = 0

    @property
    def active(self) -> int:
        """Connections open now."""
        return max(0, self.successful_connections - self.closed_connections)


@dataclass(frozen=True, slots=True)
class Series:
    """One (peer, transport): counts and request latency."""

    peer: bytes
    transport: str
    counts: Counts
    latency: Latency


@dataclass(frozen=True, slots=True)
class Transport:
    """One transport over all peers: counts, request latency, and the time connections took to open."""

    transport: str
    counts: Counts
    latency: Latency
    connect: Latency


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Totals, per transport and per series. Totals and transports never go back, nor does a series while it lives."""

    totals: Counts
    transports: tuple[Transport, ...]
    series: tuple[Series, ...]


_columns = attrgetter(*Counts.__slots__)


def total(parts: Iterable[Counts]) -> Counts:
    """The sum of all parts."""
    return Counts(*(sum(column) for column in zip(*map(_columns, parts), strict=True)))


def counts_of(tally: Tally) -> Counts:
    """The counts of a tally; what it counted as latency are its requests."""
    numbers = [*tally[:SECONDS], sum(tally[OCTAVES:])]
    return Counts(*numbers)


def latency_of(tally: Tally, octaves: Scheme) -> Latency:
    """The request latency of a tally, in octaves."""
    weights = tuple(tally[OCTAVES:])
    return Latency(sum(weights), tally[SECONDS], octaves.values, weights, octaves.edges)


def plus(one: Tally, other: Tally) -> Tally:
    """The sum of two tallies, as a new one."""
    return list(map(add, one, other))


# Width of the counts, first octave present, when it came to rest, seconds of latency, bytes sent and received.
_HEAD = struct.Struct("<cBIdQQ")
_LARGEST = 2**64 - 1  # where a packed number saturates


def pack(tally: Tally, at: int) -> bytes:
    """The tally in 50 to 100 bytes, stamped with the second `at`; leading and trailing empty octaves cost nothing."""
    octaves = tally[OCTAVES:]
    hit = [octave for octave, n in enumerate(octaves) if n]
    first, end = (hit[0], hit[-1] + 1) if hit else (0, 0)
    numbers = [*tally[:SENT], *octaves[first:end]]
    sent, received, largest = tally[SENT], tally[RECEIVED], max(numbers)
    if max(largest, sent, received) > _LARGEST:
        numbers = [min(n, _LARGEST) for n in numbers]
        sent, received = min(sent, _LARGEST), min(received, _LARGEST)
    width = "B" if largest < 1 << 8 else "H" if largest < 1 << 16 else "I" if largest < 1 << 32 else "Q"
    head = _HEAD.pack(width.encode(), first, at, tally[SECONDS], sent, received)
    return head + struct.pack(f"<{len(numbers)}{width}", *numbers)


def unpack(packed: bytes, octaves: int) -> Tally:
    """The tally that was packed, with its count of `octaves` restored; b"" is one in which nothing happened."""
    if not packed:
        return [*([0] * SECONDS), 0.0, *([0] * octaves)]
    width, first, _, seconds, sent, received = _HEAD.unpack_from(packed)
    numbers = memoryview(packed)[_HEAD.size :].cast(width.decode()).tolist()
    empty = [0] * (octaves - first - len(numbers) + SENT)
    return [*numbers[:SENT], sent, received, seconds, *([0] * first), *numbers[SENT:], *empty]


def rested_at(packed: bytes) -> int:
    """The second with which it was packed; 0 for b"" (in a forked child a series may have neither book nor numbers)."""
    at: int = _HEAD.unpack_from(packed)[2] if packed else 0
    return at


def gauges_of(totals: Counts, series: int, evicted: int) -> dict[str, float]:
    """The gauges of a collector: its totals, how many series it keeps, how many it has folded into `OTHER`."""
    return {**asdict(totals), "active": totals.active, "series": series, "evicted": evicted}
