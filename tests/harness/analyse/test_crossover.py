"""Crossovers of a sweep: where known curves cross 1, and what is said when they do not."""

from __future__ import annotations

import math

import msgspec
import pytest

from harness.analyse.analysis import analyse
from harness.analyse.crossover import crossing, crossover
from harness.analyse.records import ContrastResult, Estimate
from harness.measure.records import Measured
from harness.study.records import Design, Sweep
from tests.harness.analyse.synthetic import SURGE, a_run, a_study

SWEEP = Sweep(workload="surge", parameter="users", values=(64.0, 1.0, 8.0))


def at_value(value: float, ratio: float, half: float = 0.1, bounded: bool = True) -> ContrastResult:
    low, high = ratio * math.exp(-half), ratio * math.exp(half)
    method = "signed rank" if bounded else "unbounded"
    estimate = msgspec.convert(
        {
            "ratio": ratio,
            "low": low,
            "high": high,
            "confidence": 0.95,
            "method": method,
            "bursts": 9,
            "pairs": 27,
            "sd": 0.0,
            "pair_sd": 0.0,
        },
        Estimate,
    )
    return ContrastResult(
        a="none",
        b="all",
        role="treatment",
        workload=f"surge[users={value:g}]",
        metric="latency_p50",
        request="request",
        source="slice",
        estimate=estimate,
        burst_numbers=(),
        burst_ratios=(),
        value_a=1.0,
        value_b=ratio,
        unusable=0,
        reasons={},
    )


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ((1.0, -1.0, -2.0), 0.5),
        ((2.0, 1.0, -3.0), 1.25),
        ((-1.0, -1.0, -1.0), None),
        ((-1.0, 1.0, -1.0), 1.5),
        ((0.0, 1.0, 2.0), 0.0),
        ((1.0, 0.0, 2.0), 1.0),
        ((2.0, 1.0, 0.0), 2.0),
        ((), None),
    ],
)
def test_crossing(heights: tuple[float, ...], expected: float | None) -> None:
    assert crossing((0.0, 1.0, 2.0)[: len(heights)], heights) == expected


def test_crossover_is_interpolated_on_the_logarithm_with_its_interval() -> None:
    """log ratio 0.3, 0, -0.3 at 1, 8, 64: crosses at 8; the ends, 0.1 away, a third of a factor of 8 off."""
    found = crossover(
        SWEEP,
        "latency_p50",
        "request",
        [at_value(1, math.exp(0.3)), at_value(8, 1.0), at_value(64, math.exp(-0.3))],
    )
    assert found is not None
    assert found.values == (1.0, 8.0, 64.0)
    assert found.at == pytest.approx(8.0)
    assert [found.low, found.high] == pytest.approx([8 ** (2 / 3), 8 ** (4 / 3)])
    assert found.pays_above is True


def test_ends_that_never_cross_are_infinite() -> None:
    shallow = [at_value(1, math.exp(0.05)), at_value(8, 1.0), at_value(64, math.exp(-0.3))]
    found = crossover(SWEEP, "latency_p50", "request", shallow)
    assert found is not None
    assert found.low == -math.inf
    assert found.high == pytest.approx(8 ** (4 / 3))
    always = crossover(SWEEP, "latency_p50", "request", [at_value(1, 0.5), at_value(8, 0.4)])
    assert always is not None
    assert (always.at, always.low, always.high, always.pays_above) == (None, -math.inf, math.inf, None)


def test_a_sweep_from_zero_is_interpolated_on_the_value_itself() -> None:
    sweep = Sweep(workload="surge", parameter="users", values=(0.0, 4.0, "many"))
    found = crossover(sweep, "latency_p50", "request", [at_value(0, math.exp(-0.1)), at_value(4, math.exp(0.3))])
    assert found is not None
    assert found.at == pytest.approx(1.0)
    assert found.pays_above is False


def test_episodes_and_what_is_read_after_them_are_swept_too() -> None:
    points = [at_value(1, math.exp(0.3)), at_value(8, math.exp(-0.3))]
    episodes = [msgspec.structs.replace(each, source="episode") for each in points]
    readings = [msgspec.structs.replace(each, source="reading", metric="memory", request="") for each in points]
    segments = [msgspec.structs.replace(each, source="segment") for each in points]
    for found in (
        crossover(SWEEP, "latency_p50", "request", [*episodes, *segments]),
        crossover(SWEEP, "memory", "", readings),
    ):
        assert found is not None
        assert found.at == pytest.approx(math.sqrt(8.0))
    assert crossover(SWEEP, "latency_p50", "request", segments) is None


def test_a_study_may_say_whose_crossover_it_seeks() -> None:
    sweep = Sweep(workload="surge", parameter="users", values=(1.0, 16.0), metric="cpu_per_request")
    study = a_study(design=Design(kind="sweep", sweep=sweep))
    found = analyse(study, a_run(study, {}, 12)).crossovers
    assert [each.metric for each in found] == ["cpu_per_request"]


def test_one_value_is_no_sweep() -> None:
    assert crossover(SWEEP, "latency_p50", "request", [at_value(1, 0.5), at_value(8, 2.0, bounded=False)]) is None


def test_a_sweep_study_says_where_it_pays() -> None:
    design = Design(kind="sweep", sweep=Sweep(workload="surge", parameter="users", values=(1.0, 16.0)))
    study = a_study(design=design)
    plain = a_run(study, {}, 12, sd_layout=0.005, sd_pair=0.01)
    rows = tuple(
        msgspec.structs.replace(row, seconds=row.seconds * (1.2 if "=16" in row.workload else 0.8))
        if row.arm == "all"
        else row
        for row in plain.slices
    )
    analysis = analyse(study, msgspec.structs.replace(plain, slices=rows))
    (found,) = (each for each in analysis.crossovers if each.metric == "throughput")
    assert found.at is not None
    assert 2.0 < found.at < 8.0
    assert found.pays_above is False
    assert {each.workload for each in analysis.contrasts if each.workload} == {"surge[users=1]", "surge[users=16]"}
    assert analyse(a_study(workloads=(SURGE,)), Measured((), (), ())).crossovers == ()
    assert analyse(study, Measured((), (), ())).crossovers == ()
