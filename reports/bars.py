"""Stacked bars: what each end pays per request in CPU time, and in memory for the same work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from harness.analyse.records import Analysis, CpuShare, MemoryRow
from reports import words
from reports.charts import Chart
from reports.svg import CHARACTER, FONT, colour, fitted, new_axes, new_figure, write


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: parts from left to right as (colour role, value), and the words at its end."""

    label: str
    parts: tuple[tuple[str, float], ...]
    words: str


def cpu(analysis: Analysis, workload: str, key: str) -> Chart | None:
    """CPU time per answered request, stacked by end; None if nothing was answered."""
    rows = [each for each in analysis.cpu if each.workload == workload and math.isfinite(each.target_seconds)]
    if not rows:
        return None
    bars = [_cpu_bar(each) for each in rows]
    description = "; ".join(f"{each.label}: {each.words}" for each in bars)
    title = f"CPU time per request on {workload}, by end"
    return Chart(key, title, description, lambda width: _bars(bars, ("target", "load"), width))


def _cpu_bar(row: CpuShare) -> Bar:
    total = row.target_seconds + row.load_seconds
    share = f"{100.0 * row.target_seconds / total:.0f}{words.THIN}% target" if total > 0.0 else "none"
    parts = (("target", row.target_seconds), ("load", row.load_seconds))
    return Bar(row.arm, parts, f"{words.quantity(total, 's')}, {share}")


def memory(analysis: Analysis, key: str) -> Chart | None:
    """Memory that the same work added to each end; None without readings."""
    if not analysis.memory:
        return None
    bars = [_memory_bar(each) for each in analysis.memory]
    description = "; ".join(f"{each.label}: {each.words}" for each in bars)
    title = "Memory added by the same work, by end"
    return Chart(key, title, description, lambda width: _bars(bars, ("target", "load"), width))


def _memory_bar(row: MemoryRow) -> Bar:
    parts = (("target", max(0.0, row.target_increase)), ("load", max(0.0, row.load_increase)))
    ends = (words.quantity(row.target_increase, "B"), words.quantity(row.load_increase, "B"))
    return Bar(row.arm, parts, f"{ends[0]} + {ends[1]}")


def _bars(bars: Sequence[Bar], ends: tuple[str, str], width: float) -> Figure:
    """Horizontal stacked bars, label and words on the line above each bar, so that any width will do."""
    top, pitch = 34.0, 46.0
    height = top + pitch * len(bars)
    figure = new_figure(width, height)
    x = 0.0
    for name in ends:
        write(figure, x, 14.0, "\u25a0", name, size=FONT + 2.0)
        write(figure, x + 18.0, 14.0, name)
        x += 40.0 + CHARACTER * len(name)
    axes = new_axes(figure, 0.0, top, 0.0, 0.0)
    axes.set_ylim(height - top, 0.0)
    longest = max(sum(value for _, value in each.parts) for each in bars)
    axes.set_xlim(0.0, longest or 1.0)
    axes.set_xticks([])
    axes.set_yticks([])
    for index, each in enumerate(bars):
        y = top + pitch * index
        room = 0.9 * (width - CHARACTER * len(each.words))
        write(figure, 0.0, y + 14.0, fitted(each.label, room), weight="bold")
        write(figure, width, y + 14.0, each.words, ha="right")
        left = 0.0
        for role, value in each.parts:
            axes.barh(y - top + 28.0, value, 14.0, left=left, color=colour(role), linewidth=0)
            left += value
    return figure
