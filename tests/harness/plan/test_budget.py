"""The planner's promises: what fits, what can be proven, and what is refused."""

from __future__ import annotations

import math
import re

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analyse.centre import centre_interval
from harness.errors import StudyError
from harness.plan.arms import layout
from harness.plan.budget import (
    PAIR_SD,
    Costs,
    Forecast,
    Proof,
    burst_seconds,
    bursts_needed,
    forecast,
    foreseen,
    left,
    resolution,
    sequential_bursts_needed,
)
from harness.plan.schedule import kind
from harness.study.file import find, load
from harness.study.records import Budget, Design, Expectation, Study, Workload
from tests.harness.analyse.simulation import differences

SURGE = Workload(name="surge", file="surge.py", slice_seconds=0.2, quiet_seconds=0.01)


def asked(name: str, metric: str = "latency_p50", against: tuple[str, ...] = ("none",)) -> Expectation:
    return Expectation(name=name, claim="c", workload="surge", metric=metric, against=against, at_most=0.3)


def a_study(*expectations: Expectation, budget: Budget | None = None, design: Design | None = None) -> Study:
    return Study(
        name="s",
        title="t",
        design=design or Design(controls=("first-day-reuse",)),
        budget=budget or Budget(),
        workloads=(SURGE,),
        expectations=expectations,
    )


def planned(study: Study, costs: Costs | None = None) -> Forecast:
    return forecast(study, layout(study), costs)


def test_time_is_the_sum_of_its_parts() -> None:
    study = a_study()
    costs = Costs(start=1.0, warmup=0.5, switch=0.02, task=0.25 / study.budget.memory_requests)
    assert burst_seconds(study, layout(study), costs) == pytest.approx(4 * (1.0 + 0.25 + 0.5 + 3 * 0.23))
    own = msgspec.structs.replace(study, workloads=(msgspec.structs.replace(SURGE, blocks=5),))
    more = burst_seconds(own, layout(own), costs) - burst_seconds(study, layout(study), costs)
    assert more == pytest.approx(4 * 2 * 0.23)
    tails = msgspec.structs.replace(study, workloads=(msgspec.structs.replace(SURGE, segment_seconds=10.0),))
    more = burst_seconds(tails, layout(tails), costs) - burst_seconds(study, layout(study), costs)
    assert more == pytest.approx(4 * 2 * 10.03)
    warmed = msgspec.structs.replace(study, workloads=(msgspec.structs.replace(SURGE, warm_tasks=100),))
    more = burst_seconds(warmed, layout(warmed), costs) - burst_seconds(study, layout(study), costs)
    assert more == pytest.approx(4 * 100 * costs.task)
    for rate, task in ((0.0, 2.0 * costs.task), (50.0, 0.02)):  # at half the capacity, or at what was asked for
        opened = msgspec.structs.replace(SURGE, arrivals="poisson", rate=rate)
        of = msgspec.structs.replace(study, workloads=(opened,))
        paced = msgspec.structs.replace(study, workloads=(msgspec.structs.replace(opened, warm_tasks=100),))
        more = burst_seconds(paced, layout(paced), costs) - burst_seconds(of, layout(of), costs)
        assert more == pytest.approx(4 * 100 * task)
    alone = Workload(name="churn", file="churn.py", episode_seconds=3.0, settle_seconds=1.0, arms=("none", "all"))
    episodes = msgspec.structs.replace(study, workloads=(alone,))
    assert burst_seconds(episodes, layout(episodes), costs) == pytest.approx(2 * (1.0 + 3.0 + 0.01 + 1.0 + 0.02))


@given(st.floats(1.0, 2000.0), st.integers(1, 40), st.integers(40, 200))
def test_as_many_bursts_as_fit(seconds: float, least: int, most: int) -> None:
    budget = Budget(seconds=seconds, min_bursts=least, max_bursts=most)
    found = planned(a_study(budget=budget))
    assert least <= found.bursts <= most
    assert found.seconds == pytest.approx(found.bursts * found.burst_seconds)
    if least < found.bursts < most:
        assert found.seconds <= seconds < found.seconds + found.burst_seconds


@pytest.mark.parametrize("confidence", [0.5, 0.75, 0.9, 0.95, 1 - 0.05 / 3, 0.99, 0.999])
def test_bursts_needed_is_what_the_interval_needs(confidence: float) -> None:
    needed = bursts_needed(confidence)
    assert math.isfinite(centre_interval(np.arange(float(needed)), confidence)[0])
    assert not math.isfinite(centre_interval(np.arange(needed - 1.0), confidence)[0])


def test_sequential_bursts_needed() -> None:
    assert [sequential_bursts_needed(alpha) for alpha in (0.05, 0.05 / 3, 0.001, 0.0001)] == [7, 9, 13, 17]


def test_resolution_is_what_simulation_gives() -> None:
    """The promised half width against the intervals of simulated studies of that size."""
    rng = np.random.default_rng(6)
    d = differences(0.0, (200, 30), rng, blocks=3).reshape(200, 30, 3)
    widths = [np.subtract(*centre_interval(np.median(each, axis=1), 0.95)[::-1]) / 2.0 for each in d]
    assert resolution(0.045, 3, 30, 0.95) == pytest.approx(float(np.median(widths)), rel=0.2)
    assert resolution(0.045, 1, 30, 0.95) > resolution(0.045, 3, 30, 0.95) > resolution(0.045, 3, 60, 0.95)


def test_proofs_say_what_each_question_gets() -> None:
    study = a_study(
        asked("latency", against=("none", "first-day-reuse")),
        asked("memory", "target_memory"),
        asked("tail", "latency_p99"),
        asked("cache", "cache_misses_per_request"),
    )
    found = planned(study)
    assert [(each.expectation, each.against) for each in found.proofs] == [
        ("latency", "none"),
        ("latency", "first-day-reuse"),
        ("memory", "none"),
        ("tail", "none"),
        ("cache", "none"),
    ]
    assert {each.needed for each in found.proofs} == {bursts_needed(1 - 0.05 / 4)}
    assert {each.bursts for each in found.proofs} == {found.bursts}
    assert found.proofs[0].resolution < found.proofs[2].resolution
    assert found.proofs[0].resolution < found.proofs[3].resolution
    assert "latency_p50" in PAIR_SD


def test_more_blocks_of_a_workload_prove_more_about_it() -> None:
    study = a_study(asked("latency"), budget=Budget(seconds=1e6, max_bursts=20))
    more = msgspec.structs.replace(study, workloads=(msgspec.structs.replace(SURGE, blocks=12),))
    assert planned(more).proofs[0].resolution < planned(study).proofs[0].resolution


def test_sets_that_take_turns_share_the_bursts() -> None:
    budget = Budget(seconds=2000.0, max_bursts=100)
    found = planned(a_study(asked("latency"), budget=budget, design=Design(kind="ablation")))
    sets = len(layout(a_study(design=Design(kind="ablation"))).sets)
    assert found.proofs[0].bursts == 100 // sets


def test_a_question_gets_more_when_the_table_waits() -> None:
    budget = Budget(seconds=2000.0, max_bursts=100)
    often = a_study(asked("latency"), budget=budget, design=Design(kind="ablation"))
    seldom = msgspec.structs.replace(often, budget=msgspec.structs.replace(budget, table_every=2))
    sets = len(layout(often).sets)
    (before,), (now,) = planned(often).proofs, planned(seldom).proofs
    rounds = (sets, math.ceil((sets + 1) / 2))  # the pair's place in its last round is drawn
    for proof, each in zip((before, now), rounds, strict=True):
        assert (proof.needed - 1) * each < proof.run <= proof.needed * each
    assert now.bursts == 200 // (sets + 1)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_question_gets_what_the_schedule_gives_it(seed: int) -> None:
    """None and all meet in the first sets of each round and in some folded ones, whose order is drawn."""
    study = msgspec.structs.replace(load(find("attribution")), seed=seed, expectations=(asked("throughput"),))
    for bursts in range(24, 40):
        budget = msgspec.structs.replace(study.budget, seconds=1e6, min_bursts=1, max_bursts=bursts)
        of = layout(study)
        met = [any({"none", "all"} <= {*arms} for _, arms in kind(study, of, n).playing) for n in range(bursts)]
        try:
            (proof,) = planned(msgspec.structs.replace(study, budget=budget)).proofs
        except StudyError:
            assert sum(met) < 6
        else:
            assert proof.bursts == sum(met) >= 6
            assert sum(met[: proof.run]) == 6
            assert met[proof.run - 1]


def test_switches_that_could_not_be_told_apart_are_refused_with_what_it_takes() -> None:
    """Without an expectation too: such a run would end with an empty table."""

    def crossed(bursts: int) -> Study:
        budget = Budget(seconds=1e6, min_bursts=1, max_bursts=bursts)
        return a_study(budget=budget, design=Design(kind="factorial"))

    refused = r"a factorial design of 6 switches gets \d bursts of its cells, but 7 are .*: allow (\d+) bursts"
    with pytest.raises(StudyError, match=refused) as one:
        planned(crossed(1))
    told = re.search(refused, str(one.value))
    assert told is not None
    assert planned(crossed(int(told[1]))).bursts == int(told[1])
    with pytest.raises(StudyError, match="gets 6 bursts"):
        planned(crossed(int(told[1]) - 1))


def test_a_factorial_design_needs_a_workload_for_its_cells() -> None:
    crossed = a_study(design=Design(kind="factorial"))
    named = msgspec.structs.replace(SURGE, arms=("none", "all"))
    with pytest.raises(StudyError, match="workloads in slices that name no arms; expected one"):
        planned(msgspec.structs.replace(crossed, workloads=(named,)))


@pytest.mark.parametrize("beside", [(), (SURGE,)])
def test_a_workload_on_which_nothing_is_compared_is_refused(beside: tuple[Workload, ...]) -> None:
    alone = msgspec.structs.replace(SURGE, name="alone", arms=("all",))
    with pytest.raises(StudyError, match="workload 'alone' has no two arms to compare in this run"):
        planned(msgspec.structs.replace(a_study(), workloads=(*beside, alone)))


def test_an_undecidable_question_is_refused_with_what_it_needs() -> None:
    few = Budget(seconds=10.0, min_bursts=2, max_bursts=5)
    one = r"'latency' against 'none' gets 2 bursts, but 6 are .* can decide the one question at .* \(seconds\)$"
    with pytest.raises(StudyError, match=one):
        planned(a_study(asked("latency"), budget=few))
    two = r"can decide one of 2 questions at .* \(seconds\), or ask fewer questions$"
    with pytest.raises(StudyError, match=two):
        planned(a_study(asked("latency"), asked("more"), budget=few))
    with pytest.raises(StudyError, match=r"gets 2 bursts, but 8 are"):
        planned(a_study(asked("latency"), budget=msgspec.structs.replace(few, stop_early=True)))
    starved = Budget(seconds=10.0, min_bursts=1, max_bursts=1)
    with pytest.raises(StudyError, match=r"gets 0 bursts, .* allow \d+ bursts"):
        planned(a_study(asked("latency"), budget=starved, design=Design(kind="ablation")))
    assert planned(a_study(budget=few)).proofs == ()


PROOF = Proof("x", "none", 9, 8, run=20, resolution=0.1)


@pytest.mark.parametrize(
    ("done", "spent", "seconds"),
    [
        (0, 0.0, 100.0),
        (2, 100.0, 250.0),  # five of min_bursts are due, at the pace of the two so far
        (6, 1e6, 1e6 / 6.0),
        (7, 95.0, 0.0),  # another of 13.6 s does not fit
        (7, 70.0, 30.0),
        (7, 91.0, 0.0),  # nor one as the forecast has it
        (49, 1.0, 10.0),  # one is allowed
        (50, 0.0, 0.0),  # max_bursts
    ],
)
def test_bursts_are_due_while_they_fit_and_until_the_fewest_are_done(done: int, spent: float, seconds: float) -> None:
    study = a_study(budget=Budget(seconds=100.0, min_bursts=7, max_bursts=50))
    found = left(study, Forecast(9, 10.0, 90.0, 100.0, ()), done, spent, foreseen=10.0 * done)
    assert found == pytest.approx(seconds)


def test_what_the_questions_need_is_due_as_far_as_it_was_forecast() -> None:
    study = a_study(budget=Budget(seconds=100.0, min_bursts=7, max_bursts=50))
    assert left(study, Forecast(20, 5.0, 100.0, 100.0, (PROOF,)), 19, 190.0, 95.0) == pytest.approx(10.0)
    assert left(study, Forecast(20, 5.0, 100.0, 100.0, (PROOF,)), 20, 1e6, 100.0) == 0.0
    assert left(study, Forecast(12, 8.0, 96.0, 100.0, (PROOF,)), 12, 1e6, 96.0) == 0.0


def test_bursts_that_were_forecast_to_be_long_do_not_count_as_slow() -> None:
    study = a_study(budget=Budget(seconds=100.0, min_bursts=7, max_bursts=50))
    expected = Forecast(9, 10.0, 90.0, 100.0, ())
    assert left(study, expected, 2, 50.0, foreseen=50.0) == pytest.approx(50.0)
    assert left(study, expected, 2, 50.0, foreseen=25.0) == pytest.approx(100.0)  # each of five takes 20 s


def test_what_was_foreseen_of_bursts_is_the_sum_of_their_kinds() -> None:
    long = Workload(name="churn", file="churn.py", episode_seconds=60.0, arms=("none", "all"))
    study = msgspec.structs.replace(a_study(asked("latency")), workloads=(SURGE, long))
    of = layout(study)
    each = [foreseen(study, of, number + 1) - foreseen(study, of, number) for number in range(6)]
    assert len(of.kinds) == 2
    for first, second in (each[:2], each[2:4], each[4:]):
        assert {first > 100.0, second > 100.0} == {True, False}
        assert first + second == pytest.approx(2.0 * burst_seconds(study, of, Costs()))
