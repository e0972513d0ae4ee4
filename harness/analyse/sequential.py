"""Looking after every burst without paying for it: an e-process for the sign of what exceeds a threshold.

If at most half of the values exceed the threshold, the probability that E ever reaches 1/alpha is at most
alpha, no matter when one stops (Ville). That holds exactly for independent values, hence for burst medians;
pairs of one burst share a process layout, so a pair-level E is calibrated by its margin (docs/method.md),
not exact.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from harness.analyse.centre import Floats

SCALES = (15.0, 30.0, 60.0)
"per unit of log ratio: best where burst medians scatter by 2-4 % and effects are some per cent"


def log_e(exceeding: ArrayLike, trials: ArrayLike) -> Floats:
    """log E after `trials` values of which `exceeding` lie above the threshold.

    E = 2^(t+1) B(k+1, t-k+1) P(Beta(k+1, t-k+1) > 1/2): the likelihood ratio against 1/2 averaged over all
    shares between 1/2 and 1.
    """
    k, t = np.asarray(exceeding, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    a, b = k + 1.0, t - k + 1.0
    return np.asarray((t + 1.0) * math.log(2.0) + special.betaln(a, b) + stats.beta.logsf(0.5, a, b))


def log_e_path(values: Floats, threshold: float) -> Floats:
    """log E of "the median exceeds `threshold`" after each value in turn. Ties count for the null."""
    return log_e(np.cumsum(values > threshold), np.arange(1, values.size + 1))


def symmetric_log_e_path(values: Floats, threshold: float) -> Floats:
    """log E of "the centre exceeds `threshold`" after each value, for values symmetric about their centre.

    The product of 1 + tanh(c (x - threshold)) is a supermartingale because tanh is odd; averaged over
    SCALES. It uses how far a value lies beyond the threshold and so needs fewer bursts than their signs. A
    log ratio of two equal arms in random order is symmetric.
    """
    distances = np.multiply.outer(np.array(SCALES), values - threshold)
    logs = math.log(2.0) - np.logaddexp(0.0, -2.0 * distances)  # log(1 + tanh), safe far below 0
    return np.asarray(special.logsumexp(np.cumsum(logs, axis=1), axis=0) - math.log(len(SCALES)))


def p_value(path: Floats) -> float:
    """min(1, 1/max E): valid at any stopping time."""
    return min(1.0, math.exp(-float(np.max(path)))) if path.size else 1.0


@lru_cache(maxsize=65_536)
def exceeding_needed(trials: int, alpha: float) -> int | None:
    """The fewest of `trials` values that must exceed the threshold for E >= 1/alpha; None if even all do
    not suffice.
    """
    reached = np.flatnonzero(log_e(np.arange(trials + 1), np.full(trials + 1, trials)) >= -math.log(alpha))
    return int(reached[0]) if reached.size else None


def interval(values: Floats, confidence: float) -> tuple[float, float]:
    """Interval of the median that holds at any stopping time, by inverting both one-sided e-processes.

    Each time t rules out what the t values so far reject at (1 - confidence) / 2 a side; what is left after
    all of them is the interval. (-inf, inf) while there are too few. Should the times contradict each other
    (which has at most the error probability), the last one speaks.
    """
    alpha = (1.0 - confidence) / 2.0
    lows, highs = [-math.inf], [math.inf]
    for trials in range(1, values.size + 1):
        needed = exceeding_needed(trials, alpha)
        if needed is not None:
            ordered = np.partition(values[:trials], [trials - needed, needed - 1])
            lows.append(float(ordered[trials - needed]))
            highs.append(float(ordered[needed - 1]))
    low, high = max(lows), min(highs)
    return (low, high) if low <= high else (lows[-1], highs[-1])
