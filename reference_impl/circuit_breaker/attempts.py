"""Room 4, circuit breaker: how a peer with several transports is reached when some of them fail.

The off twin waits for every failure and tries again; the on twin keeps a breaker (`breaker.py`) for each
(peer, transport) that failed lately and skips the open ones, so that a dead transport costs nothing. Both try
the transports in the same order, as often, with the same pauses.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

from reference_impl import forks
from reference_impl.circuit_breaker.breaker import (
    BreakerSettings,
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    Errors,
    Listener,
    Permit,
    Transition,
)
from reference_impl.optimizations import Switch

C = TypeVar("C")

TRANSITIONS = ("closed_to_open", "open_to_half_open", "half_open_to_open", "half_open_to_closed")


class Attempts(Protocol):
    """How the dialer reaches a peer that has several transports, and what it learns from each use.

    A key is (peer id, transport name); keys come in the peer's order of preference. `since`: when a request began, by
    the clock of the attempts; without it, just now.
    """

    def connect(self, keys: Sequence[Hashable], attempt: Callable[[Hashable], C]) -> C:
        """A connection from the first transport that gives one.

        Raises the last attempt's error when none did, CircuitOpen when nothing was attempted because every
        transport is open. What is no failure (the peer's own refusal, cancellation, a bug) goes straight up.
        """

    def succeeded(self, key: Hashable, since: float = math.inf) -> None:
        """A request over an established connection worked (called once per lease that made one)."""

    def failed(self, key: Hashable, since: float = math.inf) -> None:
        """A request over an established connection broke (no application error, no cancellation)."""

    def sweep(self) -> int:
        """Forget the breakers that are idle, or clean and never were open; how many."""

    def gauges(self) -> dict[str, float]:
        """attempts, retries (rounds), rejected (transports skipped), open, half_open, keys, evicted,
        untracked, and the number of transitions of each kind."""


class FixedRetry:
    """Off: transports in fixed order, all again after a growing pause; each failure is waited for."""

    def __init__(
        self, settings: BreakerSettings, clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None, sleep: Callable[[float], None] | None = None, *,
        failures: Errors = (OSError,), answers: Errors = (),
    ) -> None:  # fmt: skip
        self._settings = settings
        self._rng = rng or random.Random()
        self._sleep = sleep or time.sleep  # not a default: gevent may patch it after this module is loaded
        self._failures, self._answers = failures, answers
        self._asked = self._retries = self._rejected = 0

    def connect(self, keys: Sequence[Hashable], attempt: Callable[[Hashable], C]) -> C:
        if not keys:
            raise ValueError("keys is empty; expected at least one transport")
        last: BaseException = CircuitOpen(math.inf)
        try:
            for again, pause in enumerate(self._pauses()):
                if again:
                    self._retries += 1
                    self._sleep(pause)
                tried = False
                for key in keys:
                    self._asked += 1
                    try:
                        return attempt(key)
                    except CircuitOpen as error:
                        self._rejected += 1
                        if isinstance(last, CircuitOpen) and error.retry_after < last.retry_after:
                            last = error
                    except self._failures as error:
                        if isinstance(error, self._answers):
                            raise
                        tried, last = True, error
                if not tried:
                    break
            raise last
        finally:
            del last  # its traceback holds this frame: leave the collector no cycle

    def _pauses(self) -> Iterator[float]:
        """Seconds before each round: none, then growing ones."""
        yield 0.0
        pause = self._settings.backoff
        for _ in range(self._settings.retries):
            yield pause * (1.0 - self._settings.jitter * self._rng.random())
            pause = min(2.0 * pause, self._settings.max_timeout)

    def succeeded(self, key: Hashable, since: float = math.inf) -> None:
        pass

    def failed(self, key: Hashable, since: float = math.inf) -> None:
        pass

    def sweep(self) -> int:
        return 0

    def gauges(self) -> dict[str, float]:
        counted = dict.fromkeys(("open", "half_open", "keys", "evicted", "untracked", *TRANSITIONS), 0.0)
        counted["attempts"] = float(self._asked - self._rejected)
        counted["retries"] = float(self._retries)
        counted["rejected"] = float(self._rejected)
        return counted


class CircuitBreakers:
    """On: the same order and retries, with a breaker for each key that failed lately.

    A key without a breaker is closed and clean: healthy peers cost nothing. While closed, a connection
    clears no failures, a request does: a transport that accepts and then breaks is given up too. A full map
    forgets closed and idle breakers, those that failed longest ago first; a key that fails while all breakers
    kept are open stays untracked, that is, it is treated as the off side would.
    """

    def __init__(
        self, settings: BreakerSettings, clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None, sleep: Callable[[float], None] | None = None, *,
        failures: Errors = (OSError,), answers: Errors = (), listeners: Iterable[Listener] = (),
    ) -> None:  # fmt: skip
        rng = rng or random.Random()
        self._clock, self._max_keys = clock, settings.max_keys
        self._failures, self._answers = failures, answers
        self._retry = FixedRetry(settings, clock, rng, sleep, failures=failures, answers=answers)
        self._new = partial(
            CircuitBreaker, settings, clock, rng,
            listeners=(self._count, *listeners), failures=failures, answers=answers, kept=True,
        )  # fmt: skip
        self._lock = threading.Lock()
        self._breakers: OrderedDict[Hashable, CircuitBreaker] = OrderedDict()  # last failed last
        self._counts = dict.fromkeys(("evicted", "untracked", *TRANSITIONS), 0)
        forks.join(self)

    def connect(self, keys: Sequence[Hashable], attempt: Callable[[Hashable], C]) -> C:
        return self._retry.connect(keys, lambda key: self._through(key, attempt))

    def _through(self, key: Hashable, attempt: Callable[[Hashable], C]) -> C:
        breaker = self._breakers.get(key)
        if breaker is not None and (permit := breaker.acquire()).trial:
            return self._try(key, attempt, breaker, permit)
        began = self._clock()
        try:
            return attempt(key)
        except self._answers:
            self.succeeded(key, began)
            raise
        except self._failures as error:
            if not isinstance(error, CircuitOpen):
                self.failed(key, began)  # by the key: a closed breaker may have been forgotten meanwhile
            raise

    def _try(self, key: Hashable, attempt: Callable[[Hashable], C], breaker: CircuitBreaker, permit: Permit) -> C:
        """The trial that `permit` allows."""
        try:
            connection = attempt(key)
        except BaseException as error:
            breaker.raised(permit, error)
            if isinstance(error, self._failures) and not isinstance(error, self._answers):
                with self._lock:
                    if key in self._breakers:
                        self._breakers.move_to_end(key)
            raise
        breaker.succeeded(permit, proven=False)
        return connection

    def succeeded(self, key: Hashable, since: float = math.inf) -> None:
        breaker = self._breakers.get(key)
        if breaker is not None:
            breaker.report(True, since)

    def failed(self, key: Hashable, since: float = math.inf) -> None:
        with self._lock:
            breaker = self._breakers.get(key)
            if breaker is not None:
                self._breakers.move_to_end(key)
            elif self._make_room():
                breaker = self._breakers[key] = self._new(key=key)
            else:
                self._counts["untracked"] += 1
        if breaker is not None:
            breaker.report(False, since)

    def _make_room(self) -> bool:
        """Whether there is place for one more breaker, after forgetting an old one if need be. O(1)."""
        if len(self._breakers) < self._max_keys:
            return True
        now = self._clock()
        for _ in range(min(8, len(self._breakers))):
            oldest = next(iter(self._breakers))
            if self._breakers[oldest].expendable(now, pressed=True):
                del self._breakers[oldest]
                self._counts["evicted"] += 1
                return True
            self._breakers.move_to_end(oldest)
        return False

    def sweep(self) -> int:
        with self._lock:
            now = self._clock()
            kept = OrderedDict(item for item in self._breakers.items() if not item[1].expendable(now))
            forgotten = len(self._breakers) - len(kept)
            self._breakers = kept  # a new one: an emptied dict keeps its table
            self._counts["evicted"] += forgotten
        return forgotten

    def state(self, key: Hashable) -> CircuitState:
        """Where the key's breaker stands; one that is not kept is closed."""
        breaker = self._breakers.get(key)
        return CircuitState.CLOSED if breaker is None else breaker.state

    def _count(self, transition: Transition) -> None:
        with self._lock:
            self._counts[f"{transition.before.value}_to_{transition.after.value}"] += 1

    def gauges(self) -> dict[str, float]:
        with self._lock:
            states = Counter(breaker.state for breaker in self._breakers.values())
            kept = {
                "open": states[CircuitState.OPEN],
                "half_open": states[CircuitState.HALF_OPEN],
                "keys": len(self._breakers),
            }
            counted = self._counts | kept
        return self._retry.gauges() | {name: float(value) for name, value in counted.items()}

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        for breaker in self._breakers.values():
            breaker.after_fork()


CIRCUIT_BREAKER: Switch[Attempts] = Switch("circuit_breaker", off=FixedRetry, on=CircuitBreakers)
