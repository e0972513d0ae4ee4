"""Memory over the time of an episode, arm by arm: what a leak looks like, and what is only start-up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from harness.analyse.records import Analysis, MemoryTrace
from reports import words
from reports.charts import DASHES, OTHER_DASH, Chart, arm_roles, framed, grid, main_arms, seconds_axis
from reports.svg import colour, linear_ticks
from reports.tables import Table

Place = tuple[str, str]
"workload, end"


def places(analysis: Analysis) -> tuple[Place, ...]:
    """What was watched, in the order of the analysis."""
    return tuple(dict.fromkeys((each.workload, each.end) for each in analysis.traces))


def chart(analysis: Analysis, place: Place, key: str) -> Chart | None:
    """One line per main arm: seconds since the episode's opening, USS beyond the process idle at ready."""
    measured = {each.arm: each for each in _at(analysis, place)}
    traces = [measured[name] for name in main_arms(analysis, measured)]
    if not traces:
        return None
    roles = arm_roles(analysis)
    description = "Added at the end: " + "; ".join(
        f"{each.arm} {words.quantity(each.added[-1], 'B')}" for each in traces
    )
    return Chart(key, title(place), description, lambda width: _figure(traces, roles, width))


def table(analysis: Analysis, place: Place) -> Table:
    """First, middle and last moment of each arm."""
    rows = tuple((each.arm, *_moments(each), words.count(each.episodes)) for each in _at(analysis, place))
    headings = ("arm", "first moment", "middle", "last moment", "episodes")
    return Table(f"Memory (USS) added: {title(place)}, median over episodes", headings, rows, (1, 2, 3, 4))


def title(place: Place) -> str:
    """What a chart or table is about."""
    workload, end = place
    return f"{workload}: memory of the {end} within an episode"


def _at(analysis: Analysis, place: Place) -> tuple[MemoryTrace, ...]:
    return tuple(each for each in analysis.traces if (each.workload, each.end) == place)


def _moments(trace: MemoryTrace) -> Iterator[str]:
    for index in (0, (len(trace.added) - 1) // 2, -1):
        yield f"{words.quantity(trace.added[index], 'B')} at {words.quantity(trace.seconds[index], 's')}"


def _figure(traces: Sequence[MemoryTrace], roles: dict[str, str], width: float) -> Figure:
    size, unit = (1 << 20, "MiB") if max(max(each.added) for each in traces) > 2 << 20 else (1 << 10, "KiB")
    over, under = f"USS added since ready, {unit}", "seconds since the episode began"
    figure, axes = framed([each.arm for each in traces], roles, (width, 210.0), over, under)
    low = min(0.0, *(min(each.added) for each in traces)) / size
    high = max(max(each.added) for each in traces) / size
    room = 0.05 * ((high - low) or 1.0)
    end = max(each.seconds[-1] for each in traces)
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(0.0, 1.01 * end)
    ticks = linear_ticks(low, high + room, 6)
    axes.set_yticks(ticks, [words.round_number(tick) for tick in ticks])
    seconds_axis(axes, end, width)
    grid(axes, "y")
    for each in traces:
        role, added = roles[each.arm], [held / size for held in each.added]
        axes.plot(each.seconds, added, color=colour(role), linewidth=1.8, linestyle=DASHES.get(role, OTHER_DASH))
    return figure
