"""The micro suite's judgement on readings made up for the purpose."""

from __future__ import annotations

import math

import pytest

from harness.analyse.micro import Case, CaseResult, Goal, Outcome, Reading, Room, analyse, outcome, savings


def column(variant: str, values: list[float], case: str = "take", faults: float = 0.0) -> list[Reading]:
    return [Reading("pool", case, variant, number, each, faults, each / 2) for number, each in enumerate(values)]


def judged(*readings: list[Reading], goals: tuple[Goal, ...] = (), unit: str = "second") -> CaseResult:
    case = Case("take", ("off", "on", "peer"), goals, unit)  # type: ignore[arg-type]
    room = Room("pool", "", ("peer",), (), {}, (case, Case("give", ("on", "peer"))))
    return analyse([room], [each for group in readings for each in group])[0]


SEVEN = [1.0, 1.1, 0.9, 1.2, 1.0, 0.8, 1.3]


def halved(values: list[float]) -> list[float]:
    return [each / 2 for each in values]


def test_ratios_are_taken_within_rounds() -> None:
    drifting = [each * 2.0**number for number, each in enumerate(SEVEN)]  # the machine slows down sixtyfold meanwhile
    found = judged(column("off", drifting), column("on", halved(drifting)))
    assert [each.variant for each in found.cells] == ["off", "on"]
    (one,) = found.ratios
    assert one.against == "off"
    assert one.estimate is not None
    assert one.estimate.ratio == pytest.approx(0.5)
    assert one.estimate.low == pytest.approx(0.5)
    assert one.estimate.high == pytest.approx(0.5)
    assert one.estimate.bounded


def test_too_few_rounds_bound_nothing() -> None:
    (one,) = judged(column("off", SEVEN[:5]), column("on", halved(SEVEN[:5]))).ratios
    assert one.estimate is not None
    assert not one.estimate.bounded


def test_variants_that_never_met_in_a_round_have_no_ratio() -> None:
    later = [Reading("pool", "take", "off", 99, 1.0)]
    (one,) = judged(later, column("on", SEVEN)).ratios
    assert one.estimate is None


def test_without_on_there_is_nothing_to_compare() -> None:
    found = judged(column("off", SEVEN), goals=(Goal(2.0, "off"), Goal(2.0)))
    assert found.ratios == ()
    assert [each.outcome for each in found.goals] == ["NOT MEASURED", "NOT MEASURED"]
    assert math.isnan(found.goals[0].value)


@pytest.mark.parametrize(("bound", "expected"), [(0.5, "MET"), (0.49, "MISSED")])
def test_a_goal_against_a_peer(bound: float, expected: Outcome) -> None:
    found = judged(column("peer", SEVEN), column("on", halved(SEVEN)), goals=(Goal(bound, "peer"),))
    (goal,) = found.goals
    assert goal.outcome == expected
    assert goal.value == pytest.approx(0.5)


def test_a_goal_against_another_case() -> None:
    doubled = [2 * each for each in SEVEN]
    found = judged(column("on", SEVEN), column("on", doubled, case="give"), goals=(Goal(0.6, "on", case="give"),))
    assert found.goals[0].outcome == "MET"
    assert found.goals[0].value == pytest.approx(0.5)


def test_a_goal_stays_open_where_the_interval_holds_its_bound() -> None:
    noisy = [each * factor for each, factor in zip(SEVEN, (0.2, 3.0, 0.4, 1.1, 2.0, 0.3, 5.0), strict=True)]
    found = judged(column("peer", SEVEN), column("on", noisy), goals=(Goal(1.0, "peer"),))
    assert found.goals[0].outcome == "INCONCLUSIVE"


def test_absolute_goals_count_bytes_once_and_time_often() -> None:
    counted = judged(column("on", [76.0]), goals=(Goal(80), Goal(70)), unit="byte")
    assert [each.outcome for each in counted.goals] == ["MET", "MISSED"]
    assert counted.goals[0].low == counted.goals[0].high == 76.0
    beside = judged(
        column("peer", [152.0]), column("on", [76.0]), goals=(Goal(0.6, "peer"), Goal(0.4, "peer")), unit="byte"
    )
    assert [each.outcome for each in beside.goals] == ["MET", "MISSED"]
    timed = judged(column("on", [76.0]), goals=(Goal(80),))
    assert timed.goals[0].outcome == "INCONCLUSIVE"
    assert judged(column("on", [76.0] * 7), goals=(Goal(80),)).goals[0].outcome == "MET"


def test_page_faults_are_judged_as_counted() -> None:
    goals = (Goal(1.0, of="page_faults"),)
    assert judged(column("on", SEVEN[:2], faults=0.2), goals=goals).goals[0].outcome == "MET"
    assert judged(column("on", SEVEN, faults=480.0), goals=goals).goals[0].outcome == "MISSED"


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.1, 0.2, "MET"), (0.3, 0.4, "MISSED"), (0.1, 0.4, "INCONCLUSIVE")]
)
def test_outcome_is_what_the_interval_says(low: float, high: float, expected: Outcome) -> None:
    assert outcome(low, high, 0.2) == expected


def test_savings_are_cpu_and_faults_of_cases_with_both_twins() -> None:
    both = judged(column("off", SEVEN, faults=480.0), column("on", halved(SEVEN), faults=1.0))
    alone = judged(column("on", SEVEN))
    assert savings([both, alone]) == ()
    (one,) = savings([both, alone], room="pool")
    assert (one.cpu_off, one.cpu_on, one.cpu_saved) == (0.5, 0.25, 0.25)
    assert (one.faults_off, one.faults_on) == (480.0, 1.0)


def test_an_interval_that_begins_at_its_bound_decides_nothing() -> None:
    assert [outcome(low, high, 1.0) for low, high in ((0.9, 1.0), (1.0, 1.1), (1.01, 1.1))] == [
        "MET",
        "INCONCLUSIVE",
        "MISSED",
    ]
