"""Room 3, rate limiting: what one key may ask for, and what all of them together."""

from __future__ import annotations

from reference_impl.rate_limit.limiter import (
    RATE_LIMIT,
    GcraLimiter,
    RateLimiter,
    RateLimitSettings,
    TokenBucket,
    Unlimited,
)

__all__ = [
    "RATE_LIMIT",
    "GcraLimiter",
    "RateLimitSettings",
    "RateLimiter",
    "TokenBucket",
    "Unlimited",
]
