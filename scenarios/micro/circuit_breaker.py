"""Circuit breaking: what a breaker adds to a call that works, and what a refusal costs.

"Over the bare call": the same function is called directly in the same stretch, and the difference is the value.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import Any

from reference_impl.circuit_breaker import CIRCUIT_BREAKER, BreakerSettings, CircuitBreaker, CircuitOpen
from scenarios.micro.suite import Builder, Case, Goal, Room, Setup, Timed, bytes_per, each, main

KEY = (b"peer", "tcp")
LONG = 3600.0
WINDOW = 100
REJECTS = 100_000


def healthy() -> None:
    """The protected call."""


def broken() -> None:
    """A protected call that fails."""
    raise OSError("down")


Guarded = Callable[[Callable[[], None]], Callable[[], object]]
"""Gives a function the protection of one breaker, the same for all functions."""


def _over_bare(breaker: Callable[[], Guarded]) -> Builder:
    def build(setup: Setup) -> Timed:
        call = breaker()(healthy)

        def timed(loops: int) -> float:
            began = perf_counter()
            for _ in range(loops):
                healthy()
            between = perf_counter()
            for _ in range(loops):
                call()
            return max(1e-9, (perf_counter() - between) - (between - began))

        return timed

    return build


def _rejecting(breaker: Callable[[], Guarded], refusal: Callable[[], type[Exception]]) -> Builder:
    def build(setup: Setup) -> Timed:
        call, refused = _opened(breaker), refusal()

        def work(times: Iterator[None]) -> None:
            for _ in times:
                try:  # noqa: SIM105 - suppress() is itself a call
                    call()
                except refused:
                    pass

        return each([None], work)

    return build


def _opened(breaker: Callable[[], Guarded]) -> Callable[[], object]:
    guarded = breaker()
    fail = guarded(broken)
    for _ in range(20):
        with suppress(Exception):  # the failures that open it, and the refusals afterwards
            fail()
    return guarded(healthy)


def _after_rejects(breaker: Callable[[], Guarded]) -> Builder:
    def build(setup: Setup) -> Timed:
        def reject(count: int) -> Callable[[], object]:
            call = _opened(breaker)
            for _ in range(REJECTS):
                with suppress(Exception):
                    call()
            return call

        return bytes_per(1, reject)

    return build


RANDOM = random.Random(1)  # shared by all breakers, as those of a dialer share theirs


def _ours() -> Guarded:
    breaker = CircuitBreaker(BreakerSettings(timeout=LONG, max_timeout=LONG), rng=RANDOM)
    return lambda function: partial(breaker.call, function)


def _ours_window() -> Guarded:
    # A failure in the window, so that every success has to be booked.
    breaker = CircuitBreaker(BreakerSettings(window=WINDOW), rng=RANDOM)
    breaker.failed(breaker.acquire())
    return lambda function: partial(breaker.call, function)


def _circuitbreaker() -> Guarded:
    # Failures in a row or by a predicate, no lock; while half-open it lets everybody through. No window, no growing
    # open time, no generations: a late result of an earlier state counts. Decorated, since only that looks whether it
    # is open.
    import circuitbreaker

    breaker: Guarded = circuitbreaker.CircuitBreaker(failure_threshold=5, recovery_timeout=LONG)
    return breaker


def _pybreaker() -> Guarded:
    # Failures in a row, listeners, its state behind a storage, a lock around every look at it.
    import pybreaker

    breaker: Guarded = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=LONG)
    return breaker


def _circuitbreaker_refusal() -> type[Exception]:
    import circuitbreaker

    refusal: type[Exception] = circuitbreaker.CircuitBreakerError
    return refusal


def _pybreaker_refusal() -> type[Exception]:
    import pybreaker

    refusal: type[Exception] = pybreaker.CircuitBreakerError
    return refusal


def _through(twin: Callable[..., Any]) -> Builder:
    def build(setup: Setup) -> Timed:
        attempts = twin(BreakerSettings())
        connect, succeeded, keys = attempts.connect, attempts.succeeded, [KEY]

        def work(times: Iterator[None]) -> None:
            for _ in times:
                connect(keys, _attempt)
                succeeded(KEY)

        return each([None], work)

    return build


def _attempt(key: object) -> None:
    return None


def _reported(twin: Callable[..., Any]) -> Builder:
    def build(setup: Setup) -> Timed:
        succeeded = twin(BreakerSettings()).succeeded

        def work(keys: Iterator[tuple[bytes, str]]) -> None:
            for key in keys:
                succeeded(key)

        return each([KEY], work)

    return build


TWINS = {"off": CIRCUIT_BREAKER.off, "on": CIRCUIT_BREAKER.on}
CLOSED = "closed call, over the bare call"
ROOM = Room(
    "circuit_breaker",
    __doc__,
    (
        Case(
            CLOSED,
            {key: _over_bare(call) for key, call in
             {"on": _ours, "circuitbreaker": _circuitbreaker, "pybreaker": _pybreaker}.items()},
            (Goal(120 / 541, "circuitbreaker", "120 ns where circuitbreaker takes 541"),),
        ),
        Case(
            "closed call with a 100-call window, over the bare call", {"on": _over_bare(_ours_window)},
            (Goal(350 / 541, "circuitbreaker", "350 ns where circuitbreaker takes 541, without a window", CLOSED),),
        ),
        Case(
            "open: a call refused",
            {
                "on": _rejecting(_ours, lambda: CircuitOpen),
                "circuitbreaker": _rejecting(_circuitbreaker, _circuitbreaker_refusal),
                "pybreaker": _rejecting(_pybreaker, _pybreaker_refusal),
            },
            (Goal(600 / 1071, "circuitbreaker", "600 ns where circuitbreaker takes 1,071"),),
        ),
        Case("dial a healthy peer, and one success", {key: _through(twin) for key, twin in TWINS.items()}),
        Case("report one success", {key: _reported(twin) for key, twin in TWINS.items()}),
        Case(
            "memory of a breaker after 100,000 refusals",
            {key: _after_rejects(call) for key, call in
             {"on": _ours, "circuitbreaker": _circuitbreaker, "pybreaker": _pybreaker}.items()},
            unit="byte",
        ),
    ),
    needs={"circuitbreaker": "circuitbreaker", "pybreaker": "pybreaker"},
)  # fmt: skip

if __name__ == "__main__":
    main(ROOM)
