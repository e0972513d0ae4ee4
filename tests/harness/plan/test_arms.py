"""Designs become arms, and every comparison finds its two arms alive in one burst."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import StudyError
from harness.plan.arms import (
    CONTROLS,
    MAX_ARMS,
    cell_name,
    foldover_pairs,
    fraction,
    layout,
    pack,
    parse_cell,
    resolve_arm,
    workloads,
)
from harness.study.records import OPTIMIZATIONS, Arm, Design, DesignKind, Expectation, Study, Sweep, Switch, Workload
from reference_impl import optimizations

SURGE = Workload(name="surge", file="surge.py", env={"SIZE": "64"})
subsets = st.sets(st.sampled_from(OPTIMIZATIONS))


def a_study(design: Design, *expectations: Expectation, arms: tuple[Arm, ...] = ()) -> Study:
    return Study(name="s", title="t", design=design, workloads=(SURGE,), expectations=expectations, arms=arms)


def test_what_harness_and_node_both_name_is_the_same() -> None:
    """The harness knows the node as a process only, so each has these words of its own."""
    assert (OPTIMIZATIONS, CONTROLS) == (optimizations.OPTIMIZATIONS, optimizations.CONTROLS)


@given(subsets)
def test_cell_names_are_one_to_one(enabled: set[str]) -> None:
    parsed = parse_cell(cell_name(enabled, OPTIMIZATIONS), OPTIMIZATIONS)
    assert parsed is not None
    assert set(parsed) == enabled


def test_no_other_name_is_a_cell() -> None:
    assert [parse_cell(name, OPTIMIZATIONS) for name in ("al", "all-x", "pooling+x", "first-day-reuse")] == [None] * 4


@pytest.mark.parametrize("kind", ["on-off", "ablation", "phases", "factorial", "sweep"])
@pytest.mark.parametrize("hidden", [True, False])
def test_every_comparison_shares_a_set(kind: DesignKind, hidden: bool) -> None:
    sweep = Sweep(workload="surge", parameter="SIZE", values=(64,)) if kind == "sweep" else None
    design = Design(kind=kind, controls=("first-day-reuse",), hidden=hidden, sweep=sweep)
    plan = layout(a_study(design))
    for each in plan.comparisons:
        assert any({each.a, each.b} <= set(arms) for arms in plan.sets)
    for pair in plan.foldover:
        assert any(set(pair) <= set(arms) for arms in plan.sets[plan.foldover_from :])
    assert max(len(arms) for arms in plan.sets) <= MAX_ARMS
    names = [arm.name for arm in plan.arms]
    assert len(names) == len(set(names))
    assert {name for arms in plan.sets for name in arms} == set(names)
    assert names[0] == "none"
    assert [name for name in names if name not in plan.hidden][-1] == "all"
    assert plan.hidden == (("none-again",) if hidden else ())


def test_on_off_fits_one_set() -> None:
    plan = layout(a_study(Design(controls=("first-day-reuse",))))
    assert plan.sets == (("none", "all", "none-again", "first-day-reuse"),)
    by_name = {arm.name: arm.optimizations for arm in plan.arms}
    assert by_name == {
        "none": (),
        "first-day-reuse": ("first-day-reuse",),
        "all": OPTIMIZATIONS,
        "none-again": (),
    }


def test_ablation_and_phases_compare_what_they_say() -> None:
    roles = {(each.a, each.b): each.role for each in layout(a_study(Design(kind="ablation"))).comparisons}
    assert roles["all", "all-pooling"] == "without"
    assert roles["none", "metrics"] == "single"
    assert len(roles) == 2 + 12
    steps = [each for each in layout(a_study(Design(kind="phases"))).comparisons if each.role == "step"]
    assert [len(parse_cell(each.b, OPTIMIZATIONS) or ()) for each in steps] == [2, 4, 5, 6]
    assert [(each.a) for each in steps[1:]] == [each.b for each in steps[:-1]]


def test_expectations_bring_their_own_comparisons() -> None:
    asked = Expectation(
        name="cpu", claim="-30 %", workload="surge", metric="cpu_per_request", arm="buffer_pool", at_most=0.7
    )
    usual = Expectation(name="latency", claim="-70 %", workload="surge", metric="latency_p50", at_most=0.3)
    plan = layout(a_study(Design(), asked, usual))
    assert [(each.a, each.b, each.role) for each in plan.comparisons] == [
        ("none", "all", "treatment"),
        ("none", "none-again", "a/a"),
        ("none", "buffer_pool", "other"),
    ]


def test_declared_arms_come_first_and_unknown_ones_are_refused() -> None:
    tuned = Arm(name="malloc-tuned", env={"MALLOC_TRIM_THRESHOLD_": "1"})
    study = a_study(Design(controls=("malloc-tuned",)), arms=(tuned,))
    assert resolve_arm(study, "malloc-tuned") is tuned
    with pytest.raises(StudyError, match="unknown arm 'polling'; expected one of malloc-tuned, none, all"):
        resolve_arm(study, "polling")


def test_the_hidden_twin_is_the_baseline() -> None:
    base = Arm(name="a", env={"X": "1"})
    plan = layout(a_study(Design(baseline="a", treatment="all"), arms=(base,)))
    twin = plan.arms[-1]
    assert (twin.name, twin.env, twin.optimizations) == ("a-again", base.env, base.optimizations)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh")), max_size=20))
def test_packing_covers_every_pair(pairs: list[tuple[str, str]]) -> None:
    sets = pack(pairs)
    assert all(any({a, b} <= set(arms) for arms in sets) for a, b in pairs)
    assert all(len(arms) <= MAX_ARMS and len(set(arms)) == len(arms) for arms in sets)
    assert {name for arms in sets for name in arms} == {name for pair in pairs for name in pair}


@pytest.mark.parametrize("signs", [(1, 1), (-1, -1), (1, -1), (-1, 1)])
def test_fractions_have_resolution_four(signs: tuple[int, int]) -> None:
    """Main effects are orthogonal to each other and to all two-way interactions, by the definition of resolution IV."""
    cells = fraction(OPTIMIZATIONS, *signs)
    x = np.array([[1 if name in cell else -1 for name in OPTIMIZATIONS] for cell in cells])
    assert np.array_equal(x.T @ x, 16 * np.eye(6))
    assert not any((x[:, i] * x[:, j]) @ x[:, k] for i, j in combinations(range(6), 2) for k in range(6))
    complements = {frozenset(OPTIMIZATIONS) - cell for cell in cells}
    assert complements == set(cells)


def test_four_quarters_are_all_cells() -> None:
    pairs = list(foldover_pairs(OPTIMIZATIONS, 4))
    cells = {name for pair in pairs for name in pair}
    assert (len(pairs), len(cells)) == (32, 64)
    assert ("none", "all") in pairs
    for cell, complement in pairs:
        assert set(parse_cell(cell, OPTIMIZATIONS) or ()) | set(parse_cell(complement, OPTIMIZATIONS) or ()) == set(
            OPTIMIZATIONS
        )
    assert len(list(foldover_pairs(OPTIMIZATIONS, 1))) == 8


def own(*names: str, **design: Any) -> Study:
    """A study of a program with these switches."""
    switches = tuple(Switch(name=name) for name in names)
    return Study(name="s", title="t", switches=switches, design=Design(**design), workloads=(SURGE,))


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=7, unique=True), st.data())
def test_cells_of_any_switches_are_one_to_one(names: list[str], data: st.DataObject) -> None:
    enabled = data.draw(st.sets(st.sampled_from(names)))
    assert set(parse_cell(cell_name(enabled, names), names) or ()) == enabled


def test_designs_take_switches_of_ones_own_apart() -> None:
    plan = layout(own("cache", "gzip", "index", kind="ablation"))
    assert {(each.a, each.b) for each in plan.comparisons if each.role == "without"} == {
        ("all", "all-cache"),
        ("all", "all-gzip"),
        ("all", "all-index"),
    }
    assert {each.b for each in plan.comparisons if each.role == "single"} == {"cache", "gzip", "index"}
    assert {arm.name: arm.optimizations for arm in plan.arms}["all-gzip"] == ("cache", "index")


def test_an_arm_has_one_name() -> None:
    two, three = own("cache", "gzip"), own("cache", "gzip", "index")
    assert resolve_arm(three, "all-gzip").optimizations == ("cache", "index")
    for study, name, usual in (
        (two, "all-gzip", "cache"),
        (three, "cache+index", "all-gzip"),
        (two, "gzip+cache", "all"),
    ):
        with pytest.raises(StudyError, match=f"is the arm '{usual}'; expected that name"):
            resolve_arm(study, name)


def test_of_two_switches_one_alone_is_the_other_taken_out() -> None:
    plan = layout(own("cache", "gzip", kind="ablation"))
    assert {arm.name for arm in plan.arms} == {"none", "all", "cache", "gzip", "none-again"}
    assert {(each.a, each.b) for each in plan.comparisons if each.role == "without"} == {
        ("all", "cache"),
        ("all", "gzip"),
    }


def test_phases_are_the_study_s_or_one_switch_after_the_other() -> None:
    def steps(study: Study) -> list[tuple[str, str]]:
        return [(each.a, each.b) for each in layout(study).comparisons if each.role == "step"]

    assert steps(own("a", "b", "c", kind="phases")) == [("none", "a"), ("a", "all-c"), ("all-c", "all")]
    assert steps(own("a", "b", "c", kind="phases", phases=(("c",), ("a", "b")))) == [("none", "c"), ("c", "all")]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_fewer_than_six_switches_are_crossed_in_full(count: int) -> None:
    names = tuple("abcde"[:count])
    pairs = list(foldover_pairs(names, 4))
    cells = [name for pair in pairs for name in pair]
    assert len(cells) == len(set(cells)) == 2**count
    assert ("none", "all") in pairs
    for cell, complement in pairs:
        assert {*(parse_cell(cell, names) or ()), *(parse_cell(complement, names) or ())} == set(names)
    x = np.array([[1 if name in (parse_cell(cell, names) or ()) else -1 for name in names] for _, cell in pairs])
    assert np.linalg.matrix_rank(x) == count, "pairs can tell the switches apart"


def swept(parameter: str, *values: float | str) -> tuple[Workload, ...]:
    sweep = Sweep(workload="surge", parameter=parameter, values=values)
    other = Workload(name="dial", file="dial.py")
    design = Design(kind="sweep", sweep=sweep)
    return workloads(Study(name="s", title="t", design=design, workloads=(SURGE, other)))


def test_sweeps_make_one_workload_per_value() -> None:
    users = swept("users", 8.0, 64.0)
    assert [(each.name, each.users) for each in users] == [
        ("surge[users=8]", 8),
        ("surge[users=64]", 64),
        ("dial", 32),
    ]
    assert [each.rate for each in swept("rate", 100.0, 250.5)[:2]] == [100.0, 250.5]
    assert [each.tasks for each in swept("tasks", 100.0, 3000.0)[:2]] == [100, 3000]
    large = swept("SIZE", 4194304.0, 0.001)  # read by files with int and float
    assert [each.env["SIZE"] for each in large[:2]] == ["4194304", "0.001"]
    sizes = swept("SIZE", 1024.0, "4M")
    assert [each.env["SIZE"] for each in sizes[:2]] == ["1024", "4M"]
    assert [each.name for each in sizes] == ["surge[SIZE=1024]", "surge[SIZE=4M]", "dial"]


def test_sweeps_that_make_no_sense_are_refused() -> None:
    assert workloads(a_study(Design())) == (SURGE,)
    with pytest.raises(StudyError, match="a sweep needs"):
        workloads(a_study(Design(kind="sweep")))
    with pytest.raises(StudyError, match="unknown workload 'bulk'"):
        workloads(a_study(Design(kind="sweep", sweep=Sweep(workload="bulk", parameter="users", values=(1.0,)))))
    with pytest.raises(StudyError, match="needs numbers, not 'many'"):
        swept("users", "many")
    with pytest.raises(StudyError, match=r"sweep over tasks needs whole numbers, not 1\.5"):
        swept("tasks", 1.0, 1.5)
    for value in (float("inf"), float("nan")):
        with pytest.raises(StudyError, match=f"sweep over SIZE needs finite numbers, not {value}"):
            swept("SIZE", value)


def test_a_factorial_round_measures_the_whole_four_times_and_each_part_once() -> None:
    found = layout(a_study(Design(kind="factorial")))
    own, folded = found.sets[: found.foldover_from], found.sets[found.foldover_from :]
    arms = [kind.arms for kind in found.kinds]
    assert len(folded) == 16
    assert [arms.count(each) for each in folded] == [1] * 16
    assert [arms.count(each) for each in own] == [4] * len(own)
    assert any({"none", "all"} <= set(each) for each in own)


def test_a_workload_that_names_its_arms_is_not_played_on_the_other_cells() -> None:
    named = Workload(name="steady", file="steady.py", arms=("none", "all"))
    found = layout(msgspec.structs.replace(a_study(Design(kind="factorial")), workloads=(SURGE, named)))
    folded = {*found.sets[found.foldover_from :]}
    played = {(name, arms in folded) for kind in found.kinds for name, arms in kind.playing}
    assert played == {("surge", True), ("surge", False), ("steady", False)}
    assert {arm for kind in found.kinds for name, arms in kind.playing if name == "steady" for arm in arms} == {
        "none",
        "all",
    }
    alone = layout(msgspec.structs.replace(a_study(Design(kind="factorial")), workloads=(named,)))
    assert {kind.playing for kind in alone.kinds} == {(("steady", ("none", "all")),)}
