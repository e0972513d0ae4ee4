"""The main table: each flag on each workload, taken out and put in, paying or harming, measured or not."""

from __future__ import annotations

import msgspec
import pytest

from harness.analyse.analysis import analyse
from harness.analyse.records import Analysis
from harness.study import OPTIMIZATIONS, Design, Expectation, Study
from reports.flags import ABSENT, flag_tables, ranking, stands_for
from tests.harness.analyse.synthetic import STEADY, SURGE, a_run, a_study

FACTORS = {"all": 0.5, "all-pooling": 1.0, "all-metrics": 0.4, "pooling": 0.5, "buffer_pool": 1.5}


@pytest.fixture(scope="module")
def study() -> Study:
    return a_study(design=Design(kind="ablation"), workloads=(SURGE, msgspec.structs.replace(STEADY, arms=("none",))))


@pytest.fixture(scope="module")
def analysis(study: Study) -> Analysis:
    return analyse(study, a_run(study, FACTORS, 60))


def test_a_flag_pays_where_its_loss_hurts(study: Study, analysis: Analysis) -> None:
    without, alone = flag_tables(study, analysis)
    assert [name for name, _, _ in without.rows] == list(OPTIMIZATIONS)
    assert [name for name, _ in without.columns] == ["surge", "steady"]
    cells = {name: row for name, _, row in without.rows}
    assert (cells["pooling"][0].tone, cells["metrics"][0].tone) == ("better", "worse")
    singly = {name: row for name, _, row in alone.rows}
    assert (singly["pooling"][0].tone, singly["buffer_pool"][0].tone) == ("better", "worse")
    assert cells["pooling"][0].interval
    assert all(row[1] == ABSENT for row in (*cells.values(), *singly.values()))


def test_flags_rank_by_what_they_bring_alone(study: Study, analysis: Analysis) -> None:
    ranked = ranking(study, analysis)
    assert (ranked[0], ranked[-1]) == ("pooling", "buffer_pool")


def test_the_steps_of_the_plan_are_a_table_of_their_own() -> None:
    study = a_study(design=Design(kind="phases"))
    (steps,) = flag_tables(study, analyse(study, a_run(study, {"all": 0.5}, 20)))
    assert [name for name, _, _ in steps.rows] == [
        "+ pooling, cleanup",
        "+ rate_limit, circuit_breaker",
        "+ buffer_pool",
        "+ metrics",
    ]
    assert steps.rows[-1][2][0].tone == "better"


def test_what_is_expected_of_a_workload_stands_for_it(study: Study) -> None:
    assert stands_for(study, SURGE) == ("throughput", "")
    assert stands_for(study, STEADY) == ("latency_p50", "request")
    asked = Expectation(name="q", claim="c", workload="surge", metric="goodput", request="r", at_least=2.0)
    assert stands_for(a_study(asked), SURGE) == ("goodput", "r")


def test_no_table_without_such_a_design() -> None:
    study = a_study()
    assert list(flag_tables(study, analyse(study, a_run(study, {}, 8)))) == []
