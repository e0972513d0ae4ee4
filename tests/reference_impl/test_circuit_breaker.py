"""Circuit breaker: its states and permits, the contract of the twins, threads, floods."""

from __future__ import annotations

import gc
import itertools
import logging
import math
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from types import TracebackType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reference_impl.circuit_breaker import (
    CIRCUIT_BREAKER,
    BreakerSettings,
    CircuitBreaker,
    CircuitBreakers,
    CircuitOpen,
    CircuitState,
    FixedRetry,
    Transition,
)
from reference_impl.circuit_breaker.breaker import Permit
from reference_impl.settings import SettingsError
from tests.clock import Clock
from tests.reference_impl.helpers import in_threads

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
TWINS = [FixedRetry, CircuitBreakers]
KEYS = [("peer", "tcp"), ("peer", "tls")]
Twin = Callable[..., Any]


class Rejected(ConnectionError):
    """A healthy peer says no."""


def breaker_settings(**changes: Any) -> BreakerSettings:
    exact: dict[str, Any] = {"failure_threshold": 3, "timeout": 1.0, "jitter": 0.0, "success_threshold": 2}
    return BreakerSettings(**(exact | changes))


def make(clock: Callable[[], float] | None = None, **changes: Any) -> CircuitBreaker:
    return CircuitBreaker(breaker_settings(**changes), clock or Clock())


def fail(error: object = None) -> None:
    raise error if isinstance(error, BaseException) else OSError("down")


def fails(breaker: CircuitBreaker, times: int = 1, error: type[BaseException] = OSError) -> None:
    for _ in range(times):
        with pytest.raises(error):
            breaker.call(fail, error("down"))


def opened(clock: Clock, **changes: Any) -> CircuitBreaker:
    breaker = make(clock, **changes)
    fails(breaker, breaker._settings.failure_threshold)
    assert breaker.state is OPEN
    return breaker


def half_open(clock: Clock, **changes: Any) -> CircuitBreaker:
    """A breaker in the half-open state with all its permits in."""
    breaker = opened(clock, **changes)
    clock.now += breaker._settings.timeout
    breaker.released(breaker.acquire())
    assert breaker.state is HALF_OPEN
    return breaker


# One breaker


def test_a_closed_breaker_passes_arguments_results_and_errors() -> None:
    breaker = make()
    assert breaker.call(divmod, 7, 2) == (3, 1)
    error = OSError("this very one")
    with pytest.raises(OSError, match="this very one") as raised:
        breaker.call(fail, error)
    assert raised.value is error


def test_failures_in_a_row_open_it_and_a_success_begins_anew() -> None:
    breaker = make()
    fails(breaker, 2)
    breaker.call(int)
    fails(breaker, 2)
    assert breaker.state is CLOSED
    fails(breaker)
    assert breaker.state is OPEN


def test_open_it_does_not_call_and_says_when_to_retry() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 0.25
    called: list[int] = []
    with pytest.raises(CircuitOpen, match=r"circuit open, retry in 0\.750 s") as refused:
        breaker.call(called.append, 1)
    assert refused.value.retry_after == pytest.approx(0.75)
    assert not called
    assert breaker.rejected == 1
    assert pickle.loads(pickle.dumps(refused.value)).retry_after == refused.value.retry_after


def test_a_failure_within_the_window_counts_until_it_has_left() -> None:
    breaker = make(window=4)
    for outcomes, state in (("xoxo", CLOSED), ("oox", CLOSED), ("ox", CLOSED), ("x", OPEN)):
        for outcome in outcomes:
            breaker.call(int) if outcome == "o" else fails(breaker)
        assert breaker.state is state, outcomes


def test_successes_are_remembered_only_while_a_failure_is_within_the_window() -> None:
    breaker = make(window=4)
    for _ in range(10):
        breaker.report(worked=True)
    assert not breaker._outcomes


def test_enough_trials_close_it() -> None:
    clock = Clock()
    breaker = half_open(clock, success_threshold=2)
    breaker.call(int)
    assert breaker.state is HALF_OPEN
    breaker.call(int)
    assert breaker.state is CLOSED
    fails(breaker, 2)
    assert breaker.state is CLOSED  # what counted before it opened is forgotten


def test_one_failed_trial_opens_it_again_for_longer_up_to_the_limit() -> None:
    clock = Clock()
    breaker = opened(clock, timeout=1.0, timeout_growth=3.0, max_timeout=5.0)
    waits = []
    for _ in range(4):
        with pytest.raises(CircuitOpen) as refused:
            breaker.acquire()
        waits.append(refused.value.retry_after)
        clock.now += refused.value.retry_after
        fails(breaker)
    assert waits == pytest.approx([1.0, 3.0, 5.0, 5.0])
    clock.now += 5.0
    for _ in range(2):
        breaker.call(int)
    fails(breaker, 3)
    with pytest.raises(CircuitOpen) as refused:
        breaker.acquire()
    assert refused.value.retry_after == pytest.approx(1.0)  # closing forgave


def test_many_failed_trials_do_not_overflow_the_open_time() -> None:
    clock = Clock()
    breaker = opened(clock, timeout_growth=1e300, max_timeout=30.0)
    for _ in range(5):
        clock.now += 30.0
        fails(breaker)
    with pytest.raises(CircuitOpen) as refused:
        breaker.acquire()
    assert refused.value.retry_after == pytest.approx(30.0)


def test_jitter_shortens_the_open_time_and_spreads_it() -> None:
    waits = set()
    for seed in range(50):
        breaker = CircuitBreaker(breaker_settings(jitter=0.2, timeout=10.0), Clock(), random.Random(seed))
        fails(breaker, 3)
        with pytest.raises(CircuitOpen) as refused:
            breaker.acquire()
        waits.add(refused.value.retry_after)
    assert len(waits) > 40
    assert 8.0 < min(waits) < 8.5
    assert 9.5 < max(waits) <= 10.0


def test_half_open_gives_out_so_many_permits_and_no_more() -> None:
    clock = Clock()
    breaker = half_open(clock, half_open_max_calls=2, trial_timeout=10.0)
    first = breaker.acquire()
    clock.now += 1.0
    breaker.acquire()
    with pytest.raises(CircuitOpen) as refused:
        breaker.acquire()
    assert refused.value.retry_after == pytest.approx(9.0)  # when the first trial's permit comes back at the latest
    breaker.released(first)
    breaker.acquire()
    with pytest.raises(CircuitOpen):
        breaker.acquire()


def test_every_half_open_state_begins_with_all_permits_and_no_successes() -> None:
    clock = Clock()
    breaker = half_open(clock, half_open_max_calls=3, success_threshold=2, trial_timeout=1e6)
    good, bad, _ = [breaker.acquire() for _ in range(3)]
    breaker.succeeded(good)
    breaker.failed(bad)
    clock.now += 10.0
    trials = [breaker.acquire() for _ in range(3)]
    breaker.succeeded(trials[0])
    assert breaker.state is HALF_OPEN
    breaker.succeeded(trials[1])
    assert breaker.state is CLOSED


@pytest.mark.parametrize(("result", "state"), [("succeeded", CLOSED), ("failed", OPEN)])
def test_a_state_that_changes_while_a_caller_waits_for_the_lock(result: str, state: CircuitState) -> None:
    clock = Clock()
    breaker = half_open(clock, half_open_max_calls=2, success_threshold=1)
    other = breaker.acquire()
    lock = breaker._lock

    class Contended:
        """Lets the other trial's result in before the first who asks for the lock."""

        def __enter__(self) -> None:
            breaker._lock = lock
            getattr(breaker, result)(other)
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    breaker._lock = Contended()  # type: ignore[assignment]
    if state is OPEN:
        with pytest.raises(CircuitOpen):
            breaker.acquire()
    else:
        assert not breaker.acquire().trial
    assert breaker.state is state


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, BaseException, ValueError])
def test_a_cancelled_or_unrelated_trial_gives_its_permit_back_and_counts_as_nothing(
    error: type[BaseException],
) -> None:
    clock = Clock()
    breaker = half_open(clock, half_open_max_calls=1, success_threshold=2)
    breaker.call(int)
    for _ in range(10):
        fails(breaker, error=error)
    assert breaker.state is HALF_OPEN
    breaker.call(int)
    assert breaker.state is CLOSED
    fails(breaker, 10, error)
    assert breaker.state is CLOSED


def test_a_hung_trial_gives_its_permit_back_at_its_deadline() -> None:
    clock = Clock()
    breaker = half_open(clock, half_open_max_calls=1, success_threshold=1, trial_timeout=10.0)
    hung = breaker.acquire()
    clock.now += 9.99
    with pytest.raises(CircuitOpen):
        breaker.acquire()
    clock.now += 0.01
    next_one = breaker.acquire()
    with pytest.raises(CircuitOpen):
        breaker.acquire()
    breaker.released(hung)  # it is nobody's permit by now
    with pytest.raises(CircuitOpen):
        breaker.acquire()
    breaker.succeeded(next_one)
    assert breaker.state is CLOSED


def test_a_hung_trial_that_fails_at_last_speaks_for_its_own_state_only() -> None:
    clock = Clock()
    breaker = half_open(clock, trial_timeout=10.0, success_threshold=1)
    hung = breaker.acquire()
    clock.now += 10.0
    other = breaker.acquire()
    breaker.failed(hung)
    assert breaker.state is OPEN
    breaker.succeeded(other)
    assert breaker.state is OPEN
    clock.now += 30.0
    breaker.succeeded(breaker.acquire())
    assert breaker.state is CLOSED
    for permit in (hung, other):
        for _ in range(5):
            breaker.failed(permit)
    assert breaker.state is CLOSED


def test_a_result_told_twice_counts_once() -> None:
    clock = Clock()
    breaker = half_open(clock, half_open_max_calls=3, success_threshold=3)
    permit = breaker.acquire()
    for _ in range(5):
        breaker.succeeded(permit)
    breaker.failed(permit)
    assert breaker.state is HALF_OPEN
    assert len(breaker._trials) == 0


def test_late_results_of_an_earlier_closed_state_are_ignored() -> None:
    clock = Clock()
    breaker = make(clock, success_threshold=1)
    late = [breaker.acquire() for _ in range(3)]
    fails(breaker, 3)
    breaker.succeeded(late[0])
    assert breaker.state is OPEN
    clock.now += 1.0
    trial = breaker.acquire()
    breaker.succeeded(late[0])
    breaker.failed(late[1])
    breaker.released(late[2])
    assert breaker.state is HALF_OPEN
    with pytest.raises(CircuitOpen):
        breaker.acquire()
    breaker.succeeded(trial)
    fails(breaker, 2)
    breaker.failed(late[1])
    assert breaker.state is CLOSED
    breaker.succeeded(late[0])  # and does not wipe the two failures out either
    fails(breaker)
    assert breaker.state is OPEN


def test_what_a_healthy_peer_answers_is_no_failure() -> None:
    clock = Clock()
    breaker = CircuitBreaker(breaker_settings(), clock, answers=(Rejected,))
    for _ in range(5):
        fails(breaker, 2)
        fails(breaker, error=Rejected)
    assert breaker.state is CLOSED
    fails(breaker, 3)
    clock.now += 1.0
    fails(breaker, 2, Rejected)  # two answers are two successes
    assert breaker.state is CLOSED


def test_failures_are_the_caller_s_choice_and_another_breaker_s_refusal_is_none() -> None:
    breaker = CircuitBreaker(breaker_settings(), Clock(), failures=(ValueError, ConnectionError))
    fails(breaker, 5, TimeoutError)
    for _ in range(5):
        with pytest.raises(CircuitOpen):
            breaker.call(fail, CircuitOpen(1.0))
    assert breaker.state is CLOSED
    fails(breaker, 3, ValueError)
    assert breaker.state is OPEN


def test_results_without_a_permit_count_while_closed_only() -> None:
    clock = Clock()
    breaker = make(clock)
    for _ in range(3):
        breaker.report(worked=False)
    assert breaker.state is OPEN
    clock.now += 1.0
    trial = breaker.acquire()
    for worked in (True, True, True, False):
        breaker.report(worked)
    assert breaker.state is HALF_OPEN
    breaker.succeeded(trial)
    assert breaker.state is HALF_OPEN


def test_listeners_hear_every_transition_in_order_and_outside_the_lock() -> None:
    clock = Clock()
    heard: list[Transition] = []
    told: list[bool] = []

    def listen(transition: Transition) -> None:
        heard.append(transition)
        told.append(breaker._lock.locked())
        if transition.after is HALF_OPEN:  # a listener may use the breaker; what that causes is heard after this
            breaker.failed(breaker.acquire())

    breaker = CircuitBreaker(
        breaker_settings(half_open_max_calls=2), clock, key="peer", listeners=[listen, lambda _: None]
    )
    fails(breaker, 3)
    clock.now += 1.0
    breaker.call(int)
    kinds = [(transition.before, transition.after) for transition in heard]
    assert kinds == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, OPEN)]
    assert [transition.generation for transition in heard] == [1, 2, 3]
    assert [transition.at for transition in heard] == [1000.0, 1001.0, 1001.0]
    assert {transition.key for transition in heard} == {"peer"}
    assert not any(told)


def test_a_listener_that_fails_harms_neither_the_call_nor_the_others(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Transition] = []

    def broken(transition: Transition) -> None:
        raise RuntimeError("listener bug")

    breaker = CircuitBreaker(breaker_settings(), Clock(), listeners=(broken, heard.append))
    with caplog.at_level(logging.ERROR):
        fails(breaker, 3)
    assert [transition.after for transition in heard] == [OPEN]
    assert "listener bug" in caplog.text


def test_an_interrupted_listener_leaves_the_rest_to_the_next_caller() -> None:
    clock = Clock()
    heard: list[str] = []

    def listen(transition: Transition) -> None:
        if transition.after is OPEN and not heard:
            heard.append("interrupted")
            raise KeyboardInterrupt
        heard.append(transition.after.value)

    breaker = CircuitBreaker(breaker_settings(), clock, listeners=(listen,))
    fails(breaker, 2)
    with pytest.raises(KeyboardInterrupt):
        breaker.call(fail)
    clock.now += 1.0
    breaker.call(int)
    assert heard == ["interrupted", "half_open"]


def test_the_lock_is_free_during_the_call() -> None:
    clock = Clock()
    breaker = half_open(clock)
    assert breaker.call(breaker._lock.locked) is False


def test_a_hundred_thousand_rejects_leave_nothing_behind() -> None:
    clock = Clock()
    is_open = opened(clock, timeout=1e6, max_timeout=1e6)
    full = half_open(clock, half_open_max_calls=1)
    full.acquire()

    def reject(times: int) -> None:
        for breaker in (is_open, full):
            for _ in range(times):
                with suppress(CircuitOpen):
                    breaker.call(int)

    reject(1_000)
    gc.collect()
    before = sys.getallocatedblocks()
    reject(100_000)
    gc.collect()
    assert sys.getallocatedblocks() - before < 200
    assert is_open.rejected == full.rejected == 101_000


# Threads


def test_64_threads_never_make_more_trials_than_allowed() -> None:
    clock = Clock()
    breaker = half_open(clock, half_open_max_calls=5, success_threshold=10**6)
    running = itertools.count()
    inside: set[int] = set()
    most, trials = [0], [0]

    def trial() -> None:
        number = next(running)
        inside.add(number)
        most[0] = max(most[0], len(inside))
        trials[0] += 1
        time.sleep(0)  # let the others in
        inside.discard(number)
        if number % 7 == 0:
            raise KeyboardInterrupt  # a cancelled trial

    def work(index: int) -> None:
        for _ in range(200):
            try:
                breaker.call(trial)
            except (CircuitOpen, KeyboardInterrupt):
                time.sleep(0)

    in_threads(64, work)
    assert 1 <= most[0] <= 5
    assert trials[0] > 100
    assert breaker.state is HALF_OPEN
    assert not breaker._trials  # every permit is back
    assert [breaker.acquire().trial for _ in range(5)] == [True] * 5


def test_many_threads_open_it_once_and_the_listener_hears_it_once() -> None:
    heard: list[Transition] = []
    breaker = CircuitBreaker(breaker_settings(failure_threshold=50), Clock(), listeners=(heard.append,))

    def work(index: int) -> None:
        for _ in range(20):
            try:
                breaker.call(fail)
            except OSError:
                time.sleep(0)

    in_threads(16, work)
    assert [(t.before, t.after, t.generation) for t in heard] == [(CLOSED, OPEN, 1)]


def test_threads_that_change_its_state_tell_listeners_in_order() -> None:
    ticks = itertools.count()
    heard: list[Transition] = []

    def listen(transition: Transition) -> None:
        time.sleep(0)
        heard.append(transition)

    breaker = CircuitBreaker(
        breaker_settings(failure_threshold=1, success_threshold=1, timeout=3.0, half_open_max_calls=2),
        lambda: float(next(ticks)),
        listeners=(listen,),
    )

    def work(index: int) -> None:
        pick = random.Random(index)
        for _ in range(300):
            try:
                breaker.call(pick.choice((int, fail)))
            except OSError:
                time.sleep(0)

    in_threads(8, work)
    breaker._tell()
    assert [transition.generation for transition in heard] == list(range(1, len(heard) + 1))
    assert len(heard) > 30
    assert all(one.after is two.before for one, two in itertools.pairwise(heard))
    assert heard[-1].after is breaker.state


def test_threads_and_a_map_of_breakers_stay_within_bounds() -> None:
    ticks = itertools.count()
    breakers = CircuitBreakers(
        breaker_settings(failure_threshold=2, retries=0, max_keys=10, timeout=5.0), lambda: float(next(ticks))
    )

    def work(index: int) -> None:
        pick = random.Random(index)
        for turn in range(300):
            key = pick.randrange(40)
            try:
                breakers.connect([key], fail if key % 3 else str)
                breakers.succeeded(key)
            except OSError:
                pass
            if turn % 100 == 0:
                breakers.sweep()
                assert breakers.gauges()["keys"] <= 10

    in_threads(8, work)
    gauges = breakers.gauges()
    assert gauges["keys"] <= 10
    assert gauges["attempts"] + gauges["rejected"] == 8 * 300
    assert gauges["rejected"] > 0
    assert gauges["evicted"] > 0


# The state machine against a model


class BreakerMachine(RuleBasedStateMachine):
    """Any order of permits, results and clock steps, against a plain model of the three states."""

    @initialize(
        threshold=st.integers(1, 3), window=st.sampled_from([0, 3, 5]), trials=st.integers(1, 3),
        successes=st.integers(1, 3), trial_timeout=st.sampled_from([1.0, 8.0]),
    )  # fmt: skip
    def start(self, threshold: int, window: int, trials: int, successes: int, trial_timeout: float) -> None:
        self.settings = breaker_settings(
            failure_threshold=threshold, window=window, half_open_max_calls=trials, success_threshold=successes,
            trial_timeout=trial_timeout, timeout=2.0, max_timeout=8.0,
        )  # fmt: skip
        self.clock = Clock()
        self.heard: list[Transition] = []
        self.breaker = CircuitBreaker(self.settings, self.clock, listeners=(self.heard.append,))
        self.permits: list[tuple[Permit, int]] = []  # with the model's generation
        self.state, self.generation, self.closed_since = CLOSED, 0, -math.inf
        self.outcomes: list[bool] = []
        self.open_for, self.open_until = 2.0, -math.inf
        self.out: dict[int, float] = {}  # id of a trial's permit: deadline
        self.settled: set[int] = set()
        self.good = 0

    def move(self, state: CircuitState) -> None:
        self.state, self.generation = state, self.generation + 1
        self.outcomes, self.out, self.good = [], {}, 0
        if state is OPEN:
            self.open_until = self.clock.now + self.open_for
            self.open_for = min(8.0, 2 * self.open_for)
        if state is CLOSED:
            self.closed_since = self.clock.now
            self.open_for = 2.0

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0, 8.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def acquire(self) -> None:
        if self.state is OPEN and self.clock.now >= self.open_until:
            self.move(HALF_OPEN)
        live = [deadline for deadline in self.out.values() if deadline > self.clock.now]
        if self.state is OPEN or (self.state is HALF_OPEN and len(live) >= self.settings.half_open_max_calls):
            with pytest.raises(CircuitOpen) as refused:
                self.breaker.acquire()
            earliest = self.open_until if self.state is OPEN else min(live)
            assert refused.value.retry_after == pytest.approx(earliest - self.clock.now)
            return
        permit = self.breaker.acquire()
        assert permit.trial == (self.state is HALF_OPEN)
        self.permits.append((permit, self.generation))
        if permit.trial:
            self.out[id(permit)] = self.clock.now + self.settings.trial_timeout

    @precondition(lambda self: self.permits)
    @rule(which=st.integers(0, 10**6), result=st.sampled_from(["succeeded", "failed", "released"]))
    def settle(self, which: int, result: str) -> None:
        permit, generation = self.permits[which % len(self.permits)]
        getattr(self.breaker, result)(permit)
        if generation != self.generation:
            return
        if self.state is CLOSED:
            self.closed_result(result)
        elif id(permit) not in self.settled:
            self.settled.add(id(permit))
            self.out.pop(id(permit), None)
            self.good += result == "succeeded"
            if result == "failed":
                self.move(OPEN)
            elif self.good >= self.settings.success_threshold:
                self.move(CLOSED)

    @rule(worked=st.booleans(), age=st.sampled_from([0.0, 0.5, 100.0]))
    def report(self, worked: bool, age: float) -> None:
        since = self.clock.now - age
        self.breaker.report(worked, since)
        if self.state is CLOSED and since >= self.closed_since:
            self.closed_result("succeeded" if worked else "failed")

    def closed_result(self, result: str) -> None:
        if result == "released":
            return
        self.outcomes.append(result == "failed")
        looked_at = self.outcomes[-(self.settings.window or self.settings.failure_threshold) :]
        if result == "failed" and sum(looked_at) >= self.settings.failure_threshold:
            self.move(OPEN)

    @precondition(lambda self: hasattr(self, "breaker"))
    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.breaker.state is self.state
        assert [transition.generation for transition in self.heard] == list(range(1, self.generation + 1))
        live = [trial for trial in self.breaker._trials if trial.deadline > self.clock.now]
        assert len(live) <= self.settings.half_open_max_calls


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)


# Contract of the twins


def wired(twin: Twin, clock: Clock | None = None, **changes: Any) -> tuple[Any, list[float]]:
    """A twin and the list of its sleeps."""
    slept: list[float] = []
    options = {name: changes.pop(name) for name in ("answers", "failures", "listeners") if name in changes}
    return twin(breaker_settings(**changes), clock or Clock(), random.Random(1), slept.append, **options), slept


class Network:
    """Attempts by transport: those named in `down` fail."""

    def __init__(self, *down: Hashable) -> None:
        self.down = set(down)
        self.tried: list[Hashable] = []

    def __call__(self, key: Hashable) -> str:
        self.tried.append(key)
        if key in self.down:
            raise ConnectionRefusedError(f"{key} refused, attempt {len(self.tried)}")
        return f"connection by {key}"


def test_the_switch_picks_the_twins() -> None:
    assert CIRCUIT_BREAKER.pick(frozenset()) is FixedRetry
    assert CIRCUIT_BREAKER.pick(frozenset({"circuit_breaker"})) is CircuitBreakers


@pytest.mark.parametrize("twin", TWINS)
def test_the_first_transport_that_works_is_taken(twin: Twin) -> None:
    attempts, slept = wired(twin)
    network = Network()
    assert attempts.connect(KEYS, network) == f"connection by {KEYS[0]}"
    network.down.add(KEYS[0])
    assert attempts.connect(KEYS, network) == f"connection by {KEYS[1]}"
    assert network.tried == [KEYS[0], KEYS[0], KEYS[1]]
    assert not slept
    assert attempts.gauges()["attempts"] == 3


@pytest.mark.parametrize("twin", TWINS)
def test_all_are_tried_again_after_growing_pauses_and_the_last_error_is_raised(twin: Twin) -> None:
    attempts, slept = wired(twin, failure_threshold=10, retries=3, backoff=0.1, max_timeout=1.0)
    network = Network(*KEYS)
    with pytest.raises(ConnectionRefusedError, match="attempt 8"):
        attempts.connect(KEYS, network)
    assert network.tried == KEYS * 4
    assert slept == pytest.approx([0.1, 0.2, 0.4])
    assert attempts.gauges()["retries"] == 3
    assert attempts.gauges()["attempts"] == 8


@pytest.mark.parametrize("twin", TWINS)
def test_the_pause_is_jittered_and_limited(twin: Twin) -> None:
    attempts, slept = wired(
        twin, failure_threshold=100, retries=20, backoff=0.5, max_timeout=2.0, timeout=1.0, jitter=0.5
    )
    with pytest.raises(OSError, match="refused"):
        attempts.connect(KEYS[:1], Network(*KEYS))
    assert len(set(slept)) == 20
    assert all(0.25 < pause <= 2.0 for pause in slept)
    assert max(slept) > 1.5


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Rejected])
def test_what_is_no_failure_goes_straight_up(twin: Twin, error: type[BaseException]) -> None:
    attempts, slept = wired(twin, answers=(Rejected,), failure_threshold=1)
    for _ in range(3):
        with pytest.raises(error):
            attempts.connect(KEYS, lambda key: fail(error("at once")))
    assert not slept
    assert attempts.gauges()["attempts"] == 3
    assert attempts.gauges()["open"] == 0


@pytest.mark.parametrize("twin", TWINS)
def test_no_transport_is_a_caller_s_error(twin: Twin) -> None:
    with pytest.raises(ValueError, match="keys is empty"):
        wired(twin)[0].connect([], Network())


@pytest.mark.parametrize("twin", TWINS)
def test_failing_leaves_no_cycle_for_the_collector(twin: Twin) -> None:
    attempts, _ = wired(twin, failure_threshold=100)
    network = Network(*KEYS)

    def connect() -> None:
        try:
            attempts.connect(KEYS, network)
        except OSError:
            network.tried.clear()

    connect()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)  # other tests' threads may leave garbage of their own: look at what is in it
    try:
        for _ in range(5):
            connect()
        gc.collect()
        assert not [each for each in gc.garbage if isinstance(each, (OSError, Network, TracebackType))]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("twin", TWINS)
def test_both_twins_answer_the_same_gauges(twin: Twin) -> None:
    attempts, _ = wired(twin)
    attempts.succeeded(KEYS[0])
    attempts.failed(KEYS[0])
    assert attempts.sweep() == 0
    assert attempts.gauges().keys() == wired(CircuitBreakers)[0].gauges().keys()
    assert attempts.gauges().keys() >= {
        "attempts", "retries", "rejected", "open", "half_open", "keys", "evicted", "untracked",
        "closed_to_open", "open_to_half_open", "half_open_to_open", "half_open_to_closed",
    }  # fmt: skip


def test_off_waits_for_a_dead_transport_every_time() -> None:
    attempts, _ = wired(FixedRetry, failure_threshold=1)
    network = Network(KEYS[0])
    for _ in range(5):
        attempts.connect(KEYS, network)
        attempts.failed(KEYS[1])
    assert network.tried == KEYS * 5


# What the on twin adds


def test_a_dead_transport_is_skipped_and_tried_when_its_time_has_come() -> None:
    clock = Clock()
    breakers, _ = wired(CircuitBreakers, clock, failure_threshold=2, success_threshold=1)
    network = Network(KEYS[0])
    for _ in range(5):
        breakers.connect(KEYS, network)
    assert network.tried == KEYS * 2 + KEYS[1:] * 3
    clock.now += 1.0
    breakers.connect(KEYS, network)
    assert network.tried[-2:] == KEYS  # a trial that failed, at this caller's cost
    breakers.connect(KEYS, network)
    assert network.tried[-1:] == KEYS[1:]
    network.down.clear()
    clock.now += 2.0
    breakers.connect(KEYS, network)
    breakers.connect(KEYS, network)
    assert network.tried[-2:] == KEYS[:1] * 2
    gauges = breakers.gauges()
    transitions = ("closed_to_open", "open_to_half_open", "half_open_to_open", "half_open_to_closed")
    assert [gauges[name] for name in transitions] == [1, 2, 1, 1]
    assert gauges["rejected"] == 4
    assert gauges["open"] == gauges["half_open"] == 0


def test_breakers_are_per_peer_and_transport() -> None:
    breakers, _ = wired(CircuitBreakers, failure_threshold=1, retries=0)
    with pytest.raises(ConnectionRefusedError):
        breakers.connect([("a", "tcp")], Network(("a", "tcp")))
    network = Network()
    breakers.connect([("a", "tcp"), ("a", "tls")], network)
    breakers.connect([("b", "tcp")], network)
    assert network.tried == [("a", "tls"), ("b", "tcp")]


def test_when_all_are_open_it_fails_at_once_and_says_when_the_first_may_be_tried() -> None:
    clock = Clock()
    breakers, slept = wired(CircuitBreakers, clock, failure_threshold=1, retries=0)
    for key in KEYS:
        with pytest.raises(ConnectionRefusedError):
            breakers.connect([key], Network(key))
        clock.now += 0.25
    network = Network()
    for keys in (KEYS, KEYS[::-1]):
        with pytest.raises(CircuitOpen) as refused:
            breakers.connect(keys, network)
        assert refused.value.retry_after == pytest.approx(0.5)
    assert not network.tried
    assert not slept


def test_retries_end_when_everything_has_opened() -> None:
    breakers, slept = wired(CircuitBreakers, failure_threshold=2, retries=9)
    network = Network(*KEYS)
    with pytest.raises(ConnectionRefusedError, match="attempt 4"):
        breakers.connect(KEYS, network)
    assert network.tried == KEYS * 2
    assert len(slept) == 2


def test_a_transport_that_accepts_and_then_breaks_is_given_up() -> None:
    breakers, _ = wired(CircuitBreakers, failure_threshold=3)
    for _ in range(3):
        breakers.connect(KEYS, Network())
        breakers.failed(KEYS[0])
    assert breakers.gauges()["open"] == 1
    assert breakers.connect(KEYS, Network()) == f"connection by {KEYS[1]}"


@pytest.mark.parametrize(("works", "opened"), [(False, [1.0, 2.0, 4.0, 8.0]), (True, [1.0, 1.0, 1.0, 1.0])])
def test_each_time_for_longer_until_a_request_works(works: bool, opened: list[float]) -> None:
    """To connect is not what the peer is needed for."""
    clock, key = Clock(), KEYS[0]
    breakers, _ = wired(CircuitBreakers, clock, failure_threshold=1, success_threshold=1, retries=0)
    found = []
    for _ in opened:
        breakers.failed(key)
        with pytest.raises(CircuitOpen) as refused:
            breakers.connect([key], Network())
        found.append(refused.value.retry_after)
        clock.now += refused.value.retry_after
        breakers.connect([key], Network())
        assert breakers.state(key) is CircuitState.CLOSED
        if works:
            breakers.succeeded(key)
    assert found == pytest.approx(opened)


def test_requests_that_work_clear_the_failures() -> None:
    breakers, _ = wired(CircuitBreakers, failure_threshold=2)
    for _ in range(5):
        breakers.failed(KEYS[0])
        breakers.succeeded(KEYS[0])
    assert breakers.gauges()["open"] == 0


def through_an_outage(breakers: CircuitBreakers, clock: Clock, key: Hashable) -> None:
    """The key's breaker opens and closes again, and then there is a round of housekeeping."""
    while breakers.state(key) is not OPEN:
        breakers.failed(key, clock.now)
    clock.now += 12.0
    for _ in range(2):
        breakers.connect([key], Network())
    assert breakers.state(key) is CLOSED
    clock.now += 5.0
    breakers.sweep()


def test_requests_from_before_an_outage_say_nothing_of_what_is_after_it() -> None:
    clock, key = Clock(), KEYS[0]
    breakers, _ = wired(CircuitBreakers, clock, failure_threshold=2, retries=0)
    before = clock.now
    through_an_outage(breakers, clock, key)
    for _ in range(5):
        breakers.failed(key, before)
    assert breakers.state(key) is CLOSED
    breakers.failed(key, clock.now)
    breakers.succeeded(key, before)
    assert breakers.state(key) is CLOSED
    breakers.failed(key, clock.now)
    assert breakers.state(key) is OPEN


def test_nor_does_a_dial_from_before_an_outage() -> None:
    clock, key = Clock(), KEYS[0]
    breakers, _ = wired(CircuitBreakers, clock, failure_threshold=1, retries=0)

    def hang(key: Hashable) -> None:
        through_an_outage(breakers, clock, key)
        fail()

    with pytest.raises(OSError, match="down"):
        breakers.connect([key], hang)
    assert breakers.state(key) is CLOSED
    with pytest.raises(OSError, match="down"):
        breakers.connect([key], lambda key: fail())
    assert breakers.state(key) is OPEN


def test_a_breaker_that_has_been_open_is_forgotten_when_nobody_used_it_for_long() -> None:
    clock, key = Clock(), KEYS[0]
    breakers, _ = wired(CircuitBreakers, clock, max_timeout=20.0, trial_timeout=10.0)
    through_an_outage(breakers, clock, key)
    assert breakers.gauges()["keys"] == 1
    clock.now += 25.0
    assert breakers.sweep() == 1


def test_a_cancelled_dial_returns_the_trial_s_permit() -> None:
    clock = Clock()
    breakers, _ = wired(CircuitBreakers, clock, failure_threshold=1, retries=0, half_open_max_calls=1)
    with pytest.raises(ConnectionRefusedError):
        breakers.connect(KEYS[:1], Network(*KEYS))
    clock.now += 1.0
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            breakers.connect(KEYS[:1], lambda key: fail(KeyboardInterrupt()))
    assert breakers.connect(KEYS[:1], Network()) == f"connection by {KEYS[0]}"
    assert breakers.gauges()["half_open"] == 1


def test_healthy_peers_cost_no_breaker_and_sweeps_forget_the_recovered() -> None:
    clock = Clock()
    breakers = CircuitBreakers(breaker_settings(failure_threshold=2, max_timeout=10.0), clock)
    for peer in range(100):
        breakers.connect([peer], Network())
        breakers.succeeded(peer)
    assert breakers.gauges()["keys"] == 0
    for key in ("recovers", "quiet", "open", "open"):
        breakers.failed(key)
    breakers.succeeded("recovers")
    assert breakers.sweep() == 1
    assert breakers.state("open") is OPEN
    clock.now += 10.0
    assert breakers.sweep() == 1  # "quiet": its one failure is long ago
    assert breakers.state("open") is OPEN
    clock.now += 1.0
    assert breakers.sweep() == 1  # nobody asked for "open" for max_timeout since it might have been tried
    assert breakers.gauges()["keys"] == 0
    assert breakers.gauges()["evicted"] == 3


def test_a_breaker_with_a_trial_out_is_not_forgotten() -> None:
    clock = Clock()
    breakers, _ = wired(CircuitBreakers, clock, failure_threshold=1, max_timeout=2.0, trial_timeout=60.0, retries=0)
    breakers.failed("peer")
    clock.now += 1.0

    def attempt(key: Hashable) -> None:
        clock.now += 59.0
        assert breakers.sweep() == 0
        fail()

    with pytest.raises(OSError, match="down"):
        breakers.connect(["peer"], attempt)
    assert breakers.gauges()["half_open_to_open"] == 1


@pytest.mark.parametrize("known_again", [True, False])
def test_a_dial_whose_breaker_was_forgotten_meanwhile_counts_in_the_current_one(known_again: bool) -> None:
    heard: list[Transition] = []
    breakers, _ = wired(CircuitBreakers, listeners=(heard.append,), failure_threshold=2, retries=0)
    breakers.failed("peer")

    def attempt(key: Hashable) -> None:
        breakers.succeeded("peer")
        assert breakers.sweep() == 1
        if known_again:
            breakers.failed("peer")
        fail()

    with pytest.raises(OSError, match="down"):
        breakers.connect(["peer"], attempt)
    if not known_again:
        breakers.failed("peer")
    assert breakers.state("peer") is OPEN
    assert len(heard) == 1


def test_what_a_healthy_peer_answers_to_a_dial_clears_the_failures() -> None:
    breakers, _ = wired(CircuitBreakers, answers=(Rejected,), failure_threshold=2, retries=0)
    for _ in range(3):
        breakers.failed("peer")
        with pytest.raises(Rejected):
            breakers.connect(["peer"], lambda key: fail(Rejected()))
    assert breakers.state("peer") is CLOSED


def test_a_full_map_forgets_closed_breakers_before_open_ones() -> None:
    clock = Clock()
    breakers, _ = wired(CircuitBreakers, clock, failure_threshold=2, max_keys=3, max_timeout=5.0)
    for key in ("open", "open", "old", "new"):
        breakers.failed(key)
    breakers.failed("newest")
    breakers.failed("new")
    assert breakers.state("open") is OPEN
    assert breakers.state("new") is OPEN  # its first failure was kept, "old" was forgotten
    breakers.failed("newest")
    breakers.failed("one too many")
    assert breakers.gauges()["untracked"] == 1
    assert breakers.connect(["one too many"], Network()) == "connection by one too many"
    clock.now += 6.0  # the open ones have been idle for so long that they may go
    breakers.failed("one too many")
    assert breakers.gauges()["untracked"] == 1
    assert breakers.gauges()["keys"] == 3


def test_a_full_map_forgets_first_who_failed_longest_ago() -> None:
    breakers, _ = wired(CircuitBreakers, failure_threshold=3, max_keys=2)
    for key in ("old", "new", "old", "newest", "old"):
        breakers.failed(key)
    assert breakers.state("old") is OPEN


def test_who_fails_to_connect_has_failed_lately_too() -> None:
    breakers, _ = wired(CircuitBreakers, failure_threshold=3, max_keys=2, retries=0)
    for key in ("old", "new", "old", "newest", "old"):
        with pytest.raises(OSError, match="refused, attempt"):
            breakers.connect([key], Network("old", "new", "newest"))
    assert breakers.state("old") is OPEN


def test_listeners_hear_of_every_key() -> None:
    heard: list[Transition] = []
    breakers, _ = wired(CircuitBreakers, listeners=(heard.append,), failure_threshold=1)
    breakers.failed("a")
    breakers.failed("b")
    assert [(transition.key, transition.after) for transition in heard] == [("a", OPEN), ("b", OPEN)]


@pytest.mark.parametrize(("threshold", "peers"), [(1, 1_000_000), (5, 100_000)])
def test_a_million_one_shot_peers_stay_bounded_and_go_again(threshold: int, peers: int) -> None:
    clock = Clock()
    breakers = CircuitBreakers(
        breaker_settings(failure_threshold=threshold, max_keys=1_000, max_timeout=5.0), clock, random.Random(1)
    )
    gc.collect()
    blocks = sys.getallocatedblocks()
    for peer in range(peers):
        breakers.failed(peer)
        breakers.succeeded(-peer)
    assert breakers.gauges()["keys"] == 1_000
    assert breakers.gauges()["evicted" if threshold > 1 else "untracked"] == peers - 1_000
    clock.now += 6.0
    assert breakers.sweep() == 1_000
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 1_000
    assert sys.getsizeof(breakers._breakers) < 1_000


# Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("failure_threshold", 0), ("failure_threshold", 2.5), ("success_threshold", -1), ("success_threshold", True),
        ("half_open_max_calls", 0), ("max_keys", 0), ("window", -1), ("window", math.nan), ("retries", -1),
        ("timeout", 0.0), ("timeout", math.nan), ("timeout", -1.0), ("max_timeout", math.inf),
        ("timeout_growth", 0.5), ("timeout_growth", math.nan), ("trial_timeout", 0.0), ("jitter", -0.1),
        ("jitter", 1.1), ("jitter", math.nan), ("backoff", -1.0), ("backoff", "1"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"BreakerSettings\.{name} is .*; expected "):
        BreakerSettings(**{name: value})


@pytest.mark.parametrize(
    "contradiction", [{"failure_threshold": 5, "window": 4}, {"timeout": 10.0, "max_timeout": 9.0}]
)
def test_contradicting_settings_are_refused(contradiction: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=" more than BreakerSettings"):
        BreakerSettings(**contradiction)


def test_the_same_under_gevent() -> None:
    """The tests with threads again, in a fresh interpreter where threads are greenlets; and a killed trial."""
    script = """
from gevent import monkey; monkey.patch_all()
import sys, gevent, pytest
from reference_impl.circuit_breaker import BreakerSettings, CircuitBreaker, CircuitOpen

breaker = CircuitBreaker(BreakerSettings(failure_threshold=1, timeout=0.5, jitter=0.0), iter(range(99)).__next__)
breaker.report(worked=False)
trial = gevent.spawn(breaker.call, gevent.sleep, 60)
gevent.sleep(0)
try:
    breaker.acquire()
    raise SystemExit("two trials at a time")
except CircuitOpen:
    pass
trial.kill()
assert isinstance(trial.value, gevent.GreenletExit)
assert breaker.acquire().trial
sys.exit(pytest.main([sys.argv[1], "-k", "threads", "-p", "no:cacheprovider"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, __file__], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
