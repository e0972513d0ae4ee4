"""The forest plot: every estimate with its interval on one logarithmic axis of ratios, claimed bounds marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from harness.analyse.records import Analysis, Attribution, ContrastResult, Crossover
from harness.measure.metrics import MetricInfo
from harness.plan.arms import Role
from reports import words
from reports.charts import NARROW, Chart
from reports.svg import CHARACTER, FONT, colour, fitted, linear_ticks, log_ticks, new_axes, new_figure, write

GROUPS: tuple[tuple[str, tuple[Role, ...]], ...] = (
    ("compare", ("treatment", "control", "other")),
    ("without", ("without",)),
    ("single", ("single",)),
    ("step", ("step",)),
    ("aa", ("a/a",)),
)
GROUP_TITLES = {
    "compare": "",
    "without": "all but one optimization, against all",
    "single": "one optimization alone, against none",
    "step": "phases, each against the one before",
    "aa": "equal arms (A/A): should show no difference",
}
SHAPES: dict[words.Sense, tuple[str, str]] = {
    "better": ("better", "o"),
    "worse": ("worse", "D"),
    "unclear": ("unclear", "s"),
    "neutral": ("fg", "o"),
}
"sense -> (colour role, marker)"
FARTHEST = 6.0
"an interval that reaches farther from its estimate than by this factor ends in an arrow"


@dataclass(frozen=True, slots=True)
class Line:
    """One estimate: a ratio with its interval, in words too. `bounds` are claimed ratios as (side, ratio)."""

    label: str
    ratio: float
    low: float
    high: float
    told: str
    sense: words.Sense
    bounds: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """Lines under one heading."""

    heading: str
    remark: str
    lines: tuple[Line, ...]


def blocks(analysis: Analysis, contrasts: Sequence[ContrastResult]) -> tuple[Block, ...]:
    """One block per workload, metric and request, in order of first appearance; estimates only.

    Remarks name the workload, and lines the kind of stretch, only where there is more than one of them.
    """
    shown = [each for each in contrasts if each.estimate is not None]
    places = {each.workload for each in shown}
    grouped: dict[tuple[str, str, str], list[ContrastResult]] = {}
    for each in shown:
        grouped.setdefault((each.workload, each.metric, each.request), []).append(each)
    found = []
    for (workload, metric, request), members in grouped.items():
        info = words.metric_info(analysis, metric)
        name = words.metric_words(analysis, metric, request)
        remark = f"{info.direction} is better" if info.judged else "descriptive"
        remark = f"{words.place(workload)}, {remark}" if len(places) > 1 else remark
        several = len({each.source for each in members}) > 1
        lines = tuple(_line(analysis, each, info, several) for each in members)
        found.append(Block(name, remark, lines))
    return tuple(found)


def _line(analysis: Analysis, contrast: ContrastResult, info: MetricInfo, several: bool) -> Line:
    shown = contrast.estimate
    assert shown is not None
    label = words.contrast_words(contrast)
    return Line(
        label=f"{label}, {words.SOURCES[contrast.source]}" if several else label,
        ratio=shown.ratio,
        low=shown.low,
        high=shown.high,
        told=words.change(shown) if shown.bounded else f"{words.effect(shown)} (not bounded)",
        sense=words.sense(shown, info.direction if info.judged else "neither"),
        bounds=_bounds(analysis, contrast),
    )


def _bounds(analysis: Analysis, contrast: ContrastResult) -> tuple[tuple[str, float], ...]:
    """What the study's expectations claim about this very contrast."""
    return tuple(
        dict.fromkeys(
            (verdict.side, verdict.bound)
            for verdict in analysis.verdicts
            if verdict.contrast is not None and _same(verdict.contrast, contrast)
        )
    )


def _same(one: ContrastResult, other: ContrastResult) -> bool:
    fields = ("a", "b", "workload", "metric", "request", "source")
    return all(getattr(one, field) == getattr(other, field) for field in fields)


def attribution_blocks(attribution: Attribution) -> tuple[Block, ...]:
    """The flags' effects, and their product beside the whole measured separately."""

    def line(label: str, ratio: float, low: float, high: float) -> Line:
        told = f"{words.ratio_words(ratio)} ({words.interval_words(ratio, low, high)})"
        return Line(label, ratio, low, high, told, "neutral")

    flags = tuple(line(each.flag, each.ratio, each.low, each.high) for each in attribution.effects)
    predicted, measured = attribution.predicted, attribution.measured
    whole = [line("all flags multiplied", predicted.ratio, predicted.low, predicted.high)]
    if measured is not None:
        whole.append(line("measured separately", measured.ratio, measured.low, measured.high))
    return (
        Block("each flag", "main effect, on against off", flags),
        Block("together", "every flag on against off", tuple(whole)),
    )


def sweep_blocks(analysis: Analysis, found: Crossover) -> tuple[Block, ...]:
    """The ratio at each value of the parameter, from the smallest to the largest."""
    info = words.metric_info(analysis, found.metric)
    lines = tuple(
        Line(
            label=f"{found.parameter} = {words.round_number(value)}",
            ratio=each.ratio,
            low=each.low,
            high=each.high,
            told=words.change(each) if each.bounded else f"{words.effect(each)} (not bounded)",
            sense=words.sense(each, info.direction),
        )
        for value, each in zip(found.values, found.ratios, strict=True)
    )
    compared = f"{analysis.treatment} against {analysis.baseline}"
    return (Block(compared, f"{info.direction} is better", lines),)


@dataclass(frozen=True, slots=True)
class Frame:
    """What the charts of one kind of comparison share: the axis of ratios, and the widest texts beside it."""

    low: float
    high: float
    label: int
    told: int


def frame(shown: Sequence[Block]) -> Frame:
    """A frame that holds all estimates, bounds and "no change"; far ends of wide intervals are cut."""
    lines = [line for block in shown for line in block.lines]
    lows = [max(line.low, line.ratio / FARTHEST) for line in lines]
    highs = [min(line.high, line.ratio * FARTHEST) for line in lines]
    bounds = [bound for line in lines for _, bound in line.bounds]
    low, high = min([0.97, *lows, *bounds]), max([1.03, *highs, *bounds])
    margin = math.exp(0.05 * math.log(high / low))
    label = max((len(line.label) for line in lines), default=0)
    told = max((len(line.told) for line in lines), default=0)
    return Frame(low / margin, high * margin, label, told)


def forest(shown: Sequence[Block], within: Frame, key: str, title: str) -> Chart | None:
    """The chart of these blocks; None if they hold no estimate."""
    lines = [(block, line) for block in shown for line in block.lines]
    if not lines:
        return None
    description = "; ".join(f"{block.heading}, {line.label}: {line.told}" for block, line in lines)
    return Chart(key, title, description, lambda width: _figure(shown, within, width))


@dataclass(frozen=True, slots=True)
class _Layout:
    """Pixels. Narrow charts have their texts above each interval, in one row or, if that is too tight, in two."""

    left: float
    right: float
    heading: float
    narrow: bool

    def pitch(self, line: Line) -> float:
        """The height of one line of the chart."""
        if not self.narrow:
            return 25.0
        return 60.0 if CHARACTER * (len(line.label) + len(line.told) + 1) > NARROW else 44.0


def _layout(within: Frame, width: float) -> _Layout:
    if width <= NARROW:
        return _Layout(left=20.0, right=20.0, heading=46.0, narrow=True)
    left = min(320.0, max(120.0, CHARACTER * within.label + 22.0))
    return _Layout(left, min(270.0, CHARACTER * within.told + 10.0), heading=36.0, narrow=False)


def _figure(shown: Sequence[Block], within: Frame, width: float) -> Figure:
    layout = _layout(within, width)
    top, foot = 6.0, 44.0
    height = top + foot + sum(layout.heading + sum(layout.pitch(line) for line in block.lines) for block in shown)
    figure = new_figure(width, height)
    axes = new_axes(figure, layout.left, top, layout.right, foot)
    axes.set_xscale("log")
    axes.set_xlim(within.low, within.high)
    axes.set_ylim(height - foot, top)
    axes.set_yticks([])
    ticks = ratio_ticks(within.low, within.high, 5 if layout.narrow else 9)
    axes.set_xticks(ticks, [words.round_number(each) for each in ticks])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    if not layout.narrow:
        axes.grid(True, axis="x", color=colour("line"), linewidth=1.0)
        axes.axvline(1.0, color=colour("muted"), linewidth=1.4)
    y, placed = top, list[tuple[Line, float]]()
    for block in shown:
        _heading(figure, block, y, layout)
        y += layout.heading
        for line in block.lines:
            _texts(figure, line, y, layout)
            placed.append((line, y + (layout.pitch(line) - 12.0 if layout.narrow else 12.5)))
            y += layout.pitch(line)
    if layout.narrow:
        _rules(axes, ticks, [height for _, height in placed])
    _marks(axes, placed)
    caption = "ratio, log scale; 1 = no change" + ("" if layout.narrow else ", left of it less, right of it more")
    write(figure, 0.0 if layout.narrow else layout.left, height - 6.0, caption, "muted", size=FONT - 1.0)
    return figure


def ratio_ticks(low: float, high: float, at_most: int) -> tuple[float, ...]:
    """Ticks of an axis of ratios; 1 is always among them."""
    ticks = linear_ticks(low, high, at_most) if high / low < 2.0 else log_ticks(low, high, at_most)
    near = 0.06 * math.log(high / low)
    return tuple(sorted({1.0, *(each for each in ticks if each > 0 and abs(math.log(each)) > near)}))


def _heading(figure: Figure, block: Block, y: float, layout: _Layout) -> None:
    right = 72.0 * figure.get_size_inches()[0]
    room = 0.9 * (right if layout.narrow else right - CHARACTER * len(block.remark))
    write(figure, 0.0, y + 24.0, fitted(block.heading, room), weight="bold")
    if layout.narrow:
        write(figure, 0.0, y + 41.0, fitted(block.remark, right), "muted", size=FONT - 1.0)
    else:
        write(figure, right, y + 24.0, block.remark, "muted", size=FONT - 1.0, ha="right")


def _texts(figure: Figure, line: Line, y: float, layout: _Layout) -> None:
    right = 72.0 * figure.get_size_inches()[0]
    pitch = layout.pitch(line)
    baseline = y + 18.0 if layout.narrow else y + 17.0
    room = layout.left - 12.0
    if layout.narrow:
        room = right if pitch > 44.0 else right - CHARACTER * (len(line.told) + 1)
    write(figure, 0.0 if layout.narrow else 10.0, baseline, fitted(line.label, room))
    if pitch > 44.0:
        write(figure, 0.0, baseline + 17.0, line.told)
    else:
        write(figure, right, baseline, line.told, ha="right")


def _rules(axes: Axes, ticks: Sequence[float], heights: Sequence[float]) -> None:
    """The lines of the axis, at the height of the intervals alone: the texts stand between them."""
    rules = [[(each, y - 9.0), (each, y + 9.0)] for each in ticks for y in heights]
    roles = [colour("muted" if each == 1.0 else "line") for each in ticks for _ in heights]
    axes.add_collection(LineCollection(rules, colors=roles, linewidths=1.2, zorder=1), autolim=False)


def _marks(axes: Axes, placed: Sequence[tuple[Line, float]]) -> None:
    """Claims, intervals and estimates of lines at these heights; few artists for all of them, as each takes time."""
    low, high = axes.get_xlim()
    claims = [_claim(axes, side, bound, y) for line, y in placed for side, bound in line.bounds]
    axes.add_collection(
        LineCollection(claims, colors=colour("claim"), linewidths=2.0, joinstyle="miter", zorder=2), autolim=False
    )
    intervals = [[(max(line.low, low), y), (min(line.high, high), y)] for line, y in placed]
    roles = [colour(SHAPES[line.sense][0]) for line, _ in placed]
    axes.add_collection(
        LineCollection(intervals, colors=roles, linewidths=2.4, capstyle="butt", zorder=2), autolim=False
    )
    for sense, (role, marker) in SHAPES.items():
        lines = [(line, y) for line, y in placed if line.sense == sense]
        for end, arrow, cut in (
            (low, "<", [y for line, y in lines if line.low < low]),
            (high, ">", [y for line, y in lines if line.high > high]),
        ):
            if cut:
                axes.plot([end] * len(cut), cut, arrow, color=colour(role), markersize=7, clip_on=False)
        if lines:
            axes.plot(
                [line.ratio for line, _ in lines],
                [y for _, y in lines],
                marker,
                color=colour("page") if sense == "unclear" else colour(role),
                markeredgecolor=colour(role),
                markeredgewidth=1.8,
                markersize=7.0,
            )


def _claim(axes: Axes, side: str, bound: float, y: float) -> list[tuple[float, float]]:
    """A bracket at the claimed ratio, open towards the side that was claimed."""
    low, high = axes.get_xlim()
    end = bound * (high / low) ** (0.012 if side == "at_least" else -0.012)
    return [(end, y - 9.0), (bound, y - 9.0), (bound, y + 9.0), (end, y + 9.0)]
