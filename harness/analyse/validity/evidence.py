"""Are equal arms equal, a burst steady, and slices and segments of one mind?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from harness.analyse.centre import Floats, centre, centre_interval, too_few
from harness.analyse.contrast import readings
from harness.analyse.records import Check, CheckStatus, ContrastResult
from harness.analyse.tails import EXPECTED, PERCENTILES, fixes, warm_up
from harness.analyse.validity.subject import Subject, on_arm, status
from harness.measure.metrics import metric
from harness.measure.records import Slice

AA_MARGIN = 0.03
"equal arms must not differ by more"
AA_METRICS = ("latency_p50", "throughput", "cpu_per_request")
DEFERRED_METRICS = (*AA_METRICS, "latency_mean")
"what waits until the load pauses shows in these; shares and counts per request depend on how many requests there were"
DEFERRED_MARGIN = 0.03
"apart by less, segments and slices agree: near-constant metrics have intervals of no width"
DRIFT_MARGIN = 0.10
"change from the first to the last block of a burst that still counts as steady"
CHECK_CONFIDENCE = 0.999
"of the drift interval: there are many arms, and a good run must not be voided by chance"


def steady(subject: Subject) -> Iterator[Check]:
    """An arm is as fast at the end of a burst as at its beginning."""
    for workload in subject.workloads:
        name = "throughput" if workload.arrivals == "closed" else "latency_p50"
        for arm in subject.arms:
            drifts = _drifts(subject.rows.of(workload.name, arm), name, workload.request)
            if not drifts.size:
                continue
            low, high = centre_interval(drifts, CHECK_CONFIDENCE)
            edge = math.log1p(DRIFT_MARGIN)
            fine = low <= edge and high >= -edge
            yield Check(
                "steady state",
                "note" if fine and not math.isfinite(low) else status(fine),
                on_arm(workload, arm),
                f"{metric(name).noun} changed by {math.expm1(centre(drifts)):+.1%} within a burst"
                + ("" if math.isfinite(low) else f"; {too_few(drifts.size)} to tell"),
                f"not shown to change by more than {DRIFT_MARGIN:.0%} ({CHECK_CONFIDENCE:.1%} interval)",
                "warm up longer before the first slice",
            )


def _drifts(rows: Sequence[Slice], name: str, request: str) -> Floats:
    """Log ratio of the last to the first usable block of each burst."""
    by_burst: dict[int, list[float]] = {}
    for (burst, _), value in sorted(readings(rows, metric(name), request).values.items()):
        if not isinstance(value, str):
            by_burst.setdefault(burst, []).append(value)
    return np.array([math.log(each[-1] / each[0]) for each in by_burst.values() if len(each) > 1])


def equivalence(subject: Subject) -> Iterator[Check]:
    """The hidden twin of the baseline is shown to be equal to it."""
    own = {workload.name: ("", workload.request) for workload in subject.workloads}
    twins = [
        each
        for each in subject.contrasts
        if (each.role, each.source) == ("a/a", "slice")
        and each.metric in AA_METRICS
        and each.request in own[each.workload]
        and each.estimate
    ]
    shown_on = {twin.workload for twin in twins}
    without = [each.name for each in subject.workloads if each.name not in shown_on]
    if subject.study.design.hidden and without:
        yield Check(
            "A/A equivalence",
            "note",
            ", ".join(without),
            "no twin of the baseline was measured there in slices",
            f"within {AA_MARGIN:.0%}",
            "judge the machine by the other workloads, or let all arms play these too",
        )
    confidence = 1.0 - (1.0 - subject.study.confidence) / max(1, len(twins))
    edge = math.log1p(AA_MARGIN)
    for twin in twins:
        low, high = centre_interval(np.log(twin.burst_ratios), confidence)
        shown, refuted = -edge <= low and high <= edge, low > edge or high < -edge
        status: CheckStatus = "ok" if shown else "invalid" if refuted else "note"
        saw = f"equal arms differ by {math.expm1(low):+.1%} to {math.expm1(high):+.1%}"
        if not math.isfinite(low):
            saw = f"{too_few(len(twin.burst_ratios))} to show that equal arms are equal"
        elif not shown and not refuted:
            saw += ": too wide to show that they are equal"
        yield Check(
            "A/A equivalence",
            status,
            f"{twin.metric} on {twin.workload}",
            saw,
            f"within {AA_MARGIN:.0%}",
            "measure on a quieter machine or longer; effects near the margin are not to be trusted",
        )


def deferred(subject: Subject) -> Iterator[Check]:
    """Slices and segments tell the same."""

    def key(each: ContrastResult) -> tuple[str, str, str, str, str]:
        return each.a, each.b, each.workload, each.metric, each.request

    compared = [each for each in subject.contrasts if each.metric in DEFERRED_METRICS]
    sliced = {key(each): each for each in compared if each.source == "slice"}
    for segment in compared:
        other = sliced.get(key(segment))
        if segment.source != "segment" or other is None or not segment.estimate or not other.estimate:
            continue
        margin = 1.0 + DEFERRED_MARGIN
        apart = (
            segment.estimate.low > margin * other.estimate.high or margin * segment.estimate.high < other.estimate.low
        )
        yield Check(
            "segments agree with slices",
            status(not apart),
            f"{segment.metric} on {segment.workload}, {segment.b} against {segment.a}",
            f"ratio {segment.estimate.ratio:.3g} in segments, {other.estimate.ratio:.3g} in slices",
            f"intervals at most {DEFERRED_MARGIN:.0%} apart",
            "costs fall between the slices (sweeps, garbage collection): trust the segments",
        )


def thresholds(subject: Subject) -> Iterator[Check]:
    """Whether the first burst's slices have requests enough to fix the thresholds of tail tests."""
    for workload in subject.workloads:
        segments = subject.rows.of(workload.name, subject.study.design.baseline, "segment")
        if not segments:
            continue
        found = warm_up(subject.rows, workload, subject.study.design.baseline, segments[0].burst).size
        lacking = [each for each in PERCENTILES if not fixes(each, found)]
        if lacking:
            yield Check(
                "tail thresholds",
                "note",
                workload.name,
                f"{found:,} requests in the baseline's slices of the first burst: no test beyond percentile"
                f" {' or '.join(f'{each:g}' for each in lacking)}",
                f"at least {EXPECTED / (1.0 - lacking[0] / 100.0):,.0f} for {lacking[0]:g}",
                "more blocks a burst, or longer slices",
            )


def autocorrelation(subject: Subject) -> Iterator[Check]:
    """How far a burst resembles the one before: a note."""
    for workload, arm, _ in subject.groups():
        values = readings(subject.rows.of(workload.name, arm), metric("latency_p50"), workload.request).values
        series = np.array([math.log(each) for _, each in sorted(values.items()) if not isinstance(each, str)])
        if series.size > 2 and np.ptp(series) > 0.0:
            centred = series - series.mean()
            lag_1 = float(centred[1:] @ centred[:-1] / (centred @ centred))
            yield Check(
                "autocorrelation",
                "note",
                on_arm(workload, arm),
                f"lag-1 autocorrelation {lag_1:+.2f} of log median latency from slice to slice",
                "none: pairs cancel what neighbours share",
                "nothing to do",
            )
