"""The e-processes against their definitions, and what they promise when one looks after every burst."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.analyse.sequential import (
    SCALES,
    exceeding_needed,
    interval,
    log_e,
    log_e_path,
    p_value,
    symmetric_log_e_path,
)
from tests.harness.analyse import reference
from tests.harness.analyse.simulation import BLOCKS, differences, runs


def stopped_at(path: NDArray[np.float64], alpha: float, minimum: int = 1) -> int | None:
    """The number of values after which E first stands at 1/alpha or more, not before `minimum`; None if
    never.
    """
    reached = np.flatnonzero(path[minimum - 1 :] >= -math.log(alpha))
    return int(reached[0]) + minimum if reached.size else None


@pytest.mark.parametrize(("k", "t"), [(0, 1), (1, 1), (7, 7), (9, 12), (30, 60), (80, 120), (0, 40)])
def test_e_value_is_the_mixture_it_claims(k: int, t: int) -> None:
    assert math.exp(log_e(k, t)) == pytest.approx(reference.e_value(k, t), rel=1e-4)


@given(st.integers(0, 300))
def test_e_is_a_martingale_under_the_null(t: int) -> None:
    for k in {0, t // 3, t // 2, t}:
        after = 0.5 * (np.exp(log_e(k, t + 1)) + np.exp(log_e(k + 1, t + 1)))
        assert after == pytest.approx(np.exp(log_e(k, t)), rel=1e-7)


@pytest.mark.parametrize(("alpha", "unanimous"), [(0.05, 7), (0.05 / 3, 9), (0.001, 13), (0.0001, 17)])
def test_unanimous_bursts_needed(alpha: float, unanimous: int) -> None:
    path = log_e_path(np.ones(40), 0.0)
    assert stopped_at(path, alpha) == unanimous
    assert stopped_at(path, alpha, minimum=20) == 20
    assert stopped_at(log_e_path(np.zeros(40), 0.0), alpha) is None  # ties count for the null


def test_p_value_remembers_the_best_moment() -> None:
    path = log_e_path(np.array([1.0] * 10 + [-1.0] * 10), 0.0)
    assert p_value(path) == pytest.approx(11 / (2**11 - 1))
    assert p_value(np.empty(0)) == 1.0


def test_exceeding_needed_is_the_fewest() -> None:
    assert exceeding_needed(3, 0.05) is None
    for trials in (7, 20, 50):
        needed = exceeding_needed(trials, 0.05)
        assert needed is not None
        assert log_e(needed, trials) >= math.log(20.0) > log_e(needed - 1, trials)


@pytest.mark.parametrize("seed", range(6))
def test_interval_inverts_the_process(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=9 + 3 * seed)
    assert interval(values, 0.95) == reference.sequential_interval(values.tolist(), 0.95)


def test_interval_of_too_few_or_contradicting_values() -> None:
    assert interval(np.arange(7.0), 0.95) == (-math.inf, math.inf)
    drifting = np.concatenate((np.zeros(12), np.full(400, 5.0)))
    assert interval(drifting, 0.95) == (5.0, 5.0)


def test_symmetric_process_is_its_product() -> None:
    values = np.array([0.02, -0.01, 0.05])
    by_hand = [
        math.log(np.mean([math.prod(1 + math.tanh(c * x) for x in values[:n]) for c in SCALES])) for n in (1, 2, 3)
    ]
    assert symmetric_log_e_path(values, 0.0).tolist() == pytest.approx(by_hand)
    assert symmetric_log_e_path(np.array([-50.0]), 0.0)[0] < -700.0


def test_looking_after_every_burst_errs_no_more_than_alpha() -> None:
    """Both burst-level processes with the truth on the threshold, the worst case of the null."""
    count, bursts = runs(10_000, 400), 60
    d = differences(0.0, (count, bursts), np.random.default_rng(1)).reshape(count, bursts, BLOCKS)
    medians = np.median(d, axis=2)
    sign = np.mean([stopped_at(log_e_path(each, 0.0), 0.05) is not None for each in medians])
    symmetric = np.mean([stopped_at(symmetric_log_e_path(each, 0.0), 0.05) is not None for each in medians])
    slack = 3.0 * math.sqrt(0.05 * 0.95 / count)
    assert sign <= 0.05 + slack
    assert symmetric <= 0.05 + slack


def test_coverage_at_the_stopping_time() -> None:
    """At least 95 % for the interval shown when one stops because the question "below -1 %?" is decided."""
    count, bursts, bound = runs(10_000, 300), 40, math.log(0.99)
    truth = math.log(0.97)
    d = differences(-0.03, (count, bursts), np.random.default_rng(2)).reshape(count, bursts, BLOCKS)
    covered = stopped = 0
    for medians in np.median(d, axis=2):
        at = stopped_at(log_e_path(-medians, -bound), 0.05) or bursts
        low, high = interval(medians[:at], 0.95)
        covered += low <= truth <= high
        stopped += at < bursts
    assert stopped > count // 2
    assert covered / count >= 0.95
