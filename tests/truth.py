"""The gate against real truth: `python -m tests.truth --minutes 60`.

Equal arms of the real reference node, and the node against itself with a known extra cost per request (busy time),
measured by the engine like any study. The bursts of each are cut into gates one after another, each as long as it
needs. Printed: false alarms and detections with their Clopper-Pearson intervals, time to verdict, and beside them
what common ways of comparing say about the same slices: as if all of one arm had been measured first, then all of
the other (arm a from a gate's first half, arm b from its second).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from pyperf._utils import is_significant
from scipy import stats

from harness import pipeline
from harness.analyse.contrast import Pairs, readings
from harness.analyse.records import Verdict
from harness.analyse.rows import arrange
from harness.execute.burst import Step
from harness.gate import resample, rules, two_arms
from harness.gate.resample import Rate, rate
from harness.gate.rules import Policy
from harness.measure.metrics import Direction
from harness.measure.records import Measured
from harness.measure.store import Store
from harness.plan.budget import Forecast
from harness.study.records import OPTIMIZATIONS, Arm, Design, Target

EFFECTS = (0.0, 0.03, 0.05, 0.10)
SHARE = {0.0: 0.4}
"of the time; the effects share the rest"
GATE_SECONDS = 300.0
RESAMPLED = 10_000
Values = NDArray[np.float64]
Method = Callable[[Values, Values], bool]
"whether b (times, so more is worse) is called worse than a"


def t_test(a: Values, b: Values) -> bool:
    """pyperf's own test, as `pyperf compare_to` decides."""
    return bool(is_significant(a.tolist(), b.tolist())[0]) and bool(b.mean() > a.mean())


def mean_threshold(a: Values, b: Values) -> bool:
    """pytest-benchmark's --benchmark-compare-fail=mean:5%."""
    return bool(b.mean() > 1.05 * a.mean())


def mann_whitney(a: Values, b: Values) -> bool:
    """benchstat's test, one-sided at 5 %."""
    return bool(stats.mannwhitneyu(b, a, alternative="greater").pvalue < 0.05)


METHODS: Mapping[str, Method] = {
    "pyperf's t-test": t_test,
    "mean more than 5 % up": mean_threshold,
    "Mann-Whitney": mann_whitney,
}


@dataclass(frozen=True)
class Trace:
    """Bursts measured under one truth: pairs by label, each arm's slice values by label and burst (as times)."""

    effect: float
    pairs: Mapping[str, Pairs]
    values: tuple[Mapping[str, Mapping[int, Values]], Mapping[str, Mapping[int, Values]]]
    burst_seconds: float
    directions: Mapping[str, Direction]

    @property
    def bursts(self) -> int:
        """How many bursts were measured."""
        return max((int(pairs.bursts.max()) + 1 for pairs in self.pairs.values() if pairs.bursts.size), default=0)


@dataclass(frozen=True)
class Result:
    """What was said under one truth, by outcome of the gate and by method; `bursts` until each gate's word."""

    gates: int
    outcomes: Mapping[str, Rate]
    bursts: tuple[int, ...]
    methods: Mapping[str, Rate]


def judge(trace: Trace, policy: Policy) -> Result:
    """Cut the trace into gates and let everybody judge each of them. The rest that makes no whole gate is dropped."""
    policy = dataclasses.replace(policy, directions=trace.directions)
    said: list[str] = []
    lengths: list[int] = []
    alarms: dict[str, int] = dict.fromkeys(METHODS, 0)
    for first, last, outcome in _gates(trace, policy):
        said.append(outcome)
        lengths.append(last - first)
        for name, method in METHODS.items():
            alarms[name] += any(_halves(trace, label, first, last, method) for label in trace.pairs)
    outcomes = {str(word): rate(said.count(word), len(said)) for word in rules.EXIT_CODES} if said else {}
    methods = {name: rate(count, len(said)) for name, count in alarms.items()} if said else {}
    return Result(len(said), outcomes, tuple(lengths), methods)


def _gates(trace: Trace, policy: Policy) -> Iterator[tuple[int, int, str]]:
    """(first burst, burst after the last, outcome) of each gate."""
    first = 0
    for after in range(1, trace.bursts + 1):
        window = {label: _cut(pairs, first, after) for label, pairs in trace.pairs.items()}
        decision = rules.decide(window, policy)
        if decision.final:
            yield first, after, decision.outcome
            first = after


def _cut(pairs: Pairs, first: int, after: int) -> Pairs:
    kept = (pairs.bursts >= first) & (pairs.bursts < after)
    return Pairs(pairs.bursts[kept], pairs.differences[kept], {})


def _halves(trace: Trace, label: str, first: int, after: int, method: Method) -> bool:
    middle = (first + after) // 2
    a, b = (
        np.concatenate([of[label].get(burst, np.empty(0)) for burst in span])
        for of, span in zip(trace.values, (range(first, middle), range(middle, after)), strict=True)
    )
    size = min(a.size, b.size)  # pyperf calls unequal samples significant
    return size > 1 and method(a[:size], b[:size])


def question(busy: float, seconds: float) -> two_arms.Duel:
    """The node against itself with `busy` seconds more per request. Both arms play a fault script, so that playing
    one is no difference between them.
    """
    arms = tuple(
        Arm(name=name, optimizations=OPTIMIZATIONS, target=Target(peers=8, settings=_busy(cost)))
        for name, cost in (("plain", 0.0), ("busy", busy))
    )
    asked = two_arms.duel("truth", "known truth", (arms[0], arms[1]), two_arms.WORKLOADS, seconds, two_arms.POLICY)
    budget = replace(asked.study.budget, stop_early=False, max_bursts=100_000)
    design = Design(baseline="plain", treatment="busy", hidden=False)
    return two_arms.Duel(replace(asked.study, budget=budget, design=design), asked.judged, asked.policy)


def measure(effect: float, busy: float, seconds: float, display: pipeline.Display) -> Trace:
    """`question` measured for about `seconds`."""
    asked = question(busy, seconds)
    with tempfile.TemporaryDirectory() as folder, Store.create(Path(folder) / "run") as store:
        pipeline.run(asked.study, store, Path(folder), display)
        measured, spent = store.measured(), store.get("spent", float)
    return trace(effect, asked, measured, spent)


def trace(effect: float, asked: two_arms.Duel, measured: Measured, spent: float) -> Trace:
    """What a run measured, for `judge`."""
    pairs = two_arms.pairs(asked, measured, *asked.arms)
    a, b = ({each.label: _by_burst(each, measured, arm) for each in asked.judged} for arm in asked.arms)
    return Trace(effect, pairs, (a, b), spent / max(1, len(measured.bursts)), asked.policy.directions)


def _by_burst(judged: two_arms.Judged, measured: Measured, arm: str) -> Mapping[int, Values]:
    request = judged.workload.request if judged.metric.per_request_name else ""
    found: dict[int, list[float]] = {}
    for (burst, _), value in readings(
        arrange(measured).of(judged.workload.name, arm), judged.metric, request
    ).values.items():
        if not isinstance(value, str):
            found.setdefault(burst, []).append(1.0 / value if judged.metric.direction == "higher" else value)
    return {burst: np.array(values) for burst, values in found.items()}


def cost_of_a_request(trace: Trace) -> float:
    """CPU seconds per request of the plain arm, asked back to back: what an effect is a share of."""
    return float(np.median(np.concatenate(list(trace.values[0]["cpu_per_request on solo"].values()))))


def _busy(seconds: float) -> dict[str, dict[str, object]]:
    rule: dict[str, object] = {"kind": "busy", "seconds": seconds} if seconds else {"kind": "busy", "iterations": 1}
    return {"faults": {"seed": 1, "rules": [rule]}}


def table(results: Mapping[float, Result], seconds: Mapping[float, float]) -> Iterator[str]:
    """The result as Markdown, for docs/method.md."""
    names = list(METHODS)
    yield "| truth | gates | FAIL | PASS | undecided | time to verdict | " + " | ".join(names) + " |"
    yield "|---" * (6 + len(names)) + "|"
    for effect, found in results.items():
        truth = "no effect" if not effect else f"+{100 * effect:.0f} % of a request"
        if not found.gates:
            yield f"| {truth} | 0 | " + " | ".join(["-"] * (4 + len(names))) + " |"
            continue
        words = [_words(found.outcomes[word]) for word in ("FAIL", "PASS", "INCONCLUSIVE")]
        waited = f"{np.median(found.bursts) * seconds[effect]:.0f} s"
        cells = [truth, str(found.gates), *words, waited, *(_words(found.methods[name]) for name in names)]
        yield "| " + " | ".join(cells) + " |"


def _words(found: Rate) -> str:
    return f"{100 * found.count / found.of:.0f} % ({100 * found.low:.1f}-{100 * found.high:.1f})"


class Progress:
    """One line on stderr per burst."""

    def __init__(self, name: str) -> None:
        self._name = name

    def forecast(self, expected: Forecast, spent: float, left: float) -> None:
        """Not shown."""

    def step(self, step: Step) -> None:
        """Not shown."""

    def burst_done(self, number: int, spent: float, left: float, so_far: Sequence[Verdict]) -> None:
        """Say how far it is."""
        sys.stderr.write(f"{self._name}: burst {number + 1}, {left:.0f} s to go\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every truth, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.truth", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to measure in all (default 60)")
    seconds = 60.0 * parser.parse_args(argv).minutes
    traces: dict[float, Trace] = {}
    busy_of = 0.0
    for effect in EFFECTS:
        share = SHARE.get(effect, (1.0 - sum(SHARE.values())) / (len(EFFECTS) - len(SHARE)))
        traces[effect] = measure(effect, effect * busy_of, share * seconds, Progress(f"+{effect:.0%}"))
        busy_of = busy_of or cost_of_a_request(traces[effect])
    for line in report(traces, policy(traces[0.0].burst_seconds), busy_of):
        sys.stdout.write(line + "\n")
    return 0


def policy(burst_seconds: float) -> Policy:
    """The gate's policy with as many bursts as fit its time."""
    fitting = round(GATE_SECONDS / burst_seconds)
    return dataclasses.replace(two_arms.POLICY, max_bursts=max(two_arms.POLICY.min_bursts, fitting))


def report(traces: Mapping[float, Trace], policy: Policy, busy_of: float) -> Iterator[str]:
    """Everything that is printed."""
    yield f"{time.strftime('%Y-%m-%d')}; a request costs {1e6 * busy_of:.1f} us of CPU"
    yield from table(
        {effect: judge(found, policy) for effect, found in traces.items()},
        {effect: found.burst_seconds for effect, found in traces.items()},
    )
    equal = traces[0.0]
    found = resample.gates(equal.pairs, policy, effect=0.0, bursts=policy.max_bursts, runs=RESAMPLED, seed=1)
    yield (
        f"{RESAMPLED:,} gates resampled from the {equal.bursts} bursts of equal arms: {found.fail.count} false alarms"
        f" (at most {100 * found.fail.high:.2f} % with 95 % confidence), {found.inconclusive.count} undecided"
    )


if __name__ == "__main__":
    sys.exit(main())
