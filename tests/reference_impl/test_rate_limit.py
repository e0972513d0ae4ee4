"""Rate limiting: the contract of the twins, the laws of the bucket, eviction, threads, floods."""

from __future__ import annotations

import dis
import gc
import math
import random
import subprocess
import sys
from collections.abc import Callable, Hashable
from fractions import Fraction
from typing import Any
from unittest.mock import MagicMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reference_impl.rate_limit import (
    RATE_LIMIT,
    GcraLimiter,
    RateLimiter,
    RateLimitSettings,
    TokenBucket,
    Unlimited,
)
from reference_impl.rate_limit.locked_buckets import LockedBuckets
from reference_impl.settings import SettingsError
from tests.clock import Clock
from tests.reference_impl.helpers import in_threads

Limiting = Callable[..., Any]
EVERY_TWIN = [Unlimited, GcraLimiter, LockedBuckets]
LIMITING = [GcraLimiter, LockedBuckets]


def limits(rate: float = 10.0, burst: int = 5, max_keys: int = 100, interval: float = 1.0) -> RateLimitSettings:
    return RateLimitSettings(rate, burst, max_keys, interval)


# Contract of every twin


@pytest.mark.parametrize("twin", EVERY_TWIN)
def test_a_stranger_is_admitted_and_the_gauges_are_there(twin: Limiting) -> None:
    limiter: RateLimiter = twin(limits(), Clock())
    assert limiter.check(b"peer") == 0.0
    assert {"rejected", "rejection_rate", "keys", "evicted", "overflow"} <= limiter.gauges().keys()
    assert limiter.gauges()["keys"] == len(limiter)
    assert limiter.sweep() == 0


def test_the_switch_picks_the_twins() -> None:
    assert RATE_LIMIT.pick(frozenset()) is Unlimited
    assert RATE_LIMIT.pick(frozenset({"rate_limit"})) is GcraLimiter


def test_off_lets_everything_in_and_remembers_nothing() -> None:
    limiter = Unlimited(limits(burst=1), Clock())
    assert [limiter.check("peer", n) for n in (1, 1, 10**9)] == [0.0, 0.0, 0.0]
    assert len(limiter) == 0


# Contract of the limiting twins


@pytest.mark.parametrize("twin", LIMITING)
@pytest.mark.parametrize("key", [b"peer", "10.0.0.1", 7, ("10.0.0.1", 443), Fraction(1, 3)])
def test_the_whole_burst_then_one_per_interval(twin: Limiting, key: Hashable) -> None:
    clock = Clock()
    limiter: RateLimiter = twin(limits(rate=10.0, burst=5), clock)
    assert [limiter.check(key) for _ in range(5)] == [0.0] * 5
    assert limiter.check(key) == pytest.approx(0.1)
    clock.now += 0.05
    assert limiter.check(key) == pytest.approx(0.05)
    clock.now += 0.05 + 1e-9
    assert limiter.check(key) == 0.0
    assert limiter.check(key) == pytest.approx(0.1)
    assert limiter.gauges()["admitted"] == 6
    assert limiter.gauges()["rejected"] == 3
    assert limiter.gauges()["rejection_rate"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("twin", LIMITING)
def test_more_than_the_burst_is_never_and_not_not_now(twin: Limiting) -> None:
    clock = Clock()
    limiter: RateLimiter = twin(limits(burst=5), clock)
    assert limiter.check("peer", 6) == math.inf
    assert limiter.check("peer", 10**400) == math.inf
    assert limiter.check("peer", 5) == 0.0  # the rejects consumed nothing
    assert limiter.check("peer", 5) == pytest.approx(0.5)
    assert limiter.check("peer", 6) == math.inf


@pytest.mark.parametrize("twin", LIMITING)
def test_a_reject_consumes_nothing(twin: Limiting) -> None:
    clock = Clock()
    limiter: RateLimiter = twin(limits(rate=10.0, burst=5), clock)
    assert limiter.check("peer", 3) == 0.0
    assert [limiter.check("peer", 4) for _ in range(100)] == [pytest.approx(0.2)] * 100
    assert limiter.check("peer", 2) == 0.0
    assert all(limiter.check("peer") > 0 for _ in range(100))
    clock.now += 0.1 + 1e-9
    assert limiter.check("peer") == 0.0


@pytest.mark.parametrize("twin", LIMITING)
def test_peers_do_not_share(twin: Limiting) -> None:
    limiter: RateLimiter = twin(limits(burst=5), Clock())
    while limiter.check("greedy") == 0.0:
        pass
    assert [limiter.check("modest") for _ in range(5)] == [0.0] * 5


@pytest.mark.parametrize("twin", LIMITING)
@pytest.mark.parametrize("n", [0, -1, math.nan])
def test_less_than_one_is_refused(twin: Limiting, n: float) -> None:
    limiter = twin(limits(), Clock())
    with pytest.raises(ValueError, match=r"n is .*expected a whole number >= 1"):
        limiter.check("peer", n)
    assert limiter.check("peer", 5) == 0.0


@pytest.mark.parametrize("twin", LIMITING)
def test_a_clock_that_goes_backwards_neither_grants_nor_robs(twin: Limiting) -> None:
    clock = Clock(1_000.0)
    limiter: RateLimiter = twin(limits(rate=10.0, burst=5), clock)
    assert [limiter.check("peer") for _ in range(2)] == [0.0] * 2
    clock.now = 10.0
    assert [limiter.check("peer") for _ in range(3)] == [0.0] * 3
    assert 0.0 < limiter.check("peer") < math.inf
    clock.now = 1_000.0
    assert limiter.check("peer") == pytest.approx(0.1)
    clock.now = 1_000.1 + 1e-9
    assert limiter.check("peer") == 0.0
    assert limiter.check("peer") > 0.0


@pytest.mark.parametrize("twin", LIMITING)
def test_a_sweep_forgets_full_buckets_only(twin: Limiting) -> None:
    clock = Clock()
    limiter: RateLimiter = twin(limits(rate=1.0, burst=5), clock)
    for key in range(50):
        limiter.check(key, 1 if key % 2 else 5)
    clock.now += 1.0 + 1e-9
    assert limiter.sweep() == 25
    assert len(limiter) == 25
    assert limiter.check(0, 5) == pytest.approx(4.0)
    assert limiter.check(1, 5) == 0.0
    clock.now += 10.0
    assert limiter.sweep() == 26
    assert len(limiter) == 0
    assert limiter.gauges()["evicted"] == 51


requests = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6), st.integers(0, 40)), min_size=1, max_size=60)


@pytest.mark.parametrize("twin", LIMITING)
@given(requests=requests, burst=st.integers(1, 6), rate=st.sampled_from([1.0, 3.0, 7.5, 1e4]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_window_admits_at_most_the_burst_and_the_rate(
    twin: Limiting, requests: list[tuple[int, int, int]], burst: int, rate: float
) -> None:
    clock = Clock(0.0)
    limiter: RateLimiter = twin(limits(rate, burst), clock)
    admitted: dict[int, list[tuple[float, int]]] = {}
    for key, n, ticks in requests:
        clock.now += ticks / (8 * rate)
        if limiter.check(key, n) == 0.0:
            admitted.setdefault(key, []).append((clock.now, n))
    for events in admitted.values():
        for first, (start, _) in enumerate(events):
            total = 0
            for now, n in events[first:]:
                total += n
                assert total <= burst + rate * (now - start) + 1e-6


@pytest.mark.parametrize("twin", LIMITING)
@given(
    start=st.floats(0, 1e9), rate=st.floats(1e-3, 1e6), burst=st.integers(1, 100), taken=st.integers(0, 100),
    n=st.integers(1, 100),
)  # fmt: skip
@settings(max_examples=150, deadline=None, derandomize=True)
def test_who_waits_as_long_as_told_is_admitted(
    twin: Limiting, start: float, rate: float, burst: int, taken: int, n: int
) -> None:
    clock = Clock(start)
    limiter: RateLimiter = twin(limits(rate, burst), clock)
    for _ in range(min(taken, burst)):
        assert limiter.check("peer") == 0.0
    wait = limiter.check("peer", n)
    assert (wait == math.inf) == (n > burst)
    if 0.0 < wait < math.inf:
        clock.now += wait
        assert limiter.check("peer", n) == 0.0


# What the on twin adds


def test_the_view_is_the_plan_s_token_bucket() -> None:
    clock = Clock(100.0)
    limiter = GcraLimiter(limits(rate=10.0, burst=5), clock)
    assert limiter.view("peer") == TokenBucket(tokens=5.0, last_refill=100.0, rate=10.0)
    limiter.check("peer", 4)
    assert limiter.view("peer").tokens == pytest.approx(1.0)
    clock.now += 0.15
    assert limiter.view("peer").tokens == pytest.approx(2.5)
    assert limiter.view("peer").last_refill == clock.now
    clock.now += 10.0
    assert limiter.view("peer").tokens == 5.0
    assert len(limiter) == 1  # looking is not asking


def test_strangers_push_idle_keys_out_without_a_call_to_sweep() -> None:
    clock = Clock()
    limiter = GcraLimiter(limits(rate=10.0, burst=1, max_keys=10_000, interval=1.0), clock)
    for key in range(20_000):
        clock.now += 0.001
        assert limiter.check(key) == 0.0
    # a key is idle 0.1 s (100 strangers) after its request, a sweep begins every 1,000 strangers
    assert len(limiter) <= 2_100
    assert limiter.gauges()["evicted"] == 20_000 - len(limiter)


def test_a_full_map_gives_an_idle_key_s_place_away_at_once() -> None:
    clock = Clock()
    limiter = GcraLimiter(limits(rate=1.0, burst=1, max_keys=8, interval=1e6), clock)
    for key in range(80):
        clock.now += 0.0 if key % 8 else 2.0
        assert limiter.check(key) == 0.0
    assert limiter.gauges()["overflow"] == 0
    assert limiter.gauges()["evicted"] == 72


def test_a_busy_key_survives_every_sweep_with_its_debt() -> None:
    clock = Clock()
    limiter = GcraLimiter(limits(rate=1.0, burst=100, max_keys=50, interval=0.01), clock)
    admitted = 0
    for stranger in range(5_000):
        clock.now += 0.001
        admitted += limiter.check("busy") == 0.0
        limiter.check(f"stranger {stranger}")
    assert admitted == 100 + 4  # 5 s, of which the first request saw 0.001


def test_a_full_map_serves_strangers_from_one_shared_bucket() -> None:
    clock = Clock()
    limiter = GcraLimiter(limits(rate=1.0, burst=5, max_keys=3), clock)
    for resident in "abc":
        assert limiter.check(resident, 4) == 0.0
    assert [limiter.check(stranger) for stranger in "defgh"] == [0.0] * 5
    assert limiter.check("i") == pytest.approx(1.0)
    assert limiter.gauges()["overflow"] == 5
    assert len(limiter) == 3
    assert [limiter.check(resident) for resident in "abc"] == [0.0] * 3  # residents are not touched
    clock.now += 1.0 + 1e-9
    assert limiter.check("i") == 0.0


def test_who_drank_from_the_shared_bucket_gets_no_second_one() -> None:
    clock = Clock()
    limiter = GcraLimiter(limits(rate=1.0, burst=5, max_keys=1), clock)
    assert limiter.check("resident") == 0.0
    assert limiter.check("late", 5) == 0.0  # all of the shared bucket
    clock.now += 1.0 + 1e-9  # the resident is idle now, its place free; "late" has refilled one token
    assert limiter.check("late", 2) > 0.0
    assert limiter.check("late") == 0.0
    assert "late" in limiter._young
    assert limiter.check("late") > 0.0


def test_an_evicted_key_does_not_come_back_full_when_the_clock_went_backwards() -> None:
    clock = Clock(1_000.0)
    limiter = GcraLimiter(limits(rate=1.0, burst=5, max_keys=10), clock)
    limiter.check("peer", 5)
    clock.now = 1_005.0 + 1e-9
    assert limiter.sweep() == 1
    assert limiter.check("peer", 5) == 0.0
    clock.now = 1_000.0
    assert limiter.sweep() == 0
    assert limiter.check("peer") > 0.0


class Tick:
    """A clock all threads push forward: every reading is a microsecond later, from 0 on."""

    def __init__(self) -> None:
        self._readings = iter(range(10**9))

    def __call__(self) -> float:
        return next(self._readings) * 1e-6


@pytest.mark.parametrize("twin", LIMITING)
@pytest.mark.parametrize("key", [b"peer", ("10.0.0.1", 443)])
def test_eight_threads_get_no_more_than_one(twin: Limiting, key: Hashable) -> None:
    clock = Tick()
    limiter: RateLimiter = twin(limits(rate=50_000.0, burst=100), clock)
    admitted = [0] * 8

    def work(index: int) -> None:
        for _ in range(5_000):
            admitted[index] += limiter.check(key) == 0.0

    in_threads(8, work)
    allowance = 100 + 50_000.0 * clock()
    assert allowance - 2 <= sum(admitted) <= allowance
    assert limiter.gauges()["admitted"] == sum(admitted)
    assert limiter.gauges()["rejected"] == 40_000 - sum(admitted)


def test_eight_threads_with_evictions_get_no_more_than_the_laws_allow() -> None:
    clock = Tick()
    rate, burst, max_keys = 2_000.0, 3, 20
    limiter = GcraLimiter(limits(rate, burst, max_keys, interval=1e-4), clock)
    admitted: list[dict[Hashable, int]] = [{} for _ in range(8)]

    def work(index: int) -> None:
        pick = random.Random(index)
        for turn in range(4_000):
            key: Hashable = turn // 200 * 10 + pick.randrange(20)  # keys come, stay a while and go
            n = 1 + (turn % 7 == 0)
            if limiter.check(key, n) == 0.0:
                admitted[index][key] = admitted[index].get(key, 0) + n
            if index == 0 and turn % 500 == 0:
                limiter.sweep()

    in_threads(8, work)
    allowance = burst + rate * clock()
    per_key = [sum(part.get(key, 0) for part in admitted) for key in range(220)]
    assert max(per_key) <= allowance
    assert sum(per_key) <= (max_keys + 1) * allowance
    assert len(limiter) <= max_keys
    assert limiter.gauges()["evicted"] > 0


def test_no_call_stands_between_reading_and_writing_a_bucket() -> None:
    """The section that goes without a lock must have no point where CPython switches threads."""
    names = [instruction.opname for instruction in _section(GcraLimiter.check)]
    assert len(names) > 30
    assert not [name for name in names if name.startswith(("CALL", "PRECALL", "JUMP_BACKWARD", "RESUME"))]


def _section(function: Callable[..., Any]) -> list[dis.Instruction]:
    """The instructions from the reading of `_young` to the write of the bucket."""
    instructions = list(dis.get_instructions(function))
    start = next(i for i, step in enumerate(instructions) if step.argval == "_young")
    end = next(i for i, step in enumerate(instructions) if step.opname == "STORE_SUBSCR")
    return instructions[start : end + 1]


def test_without_the_gil_every_check_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference_impl.rate_limit.limiter._ATOMIC", frozenset())
    limiter = GcraLimiter(limits(rate=1.0, burst=2), Clock())
    lock = MagicMock()
    monkeypatch.setattr(limiter, "_lock", lock)
    assert [limiter.check(b"peer") == 0.0 for _ in range(3)] == [True, True, False]
    assert lock.__enter__.call_count == lock.__exit__.call_count == 3


def test_a_million_one_shot_keys_stay_bounded_and_go_again() -> None:
    clock = Clock()
    limiter = GcraLimiter(limits(rate=100.0, burst=10, max_keys=20_000), clock)
    gc.collect()
    blocks = sys.getallocatedblocks()
    admitted = 0
    for key in range(1_000_000):
        admitted += limiter.check(key) == 0.0
        if key % 250_000 == 0:
            assert len(limiter) <= 20_000
            clock.now += 0.01
    assert len(limiter) == 20_000
    # the clock moved 0.04 s: who came first got a place and one request, the others shared one bucket
    assert admitted <= 20_001 * (10 + 100.0 * 0.04)
    assert limiter.gauges()["rejected"] == 1_000_000 - admitted
    clock.now += 1.0
    limiter.sweep()
    assert len(limiter) == 0
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 1_000
    assert sys.getsizeof(limiter._young) + sys.getsizeof(limiter._old) < 1_000


def test_a_key_costs_at_most_eighty_bytes_beside_itself() -> None:
    clock = Clock()
    limiter = GcraLimiter(limits(max_keys=100_000), clock)
    for key in range(100_000):
        limiter.check(key)
    assert len(limiter) == 100_000
    tables = sys.getsizeof(limiter._young) + sys.getsizeof(limiter._old)
    assert (tables + 100_000 * sys.getsizeof(1.0)) / 100_000 <= 80
    clock.now += 1_000.0
    assert limiter.sweep() == 100_000
    assert sys.getsizeof(limiter._young) + sys.getsizeof(limiter._old) < 1_000


class LimiterMachine(RuleBasedStateMachine):
    """Any order of requests, sweeps and clock steps, against buckets that are never forgotten."""

    KEYS = 8

    @initialize(
        rate=st.sampled_from([1.0, 8.0]), burst=st.integers(1, 5), max_keys=st.integers(1, 6),
        interval=st.sampled_from([0.125, 4.0]),
    )  # fmt: skip
    def start(self, rate: float, burst: int, max_keys: int, interval: float) -> None:
        self.rate, self.burst, self.max_keys = rate, burst, max_keys
        self.clock = Clock(0.0)
        self.limiter = GcraLimiter(limits(rate, burst, max_keys, interval), self.clock)
        self.roomy = GcraLimiter(limits(rate, burst, 1_000, interval), self.clock)
        self.latest = 0.0
        self.tokens = [Fraction(burst)] * self.KEYS  # that the law leaves each key of `limiter`
        self.roomy_tokens = [Fraction(burst)] * self.KEYS
        self.total = 0

    @rule(eighths=st.integers(1, 40))
    def time_passes(self, eighths: int) -> None:
        self.clock.now += eighths / 8
        self.limiter.view(0)  # both have read the clock: a peak nobody saw is no time
        self.roomy.view(0)
        if self.clock.now > self.latest:
            refill = Fraction(self.clock.now - self.latest) * Fraction(self.rate)
            self.tokens = [min(Fraction(self.burst), tokens + refill) for tokens in self.tokens]
            self.roomy_tokens = [min(Fraction(self.burst), tokens + refill) for tokens in self.roomy_tokens]
            self.latest = self.clock.now

    @rule(eighths=st.integers(1, 40))
    def the_clock_goes_backwards(self, eighths: int) -> None:
        self.clock.now -= eighths / 8

    @rule(key=st.integers(0, KEYS - 1), n=st.integers(1, 6))
    def ask(self, key: int, n: int) -> None:
        admitted = self.limiter.check(key, n) == 0.0
        assert admitted <= (self.tokens[key] >= n)  # refusing more is allowed: strangers share when it is full
        self.tokens[key] -= n * admitted
        self.total += n * admitted

    @rule(key=st.integers(0, KEYS - 1), n=st.integers(1, 6))
    def ask_where_there_is_room(self, key: int, n: int) -> None:
        admitted = self.roomy.check(key, n) == 0.0
        assert admitted == (self.roomy_tokens[key] >= n)  # with room for all keys the model is met exactly
        self.roomy_tokens[key] -= n * admitted

    @rule(key=st.integers(0, KEYS - 1), n=st.integers(1, 5))
    def ask_as_the_view_says(self, key: int, n: int) -> None:
        tokens = self.limiter.view(key).tokens
        assert tokens <= self.tokens[key]
        admitted = self.limiter.check(key, n) == 0.0
        assert admitted == (tokens >= n)
        self.tokens[key] -= n * admitted
        self.total += n * admitted

    @rule()
    def sweep(self) -> None:
        self.limiter.sweep()
        self.roomy.sweep()

    @precondition(lambda self: hasattr(self, "limiter"))
    @invariant()
    def the_laws_hold(self) -> None:
        assert len(self.limiter) <= self.max_keys
        assert self.total <= (self.max_keys + 1) * (self.burst + self.rate * self.latest)
        for key in range(self.KEYS):
            assert self.limiter.view(key).tokens <= self.burst


TestLimiterMachine = LimiterMachine.TestCase
TestLimiterMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None, derandomize=True)


# Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_requests_per_second", 0.0), ("max_requests_per_second", -1.0),
        ("max_requests_per_second", math.nan), ("max_requests_per_second", math.inf),
        ("max_requests_per_second", 1e7), ("max_requests_per_second", 1e-9), ("max_requests_per_second", "9"),
        ("burst_size", 0), ("burst_size", -3), ("burst_size", 1.5), ("burst_size", True), ("burst_size", 10**10),
        ("max_keys", 0), ("max_keys", math.nan), ("eviction_interval", 0.0), ("eviction_interval", math.nan),
    ],
)  # fmt: skip
def test_a_bad_setting_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"RateLimitSettings\.{name} is .*; expected "):
        RateLimitSettings(**{name: value})


def test_the_defaults_are_valid_and_frozen() -> None:
    defaults = RateLimitSettings()
    with pytest.raises(AttributeError):
        defaults.burst_size = 1  # type: ignore[misc]


def test_the_same_under_gevent() -> None:
    """The tests with threads again, in a fresh interpreter where threads are greenlets."""
    script = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import sys, pytest\n"
        "sys.exit(pytest.main([sys.argv[1], '-k', 'threads', '-p', 'no:cacheprovider']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, __file__], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
