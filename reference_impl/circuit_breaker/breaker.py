"""A circuit breaker: what keeps failing is left alone for a while, then tried with care.

Three laws. A result counts only in the state it was permitted in: every change of state begins a new
generation, and permits of earlier ones are void. A half-open breaker never has more than half_open_max_calls
permits out, and each comes back by result, by cancellation or at its deadline. No lock is held while the
protected call or a listener runs.
"""

from __future__ import annotations

import enum
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from reference_impl import forks
from reference_impl.settings import SettingsError, count, not_negative, ordered, positive

C = TypeVar("C")
Errors = tuple[type[BaseException], ...]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a transport to a peer is given up, for how long, and how it is tried again.

    failure_threshold: failures that open the breaker. Default 5: more than one unlucky dial with its retries.
    window: calls among which the failures are counted; 0, the default, wants them in a row, which needs no
        bookkeeping while all is well. At least failure_threshold otherwise.
    timeout: seconds open before the first trial. Default 1: a restarted node is back within about that.
    timeout_growth: factor on the open time for each trial that fails, >= 1. Default 2, the usual doubling.
    max_timeout: longest open time, and longest pause between retries, in seconds. Default 30: the
        longest a recovered peer waits to be noticed.
    jitter: share by which an open time or a pause is shortened at random, 0 to 1. Default 0.1: enough that
        dialers that saw the same crash do not come back in the same instant.
    half_open_max_calls: trials at a time while half-open. Default 1: a sick peer is asked by one caller only.
    success_threshold: successful trials that close the breaker. Default 2: one may be luck.
    trial_timeout: seconds after which a trial that was never heard of loses its permit. Default 30: longer
        than any connect and handshake timeout, so that only lost callers lose it.
    max_keys: breakers kept, one per (peer, transport) that failed lately. Default 10,000: about 16 MB.
    retries: further rounds over a peer's transports when all failed. Default 2: three tries, the usual.
    backoff: seconds before the first retry, doubled for each further one. Default 0.05.
    """

    failure_threshold: int = 5
    window: int = 0
    timeout: float = 1.0
    timeout_growth: float = 2.0
    max_timeout: float = 30.0
    jitter: float = 0.1
    half_open_max_calls: int = 1
    success_threshold: int = 2
    trial_timeout: float = 30.0
    max_keys: int = 10_000
    retries: int = 2
    backoff: float = 0.05

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name in ("failure_threshold", "half_open_max_calls", "success_threshold", "max_keys"):
            count(owner, name, getattr(self, name))
        for name in ("window", "retries"):
            count(owner, name, getattr(self, name), least=0)
        for name in ("timeout", "timeout_growth", "max_timeout", "trial_timeout"):
            positive(owner, name, getattr(self, name))
        for name in ("jitter", "backoff"):
            not_negative(owner, name, getattr(self, name))
        if self.window:
            ordered(owner, "failure_threshold", self.failure_threshold, "window", self.window)
        ordered(owner, "timeout", self.timeout, "max_timeout", self.max_timeout)
        if self.timeout_growth < 1.0:
            raise SettingsError(f"{owner}.timeout_growth is {self.timeout_growth!r}; expected a number >= 1")
        if self.jitter > 1.0:
            raise SettingsError(f"{owner}.jitter is {self.jitter!r}; expected a number from 0 to 1")


class CircuitState(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitOpen(ConnectionError):
    """Not attempted: the breaker is open, or half-open with all its trials out."""

    @property
    def retry_after(self) -> float:
        """Seconds until an attempt may be permitted."""
        return float(self.args[0])

    def __str__(self) -> str:
        return f"circuit open, retry in {self.retry_after:.3f} s"

    def __repr__(self) -> str:
        return "CircuitOpen()"  # without the time: load generators count failures by this


@dataclass(frozen=True, slots=True)
class Transition:
    """A breaker's change of state `at` a reading of its clock (s); `generation` counts its changes."""

    key: Hashable
    generation: int
    before: CircuitState
    after: CircuitState
    at: float


Listener = Callable[[Transition], None]


class Permit:
    """Leave to make one call: shared by all of a closed generation, which began at `since`; a trial's is its own."""

    __slots__ = ("deadline", "generation", "pending", "since")

    def __init__(self, generation: int, *, deadline: float = math.inf, since: float = -math.inf) -> None:
        self.generation = generation
        self.deadline = deadline
        self.since = since
        self.pending = True

    @property
    def trial(self) -> bool:
        return self.deadline < math.inf


class CircuitBreaker:
    """One breaker. `call` is the plain way; `acquire` with `succeeded`, `failed` or `released` the long one.

    `failures` are the exceptions that count as failure; `answers` those, tested first, by which a healthy
    peer says no (rejected, rate limited) and which count as success. Every other exception, cancellation and
    KeyboardInterrupt among them, says nothing about the peer and only returns the permit.

    `kept`: somebody keeps many of these and calls `after_fork` for them. A forked child goes on in the state of its
    parent; trials of the parent's other threads come back at their deadline, and a transition they were about to tell
    may reach the child's listeners not at all, or some of them.
    """

    def __init__(
        self, settings: BreakerSettings, clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None, *, key: Hashable = None, listeners: Iterable[Listener] = (),
        failures: Errors = (OSError,), answers: Errors = (), kept: bool = False,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._clock = clock
        self._rng = rng or random.Random()
        self._key = key
        self._listeners = tuple(listeners)
        self._failures, self._answers = failures, answers
        self.after_fork()
        if not kept:
            forks.join(self)
        self._untold: list[Transition] = []
        self._generation = 0
        self._state = CircuitState.CLOSED
        self._closed: Permit | None = Permit(0)  # None unless closed: all that a healthy call looks at
        self._outcomes = self._no_outcomes()
        self._trials: set[Permit] = set()
        self._successes = 0
        self._no_permit_before = -math.inf
        self._open_for = settings.timeout
        self._active_until = -math.inf
        self.rejected = 0

    @property
    def state(self) -> CircuitState:
        return self._state

    def call(self, function: Callable[..., C], *args: Any) -> C:
        """`function(*args)`, or CircuitOpen without calling it."""
        permit = self._closed
        if permit is None:
            permit = self.acquire()
        try:
            result = function(*args)
        except BaseException as error:
            self.raised(permit, error)
            raise
        if self._outcomes or permit is not self._closed:
            self.succeeded(permit)
        return result

    def acquire(self) -> Permit:
        """Leave to make one call; CircuitOpen with retry_after when there is none."""
        permit = self._closed
        if permit is not None:
            return permit
        now = self._clock()
        earliest = self._no_permit_before
        if now < earliest:
            self.rejected += 1
            raise CircuitOpen(earliest - now)
        with self._lock:
            permit = self._closed or self._lease(now)
        self._tell()
        if permit is None:
            self.rejected += 1
            raise CircuitOpen(max(0.0, self._no_permit_before - now))
        return permit

    def succeeded(self, permit: Permit, *, proven: bool = True) -> None:
        """The permitted call worked. Not `proven`: what the peer is needed for is still to be seen, and if that fails
        first, the breaker opens for longer than the last time.
        """
        if permit is self._closed:
            outcomes = self._outcomes
            self._open_for = self._settings.timeout
            if not self._settings.window:
                outcomes.clear()
            elif outcomes:
                outcomes.append(False)
            return
        now = self._clock()
        with self._lock:
            if self._take_back(permit):
                self._successes += 1
                if self._successes >= self._settings.success_threshold:
                    self._close(now, proven)
        self._tell()

    def failed(self, permit: Permit) -> None:
        """The permitted call failed, in a way that speaks against the peer."""
        now = self._clock()
        with self._lock:
            if permit is self._closed:
                self._outcomes.append(True)
                self._active_until = now
                if self._outcomes.count(True) >= self._settings.failure_threshold:
                    self._open(now)
            elif self._take_back(permit):
                self._open(now)
        self._tell()

    def released(self, permit: Permit) -> None:
        """The permitted call was cancelled, or ended in a way that says nothing about the peer."""
        if permit.trial:
            with self._lock:
                self._take_back(permit)

    def raised(self, permit: Permit, error: BaseException) -> None:
        """The permitted call ended by `error`: one of the three above."""
        if isinstance(error, self._answers):
            self.succeeded(permit)
        elif isinstance(error, self._failures) and not isinstance(error, CircuitOpen):
            self.failed(permit)
        else:
            self.released(permit)

    def report(self, worked: bool, since: float = math.inf) -> None:
        """The result of something nobody asked a permit for; it counts only while closed, if it began in this state.

        `since`: when it began, by the breaker's clock. Without it, it counts as begun just now.
        """
        permit = self._closed
        if permit is not None and since >= permit.since:
            (self.succeeded if worked else self.failed)(permit)

    def expendable(self, now: float, *, pressed: bool = False) -> bool:
        """Whether little is lost by forgetting this breaker: it is clean and has never been open, or nobody used it for
        max_timeout. One that has been open knows which results are from before.

        When `pressed` for room, what a closed breaker remembers is little enough.
        """
        idle = now - self._active_until >= self._settings.max_timeout
        clean = not (self._outcomes or self._generation)
        return idle or (self._closed is not None and (pressed or clean))

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._telling = threading.Lock()

    # What follows runs under the lock, `_tell` excepted.

    def _lease(self, now: float) -> Permit | None:
        """A trial's permit, None when all are out. Begins the half-open state when the open time is over."""
        if self._state is CircuitState.OPEN:
            if now < self._no_permit_before:
                return None
            self._trials, self._successes = set(), 0
            self._change(CircuitState.HALF_OPEN, now)
        if len(self._trials) >= self._settings.half_open_max_calls:
            self._trials = {trial for trial in self._trials if trial.deadline > now}
        if len(self._trials) >= self._settings.half_open_max_calls:
            self._no_permit_before = min(trial.deadline for trial in self._trials)
            return None
        permit = Permit(self._generation, deadline=now + self._settings.trial_timeout)
        self._trials.add(permit)
        self._active_until = permit.deadline
        return permit

    def _take_back(self, permit: Permit) -> bool:
        """End a trial; False when its result does not count: an earlier state's, or told twice.

        A trial past its deadline has lost its permit, but its result still speaks about this state.
        """
        if permit.generation != self._generation or not permit.pending:
            return False
        permit.pending = False
        self._trials.discard(permit)
        self._no_permit_before = -math.inf
        return True

    def _open(self, now: float) -> None:
        open_for = self._open_for * (1.0 - self._settings.jitter * self._rng.random())
        self._open_for = min(self._settings.max_timeout, self._open_for * self._settings.timeout_growth)
        self._no_permit_before = self._active_until = now + open_for
        self._closed = None
        self._outcomes = self._no_outcomes()
        self._change(CircuitState.OPEN, now)

    def _close(self, now: float, proven: bool) -> None:
        if proven:
            self._open_for = self._settings.timeout
        self._change(CircuitState.CLOSED, now)
        self._closed = Permit(self._generation, since=now)

    def _change(self, after: CircuitState, now: float) -> None:
        self._generation += 1
        if self._listeners:
            self._untold.append(Transition(self._key, self._generation, self._state, after, now))
        self._state = after

    def _no_outcomes(self) -> deque[bool]:
        """The last outcomes while closed (True: failed), from the first failure on; empty if none."""
        return deque(maxlen=self._settings.window or self._settings.failure_threshold)

    def _tell(self) -> None:
        """Tell listeners what is untold, in order: one caller at a time tells, for all the others too."""
        telling = self._telling  # a listener may fork, and then there is another one in the child
        while self._untold and telling.acquire(blocking=False):
            try:
                while self._untold:
                    transition = self._untold.pop(0)
                    for listener in self._listeners:
                        try:
                            listener(transition)
                        except Exception:
                            _log.exception("listener %r failed on %r", listener, transition)
            finally:
                telling.release()
