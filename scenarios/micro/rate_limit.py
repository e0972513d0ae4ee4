"""Rate limiting: what it costs to ask whether a key may go on.

`off` is a first day's limiter (dicts under one lock), for the overhead; the off side of studies, which limits nothing,
stands beside it as `unlimited`. Keys are made beforehand.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from reference_impl.rate_limit import GcraLimiter, RateLimitSettings, Unlimited
from reference_impl.rate_limit.locked_buckets import LockedBuckets
from scenarios.micro.suite import TURNS, Builder, Case, Goal, Room, Setup, Timed, bytes_per, each, in_threads, main

MANY = 100_000
ROOMY = RateLimitSettings(max_requests_per_second=1e6, burst_size=10**9, max_keys=MANY)
"""Admits whatever a benchmark asks for."""
TIGHT = RateLimitSettings(max_requests_per_second=1e-6, burst_size=1)
Check = Callable[[Any], object]


def keys(count: int) -> list[bytes]:
    """Peer ids in an order that has nothing to do with where they lie in memory."""
    source = random.Random(count)
    made = [source.randbytes(32) for _ in range(count)]
    source.shuffle(made)
    return made


def _ours(twin: Callable[..., Any], settings: RateLimitSettings) -> Check:
    check: Check = twin(settings).check
    return check


def _token_bucket(rate: float, burst: int) -> Check:
    # A token bucket a key: two calls to its storage for each check, no lock (a race may admit twice), and its bytes or
    # str keys are never forgotten while they are idle.
    import token_bucket

    limiter = token_bucket.Limiter(rate, burst, token_bucket.MemoryStorage())
    check: Check = limiter.consume
    return check


def _limits(amount: int) -> Check:
    # Its sliding window counter: approximate (two weighted fixed windows), expired by a background thread; keys are
    # str, and each hit locks. Its own token bucket needs Redis.
    from limits import RateLimitItemPerHour
    from limits.storage import MemoryStorage
    from limits.strategies import SlidingWindowCounterRateLimiter

    limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
    item, hit = RateLimitItemPerHour(amount), limiter.hit
    return lambda key: hit(item, key)


def _limits_keys(count: int) -> list[str]:
    return [key.hex() for key in keys(count)]


def _asked(check: Callable[[], Check], some: Callable[[], list[Any]]) -> Builder:
    def build(setup: Setup) -> Timed:
        ask, chosen = check(), some()
        for key in chosen:
            ask(key)

        def work(asked: Iterator[Any]) -> None:
            for key in asked:
                ask(key)

        return each(chosen, work)

    return build


def _threads(check: Callable[[], Check], some: Callable[[], list[Any]]) -> Builder:
    def build(setup: Setup) -> Timed:
        ask, key = check(), some()[0]

        def make(number: int) -> Callable[[int], object]:
            def work(loops: int) -> None:
                for _ in range(loops):
                    ask(key)

            return work

        return in_threads(setup.threads, make)

    return build


def _aiolimiter(setup: Setup) -> Timed:
    # One leaky bucket for one key, for one event loop; waits where the others refuse, forgets nothing by itself.
    from aiolimiter import AsyncLimiter

    async def work(loops: int) -> float:
        limiter = AsyncLimiter(1e12, 1.0)
        began = time.perf_counter()
        for _ in range(loops):
            await limiter.acquire()
        return time.perf_counter() - began

    return lambda loops: asyncio.run(work(loops))


def _memory(check: Callable[[], Check], some: Callable[[int], list[Any]]) -> Builder:
    def build(setup: Setup) -> Timed:
        chosen = some(MANY)

        def fill(count: int) -> Check:
            ask = check()
            for key in chosen[:count]:
                ask(key)
            return ask

        return bytes_per(MANY, fill)

    return build


def one() -> int:
    """A single key."""
    return 1


def many() -> int:
    """So many that they leave the caches."""
    return MANY


def _case(
    name: str,
    how: Callable[..., Builder],
    count: Callable[[], int],
    *goals: Goal,
    aside: dict[str, Builder] | None = None,
) -> Case:
    return Case(
        name,
        {
            "off": how(lambda: _ours(LockedBuckets, ROOMY), lambda: keys(count())),
            "unlimited": how(lambda: _ours(Unlimited, ROOMY), lambda: keys(count())),
            "on": how(lambda: _ours(GcraLimiter, ROOMY), lambda: keys(count())),
            "token-bucket": how(lambda: _token_bucket(1e9, 10**12), lambda: keys(count())),
            "limits": how(lambda: _limits(10**12), lambda: _limits_keys(count())),
            **(aside or {}),
        },
        goals,
        weight=TURNS if how is _threads else 1.0,
    )


REJECTED: dict[str, Builder] = {
    "off": _asked(lambda: _ours(LockedBuckets, TIGHT), lambda: keys(1)),
    "on": _asked(lambda: _ours(GcraLimiter, TIGHT), lambda: keys(1)),
    "token-bucket": _asked(lambda: _token_bucket(math.ulp(1.0), 1), lambda: keys(1)),
    "limits": _asked(lambda: _limits(1), lambda: _limits_keys(1)),
}
MEMORY: dict[str, Builder] = {
    "off": _memory(lambda: _ours(LockedBuckets, ROOMY), keys),
    "on": _memory(lambda: _ours(GcraLimiter, ROOMY), keys),
    "token-bucket": _memory(lambda: _token_bucket(1e9, 10**12), keys),
    "limits": _memory(lambda: _limits(10**12), _limits_keys),
}
ROOM = Room(
    "rate_limit",
    __doc__,
    (
        _case(
            "check, one key", _asked, one, Goal(350 / 443, "token-bucket", "350 ns where token-bucket takes 443"),
            aside={"aiolimiter": _aiolimiter},
        ),
        _case(
            "check, 100,000 keys", _asked, many,
            Goal(650 / 1120, "token-bucket", "650 ns where token-bucket takes 1,120"),
        ),
        Case("check, rejected", REJECTED),
        _case("check, threads", _threads, one),
        Case(
            "memory of a key, 100,000 keys", MEMORY,
            (Goal(80, why="80 B"), Goal(80 / 166, "token-bucket", "80 B where token-bucket takes 166")), "byte",
        ),
    ),
    needs={"token-bucket": "token_bucket", "limits": "limits", "aiolimiter": "aiolimiter"},
)  # fmt: skip

if __name__ == "__main__":
    main(ROOM)
