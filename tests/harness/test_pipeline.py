"""How a run goes: rates before the first burst, fixed work or an episode, what is kept, and when it ends.

Bursts are played by a script in place of processes; real ones run in tests/end_to_end.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import ClassVar

import msgspec
import pytest
from msgspec.structs import replace

from harness import pipeline
from harness.analyse.analysis import analyse
from harness.analyse.records import Verdict
from harness.errors import MeasurementVoid
from harness.execute import burst as processes
from harness.execute.burst import BlockSpec, BurstSpec, Step
from harness.measure.metrics import CACHE_MISSES
from harness.measure.records import ArmReading, Burst, Memory, Sample, Slice
from harness.measure.store import Store
from harness.pipeline import Rates, Steering
from harness.plan import budget
from harness.plan.arms import layout
from harness.plan.budget import Forecast
from harness.plan.schedule import burst
from harness.study.records import Budget, Expectation, Study, Target, Workload
from tests.harness.analyse.synthetic import a_reading, a_run, a_stretch, a_study

OPEN = Workload(name="steady", file="scenarios/load/steady.py", arrivals="poisson")
CLOSED = Workload(name="surge", file="scenarios/load/surge.py")
STORY = Workload(name="outage", file="scenarios/load/outage.py", episode_seconds=2.0)
HELD = Memory(1, 1, 1, 1)


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


class LowestFree:
    """A socket of a kernel that gives the lowest port which is free: a port given back is the next one to be given."""

    bound: ClassVar[set[int]] = set()

    def __enter__(self) -> LowestFree:
        return self

    def bind(self, _: object) -> None:
        self.port = next(port for port in itertools.count(40_000) if port not in self.bound)
        self.bound.add(self.port)

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def __exit__(self, *_: object) -> None:
        self.bound.remove(self.port)


def test_no_two_programs_of_a_burst_are_told_the_same_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = a_study(workloads=(CLOSED,))
    study = replace(study, target=Target(kind="command", command=("serve", "{port}")))
    names = tuple(arm.name for arm in layout(study).arms)
    monkeypatch.setattr("socket.socket", LowestFree)
    plan = pipeline._processes(study, names, 0, ((CLOSED.name, ()),), tmp_path)
    assert [arm.command[1] for arm in plan.arms] == [str(40_000 + each) for each in range(len(names))]
    assert not LowestFree.bound, "given back for the programs to take"


def test_the_processes_of_a_study_are_left_as_they_are() -> None:
    study = a_study()
    plan = BurstSpec(0, (), ())
    assert Steering(study).processes(burst(study, layout(study), 0), plan) is plan


class Script:
    """Plays bursts: `capacities` by arm, one reading after another; arms that are `silent` fail every request; `asked`
    is what was asked, in order, and `specs` the processes that were started.
    """

    def __init__(self, capacities: Mapping[str, Sequence[float]] | None = None, silent: tuple[str, ...] = ()) -> None:
        self.silent = silent
        self.capacities = {arm: iter(readings) for arm, readings in (capacities or {}).items()}
        self.asked: list[tuple[str, ...]] = []
        self.blocks: list[BlockSpec] = []
        self.specs: list[BurstSpec] = []

    @contextmanager
    def running(self, spec: BurstSpec, progress: Callable[[Step], None]) -> Iterator[Playing]:
        self.specs.append(spec)
        yield Playing(self, spec)


class Playing:
    """One burst of a script."""

    notes = ()

    def __init__(self, script: Script, spec: BurstSpec) -> None:
        self._script, self._spec = script, spec
        self._episode = ""

    def capacity(self, arm: str, workload: str) -> tuple[float, dict[str, str]]:
        self._script.asked.append(("capacity", arm))
        found = next(self._script.capacities[arm])
        return found, {} if found else {"ValueError": "no luck at surge.py:7"}

    def work(self) -> None:
        self._script.asked.append(("work", self._spec.memory_workload))

    def slices(self, blocks: Sequence[BlockSpec]) -> Iterator[Slice]:
        self._script.blocks += blocks
        for block in blocks:
            for position, arm in enumerate(block.arms):
                yield self._row(block, arm, position)

    def episodes(self, block: BlockSpec, keep: Callable[[Sample], None]) -> Iterator[Slice]:
        self._script.asked.append(("episode", block.workload))
        self._episode = block.workload
        for position, arm in enumerate(block.arms):
            keep(Sample(self._spec.number, arm, block.workload, 0.5, HELD, HELD, {}))
            yield self._row(block, arm, position)

    def readings(self) -> Iterator[ArmReading]:
        for arm in self._spec.arms:
            yield msgspec.structs.replace(a_reading(arm.name, burst=self._spec.number), workload=self._episode)

    def _row(self, block: BlockSpec, arm: str, position: int) -> Slice:
        row = a_stretch(
            arm, burst=self._spec.number, block=block.number, workload=block.workload, kind=block.kind,
            rate=block.rate, position=position,
        )  # fmt: skip
        return replace(row, answered=0, failed={"E": row.started}) if arm in self._script.silent else row


class Silent:
    """A display nobody looks at; counts the bursts."""

    def __init__(self) -> None:
        self.bursts = 0

    def forecast(self, expected: Forecast, spent: float, left: float) -> None: ...
    def step(self, step: Step) -> None: ...

    def burst_done(self, number: int, spent: float, left: float, so_far: Sequence[Verdict]) -> None:
        self.bursts += 1


class Foretold(Silent):
    """A display that keeps what it is told before the first burst."""

    def forecast(self, expected: Forecast, spent: float, left: float) -> None:
        self.spent, self.left = spent, left


def play(study: Study, store: Store, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "running", script.running)
    pipeline.run(study, store, Path(), Silent())


def short(*workloads: Workload, bursts: int = 1) -> Study:
    """A study of so many bursts."""
    return replace(a_study(workloads=workloads), budget=Budget(seconds=1e-9, min_bursts=bursts, max_bursts=bursts + 5))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "run") as created:
        yield created


def test_an_open_workload_runs_at_half_of_what_the_slower_arm_can(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The median of three readings an arm, taken in turns; the hidden twin is not asked."""
    slow, quick = [120.0, 9_000.0, 110.0], [400.0] * 3
    script = Script({"none": slow, "first-day-reuse": quick, "all": quick})
    play(short(OPEN), store, script, monkeypatch)
    turns = [arm for what, arm in script.asked if what == "capacity"]
    assert sorted(turns[:3]) == sorted({"none", "first-day-reuse", "all"})
    assert turns[:3] == turns[3:6] == turns[6:]
    assert store.get("rates", Rates) == {"steady": median(slow) / 2}
    assert {block.rate for block in script.blocks} == {60.0}
    assert all(block.arrivals for block in script.blocks)
    assert [row.rate for row in store.measured().slices] == [60.0] * len(script.blocks) * 4


def test_a_rate_once_found_is_kept_over_a_resumption(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    study = short(OPEN)
    play(study, store, Script(dict.fromkeys(("none", "first-day-reuse", "all"), [100.0] * 3)), monkeypatch)
    again = Script()
    play(replace(study, budget=replace(study.budget, min_bursts=3)), store, again, monkeypatch)
    assert not [each for each in again.asked if each[0] == "capacity"]
    assert {block.rate for block in again.blocks} == {50.0}
    assert [each.number for each in store.measured().bursts] == [0, 1, 2]
    assert all(each.others is not None and each.stolen is not None for each in store.measured().bursts)


@pytest.mark.parametrize(("done", "spent", "left"), [(0, 0.0, 4.0), (2, 8.0, 8.0), (4, 16.0, 0.0)])
def test_what_is_told_to_be_left_of_a_slow_run_is_as_long_as_its_bursts_were(
    store: Store, monkeypatch: pytest.MonkeyPatch, done: int, spent: float, left: float
) -> None:
    """In units of a burst as forecast: four are asked for, and each took four times as long."""
    study = short(CLOSED, bursts=4)
    each = budget.burst_seconds(study, layout(study), budget.Costs())
    for number in range(done):
        store.add_burst(Burst(number, burst(study, layout(study), number).arms, 1.0, complete=True))
    store.put("spent", spent * each)
    monkeypatch.setattr(processes, "running", Script().running)
    display = Foretold()
    pipeline.run(study, store, Path(), display)
    assert (display.spent, display.left) == pytest.approx((spent * each, left * each))


def test_a_burst_that_was_cut_short_is_played_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    study = short(CLOSED, STORY, bursts=4)
    undisturbed = [{block.workload for block in burst(study, layout(study), number).blocks} for number in range(4)]
    assert len({frozenset(each) for each in undisturbed}) == 2
    store.add_burst(Burst(0, burst(study, layout(study), 0).arms, 1.0, complete=False))
    play(study, store, Script(), monkeypatch)
    whole = [each for each in store.measured().bursts if each.complete]
    assert [each.number for each in whole] == [1, 2, 3, 4]
    assert [{name for name, _ in each.playing} for each in whole] == undisturbed


def test_an_arm_that_answers_nothing_has_no_rate(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = {"none": [100.0] * 3, "first-day-reuse": [100.0] * 3, "all": [0.0] * 3}
    told = r"all answered no request of workload 'steady' .* found \(ValueError: no luck at surge\.py:7\); run"
    with pytest.raises(MeasurementVoid, match=told):
        play(short(OPEN), store, Script(readings), monkeypatch)
    assert not store.measured().bursts


def test_a_run_in_which_an_arm_answers_nothing_ends_after_a_burst(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = short(CLOSED, bursts=5)
    play(study, store, Script(silent=("all",)), monkeypatch)
    assert analyse(study, store.measured()).answer.startswith(
        "INVALID, so nothing is claimed: successes: 0 answered of "
    )
    assert [each.complete for each in store.measured().bursts] == [True]


def test_a_closed_workload_has_no_arrivals_and_slices_come_after_the_fixed_work(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script()
    play(short(CLOSED), store, script, monkeypatch)
    assert script.asked == [("work", "surge")]
    assert {block.arrivals for block in script.blocks} == {None}
    measured = store.measured()
    assert {each.workload for each in measured.readings} == {""}
    assert not measured.samples
    assert [each.complete for each in measured.bursts] == [True]


def test_an_episode_comes_without_fixed_work_and_its_moments_are_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script()
    play(short(STORY), store, script, monkeypatch)
    assert script.asked == [("episode", "outage")]
    measured = store.measured()
    assert {each.workload for each in measured.readings} == {each.workload for each in measured.samples} == {"outage"}
    assert {each.arm for each in measured.samples} == {arm.name for arm in script.specs[0].arms}
    assert {row.kind for row in measured.slices} == {"episode"}


def test_the_processes_of_every_burst_have_its_seed_and_the_fixed_work_of_the_study(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, script = short(CLOSED, bursts=3), Script()
    play(replace(study, budget=replace(study.budget, memory_requests=123)), store, script, monkeypatch)
    seeds = [{arm.env["SYNAPSED_SEED"] for arm in spec.arms} for spec in script.specs]
    assert seeds == [{"7"}, {"8"}, {"9"}]
    assert {spec.memory_requests for spec in script.specs} == {123}


def test_settings_and_environment_of_an_episode_reach_its_processes_and_no_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, script = {"pooling": {"max_idle_time": 1.0}}, Script()
    play(short(CLOSED, replace(STORY, env={"LENGTH": "3"}, settings=settings), bursts=4), store, script, monkeypatch)
    told = {
        (spec.workloads[0].name, arm.env.get("LENGTH"), arm.env["SYNAPSED_SETTINGS"])
        for spec in script.specs
        for arm in spec.arms
    }
    assert told == {("surge", None, "{}"), ("outage", "3", json.dumps(settings))}


@pytest.mark.parametrize(("metric", "counted"), [("latency_p50", False), (CACHE_MISSES, True)])
def test_cache_misses_are_counted_where_the_study_asks_for_them(
    store: Store, monkeypatch: pytest.MonkeyPatch, metric: str, counted: bool
) -> None:
    study, script = short(CLOSED, bursts=6), Script()
    play(replace(study, expectations=(replace(expected(0.7), metric=metric),)), store, script, monkeypatch)
    assert {spec.cache_misses for spec in script.specs} == {counted}


def test_every_block_has_arrivals_of_its_own_that_come_again_with_the_seed() -> None:
    def times(seed: int) -> list[tuple[float, ...] | None]:
        study = a_study(workloads=(replace(OPEN, rate=500.0),), seed=seed)
        bursts = (burst(study, layout(study), number) for number in range(2))
        return [block.arrivals for planned in bursts for block in pipeline._blocks(study, planned, {})]

    assert times(7) == times(7)
    assert len({*times(7), *times(8)}) == 2 * len(times(7))
