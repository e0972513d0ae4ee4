"""The regression gate's decision: pairs of base and head in, PASS / FAIL / INCONCLUSIVE / INVALID out.
Pure.

FAIL when a slowdown beyond `margins.fail` is shown at alpha_fail / metrics; PASS only when every metric is
shown to have lost less than `margins.passing` at alpha_pass; anything else is INCONCLUSIVE. The evidence is a
pair-level e-process whose margins absorb what the pairs of one burst share (calibrated by simulation); the
exact burst-level one stands beside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.analyse.centre import centre
from harness.analyse.contrast import Pairs, burst_medians, ratio_of
from harness.analyse.sequential import interval, log_e, symmetric_log_e_path
from harness.measure.metrics import Direction, metric

GateOutcome = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]
EXIT_CODES: Mapping[GateOutcome, int] = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3, "INVALID": 4}


MAX_PAIRS = 8
"of one metric in a burst: they share a process layout, and the margins that absorb it were calibrated up to here"


@dataclass(frozen=True, slots=True)
class Margins:
    """Slowdowns as shares: beyond `fail` is a regression, below `passing` is shown to be none.

    0.01 is a time multiplied by 1.01, or a throughput divided by it (0.99 % less).
    """

    fail: float = 0.01
    passing: float = 0.03


@dataclass(frozen=True, slots=True)
class Policy:
    """When the gate speaks: not before `min_bursts`, and at last after `max_bursts`.

    `directions` tell which way is better for metrics that are not of the table.
    """

    alpha_fail: float = 0.001
    alpha_pass: float = 0.01
    min_bursts: int = 15
    max_bursts: int = 150
    margins: Margins = Margins()
    directions: Mapping[str, Direction] = field(default_factory=dict)

    def direction_of(self, name: str) -> Direction:
        """Which way is better for this metric. StudyError when neither the policy nor the table knows it."""
        return self.directions.get(name) or metric(name).direction


@dataclass(frozen=True, slots=True)
class MetricDecision:
    """One metric: the slowdown of head against base (1.05 = a time multiplied by it, a throughput divided) with its
    interval.

    The interval is the burst-level one that holds at any stopping time. `log_e_fail`, `log_e_pass` are the
    largest pair-level values since `min_bursts`; `log_e_exact` the largest burst-level value for FAIL,
    exact whatever the pairs of a burst share.
    """

    name: str
    direction: Direction
    outcome: GateOutcome
    slowdown: float
    low: float
    high: float
    bursts: int
    pairs: int
    log_e_fail: float
    log_e_pass: float
    log_e_exact: float

    def lost(self, slowdown: float) -> float:
        """What a slowdown takes from the metric itself, as a share of base: 1.25 is 0.25 more time, 0.2 less
        throughput; below 0 it is a gain.
        """
        if self.direction != "higher":
            return slowdown - 1.0
        return 1.0 - (1.0 / slowdown if slowdown else math.inf)


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The gate's word and that of each metric; `final` when more bursts could not change it."""

    outcome: GateOutcome
    metrics: tuple[MetricDecision, ...]
    final: bool
    reason: str


def decide(measured: Mapping[str, Pairs], policy: Policy, void: str = "") -> GateDecision:
    """The decision after the bursts so far. `measured`: metric -> log ratios head/base; `void`: why it is
    invalid.
    """
    metrics = tuple(_decide_metric(name, pairs, policy, len(measured)) for name, pairs in measured.items())
    if void:
        return GateDecision("INVALID", metrics, final=True, reason=void)
    unusable = [f"{name}: {reason}" for name, pairs in measured.items() for reason in pairs.reasons]
    if unusable or not metrics:
        return GateDecision("INVALID", metrics, final=True, reason=unusable[0] if unusable else "no metrics")
    failed = [each for each in metrics if each.outcome == "FAIL"]
    if failed:
        told = ", ".join(f"{each.name} {100.0 * each.lost(each.slowdown):.1f} % worse" for each in failed)
        return GateDecision("FAIL", metrics, final=True, reason=told)
    open_ones = [each.name for each in metrics if each.outcome != "PASS"]
    if open_ones:
        bursts = min(each.bursts for each in metrics)
        few = f" ({bursts} of the {policy.min_bursts} bursts before any word)" if bursts < policy.min_bursts else ""
        reason = f"not decided: {', '.join(open_ones)}{few}"
        spent = bursts >= policy.max_bursts
        return GateDecision("INCONCLUSIVE", metrics, final=spent, reason=reason)
    return GateDecision("PASS", metrics, final=True, reason="no metric lost as much as its margin")


def worse(direction: Direction, differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log ratios turned so that positive means worse."""
    return -differences if direction == "higher" else differences


def centres(bursts: NDArray[np.int64], losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Hodges-Lehmann centre of the pairs of each burst."""
    return np.array([centre(losses[bursts == number]) for number in np.unique(bursts)], dtype=np.float64)


def _decide_metric(name: str, pairs: Pairs, policy: Policy, metrics: int) -> MetricDecision:
    margins = policy.margins
    direction = policy.direction_of(name)
    losses = worse(direction, pairs.differences)
    _, medians = burst_medians(Pairs(pairs.bursts, losses, {}))
    fail_edge, pass_edge = math.log1p(margins.fail), math.log1p(margins.passing)
    fail = _largest(pairs.bursts, losses > fail_edge, policy.min_bursts)
    passed = _largest(pairs.bursts, losses < pass_edge, policy.min_bursts)
    outcome: GateOutcome = "INCONCLUSIVE"
    if fail >= math.log(metrics / policy.alpha_fail):
        outcome = "FAIL"
    elif passed >= -math.log(policy.alpha_pass):
        outcome = "PASS"
    low, high = interval(medians, 1.0 - policy.alpha_pass)
    return MetricDecision(
        name=name,
        direction=direction,
        outcome=outcome,
        slowdown=ratio_of(float(np.median(medians))) if medians.size else math.nan,
        low=ratio_of(low),
        high=ratio_of(high),
        bursts=medians.size,
        pairs=losses.size,
        log_e_fail=fail,
        log_e_pass=passed,
        log_e_exact=max(symmetric_log_e_path(centres(pairs.bursts, losses), fail_edge), default=0.0),
    )


def _largest(bursts: NDArray[np.int64], exceeding: NDArray[np.bool_], min_bursts: int) -> float:
    """The largest log E at the end of any burst from number `min_bursts` of them on; 0 before."""
    ends = np.flatnonzero(np.diff(bursts, append=-1))[min_bursts - 1 :]
    return float(np.max(log_e(np.cumsum(exceeding)[ends], ends + 1))) if ends.size else 0.0
