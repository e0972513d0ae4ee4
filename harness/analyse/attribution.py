"""Which flag pays: the main effects of all flags from fold-over pairs, robustly, with bursts as clusters.

The log ratio of a cell to its complement is the sum of the flags' effects, each with the sign of its level
in the cell; every two-way interaction cancels. Without three-way interactions a main effect is the flag's
Shapley value. The coefficients are Huber's (statsmodels.RLM); their covariance is the cluster sandwich over
bursts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np
from scipy import stats

from harness.analyse.centre import Floats
from harness.analyse.contrast import Contrast, Readings, burst_medians, estimate, pair_up, ratio_of
from harness.analyse.records import Attribution, Estimate, FlagEffect
from harness.measure.records import Burst
from harness.plan.arms import Layout, parse_cell


@dataclass(frozen=True, slots=True)
class Foldover:
    """One observation: the median log ratio of a cell to its complement over one burst, and the cell's
    levels (+1, -1).
    """

    burst: int
    levels: tuple[float, ...]
    difference: float


@dataclass(frozen=True, slots=True)
class Effects:
    """Main effects (log of on/off) by flag and their covariance; `clusters` bursts behind them."""

    values: Floats
    covariance: Floats
    clusters: int

    def effect(self, name: str, weights: Sequence[float], confidence: float) -> FlagEffect:
        """The ratio of a weighted sum of effects, with its t interval on clusters - flags degrees of
        freedom.
        """
        chosen = np.array(weights)
        middle = float(chosen @ self.values)
        freedom = self.clusters - self.values.size
        variance = max(0.0, float(chosen @ self.covariance @ chosen))  # rounding may leave less than nothing
        half = float(stats.t.ppf(0.5 + confidence / 2.0, freedom)) * math.sqrt(variance)
        return FlagEffect(name, ratio_of(middle), ratio_of(middle - half), ratio_of(middle + half))


def observations(cell: str, flags: Sequence[str], a: Readings, b: Readings) -> Iterator[Foldover]:
    """One observation per burst: readings `a` of the complement, `b` of the cell, paired by block."""
    pairs = pair_up(a.values, b.values)
    enabled = parse_cell(cell, flags) or ()
    levels = tuple(1.0 if flag in enabled else -1.0 for flag in flags)
    for number, median in zip(*burst_medians(pairs), strict=True):
        yield Foldover(int(number), levels, float(median))


def main_effects(found: Sequence[Foldover]) -> Effects | None:
    """The effects of all flags; None when the observations cannot tell them apart or are too few bursts."""
    if not found:
        return None
    design = np.array([each.levels for each in found])
    observed = np.array([each.difference for each in found])
    bursts = np.array([each.burst for each in found])
    flags, clusters = design.shape[1], np.unique(bursts).size
    if clusters <= flags or np.linalg.matrix_rank(design) < flags:
        return None
    import statsmodels.api as sm  # two seconds that only ablation and factorial designs need to wait for

    fit = sm.RLM(observed, design, M=sm.robust.norms.HuberT()).fit()
    if fit.scale < 1e-12:
        return Effects(np.asarray(fit.params), np.zeros((flags, flags)), clusters)
    scaled = fit.resid / fit.scale
    influence = design * fit.model.M.psi(scaled)[:, None]
    per_burst = np.array([influence[bursts == burst].sum(axis=0) for burst in np.unique(bursts)])
    within = (design * fit.model.M.psi_deriv(scaled)[:, None]).T @ design  # of the observations that are no outliers
    if np.linalg.matrix_rank(within) < flags:
        return None
    bread = np.linalg.inv(within) * fit.scale
    correction = clusters / (clusters - flags)
    covariance = bread @ (per_burst.T @ per_burst) @ bread * correction
    return Effects(np.asarray(fit.params), covariance, clusters)


def attribution_effects(
    effects: Effects, flags: Sequence[str], confidence: float
) -> tuple[tuple[FlagEffect, ...], FlagEffect]:
    """(the effect of each flag, the product of all of them: what none -> all should be)."""
    unit = np.eye(effects.values.size)
    singles = tuple(effects.effect(flag, unit[index].tolist(), confidence) for index, flag in enumerate(flags))
    return singles, effects.effect("all", np.ones(effects.values.size).tolist(), confidence)


def attribute(
    question: Contrast,
    plan: Layout,
    bursts: Sequence[Burst],
    read: Callable[[str], Readings],
    confidence: float,
    sequential: bool = False,
) -> Attribution | None:
    """The attribution of one workload and metric (those of `question`); None when the rows do not suffice.

    `read` gives an arm's readings. Bursts of the fold-over sets feed the effects; all others, in which none
    and all ran side by side, give the separate measurement that closure is checked against: `sequential` when the run
    may have stopped early.
    """
    folded = {frozenset(arms) for arms in plan.sets[plan.foldover_from :]}
    inside = {burst.number for burst in bursts if frozenset(burst.arms) in folded}
    found = [
        observation
        for complement, cell in plan.foldover
        for observation in observations(
            cell, plan.optimizations, _within(read(complement), inside), _within(read(cell), inside)
        )
    ]
    effects = main_effects(found)
    if effects is None:
        return None
    singles, predicted = attribution_effects(effects, plan.optimizations, confidence)
    outside = {burst.number for burst in bursts} - inside
    pairs = pair_up(_within(read("none"), outside).values, _within(read("all"), outside).values)
    measured = estimate(pairs, confidence, sequential) if pairs.differences.size else None
    return Attribution(
        workload=question.workload,
        metric=question.metric.name,
        request=question.request,
        confidence=confidence,
        effects=singles,
        predicted=predicted,
        measured=measured,
        closes=closes(predicted, measured),
        bursts=effects.clusters,
        pairs=len(found),
    )


def _within(of: Readings, bursts: Set[int]) -> Readings:
    return Readings({key: value for key, value in of.values.items() if key[0] in bursts}, of.requests)


def closes(predicted: FlagEffect, measured: Estimate | None) -> bool | None:
    """Whether the intervals of the predicted and the separately measured none -> all overlap; None if not
    measured.
    """
    if measured is None or not measured.bounded:
        return None
    return predicted.low <= measured.high and measured.low <= predicted.high
