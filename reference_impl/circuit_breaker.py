"""Room 4, circuit breaker. (docstring: laws of the room)"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, TypeVar

C = TypeVar("C")

# STUB - interface agreed with the dialer; keep these names.


class Attempts(Protocol):
    """How the dialer reaches a peer that has several transports, and what it learns from each use.

    A key is (peer id, transport name); keys come in the peer's order of preference.
    """

    def connect(self, keys: Sequence[Hashable], attempt: Callable[[Hashable], C]) -> C:
        """A connection from the first transport that gives one.

        Off (FixedRetry): fixed order, bounded retry with backoff over all of them, every failure waited for.
        On (CircuitBreakers): open transports are skipped; CircuitOpen (with retry_after) when all are.
        Raises the last attempt's error when none succeeded.
        """

    def succeeded(self, key: Hashable) -> None:
        """A request over an established connection worked (called once per lease: keep it ~100 ns)."""

    def failed(self, key: Hashable) -> None:
        """A request over an established connection broke (not an application error)."""

    def sweep(self) -> int: ...
    def gauges(self) -> dict[str, float]:
        """transitions by kind, rejected, open, half_open, keys ..."""


# Constructor of both twins: Twin(settings: BreakerSettings, clock=time.monotonic, rng: random.Random | None = None, sleep=time.sleep)
# CIRCUIT_BREAKER: Switch[Attempts] = Switch("circuit_breaker", off=FixedRetry, on=CircuitBreakers)
# The single breaker is `CircuitBreaker` with call(function, *args) and the permit-level API beneath it.
