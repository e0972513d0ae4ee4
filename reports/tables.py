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
    Crossover,
    LatencyCurve,
    Verdict,
)
from reports import words
from reports.charts import burst_medians

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


def stepped_down(analysis: Analysis) -> tuple[str, ...]:
    """Why a verdict is decided although the interval beside it contains the bound: a sentence for each such verdict."""
    decided = [each for each in analysis.verdicts if each.outcome in ("MET", "MISSED") and analysis.valid]
    return tuple(
        f"{each.expectation} against {each.against}: {each.outcome} though its interval contains the bound. Intervals "
        f"allow for all verdicts at once, Holm's step-down only for the open ones (adjusted p = {each.adjusted_p:.2g})."
        for each in decided
        if each.contrast is not None
        and each.contrast.estimate is not None
        and each.contrast.estimate.low <= each.bound <= each.contrast.estimate.high
    )


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
    return Table("Verdicts", headings, rows, (5,))


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
    """Percentiles of latency (from the intended start); where it differs, of service time (from the send)."""
    reached = max((each.percentiles[-1] for each in curves), default=0.0)
    shown = [each for each in SHOWN_PERCENTILES if each <= reached]
    rows = []
    for each in curves:
        waits = each.service_seconds != each.seconds
        times = [("latency", each.seconds), *([("service time", each.service_seconds)] if waits else [])]
        for what, values in times:
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
            each.workload or "slices",
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
    headings = ("gauge", "workload", "arm", "end", "first burst", "median", "last burst", "bursts")
    return Table("The target's and the dialer's own gauges, at the end of each burst", headings, rows, (4, 5, 6, 7))


def leaks(analysis: Analysis) -> Table:
    """How memory grows within episodes."""
    rows = tuple(
        (
            each.workload,
            each.arm,
            each.end,
            words.quantity(each.slope, "B"),
            f"{words.quantity(each.low, 'B')}{words.EN_DASH}{words.quantity(each.high, 'B')}"
            if each.low is not None and each.high is not None
            else f"not bounded: {each.episodes} episodes are too few",
            words.count(each.episodes),
        )
        for each in analysis.leaks
    )
    headings = ("workload", "arm", "end", "per 1,000 requests", "interval", "episodes")
    return Table("Growth of memory (USS) within episodes, start-up left out", headings, rows, (3, 4, 5))


def tails(analysis: Analysis) -> Table:
    """Which arm has more slow requests, from segments: shares beyond a threshold fixed before them."""
    rows = tuple(
        (
            f"{each.workload}: {each.request}",
            f"{each.b} against {each.a}",
            f"p{each.percentile:g} = {words.quantity(each.threshold, 's')}",
            f"{words.number(100.0 * each.share_a)}{words.THIN}%",
            f"{words.number(100.0 * each.share_b)}{words.THIN}%",
            words.change(each.estimate) if each.estimate is not None else "no pair of segments",
            f"{each.p_value:.2g}",
            ", ".join(f"{count} {reason}" for reason, count in each.reasons.items()),
        )
        for each in analysis.tails
    )
    headings = (
        "requests",
        "compared",
        "beyond",
        "before",
        "after",
        "change (interval)",
        "p of no difference",
        "left out",
    )
    return Table(
        "Tails: share of requests slower than a threshold fixed before the segments", headings, rows, (3, 4, 5, 6)
    )


def findings(analysis: Analysis) -> Sequence[Table]:
    """What a design of its own kind answers, the answer as caption: which flag pays, from where on, whose tails."""
    found = []
    for flags in analysis.attributions:
        subject = f"{words.metric_words(analysis, flags.metric, flags.request)} on {words.place(flags.workload)}"
        found.append(attribution(flags, f"Which flag pays, {subject}: {words.closure(flags)}"))
    for swept in analysis.crossovers:
        direction = words.metric_info(analysis, swept.metric).direction
        subject = f"{words.metric_words(analysis, swept.metric, swept.request)} on {swept.workload}"
        found.append(sweep(swept, f"{subject}: {words.crossover_words(swept, direction)}"))
    return (*found, tails(analysis)) if analysis.tails else found


def sweep(found: Crossover, caption: str) -> Table:
    """The ratio at each value of a sweep's parameter."""
    rows = tuple(
        (
            words.round_number(value),
            words.change(each),
            f"{words.number(each.ratio)} ({words.number(each.low)}{words.EN_DASH}{words.number(each.high)})",
            f"{each.bursts} / {words.count(each.pairs)}",
        )
        for value, each in zip(found.values, found.ratios, strict=True)
    )
    return Table(caption, (found.parameter, "change (interval)", "ratio (interval)", "bursts / pairs"), rows, (1, 2, 3))


def attribution(found: Attribution, caption: str = "") -> Table:
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
    counted = f"{found.bursts} bursts, {found.pairs} fold-over pairs"
    caption = f"{caption} ({counted})" if caption else counted
    return Table(caption, ("optimization", "change (interval)", "ratio (interval)"), tuple(rows), (1, 2))
