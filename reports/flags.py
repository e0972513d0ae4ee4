"""The main table: every optimization on every workload, taken out of all of them and put in alone. Pure.

A workload is told by every metric that is expected of it, for what helps one may harm another; without expectations by
throughput (closed) or median latency (open).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.analyse.records import Analysis, ContrastResult
from harness.measure.metrics import METRICS
from harness.plan.arms import Role, cell_name, steps, workloads
from harness.study.records import Study, Workload
from reports import words
from reports.tables import Table

Tone = Literal["better", "worse", "unclear", "absent"]
PRIORITIES = {
    "pooling": "high",
    "cleanup": "high",
    "rate_limit": "medium",
    "circuit_breaker": "medium",
    "buffer_pool": "medium",
    "metrics": "low",
}
"what the plan says each of its six is worth"


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison: the change, its interval, and whether the optimization pays ("better") or harms ("worse")."""

    effect: str
    interval: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class FlagTable:
    """`columns` are workloads, each with one metric; rows have a name, what the plan thinks of it, and a cell per
    column.
    """

    anchor: str
    caption: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]


ABSENT = Cell("not measured", "", "absent")
UNCOUNTED = Cell(words.ABSENT, "not measurable", "absent")
STEPS = "flags-phases"
Asked = tuple[str, Sequence[str], tuple[str, str]]
"""A row's name, its flags, and the two arms that tell of them."""


def flag_tables(study: Study, analysis: Analysis) -> Iterator[FlagTable]:
    """What each flag is worth among all, alone, and step by step; only what the design compared."""
    names = study.optimizations
    asked: tuple[tuple[str, Role, str, Sequence[Asked]], ...] = (
        (
            "flags-without",
            "without",
            "All but one: what is lost without it (the change from all of them)",
            [(flag, (flag,), ("all", cell_name({*names} - {flag}, names))) for flag in names],
        ),
        (
            "flags-alone",
            "single",
            "One alone: the change from none",
            [(flag, (flag,), ("none", flag)) for flag in names],
        ),
        (
            STEPS,
            "step",
            "One after another: what each step adds to the one before",
            [("+ " + ", ".join(added), added, (before, after)) for added, before, after in steps(study)],
        ),
    )
    for anchor, role, caption, pairs in asked:
        found = [each for each in analysis.contrasts if each.role == role]
        if found:
            yield _table(study, analysis, (anchor, caption), pairs, loses=role == "without")


def steps_in_text(study: Study, analysis: Analysis) -> Iterator[Table]:
    """What each step of a plan adds, where there is no page to show it on; nothing for other designs."""
    for found in flag_tables(study, analysis):
        if found.anchor == STEPS:
            headings = ("step", *(f"{workload}: {metric}" for workload, metric in found.columns))
            rows = tuple((name, *(_in_text(cell) for cell in cells)) for name, _, cells in found.rows)
            yield Table(found.caption, headings, rows, tuple(range(1, len(headings))))


def _in_text(cell: Cell) -> str:
    return f"{cell.effect} ({cell.interval})" if cell.interval else cell.effect


@dataclass(frozen=True, slots=True)
class Ranking:
    """Flags by what they bring `how` (alone, or as a step), the most useful first, each with the plan's priority;
    `level` are those of which `workloads` show nothing.
    """

    how: str
    shown: tuple[tuple[str, str], ...]
    level: tuple[str, ...]
    workloads: tuple[str, ...]


def ranking(study: Study, analysis: Analysis) -> Ranking | None:
    """The order of the flags, or of a plan's steps; None when nothing is shown of any.

    The mean of the log ratios in the good direction, 0 where the interval contains no change, over the first metric of
    every workload on which all were measured: any other one would compare them on different ground.
    """
    stepwise = any(each.role == "step" for each in analysis.contrasts)
    pairs: dict[str, tuple[Sequence[str], tuple[str, str]]] = (
        {", ".join(added): (added, (before, after)) for added, before, after in steps(study)}
        if stepwise
        else {flag: ((flag,), ("none", flag)) for flag in study.optimizations}
    )
    worth: dict[str, list[float]] = {name: [] for name in pairs}
    compared = []
    for workload in workloads(study):
        metric = told_by(study, analysis, workload)[0]
        lower = words.metric_info(analysis, metric[0]).direction == "lower"
        found = [_found(analysis, pair, workload.name, metric) for _, pair in pairs.values()]
        shown = [each.estimate for each in found if each is not None and each.estimate is not None and not each.problem]
        if len(shown) == len(pairs):
            compared.append(workload.name)
            for flag, ratio in zip(pairs, shown, strict=True):
                benefit = float(np.log(ratio.ratio)) * (-1.0 if lower else 1.0)
                worth[flag].append(0.0 if ratio.low <= 1.0 <= ratio.high else benefit)
    level = tuple(flag for flag, values in worth.items() if not any(values))
    order = sorted((flag for flag in worth if flag not in level), key=lambda flag: -float(np.mean(worth[flag])))
    ranked = tuple((name, _priority(study, pairs[name][0])) for name in order)
    return Ranking("step by step" if stepwise else "alone", ranked, level, tuple(compared)) if order else None


def _priority(study: Study, flags: Sequence[str]) -> str:
    """What the plan says of these; empty for what is not the plan's."""
    return "" if study.switches else ", ".join(dict.fromkeys(PRIORITIES[each] for each in flags))


def told_by(study: Study, analysis: Analysis, workload: Workload) -> tuple[tuple[str, str], ...]:
    """Every (metric, request) by which the table tells of a workload; the first is one that can be measured."""
    asked = [
        (each.metric, each.request or (workload.request if METRICS[each.metric].per_request_name else ""))
        for each in study.expectations
        if each.workload == workload.name and (workload.is_episode or not METRICS[each.metric].after_work)
    ]
    usual = ("throughput", "") if workload.arrivals == "closed" else ("latency_p50", workload.request)
    uncounted = _uncounted(analysis)
    counted = [each for each in asked if (workload.name, each[0]) not in uncounted]
    return tuple(dict.fromkeys((*(counted or (usual,)), *asked)))


def _uncounted(analysis: Analysis) -> set[tuple[str, str]]:
    """Every (workload, metric) that the study asks for and this machine cannot count."""
    return {(each.workload, each.metric) for each in analysis.verdicts if each.outcome == "NOT MEASURABLE"}


def _table(
    study: Study,
    analysis: Analysis,
    title: tuple[str, str],
    asked: Sequence[Asked],
    *,
    loses: bool,
) -> FlagTable:
    chosen = [(each, metric) for each in workloads(study) for metric in told_by(study, analysis, each)]
    rows = tuple(
        (
            name,
            _priority(study, flags),
            tuple(_cell(analysis, pair, workload.name, metric, loses=loses) for workload, metric in chosen),
        )
        for name, flags, pair in asked
    )
    columns = tuple((each.name, words.metric_words(analysis, *metric)) for each, metric in chosen)
    return FlagTable(*title, columns, rows)


def _cell(analysis: Analysis, pair: tuple[str, str], workload: str, metric: tuple[str, str], *, loses: bool) -> Cell:
    found = _found(analysis, pair, workload, metric)
    if found is None:
        met = any((each.a, each.b, each.workload) == (*pair, workload) for each in analysis.contrasts)
        return UNCOUNTED if met and (workload, metric[0]) in _uncounted(analysis) else ABSENT
    if found.estimate is None or found.problem:
        return Cell("not resolved", found.problem, "absent")
    sense = words.sense(found.estimate, words.metric_info(analysis, metric[0]).direction)
    if loses:
        sense = {"better": "worse", "worse": "better"}.get(sense, sense)  # type: ignore[assignment]
    tone: Tone = "unclear" if sense == "neutral" else sense
    if not found.estimate.bounded:
        return Cell(words.effect(found.estimate), "too few bursts for an interval", "unclear")
    return Cell(words.effect(found.estimate), words.interval(found.estimate), tone)


def _found(analysis: Analysis, pair: tuple[str, str], workload: str, metric: tuple[str, str]) -> ContrastResult | None:
    name, request = metric
    return next(
        (
            each
            for each in analysis.contrasts
            if (each.a, each.b, each.metric, each.workload) == (*pair, name, workload)
            and (not request or each.request == request)
        ),
        None,
    )
