"""What a machine can prove, from pairs of equal arms measured on it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from harness.analyse.centre import centre_interval, too_few
from harness.analyse.contrast import Pairs, burst_medians
from harness.gate import resample
from harness.gate.rules import Policy
from harness.plan.budget import bursts_needed

MINUTES = (1.0, 5.0, 20.0)
POWER = 0.8
CONFIDENCE = 0.95
EFFECTS = (0.0, 0.03, 0.05)
RESAMPLED = 2_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about the machine: what was seen, whether it is `fine`, and what to do if it is not."""

    name: str
    fine: bool
    saw: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Provable:
    """What equal arms show about one metric.

    `low`, `high` is the interval of their ratio (should contain 1), `burst_sd` the standard deviation of burst
    medians, `effects` the smallest effect that MINUTES of measuring prove with probability POWER (shares).
    """

    label: str
    low: float
    high: float
    burst_sd: float
    pair_sd: float
    effects: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Equal:
    """Equal arms, measured: `bursts` of `burst_seconds` each, per metric what can be proved, and resampled gates."""

    bursts: int
    burst_seconds: float
    metrics: tuple[Provable, ...]
    gates: Mapping[float, resample.Outcomes]
    gate_bursts: int


def judge(pairs: Mapping[str, Pairs], burst_seconds: float, policy: Policy) -> Equal:
    """What pairs of equal arms say, measured in bursts of `burst_seconds`. Pure."""
    metrics = tuple(_provable(label, each, burst_seconds) for label, each in pairs.items())
    gate_bursts = max(policy.min_bursts, round(MINUTES[1] * 60.0 / burst_seconds))
    found = {
        effect: resample.gates(pairs, policy, effect=effect, bursts=gate_bursts, runs=RESAMPLED, seed=1)
        for effect in EFFECTS
    }
    return Equal(
        max(np.unique(each.bursts).size for each in pairs.values()), burst_seconds, metrics, found, gate_bursts
    )


def _provable(label: str, pairs: Pairs, burst_seconds: float) -> Provable:
    _, medians = burst_medians(pairs)
    low, high = centre_interval(medians, CONFIDENCE)
    sd = float(np.std(medians, ddof=1))
    effects = tuple(smallest_effect(sd, 60.0 * minutes / burst_seconds) for minutes in MINUTES)
    return Provable(label, math.exp(low), math.exp(high), sd, float(np.std(pairs.differences, ddof=1)), effects)


def smallest_effect(burst_sd: float, bursts: float, power: float = POWER) -> float:
    """The effect (a share) that the centre of `bursts` burst medians shows at CONFIDENCE with probability `power`.

    As in `plan.budget.resolution`, the centre of normal values has sqrt(pi/3) times the standard error of their
    mean. Infinite when so few bursts give no interval at all.
    """
    if bursts < bursts_needed(CONFIDENCE):
        return math.inf
    reach = float(stats.norm.ppf(0.5 + CONFIDENCE / 2.0) + stats.norm.ppf(power))
    return math.expm1(reach * math.sqrt(math.pi / 3.0) * burst_sd / math.sqrt(bursts))


def findings(found: Equal) -> Iterator[Finding]:
    """Equal arms as findings beside those of the machine."""
    for each in found.metrics:
        margin = Policy().margins.passing
        shown = 1.0 - margin <= each.low and each.high <= 1.0 + margin
        told = f"equal arms differ by {100 * (each.low - 1):+.1f} to {100 * (each.high - 1):+.1f} %"
        if not math.isfinite(each.high):
            told = f"{too_few(found.bursts)} for an interval"
        elif not shown and each.low <= 1.0 + margin and each.high >= 1.0 - margin:
            told += f": too wide to show that they are equal within {100 * margin:g} %"
        yield Finding(f"A/A: {each.label}", shown, told, "measure longer (--minutes), or on a quieter machine")


def fit(found: Sequence[Finding]) -> bool:
    """Whether nothing is in the way."""
    return all(each.fine for each in found)
