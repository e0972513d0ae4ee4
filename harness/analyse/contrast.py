"""Arm b against arm a: from stored rows to a ratio with its interval.

The burst is the unit of statistics: process layout shifts all pairs of a burst together, so an interval over
pairs undercovers badly. Pairs give log ratios d = log(b) - log(a), each burst the median of its d, and the
estimate is the centre of the burst medians with the interval that the signed-rank test over bursts inverts to
(`centre`). A run that may stop early has their median instead, with the interval that holds at any stopping time
(`sequential`). A pair without a usable value on both sides is counted with its reason, never dropped in silence.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.analyse.centre import Floats, centre, centre_interval
from harness.analyse.records import ContrastResult, Estimate
from harness.analyse.sequential import interval as interval_at_any_time
from harness.measure.episodes import AllOf, Episode, NoneOf, Unusable
from harness.measure.metrics import NO_COUNTER, Metric, Source
from harness.measure.records import ArmReading, Slice
from harness.plan.arms import Role
from harness.study.records import Study

Row = Slice | ArmReading | Episode
Key = tuple[int, int]
"(burst, block): what two arms share when they form a pair; readings have block 0"
Value = float | str
"a positive number, or the reason why there is none"
_LARGEST = math.log(sys.float_info.max)
MAX_UNUSABLE = 0.10
"share of pairs without a value beyond which the others stand for nothing: what is missing is rarely missing by chance"


@dataclass(frozen=True, slots=True)
class Contrast:
    """The question: arm `b` against arm `a`, for `role`; `workload` and `request` are "" where they do not
    apply.
    """

    a: str
    b: str
    role: Role
    workload: str
    metric: Metric
    request: str
    source: Source


@dataclass(frozen=True, slots=True)
class Pairs:
    """Log ratios of the usable pairs in run order, the burst of each, and the reasons of the others (reason
    -> count).
    """

    bursts: NDArray[np.int64]
    differences: Floats
    reasons: dict[str, int]


@dataclass(frozen=True, slots=True)
class Readings:
    """All values of one arm for one contrast, and how many requests stand behind them."""

    values: Mapping[Key, Value]
    requests: int


def value_of(metric: Metric, row: Row, request: str) -> Value:
    """The metric of one row as a positive number, or why it has none (no answer, zero, negative, not a
    number).
    """
    try:
        match row:
            case Slice():
                value = metric.of_slice(row, request)
            case Episode():
                value = (metric.of_episode or (lambda each: metric.of_reading(each.reading)))(row)
            case _:
                value = metric.of_reading(row)
    except Unusable as reason:
        return str(reason)
    return usable(value)


def usable(value: float) -> Value:
    """`value` when its logarithm exists, else why not."""
    if not math.isfinite(value):
        return "not a finite number"
    if value <= 0.0:
        return "zero" if value == 0.0 else "negative"
    return value


def readings(rows: Iterable[Row], metric: Metric, request: str) -> Readings:
    """The metric of every row of one arm (one workload and kind of stretch), by burst and block."""
    values: dict[Key, Value] = {}
    requests = 0
    for row in rows:
        about = row.reading if isinstance(row, Episode) else row
        key = (about.burst, about.block) if isinstance(about, Slice) else (about.burst, 0)
        values[key] = value_of(metric, row, request)
        requests += _answered(about, metric, request)
    return Readings(values, requests)


def _answered(about: Slice | ArmReading, metric: Metric, request: str) -> int:
    """How many requests a row's value rests on: those of the name, for a metric that has one, answered or failed."""
    if not isinstance(about, Slice):
        return about.requests
    if not metric.per_request_name:
        return about.answered
    answered = sum(len(each.service) // 4 for each in about.latencies if request in ("", each.name))
    return answered + sum(each.failed for each in about.unanswered if request in ("", each.name))


def pair_up(a: Mapping[Key, Value], b: Mapping[Key, Value]) -> Pairs:
    """Log ratios b/a of all keys both arms have, in (burst, block) order."""
    bursts: list[int] = []
    differences: list[float] = []
    reasons: Counter[str] = Counter()
    for key in sorted(a.keys() & b.keys()):
        value_a, value_b = a[key], b[key]
        if isinstance(value_a, str):
            reasons[value_a] += 1
        elif isinstance(value_b, str):
            reasons[value_b] += 1
        else:
            bursts.append(key[0])
            differences.append(_difference(value_a, value_b))
    return Pairs(np.array(bursts, dtype=np.int64), np.array(differences), dict(sorted(reasons.items())))


def _difference(a: float, b: float) -> float:
    """log(b / a), but none is never more than some, nor all less than some, and two of a kind do not differ.

    The half that gives a share of none a ratio is large where there were few: 0 of 50 would be more than 1 of 1,000.
    """
    difference = math.log(b) - math.log(a)
    if isinstance(a, NoneOf) or isinstance(b, AllOf):
        difference = max(0.0, difference)
    if isinstance(b, NoneOf) or isinstance(a, AllOf):
        difference = min(0.0, difference)
    return difference


def burst_medians(pairs: Pairs) -> tuple[NDArray[np.int64], Floats]:
    """Burst numbers in ascending order and the median log ratio of each."""
    order = np.lexsort((pairs.differences, pairs.bursts))
    differences = pairs.differences[order]
    numbers, first, counts = np.unique(pairs.bursts[order], return_index=True, return_counts=True)
    return numbers, (differences[first + (counts - 1) // 2] + differences[first + counts // 2]) / 2.0


def ratio_of(difference: float) -> float:
    """The ratio that a log ratio stands for; infinity beyond what a number can hold."""
    return math.exp(difference) if difference < _LARGEST else math.inf


def estimate(pairs: Pairs, confidence: float, sequential: bool = False) -> Estimate:
    """Centre of the burst medians with its interval at `confidence`; `pairs` must not be empty.

    `sequential`: their median, with the interval that holds at any stopping time.
    """
    _, medians = burst_medians(pairs)
    if sequential:
        middle, (low, high) = float(np.median(medians)), interval_at_any_time(medians, confidence)
    else:
        middle, (low, high) = centre(medians), centre_interval(medians, confidence)
    bounded = max(abs(low), abs(high)) < _LARGEST
    if not bounded:
        low, high = -math.inf, math.inf
    return Estimate(
        ratio=ratio_of(middle),
        low=ratio_of(low),
        high=ratio_of(high),
        confidence=confidence,
        method=("sequential" if sequential else "signed rank") if bounded else "unbounded",
        bursts=medians.size,
        pairs=pairs.differences.size,
        sd=_spread(medians),
        pair_sd=_spread(pairs.differences),
    )


def judge_contrast(
    question: Contrast, a: Readings, b: Readings, study: Study, confidence: float
) -> tuple[ContrastResult, Floats]:
    """The result of one contrast, and the burst medians (log ratios) it rests on.

    The study says whether it may have stopped early.
    """
    pairs = pair_up(a.values, b.values)
    numbers, medians = burst_medians(pairs)
    found = None
    if pairs.differences.size:
        found = estimate(pairs, confidence, study.budget.stop_early)
    result = ContrastResult(
        a=question.a,
        b=question.b,
        role=question.role,
        workload=question.workload,
        metric=question.metric.name,
        request=question.request,
        source=question.source,
        estimate=found,
        burst_numbers=tuple(int(number) for number in numbers),
        burst_ratios=tuple(map(ratio_of, medians)),
        value_a=_median(a.values),
        value_b=_median(b.values),
        unusable=sum(pairs.reasons.values()),
        reasons=pairs.reasons,
        problem=_problem(question, a, b, pairs),
    )
    return result, medians


def uncounted(found: ContrastResult) -> bool:
    """Whether there is nothing to compare because this machine cannot count it."""
    return found.estimate is None and found.reasons.keys() == {NO_COUNTER}


def _problem(question: Contrast, a: Readings, b: Readings, pairs: Pairs) -> str:
    if not pairs.differences.size:
        if not pairs.reasons:
            return f"no pair of {question.b} and {question.a} was measured"
        return "no usable pair: " + _counted(pairs.reasons)
    usable_pairs, unusable = pairs.differences.size, sum(pairs.reasons.values())
    if unusable > MAX_UNUSABLE * (usable_pairs + unusable):
        return f"{unusable} of {usable_pairs + unusable} pairs are unusable: " + _counted(pairs.reasons)
    metric = question.metric
    requests, stretches = min(a.requests, b.requests), min(len(a.values), len(b.values))
    if requests < metric.min_requests or stretches < metric.min_stretches:
        return (
            f"not resolvable: {requests:,} requests in {stretches} stretches an arm; the {metric.noun} needs"
            f" {metric.min_requests:,} in {metric.min_stretches}"
        )
    return ""


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in reasons.items())


def _median(values: Mapping[Key, Value]) -> float:
    numbers = [value for value in values.values() if not isinstance(value, str)]
    return float(np.median(numbers)) if numbers else math.nan


def _spread(values: Floats) -> float:
    return float(np.std(values, ddof=1)) if values.size > 1 else 0.0
