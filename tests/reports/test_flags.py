"""The main table: each flag on each workload, taken out and put in, paying or harming, measured or not."""

from __future__ import annotations

import io
import re

import msgspec
import pytest
from rich.console import Console

from harness.analyse.analysis import analyse
from harness.analyse.records import Analysis
from harness.study.records import OPTIMIZATIONS, Design, Expectation, Study, Workload
from reports import markdown, terminal
from reports.flags import ABSENT, flag_tables, ranking, steps_in_text, told_by
from tests.harness.analyse.synthetic import STEADY, SURGE, a_run, a_study
from tests.reports.sample import INFO

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
    assert ranked is not None
    assert (ranked.how, ranked.shown[0], ranked.shown[-1]) == (
        "alone",
        ("pooling", "high"),
        ("buffer_pool", "medium"),
    )
    shown = {name for name, _ in ranked.shown}
    assert {*shown, *ranked.level} == {*OPTIMIZATIONS}
    assert not shown & {*ranked.level}, "what shows nothing has no rank"
    assert ranked.workloads == ("surge",)


def test_the_steps_of_the_plan_are_a_table_of_their_own() -> None:
    study = a_study(design=Design(kind="phases"))
    analysis = analyse(study, a_run(study, {"all": 0.5}, 20))
    (steps,) = flag_tables(study, analysis)
    assert [(name, priority) for name, priority, _ in steps.rows] == [
        ("+ pooling, cleanup", "high"),
        ("+ rate_limit, circuit_breaker", "medium"),
        ("+ buffer_pool", "medium"),
        ("+ metrics", "low"),
    ]
    assert steps.rows[-1][2][0].tone == "better"
    ranked = ranking(study, analysis)
    assert ranked is not None
    assert (ranked.how, ranked.shown[0]) == ("step by step", ("metrics", "low"))


def test_the_steps_are_told_without_a_page_too() -> None:
    study = a_study(design=Design(kind="phases"))
    analysis = analyse(study, a_run(study, {"all": 0.5}, 20))
    (told,) = steps_in_text(study, analysis)
    assert told.headings == ("step", "surge: throughput")
    assert told.rows[-1][0] == "+ metrics"
    assert re.fullmatch(r"\+\d+\.?\d*\u202f% \(.*\)", told.rows[-1][1])
    assert "+ metrics" in markdown.render(study, analysis, INFO)
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(terminal.result(study, analysis, INFO))
    assert "+ metrics" in console.export_text()
    other = a_study(design=Design(kind="ablation"))
    assert not list(steps_in_text(other, analyse(other, a_run(other, FACTORS, 30))))


def test_a_workload_is_told_by_all_that_is_expected_of_it(study: Study, analysis: Analysis) -> None:
    assert told_by(study, analysis, SURGE) == (("throughput", ""),)
    assert told_by(study, analysis, STEADY) == (("latency_p50", "request"),)
    asked = Expectation(name="q", claim="c", workload="surge", metric="goodput", request="r", at_least=2.0)
    more = Expectation(name="p", claim="c", workload="surge", metric="latency_p50", at_most=1.0)
    again = msgspec.structs.replace(more, name="again", at_most=0.5)
    memory = Expectation(name="m", claim="c", workload="surge", metric="memory", at_most=1.0)
    several = a_study(asked, more, again, memory)
    assert told_by(several, analysis, SURGE) == (("goodput", "r"), ("latency_p50", "request"))


def test_what_this_machine_cannot_count_is_shown_as_such_and_ranks_nothing() -> None:
    misses = Expectation(name="q", claim="c", workload="surge", metric="cache_misses_per_request", at_most=1.0)
    study = a_study(misses, design=Design(kind="ablation"))
    analysis = analyse(study, a_run(study, FACTORS, 60))
    assert told_by(study, analysis, SURGE) == (("throughput", ""), ("cache_misses_per_request", ""))
    _, alone = flag_tables(study, analysis)
    assert {row[1].interval for _, _, row in alone.rows} == {"not measurable"}
    assert ranking(study, analysis) is not None


def test_flags_are_ranked_only_where_all_of_them_were_measured_alone() -> None:
    partly = msgspec.structs.replace(SURGE, arms=("none", "pooling", "all"))
    study = a_study(design=Design(kind="ablation"), workloads=(partly,))
    assert ranking(study, analyse(study, a_run(study, FACTORS, 60))) is None


def test_what_is_not_resolved_is_no_number() -> None:
    asked = Expectation(name="q", claim="c", workload="surge", metric="error_ratio", at_most=2.0)
    study = a_study(asked, design=Design(kind="ablation"))
    measured = a_run(study, FACTORS, 20)
    rows = tuple(
        msgspec.structs.replace(row, started=0) if row.burst % 5 == 0 and row.arm == "pooling" else row
        for row in measured.slices
    )
    _, alone = flag_tables(study, analyse(study, msgspec.structs.replace(measured, slices=rows)))
    cells = {name: row[0] for name, _, row in alone.rows}
    assert (cells["pooling"].effect, cells["pooling"].tone) == ("not resolved", "absent")
    assert "pairs are unusable" in cells["pooling"].interval
    assert cells["cleanup"].tone != "absent"


def test_no_table_without_such_a_design() -> None:
    study = a_study()
    assert list(flag_tables(study, analyse(study, a_run(study, {}, 8)))) == []


def test_memory_after_the_fixed_work_is_not_taken_for_that_of_an_episode() -> None:
    asked = Expectation(name="q", claim="c", workload="mesh", metric="target_memory", at_most=0.6)
    mesh = Workload(name="mesh", file="mesh.py", episode_seconds=1.0, arms=("none", "all"))
    study = a_study(asked, design=Design(kind="ablation"), workloads=(SURGE, mesh))
    measured = a_run(study, FACTORS, 30)
    assert any(each.metric == "target_memory" and not each.workload for each in analyse(study, measured).contrasts)
    for table in flag_tables(study, analyse(study, measured)):
        column = [name for name, _ in table.columns].index("mesh")
        assert all(row[column] == ABSENT for _, _, row in table.rows)
