"""Tables of a report, already in words: the HTML page, the Markdown summary and the terminal share them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analyse.records import (
    Analysis,
    ArmSummary,
    Attribution,
    ContrastResult,
    CpuShare,
    LatencyCurve,
    Verdict,
)
from harness.measure.records import Environment
from harness.study import Study
from reports import words
from reports.charts import burst_medians
from reports.info import RunInfo

SHOWN_PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Table:
    """Headings and rows of text. The first column names the row; columns in `numbers` are aligned right."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...] = ()


def _numbers(first: int, headings: Sequence[str]) -> tuple[int, ...]:
    return tuple(range(first, len(headings)))


def measured_words(verdict: Verdict) -> str:
    """The measured change with its interval, or that there is none."""
    found = verdict.contrast
    return words.change(found.estimate) if found is not None and found.estimate is not None else "no estimate"


def verdicts(analysis: Analysis) -> Table:
    """One row per verdict."""
    rows = tuple(
        (
            each.claim or each.expectation,
            words.place(each.workload),
            words.metric_words(analysis, each.metric, each.request),
            f"{each.arm} against {each.against}",
            words.claim(each.side, each.bound),
            measured_words(each),
            each.outcome,
        )
        for each in analysis.verdicts
    )
    headings = ("expectation", "workload", "metric", "compared", "claimed", "measured", "verdict")
    return Table("Verdicts", headings, rows)


def estimates(analysis: Analysis, contrasts: Sequence[ContrastResult], caption: str) -> Table:
    """Every contrast with its estimate, its interval and the absolute medians behind it."""
    rows = []
    several = len({each.workload for each in contrasts}) > 1
    for each in contrasts:
        unit = words.metric_info(analysis, each.metric).unit
        shown = each.estimate
        rows.append(
            (
                words.metric_words(analysis, each.metric, each.request)
                + (f", {words.place(each.workload)}" if several else ""),
                words.contrast_words(each),
                words.SOURCES[each.source],
                words.change(shown) if shown is not None else (each.problem or "no usable pair"),
                f"{words.number(shown.ratio)} ({words.number(shown.low)}{words.EN_DASH}{words.number(shown.high)})"
                if shown is not None
                else words.ABSENT,
                words.quantity(each.value_a, unit),
                words.quantity(each.value_b, unit),
                f"{shown.bursts} / {words.count(shown.pairs)}" if shown is not None else words.ABSENT,
                _left_out(each),
            )
        )
    headings = (
        "metric",
        "compared",
        "from",
        "change (interval)",
        "ratio (interval)",
        "median before",
        "median after",
        "bursts / pairs",
        "remarks",
    )
    return Table(caption, headings, tuple(rows), (3, 4, 5, 6, 7))


def _left_out(contrast: ContrastResult) -> str:
    parts = [f"{count} {reason}" for reason, count in contrast.reasons.items()]
    left_out = [f"pairs left out: {', '.join(parts)}"] if parts and contrast.estimate is not None else []
    problem = [contrast.problem] if contrast.problem and contrast.estimate is not None else []
    return "; ".join(problem + left_out)


def latency(curves: Sequence[LatencyCurve], caption: str) -> Table:
    """Percentiles of latency (from the intended start) and of service time (from the actual send)."""
    reached = max((each.percentiles[-1] for each in curves), default=0.0)
    shown = [each for each in SHOWN_PERCENTILES if each <= reached]
    rows = []
    for each in curves:
        for what, values in (("latency", each.seconds), ("service time", each.service_seconds)):
            cells = [_percentile(each, values, percentile) for percentile in shown]
            rows.append((each.arm, what, *cells, words.count(each.requests)))
    headings = ("arm", "time", *(f"p{each:g}" for each in shown), "requests")
    return Table(caption, headings, tuple(rows), _numbers(2, headings))


def _percentile(curve: LatencyCurve, values: Sequence[float], percentile: float) -> str:
    if percentile > curve.percentiles[-1]:
        return "not resolved"
    return words.quantity(float(np.interp(percentile, curve.percentiles, values)), "s")


def throughput(analysis: Analysis, workload: str, caption: str) -> Table:
    """Requests per second of each arm: median and quartiles over slices, first and last burst."""
    rows = []
    for each in analysis.throughput:
        if each.workload != workload or not each.points:
            continue
        values = [point.value for point in each.points]
        low, middle, high = np.percentile(values, (25.0, 50.0, 75.0)).tolist()
        bursts = [value for _, value in burst_medians(each)]
        quartiles = f"{words.number(low)}{words.EN_DASH}{words.number(high)}"
        first, last = words.number(bursts[0]), words.number(bursts[-1])
        rows.append((each.arm, words.number(middle), quartiles, first, last, words.count(len(values))))
    headings = ("arm", "median, requests/s", "middle half, requests/s", "first burst", "last burst", "slices")
    return Table(caption, headings, tuple(rows), _numbers(1, headings))


def cpu(rows: Sequence[CpuShare], caption: str) -> Table:
    """CPU time per answered request by end, and how busy each end's core was."""
    cells = tuple(
        (
            each.arm,
            words.quantity(each.target_seconds, "s"),
            words.quantity(each.load_seconds, "s"),
            words.quantity(each.target_seconds + each.load_seconds, "s"),
            _percent(each.target_busy),
            _percent(each.load_busy),
        )
        for each in rows
    )
    headings = ("arm", "target, per request", "load, per request", "together", "target busy", "load busy")
    return Table(caption, headings, cells, _numbers(1, headings))


def _percent(share: float) -> str:
    return words.ABSENT if math.isnan(share) else f"{100.0 * share:.0f}{words.THIN}%"


def memory(analysis: Analysis) -> Table:
    """Memory of each arm after the same work."""
    rows = tuple(
        (
            each.arm,
            words.quantity(each.target_increase, "B"),
            words.quantity(each.target_whole, "B"),
            words.quantity(each.target_pss, "B"),
            words.quantity(each.load_increase, "B"),
            words.quantity(each.load_whole, "B"),
            words.quantity(each.load_pss, "B"),
            words.count(each.descriptors),
            words.count(each.load_descriptors),
            f"{words.count(each.requests)} / {each.bursts}",
        )
        for each in analysis.memory
    )
    headings = (
        "arm",
        "target: added USS",
        "target: whole USS",
        "target: PSS",
        "load: added USS",
        "load: whole USS",
        "load: PSS",
        "target: added descriptors",
        "load: added descriptors",
        "requests / bursts",
    )
    return Table("Memory, medians over bursts", headings, rows, _numbers(1, headings))


def requests(summaries: Sequence[ArmSummary]) -> Table:
    """Every request counted once."""
    rows = tuple(
        (
            each.workload,
            each.arm,
            words.count(each.started),
            words.count(each.answered),
            words.count(each.rejected),
            ", ".join(f"{words.count(n)} {kind}" for kind, n in each.failed.items()) or "0",
            words.count(each.cancelled),
            words.count(each.slices),
        )
        for each in summaries
        if each.workload
    )
    headings = ("workload", "arm", "started", "answered", "rejected", "failed", "cancelled", "stretches")
    return Table("Requests: started = answered + rejected + failed + cancelled", headings, rows, (2, 3, 4, 6, 7))


def gauges(analysis: Analysis) -> Table:
    """What target and dialer counted themselves, at the end of the bursts."""
    rows = tuple(
        (
            each.name,
            each.arm,
            each.end,
            words.number(each.values[0]),
            words.number(float(np.median(each.values))),
            words.number(each.values[-1]),
            words.count(len(each.values)),
        )
        for each in analysis.gauges
        if each.values
    )
    headings = ("gauge", "arm", "end", "first burst", "median", "last burst", "bursts")
    return Table("The target's and the dialer's own gauges, at the end of each burst", headings, rows, (3, 4, 5, 6))


def attribution(found: Attribution) -> Table:
    """The share of each flag in the change from none to all."""
    lines = [*found.effects, found.predicted]
    rows = [
        (
            each.flag or "all flags multiplied",
            f"{words.ratio_words(each.ratio)} ({words.interval_words(each.ratio, each.low, each.high)})",
            f"{words.number(each.ratio)} ({words.number(each.low)}{words.EN_DASH}{words.number(each.high)})",
        )
        for each in lines
    ]
    measured = found.measured
    if measured is not None:
        ends = f"{words.number(measured.low)}{words.EN_DASH}{words.number(measured.high)}"
        ratio = f"{words.number(measured.ratio)} ({ends})"
        rows.append(("measured separately", words.change(measured), ratio))
    caption = f"{found.bursts} bursts, {found.pairs} fold-over pairs"
    return Table(caption, ("optimization", "change (interval)", "ratio (interval)"), tuple(rows), (1, 2))


def checks(analysis: Analysis) -> Table:
    """Validity checks, the failed ones first."""
    order = {"invalid": 0, "note": 1, "ok": 2}
    rows = tuple(
        (each.status, each.name, each.where, each.saw, each.bound, each.remedy)
        for each in sorted(analysis.checks, key=lambda each: order[each.status])
    )
    return Table("Validity checks", ("status", "check", "where", "saw", "bound", "what to do"), rows)


def arms(study: Study, analysis: Analysis) -> Table:
    """Who was compared."""
    part = {analysis.baseline: "baseline", analysis.treatment: "treatment"}
    part |= dict.fromkeys(analysis.controls, "control: an honest stand-in for the baseline")
    rows = [(name, part.get(name, ""), words.arm_words(study, name)) for name in analysis.arms]
    twin = f"twin of {analysis.baseline}: must show no difference"
    rows += [(name, "hidden", twin) for name in analysis.hidden]
    return Table("Arms", ("arm", "part", "what it is"), tuple(rows))


def workloads(study: Study) -> Table:
    """What was asked of the arms."""
    rows = tuple(
        (
            each.name,
            each.question or words.ABSENT,
            f"closed, {each.users} users" if each.arrivals == "closed" else _rate(each.arrivals, each.rate),
            words.quantity(each.slice_seconds, "s"),
            words.quantity(each.segment_seconds, "s") if each.segment_seconds else "none",
        )
        for each in study.workloads
    )
    return Table("Workloads", ("workload", "question", "arrivals", "slice", "segment"), rows, (3, 4))


def _rate(arrivals: str, rate: float) -> str:
    return f"open, {arrivals}, " + (f"{words.number(rate)}/s" if rate else "half the slower arm's capacity")


def environment(found: Environment) -> Table:
    """Machine and software."""
    rows = [
        ("machine", found.machine),
        ("processor", found.cpu),
        ("cores", words.count(found.cores)),
        ("memory", words.quantity(found.memory_bytes, "B")),
        ("kernel", found.kernel),
        ("Python", found.python),
        ("revision", found.revision + (", with uncommitted changes" if found.dirty else "")),
        *((name, version) for name, version in sorted(found.packages.items())),
    ]
    return Table("Machine and software", ("what", "value"), tuple(rows))


def run(study: Study, analysis: Analysis, info: RunInfo) -> Table:
    """The run itself."""
    rows = (
        ("run", info.run),
        ("study", study.name),
        ("started", words.moment(info.started)),
        ("ended", words.moment(info.ended)),
        ("took", words.duration(info.ended - info.started)),
        ("under load", words.duration(analysis.seconds_measured)),
        ("bursts", f"{analysis.bursts} complete, {analysis.interrupted} interrupted"),
        ("seed", str(info.seed)),
        ("finished", "yes" if info.complete else "no: interrupted"),
    )
    return Table("Run", ("what", "value"), rows)


def metrics(analysis: Analysis) -> Table:
    """What each metric means."""
    rows = tuple(
        (
            each.noun,
            each.name,
            each.unit,
            f"{each.direction} is better" if each.judged else "descriptive",
            each.definition,
        )
        for each in analysis.metrics
    )
    return Table("Metrics", ("metric", "name in studies", "unit", "direction", "definition"), rows)
