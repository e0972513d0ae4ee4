"""A study from file to verdict, on one screen: design -> schedule -> execute -> measure -> analyse.

Rows are in the store as soon as they exist, and burst n is a pure function of study and n, so a run that was
interrupted anywhere goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from harness.analyse.analysis import analyse
from harness.analyse.records import Analysis
from harness.errors import TargetError
from harness.execute import burst
from harness.execute.launch import arm_plan
from harness.measure.records import Burst
from harness.measure.store import Store
from harness.plan import arms, arrivals, budget, schedule
from harness.plan.arms import Layout
from harness.study import Study

Rates = dict[str, float]


class Display(Protocol):
    """What a person sees while it runs."""

    def forecast(self, expected: budget.Forecast) -> None: ...
    def step(self, step: burst.Step) -> None: ...
    def burst_done(self, number: int, spent: float, left: float, so_far: Analysis) -> None: ...


def run(study: Study, store: Store, directory: Path, display: Display) -> Analysis:
    """Measure what is still to be measured, and judge all of it.

    Raises `StudyError` before the first slice; `TargetError` or `LoadError` when a process fails (what was measured
    until then stays in the store).
    """
    layout = arms.layout(study)
    forecast = budget.forecast(study, layout)
    display.forecast(forecast)
    rates = store.find("rates", Rates)
    if rates is None:
        rates = _calibrate(study, layout, directory, display)
        store.put("rates", rates)
    done, spent = store.complete_bursts(), store.find("spent", float) or 0.0
    for plan in schedule.schedule(study, layout, store.next_burst()):
        if not _goes_on(study, layout, forecast, done, spent):
            break
        began = time.monotonic()
        _measure(study, plan, rates, store, directory, display)
        done, spent = done + 1, spent + time.monotonic() - began
        store.put("spent", spent)
        left = max(0.0, study.budget.seconds - spent)
        display.burst_done(plan.number, spent, left, analyse(study, store.measured()))
    return analyse(study, store.measured())


def _goes_on(study: Study, layout: Layout, forecast: budget.Forecast, done: int, spent: float) -> bool:
    """Whether another burst is due: as many as its questions need at the least, beyond that what fits the time.

    A slower machine than forecast so measures for longer, rather than stop where nothing could be decided.
    """
    if done >= study.budget.max_bursts:
        return False
    needed = max((proof.needed for proof in forecast.proofs), default=0) * len(layout.sets)
    if done < max(study.budget.min_bursts, min(needed, forecast.bursts)):
        return True
    return spent + max(forecast.burst_seconds, spent / done) <= study.budget.seconds


def _measure(
    study: Study, plan: schedule.BurstPlan, rates: Rates, store: Store, directory: Path, display: Display
) -> None:
    """One burst: fresh processes, fixed work, slices in the planned order, readings; each row kept at once."""
    record = Burst(plan.number, plan.arms, time.time(), complete=False, note="interrupted")
    store.add_burst(record)
    with burst.running(_processes(study, plan.arms, plan.number, directory), display.step) as live:
        live.work()
        for row in live.slices(tuple(_visits(study, plan, rates))):
            store.add_slice(row)
        for reading in live.readings():
            store.add_reading(reading)
    store.add_burst(msgspec.structs.replace(record, complete=True, note="; ".join(live.notes)))


def _visits(study: Study, plan: schedule.BurstPlan, rates: Rates) -> Iterator[burst.Visit]:
    """The burst's blocks with the arrivals of each, the same for every arm of a block."""
    by_name = {each.name: each for each in arms.workloads(study)}
    for index, block in enumerate(plan.blocks):
        workload = by_name[block.workload]
        times, rate = None, 0.0
        if workload.arrivals != "closed":
            rng = np.random.default_rng((study.seed, plan.number, index))
            rate = workload.rate or rates[workload.name]
            times = tuple(arrivals.offsets(workload, block.seconds, rng, rate).tolist())
        yield burst.Visit(block.workload, block.block, block.order, times, rate, block.seconds, block.kind)


def _calibrate(study: Study, layout: Layout, directory: Path, display: Display) -> Rates:
    """Half the slower arm's capacity for every open workload that leaves its rate to us, arrivals per second.

    The processes that told it are ended: no slice is measured on them.
    """
    wanted = [each for each in arms.workloads(study) if each.arrivals != "closed" and not each.rate and not each.shape]
    rates: Rates = {}
    names = tuple(dict.fromkeys(name for one in layout.sets for name in one if name not in layout.hidden))
    for first in range(0, len(names) if wanted else 0, arms.MAX_ARMS):
        some = names[first : first + arms.MAX_ARMS]
        with burst.running(_processes(study, some, -1, directory), display.step) as live:
            for workload in wanted:
                half = min(live.capacity(name, workload.name) for name in some) / 2
                rates[workload.name] = min(half, rates.get(workload.name, half))
    for name, rate in rates.items():
        if rate <= 0:
            raise TargetError(f"no request of workload {name!r} was answered while its rate was being found")
    return rates


def _processes(study: Study, names: tuple[str, ...], number: int, directory: Path) -> burst.BurstPlan:
    layout = arms.layout(study)
    by_name = {arm.name: arm for arm in layout.arms}
    return burst.BurstPlan(
        number=number,
        arms=tuple(arm_plan(study, by_name[name], directory) for name in names),
        workloads=arms.workloads(study),
        memory_requests=study.budget.memory_requests,
    )
