"""Arrivals follow their rate whatever its shape, never depend on answers, and repeat with the seed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from harness.plan.arrivals import constant, expected, offsets, poisson
from harness.study.records import Workload

Knots = list[tuple[float, float]]
rates = st.floats(0.0, 500.0).map(lambda rate: round(rate, 3))
knots = st.lists(st.tuples(st.integers(0, 40), rates), min_size=1, max_size=5, unique_by=lambda knot: knot[0]).map(
    lambda found: sorted((at / 4.0, rate) for at, rate in found)
)
SPIKE: Knots = [(0.0, 50.0), (2.0, 50.0), (2.5, 400.0), (3.0, 50.0)]


def rate_at(shape: Knots, time: float) -> float:
    return float(np.interp(time, [at for at, _ in shape], [rate for _, rate in shape]))


@given(knots, st.floats(0.1, 12.0))
def test_constant_arrivals_sit_at_whole_numbers_of_the_integral(shape: Knots, seconds: float) -> None:
    found = constant(shape, seconds)
    assert np.all((found >= 0.0) & (found < seconds))
    assert np.all(np.diff(found) >= 0.0)
    assert found.size == math.ceil(expected(shape, seconds))
    for index in {0, found.size // 2, found.size - 1} & set(range(found.size)):
        inside = [at for at, _ in shape if 0.0 < at < found[index]]
        edges = [0.0, *inside, float(found[index])]
        reached = sum(
            integrate.quad(lambda t: rate_at(shape, t), left, right)[0] for left, right in itertools.pairwise(edges)
        )
        assert reached == pytest.approx(index, abs=1e-4)


def test_a_steady_rate_is_evenly_spaced() -> None:
    assert constant([(0.0, 200.0)], 0.1).tolist() == pytest.approx([n / 200.0 for n in range(20)])


@given(knots, st.floats(0.1, 12.0), st.integers(0, 2**32))
def test_poisson_arrivals_stay_inside_and_repeat(shape: Knots, seconds: float, seed: int) -> None:
    found = poisson(shape, seconds, np.random.default_rng(seed))
    assert np.all((found >= 0.0) & (found < seconds))
    assert np.all(np.diff(found) >= 0.0)
    assert np.array_equal(found, poisson(shape, seconds, np.random.default_rng(seed)))


def test_poisson_gaps_are_exponential_and_spikes_are_where_they_should_be() -> None:
    rng = np.random.default_rng(12)
    gaps = np.diff(poisson([(0.0, 1000.0)], 20.0, rng))
    assert stats.kstest(gaps, "expon", args=(0.0, 1e-3)).pvalue > 0.01
    counts = [np.histogram(poisson(SPIKE, 4.0, rng), bins=[0, 2, 3, 4])[0] for _ in range(200)]
    assert np.mean(counts, axis=0) == pytest.approx([100.0, 225.0, 50.0], rel=0.05)
    assert np.var(counts, axis=0) == pytest.approx([100.0, 225.0, 50.0], rel=0.35)


def a_workload(**fields: object) -> Workload:
    base: dict[str, object] = {"name": "steady", "file": "steady.py", "arrivals": "constant"}
    return Workload(**{**base, **fields})  # type: ignore[arg-type]


def test_offsets_follow_the_workload() -> None:
    rng = np.random.default_rng(1)
    assert offsets(a_workload(arrivals="closed", rate=100.0), 1.0, rng).size == 0
    assert offsets(a_workload(rate=100.0), 1.0, rng).size == 100
    assert offsets(a_workload(), 1.0, rng, rate=40.0).size == 40
    assert offsets(a_workload(shape=tuple(SPIKE), rate=7.0), 4.0, rng).size == 375
    again = offsets(a_workload(arrivals="poisson", rate=100.0), 1.0, np.random.default_rng(5))
    assert np.array_equal(again, poisson([(0.0, 100.0)], 1.0, np.random.default_rng(5)))
