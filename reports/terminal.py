"""What the command line shows of a finished run, as rich renderables. Text is never read as markup."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text

from harness.analyse.records import Analysis
from harness.study.records import Study
from reports import flags, tables, words
from reports.info import RunInfo
from reports.tables import Table

STYLES = {"MET": "bold blue", "MISSED": "bold red", "INCONCLUSIVE": "bold yellow", "NOT MEASURABLE": "dim"}

_SHORT = 20


def result(study: Study, analysis: Analysis, info: RunInfo) -> RenderableType:
    """The whole: banners, the answer, the verdicts, what the design answers, or else the main estimates, the scope."""
    parts: list[RenderableType] = []
    if not analysis.valid:
        lines = [
            f"{each.name} ({each.where}): {each.saw}; bound: {each.bound}. {each.remedy}" for each in analysis.failed
        ]
        parts.append(_banner("INVALID: not fit to be judged", "\n".join(lines), "red"))
    if not info.complete:
        parts.append(_banner(*words.unfinished(info), "yellow"))
    parts += [Text(analysis.answer, style="bold"), Text()]
    if analysis.verdicts:
        parts.append(verdict_table(analysis))
        parts += [Text(each, style="dim") for each in tables.stepped_down(analysis)]
    elif not (analysis.attributions or analysis.crossovers):
        parts.append(estimate_table(analysis))
    for each in (*tables.findings(analysis), *flags.steps_in_text(study, analysis)):
        parts += [Text(each.caption), table(each)]
    parts.append(Text(words.scope(study), style="dim"))
    return Group(*parts)


def verdict_table(analysis: Analysis) -> Grid:
    """One row per verdict, narrow enough for 80 columns; in an invalid run none looks decided."""
    rows = []
    said = ""
    for each in analysis.verdicts:
        name = "" if each.expectation == said else each.expectation
        said = each.expectation
        rows.append((name, each.against, words.claim(each.side, each.bound), tables.measured_words(each), each.outcome))
    shown = Table("Verdicts", ("expectation", "against", "claimed", "measured", "verdict"), tuple(rows), (3,))
    grid = _grid(shown)
    # Short names stay in one piece; a long one is rather broken than cut off.
    grid.columns[1].no_wrap = all(len(row[1]) <= _SHORT for row in rows)
    for row in shown.rows:
        style = STYLES[row[-1]] if analysis.valid else STYLES["INCONCLUSIVE"]
        grid.add_row(*(Text(cell) for cell in row[:-1]), Text(row[-1], style=style))
    return grid


def estimate_table(analysis: Analysis) -> Grid:
    """The judged metrics of the treatment, against baseline and controls side by side.

    A metric that slices and segments both have is shown from slices; the report has the rest.
    """
    judged = {each.name for each in analysis.metrics if each.judged}
    against = (analysis.baseline, *analysis.controls)
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for each in analysis.contrasts:
        if each.role in ("treatment", "control") and each.metric in judged and each.estimate is not None:
            row = (words.place(each.workload), words.metric_words(analysis, each.metric, each.request))
            cells.setdefault(row, {}).setdefault(each.a, words.change(each.estimate))
    rows = tuple((*row, *(found.get(name, words.ABSENT) for name in against)) for row, found in cells.items())
    headings = ("workload", "metric", *(f"{analysis.treatment} against {name}" for name in against))
    return table(Table("Estimates", headings, rows, tuple(range(2, len(headings)))))


def table(shown: Table) -> Grid:
    """Any table of text."""
    grid = _grid(shown)
    for row in shown.rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def _grid(shown: Table) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(shown.headings):
        number = index in shown.numbers
        grid.add_column(
            Text(heading), justify="right" if number else "left", overflow="fold", min_width=min(len(heading), 12)
        )
    return grid


def _banner(title: str, text: str, style: str) -> Panel:
    return Panel(Text(text), title=Text(title, style=f"bold {style}"), border_style=style, title_align="left")
