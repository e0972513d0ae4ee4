"""Room 4, circuit breaker: how a peer is reached when some of its transports fail."""

from __future__ import annotations

from reference_impl.circuit_breaker.attempts import CIRCUIT_BREAKER, Attempts, CircuitBreakers, FixedRetry
from reference_impl.circuit_breaker.breaker import (
    BreakerSettings,
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    Transition,
)

__all__ = [
    "CIRCUIT_BREAKER",
    "Attempts",
    "BreakerSettings",
    "CircuitBreaker",
    "CircuitBreakers",
    "CircuitOpen",
    "CircuitState",
    "FixedRetry",
    "Transition",
]
