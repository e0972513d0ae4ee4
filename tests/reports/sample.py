"""A made-up but well-formed run with three workloads, for the tests of every view."""

from __future__ import annotations

from functools import cache

import msgspec
import numpy as np

from harness.analyse.analysis import analyse
from harness.analyse.records import Analysis, Attribution, Crossover, FlagEffect, TailTest
from harness.measure.records import ArmReading, Burst, Environment, Latencies, Measured, Memory, Slice, Stretch
from harness.plan.arms import layout
from harness.plan.schedule import burst
from harness.study.records import OPTIMIZATIONS, Budget, Design, Expectation, Study, Workload
from reports.info import RunInfo

LATENCY = {"none": 1.0, "none-again": 1.0, "first-day-reuse": 0.16, "all": 0.14}
"median latency relative to none"
RATE = {"none": 1.0, "none-again": 1.0, "first-day-reuse": 2.3, "all": 5.3}
"throughput relative to none"
MEDIAN = {"surge": 0.0045, "steady": 0.0012, "dial": 0.0021}
"seconds on none"
CAPACITY = {"surge": 1150.0, "steady": 300.0, "dial": 640.0}
"requests per second on none"

STUDY = Study(
    name="quick",
    title="Do the six optimizations pay? Quick study of the reference node",
    question="Every optimization off against every optimization on, and against a first day's reuse of connections.",
    seed=20,
    design=Design(controls=("first-day-reuse",)),
    workloads=(
        Workload(name="surge", file="surge.py", question="How many requests a second when everybody asks at once?"),
        Workload(
            name="steady",
            file="steady.py",
            question="How long does a request take at half the load?",
            arrivals="constant",
            rate=300.0,
            segment_seconds=10.0,
        ),
        Workload(name="dial", file="dial.py", question="How soon is there a connection?", request="connect"),
    ),
    expectations=(
        Expectation(
            name="connect-latency",
            claim="Connection latency falls by 70 %",
            workload="dial",
            metric="latency_p50",
            against=("none", "first-day-reuse"),
            at_most=0.30,
            reason="The plan promises it for pooled connections.",
        ),
        Expectation(
            name="throughput",
            claim="Throughput under high load rises 2.5 times",
            workload="surge",
            metric="throughput",
            against=("none", "first-day-reuse"),
            at_least=2.5,
        ),
        Expectation(
            name="memory",
            claim="Memory falls by 40 %",
            workload="surge",
            metric="target_memory",
            against=("none", "first-day-reuse"),
            at_most=0.60,
        ),
        Expectation(
            name="cache",
            claim="Better cache locality",
            workload="surge",
            metric="cache_misses_per_request",
            at_most=0.95,
        ),
    ),
    budget=Budget(min_bursts=7),
)
ENVIRONMENT = Environment(
    machine="x86_64 virtual machine",
    cpu="Example CPU @ 2.60GHz",
    cores=2,
    memory_bytes=8_320_000_000,
    kernel="Linux 6.8.0",
    python="CPython 3.12.3",
    packages={"locust": "2.47.0", "cryptography": "48.0.0", "uvloop": "0.22.1"},
    revision="0123456789abcdef0123456789abcdef01234567",
    dirty=True,
    variables={"MALLOC_ARENA_MAX": "<1>"},
)
INFO = RunInfo(
    run="20260102-030405-quick",
    started=1767322800.0,
    ended=1767322977.0,
    command="synapsed-bench run quick --design on-off --seed 20 --depth quick",
    seed=20,
    complete=True,
    notes=("Target and load share one machine.",),
)


@cache
def sample(bursts: int = 14) -> Analysis:
    """The analysis of a finished, valid run."""
    return analyse(STUDY, measured(STUDY, bursts))


@cache
def small() -> Analysis:
    """The sample with fewer charts."""
    full = sample()
    return msgspec.structs.replace(
        full,
        contrasts=tuple(each for each in full.contrasts if each.workload == "surge" and each.role == "treatment"),
        curves=tuple(each for each in full.curves if each.workload == "surge"),
        throughput=tuple(each for each in full.throughput if each.workload == "surge"),
        cpu=tuple(each for each in full.cpu if each.workload == "surge"),
    )


@cache
def invalid() -> Analysis:
    """The same run with requests that failed where none may."""
    run = measured(STUDY, 9)
    rows = tuple(msgspec.structs.replace(row, answered=row.answered - 3, failed={"timeout": 3}) for row in run.slices)
    return analyse(STUDY, msgspec.structs.replace(run, slices=rows))


def attributed() -> Analysis:
    """The sample with an attribution to the six flags."""
    sizes = (0.31, 0.97, 1.02, 1.01, 0.71, 0.93)
    effects = tuple(
        FlagEffect(flag, size, size * 0.97, size * 1.03) for flag, size in zip(OPTIMIZATIONS, sizes, strict=True)
    )
    whole = next(
        each.estimate for each in sample().contrasts if each.metric == "throughput" and each.role == "treatment"
    )
    found = Attribution(
        workload="surge",
        metric="cpu_per_request",
        request="",
        confidence=0.95,
        effects=effects,
        predicted=FlagEffect("", 0.2, 0.18, 0.22),
        measured=whole,
        closes=False,
        bursts=32,
        pairs=128,
    )
    return msgspec.structs.replace(sample(), attributions=(found,))


def swept() -> Analysis:
    """The small sample with the crossovers of a sweep: one that crosses, one that never does."""
    estimates = [each.estimate for each in sample().contrasts if each.estimate is not None][:1]
    ratios = tuple(
        msgspec.structs.replace(estimates[0], ratio=ratio, low=ratio * 0.96, high=ratio * 1.05)
        for ratio in (1.1, 1.02, 0.9, 0.6)
    )
    crossing = Crossover(
        workload="surge",
        parameter="message_bytes",
        metric="cpu_per_request",
        request="",
        at=2400.0,
        low=1100.0,
        high=float("inf"),
        pays_above=True,
        values=(64.0, 1024.0, 16384.0, 1048576.0),
        ratios=ratios,
    )
    never = msgspec.structs.replace(crossing, at=None, low=0.0, pays_above=None, ratios=ratios[2:] * 2)
    return msgspec.structs.replace(small(), crossovers=(crossing, never))


def tailed() -> Analysis:
    """The small sample with tails: one pair of arms that was measured in segments, one without a usable pair."""
    estimate = next(each.estimate for each in sample().contrasts if each.estimate is not None)
    found = TailTest(
        workload="steady",
        request="request",
        a="none",
        b="all",
        percentile=99.0,
        threshold=0.0042,
        share_a=0.0101,
        share_b=0.0034,
        estimate=msgspec.structs.replace(estimate, ratio=0.34, low=0.3, high=0.39),
        p_value=0.00012,
        reasons={},
    )
    short = msgspec.structs.replace(
        found, a="first-day-reuse", estimate=None, p_value=1.0, reasons={"fewer than 1,000 requests in a segment": 4}
    )
    return msgspec.structs.replace(small(), tails=(found, short))


def measured(study: Study, bursts: int) -> Measured:
    """Rows with process layout, drift of the machine, and heavy tails; the same every time."""
    rng = np.random.default_rng(5)
    plan = layout(study)
    slices: list[Slice] = []
    readings: list[ArmReading] = []
    headers: list[Burst] = []
    for number in range(bursts):
        planned = burst(study, plan, number)
        headers.append(Burst(number, planned.arms, 12.0 * number, True))
        luck = {arm: float(np.exp(rng.normal(0.0, 0.014))) for arm in planned.arms}
        for index, block in enumerate(planned.blocks):
            drift = float(np.exp(0.1 * np.sin(number / 2.0)))
            for position, arm in enumerate(block.order):
                noise = luck[arm] * drift * float(np.exp(0.03 * rng.standard_t(5)))
                place = (number, block.block, position, 12.0 * number + 0.9 * index + 0.22 * position)
                workload = next(each for each in study.workloads if each.name == block.workload)
                slices.append(_stretch(rng, workload, arm, block.kind, place, block.seconds, noise))
        readings += [_reading(arm, number, luck[arm]) for arm in planned.arms]
    return Measured(tuple(headers), tuple(slices), tuple(readings))


def _stretch(
    rng: np.random.Generator,
    workload: Workload,
    arm: str,
    kind: Stretch,
    place: tuple[int, int, int, float],
    seconds: float,
    noise: float,
) -> Slice:
    number, block, position, began = place
    is_open = workload.arrivals != "closed"
    rate = workload.rate if is_open else CAPACITY[workload.name] * RATE[arm] / noise
    requests = max(20, int(rate * seconds))
    median = MEDIAN[workload.name] * LATENCY[arm] * noise
    service = (median * np.exp(0.25 * rng.standard_normal(requests) + 0.3 * rng.exponential(size=requests))).astype(
        "<f4"
    )
    lag = (rng.exponential(2e-4, requests)).astype("<f4").tobytes() if is_open else b""
    return Slice(
        burst=number,
        block=block,
        position=position,
        workload=workload.name,
        arm=arm,
        kind=kind,
        began=began,
        planned=seconds,
        seconds=requests / rate,
        started=requests,
        answered=requests,
        rejected=0,
        failed={},
        cancelled=0,
        cpu_target=requests * 2.6e-4 / RATE[arm] * noise,
        cpu_load=requests * 3.4e-4 / RATE[arm] ** 0.5 * noise,
        page_faults=requests // 2,
        lag_max=0.001,
        latencies=(Latencies(workload.request, service.tobytes(), lag),),
        rate=workload.rate if is_open else 0.0,
    )


def _reading(arm: str, number: int, luck: float) -> ArmReading:
    size = {"all": 2.3e6, "first-day-reuse": 3.7e6}.get(arm, 4.1e6)
    idle = Memory(uss=21_000_000, pss=22_500_000, rss=31_000_000, descriptors=14)
    after = Memory(
        uss=21_000_000 + round(size * luck), pss=27_000_000, rss=36_000_000, descriptors=14 + 8 * (arm == "all")
    )
    gauges = {"rate_limit.rejection_rate": 0.0, "buffer_pool.acquired": 0.0, "buffer_pool.reuse_ratio": 0.0}
    return ArmReading(
        arm=arm,
        burst=number,
        requests=2000,
        target_idle=idle,
        target_after=after,
        load_idle=idle,
        load_after=after,
        gauges=gauges,
        load_gauges={
            "surge: pooling.hits": 970.0 if arm == "all" else 0.0,
            "surge: pooling.misses": 30.0 + number,
            "surge: circuit_breaker.closed_to_open": float(number % 2),
            "surge: circuit_breaker.open_to_half_open": float(number % 2),
            "steady: pooling.hits": 0.0,
            "steady: pooling.misses": 0.0,
        },
    )
