"""Room 3, rate limiting: a token bucket per key, kept as one number.

The number is the theoretical arrival time of GCRA, counted in tokens: a bucket is full while it lies in the
past, and holds `burst_size - (arrival - now)` tokens otherwise. Three laws. What one key gets in t seconds is
at most burst_size + max_requests_per_second * t, forgotten in between or not. A reject changes no bucket. All
keys together get at most what max_keys + 1 buckets give: one for each place in the map, and one shared by all
keys that find no place.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

from reference_impl import forks
from reference_impl.optimizations import Switch
from reference_impl.settings import SettingsError, count, positive

RATES = (
    1e-6,
    1e6,
)  # requests/s; arrivals stay below 2**53, where adding one is exact, for 285 years of clock
MAX_BURST = 10**9

# Rounding must refuse neither the last token of a burst nor the caller who waited exactly as long as told: a
# bucket is let off the rounding errors of its own numbers, which do not add up.
ULPS = 2.0**-51
_LENIENCY = 1.0 + ULPS

# Keys whose hash and equality run no Python code; none on a build without the GIL, where `check` must lock.
_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
_ATOMIC: frozenset[type] = frozenset((bytes, str, int) if _GIL else ())


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    """How much one key may ask for, and how many keys are told apart.

    max_requests_per_second: sustained rate of one key in requests/s, 1e-6 to 1e6. Default 100,000: just above
        what a bare loop gets through one node of the reference machine, so that a calm path never meets
        it; a study of floods sets it lower.
    burst_size: requests one key may make at once after a pause, 1 to 1e9. Default 100,000: one second of it.
    max_keys: keys with a bucket of their own. Default 100,000: 62-84 B each, so about 8 MB (14 MB while a
        sweep moves them), for ten times the peers one node serves.
    eviction_interval: seconds between two sweeps for idle keys. Default 30: a default bucket is full after
        one idle second, but a peer back within half a minute is cheaper to keep than to forget.
    """

    max_requests_per_second: float = 100_000.0
    burst_size: int = 100_000
    max_keys: int = 100_000
    eviction_interval: float = 30.0

    def __post_init__(self) -> None:
        owner, rate = type(self).__name__, self.max_requests_per_second
        positive(owner, "max_requests_per_second", rate)
        if not RATES[0] <= rate <= RATES[1]:
            raise SettingsError(f"{owner}.max_requests_per_second is {rate!r}; expected 1e-6 to 1e6")
        count(owner, "burst_size", self.burst_size)
        if self.burst_size > MAX_BURST:
            raise SettingsError(f"{owner}.burst_size is {self.burst_size!r}; expected at most {MAX_BURST}")
        count(owner, "max_keys", self.max_keys)
        positive(owner, "eviction_interval", self.eviction_interval)


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A bucket in the plan's words: `tokens` at the clock's `last_refill` (s), refilled at `rate` (1/s)."""

    tokens: float
    last_refill: float
    rate: float


class RateLimiter(Protocol):
    """Admission by key (a source address before the handshake, a peer id after it).

    Its owner calls `sweep` every `eviction_interval` seconds.
    """

    eviction_interval: float

    def check(self, key: Hashable, n: int = 1) -> float:
        """0.0 when admitted, otherwise the seconds to wait; inf for never (n > burst_size).

        A reject consumes nothing. Who waits that long is admitted, if the key got nothing else meanwhile.
        """

    def sweep(self) -> int:
        """Forget every key whose bucket is full again; how many they were."""

    def __len__(self) -> int:
        """Keys remembered."""

    def gauges(self) -> dict[str, float]:
        """rejected, rejection_rate, keys, evicted, overflow (paid by the shared one); admitted if counted."""


class Unlimited:
    """Off: everybody is let in, nothing is remembered and nothing counted."""

    def __init__(self, settings: RateLimitSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.eviction_interval = settings.eviction_interval

    def check(self, key: Hashable, n: int = 1) -> float:
        return 0.0

    def sweep(self) -> int:
        return 0

    def __len__(self) -> int:
        return 0

    def gauges(self) -> dict[str, float]:
        return dict.fromkeys(("rejected", "rejection_rate", "keys", "evicted", "overflow"), 0.0)


class GcraLimiter:
    """On: one float a key, no lock on the way of a known key, no pause for sweeping.

    Two dicts hold the keys. A sweep makes `young` the `old` one and starts an empty `young`; every key that
    is new or met in `old` examines two more of `old`, drops them when their buckets are full, and moves them
    otherwise. Forgetting a full bucket gives nothing away: a stranger starts with a full one. A check costs
    O(1), and both dicts together never hold more than max_keys keys.

    A stranger who finds the map full, and no idle key among the two, is served from the shared bucket
    `_floor`. Whoever gets a place later starts at that bucket's level, so nobody drinks from both. A reading of
    the clock below the latest one counts as the latest one: while a clock is behind, nothing refills and
    nothing is lost. Time begins at 0.

    A forked child limits by itself, from copies of the buckets; the one bucket that a thread of the parent was
    moving may be forgotten, which lets its key begin anew.
    """

    def __init__(self, settings: RateLimitSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate = float(settings.max_requests_per_second)
        self._burst = float(settings.burst_size)
        self._ahead = self._burst * _LENIENCY
        self._max_keys = settings.max_keys
        self.eviction_interval = settings.eviction_interval
        self._lock = threading.Lock()
        self._young: dict[Hashable, float] = {}
        self._old: dict[Hashable, float] = {}
        self._floor = 0.0  # no key outside the two dicts has a later arrival than max(_floor, now)
        self._latest = self._next_sweep = 0.0
        self._admitted = self._rejected = self._evicted = self._overflow = 0
        forks.join(self)

    def check(self, key: Hashable, n: int = 1) -> float:
        now = self._clock()
        if n == 1 and type(key) in _ATOMIC:
            # Subtle: from here to the return stands no call and no loop. CPython switches threads and runs
            # signal handlers at those only: reading, deciding and writing are one step with no lock (150 ns).
            young = self._young
            if key in young:
                if now < self._latest:
                    now = self._latest
                else:
                    self._latest = now
                now *= self._rate
                arrival = young[key]
                if arrival < now:  # noqa: PLR1730 - max() is a call
                    arrival = now
                arrival += 1.0
                if arrival <= now * _LENIENCY + self._ahead:
                    young[key] = arrival
                    self._admitted += 1
                    return 0.0
                self._rejected += 1
                return (arrival - now - self._burst) / self._rate
        return self._check_locked(key, n, now)

    def _check_locked(self, key: Hashable, n: int, reading: float) -> float:
        """`check` for strangers, keys in `old`, n > 1 and keys that hash in Python."""
        if not n >= 1:
            raise ValueError(f"n is {n!r}; expected a whole number >= 1")
        with self._lock:
            if n > self._burst:
                self._rejected += 1
                return math.inf
            now = self._advance(reading)
            known = key in self._young or self._recall(key, now)
            # Subtle: as in `check`, no call between reading a known key and writing it. The keys this cannot
            # protect, strangers and keys that hash in Python, are written under the lock only.
            young = self._young
            arrival = young[key] if known else self._floor
            if arrival < now:  # noqa: PLR1730
                arrival = now
            arrival += n
            if arrival > now * _LENIENCY + self._ahead:
                self._rejected += 1
                return (arrival - now - self._burst) / self._rate
            if known:
                young[key] = arrival
            else:
                self._place(key, arrival, now)
            self._admitted += 1
            return 0.0

    def _advance(self, reading: float) -> float:
        """The latest time, in tokens: the clock's, unless it went backwards."""
        if reading > self._latest:  # noqa: PLR1730
            self._latest = reading
        return self._latest * self._rate

    def _recall(self, key: Hashable, now: float) -> bool:
        """Move `key` from `old` to `young`, and the sweep on; False for a stranger."""
        arrival = self._old.pop(key, None)
        if arrival is None:
            return False
        self._young[key] = arrival
        self._examine(2, now)
        return True

    def _place(self, key: Hashable, arrival: float, now: float) -> None:
        """Give a stranger a bucket of its own, or charge the shared one when the map is full."""
        full = len(self._young) + len(self._old) >= self._max_keys
        if not self._old and (full or self._latest >= self._next_sweep):
            self._begin_sweep()
        dropped = self._examine(2, now)
        if dropped or not full:
            self._young[key] = arrival
        else:
            self._floor = arrival
            self._overflow += 1

    def _begin_sweep(self) -> None:
        self._old, self._young = self._young, {}
        self._next_sweep = self._latest + self.eviction_interval

    def _examine(self, keys: int, now: float) -> int:
        """Take up to `keys` keys out of `old`, drop the idle and move the others; how many were dropped."""
        old, young, dropped = self._old, self._young, 0
        for _ in range(min(keys, len(old))):
            key, arrival = old.popitem()  # taken out first: whoever asks for the key now waits for the lock
            if arrival > now:
                young[key] = arrival
            else:
                dropped += 1
        if not old:
            self._old = {}  # an emptied dict keeps its table
        self._evicted += dropped
        return dropped

    def sweep(self) -> int:
        """Forget every idle key; how many. About 0.3 us a key, others get the lock every 256 keys."""
        dropped = self._examine_all()
        with self._lock:
            if not self._old:
                self._begin_sweep()
        return dropped + self._examine_all()

    def _examine_all(self) -> int:
        dropped = 0
        for _ in range(0, len(self._old), 256):
            with self._lock:
                dropped += self._examine(256, self._advance(self._clock()))
        return dropped

    def view(self, key: Hashable) -> TokenBucket:
        """The bucket of `key` now; a stranger's is the one it would start with."""
        with self._lock:
            now = self._advance(self._clock())
            arrival = self._young.get(key, self._old.get(key, self._floor))
            tokens = self._burst - max(0.0, arrival - now)
            return TokenBucket(max(0.0, tokens), self._latest, self._rate)

    def __len__(self) -> int:
        with self._lock:
            return len(self._young) + len(self._old)

    def gauges(self) -> dict[str, float]:
        return gauges_of(self._admitted, self._rejected, keys=len(self), evicted=self._evicted, overflow=self._overflow)

    def after_fork(self) -> None:
        self._lock = threading.Lock()


def gauges_of(admitted: int, rejected: int, *, keys: int, evicted: int, overflow: int = 0) -> dict[str, float]:
    """The gauges of a limiter from its counts."""
    return {
        "admitted": float(admitted),
        "rejected": float(rejected),
        "rejection_rate": rejected / (admitted + rejected) if rejected else 0.0,
        "keys": float(keys),
        "evicted": float(evicted),
        "overflow": float(overflow),
    }


RATE_LIMIT: Switch[RateLimiter] = Switch("rate_limit", off=Unlimited, on=GcraLimiter)
