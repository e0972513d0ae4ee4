"""The micro suite in words: tables for terminal and page, one forest chart a room, summary.json.

Ratios come first, since they travel between machines; the values beside them are this machine's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from harness.analyse.micro import ON, CaseResult, GoalResult, Room, savings
from harness.analyse.records import Estimate
from harness.measure.records import Environment
from reports import forest, words
from reports.html import TEMPLATES
from reports.tables import Table
from reports.terminal import STYLES

SCHEMA = "synapsed-bench/micro/1"


@dataclass(frozen=True, slots=True)
class About:
    """The run around the results."""

    run: str
    command: str
    started: float
    seed: int
    threads: int
    peers: bool


@dataclass(frozen=True, slots=True)
class Section:
    """One room of the page."""

    room: str
    about: str
    chart: Any
    table: Table


def spelled(value: float, unit: str) -> str:
    """Seconds down to nanoseconds, or whole bytes: what one operation costs."""
    if unit == "byte":
        return f"{words.count(value)}{words.THIN}B"
    return f"{words.number(value * 1e9)}{words.THIN}ns" if value < 1e-6 else words.quantity(value, "s")


def ratio_words(shown: Estimate | None) -> str:
    """A ratio with its interval: "x 0.16 (0.15-0.17)"."""
    if shown is None:
        return words.ABSENT
    if shown.bursts == 1:
        ends = "one round"
    else:
        ends = f"{words.number(shown.low)}{words.EN_DASH}{words.number(shown.high)}" if shown.bounded else "not bounded"
    return f"\u00d7{words.THIN}{words.number(shown.ratio)} ({ends})"


def times(results: Iterable[CaseResult]) -> Table:
    """Every timed case: what on costs, against off and against each peer."""
    return _table("Time of one operation", results, "second")


def memory(results: Iterable[CaseResult]) -> Table:
    """Every case that counts bytes."""
    return _table("Memory of one thing", results, "byte")


def _table(caption: str, results: Iterable[CaseResult], unit: str) -> Table:
    rows: list[tuple[str, ...]] = []
    for each in results:
        if each.unit != unit:
            continue
        ratios = {one.against: one.estimate for one in each.ratios}
        name = f"{each.room}: {each.case}"
        for cell in sorted(each.cells, key=lambda one: one.variant != ON):
            told = "" if cell.variant == ON else ratio_words(ratios.get(cell.variant))
            rows.append((name, cell.variant, spelled(cell.value, unit), told, str(cell.workers)))
            name = ""
    return Table(caption, ("case", "variant", "median", "on against it", "workers"), tuple(rows), (2, 3, 4))


def goals(results: Iterable[CaseResult]) -> Table:
    """Every goal with its verdict."""
    rows = tuple(
        (f"{each.room}: {each.case}", one.outcome, _measured(each, one), _goal_words(each, one))
        for each in results
        for one in each.goals
    )
    return Table("Goals", ("case", "verdict", "measured", "goal"), rows)


def _goal_words(result: CaseResult, shown: GoalResult) -> str:
    goal = shown.goal
    if goal.of == "page_faults":
        return f"at most {words.round_number(goal.bound)} page faults an operation"
    if not goal.against:
        return f"at most {spelled(goal.bound, result.unit)}"
    where = f" ({goal.case})" if goal.case else ""
    said = f"at most \u00d7{words.THIN}{words.number(goal.bound)} of {goal.against}{where}"
    return f"{said}: {goal.why}" if goal.why else said


def _measured(result: CaseResult, shown: GoalResult) -> str:
    if math.isnan(shown.value):
        return words.ABSENT
    sign = f"\u00d7{words.THIN}" if shown.goal.against else ""

    def spell(value: float) -> str:
        plain = shown.goal.against or shown.goal.of == "page_faults"
        return words.number(value) if plain else spelled(value, result.unit)

    if shown.low == shown.high:
        return f"{sign}{spell(shown.value)}"
    if not math.isfinite(shown.high):
        return f"{sign}{spell(shown.value)} (not bounded)"
    return f"{sign}{spell(shown.value)} ({spell(shown.low)}{words.EN_DASH}{spell(shown.high)})"


def allocation(results: Iterable[CaseResult]) -> Table:
    """Allocation overhead: what on saves against off per message."""
    rows = []
    for each in savings(results):
        share = 100.0 * each.cpu_saved / each.cpu_off if each.cpu_off else math.nan
        cpu = (spelled(each.cpu_off, "second"), spelled(each.cpu_on, "second"))
        saved = f"{words.number(each.cpu_saved * 1e9)}{words.THIN}ns ({words.number(share, 1)}{words.THIN}%)"
        faults = (words.number(each.faults_off, 2), words.number(each.faults_on, 2))
        rows.append((each.case, *cpu, saved, *faults))
    headings = ("message", "CPU off", "CPU on", "saved by on", "page faults off", "page faults on")
    return Table("Allocation overhead of one message", headings, tuple(rows), (1, 2, 3, 4, 5))


def all_tables(results: Sequence[CaseResult]) -> list[Table]:
    """The tables that hold anything, in reading order."""
    return [each for each in (goals(results), times(results), memory(results), allocation(results)) if each.rows]


def terminal(results: Sequence[CaseResult]) -> RenderableType:
    """What the command line shows, within 80 columns: details first, verdicts last."""
    tables = all_tables(results)
    nested = [_nested(each) for each in (*tables[1:], *tables[:1]) if each.headings[0] == "case"]
    return Group(*nested, *(_grid(each) for each in tables if each.headings[0] != "case"))


def _nested(table: Table) -> Grid:
    """The first column becomes a line of its own above the rows it names."""
    grid = _empty(table.caption, table.headings[1:], tuple(index - 1 for index in table.numbers))
    for name, first, *more in table.rows:
        if name:
            grid.add_row(Text(name, style="bold"), *("" for _ in more))
        grid.add_row(Text(f"  {first}", style=STYLES.get(first, "")), *map(Text, more))
    return grid


def _grid(table: Table) -> Grid:
    grid = _empty(table.caption, table.headings, table.numbers)
    for row in table.rows:
        grid.add_row(*map(Text, row))
    return grid


def _empty(caption: str, headings: Sequence[str], numbers: Sequence[int]) -> Grid:
    grid = Grid(title=caption, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, heading in enumerate(headings):
        grid.add_column(heading, justify="right" if index in numbers else "left", overflow="fold")
    return grid


def blocks(results: Iterable[CaseResult]) -> tuple[forest.Block, ...]:
    """One block per case: on against every other variant, goals marked."""
    found = []
    for each in results:
        lines = tuple(
            forest.Line(
                label=f"against {one.against}",
                ratio=one.estimate.ratio,
                low=one.estimate.low,
                high=one.estimate.high,
                told=ratio_words(one.estimate),
                sense=words.sense(one.estimate, "lower"),
                bounds=tuple(
                    ("at_most", goal.goal.bound)
                    for goal in each.goals
                    if goal.goal.against == one.against and not goal.goal.case
                ),
            )
            for one in each.ratios
            if one.estimate is not None
        )
        if lines:
            found.append(forest.Block(each.case, "lower is better", lines))
    return tuple(found)


def sections(results: Sequence[CaseResult], rooms: Iterable[Room]) -> list[Section]:
    """The page's rooms, each with its chart."""
    found = []
    for room in rooms:
        own = [each for each in results if each.room == room.room]
        shown = blocks(own)
        chart = forest.forest(shown, forest.frame(shown), f"micro-{room.room}", f"{room.room}: on against the others")
        rows = [row for each in (times(own), memory(own)) for row in each.rows]
        table = Table(f"{room.room}, one operation or thing", times(own).headings, tuple(rows), times(own).numbers)
        if own:
            found.append(Section(room.room, room.about.strip(), chart, table))
    return found


def page(results: Sequence[CaseResult], rooms: Sequence[Room], environment: Environment, about: About) -> str:
    """report.html of a micro run: one self-contained page."""
    text = TEMPLATES.get_template("micro.html.j2").render(
        about=about,
        day=words.moment(about.started),
        environment=environment,
        goals=goals(results),
        sections=sections(results, rooms),
        allocation=allocation(results),
        missing=sorted({name for room in rooms for name in room.missing}) if about.peers else [],
    )
    return text.rstrip() + "\n"


def summary(results: Sequence[CaseResult], rooms: Sequence[Room], environment: Environment, about: About) -> bytes:
    """summary.json of a micro run. Seconds and bytes; what is not finite is null."""
    document = {
        "schema": SCHEMA,
        "run": about.run,
        "command": about.command,
        "started": about.started,
        "seed": about.seed,
        "threads": about.threads,
        "environment": environment,
        "missing_peers": sorted({name for room in rooms for name in room.missing}),
        "cases": results,
        "allocation": savings(results),
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
