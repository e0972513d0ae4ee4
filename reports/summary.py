"""summary.json: the run's result for machines, versioned. `docs/summary-schema.md` is generated from these records.

Numbers that do not exist or are unbounded (NaN, infinity) are null. Within one schema version fields may be
added; one that changes its meaning or goes away raises the version.
"""

from __future__ import annotations

import math
from typing import TypeVar

import msgspec

from harness.analyse.records import (
    Analysis,
    ArmSummary,
    Check,
    ContrastResult,
    CpuShare,
    FlagEffect,
    GaugeSeries,
    LatencyCurve,
    LeakSlope,
    MemoryRow,
    TailTest,
)
from harness.analyse.records import Attribution as Attributed
from harness.analyse.records import Crossover as Crossing
from harness.analyse.records import Estimate as Measured
from harness.analyse.records import Verdict as Judged
from harness.measure.records import Environment
from harness.study.records import Study
from reports import words
from reports.info import RunInfo

SUMMARY_VERSION = 4
R = TypeVar("R", bound=msgspec.Struct)


class Estimate(msgspec.Struct, frozen=True):
    """A ratio b/a with its interval at `confidence`; `low` and `high` are null when the bursts do not bound it.

    `change` says it in words. `sd` is the standard deviation of the burst medians of the log ratio.
    """

    ratio: float
    low: float | None
    high: float | None
    confidence: float
    change: str
    method: str
    bursts: int
    pairs: int
    sd: float


class Contrast(msgspec.Struct, frozen=True):
    """Arm `b` against arm `a`. `workload` is "" for readings of a whole burst (memory).

    `estimate` is null when no pair was usable; `problem` says why. `value_a`, `value_b` are the arms' medians in
    `unit`. `unusable` counts the pairs left out, `reasons` tells why (reason -> pairs).
    """

    a: str
    b: str
    role: str
    workload: str
    metric: str
    request: str
    source: str
    unit: str
    estimate: Estimate | None
    value_a: float | None
    value_b: float | None
    unusable: int
    reasons: dict[str, int]
    problem: str


class Verdict(msgspec.Struct, frozen=True):
    """What the interval says about one expectation against one arm: MET, MISSED, INCONCLUSIVE, NOT MEASURABLE.

    `side` ("at_most" or "at_least") and `bound` are the claim. `estimate` is at the family's confidence.
    """

    expectation: str
    claim: str
    workload: str
    metric: str
    request: str
    arm: str
    against: str
    side: str
    bound: float
    outcome: str
    estimate: Estimate | None
    p_value: float
    adjusted_p: float
    sentence: str
    reason: str


class Crossover(msgspec.Struct, frozen=True):
    """Where the treatment starts or stops to pay as `parameter` of a workload grows over `values`.

    `at` is where the ratio crosses 1, with the interval `low` to `high` (null where it does not end); null when
    the ratio never crosses. `pays_above` says on which side the treatment is better.
    """

    workload: str
    parameter: str
    metric: str
    request: str
    at: float | None
    low: float | None
    high: float | None
    pays_above: bool | None
    values: tuple[float, ...]
    ratios: tuple[Estimate, ...]


class Tail(msgspec.Struct, frozen=True):
    """Whether arm `b` has more slow requests than arm `a`: exceedances per segment over `threshold` seconds.

    The threshold is the `percentile` of a's slices in the first burst, fixed before any segment was measured.
    `share_a`, `share_b` are the shares of requests beyond it, `estimate` their ratio b/a, `p_value` that of "no
    difference". `reasons` counts the pairs of segments left out.
    """

    workload: str
    request: str
    a: str
    b: str
    percentile: float
    threshold: float
    share_a: float
    share_b: float
    estimate: Estimate | None
    p_value: float
    reasons: dict[str, int]


class Attribution(msgspec.Struct, frozen=True):
    """Which flag pays: factorial attribution of none -> all on one workload and metric.

    `predicted` is the product of all flags' ratios, `measured` the separately measured ratio of all to none (null when
    it was not run); `closes` says whether their intervals agree. `bursts` is the number of clusters, `pairs` of
    fold-over pairs.
    """

    workload: str
    metric: str
    request: str
    confidence: float
    effects: tuple[FlagEffect, ...]
    predicted: FlagEffect
    measured: Estimate | None
    closes: bool | None
    bursts: int
    pairs: int


class Summary(msgspec.Struct, frozen=True):
    """The whole file. `version` is the version of this schema.

    `answer` is the result in words; when `valid` is false no verdict may be used, and `checks` says why.
    `complete` is false for an interrupted run. `started`, `ended` are UTC. `scope` says what the verdicts are
    about. `arms` are in display order; `hidden` names the A/A twins.
    """

    version: int
    run: str
    study: str
    title: str
    question: str
    scope: str
    answer: str
    valid: bool
    complete: bool
    started: str
    ended: str
    command: str
    seed: int
    notes: tuple[str, ...]
    baseline: str
    treatment: str
    controls: tuple[str, ...]
    arms: tuple[str, ...]
    hidden: tuple[str, ...]
    confidence: float
    family_confidence: float
    bursts: int
    interrupted: int
    seconds_measured: float
    verdicts: tuple[Verdict, ...]
    checks: tuple[Check, ...]
    contrasts: tuple[Contrast, ...]
    attributions: tuple[Attribution, ...]
    crossovers: tuple[Crossover, ...]
    tails: tuple[Tail, ...]
    leaks: tuple[LeakSlope, ...]
    gauges: tuple[GaugeSeries, ...]
    summaries: tuple[ArmSummary, ...]
    curves: tuple[LatencyCurve, ...]
    cpu: tuple[CpuShare, ...]
    memory: tuple[MemoryRow, ...]
    environment: Environment


def summarise(study: Study, analysis: Analysis, environment: Environment, info: RunInfo) -> Summary:
    """The summary of one run."""
    return Summary(
        version=SUMMARY_VERSION,
        run=info.run,
        study=study.name,
        title=study.title,
        question=study.question,
        scope=words.scope(study),
        answer=analysis.answer,
        valid=analysis.valid,
        complete=info.complete,
        started=words.moment(info.started),
        ended=words.moment(info.ended),
        command=info.command,
        seed=info.seed,
        notes=info.notes,
        baseline=analysis.baseline,
        treatment=analysis.treatment,
        controls=analysis.controls,
        arms=analysis.arms,
        hidden=analysis.hidden,
        confidence=analysis.confidence,
        family_confidence=analysis.family_confidence,
        bursts=analysis.bursts,
        interrupted=analysis.interrupted,
        seconds_measured=analysis.seconds_measured,
        verdicts=tuple(_verdict(each) for each in analysis.verdicts),
        checks=analysis.checks,
        contrasts=tuple(_contrast(analysis, each) for each in analysis.contrasts),
        attributions=tuple(map(_attribution, analysis.attributions)),
        crossovers=tuple(_crossover(each) for each in analysis.crossovers),
        tails=tuple(_tail(each) for each in analysis.tails),
        leaks=analysis.leaks,
        gauges=analysis.gauges,
        summaries=analysis.summaries,
        curves=analysis.curves,
        cpu=analysis.cpu,
        memory=analysis.memory,
        environment=environment,
    )


def encode(study: Study, analysis: Analysis, environment: Environment, info: RunInfo) -> bytes:
    """summary.json; equal input gives equal bytes."""
    content = msgspec.json.encode(summarise(study, analysis, environment, info), order="deterministic")
    return msgspec.json.format(content, indent=2) + b"\n"


def _estimate(found: Measured | None) -> Estimate | None:
    return _stated(found) if found is not None else None


def _stated(found: Measured) -> Estimate:
    return Estimate(
        ratio=found.ratio,
        low=found.low if found.bounded else None,
        high=found.high if found.bounded and math.isfinite(found.high) else None,
        confidence=found.confidence,
        change=words.change(found),
        method=found.method,
        bursts=found.bursts,
        pairs=found.pairs,
        sd=found.sd,
    )


def _restated(kind: type[R], found: object, **own: object) -> R:
    """`found` in the words of this file: the fields that both have as they are, and those that are our own."""
    same = {name: getattr(found, name) for name in kind.__struct_fields__ if name not in own}
    return kind(**same, **own)


def _contrast(analysis: Analysis, found: ContrastResult) -> Contrast:
    return _restated(
        Contrast,
        found,
        unit=words.metric_info(analysis, found.metric).unit,
        estimate=_estimate(found.estimate),
        value_a=found.value_a if math.isfinite(found.value_a) else None,
        value_b=found.value_b if math.isfinite(found.value_b) else None,
    )


def _crossover(found: Crossing) -> Crossover:
    return _restated(
        Crossover,
        found,
        low=found.low if math.isfinite(found.low) else None,
        high=found.high if math.isfinite(found.high) else None,
        ratios=tuple(_stated(each) for each in found.ratios),
    )


def _tail(found: TailTest) -> Tail:
    return _restated(Tail, found, estimate=_estimate(found.estimate))


def _attribution(found: Attributed) -> Attribution:
    return _restated(Attribution, found, measured=_estimate(found.measured))


def _verdict(found: Judged) -> Verdict:
    return _restated(
        Verdict, found, estimate=_estimate(found.contrast.estimate) if found.contrast is not None else None
    )
