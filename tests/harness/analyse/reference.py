"""A slow reference: the statistics again, written from their definitions with loops and exact sums."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def burst_medians(pairs: Sequence[tuple[int, float, float]]) -> list[float]:
    """pairs: (burst, a, b) -> the median of log(b/a) of each burst."""
    bursts = sorted({burst for burst, _, _ in pairs})
    return [median([math.log(b / a) for number, a, b in pairs if number == burst]) for burst in bursts]


def means_of_two(values: Sequence[float]) -> list[float]:
    """Of any two of the values, each with itself too, in ascending order."""
    return sorted((a + b) / 2 for a, b in itertools.combinations_with_replacement(values, 2))


def signed_rank_tail(largest: int, size: int) -> Fraction:
    """P(sum of the positive ranks <= largest), every set of positive ranks of 1..size being as likely as any other."""
    sums = (sum(ranks) for count in range(size + 1) for ranks in itertools.combinations(range(1, size + 1), count))
    return Fraction(sum(each <= largest for each in sums), 2**size)


def centre_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """The innermost means of two whose two tails together stay within 1 - confidence."""
    means, tail = means_of_two(values), Fraction(1 - confidence) / 2
    rank = -1
    while rank + 1 < len(means) and signed_rank_tail(rank + 1, len(values)) <= tail:
        rank += 1
    if rank < 0:
        return -math.inf, math.inf
    return means[rank], means[len(means) - 1 - rank]


def e_value(exceeding: int, trials: int, steps: int = 20_000) -> float:
    """The mixture 2 * integral over p in (1/2, 1) of (2p)^k (2(1-p))^(t-k), by the midpoint rule."""
    width = 0.5 / steps
    total = 0.0
    for step in range(steps):
        p = 0.5 + (step + 0.5) * width
        total += (2 * p) ** exceeding * (2 * (1 - p)) ** (trials - exceeding)
    return 2 * total * width


def sequential_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """All candidate medians that no prefix of the values rejects at (1 - confidence)/2 a side, by trying
    each gap.
    """
    level = 2.0 / (1.0 - confidence)
    ordered = sorted(values)
    edges = [ordered[0] - 1.0, *ordered, ordered[-1] + 1.0]
    kept = []
    for left, right in itertools.pairwise(edges):
        middle = (left + right) / 2
        rejected = False
        above = below = 0
        for trials, value in enumerate(values, 1):
            above += value > middle
            below += value < middle
            rejected |= max(e_value(above, trials, 400), e_value(below, trials, 400)) >= level
        if not rejected:
            kept.append((left, right))
    low, high = kept[0][0], kept[-1][1]
    return (-math.inf if low == edges[0] else low), (math.inf if high == edges[-1] else high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p by definition: the largest of (m - rank) p over all p not larger."""
    m = len(p_values)
    order = sorted(range(m), key=lambda i: p_values[i])
    adjusted = [0.0] * m
    for position, index in enumerate(order):
        adjusted[index] = min(1.0, max((m - earlier) * p_values[order[earlier]] for earlier in range(position + 1)))
    return adjusted
