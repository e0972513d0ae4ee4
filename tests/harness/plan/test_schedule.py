"""The schedule is a pure function of study and burst number, and treats every arm alike."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.arms import layout
from harness.plan.schedule import BurstPlan, burst, schedule
from harness.study.records import Budget, Design, DesignKind, Expectation, Study, Workload

SURGE = Workload(name="surge", file="surge.py")
SLOW = Workload(name="slow", file="slow.py", segment_seconds=10.0, slice_seconds=0.5)


def a_study(seed: int = 0, kind: DesignKind = "on-off", blocks: int = 3) -> Study:
    return Study(
        name="s",
        title="t",
        seed=seed,
        design=Design(kind=kind, controls=("first-day-reuse",)),
        budget=Budget(blocks=blocks),
        workloads=(SURGE, SLOW),
    )


@given(st.integers(0, 2**40), st.integers(0, 500), st.integers(1, 6))
def test_each_block_has_every_arm_once(seed: int, number: int, blocks: int) -> None:
    study = a_study(seed, blocks=blocks)
    plan = layout(study)
    planned = burst(study, plan, number)
    assert planned.number == number
    assert sorted(planned.arms) == sorted(plan.sets[0])
    assert all(sorted(block.order) == sorted(planned.arms) for block in planned.blocks)
    counts = Counter((block.workload, block.kind) for block in planned.blocks)
    assert counts == {("surge", "slice"): blocks, ("slow", "slice"): blocks, ("slow", "segment"): 2}
    keys = [(block.workload, block.block) for block in planned.blocks]
    assert len(keys) == len(set(keys))


def test_a_workload_may_have_blocks_of_its_own() -> None:
    study = a_study(blocks=2)
    study = msgspec.structs.replace(study, workloads=(msgspec.structs.replace(SURGE, blocks=4), SLOW))
    counts = Counter((each.workload, each.kind) for each in burst(study, layout(study), 0).blocks)
    assert counts == {("surge", "slice"): 4, ("slow", "slice"): 2, ("slow", "segment"): 2}


@given(st.integers(0, 2**40), st.integers(0, 60))
def test_a_resumed_run_continues_the_same_schedule(seed: int, start: int) -> None:
    study = a_study(seed)
    plan = layout(study)
    whole = list(islice(schedule(study, plan), start + 3))
    assert list(islice(schedule(study, plan, start), 3)) == whole[start:]


@given(st.integers(0, 2**40), st.lists(st.booleans(), max_size=30))
def test_what_was_cut_short_is_played_again(seed: int, cut: list[bool]) -> None:
    """However often a run is cut short and resumed, its whole bursts are of the kinds of an undisturbed run."""
    study = a_study(seed, kind="ablation")
    plan = layout(study)
    whole: list[BurstPlan] = []
    for number, short in enumerate(cut):
        planned = next(schedule(study, plan, number, lost=number - len(whole)))
        assert planned.number == number
        whole += [] if short else [planned]
    undisturbed = islice(schedule(study, plan), len(whole))
    assert [frozenset(each.arms) for each in whole] == [frozenset(each.arms) for each in undisturbed]


@given(st.integers(0, 2**40))
def test_a_round_visits_every_set_once(seed: int) -> None:
    study = a_study(seed, kind="ablation")
    plan = layout(study)
    size = len(plan.sets)
    for turn in range(2):
        visited = [frozenset(each.arms) for each in islice(schedule(study, plan, turn * size), size)]
        assert Counter(visited) == Counter(frozenset(each) for each in plan.sets)


def test_bursts_that_only_fill_the_table_come_once_in_so_many_rounds() -> None:
    """Each question is in every round, so in equally many bursts at any moment; the rest is dealt out over two."""
    asked = Expectation(
        name="q", claim="c", workload="slow", metric="throughput", arm="metrics", against=("none",), at_least=1.0
    )
    study = msgspec.structs.replace(
        a_study(kind="ablation"), expectations=(asked,), budget=Budget(blocks=1, table_every=2)
    )
    plan = layout(study)
    first, second = (Counter(each) for each in plan.rounds)
    both, once = first & second, (first | second) - (first & second)
    assert [each.arms for each in both if {"none", "metrics"} <= set(each.arms)]
    assert len(both) == 1
    assert len(once) == len(plan.sets) - 1
    assert all(count == 1 for count in (both + once).values())
    turns = (len(plan.rounds[0]), len(plan.rounds[1]), len(plan.rounds[0]))
    start = 0
    for size, kinds in zip(turns, (*plan.rounds, plan.rounds[0]), strict=True):
        visited = [frozenset(each.arms) for each in islice(schedule(study, plan, start), size)]
        assert Counter(visited) == Counter(frozenset(each.arms) for each in kinds)
        start += size
    alone = layout(msgspec.structs.replace(study, expectations=()))
    assert len(alone.rounds) == 1


def test_an_episode_has_a_burst_of_its_own_and_only_the_arms_it_asks_for() -> None:
    flood = Workload(name="flood", file="flood.py", episode_seconds=3.0, arms=("none", "rate_limit"))
    asked = Expectation(
        name="q", claim="c", workload="flood", metric="admitted_rate", arm="rate_limit", against=("none",), at_most=0.1
    )
    study = msgspec.structs.replace(a_study(kind="ablation"), workloads=(SURGE, SLOW, flood), expectations=(asked,))
    plan = layout(study)
    bursts = [burst(study, plan, number) for number in range(len(plan.kinds))]
    episodes = [each for each in bursts if each.episode]
    assert [sorted(each.arms) for each in episodes] == [["none", "rate_limit"]]
    (block,) = episodes[0].blocks
    assert (block.workload, block.kind, block.seconds) == ("flood", "episode", 3.0)
    assert not any(block.workload == "flood" for each in bursts if not each.episode for block in each.blocks)
    assert {each.a for each in plan.on["flood"]} == {"none"}


def test_a_comparison_expected_on_one_workload_is_measured_there_only() -> None:
    asked = Expectation(
        name="q", claim="c", workload="slow", metric="cpu_per_request", arm="metrics", against=("cleanup",), at_most=1.0
    )
    study = msgspec.structs.replace(a_study(), expectations=(asked,))
    plan = layout(study)
    cells = [cell for kind in plan.kinds for cell in kind.playing if "cleanup" in cell[1]]
    assert cells == [("slow", ("cleanup", "metrics"))]


def test_segments_go_forth_and_back() -> None:
    study = a_study()
    segments = [each for each in burst(study, layout(study), 5).blocks if each.kind == "segment"]
    assert segments[0].order == segments[1].order[::-1]
    assert {each.seconds for each in segments} == {10.0}


def test_order_is_random_and_fair() -> None:
    """Over many bursts every arm is first about equally often, workloads swap places, and directories too."""
    study = a_study(seed=3)
    plan = layout(study)
    bursts = list(islice(schedule(study, plan), 400))
    first = Counter(each.blocks[0].order[0] for each in bursts)
    assert all(70 <= first[arm] <= 130 for arm in plan.sets[0])
    assert 150 <= sum(each.blocks[0].workload == "surge" for each in bursts) <= 250
    assert 150 <= sum(each.swapped for each in bursts) <= 250
    other = burst(msgspec.structs.replace(study, seed=4), plan, 0)
    assert other != bursts[0]
