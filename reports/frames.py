"""A run as tables for further work: every value of every metric, and two runs beside each other. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from harness.analyse.contrast import Row, value_of
from harness.analyse.records import Analysis, ContrastResult, Estimate, Verdict
from harness.analyse.rows import Rows, arrange
from harness.measure.episodes import Episode, extreme
from harness.measure.metrics import METRICS, Metric, Source
from harness.measure.records import STRETCHES, Measured, Slice
from harness.plan.arms import layout, workloads
from harness.study.records import Study, Workload

VALUES = ("workload", "source", "burst", "pair", "arm", "metric", "request", "unit", "value", "extreme")
WHO = ["role", "workload", "metric", "request", "source", "b", "a"]


def values(study: Study, measured: Measured, workload: str = "", segments: bool = False) -> pd.DataFrame:
    """One row per value, columns VALUES, hidden arms among them; what has no value there has no row.

    `extreme` is "none" or "all" where a share is of none or of all: two of a kind do not differ, none is
    never more than some, nor all less, whatever their values.
    `pair` is the block, `source` where the value comes from (slice, segment, episode, reading). Of the metrics that
    belong to a request name, those of the workload's own request. `workload` leaves the others out, and its segments,
    which are no pairs like its slices: what is left is what `synapsed-bench judge` reads. `segments`: only those.
    """
    rows, arms = arrange(measured), [arm.name for arm in layout(study).arms]
    found = [
        value
        for each in workloads(study)
        if workload in ("", each.name)
        for arm in arms
        for value in _of_workload(rows, each, arm)
    ]
    if not workload:
        found += [value for arm in arms for value in _of(rows.readings.get(arm, ()), ("", "reading", arm), "")]
    table = pd.DataFrame(found, columns=list(VALUES))
    if segments:
        return table[table["source"] == "segment"]
    return table[table["source"] != "segment"] if workload else table


def _of_workload(rows: Rows, workload: Workload, arm: str) -> Iterator[tuple[Any, ...]]:
    for kind in STRETCHES:
        yield from _of(rows.of(workload.name, arm, kind), (workload.name, kind, arm), workload.request)
    yield from _of(rows.episodes.get((workload.name, arm), ()), (workload.name, "reading", arm), workload.request)


def _of(rows: tuple[Row, ...], place: tuple[str, Source, str], request: str) -> Iterator[tuple[Any, ...]]:
    workload, source, arm = place
    for metric in METRICS.values():
        if source in metric.sources:
            for row in rows:
                yield from _value(metric, row, (workload, source, arm), request)


def _value(metric: Metric, row: Row, place: tuple[str, Source, str], request: str) -> Iterator[tuple[Any, ...]]:
    workload, source, arm = place
    asked = request if metric.per_request_name else ""
    value = value_of(metric, row, asked)
    if isinstance(value, str):
        return
    about = row.reading if isinstance(row, Episode) else row
    pair = about.block if isinstance(about, Slice) else 0
    yield workload, source, about.burst, pair, arm, metric.name, asked, metric.unit, value, extreme(value)


def estimates(first: Analysis, second: Analysis) -> pd.DataFrame:
    """The contrasts that two runs share and have intervals of: columns WHO, then ratio, low, high of each (suffixes _1,
    _2), and `agree`: whether the intervals overlap.
    """
    both = _frame(first).merge(_frame(second), on=WHO, suffixes=("_1", "_2"))
    both["agree"] = (both["low_1"] <= both["high_2"]) & (both["low_2"] <= both["high_1"])
    return both


def _frame(analysis: Analysis) -> pd.DataFrame:
    found = [_line(each, each.estimate) for each in analysis.contrasts if each.estimate and each.estimate.bounded]
    return pd.DataFrame(found, columns=[*WHO, "ratio", "low", "high"])


def _line(each: ContrastResult, shown: Estimate) -> tuple[Any, ...]:
    place = (each.role, each.workload, each.metric, each.request, each.source, each.b, each.a)
    return (*place, shown.ratio, shown.low, shown.high)


def verdicts(first: Analysis, second: Analysis) -> tuple[tuple[Verdict, Verdict], ...]:
    """The verdicts on what both runs asked alike, in the order of the first."""
    other = {_asked(each): each for each in second.verdicts}
    mine = ((each, other.get(_asked(each))) for each in first.verdicts)
    return tuple((each, found) for each, found in mine if found is not None)


def _asked(verdict: Verdict) -> tuple[Any, ...]:
    what = verdict.workload, verdict.metric, verdict.request, verdict.arm, verdict.against
    return verdict.expectation, *what, verdict.side, verdict.bound


def contradict(one: Verdict, other: Verdict) -> bool:
    """Whether one run says MET and the other MISSED."""
    return {one.outcome, other.outcome} == {"MET", "MISSED"}
