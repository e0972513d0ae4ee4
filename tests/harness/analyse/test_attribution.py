"""Main effects of the flags: known ones are recovered, with two-way interactions present, and the sum closes."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from scipy import stats

from harness.analyse.analysis import analyse
from harness.analyse.attribution import Effects, Foldover, attribution_effects, closes, main_effects
from harness.analyse.records import Estimate, FlagEffect, IntervalMethod
from harness.plan.arms import foldover_pairs, parse_cell
from harness.study.records import OPTIMIZATIONS, Design, Switch
from tests.harness.analyse.simulation import differences, runs
from tests.harness.analyse.synthetic import a_run, a_study

TRUTH = np.log([0.3, 1.02, 1.0, 0.97, 0.75, 1.01])
INTERACTIONS = np.triu(np.random.default_rng(11).normal(0.0, 0.05, (6, 6)), 1)
CONFIDENCE = 0.95


def levels(cell: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    enabled = parse_cell(cell, OPTIMIZATIONS)
    assert enabled is not None
    return np.array([1.0 if flag in enabled else -1.0 for flag in OPTIMIZATIONS])


def mean_log(cell: str) -> float:
    """The true log metric of a cell: main effects and two-way interactions."""
    x = levels(cell)
    return float(x @ TRUTH / 2.0 + x @ INTERACTIONS @ x)


def observed(bursts: int, rng: np.random.Generator) -> list[Foldover]:
    """Two fold-over pairs of three blocks per burst, rotating over all 32 pairs."""
    pairs = list(foldover_pairs(OPTIMIZATIONS, 4))
    found = []
    for burst in range(bursts):
        for complement, cell in (pairs[2 * burst % 32], pairs[(2 * burst + 1) % 32]):
            noise = np.median(differences(0.0, (1,), rng, blocks=3))
            effect = mean_log(cell) - mean_log(complement)
            found.append(Foldover(burst, tuple(levels(cell).tolist()), float(effect + noise)))
    return found


def test_intervals_cover_known_effects() -> None:
    """93-97 % of the intervals of flags cover the truth, and so do those of their sum."""
    count = runs(2_000, 150)
    rng = np.random.default_rng(3)
    covered = np.zeros(7)
    for _ in range(count):
        effects = main_effects(observed(48, rng))
        assert effects is not None
        singles, total = attribution_effects(effects, OPTIMIZATIONS, CONFIDENCE)
        truths = (*TRUTH, float(TRUTH.sum()))
        for index, (found, truth) in enumerate(zip((*singles, total), truths, strict=True)):
            covered[index] += found.low <= math.exp(truth) <= found.high
    assert 0.93 <= float(covered[:6].mean()) / count <= 0.97
    assert covered[6] / count >= 0.93 - 2.0 * math.sqrt(0.05 * 0.95 / count)


def test_few_bursts_are_allowed_for() -> None:
    """The variance of few clusters is corrected; Student's t has as many degrees of freedom as bursts less flags."""
    effects = Effects(np.zeros(6), np.eye(6) * 0.01, clusters=9)
    (one, *_), total = attribution_effects(effects, OPTIMIZATIONS, CONFIDENCE)
    assert one.high == pytest.approx(math.exp(float(stats.t.ppf(0.975, 3)) * 0.1))
    assert total.high == pytest.approx(math.exp(float(stats.t.ppf(0.975, 3)) * 0.1 * math.sqrt(6)))
    found = observed(12, np.random.default_rng(4))
    few, twice = main_effects(found), main_effects([*found, *(replace(each, burst=12 + each.burst) for each in found)])
    assert few is not None
    assert twice is not None
    ratio = (
        few.covariance / twice.covariance
    )  # half of it where all is seen twice, but for the corrections 12/6 and 24/18
    assert ratio == pytest.approx(np.full((6, 6), 2.0 * (12 / 6) / (24 / 18)), rel=1e-6)


def test_noiseless_effects_are_exact() -> None:
    found = [
        Foldover(burst, tuple(levels(cell).tolist()), float(levels(cell) @ TRUTH))
        for burst, (_, cell) in enumerate(foldover_pairs(OPTIMIZATIONS, 1))
    ]
    effects = main_effects(found)
    assert effects is not None
    singles, total = attribution_effects(effects, OPTIMIZATIONS, CONFIDENCE)
    assert [each.ratio for each in singles] == pytest.approx(np.exp(TRUTH).tolist())
    assert [each.flag for each in singles] == list(OPTIMIZATIONS)
    assert total.ratio == pytest.approx(total.low) == pytest.approx(math.exp(TRUTH.sum()))


def test_robust_against_a_burst_gone_wrong() -> None:
    clean = observed(48, np.random.default_rng(5))
    spoilt = [*clean[:-1], Foldover(47, clean[-1].levels, clean[-1].difference + 3.0)]
    before, after = main_effects(clean), main_effects(spoilt)
    assert before is not None
    assert after is not None
    assert np.abs(before.values - after.values).max() < 0.01


def test_too_little_to_tell_flags_apart() -> None:
    assert main_effects([]) is None
    rng = np.random.default_rng(1)
    assert main_effects(observed(6, rng)) is None
    same = [Foldover(burst, (1.0,) * 6, 0.1) for burst in range(20)]
    assert main_effects(same) is None


def test_flags_that_only_outliers_tell_apart_are_not_told_apart() -> None:
    rng = np.random.default_rng(2)
    alike = [Foldover(burst, (1.0, 1.0), float(rng.normal(0.0, 0.01))) for burst in range(20)]
    assert main_effects([*alike, Foldover(20, (1.0, -1.0), 10.0), Foldover(21, (1.0, -1.0), -10.0)]) is None


def an_estimate(low: float, high: float, bounded: bool = True) -> Estimate:
    method: IntervalMethod = "signed rank" if bounded else "unbounded"
    return Estimate(0.5, low, high, 0.95, method, 9, 9, 0.0, 0.0)


def test_closure_is_overlap() -> None:
    predicted = FlagEffect("all", 0.5, 0.45, 0.55)
    assert closes(predicted, an_estimate(0.54, 0.6)) is True
    assert closes(predicted, an_estimate(0.56, 0.6)) is False
    assert closes(predicted, an_estimate(0.0, math.inf, bounded=False)) is None
    assert closes(predicted, None) is None


def test_a_factorial_study_attributes_and_closes() -> None:
    study = a_study(design=Design(kind="factorial", fractions=1))
    factors = {
        name: math.exp(float((levels(name) + 1.0) @ TRUTH / 2.0))
        for pair in foldover_pairs(OPTIMIZATIONS, 1)
        for name in pair
    }
    analysis = analyse(study, a_run(study, factors, 40))
    by_metric = {each.metric: each for each in analysis.attributions}
    assert set(by_metric) == {"latency_p50", "throughput", "cpu_per_request"}
    found = by_metric["latency_p50"]
    assert found.closes is True
    assert found.measured is not None
    assert (found.bursts, found.pairs) == (32, 64)
    assert found.measured.bursts == 8
    for effect, truth in zip(found.effects, np.exp(TRUTH), strict=True):
        assert effect.ratio == pytest.approx(truth, rel=0.05)
    assert by_metric["throughput"].effects[0].ratio == pytest.approx(1.0 / math.exp(TRUTH[0]), rel=0.05)


def test_switches_of_ones_own_are_attributed() -> None:
    names, truth = ("cache", "gzip", "index"), np.log([0.5, 1.1, 1.0])
    switches = tuple(Switch(name=name) for name in names)
    study = msgspec.structs.replace(a_study(design=Design(kind="factorial")), switches=switches)
    cells = [name for pair in foldover_pairs(names, 4) for name in pair]
    factors = {
        cell: math.exp(sum(truth[names.index(name)] for name in parse_cell(cell, names) or ())) for cell in cells
    }
    found = next(
        each for each in analyse(study, a_run(study, factors, 40)).attributions if each.metric == "latency_p50"
    )
    assert [each.flag for each in found.effects] == list(names)
    assert [each.ratio for each in found.effects] == pytest.approx(np.exp(truth).tolist(), rel=0.05)
    assert found.closes is True


def test_a_factorial_study_cut_short_attributes_nothing() -> None:
    study = a_study(design=Design(kind="factorial", fractions=1, hidden=False))
    analysis = analyse(study, a_run(study, {}, 5))
    assert analysis.attributions == ()
