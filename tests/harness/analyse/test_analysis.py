"""The whole analysis of a made-up run: truths recovered, same rows same bytes, nothing lost on the way."""

from __future__ import annotations

import math
import random

import msgspec
import numpy as np
import pytest

from harness.analyse.analysis import analyse, interim
from harness.analyse.centre import centre_interval
from harness.errors import StudyError
from harness.measure.records import Latencies, Measured, Memory, Sample, Slice, Unanswered
from harness.study.records import Budget, Design, Expectation, Study, Workload
from tests.harness.analyse.synthetic import STEADY, SURGE, a_reading, a_run, a_stretch, a_study


def expectation(name: str, metric: str, workload: str = "surge", **fields: object) -> Expectation:
    known: dict[str, object] = {"name": name, "claim": "the plan", "workload": workload, "metric": metric}
    return msgspec.convert({**known, **fields}, Expectation)


EXPECTATIONS = (
    expectation("latency", "latency_p50", against=("none", "first-day-reuse"), at_most=0.3),
    expectation("throughput", "throughput", at_least=2.5),
    expectation("memory", "target_memory", at_most=0.6),
    expectation("cache", "cache_misses_per_request", at_most=0.9),
)
FACTORS = {"all": 0.2, "first-day-reuse": 0.5}


@pytest.fixture(scope="module")
def study() -> Study:
    return a_study(*EXPECTATIONS, workloads=(SURGE, STEADY))


@pytest.fixture(scope="module")
def measured(study: Study) -> Measured:
    return a_run(study, FACTORS, 14)


def test_one_verdict_is_told_in_the_singular() -> None:
    one = a_study(Expectation(name="q", claim="c", workload="surge", metric="throughput", at_least=2.0))
    assert analyse(one, a_run(one, {"all": 0.25}, 12)).answer.startswith("Of 1 verdict: 1 MET. Throughput on surge")


def test_truths_are_recovered(study: Study, measured: Measured) -> None:
    analysis = analyse(study, measured)
    assert [each.outcome for each in analysis.verdicts] == ["MET", "MISSED", "MET", "MET", "NOT MEASURABLE"]
    assert analysis.valid
    assert analysis.answer.startswith("Of 5 verdicts: 3 MET, 1 MISSED, 1 NOT MEASURABLE. Median latency on surge")
    assert analysis.family_confidence == pytest.approx(1 - 0.05 / 5)
    assert (analysis.arms, analysis.hidden) == (("none", "first-day-reuse", "all"), ("none-again",))
    assert (analysis.bursts, analysis.interrupted) == (14, 0)
    for verdict in analysis.verdicts:
        if verdict.contrast is not None and verdict.contrast.estimate is not None:
            shown = [*centre_interval(np.log(verdict.contrast.burst_ratios), 1 - 0.05 / 5)]
            found = [math.log(verdict.contrast.estimate.low), math.log(verdict.contrast.estimate.high)]
            assert found == pytest.approx(shown), "the interval of a verdict is at the family level"
    for each in analysis.contrasts:
        if each.metric == "latency_p50" and each.role == "treatment":
            assert each.estimate is not None
            assert each.estimate.low <= 0.2 * 1.01
            assert each.estimate.high >= 0.2 * 0.99


def test_same_rows_same_bytes_whatever_their_order(study: Study, measured: Measured) -> None:
    shuffled = [list(rows) for rows in (measured.bursts, measured.slices, measured.readings)]
    for rows in shuffled:
        random.Random(1).shuffle(rows)
    again = Measured(*(tuple(rows) for rows in shuffled))  # type: ignore[arg-type]
    one, other = (msgspec.json.encode(analyse(study, rows), order="deterministic") for rows in (again, measured))
    assert one == other


def test_views(study: Study, measured: Measured) -> None:
    analysis = analyse(study, measured)
    cells = {("surge", arm) for arm in analysis.arms} | {("steady", arm) for arm in analysis.arms}
    assert {(each.workload, each.arm) for each in analysis.curves} == cells
    assert {(each.workload, each.arm) for each in analysis.throughput} == cells
    assert {(each.workload, each.arm) for each in analysis.cpu} == cells
    assert all(max(each.percentiles) == 95.0 for each in analysis.curves)
    assert all(list(each.seconds) == sorted(each.seconds) for each in analysis.curves)
    moments = [each.at for each in analysis.throughput[0].points]
    assert moments == sorted(moments)
    assert len(moments) > 1
    assert [row.arm for row in analysis.memory] == list(analysis.arms)
    assert analysis.memory[-1].target_increase == pytest.approx(0.8e6, rel=0.05)
    assert analysis.memory[0].descriptors == 2.0
    assert analysis.cpu[0].target_busy == pytest.approx(0.3, rel=0.01)
    hits = next(each for each in analysis.gauges if each.name == "pooling.hits")
    assert (hits.end, hits.bursts[:3], hits.values[:3]) == ("target", (0, 1, 2), (0.0, 1.0, 2.0))
    assert {each.end for each in analysis.gauges} == {"target", "load"}
    surge = next(each for each in analysis.summaries if (each.workload, each.arm) == ("surge", "none"))
    assert (
        surge.started
        == surge.answered
        == sum(row.answered for row in measured.slices if (row.workload, row.arm) == ("surge", "none"))
    )
    assert all(each.quartile_low <= each.median <= each.quartile_high for each in surge.values)


def test_tails_come_only_from_segments() -> None:
    workload = msgspec.structs.replace(SURGE, segment_seconds=2.0)
    study = a_study(expectation("p99", "latency_p99", at_most=0.5), workloads=(workload,), design=Design(hidden=False))
    analysis = analyse(study, a_run(study, {"all": 0.2}, 8))
    tops = {(each.source, each.arm): max(each.percentiles) for each in analysis.curves}
    assert tops["slice", "all"] == 95.0
    assert tops["segment", "none"] == 99.9  # 16 segments, 32,000 requests
    few = analyse(study, a_run(study, {"all": 0.2}, 7))
    assert {max(each.percentiles) for each in few.curves if each.source == "segment"} == {99.0}  # 14 segments
    assert {each.source for each in analysis.contrasts if each.metric == "latency_p99"} == {"segment"}
    assert analysis.verdicts[0].outcome == "MET"
    assert analysis.hidden == ()


def test_further_request_names_have_their_own_estimates() -> None:
    study = a_study(expectation("connect", "latency_p50", request="connect", at_most=0.9))
    run = a_run(study, {"all": 0.5}, 10)
    rows = tuple(
        msgspec.structs.replace(
            row, latencies=(*row.latencies, Latencies("connect", np.full(3, row.began + 1, "<f4").tobytes()))
        )
        for row in run.slices
    )
    analysis = analyse(study, msgspec.structs.replace(run, slices=rows))
    assert {each.request for each in analysis.contrasts if each.metric == "latency_p50"} == {"request", "connect"}
    assert analysis.verdicts[0].request == "connect"
    assert {each.request for each in analysis.curves} == {"request", "connect"}


def test_no_rows_at_all() -> None:
    study = a_study(*EXPECTATIONS)
    analysis = analyse(study, Measured((), (), ()))
    assert not analysis.valid
    assert analysis.answer.startswith("INVALID, so nothing is claimed: bursts: 0 complete bursts of 0")
    assert {each.outcome for each in analysis.verdicts} == {"INCONCLUSIVE"}
    assert not any((analysis.curves, analysis.throughput, analysis.memory))


def test_an_expectation_on_an_unmeasured_workload() -> None:
    study = a_study(expectation("latency", "latency_p50", workload="dial", at_most=0.3))
    (verdict,) = interim(study, a_run(study, {}, 7))
    assert (verdict.outcome, verdict.contrast) == ("INCONCLUSIVE", None)
    with pytest.raises(StudyError, match="unknown metric"):
        interim(a_study(expectation("latency", "speed", at_most=0.3)), Measured((), (), ()))


def test_dead_arm_is_invalid_and_shown_as_such() -> None:
    study = a_study(expectation("latency", "latency_p50", at_most=0.3))
    run = a_run(study, {}, 8)
    rows = tuple(
        msgspec.structs.replace(
            row, answered=0, latencies=(), failed={"refused": row.started}, seconds=0.0, cpu_load=0.0
        )
        if row.arm == "all"
        else row
        for row in run.slices
    )
    analysis = analyse(study, msgspec.structs.replace(run, slices=rows))
    assert not analysis.valid
    assert analysis.verdicts[0].outcome == "INCONCLUSIVE"
    share = next(each for each in analysis.cpu if each.arm == "all")
    assert math.isnan(share.target_seconds)
    series = next(each for each in analysis.throughput if each.arm == "all")
    assert {point.value for point in series.points} == {0.0}
    contrast = next(each for each in analysis.contrasts if each.metric == "throughput")
    assert contrast.estimate is None
    assert contrast.problem == "no usable pair: 24 x the stretch has no duration"
    summary = next(each for each in analysis.summaries if each.arm == "all" and each.workload)
    assert summary.failed == {"refused": summary.started}


def test_the_answer_without_expectations_is_the_headline() -> None:
    study = a_study()
    analysis = analyse(study, a_run(study, {"all": 0.5}, 9))
    assert analysis.answer.startswith("all against none: median latency on surge fell by 49 % (")
    faster = analyse(study, a_run(study, {"all": 0.1}, 9))
    assert "throughput on surge became 9.82 times as high (" in faster.answer, "in the words of a verdict's sentence"
    empty = msgspec.structs.replace(study, budget=Budget(min_bursts=0))
    assert analyse(empty, Measured((), (), ())).answer == "Nothing was measured that could be compared."


def test_a_study_that_may_stop_early_shows_intervals_for_any_time() -> None:
    study = msgspec.structs.replace(a_study(*EXPECTATIONS[1:2]), budget=Budget(stop_early=True))
    run = a_run(study, {"all": 0.2}, 9)
    (verdict,) = interim(study, run)
    assert verdict.outcome == "MET"
    assert verdict.contrast is not None
    assert verdict.contrast.estimate is not None
    assert verdict.contrast.estimate.method == "sequential"
    early = msgspec.structs.replace(run, slices=tuple(row for row in run.slices if row.burst < 5))
    assert interim(study, early)[0].outcome == "INCONCLUSIVE"


def test_hand_made_rows_one_pair_per_burst() -> None:
    """Two arms, eight bursts, latencies 2 ms and 1 ms: the ratio is one half, to the float32 in the rows."""
    study = a_study(design=Design(hidden=False), min_bursts=1)
    rows = tuple(
        a_stretch(arm, burst=n, latency=latency) for n in range(8) for arm, latency in (("none", 0.002), ("all", 0.001))
    )
    analysis = analyse(study, Measured((), rows, (a_reading(), a_reading("all"))))
    found = next(each for each in analysis.contrasts if each.metric == "latency_p50")
    assert found.estimate is not None
    assert found.estimate.ratio == pytest.approx(0.5)
    assert [found.value_a, found.value_b] == pytest.approx([0.002, 0.001])


def test_episodes_are_compared_on_their_arms_with_what_they_left() -> None:
    churn = Workload(name="churn", file="churn.py", episode_seconds=8.0, arms=("none", "all"))
    study = a_study(workloads=(SURGE, churn))
    plain = a_run(study, {"all": 0.5}, 40)
    episodes = {row.burst for row in plain.slices if row.kind == "episode"}
    readings = tuple(
        msgspec.structs.replace(
            row,
            workload="churn",
            gauges={"node.connections": 41.0 if row.arm == "none" else 1.0},
            load_gauges={"cleanup.open": 0.0},
        )
        if row.burst in episodes
        else row
        for row in plain.readings
    )
    idle = plain.readings[0].target_idle
    samples = tuple(
        Sample(row.burst, row.arm, "churn", at, replace_uss(idle, 1_000 * at * (row.arm == "none")), idle, {})
        for row in plain.slices
        if row.kind == "episode"
        for at in range(1, 9)
    )
    found = analyse(study, msgspec.structs.replace(plain, readings=readings, samples=samples))
    about = [each for each in found.contrasts if each.workload == "churn"]
    assert {(each.a, each.b) for each in about} == {("none", "all")}
    (left,) = (each for each in about if each.metric == "registry_left")
    assert left.estimate is not None
    assert left.estimate.ratio == pytest.approx(1 / 41)
    assert {each.source for each in about} == {"episode", "reading"}
    slopes = {(each.arm, each.end): each for each in found.leaks}
    assert slopes["none", "target"].slope > 0.0
    assert slopes["none", "target"].low is not None
    assert slopes["all", "target"].slope == 0.0
    traces = {(each.arm, each.end): each for each in found.traces}
    assert traces["none", "target"].seconds == (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
    assert traces["none", "target"].added == tuple(1_000.0 * at for at in range(1, 9)), "beyond idle at ready"
    assert set(traces["all", "target"].added) == set(traces["none", "load"].added) == {0.0}
    assert {each.workload for each in found.traces} == {"churn"}
    assert traces["none", "target"].episodes == len(episodes)
    few = analyse(study, msgspec.structs.replace(plain, readings=readings, samples=samples[:16]))
    assert few.traces == (), "an episode that nobody watched has no line"
    assert all(each.low is None and each.high is None for each in few.leaks)
    assert analyse(study, msgspec.structs.replace(plain, readings=readings)).leaks == ()


def replace_uss(memory: Memory, more: float) -> Memory:
    return msgspec.structs.replace(memory, uss=memory.uss + int(more))


def test_of_many_comparisons_the_headline_tells_how_often() -> None:
    """All is halved, but for the latencies of one of the three workloads."""
    names = ("surge", "other", "third")
    study = a_study(workloads=tuple(msgspec.structs.replace(SURGE, name=name) for name in names))
    measured = a_run(study, {"all": 0.5}, 12)
    equal = {row.arm: row for row in a_run(study, {}, 12).slices if row.workload == "third"}
    rows = tuple(
        msgspec.structs.replace(row, latencies=equal["none"].latencies) if row.workload == "third" else row
        for row in measured.slices
    )
    answer = analyse(study, msgspec.structs.replace(measured, slices=rows)).answer
    assert answer.startswith("all against none: median latency fell in 2 of 3 comparisons; throughput rose in 3 of 3 ")
    assert "CPU per request fell in 3 of 3 comparisons." in answer


def test_percentiles_among_requests_without_an_answer_are_not_shown() -> None:
    study = a_study()
    plain = a_run(study, {"all": 0.5}, 7)
    name = study.workloads[0].request

    def losing(row: Slice, times: int) -> Slice:
        """So many times as many lost as answered."""
        lost = times * sum(len(each.service) // 4 for each in row.latencies if each.name == name)
        missed = (Unanswered(name, 0, lost, 0.0),)
        return msgspec.structs.replace(row, failed={"gone": lost}, unanswered=missed) if row.arm == "all" else row

    whole, half, nothing = (
        {(each.workload, each.arm): each for each in analyse(study, measured).curves if each.request == name}
        for times in (0, 1, 200)
        for measured in [msgspec.structs.replace(plain, slices=tuple(losing(row, times) for row in plain.slices))]
    )
    workload = study.workloads[0].name
    assert half[workload, "none"] == whole[workload, "none"]
    before, after = whole[workload, "all"], half[workload, "all"]
    assert max(before.percentiles) == 95.0
    assert max(after.percentiles) == 50.0
    of = dict(zip(before.percentiles, before.seconds, strict=True))
    lost = dict(zip(after.percentiles, after.seconds, strict=True))
    assert lost[10.0] == pytest.approx(of[20.0]), "the 10th of all is the 20th of the answered"
    assert lost[30.0] == pytest.approx(of[60.0])
    assert whole.keys() - nothing.keys() == {(workload, "all")}, "not even the first percentile got an answer"
