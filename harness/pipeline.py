"""How a study is measured, on one screen: study -> plan -> execute -> measure, after each burst the verdicts so far.

Rows are in the store as soon as they exist, and burst n is a pure function of study, n, and how many before it were cut
short, so a run that was interrupted anywhere goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Protocol

import msgspec
import numpy as np

from harness.analyse.analysis import interim
from harness.analyse.records import Verdict
from harness.analyse.validity import hopeless
from harness.errors import MeasurementVoid, TargetError
from harness.execute import burst, host
from harness.execute.launch import arm_spec
from harness.execute.ports import free_ports
from harness.measure.metrics import CACHE_MISSES
from harness.measure.records import Burst, Measured
from harness.measure.store import Store
from harness.plan import arms, arrivals, budget, schedule
from harness.plan.arms import Layout
from harness.study.records import Study

CAPACITY_READINGS = 3
Rates = dict[str, float]
Playing = tuple[tuple[str, tuple[str, ...]], ...]
"workloads, each with its arms"
Start = Callable[[schedule.BurstPlan, Playing], burst.BurstSpec]


class Display(Protocol):
    """What a person sees while it runs."""

    def forecast(self, expected: budget.Forecast, spent: float, left: float) -> None: ...
    def step(self, step: burst.Step) -> None: ...
    def burst_done(self, number: int, spent: float, left: float, so_far: Sequence[Verdict]) -> None: ...


class Steering:
    """What a run may be given besides its study: this one stops a study that may stop early and is decided."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def processes(self, planned: schedule.BurstPlan, processes: burst.BurstSpec) -> burst.BurstSpec:
        """The processes of this burst, as they are to be started."""
        return processes

    def decided(self, measured: Measured) -> bool:
        """Whether more bursts could not change the answer."""
        if not self._study.budget.stop_early or not self._study.expectations:
            return False
        return all(each.outcome != "INCONCLUSIVE" for each in interim(self._study, measured))


def run(study: Study, store: Store, directory: Path, display: Display, steering: Steering | None = None) -> None:
    """Measure what is still to be measured; the rows are in the store.

    Raises `StudyError` before the first slice; `TargetError` or `LoadError` when a process fails (what was measured
    until then stays in the store).
    """
    layout, steering = arms.layout(study), steering or Steering(study)
    forecast = budget.forecast(study, layout)
    done, spent = store.complete_bursts(), store.find("spent", float) or 0.0

    def to_go() -> float:
        return budget.left(study, forecast, done, spent, budget.foreseen(study, layout, done))

    display.forecast(forecast, spent, to_go())

    def start(plan: schedule.BurstPlan, playing: Playing) -> burst.BurstSpec:
        return steering.processes(plan, _processes(study, plan.arms, plan.number, playing, directory))

    rates = store.find("rates", Rates)
    if rates is None:
        rates = _calibrate(study, layout, start, display)
        store.put("rates", rates)
    measured = store.measured()
    begun = store.next_burst()
    for plan in schedule.schedule(study, layout, begun, lost=begun - done):
        if not to_go():
            break
        began = time.monotonic()
        _measure(study, plan, rates, store, start, display)
        done, spent = done + 1, spent + time.monotonic() - began
        store.put("spent", spent)
        measured += store.measured(since=plan.number)  # reading all of them anew would take longer with each burst
        decided = steering.decided(measured) and done >= study.budget.min_bursts  # it is asked always: it shows
        over = decided or hopeless(measured)
        display.burst_done(plan.number, spent, 0.0 if over else to_go(), interim(study, measured))
        if over:
            break


def _measure(
    study: Study, plan: schedule.BurstPlan, rates: Rates, store: Store, start: Start, display: Display
) -> None:
    """One burst: fresh processes, fixed work, slices in the planned order, readings; each row kept at once.

    An episode has the processes for itself: no fixed work before it, and readings tell what it left.
    """
    playing = tuple({block.workload: tuple(sorted(block.order)) for block in plan.blocks}.items())
    record = Burst(plan.number, plan.arms, time.time(), complete=False, note="interrupted", playing=playing)
    store.add_burst(record)
    since = host.cpu_time()
    blocks = tuple(_blocks(study, plan, rates))
    with burst.running(start(plan, playing), display.step) as live:
        store.put("under_load", True)  # who dies from here on does not die of how it was started
        if plan.episode:
            rows = live.episodes(blocks[0], store.add_sample)
        else:
            live.work()
            rows = live.slices(blocks)
        for row in rows:
            store.add_slice(row)
        for reading in live.readings():
            store.add_reading(reading)
    others, stolen = host.beside(since, host.cpu_time())
    told = "; ".join(live.notes)
    store.add_burst(msgspec.structs.replace(record, complete=True, note=told, others=others, stolen=stolen))
    store.put("under_load", False)


def _blocks(study: Study, plan: schedule.BurstPlan, rates: Rates) -> Iterator[burst.BlockSpec]:
    """The burst's blocks with the arrivals of each, the same for every arm of a block."""
    by_name = {each.name: each for each in arms.workloads(study)}
    for index, block in enumerate(plan.blocks):
        workload = by_name[block.workload]
        times, rate = None, 0.0
        if workload.arrivals != "closed":
            rng = np.random.default_rng((study.seed, plan.number, index))
            rate = workload.rate or rates.get(workload.name, 0.0)  # a shape has rates of its own
            times = tuple(arrivals.offsets(workload, block.seconds, rng, rate).tolist())
        yield burst.BlockSpec(block.workload, block.block, block.order, times, rate, block.seconds, block.kind)


def _calibrate(study: Study, layout: Layout, start: Start, display: Display) -> Rates:
    """Half the slower arm's capacity for every open workload that leaves its rate to us, arrivals per second.

    An arm's is the median of a few readings, taken in turns: the least of many single ones would be that of the
    arm which was disturbed. The processes that told it are ended: no slice is measured on them.
    """
    wanted = [each for each in arms.workloads(study) if each.arrivals != "closed" and not each.rate and not each.shape]
    rates: Rates = {}
    folded = {name for pair in layout.foldover for name in pair}
    on = {
        each.name: (set() if each.arms else folded)
        | {name for pair in layout.on[each.name] for name in (pair.a, pair.b)} - {*layout.hidden}
        for each in wanted
    }
    measured = set().union(*on.values())
    names = tuple(dict.fromkeys(name for one in layout.sets for name in one if name in measured))
    for first in range(0, len(names), arms.MAX_ARMS):
        some = names[first : first + arms.MAX_ARMS]
        playing = tuple((name, tuple(arm for arm in some if arm in of)) for name, of in on.items() if of & {*some})
        planned = schedule.BurstPlan(-1, some, swapped=False, blocks=())
        with burst.running(start(planned, playing), display.step) as live:
            for workload, found in playing:
                turns = [[_capacity(live, arm, workload) for arm in found] for _ in range(CAPACITY_READINGS)]
                half = min(median(readings) for readings in zip(*turns, strict=True)) / 2
                rates[workload] = min(half, rates.get(workload, half))
    return rates


def _capacity(live: burst.RunningBurst, arm: str, workload: str) -> float:
    found, said = live.capacity(arm, workload)
    if found <= 0:
        failures = f" ({', '.join(f'{kind}: {text}' for kind, text in sorted(said.items()))})" if said else ""
        raise MeasurementVoid(
            f"INVALID: {arm} answered no request of workload {workload!r} while its rate was being found{failures};"
            " run the Locust file against this target by hand and read its first failure",
            TargetError.fault,
        )
    return found


def _processes(study: Study, names: tuple[str, ...], number: int, playing: Playing, directory: Path) -> burst.BurstSpec:
    """What to start: the workloads of the burst, and the study's first sliced one for the fixed work."""
    by_name = {arm.name: arm for arm in arms.layout(study).arms}
    wanted = {name for name, _ in playing}
    loaded = [each for each in arms.workloads(study) if each.name in wanted]
    episode = loaded[0] if loaded[0].is_episode else None
    work = next((each for each in arms.workloads(study) if not each.is_episode), None)
    if episode is None and work is not None and work.name not in wanted:
        loaded.append(work)
    seed = study.seed + max(0, number)  # the burst that finds rates is none of them
    return burst.BurstSpec(
        number=number,
        arms=tuple(
            arm_spec(study, by_name[name], directory, port, episode, seed)
            for name, port in zip(names, free_ports(len(names)), strict=True)
        ),
        workloads=tuple(loaded),
        memory_requests=study.budget.memory_requests,
        memory_workload=work.name if work is not None and episode is None else "",
        cache_misses=CACHE_MISSES in study.asks_for,
    )
