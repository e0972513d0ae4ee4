"""Where an optimization starts to pay: the value of a swept parameter at which its ratio crosses 1."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from harness.analyse.records import ContrastResult, Crossover, Estimate
from harness.measure.metrics import metric
from harness.plan.arms import variant_name
from harness.study.records import Sweep


def crossing(positions: Sequence[float], heights: Sequence[float]) -> float | None:
    """The last position at which straight lines through the points change sign; None if they never do.

    The last: before an optimization pays its ratio may wander about 1, and where it does so is noise.
    """
    points = list(zip(positions, heights, strict=True))
    for (left, before), (right, after) in reversed(list(itertools.pairwise(points))):
        if before == 0.0:
            return left
        if before * after < 0.0:
            return left + (right - left) * before / (before - after)
    return points[-1][0] if points and points[-1][1] == 0.0 else None


def crossover(sweep: Sweep, name: str, request: str, contrasts: Sequence[ContrastResult]) -> Crossover | None:
    """The crossover of one metric over a sweep; None unless two of its numeric values have a bounded estimate.

    Interpolation is on the logarithm of the value when all values are positive: sweeps are usually geometric.
    """
    found = _swept(sweep, name, request, contrasts)
    if len(found) < 2:
        return None
    values = [value for value, _ in found]
    scale, back = (math.log, math.exp) if min(values) > 0.0 else (float, float)
    positions = [scale(value) for value in values]

    def where(ratios: Sequence[float]) -> float | None:
        at = crossing(positions, [math.log(ratio) for ratio in ratios])
        return None if at is None else back(at)

    at = where([each.ratio for _, each in found])
    ends = [where([each.low for _, each in found]), where([each.high for _, each in found])]
    low, high = _around(at, ends)
    better_above = (found[-1][1].ratio > 1.0) == (metric(name).direction == "higher")
    return Crossover(
        workload=sweep.workload,
        parameter=sweep.parameter,
        metric=name,
        request=request,
        at=at,
        low=low,
        high=high,
        pays_above=better_above if at is not None else None,
        values=tuple(values),
        ratios=tuple(each for _, each in found),
    )


def _around(at: float | None, ends: Sequence[float | None]) -> tuple[float, float]:
    """The ends on either side of `at`, infinite where there is none."""
    if at is None:
        return -math.inf, math.inf
    below = [end for end in ends if end is not None and end <= at]
    above = [end for end in ends if end is not None and end >= at]
    return min(below, default=-math.inf), max(above, default=math.inf)


def _swept(sweep: Sweep, name: str, request: str, contrasts: Sequence[ContrastResult]) -> list[tuple[float, Estimate]]:
    """(value, treatment's estimate) in ascending order of value, bounded ones only, from what a workload consists of:
    slices, or episodes and what was read after them.
    """
    by_workload = {
        each.workload: each.estimate
        for each in contrasts
        if (each.role, each.metric, each.request) == ("treatment", name, request)
        and each.source != "segment"
        and each.estimate
        and each.estimate.bounded
    }
    numbers = sorted(value for value in sweep.values if not isinstance(value, str))
    names = {value: variant_name(sweep, value) for value in numbers}
    return [(value, by_workload[names[value]]) for value in numbers if names[value] in by_workload]
