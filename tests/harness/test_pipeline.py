"""When a study may stop before its budget is spent: only if it says so, asks something, and all of it is answered."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from harness.execute.burst import BurstSpec
from harness.pipeline import Steering
from harness.plan.arms import layout
from harness.plan.schedule import burst
from harness.study.records import Budget, Expectation, Study
from tests.harness.analyse.synthetic import a_run, a_study


def expected(at_most: float) -> Expectation:
    return Expectation(name="p50", claim="less", workload="surge", metric="latency_p50", at_most=at_most)


def may_stop(study: Study) -> Study:
    return replace(study, budget=Budget(stop_early=True))


@pytest.mark.parametrize(
    ("study", "decided"),
    [
        (may_stop(a_study(expected(0.7))), True),
        (may_stop(a_study(expected(0.3))), True),  # missed is an answer too
        (may_stop(a_study(expected(0.7), replace(expected(0.5), name="close"))), False),
        (a_study(expected(0.7)), False),
        (may_stop(a_study()), False),
    ],
)
def test_a_study_stops_when_all_it_asks_is_answered(study: Study, decided: bool) -> None:
    assert Steering(study).decided(a_run(study, {"all": 0.5}, bursts=20)) is decided


def test_the_processes_of_a_study_are_left_as_they_are() -> None:
    study = a_study()
    plan = BurstSpec(0, (), ())
    assert Steering(study).processes(burst(study, layout(study), 0), plan) is plan
