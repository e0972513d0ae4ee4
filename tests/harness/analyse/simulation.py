"""Simulated truth: pairs with a known effect, burst effects of 1.4 % and heavy-tailed, autocorrelated
noise.

`python -m tests.harness.analyse.simulation` runs the full sizes and prints a table; the tests run smaller
ones, or the full ones when SYNAPSED_FULL_SIMULATIONS is set. The gate is simulated by table look-up of the
production e-value; a test holds the look-up against `harness.gate.rules.decide` run by run.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from harness.analyse.sequential import log_e
from harness.gate import two_arms
from harness.gate.rules import Policy

Floats = NDArray[np.float64]
FULL = bool(os.environ.get("SYNAPSED_FULL_SIMULATIONS"))
LAYOUT_SD = 0.014
PAIR_SD = 0.045
"robust standard deviation of a pair's log ratio, the larger of those measured for p50 and CPU"
METRICS = 10
BURSTS, BLOCKS = Policy().max_bursts, 4
CHUNK = 250


@dataclass(frozen=True)
class Setting:
    """What is simulated: pairs a burst, their robust standard deviation, and the policy that judges them."""

    name: str
    blocks: int = BLOCKS
    pair_sd: float = PAIR_SD
    policy: Policy = field(default_factory=Policy)


ONE = Setting("few pairs")
GATE = Setting("gate", two_arms.BLOCKS // len(two_arms.WORKLOADS), policy=two_arms.POLICY)
QUIET = Setting("gate, quiet pairs", GATE.blocks, 0.025, two_arms.POLICY)


def runs(full: int, reduced: int) -> int:
    """How many runs to simulate here."""
    return full if FULL else reduced


def differences(
    effect: float, shape: tuple[int, ...], rng: np.random.Generator, blocks: int = BLOCKS, pair_sd: float = PAIR_SD
) -> Floats:
    """Log ratios, shape (*shape, bursts of `blocks` pairs flattened): effect + layout + noise.

    The raw times of the two slices of a pair are neighbours in one AR(1) series (0.8, Student-t with 4
    degrees) in random order; scaled so that a pair has a robust standard deviation of `pair_sd`.
    """
    *runs_shape, bursts = shape
    pairs = bursts * blocks
    innovations = rng.standard_t(4, size=(*runs_shape, 2 * pairs))
    series = signal.lfilter([1.0], [1.0, -0.8], innovations, axis=-1)
    raw = (series[..., 1::2] - series[..., ::2]) * rng.choice((-1.0, 1.0), size=(*runs_shape, pairs))
    noise = raw * (pair_sd / 1.213)  # 1.213: robust sd of such a raw difference
    layout = np.repeat(rng.normal(0.0, LAYOUT_SD, shape), blocks, axis=-1)
    return np.asarray(math.log1p(effect) + layout + noise)


@dataclass(frozen=True)
class GateCounts:
    """Outcomes of simulated gates, and the mean number of bursts until they were final."""

    fail: int
    passed: int
    inconclusive: int
    bursts: float


def gate_counts(effects: Floats, count: int, seed: int, setting: Setting = ONE) -> GateCounts:
    """Outcomes of `count` gates whose metrics have these effects (as shares)."""
    rng = np.random.default_rng(seed)
    outcomes = []
    for done in range(0, count, CHUNK):
        shape = (min(CHUNK, count - done), BURSTS)
        losses = np.stack(
            [differences(float(effect), shape, rng, setting.blocks, setting.pair_sd) for effect in effects], axis=1
        )
        outcomes.append(gates(losses, setting.policy, setting.blocks))
    fail, passed, looks = (np.concatenate(each) for each in zip(*outcomes, strict=True))
    return GateCounts(int(fail.sum()), int(passed.sum()), int((~fail & ~passed).sum()), float(looks.mean()))


def gates(
    losses: Floats, policy: Policy, blocks: int = BLOCKS
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """(failed, passed, bursts until final) of gates with log losses (gate, metric, pair)."""
    trials = np.arange(policy.min_bursts, BURSTS + 1) * blocks
    exceeding, looks = np.meshgrid(np.arange(BURSTS * blocks + 1), trials)
    table = log_e(np.minimum(exceeding, looks), looks)

    def first(above: NDArray[np.bool_], level: float) -> NDArray[np.int64]:
        reached = table[np.arange(trials.size), np.cumsum(above, axis=2)[:, :, trials - 1]] >= level
        return np.where(reached.any(axis=2), reached.argmax(axis=2), trials.size)

    fail_edge, pass_edge = math.log1p(policy.margins.fail), math.log1p(policy.margins.passing)
    first_fail = first(losses > fail_edge, math.log(losses.shape[1] / policy.alpha_fail)).min(axis=1)
    last_pass = first(losses < pass_edge, -math.log(policy.alpha_pass)).max(axis=1)
    last_look = trials.size - 1
    failed = first_fail <= np.minimum(last_pass, last_look)
    passed = ~failed & (last_pass <= last_look)
    ended = np.where(failed, first_fail, np.minimum(last_pass, last_look))
    return failed, passed, ended + policy.min_bursts


def main() -> None:
    """The full simulations, as a table."""
    clean = np.zeros(METRICS)
    cases = (
        ("no effect", clean, 10_000),
        ("one metric +3 %", np.array([0.03, *clean[1:]]), 10_000),
        ("one metric +5 %", np.array([0.05, *clean[1:]]), 10_000),
        ("all metrics +1 %", clean + 0.01, 2_000),
    )
    for setting in (ONE, GATE, QUIET):
        for name, effects, count in cases:
            counts = gate_counts(effects, count, seed=1, setting=setting)
            print(f"{setting.name:18} {name:16} {counts} of {count}")  # noqa: T201


if __name__ == "__main__":
    main()
