"""Made-up but well-formed runs with a known truth, for tests of everything that reads stored rows."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from harness.measure.records import ArmReading, Burst, Latencies, Measured, Memory, Slice, Stretch
from harness.plan.arms import layout, workloads
from harness.plan.schedule import burst
from harness.study.records import Budget, Design, Expectation, Study, Workload

SURGE = Workload(name="surge", file="surge.py")
STEADY = Workload(name="steady", file="steady.py", arrivals="constant", rate=500.0)


def a_study(
    *expectations: Expectation,
    workloads: tuple[Workload, ...] = (SURGE,),
    design: Design | None = None,
    min_bursts: int = 7,
    seed: int = 7,
) -> Study:
    return Study(
        name="synthetic",
        title="a made-up run",
        seed=seed,
        design=design if design is not None else Design(controls=("first-day-reuse",)),
        budget=Budget(min_bursts=min_bursts),
        workloads=workloads,
        expectations=expectations,
    )


def a_stretch(
    arm: str = "none",
    *,
    burst: int = 0,
    block: int = 0,
    workload: str = "surge",
    latency: float = 0.001,
    requests: int = 200,
    kind: Stretch = "slice",
    seconds: float = 0.2,
    lag: float = 0.0,
    rate: float = 0.0,
    position: int = 0,
) -> Slice:
    service = (latency * (1.0 + 0.1 * np.linspace(-1.0, 1.0, requests))).astype("<f4")
    late = np.full(requests, lag, dtype="<f4").tobytes() if lag else b""
    return Slice(
        burst=burst,
        block=block,
        position=position,
        workload=workload,
        arm=arm,
        kind=kind,
        began=10.0 * burst + block + 0.25 * position,
        planned=seconds,
        seconds=seconds,
        started=requests,
        answered=requests,
        rejected=0,
        failed={},
        cancelled=0,
        cpu_target=requests * latency * 0.3,
        cpu_load=requests * latency * 0.2,
        page_faults=requests,
        lag_max=lag,
        latencies=(Latencies("request", service.tobytes(), late),),
        rate=rate,
        arrivals=round(rate * seconds),
        tasks=requests,
    )


def a_reading(arm: str = "none", *, burst: int = 0, uss: int = 4_000_000) -> ArmReading:
    idle, after = Memory(20_000_000, 21_000_000, 25_000_000, 10), Memory(20_000_000 + uss, 0, 0, 12)
    gauges = {"pooling.hits": 1.0 * burst}
    return ArmReading(burst, arm, 2000, idle, after, idle, after, gauges, {"dialer.misses": 2.0})


def a_run(
    study: Study,
    factors: Mapping[str, float],
    bursts: int = 12,
    *,
    sd_layout: float = 0.014,
    sd_pair: float = 0.04,
    seed: int = 1,
) -> Measured:
    """A run in which arm x's latency and CPU are `factors[x]` (default 1) times those of the baseline."""
    rng = np.random.default_rng(seed)
    plan = layout(study)
    open_rate = {each.name: each.rate for each in workloads(study)}
    slices: list[Slice] = []
    readings: list[ArmReading] = []
    headers: list[Burst] = []
    for number in range(bursts):
        planned = burst(study, plan, number)
        layout_effect = {arm: rng.normal(0.0, sd_layout) for arm in planned.arms}
        headers.append(Burst(number, planned.arms, 10.0 * number, True))
        for block in planned.blocks:
            drift = rng.normal(0.0, 0.1)
            for position, arm in enumerate(block.order):
                noise = layout_effect[arm] + drift + sd_pair * rng.standard_t(5)
                latency = 0.001 * factors.get(arm, 1.0) * float(np.exp(noise))
                rate = open_rate[block.workload]
                stretch = a_stretch(
                    arm,
                    burst=number,
                    block=block.block,
                    workload=block.workload,
                    latency=latency,
                    requests=int((rate or 1.0 / latency) * block.seconds),
                    kind=block.kind,
                    seconds=block.seconds,
                    rate=rate,
                    position=position,
                )
                slices.append(stretch)
        readings += [
            a_reading(arm, burst=number, uss=round(4e6 * factors.get(arm, 1.0) * rng.lognormal(0.0, 0.01)))
            for arm in planned.arms
        ]
    return Measured(tuple(headers), tuple(slices), tuple(readings))


def changed(measured: Measured, **fields: object) -> Measured:
    """The same run with these fields set in every stretch of load."""
    rows = tuple(msgspec.structs.replace(row, **fields) for row in measured.slices)
    return msgspec.structs.replace(measured, slices=rows)
