"""When requests are meant to start: offsets in seconds from the opening of the barrier, decided before any
is sent.

Arrivals never wait for answers (that would hide every stall); latency counts from these offsets. Every
shape is one rate function integrated once: constant arrivals sit at its whole numbers, Poisson arrivals at
a unit Poisson process' points, so a ramp or a spike is the same code as a steady rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.study.records import Workload

Floats = NDArray[np.float64]
Knots = Sequence[tuple[float, float]]
"""(seconds, arrivals per second), in time order; straight between two knots, flat before the first and
after the last"""


def offsets(workload: Workload, seconds: float, rng: np.random.Generator, rate: float = 0.0) -> Floats:
    """Sorted offsets in [0, seconds) of an open workload; none for a closed one.

    `rate` stands in where the workload leaves its own at 0 (half the slower arm's capacity).
    """
    if workload.arrivals == "closed":
        return np.empty(0)
    knots = workload.shape or ((0.0, workload.rate or rate),)
    if workload.arrivals == "constant":
        return constant(knots, seconds)
    return poisson(knots, seconds, rng)


def constant(knots: Knots, seconds: float) -> Floats:
    """Evenly spaced arrivals: the k-th (from 0) where the integrated rate reaches k."""
    total = expected(knots, seconds)
    return _where_reached(knots, seconds, np.arange(math.ceil(total), dtype=np.float64))


def poisson(knots: Knots, seconds: float, rng: np.random.Generator) -> Floats:
    """A Poisson process of that rate, by time change of N uniform points, N itself Poisson."""
    total = expected(knots, seconds)
    return _where_reached(knots, seconds, np.sort(rng.uniform(0.0, total, rng.poisson(total))))


def expected(knots: Knots, seconds: float) -> float:
    """Mean number of arrivals in [0, seconds): the integral of the rate."""
    return float(_integral(*_grid(knots, seconds))[-1])


def _grid(knots: Knots, seconds: float) -> tuple[Floats, Floats]:
    """Times and rates at 0, at every knot inside, and at the end."""
    times, rates = (np.array(each, dtype=np.float64) for each in zip(*knots, strict=True))
    inside = times[(times > 0.0) & (times < seconds)]
    grid = np.concatenate(([0.0], inside, [seconds]))
    return grid, np.interp(grid, times, rates)


def _integral(grid: Floats, rates: Floats) -> Floats:
    pieces = np.diff(grid) * (rates[1:] + rates[:-1]) / 2.0
    return np.concatenate(([0.0], np.cumsum(pieces)))


def _where_reached(knots: Knots, seconds: float, levels: Floats) -> Floats:
    """The times at which the integrated rate reaches `levels`: a quadratic in each straight piece."""
    grid, rates = _grid(knots, seconds)
    reached = _integral(grid, rates)
    piece = np.clip(np.searchsorted(reached, levels, side="right") - 1, 0, grid.size - 2)
    start, slope = rates[piece], np.diff(rates)[piece] / np.diff(grid)[piece]
    missing = levels - reached[piece]
    # 2m / (r + sqrt(r^2 + 2sm)) solves r t + s t^2/2 = m without dividing by a slope that may be 0.
    root = np.sqrt(np.maximum(start * start + 2.0 * slope * missing, 0.0))
    step = np.divide(2.0 * missing, start + root, out=np.zeros_like(missing), where=missing > 0.0)
    return np.minimum(grid[piece] + step, np.nextafter(seconds, 0.0))
