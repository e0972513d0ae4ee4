"""Two arms measured until the gate can speak: what `gate` and `ab` share.

Besides the two lives a twin of the first: if the gate would tell the twin apart from it, the machine cannot be
trusted and the measurement is INVALID; and PASS needs the twin shown to be equal by the same evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness import gate, pipeline
from harness.analyse.contrast import Pairs, pair_up, readings
from harness.analyse.metrics import metric
from harness.analyse.records import Analysis
from harness.analyse.rows import Rows, arrange
from harness.gate import GateDecision, Policy
from harness.measure.records import Measured
from harness.plan.arms import hidden_name
from harness.study import Arm, Budget, Design, Study, Target, Workload

BLOCKS = 8
"""Pairs per burst. Starting six processes costs as much as eight blocks, and simulated with the starts counted eight
find +3 % in 91 % of gates where four find it in 69 % (pairs of 4.5 %, 300 s), with no false FAIL in either."""
SLICE_SECONDS = 0.15
FIXED_WORK = 200
"requests before the first slice: the gate judges no memory, so they only warm"


@dataclass(frozen=True, slots=True)
class Duel:
    """Two arms of a study on its one workload, and what decides between them."""

    study: Study
    metrics: tuple[str, ...]
    policy: Policy

    @property
    def arms(self) -> tuple[str, str]:
        """Names of the arm compared against and of the arm judged."""
        return self.study.design.baseline, self.study.design.treatment


def duel(
    name: str, title: str, arms: tuple[Arm, Arm], workload: Workload, seconds: float, policy: Policy, seed: int = 0
) -> Duel:
    """The study of two arms. An open workload's throughput is what it was asked for, so it is not judged."""
    a, b = arms
    closed = workload.arrivals == "closed"
    metrics = ("latency_p50", "throughput", "cpu_per_request") if closed else ("latency_p50", "cpu_per_request")
    study = Study(
        name=name,
        title=title,
        question=f"Is {b.name} worse than {a.name}?",
        seed=seed,
        target=a.target or Target(),
        design=Design(baseline=a.name, treatment=b.name),
        budget=Budget(
            seconds=seconds,
            blocks=BLOCKS,
            min_bursts=policy.min_bursts,
            max_bursts=policy.max_bursts,
            memory_requests=FIXED_WORK,
            stop_early=True,
        ),
        arms=(a, b),
        workloads=(workload,),
    )
    return Duel(study, metrics, policy)


def decide(asked: Duel, measured: Measured, analysis: Analysis | None = None) -> GateDecision:
    """The gate's word on the rows so far; with the `analysis`, its validity checks have their say."""
    rows = arrange(measured)
    a, b = asked.arms
    twin = hidden_name(a)
    checks = analysis.checks if analysis is not None else ()
    void = next((f"{each.name}: {each.saw} ({each.where})" for each in checks if each.status == "invalid"), "")
    decision = gate.decide(_pairs(asked, rows, a, b), asked.policy, void)
    forth = gate.decide(_pairs(asked, rows, a, twin), asked.policy)
    back = gate.decide(_pairs(asked, rows, twin, a), asked.policy)
    if decision.outcome == "INVALID":
        return decision
    for one, (first, second) in ((forth, (a, twin)), (back, (twin, a))):
        if one.outcome == "FAIL":
            told = f"equal arms differ ({second} against {first}: {one.reason}); measure on a quieter machine"
            return GateDecision("INVALID", decision.metrics, final=True, reason=told)
    if decision.outcome == "PASS" and not forth.outcome == back.outcome == "PASS":
        names = sorted({each.name for one in (forth, back) for each in one.metrics if each.outcome != "PASS"})
        told = f"equal arms are not yet shown to be equal: {', '.join(names)}"
        return GateDecision(
            "INCONCLUSIVE", decision.metrics, decision.metrics[0].bursts >= asked.policy.max_bursts, told
        )
    return decision


def values(asked: Duel, measured: Measured) -> Mapping[str, tuple[float, float]]:
    """Absolute medians over slices of both arms, by metric."""
    rows = arrange(measured)
    a, b = asked.arms
    return {name: (_median(asked, rows, name, a), _median(asked, rows, name, b)) for name in asked.metrics}


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


def _pairs(asked: Duel, rows: Rows, a: str, b: str) -> Mapping[str, Pairs]:
    (workload,) = asked.study.workloads
    found = {}
    for name in asked.metrics:
        request = workload.request if metric(name).per_request_name else ""
        sides = [readings(rows.of(workload.name, arm), metric(name), request).values for arm in (a, b)]
        found[name] = pair_up(*sides)
    return found


def _median(asked: Duel, rows: Rows, name: str, arm: str) -> float:
    (workload,) = asked.study.workloads
    found = readings(rows.of(workload.name, arm), metric(name), workload.request).values.values()
    numbers = [value for value in found if not isinstance(value, str)]
    return float(np.median(numbers)) if numbers else math.nan
