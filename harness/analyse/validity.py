"""Is the measurement fit to be judged? Pure checks over the stored rows, before any verdict.

Each check yields what it saw, the bound it was held to, and what to do. One "invalid" voids the run.
Autocorrelation is only reported: a 5 % test would void 5 % of good runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.analyse.centre import Floats, centre, centre_interval, too_few
from harness.analyse.contrast import readings
from harness.analyse.metrics import metric
from harness.analyse.records import Check, CheckStatus, ContrastResult
from harness.analyse.rows import Rows
from harness.analyse.tails import EXPECTED, PERCENTILES, fixes, warm_up
from harness.measure.records import Measured, Slice
from harness.study.records import Study, Workload

GENERATOR_BUSY = 0.90
"share of its core beyond which a load generator no longer keeps an open schedule"
OFFERED = 0.90
"share of the intended arrivals that must have been started"
LAG_SECONDS = 0.010
LAG_SHARE = 0.10
LAG_MOST = 0.100
"schedule lag that is tolerated: this long, or this share of the stretch if that is longer, but no more than the last"
AA_MARGIN = 0.03
"equal arms must not differ by more"
AA_METRICS = ("latency_p50", "throughput", "cpu_per_request")
DEFERRED_METRICS = (*AA_METRICS, "latency_mean")
"what waits until the load pauses shows in these; shares and counts per request depend on how many requests there were"
DEFERRED_MARGIN = 0.03
"apart by less, segments and slices agree: near-constant metrics have intervals of no width"
LOAD_LIMIT = "load limit"
"name of the check that tells it"
BESIDE = 0.10
"of a core that others may take before a note says so"
SLICE_MEDIANS = 50
"median requests that fit into a slice"
DRIFT_MARGIN = 0.10
"change from the first to the last block of a burst that still counts as steady"
HOPELESS = 100
"started requests of an arm on a workload; where none of so many was answered, none will be"
CHECK_CONFIDENCE = 0.999
"of the drift interval: there are many arms, and a good run must not be voided by chance"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked. `mishap` is the error that ended the measuring, if one did."""

    study: Study
    workloads: tuple[Workload, ...]
    arms: tuple[str, ...]
    rows: Rows
    contrasts: Sequence[ContrastResult]
    mishap: str = ""

    def groups(self) -> Iterator[tuple[Workload, str, tuple[Slice, ...]]]:
        """(workload, arm, all its stretches) wherever something was measured."""
        for workload in self.workloads:
            for arm in self.arms:
                found = self.rows.every(workload.name, arm)
                if found:
                    yield workload, arm, found


def check(subject: Subject) -> tuple[Check, ...]:
    """All checks in a fixed order; the run is valid when none is "invalid"."""
    return tuple(found for each in CHECKS for found in each(subject))


def load_was_the_limit(study: Study, workload: Workload, rows: Sequence[Slice]) -> bool:
    """Whether the load process decided how fast a closed loop went, and the system was waiting.

    Never where the load process is a part of the system: before our own node, with a Locust file of an arm's own, and
    where the workload says so (`both_ends`).
    """
    own_files = any(arm.file or workload.name in arm.files for arm in study.arms)
    if workload.arrivals != "closed" or workload.both_ends or study.target.kind == "reference" or own_files:
        return False
    lasting = [row for row in rows if row.seconds > 0.0]
    if not lasting:
        return False
    load = float(np.median([row.cpu_load / row.seconds for row in lasting]))
    return load > GENERATOR_BUSY > float(np.median([row.cpu_target / row.seconds for row in lasting]))


def hopeless(measured: Measured) -> bool:
    """Whether an arm answered none of so many requests of a workload that measuring on is a waste."""
    groups: dict[tuple[str, str], list[Slice]] = {}
    for row in measured.slices:
        groups.setdefault((row.workload, row.arm), []).append(row)
    return any(map(_unheard, groups.values()))


def _unheard(rows: Sequence[Slice]) -> bool:
    return _started(rows) >= HOPELESS and not any(row.answered for row in rows)


def _mishap(subject: Subject) -> Iterator[Check]:
    yield Check(
        "processes",
        _status(not subject.mishap),
        "run",
        subject.mishap or "all of them lived as long as they were needed",
        "none dies or fails while it is measured",
        "mend the cause and measure anew: a system that dies under load is not judged by what it did before",
    )


def _bursts(subject: Subject) -> Iterator[Check]:
    complete = sum(burst.complete for burst in subject.rows.bursts)
    needed = subject.study.budget.min_bursts
    over = bool(subject.mishap) or any(_unheard(rows) for _, _, rows in subject.groups())
    yield Check(
        "bursts",
        _status(complete >= needed),
        "run",
        f"{complete} complete bursts of {len(subject.rows.bursts)}",
        f"at least {needed} complete",
        "measure anew" if over else "continue the run with --resume, or give it a larger budget",
    )


def _machine(subject: Subject) -> Iterator[Check]:
    """Only told: what else goes on widens intervals, and pairs next to each other share it."""
    bursts = [each for each in subject.rows.bursts if each.others is not None and each.stolen is not None]
    if not bursts:
        return
    others, stolen = ([each.others or 0.0 for each in bursts], [each.stolen or 0.0 for each in bursts])
    busy = sum(max(each) > BESIDE for each in zip(others, stolen, strict=True))
    yield Check(
        "quiet machine",
        "note" if busy else "ok",
        "run",
        f"other processes took {float(np.median(others)):.0%} of a core (at most {max(others):.0%}), the host"
        f" {float(np.median(stolen)):.0%} (at most {max(stolen):.0%}); median over bursts, {busy} of"
        f" {len(bursts)} beyond the bound",
        f"at most {BESIDE:.0%} of a core each",
        "end what else runs there (`synapsed-bench doctor` names it), or compare with another run",
    )


def _rows_present(subject: Subject) -> Iterator[Check]:
    seen = {(row.burst, row.workload, row.arm) for rows in subject.rows.stretches.values() for row in rows}
    every = tuple((workload.name, ()) for workload in subject.workloads)
    missing = [
        f"burst {burst.number}: {workload} on {arm}"
        for burst in subject.rows.bursts
        if burst.complete
        for workload, arms in burst.playing or every
        for arm in arms or burst.arms
        if (burst.number, workload, arm) not in seen
    ]
    yield Check(
        "missing rows",
        _status(not missing),
        missing[0] if missing else "run",
        f"{len(missing)} of the planned arms on a workload without any stretch of load",
        "every complete burst has load on each of its arms and workloads",
        "look for a lost worker or a missing final report in the log of the load process",
    )


def _successes(subject: Subject) -> Iterator[Check]:
    for workload, arm, rows in subject.groups():
        answered = sum(row.answered for row in rows)
        yield Check(
            "successes",
            _status(answered > 0),
            _where(workload, arm),
            f"{answered:,} answered of {_started(rows):,} started requests" + ("" if answered else _told(rows)),
            "at least one",
            "run the Locust file against this target by hand and read its first failure",
        )


def _errors(subject: Subject) -> Iterator[Check]:
    for workload, arm, rows in subject.groups():
        ratio = sum(row.failures + row.hung for row in rows) / max(1, _started(rows))
        yield Check(
            "errors",
            _status(ratio <= workload.max_error_ratio),
            _where(workload, arm),
            f"{ratio:.3%} of requests failed{_told(rows)}",
            f"at most {workload.max_error_ratio:.3%} (max_error_ratio)",
            "mend the failures, or raise max_error_ratio if they belong to the workload",
        )


def _rejections(subject: Subject) -> Iterator[Check]:
    for workload, arm, rows in subject.groups():
        ratio = sum(row.rejected for row in rows) / max(1, _started(rows))
        yield Check(
            "rejections",
            _status(ratio <= workload.max_rejection_ratio),
            _where(workload, arm),
            f"{ratio:.3%} of requests rejected",
            f"at most {workload.max_rejection_ratio:.3%} (max_rejection_ratio)",
            "raise the target's limits above the offered load, or the bound if rejections are wanted",
        )


def _conservation(subject: Subject) -> Iterator[Check]:
    for workload, arm, rows in subject.groups():
        lost, twice = sum(row.lost for row in rows), sum(row.surplus for row in rows)
        told_twice = f", {twice:,} of them told twice" if twice else ""
        yield Check(
            "conservation",
            "note" if lost and not twice and workload.silent_tasks else _status(lost == twice == 0),
            _where(workload, arm),
            f"{lost + twice:,} of {_started(rows):,} started requests not counted exactly once{told_twice}",
            "started = answered + rejected + failed + cancelled",
            "let the Locust file report each request once (at most requests_per_task of a task); if some tasks make"
            " none, say so (silent_tasks)",
        )


def _slice_length(subject: Subject) -> Iterator[Check]:
    """Only told: a loop of many users at saturation has long requests, and the time to the last completion is known."""
    for workload, arm, _ in subject.groups():
        slices = subject.rows.of(workload.name, arm)
        values = readings(slices, metric("service_p50"), workload.request).values.values()
        medians = [each for each in values if not isinstance(each, str)]
        if medians:
            times = float(np.median([row.planned for row in slices])) / float(np.median(medians))
            yield Check(
                "slice length",
                "ok" if times >= SLICE_MEDIANS else "note",
                _where(workload, arm),
                f"a slice is {times:.0f} times as long as its median request",
                f"at least {SLICE_MEDIANS} times",
                "longer slices (slice_seconds) or fewer users: what begins and ends a slice is a part of it",
            )


def _generator(subject: Subject) -> Iterator[Check]:
    for where, rows in _open(subject):
        busy = float(np.median([row.cpu_load / row.planned for row in rows]))
        yield Check(
            "generator CPU",
            _status(busy <= GENERATOR_BUSY),
            where,
            f"the load process used {busy:.0%} of its core (median)",
            f"at most {GENERATOR_BUSY:.0%}",
            "lower the rate, or spread the load over more processes",
        )


def _load_limit(subject: Subject) -> Iterator[Check]:
    for workload, arm, rows in subject.groups():
        if load_was_the_limit(subject.study, workload, rows):
            yield Check(
                LOAD_LIMIT,
                "note",
                _where(workload, arm),
                f"the load process used more than {GENERATOR_BUSY:.0%} of its core, and the target less",
                "the target, not the load process, is what a closed loop waits for",
                "let tasks arrive at a rate (arrivals, rate), use a faster user class, or ask for"
                " cpu_target_per_request; where the Locust file is on trial too, say so (both_ends)",
            )


def _lag(subject: Subject) -> Iterator[Check]:
    for where, rows in _open(subject):
        seconds = float(np.median([row.lag_max for row in rows]))
        bound = min(LAG_MOST, max(LAG_SECONDS, LAG_SHARE * float(np.median([row.planned for row in rows]))))
        yield Check(
            "schedule lag",
            _status(seconds <= bound),
            where,
            f"requests started up to {1e3 * seconds:.3g} ms late (median over stretches)",
            f"at most {1e3 * bound:.3g} ms",
            "lower the rate, or allow more users in flight",
        )


def _offered(subject: Subject) -> Iterator[Check]:
    for where, rows in _open(subject):
        intended = sum(row.arrivals for row in rows)
        if intended:
            share = sum(row.tasks for row in rows) / intended
            yield Check(
                "offered rate",
                _status(share >= OFFERED),
                where,
                f"{share:.0%} of the intended arrivals were started",
                f"at least {OFFERED:.0%}",
                "lower the rate, or allow more users in flight",
            )


def _steady(subject: Subject) -> Iterator[Check]:
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
                "note" if fine and not math.isfinite(low) else _status(fine),
                _where(workload, arm),
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


def _equivalence(subject: Subject) -> Iterator[Check]:
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


def _deferred(subject: Subject) -> Iterator[Check]:
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
            _status(not apart),
            f"{segment.metric} on {segment.workload}, {segment.b} against {segment.a}",
            f"ratio {segment.estimate.ratio:.3g} in segments, {other.estimate.ratio:.3g} in slices",
            f"intervals at most {DEFERRED_MARGIN:.0%} apart",
            "costs fall between the slices (sweeps, garbage collection): trust the segments",
        )


def _tails(subject: Subject) -> Iterator[Check]:
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


def _autocorrelation(subject: Subject) -> Iterator[Check]:
    for workload, arm, _ in subject.groups():
        values = readings(subject.rows.of(workload.name, arm), metric("latency_p50"), workload.request).values
        series = np.array([math.log(each) for _, each in sorted(values.items()) if not isinstance(each, str)])
        if series.size > 2 and np.ptp(series) > 0.0:
            centred = series - series.mean()
            lag_1 = float(centred[1:] @ centred[:-1] / (centred @ centred))
            yield Check(
                "autocorrelation",
                "note",
                _where(workload, arm),
                f"lag-1 autocorrelation {lag_1:+.2f} of log median latency from slice to slice",
                "none: pairs cancel what neighbours share",
                "nothing to do",
            )


def _open(subject: Subject) -> Iterator[tuple[str, tuple[Slice, ...]]]:
    """Stretches at open rates, those of a kind together: a median over few segments and many slices is the slices'."""
    for workload, arm, rows in subject.groups():
        if workload.arrivals != "closed":
            for kind in dict.fromkeys(row.kind for row in rows):
                where = _where(workload, arm) + (", segments" if kind == "segment" else "")
                yield where, tuple(row for row in rows if row.kind == kind)


def _status(fine: bool) -> CheckStatus:
    return "ok" if fine else "invalid"


def _where(workload: Workload, arm: str) -> str:
    return f"{workload.name} on {arm}"


def _told(rows: Sequence[Slice]) -> str:
    """The kinds of failures, each with what the first of it said, in brackets; empty when there are none."""
    first: dict[str, str] = {}
    for row in rows:
        first = {kind: row.said.get(kind, "") for kind in row.failed} | first
    kinds = [": ".join(filter(None, each)) for each in sorted(first.items())]
    kinds += ["no answer in time"] * any(row.hung for row in rows)
    return f" ({', '.join(kinds)})" if kinds else ""


def _started(rows: Sequence[Slice]) -> int:
    return sum(row.started for row in rows)


CHECKS: tuple[Callable[[Subject], Iterator[Check]], ...] = (
    _mishap,
    _successes,
    _bursts,
    _machine,
    _rows_present,
    _errors,
    _rejections,
    _conservation,
    _slice_length,
    _generator,
    _load_limit,
    _lag,
    _offered,
    _steady,
    _equivalence,
    _deferred,
    _tails,
    _autocorrelation,
)
