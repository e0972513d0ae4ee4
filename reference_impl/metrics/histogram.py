"""Log-linear histograms of durations: fixed size, a known error, and cheap because they are lazy.

Law 1: the hot path only appends, which CPython does atomically, so no observation of any thread is lost and
none ever waits. Law 2: counting happens per batch: sort, then one bisection per bucket that is hit, which costs
a fifth of finding a bucket per value. Law 3: count and sum change together under a lock, so no reader sees one
without the other.
"""

from __future__ import annotations

import math
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

CREDIBLE_SECONDS = 1e9  # about 31 years: a longer "duration" is an uninitialised clock, not a measurement


def unpatched(module: str, name: str) -> Any:
    """`module.name` as it was before gevent patched it; gevent is never imported for this.

    The patched `get_ident` names a greenlet and the patched lock switches greenlets; both are wrong for state
    that belongs to an operating system thread.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    return getattr(__import__(module), name)


@dataclass(frozen=True, slots=True)
class Latency:
    """Durations in seconds: how many, their sum, and what quantiles are estimated from.

    `values` are samples (`weights` empty), or one representative per bucket with its count in `weights`;
    `edges` are the buckets' upper ends, inclusive, the last infinite.
    """

    count: int = 0
    seconds: float = 0.0
    values: tuple[float, ...] = ()
    weights: tuple[int, ...] = ()
    edges: tuple[float, ...] = ()

    def quantile(self, q: float) -> float:
        """The value of nearest rank ceil(q*n), for 0 <= q <= 1; NaN when nothing was observed.

        From buckets it is off by at most the scheme's `error`, relative to the true value.
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"quantile is {q!r}; expected 0 <= q <= 1")
        size = sum(self.weights) if self.weights else len(self.values)
        if not size:
            return math.nan
        rank = max(1, math.ceil(q * size))
        if self.weights:
            return self.values[bisect_left(tuple(accumulate(self.weights)), rank)]
        return sorted(self.values)[rank - 1]

    def cumulative(self) -> list[tuple[float, int]]:
        """(upper end, observations at or below it), the last one infinite; [] without buckets."""
        return list(zip(self.edges, accumulate(self.weights), strict=False))


@dataclass(frozen=True, slots=True)
class Scheme:
    """Where buckets lie: `edges` are their upper ends (inclusive, the last infinite), `values` what one is taken for.

    Octaves above `shortest`, each cut into `subdivisions` equal parts: bucket 0 is everything up to `shortest`
    and the last one everything beyond the top. A bucket (lo, hi] is taken for 2*lo*hi/(lo+hi), where the relative
    error of both edges is the same, (hi-lo)/(hi+lo) <= 1/(2*subdivisions+1). Outside, values saturate at the edges.
    """

    edges: tuple[float, ...]
    values: tuple[float, ...]
    subdivisions: int

    @classmethod
    def log_linear(cls, shortest: float, longest: float, subdivisions: int) -> Scheme:
        """Buckets from `shortest` to at least `longest` seconds, rounded up to whole octaves."""
        octaves = max(1, math.ceil(math.log2(longest / shortest)))
        parts = range(1, subdivisions + 1)
        steps = (2**octave * (1 + part / subdivisions) for octave in range(octaves) for part in parts)
        bounds = [shortest, *(float(f"{shortest * step:.12g}") for step in steps)]
        inner = (2 * low * high / (low + high) for low, high in pairwise(bounds))
        return cls((*bounds, math.inf), (shortest, *inner, bounds[-1]), subdivisions)

    @property
    def error(self) -> float:
        """Largest relative error of a quantile inside the range."""
        return 1 / (2 * self.subdivisions + 1)

    def octave(self, bucket: int) -> int:
        """The bucket of the same scheme with one subdivision that holds this bucket."""
        return (bucket + self.subdivisions - 1) // self.subdivisions


class Buckets:
    """Counts per bucket and the sum of what was counted. Not thread-safe: its owner holds a lock."""

    __slots__ = ("counts", "scheme", "seconds")

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme
        self.seconds = 0.0
        self.counts = array("I", bytes(4 * len(scheme.values)))

    def add(self, ordered: Sequence[float], seconds: float) -> list[tuple[int, int]]:
        """Count ascending durations whose sum is `seconds`; returns (bucket, how many) for those that were hit."""
        edges, counts, size = self.scheme.edges, self.counts, len(ordered)
        bucket = start = 0
        hit = []
        while start < size:
            bucket = bisect_left(edges, ordered[start], bucket)
            end = bisect_right(ordered, edges[bucket], start)
            try:
                counts[bucket] += end - start
            except OverflowError:  # beyond 2**32 - 1: wider counters from here on
                counts = self.counts = array("Q", counts)
                counts[bucket] += end - start
            hit.append((bucket, end - start))
            start = end
        self.seconds += seconds
        return hit

    def read(self) -> Latency:
        weights = tuple(self.counts)
        return Latency(sum(weights), self.seconds, self.scheme.values, weights, self.scheme.edges)


def credible(seconds: object) -> bool:
    """Whether this is a duration: a real number, not NaN, within 0 to `CREDIBLE_SECONDS`."""
    return isinstance(seconds, (int, float)) and 0.0 <= seconds <= CREDIBLE_SECONDS


def order(durations: list[float]) -> float | None:
    """Sort the durations in place and return their sum, or None when there is none or one is not credible."""
    try:
        durations.sort()
        seconds = sum(durations)
    except TypeError:
        return None
    # A NaN may hide anywhere in a sorted list, but not in the sum.
    if durations and durations[0] >= 0 and durations[-1] <= CREDIBLE_SECONDS and not math.isnan(seconds):
        return seconds
    return None


_BATCH = 48  # 384 B of pending floats: with octaves for buckets a whole histogram stays below 1 KB


class Histogram:
    """A thread-safe histogram of durations in seconds that never makes a writer wait.

    `refused` counts what is no duration: NaN, infinite, negative, or beyond `CREDIBLE_SECONDS`. Whoever keeps it calls
    `after_fork` in a forked child, which may lack the batch that a thread of its parent was counting.
    """

    __slots__ = ("_buckets", "_lock", "_pending", "refused")

    def __init__(self, scheme: Scheme) -> None:
        self._buckets = Buckets(scheme)
        self._pending = array("d")
        self.after_fork()
        self.refused = 0

    def observe(self, seconds: float) -> None:
        """Count one duration. Raises `TypeError` for what is not a number."""
        pending = self._pending
        pending.append(seconds)
        # Whoever holds the lock already does this work, possibly further up this very stack (a finalizer).
        if len(pending) >= _BATCH and (lock := self._lock).acquire(False):
            try:
                self._settle()
            finally:
                lock.release()

    def read(self) -> Latency:
        """Everything observed so far; count and sum belong to the same instant."""
        with self._lock:
            self._settle()
            return self._buckets.read()

    def after_fork(self) -> None:
        self._lock = unpatched("_thread", "allocate_lock")()

    def _settle(self) -> None:
        # A copy first: building a list may run the garbage collector, and a finalizer may observe.
        batch = self._pending[:].tolist()
        del self._pending[: len(batch)]
        seconds = order(batch)
        if seconds is None:
            kept = [one for one in batch if credible(one)]
            self.refused += len(batch) - len(kept)
            batch, seconds = kept, order(kept) or 0.0
        self._buckets.add(batch, seconds)
