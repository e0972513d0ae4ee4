"""The charts of a report, each drawn twice: wide for a desk, narrow for a phone; the style sheet shows one.

All are pure functions of the analysis. What a colour says is also said by a shape, a dash or a word.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import cached_property
from multiprocessing import get_all_start_methods, get_context
from typing import Any, Literal

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analyse.records import Analysis, LatencyCurve, SeriesPoint, ThroughputSeries
from harness.lifeline import die_with_parent
from harness.measure.metrics import Source
from reports import words
from reports.svg import (
    CHARACTER,
    FONT,
    colour,
    drawing,
    fitted,
    inline,
    linear_ticks,
    log_ticks,
    new_axes,
    new_figure,
    write,
)

Dash = Any
"(offset, lengths of strokes and gaps in line widths, or None)"
WIDE, NARROW = 860.0, 340.0
LEFT, RIGHT = 62.0, 24.0
"margins of axes"
WORTH_FORKING = 8
"charts: fewer are drawn before children have started"
HUES = 5
"arms beside baseline, controls and treatment that can be told apart; of more, curves show none, and tables all"
SOLID: Dash = (0.0, None)
DASHES: dict[str, Dash] = {"arm-baseline": (0.0, (10.0, 2.5)), "arm-control": (0.0, (6.0, 2.0)), "arm-treatment": SOLID}
OTHER_DASH: Dash = (0.0, (2.0, 1.5))
DOTTED: Dash = (0.0, (1.0, 2.0))
LEGEND_ROW = 20.0
"pixels"
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 0.0, 95.0, 75.0)
"that an axis of nines names, as far as there is room: the first ones first"


class Chart:
    """One chart in both widths, as safe markup: drawn when it is first looked at, or before by `draw_together`.

    `key` must be unique within a page; `figure` makes the figure of a width in pixels.
    """

    def __init__(self, key: str, title: str, description: str, figure: Callable[[float], Figure]) -> None:
        self._key = key
        self._names = title, description
        self._figure = figure

    @cached_property
    def wide(self) -> Markup:
        """For a desk."""
        return self._drawn(WIDE, "w")

    @cached_property
    def narrow(self) -> Markup:
        """For a phone."""
        return self._drawn(NARROW, "n")

    def _drawn(self, width: float, suffix: str) -> Markup:
        key = self._key + suffix
        with drawing(key):
            return inline(self._figure(width), key, *self._names)


_together: list[Chart] = []
"what forked children draw: they have it from their parent"


def draw_together(charts: Sequence[Chart]) -> None:
    """Draw these on all cores, as most of the time of a report goes into them.

    What could not be, because there is no fork or a child died of it, is drawn when it is looked at.
    """
    if "fork" not in get_all_start_methods() or len(charts) < WORTH_FORKING:
        return
    _together[:] = charts
    as_child = _as_child, (os.getpid(),)
    try:
        with suppress(BrokenProcessPool), ProcessPoolExecutor(os.cpu_count(), get_context("fork"), *as_child) as pool:
            for chart, (wide, narrow) in zip(charts, pool.map(_both, range(len(charts))), strict=True):
                chart.wide, chart.narrow = wide, narrow
    finally:
        _together.clear()


def _as_child(parent: int) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent, which then ends its children
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # and so ends them, whatever the parent does at one


def _both(index: int) -> tuple[Markup, Markup]:
    return _together[index].wide, _together[index].narrow


def arm_roles(analysis: Analysis) -> dict[str, str]:
    """The colour role of every arm, the same in all charts."""
    roles = dict.fromkeys(analysis.controls, "arm-control")
    roles |= {analysis.baseline: "arm-baseline", analysis.treatment: "arm-treatment"}
    others = [name for name in analysis.arms if name not in roles]
    return roles | {name: f"arm-{index % HUES + 1}" for index, name in enumerate(others)}


def main_arms(analysis: Analysis, there: Collection[str]) -> tuple[str, ...]:
    """Which of the arms that were measured `there` a chart shows, in the order of the analysis."""
    found = tuple(name for name in analysis.arms if name in there)
    main = {analysis.baseline, *analysis.controls, analysis.treatment}
    if sum(name not in main for name in found) <= HUES:
        return found
    return tuple(name for name in found if name in main)


def _legend_places(names: Sequence[str], width: float) -> list[tuple[float, int]]:
    """Where each name begins: pixels from the left, and its row."""
    x, row, places = 0.0, 0, list[tuple[float, int]]()
    for name in names:
        needed = 48.0 + CHARACTER * len(name)
        if x and x + needed > width:
            x, row = 0.0, row + 1
        places.append((x, row))
        x += needed
    return places


def _legend(figure: Figure, names: Sequence[str], roles: dict[str, str], y: float) -> None:
    """Names with their line style in rows from pixel `y` on."""
    width = 72.0 * figure.get_size_inches()[0]
    for name, (x, row) in zip(names, _legend_places(names, width), strict=True):
        baseline = y + LEGEND_ROW * row
        _stroke(figure, (x, x + 26.0), baseline - 4.5, roles[name])
        write(figure, x + 33.0, baseline, fitted(name, width - 34.0))


def _stroke(figure: Figure, xs: tuple[float, float], y: float, role: str) -> None:
    width, height = (72.0 * side for side in figure.get_size_inches())
    line = matplotlib.lines.Line2D(
        [x / width for x in xs],
        [1.0 - y / height] * 2,
        transform=figure.transFigure,
        color=colour(role),
        linewidth=2.2,
        linestyle=DASHES.get(role, OTHER_DASH),
    )
    figure.add_artist(line)


def grid(axes: Axes, which: Literal["x", "y", "both"]) -> None:
    """Light lines behind what is drawn."""
    axes.grid(True, axis=which, which="major", color=colour("line"), linewidth=1.0)


def framed(
    names: Sequence[str], roles: dict[str, str], size: tuple[float, float], over: str, under: str
) -> tuple[Figure, Axes]:
    """A figure `size` pixels wide and, below its legend of arms, high; bare axes with words over and under them."""
    width, height = size
    _, last_row = _legend_places(names, width)[-1]
    top = 34.0 + LEGEND_ROW * (last_row + 1)
    figure = new_figure(width, height + top)
    _legend(figure, names, roles, 14.0)
    write(figure, 0.0, top - 12.0, over, "muted", size=FONT - 1.0)
    write(figure, LEFT, height + top - 8.0, under, "muted", size=FONT - 1.0)
    return figure, new_axes(figure, LEFT, top, RIGHT, 46.0)


def seconds_axis(axes: Axes, end: float, width: float) -> None:
    """Round seconds up to `end` below the axes."""
    ticks = linear_ticks(0.0, end, 7 if width > NARROW else 5)
    axes.set_xticks(ticks, [words.round_number(tick) for tick in ticks])


def percentiles(analysis: Analysis, workload: str, request: str, source: Source, key: str) -> Chart | None:
    """Latency over percentiles of the main arms: x in nines, y logarithmic. None if nothing was answered."""
    measured = {
        each.arm: each
        for each in analysis.curves
        if (each.workload, each.request, each.source) == (workload, request, source)
    }
    curves = [measured[name] for name in main_arms(analysis, measured)]
    if not curves:
        return None
    title = f"Latency of {request} on {workload}, by percentile"
    description = "Median: " + "; ".join(f"{each.arm} {_median_words(each)}" for each in curves)
    roles = arm_roles(analysis)
    return Chart(key, title, description, lambda width: _percentile_figure(curves, roles, width))


def _median_words(curve: LatencyCurve) -> str:
    if curve.percentiles[-1] < 50.0:  # fewer were answered
        return "not resolved"
    return words.quantity(float(np.interp(50.0, curve.percentiles, curve.seconds)), "s")


def _nines(percentile: float) -> float:
    return -math.log10(1.0 - min(percentile, 99.9999) / 100.0)


def _percentile_label(percentile: float) -> str:
    return f"{percentile:g}{words.THIN}%"


def _percentile_ticks(last: float, pixels: float) -> list[float]:
    """Those of PERCENTILES up to `last` whose labels do not touch, where a nine is that many pixels wide."""
    ticks: list[float] = []
    for each in PERCENTILES:
        room = [CHARACTER * (len(_percentile_label(each) + _percentile_label(other)) / 2 + 1) for other in ticks]
        gaps = [pixels * abs(_nines(each) - _nines(other)) for other in ticks]
        if each <= last and all(gap >= needed for gap, needed in zip(gaps, room, strict=True)):
            ticks.append(each)
    return ticks


def _percentile_figure(curves: Sequence[LatencyCurve], roles: dict[str, str], width: float) -> Figure:
    over, under = "latency (log scale)", "share of requests at most this slow"
    figure, axes = framed([each.arm for each in curves], roles, (width, 290.0), over, under)
    low = min(min(each.service_seconds if _differs(each) else each.seconds) for each in curves) / 1.15
    high = max(max(each.seconds) for each in curves) * 1.15
    last = max(each.percentiles[-1] for each in curves)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_xlim(0.0, _nines(last) * 1.02)
    axes.set_yticks(log_ticks(low, high), minor=False)
    axes.yaxis.set_major_formatter(lambda value, _: words.quantity(value, "s", words.round_number))
    axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    ticks = _percentile_ticks(last, (width - LEFT - RIGHT) / (_nines(last) * 1.02))
    axes.set_xticks([_nines(each) for each in ticks], [_percentile_label(each) for each in ticks])
    grid(axes, "both")
    for each in curves:
        role = roles[each.arm]
        x = [_nines(percentile) for percentile in each.percentiles]
        style: dict[str, Any] = {"color": colour(role), "solid_capstyle": "round"}
        axes.plot(x, each.seconds, linewidth=2.2, linestyle=DASHES.get(role, OTHER_DASH), **style)
        if _differs(each):
            axes.plot(x, each.service_seconds, linewidth=1.2, linestyle=DOTTED, **style)
    return figure


def _differs(curve: LatencyCurve) -> bool:
    """Whether waiting before the send is visible: then the service time is drawn, dotted."""
    ratios = np.asarray(curve.seconds) / np.maximum(1e-12, curve.service_seconds)
    return bool(ratios.max() > 1.05)


def throughput(analysis: Analysis, workload: str, key: str) -> Chart | None:
    """Requests per second of the main arms over the time of the run; None without any slice."""
    measured = {each.arm: each for each in analysis.throughput if each.workload == workload and each.points}
    series = [measured[name] for name in main_arms(analysis, measured)]
    if not series:
        return None
    title = f"Throughput on {workload} over the run"
    description = "First and last burst: " + "; ".join(_first_and_last(each) for each in series)
    roles = arm_roles(analysis)
    return Chart(key, title, description, lambda width: _throughput_figure(series, roles, width))


def burst_medians(series: ThroughputSeries) -> list[tuple[float, float]]:
    """(time, requests per second) of each burst: medians over its slices."""
    bursts = dict.fromkeys(point.burst for point in series.points)
    groups = [[point for point in series.points if point.burst == burst] for burst in bursts]
    return [(_median([p.at for p in each]), _median([p.value for p in each])) for each in groups]


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _first_and_last(series: ThroughputSeries) -> str:
    middles = burst_medians(series)
    first, last = (words.number(value) for _, value in (middles[0], middles[-1]))
    return f"{series.arm} {first} and {last} requests/s"


def _throughput_figure(series: Sequence[ThroughputSeries], roles: dict[str, str], width: float) -> Figure:
    over, under = "requests/s (log scale)", "seconds since the first slice"
    figure, axes = framed([each.arm for each in series], roles, (width, 250.0), over, under)
    values = [point.value for each in series for point in each.points if point.value > 0.0] or [1.0]
    low, high = min(values) / 1.3, max(values) * 1.3
    end = max(point.at for each in series for point in each.points)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_xlim(-0.01 * end, 1.01 * end or 1.0)
    axes.set_yticks(log_ticks(low, high))
    axes.yaxis.set_major_formatter(lambda value, _: words.round_number(value))
    axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    seconds_axis(axes, end or 1.0, width)
    grid(axes, "y")
    for each in series:
        _draw_series(axes, each, roles[each.arm], low)
    return figure


def _draw_series(axes: Axes, series: ThroughputSeries, role: str, floor: float) -> None:
    xs, ys = _broken_at_bursts(series.points, floor)
    axes.plot(xs, ys, color=colour(role), linewidth=1.0, alpha=0.45)
    middles = [(at, max(value, floor)) for at, value in burst_medians(series)]
    axes.plot(
        *zip(*middles, strict=True),
        color=colour(role),
        linewidth=1.4,
        linestyle=DASHES.get(role, OTHER_DASH),
        marker="o",
        markersize=4.5,
        markeredgewidth=0,
    )
    silent = [point.at for point in series.points if point.value <= 0.0]
    if silent:
        axes.plot(silent, [floor] * len(silent), "x", color=colour("worse"), markersize=7, clip_on=False)


def _broken_at_bursts(points: Sequence[SeriesPoint], floor: float) -> tuple[list[float], list[float]]:
    xs: list[float] = []
    ys: list[float] = []
    before = None
    for point in points:
        if before not in (None, point.burst):
            xs.append(math.nan)
            ys.append(math.nan)
        xs.append(point.at)
        ys.append(max(point.value, floor))
        before = point.burst
    return xs, ys
