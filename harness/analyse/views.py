"""Descriptive tables and series of the arms: absolute numbers for people to look at, never for a verdict."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.analyse.centre import centre, centre_interval
from harness.analyse.contrast import Value, readings
from harness.analyse.records import (
    ArmSummary,
    CpuShare,
    GaugeSeries,
    LatencyCurve,
    LeakSlope,
    MemoryRow,
    MemoryTrace,
    SeriesPoint,
    SummaryValue,
    ThroughputSeries,
)
from harness.analyse.rows import Rows
from harness.measure.episodes import slope
from harness.measure.metrics import METRICS, Source, latency_seconds, metric, missing, service_seconds, throughput
from harness.measure.records import STRETCHES, ArmReading, Slice, Stretch
from harness.study.records import Workload

ENDS: tuple[Literal["target", "load"], ...] = ("target", "load")
PERCENTILES = (1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0)
MEMORY = "memory.uss"
"name of the series of an end's memory among its gauges"
TAILS = ((99.0, "latency_p99"), (99.9, "latency_p999"))
"only in segments, and only where the metric is resolvable"


@dataclass(frozen=True, slots=True)
class Views:
    """All descriptive tables and series of a run, as the analysis record has them."""

    curves: tuple[LatencyCurve, ...]
    throughput: tuple[ThroughputSeries, ...]
    cpu: tuple[CpuShare, ...]
    memory: tuple[MemoryRow, ...]
    summaries: tuple[ArmSummary, ...]
    gauges: tuple[GaugeSeries, ...]


def describe_arms(
    rows: Rows, workloads: Sequence[Workload], arms: Sequence[str], requests: Mapping[str, Sequence[str]]
) -> Views:
    """Views of these arms, workload by workload; what was not measured has no entry."""
    cells = [(each, arm) for each in workloads for arm in arms if rows.every(each.name, arm)]
    held = [(arm, rows.readings[arm]) for arm in arms if arm in rows.readings]
    origin = min((row.began for found in rows.stretches.values() for row in found), default=0.0)
    return Views(
        curves=tuple(curve for each, arm in cells for curve in curves(rows, each, arm, requests[each.name])),
        throughput=tuple(throughput_series(rows, each, arm, origin) for each, arm in cells),
        cpu=tuple(cpu_share(rows, each, arm) for each, arm in cells),
        memory=tuple(memory_row(arm, found) for arm, found in held),
        summaries=(
            *(stretch_summary(rows, each, arm, requests[each.name]) for each, arm in cells),
            *(reading_summary(arm, found) for arm, found in held),
        ),
        gauges=(
            *(gauge for arm, found in held for gauge in gauges(arm, found)),
            *(
                gauge
                for (_, arm), found in rows.episodes.items()
                if arm in arms
                for gauge in gauges(arm, [each.reading for each in found])
            ),
        ),
    )


def request_names(rows: Rows, workload: Workload, arms: Sequence[str]) -> tuple[str, ...]:
    """Names of all answered requests of a workload: its own first, then the others by name."""
    seen = {each.name for arm in arms for row in rows.every(workload.name, arm) for each in row.latencies}
    return (workload.request, *sorted(seen - {workload.request}))


def curves(rows: Rows, workload: Workload, arm: str, requests: Sequence[str]) -> Iterator[LatencyCurve]:
    """Latency distribution of one arm, all requests but rejected ones pooled, per kind of stretch and request name.

    One without an answer took longer than any other, as in the metrics: percentiles that fall among those are left out.
    """
    for kind in STRETCHES:
        stretches = rows.of(workload.name, arm, kind)
        for request in requests:
            latencies = np.concatenate([np.empty(0), *(latency_seconds(row, request) for row in stretches)])
            if not latencies.size:
                continue
            services = np.concatenate([service_seconds(row, request) for row in stretches])
            # As places among the answered alone; beyond the last of them nothing is known.
            answered = latencies.size / (latencies.size + sum(missing(row, request) for row in stretches))
            resolved = (*PERCENTILES, *_resolvable(kind, latencies.size, len(stretches)))
            percentiles = tuple(each for each in resolved if each <= 100.0 * answered)
            if not percentiles:
                continue
            places = np.array(percentiles) / answered
            yield LatencyCurve(
                workload=workload.name,
                arm=arm,
                request=request,
                source=kind,
                requests=latencies.size,
                percentiles=percentiles,
                seconds=tuple(np.percentile(latencies, places).tolist()),
                service_seconds=tuple(np.percentile(services, places).tolist()),
            )


def _resolvable(kind: Stretch, requests: int, stretches: int) -> Iterator[float]:
    for percentile, name in TAILS:
        of = metric(name)
        if kind in of.sources and requests >= of.min_requests and stretches >= of.min_stretches:
            yield percentile


def throughput_series(rows: Rows, workload: Workload, arm: str, origin: float) -> ThroughputSeries:
    """Throughput of the arm's slices in time order; `origin` is the start of the run's first slice."""
    points = [
        SeriesPoint(row.burst, row.block, row.began - origin, throughput(row) if row.seconds > 0.0 else 0.0)
        for row in rows.of(workload.name, arm)
    ]
    return ThroughputSeries(workload.name, arm, tuple(points))


def cpu_share(rows: Rows, workload: Workload, arm: str) -> CpuShare:
    """CPU per answered request and busy share of each end; NaN where nothing was answered."""
    found = rows.every(workload.name, arm)
    answered = [row for row in found if row.answered]
    lasting = [row for row in found if row.seconds > 0.0]
    return CpuShare(
        workload=workload.name,
        arm=arm,
        target_seconds=_median([row.cpu_target / row.answered for row in answered]),
        load_seconds=_median([row.cpu_load / row.answered for row in answered]),
        target_busy=_median([row.cpu_target / row.seconds for row in lasting]),
        load_busy=_median([row.cpu_load / row.seconds for row in lasting]),
    )


def memory_row(arm: str, found: Sequence[ArmReading]) -> MemoryRow:
    """Memory of one arm over its bursts; `found` must not be empty."""
    return MemoryRow(
        arm=arm,
        bursts=len(found),
        requests=round(_median([row.requests for row in found])),
        target_increase=_median([row.target_after.uss - row.target_idle.uss for row in found]),
        target_whole=_median([row.target_after.uss for row in found]),
        target_pss=_median([row.target_after.pss for row in found]),
        load_increase=_median([row.load_after.uss - row.load_idle.uss for row in found]),
        load_whole=_median([row.load_after.uss for row in found]),
        load_pss=_median([row.load_after.pss for row in found]),
        descriptors=_median([row.target_after.descriptors - row.target_idle.descriptors for row in found]),
        load_descriptors=_median([row.load_after.descriptors - row.load_idle.descriptors for row in found]),
    )


def stretch_summary(rows: Rows, workload: Workload, arm: str, requests: Sequence[str]) -> ArmSummary:
    """Every metric of one arm on one workload, absolute, with the counts of its requests."""
    found = rows.every(workload.name, arm)
    values = [
        value
        for kind in STRETCHES
        for of in METRICS.values()
        if kind in of.sources
        for request in (requests if of.per_request_name else ("",))
        for value in _summary(
            readings(rows.of(workload.name, arm, kind), of, request).values.values(), of.name, request, kind
        )
    ]
    failed: Counter[str] = Counter()
    for row in found:
        failed.update(row.failed)
    return ArmSummary(
        workload=workload.name,
        arm=arm,
        values=tuple(values),
        slices=len(found),
        started=_total(found, "started"),
        answered=_total(found, "answered"),
        rejected=_total(found, "rejected"),
        failed=dict(sorted(failed.items())),
        cancelled=_total(found, "cancelled"),
    )


def reading_summary(arm: str, found: Sequence[ArmReading]) -> ArmSummary:
    """Every memory metric of one arm, absolute; requests of the fixed work are not counted here."""
    values = [
        value
        for of in METRICS.values()
        if of.after_work
        for value in _summary(readings(found, of, "").values.values(), of.name, "", "reading")
    ]
    return ArmSummary("", arm, tuple(values), len(found), 0, 0, 0, {}, 0)


def _summary(values: Iterable[Value], name: str, request: str, source: Source) -> Iterator[SummaryValue]:
    usable = [value for value in values if not isinstance(value, str)]
    if usable:
        low, middle, high = np.percentile(usable, (25.0, 50.0, 75.0)).tolist()
        yield SummaryValue(name, request, metric(name).unit, source, middle, low, high, len(usable))


def leaks(rows: Rows, confidence: float) -> Iterator[LeakSlope]:
    """The slope of memory within episodes, of every workload, arm and end that has moments enough."""
    for (workload, arm), found in rows.episodes.items():
        for end in ENDS:
            slopes = np.array([slope(each, end) for each in found])
            slopes = slopes[np.isfinite(slopes)]
            if slopes.size:
                low, high = centre_interval(slopes, confidence)
                bounded = math.isfinite(low) and math.isfinite(high)
                ends = {"low": low, "high": high} if bounded else {"low": None, "high": None}
                yield LeakSlope(workload, arm, end, centre(slopes), **ends, episodes=slopes.size)


def traces(rows: Rows, arms: Sequence[str]) -> Iterator[MemoryTrace]:
    """Memory within episodes over time, of every workload, arm and end, as far as the shortest episode was watched."""
    for (workload, arm), found in rows.episodes.items():
        moments = min(len(each.samples) for each in found)
        if arm not in arms or moments < 2:
            continue
        seconds = np.median([[each.at for each in one.samples[:moments]] for one in found], axis=0)
        for end in ENDS:
            idle = [getattr(one.reading, f"{end}_idle").uss for one in found]
            held = np.array([[getattr(each, end).uss for each in one.samples[:moments]] for one in found], float)
            added = np.median(held - np.array(idle)[:, None], axis=0)
            yield MemoryTrace(workload, arm, end, tuple(seconds.tolist()), tuple(added.tolist()), len(found))


def gauges(arm: str, found: Sequence[ArmReading]) -> Iterator[GaugeSeries]:
    """The gauges that target and dialer keep themselves, burst by burst, by name; and each end's memory, whose trend
    is the plan's memory trend.
    """
    workload = found[0].workload if found else ""
    for end, attribute, after in (("target", "gauges", "target_after"), ("load", "load_gauges", "load_after")):
        held: dict[str, list[tuple[int, float]]] = {}
        for row in found:
            for name, value in {**getattr(row, attribute), MEMORY: float(getattr(row, after).uss)}.items():
                held.setdefault(name, []).append((row.burst, value))
        for name, points in sorted(held.items()):
            bursts, values = zip(*points, strict=True)
            yield GaugeSeries(arm, "target" if end == "target" else "load", name, bursts, values, workload)


def _total(rows: Sequence[Slice], field: str) -> int:
    return sum(getattr(row, field) for row in rows)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan
