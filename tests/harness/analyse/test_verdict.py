"""Verdicts follow the interval and the family, and say so in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from harness.analyse.contrast import Contrast, Readings, judge_contrast
from harness.analyse.records import Verdict
from harness.analyse.verdict import Question, describe_bound, holm, judge
from harness.measure.metrics import NO_COUNTER, metric
from harness.study.records import Budget, Expectation, Study
from tests.harness.analyse import reference
from tests.harness.analyse.synthetic import a_study


def expected(
    metric: str = "latency_p50", at_most: float | None = None, at_least: float | None = None, name: str = "x"
) -> Expectation:
    return Expectation(name=name, claim="the plan", workload="surge", metric=metric, at_most=at_most, at_least=at_least)


def asked(expectation: Expectation, ratios: Sequence[float | str], study: Study | None = None) -> Question:
    """The question with one pair per burst at these ratios, or why it has none."""
    of = metric(expectation.metric)
    ask = Contrast("none", "all", "treatment", "surge", of, "request", "slice")
    a = Readings({(n, 0): 1.0 for n in range(len(ratios))}, 10**6)
    b = Readings({(n, 0): ratio or "zero" for n, ratio in enumerate(ratios)}, 10**6)
    return Question(expectation, "none", *judge_contrast(ask, a, b, study or a_study(), 0.95))


def judged(expectation: Expectation, ratios: Sequence[float | str], void: str = "") -> Verdict:
    return judge([asked(expectation, ratios)], a_study(expectation), void)[0]


def around(ratio: float, bursts: int = 12, spread: float = 0.014) -> list[float]:
    return [float(each) for each in ratio * np.exp(spread * np.linspace(-1, 1, bursts))]


@pytest.mark.parametrize(
    ("ratio", "at_most", "at_least", "outcome"),
    [
        (0.08, 0.30, None, "MET"),
        (0.5, 0.30, None, "MISSED"),
        (0.30, 0.30, None, "INCONCLUSIVE"),
        (5.0, None, 2.5, "MET"),
        (2.0, None, 2.5, "MISSED"),
        (2.5, None, 2.5, "INCONCLUSIVE"),
    ],
)
def test_outcome_follows_the_interval(
    ratio: float, at_most: float | None, at_least: float | None, outcome: str
) -> None:
    assert judged(expected(at_most=at_most, at_least=at_least), around(ratio)).outcome == outcome


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("ratios", "at_most", "at_least", "outcome"),
    [
        ([1.0] * 12, 1.0, None, "MET"),  # no more than before, where nothing changed
        ([1.0] * 12, None, 1.0, "MET"),
        ([0.3] * 12, 0.3, None, "MET"),
        ([math.nextafter(1.0, 2.0)] * 12, 1.0, None, "MET"),  # as a quotient may be rounded
        ([0.9] * 3 + [1.0] * 9, 1.0, None, "MET"),
        ([0.9] * 3 + [1.0] * 9, None, 1.0, "INCONCLUSIVE"),
        ([1.0] * 4, 1.0, None, "INCONCLUSIVE"),  # too few to tell
        ([1.0] * 11 + [1.1], None, 1.1, "MISSED"),
    ],
)
def test_the_bound_itself_is_on_the_claimed_side(
    ratios: list[float], at_most: float | None, at_least: float | None, outcome: str, early: bool
) -> None:
    claim = expected(at_most=at_most, at_least=at_least)
    study = msgspec.structs.replace(a_study(claim), budget=Budget(stop_early=early))
    (found,) = judge([asked(claim, ratios, study)], study)
    assert found.outcome == outcome
    assert "Holm" not in found.sentence


@pytest.mark.parametrize(
    ("limited", "name", "ratio", "bound", "outcome"),
    [
        ("all", "throughput", 2.0, 2.5, "INCONCLUSIVE"),  # it may be more than that
        ("all", "throughput", 3.0, 2.5, "MET"),
        ("none", "throughput", 3.0, 2.5, "INCONCLUSIVE"),  # of what may be more
        ("none", "throughput", 2.0, 2.5, "MISSED"),
        ("all", "latency_p50", 0.5, 0.3, "INCONCLUSIVE"),
        ("all", "latency_p50", 0.1, 0.3, "MET"),
        ("none", "latency_p50", 0.1, 0.3, "INCONCLUSIVE"),
        ("none", "latency_p50", 0.5, 0.3, "MISSED"),
    ],
)
def test_what_the_load_process_held_back_is_not_held_against_the_system(
    limited: str, name: str, ratio: float, bound: float, outcome: str
) -> None:
    faster = name == "throughput"
    claim = expected(name, at_least=bound if faster else None, at_most=None if faster else bound)
    question = dataclasses.replace(asked(claim, around(ratio)), limited=frozenset({limited}))
    (found,) = judge([question], a_study(claim))
    assert found.outcome == outcome
    assert (f"the load process was the limit of {limited}" in found.sentence) == (outcome == "INCONCLUSIVE")


def test_sentences() -> None:
    assert judged(expected(at_most=0.3), around(0.08)).sentence == (
        "Median latency on surge fell by 92 % (interval 91.9 to 92.1 %) against none; claimed: at least 70 % less: MET"
    )
    assert judged(expected("throughput", at_least=2.5), around(2.0)).sentence == (
        "Throughput on surge became 2 times as high (interval 1.99 to 2.01 times) against none;"
        " claimed: at least 2.5 times: MISSED"
    )
    assert judged(expected("cpu_per_request", at_most=1.02), around(1.02)).sentence == (
        "CPU per request on surge rose by 2 % (interval 1.35 to 2.65 %) against none;"
        " claimed: at most 2 % more: INCONCLUSIVE (the interval contains the claimed bound)"
    )
    assert judged(expected("success_ratio", at_least=0.99), around(1.0, spread=0.0)).sentence == (
        "Success ratio on surge did not change against none; claimed: at most 1 % less: MET"
    )
    of_one = msgspec.structs.replace(expected(at_most=0.3), request="connect")
    assert judged(of_one, around(0.08)).sentence.startswith("Median latency of connect on surge fell by 92 % (")
    assert "interval not bounded" in judged(expected(at_most=0.3), around(0.1, bursts=4)).sentence
    assert "times as high (interval not bounded)" in judged(expected(at_least=3), around(9, bursts=4)).sentence
    assert describe_bound("at_least", 0.98) == "at most 2 % less"
    assert describe_bound("at_least", 1.5) == "at least 50 % more"
    assert describe_bound("at_most", 3.0, times=True) == "at most 3 times"


def test_undecided_says_why() -> None:
    few = judged(expected(at_most=0.3), around(0.1, bursts=4))
    assert (few.outcome, few.reason) == ("INCONCLUSIVE", "4 bursts are too few for an interval")
    none = judge([Question(expected(at_most=0.3), "none")], a_study())[0]
    assert (none.outcome, none.reason) == ("INCONCLUSIVE", "no pair of all and none was measured")
    assert none.sentence.startswith("Median latency against none: INCONCLUSIVE (no pair")
    unusable = judged(expected(at_most=0.3), [0.0] * 12)
    assert (unusable.outcome, unusable.reason) == ("INCONCLUSIVE", "no usable pair: 12 x zero")
    tail = judged(expected("latency_p999", at_most=0.3), around(0.1))
    assert tail.outcome == "INCONCLUSIVE"
    assert tail.reason.startswith("not resolvable")
    assert tail.p_value == 1.0


def test_what_the_machine_cannot_count_is_not_measurable_and_what_it_can_is_judged() -> None:
    counter, other = expected("cache_misses_per_request", at_most=0.9, name="c"), expected(at_most=0.3)
    study = a_study(counter, other)
    without = asked(counter, [NO_COUNTER] * 12)
    verdicts = judge([without, asked(other, around(0.1))], study)
    assert [each.outcome for each in verdicts] == ["NOT MEASURABLE", "MET"]
    assert verdicts[0].sentence == (
        "Cache misses per request on surge against none: NOT MEASURABLE (this machine shows us no counter of it;"
        " claimed: at least 10 % less)"
    )
    assert judge([without], study, "void")[0].outcome == "NOT MEASURABLE"
    assert judged(counter, around(0.5)).outcome == "MET"
    partly = judged(counter, [*around(0.5), *[NO_COUNTER] * 12])
    assert (partly.outcome, partly.reason) == ("INCONCLUSIVE", "12 of 24 pairs are unusable: 12 x no counter")


def test_an_invalid_measurement_shows_nothing() -> None:
    verdict = judged(expected(at_most=0.3), around(0.08), void="errors: 12 % failed")
    assert verdict.outcome == "INCONCLUSIVE"
    assert verdict.sentence.endswith("INCONCLUSIVE (the measurement is invalid: errors: 12 % failed)")


def test_holm_may_decide_beyond_the_family_interval_and_says_so() -> None:
    """Seven questions: six clear ones free the level for the seventh, whose family interval still holds the
    bound.
    """
    clear = [expected(at_most=0.3, name=f"clear {n}") for n in range(6)]
    close = expected(at_most=0.3, name="close")
    study = a_study(*clear, close)
    confidence = study.family_confidence
    ratios = [*around(0.2, bursts=15), 0.5, 0.5]
    ask = Contrast("none", "all", "treatment", "surge", metric("latency_p50"), "request", "slice")
    a = Readings({(n, 0): 1.0 for n in range(17)}, 100)
    b = Readings(dict(zip(a.values, ratios, strict=True)), 100)
    question = Question(close, "none", *judge_contrast(ask, a, b, study, confidence))
    verdicts = judge([*(asked(each, around(0.1, bursts=30)) for each in clear), question], study)
    assert verdicts[-1].outcome == "MET"
    shown = verdicts[-1].contrast
    assert shown is not None
    assert shown.estimate is not None
    assert shown.estimate.low <= 0.3 <= shown.estimate.high
    assert "decided by Holm's step-down, adjusted p = 0.04" in verdicts[-1].sentence


def test_sequential_p_values_are_those_of_the_e_process() -> None:
    study = msgspec.structs.replace(a_study(expected(at_most=0.3)), budget=Budget(stop_early=True))
    few, enough = (judge([asked(expected(at_most=0.3), [0.2] * bursts, study)], study)[0] for bursts in (7, 8))
    assert few.p_value == pytest.approx(2 * 8 / 255)
    assert (few.outcome, few.reason) == ("INCONCLUSIVE", "7 bursts are too few for an interval")
    assert enough.p_value == pytest.approx(2 * 9 / 511)
    assert enough.outcome == "MET"
    assert "Holm" not in enough.sentence


def test_holm_matches_statsmodels() -> None:
    p_values = np.random.default_rng(8).uniform(size=9) ** 3
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([]) == ()


@given(st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=12))
def test_holm_matches_the_reference(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(reference.holm(p_values))


def test_the_side_shown_stands_though_the_median_crosses_the_bound_later() -> None:
    """Sequential evidence once reached counts, and on the side it was reached on."""
    study = msgspec.structs.replace(a_study(expected(at_most=1.0)), budget=Budget(stop_early=True))
    ratios = [0.9] * 12 + [1.1] * 14
    (verdict,) = judge([asked(expected(at_most=1.0), ratios, study)], study)
    assert verdict.contrast is not None
    assert verdict.contrast.estimate is not None
    assert verdict.contrast.estimate.ratio > 1.0
    assert verdict.outcome == "MET"


def test_a_tenth_of_pairs_without_a_value_is_too_much() -> None:
    fine = judged(expected(at_most=0.30), [*around(0.1, 18), 0.0, 0.0])
    gone = judged(expected(at_most=0.30), [*around(0.1, 17), 0.0, 0.0])
    assert fine.outcome == "MET"
    assert gone.outcome == "INCONCLUSIVE"
    assert gone.reason == "2 of 19 pairs are unusable: 2 x zero"
