"""Two arms measured until the gate can speak: what `gate` and `ab` share.

Besides the two lives a twin of the first: if the gate would tell the twin apart from it, the machine cannot be
trusted and the measurement is INVALID; and PASS needs the twin shown to be equal by the same evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from harness import pipeline
from harness.analyse import records
from harness.analyse.contrast import Key, Pairs, Value, pair_up, readings
from harness.analyse.records import Analysis
from harness.analyse.rows import Rows, arrange
from harness.errors import UsageError
from harness.gate import rules
from harness.gate.rules import GateDecision, Policy
from harness.measure.metrics import Metric, metric
from harness.measure.records import Measured
from harness.plan.arms import hidden_name, layout
from harness.plan.budget import Costs, burst_seconds
from harness.study.records import Arm, Budget, Design, Study, Target, Workload

BLOCKS = 16
"""Pairs per burst, shared out among the workloads. Starting six processes costs as much as ten to fifteen blocks, so
bursts of few pairs waste the time; more than eight pairs of a metric say the same thing too often (docs/method.md)."""
SLICE_SECONDS = 0.05
"many short pairs prove more than few long ones: a pair of these varies no more than one of 0.1 s"
WORKLOADS = (
    Workload(
        name="solo",
        file="scenarios/load/surge.py",
        question="How fast do requests follow one another when one user asks without a pause?",
        users=1,
        slice_seconds=SLICE_SECONDS,
        awake=True,
        both_ends=True,
    ),
    Workload(
        name="steady",
        file="scenarios/load/steady.py",
        question="How long does a request take when nothing is saturated?",
        arrivals="constant",
        users=64,
        rate=3000.0,
        slice_seconds=SLICE_SECONDS,
        awake=True,
    ),
)
"""Two versions of the reference node are compared on these. One user, because two and more overlap: what the node
takes longer, the load process may gain by being woken less often (4 us more a request made two users 10 % faster), and
from three on the load process is saturated and hides the node. Arrivals at a fixed distance leave no queue to chance,
which would add a third to what a pair varies by; none comes in company, so half of what the closed loop takes would
saturate the load process. Cores are kept awake: what waking them costs varies more than most changes to the code."""
POLICY = Policy(min_bursts=24)
"""Of two revisions on these. The quieter the pairs, the more what a burst shares decides: with a first word after 15
bursts, 1.2 in a hundred losses of 3 % would pass (docs/method.md has what passes after 24)."""
FIXED_WORK = 200
"requests before the first slice: the gate judges no memory, so they only warm"


@dataclass(frozen=True, slots=True)
class Judged:
    """One metric on one workload; `label` names it in a decision."""

    label: str
    metric: Metric
    workload: Workload


@dataclass(frozen=True, slots=True)
class Duel:
    """Two arms of a study, what is judged, and how."""

    study: Study
    judged: tuple[Judged, ...]
    policy: Policy

    @property
    def arms(self) -> tuple[str, str]:
        """Names of the arm compared against and of the arm judged."""
        return self.study.design.baseline, self.study.design.treatment


def duel(
    name: str, title: str, arms: tuple[Arm, Arm], workloads: tuple[Workload, ...], seconds: float, policy: Policy
) -> Duel:
    """The study of two arms on these workloads, measured for at most `seconds`."""
    a, b = arms
    judged = tuple(_judged(workloads))
    policy = replace(policy, directions={each.label: each.metric.direction for each in judged})
    study = Study(
        name=name,
        title=title,
        question=f"Is {b.name} worse than {a.name}?",
        target=a.target or Target(),
        design=Design(baseline=a.name, treatment=b.name),
        budget=Budget(
            seconds=seconds,
            blocks=max(1, min(rules.MAX_PAIRS, BLOCKS // len(workloads))),
            min_bursts=1,  # the time is a limit: the policy says nothing before its own
            max_bursts=policy.max_bursts,
            memory_requests=FIXED_WORK,
            stop_early=True,
        ),
        arms=(a, b),
        workloads=workloads,
    )
    return Duel(study, judged, policy)


def refuse_too_short(asked: Duel) -> None:
    """`UsageError` when fewer bursts are forecast to fit the time than there are before any word."""
    study = asked.study
    each = burst_seconds(study, layout(study), Costs())
    refuse_too_few(study.budget.seconds, asked.policy.min_bursts, "bursts", each)


def refuse_too_few(seconds: float, number: int, what: str, each: float) -> None:
    """`UsageError` when the bursts or rounds (`what`) before any word, of `each` seconds, do not fit into `seconds`."""
    least = number * each
    if seconds < least:
        raise UsageError(
            f"{seconds:g} s to measure; expected at least {math.ceil(least)} s"
            f" ({math.ceil(least / 6.0) / 10.0:g} minutes), the {number} {what} of about {each:.1f} s before any word"
        )


def _judged(workloads: tuple[Workload, ...]) -> Iterator[Judged]:
    """CPU everywhere; latency where the load is open; throughput where it is closed, for an open one was asked for.

    Latency of a closed workload says the same as its throughput: it is judged only when no workload is open.
    """
    several = len(workloads) > 1
    no_open = all(each.arrivals == "closed" for each in workloads)
    for workload in workloads:
        closed = workload.arrivals == "closed"
        wanted = (("latency_p50", not closed or no_open), ("throughput", closed), ("cpu_per_request", True))
        for name in (name for name, judged in wanted if judged):
            yield Judged(f"{name} on {workload.name}" if several else name, metric(name), workload)


def decide(asked: Duel, measured: Measured, analysis: Analysis | None = None, void: str = "") -> GateDecision:
    """The gate's word on the rows so far; with the `analysis`, its validity checks have their say, and `void` says why
    it can be nothing but INVALID.
    """
    void = void or (records.void(analysis.checks) if analysis is not None else "")
    return weigh(lambda a, b: pairs(asked, measured, a, b), asked.arms, asked.policy, void)


def weigh(
    read: Callable[[str, str], Mapping[str, Pairs]], arms: tuple[str, str], policy: Policy, void: str = ""
) -> GateDecision:
    """The gate's word on `arms` (base, head), its twin heard; `read` gives the pairs of any two arms by metric."""
    a, b = arms
    twin = hidden_name(a)
    decision = rules.decide(read(a, b), policy, void)
    forth, back = rules.decide(read(a, twin), policy), rules.decide(read(twin, a), policy)
    if decision.outcome == "INVALID":
        return decision
    for one, (first, second) in ((forth, (a, twin)), (back, (twin, a))):
        if one.outcome == "FAIL":
            told = f"equal arms differ ({second} against {first}: {one.reason}); measure on a quieter machine"
            return GateDecision("INVALID", decision.metrics, final=True, reason=told)
        if one.outcome == "INVALID":
            return GateDecision("INVALID", decision.metrics, final=True, reason=f"of equal arms, {one.reason}")
    if decision.outcome == "PASS" and not forth.outcome == back.outcome == "PASS":
        names = sorted({each.name for one in (forth, back) for each in one.metrics if each.outcome != "PASS"})
        told = f"equal arms are not yet shown to be equal: {', '.join(names)}"
        return GateDecision("INCONCLUSIVE", decision.metrics, decision.metrics[0].bursts >= policy.max_bursts, told)
    return decision


def values(asked: Duel, measured: Measured) -> Mapping[str, tuple[float, float]]:
    """Absolute medians over slices of both arms, by label."""
    rows = arrange(measured)
    return {
        each.label: (_median(each, rows, asked.arms[0]), _median(each, rows, asked.arms[1])) for each in asked.judged
    }


class DuelSteering(pipeline.Steering):
    """Ends the run when the gate's word is final; `decision` is its word so far."""

    def __init__(self, asked: Duel) -> None:
        super().__init__(asked.study)
        self.asked = asked
        self.decision: GateDecision | None = None

    def decided(self, measured: Measured) -> bool:
        """Whether more bursts could not change the word."""
        self.decision = decide(self.asked, measured)
        return self.decision.final


def pairs(asked: Duel, measured: Measured, a: str, b: str) -> Mapping[str, Pairs]:
    """The pairs of two arms (log ratios b/a), by label."""
    rows = arrange(measured)
    return {each.label: pair_up(_read(each, rows, a), _read(each, rows, b)) for each in asked.judged}


def _read(judged: Judged, rows: Rows, arm: str) -> Mapping[Key, Value]:
    request = judged.workload.request if judged.metric.per_request_name else ""
    return readings(rows.of(judged.workload.name, arm), judged.metric, request).values


def _median(judged: Judged, rows: Rows, arm: str) -> float:
    numbers = [value for value in _read(judged, rows, arm).values() if not isinstance(value, str)]
    return float(np.median(numbers)) if numbers else math.nan
