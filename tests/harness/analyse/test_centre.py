"""The centre of a few values against a slow reference, scipy's tests, a published example, and simulated skew."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from harness.analyse import centre as module
from harness.analyse.centre import centre, centre_interval, centre_p_value
from tests.harness.analyse import reference
from tests.harness.analyse.simulation import runs

few = st.lists(st.floats(-5, 5), min_size=1, max_size=9)
several = st.lists(st.integers(-400, 400).map(lambda n: n / 64), min_size=1, max_size=40)
confidences = st.sampled_from([0.5, 0.9, 0.95, 0.99])


@given(few, confidences)
def test_interval_and_centre_match_the_reference(values: list[float], confidence: float) -> None:
    assert centre_interval(np.array(values), confidence) == reference.centre_interval(values, confidence)
    assert centre(np.array(values)) == reference.median(reference.means_of_two(values))


untied = st.lists(st.floats(-5, 5), min_size=1, max_size=40, unique_by=lambda value: round(abs(value), 6)).filter(all)


@given(untied)
def test_p_value_is_that_of_the_signed_rank_test(values: list[float]) -> None:
    known = stats.wilcoxon(np.array(values), method="exact").pvalue
    assert centre_p_value(np.array(values), 0.0) == pytest.approx(min(1.0, known))


@given(several, st.integers(-400, 400).map(lambda n: n / 64), confidences)
def test_the_interval_holds_what_the_test_does_not_reject(values: list[float], against: float, level: float) -> None:
    low, high = centre_interval(np.array(values), level)
    rejected = centre_p_value(np.array(values), against) <= (1.0 - level) * (1.0 + 1e-12)
    assert rejected is not (low <= against <= high)


def test_the_published_example() -> None:
    """Hollander and Wolfe, Nonparametric Statistical Methods (1973), p. 29: depression before and after."""
    before = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
    after = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
    assert centre_p_value(before - after, 0.0) == pytest.approx(0.03906, abs=5e-6)
    assert centre(before - after) == pytest.approx(0.46, abs=5e-3)


def test_nothing_says_nothing() -> None:
    assert centre_interval(np.empty(0), 0.95) == (-math.inf, math.inf)
    assert centre_p_value(np.empty(0), 0.0) == 1.0


@given(several, confidences)
def test_searching_finds_what_writing_down_finds(values: list[float], confidence: float) -> None:
    written = centre_interval(np.array(values), confidence)
    ranks = [0, len(values) * (len(values) + 1) // 2 - 1]
    assert [module._searched(np.array(values), rank) for rank in ranks] == [min(values), max(values)]
    rank = module._rank(len(values), confidence)
    if rank is not None:
        found = module._searched(np.array(values), rank), module._searched(np.array(values), ranks[1] - rank)
        assert found == pytest.approx(written, abs=1e-12)


def test_many_values() -> None:
    values = np.random.default_rng(3).normal(0.02, 1.0, module.MANY + 500)
    known = stats.wilcoxon(values, method="asymptotic", correction=True)
    assert centre_p_value(values, 0.0) == pytest.approx(known.pvalue, rel=1e-6)
    low, high = centre_interval(values, 0.95)
    assert low < centre(values) < high
    assert centre_p_value(values, low - 1e-9) <= 0.05 < centre_p_value(values, low + 1e-9)
    assert centre_p_value(values, high + 1e-9) <= 0.05 < centre_p_value(values, high - 1e-9)
    normal = 1.96 * math.sqrt(math.pi / 3.0) / math.sqrt(values.size)
    assert (high - low) / 2.0 == pytest.approx(normal, rel=0.1)


Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]
SHAPES: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, size: rng.normal(size=size), 0.94),
    "heavy tails": (lambda rng, size: rng.standard_t(3, size), 0.94),
    "skewed": (lambda rng, size: np.exp(0.5 * rng.normal(size=size)), 0.935),
    "badly skewed": (lambda rng, size: rng.exponential(size=size), 0.93),
    "two modes": (lambda rng, size: rng.normal(size=size) / 5.0 + 2.0 * (rng.random(size) < 0.3), 0.89),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [7, 12, 30])
def test_coverage(shape: str, size: int) -> None:
    """Of the pseudomedian, which is the centre where values are symmetric: nominal there, less elsewhere."""
    draw, least = SHAPES[shape]
    rng = np.random.default_rng(size)
    truth = float(np.median(draw(rng, (400_000, 2)).mean(axis=1)))
    samples = draw(rng, (runs(10_000, 4_000), size))
    ends = np.array([centre_interval(sample, 0.95) for sample in samples])
    covered = np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
    assert least <= covered <= 0.97


def missed(shape: str, size: int, confidence: float) -> float:
    """The share of intervals that leave out the pseudomedian."""
    draw, _ = SHAPES[shape]
    rng = np.random.default_rng(size)
    truth = float(np.median(draw(rng, (400_000, 2)).mean(axis=1)))
    ends = np.array([centre_interval(each, confidence) for each in draw(rng, (runs(100_000, 20_000), size))])
    return float(np.mean((truth < ends[:, 0]) | (ends[:, 1] < truth)))


@pytest.mark.parametrize(
    ("shape", "least", "most"),
    [
        ("normal", 0.95, 0.99),
        ("heavy tails", 0.95, 1.0),
        ("skewed", 0.92, 0.98),
        ("badly skewed", 0.90, 0.96),
        ("two modes", 0.45, 0.65),  # were all of them so: what docs/method.md warns of
    ],
)
def test_coverage_of_all_questions_of_the_plan_together(shape: str, least: float, most: float) -> None:
    """31 questions in eleven bursts at 95 %: the level of each is as far out in the tail as so few bursts go."""
    assert least <= (1.0 - missed(shape, 11, 1.0 - 0.05 / 31)) ** 31 <= most
