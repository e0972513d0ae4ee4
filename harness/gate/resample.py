"""What the gate would have said, over and over, on pairs that were really measured on equal arms.

Simulated noise is what somebody thought noise to be; these gates are drawn from a machine's own. Each draws whole
bursts with replacement (what the pairs of a burst share stays shared), and in each drawn burst the two arms change
places with probability 1/2, which equal arms allow. Every metric of a gate draws the same bursts, so what they share
stays shared too. The draws are not independent runs: they tell about this stretch of time on this machine.
Only two arms were measured, so no twin is heard, which a gate must see shown to be equal before it passes: where pairs
vary much, more gates are undecided than these say, and PASS takes longer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.analyse.centre import Floats
from harness.analyse.contrast import Pairs
from harness.analyse.sequential import log_e
from harness.gate.rules import Policy

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` of `of`, with the Clopper-Pearson interval `low` to `high` at CONFIDENCE (two-sided)."""

    count: int
    of: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How many resampled gates said what, and the median number of bursts they took."""

    fail: Rate
    passed: Rate
    inconclusive: Rate
    bursts: float


def rate(count: int, of: int) -> Rate:
    """A proportion with its exact interval (Clopper and Pearson, 1934)."""
    found = stats.binomtest(count, of).proportion_ci(confidence_level=CONFIDENCE, method="exact")
    return Rate(count, of, float(found.low), float(found.high))


def gates(
    measured: Mapping[str, Pairs], policy: Policy, *, effect: float, bursts: int, runs: int, seed: int
) -> Outcomes:
    """Outcomes of `runs` gates of at most `bursts` bursts on metrics of equal arms, the first made worse by `effect`.

    Bursts that lack pairs in some metric are left out; all others are cut to the shortest. ValueError without any.
    """
    stacked = _stacked(measured)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(stacked.shape[1], size=(runs, bursts))
    signs = rng.choice((-1.0, 1.0), size=(runs, bursts))
    losses = stacked[:, drawn] * signs[None, :, :, None]
    losses[0] += math.log1p(effect)
    failed_at, passed_at = (_reached(losses, policy, word) for word in ("fail", "pass"))
    first_fail, last_pass = failed_at.min(axis=0), passed_at.max(axis=0)
    fail = (first_fail <= last_pass) & (first_fail <= bursts)
    passed = ~fail & (last_pass <= bursts)
    ended = np.minimum(np.where(fail, first_fail, last_pass), bursts)
    return Outcomes(
        fail=rate(int(fail.sum()), runs),
        passed=rate(int(passed.sum()), runs),
        inconclusive=rate(int((~fail & ~passed).sum()), runs),
        bursts=float(np.median(ended)),
    )


def _stacked(measured: Mapping[str, Pairs]) -> Floats:
    """Log ratios (metric, burst, pair) of the bursts that every metric has."""
    common = set.intersection(*(set(pairs.bursts.tolist()) for pairs in measured.values())) if measured else set()
    if not common:
        raise ValueError("no burst has pairs in every metric")
    by_burst = [[pairs.differences[pairs.bursts == each] for each in sorted(common)] for pairs in measured.values()]
    shortest = min(values.size for metric in by_burst for values in metric)
    return np.array([[values[:shortest] for values in metric] for metric in by_burst])


def _reached(losses: Floats, policy: Policy, word: str) -> NDArray[np.int64]:
    """(metric, run): the number of bursts after which the evidence for `word` suffices; a huge one if never."""
    metrics, _, bursts, blocks = losses.shape
    if word == "fail":
        counted, level = losses > math.log1p(policy.margins.fail), math.log(metrics / policy.alpha_fail)
    else:
        counted, level = losses < math.log1p(policy.margins.passing), -math.log(policy.alpha_pass)
    exceeding = np.cumsum(counted.sum(axis=3), axis=2)
    enough = _log_e_table(bursts, blocks)[np.arange(bursts), exceeding] >= level
    enough[:, :, : policy.min_bursts - 1] = False
    never = np.iinfo(np.int64).max
    return np.where(enough.any(axis=2), enough.argmax(axis=2) + 1, never).astype(np.int64)


@lru_cache(maxsize=8)
def _log_e_table(bursts: int, blocks: int) -> Floats:
    """log E after each burst (row) by how many of the pairs so far exceed the threshold (column)."""
    trials, exceeding = np.arange(1, bursts + 1)[:, None] * blocks, np.arange(bursts * blocks + 1)[None, :]
    return log_e(np.minimum(exceeding, trials), trials)
