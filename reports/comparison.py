"""Two runs beside each other on the command line: do their verdicts and estimates agree?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from harness.analyse.records import Analysis
from reports import frames, tables, terminal, words
from reports.tables import Table

SHOWN = 20


def result(first: Analysis, second: Analysis) -> RenderableType:
    """The verdicts both runs have, then how many estimates agree, and those that do not."""
    pairs = frames.verdicts(first, second)
    parts: list[RenderableType] = [
        Text(f"The {name} run is INVALID: its verdicts count for nothing.", style="bold red")
        for name, run in (("first", first), ("second", second))
        if not run.valid
    ]
    if pairs:
        rows = tuple(
            (
                each.expectation,
                each.against,
                f"{tables.measured_words(each)}: {each.outcome}",
                f"{tables.measured_words(other)}: {other.outcome}",
                "no" if frames.contradict(each, other) else "yes" if each.outcome == other.outcome else "open",
            )
            for each, other in pairs
        )
        headings = ("expectation", "against", "first run", "second run", "agree")
        parts.append(terminal.table(Table("Verdicts", headings, rows)))
    both = frames.estimates(first, second)
    apart = both[~both["agree"]]
    told = f"{len(both) - len(apart)} of {words.plural(len(both), 'estimate')} agree: their intervals overlap."
    parts.append(Text(told, style="bold"))
    if len(apart):
        lines = tuple(
            (
                words.place(each["workload"]),
                words.metric_words(first, each["metric"], each["request"]),
                f"{each['b']} against {each['a']}",
                _interval(each, 1),
                _interval(each, 2),
            )
            for each in apart.head(SHOWN).to_dict("records")
        )
        headings = ("workload", "metric", "compared", "first run", "second run")
        parts.append(terminal.table(Table("Apart", headings, lines)))
    return Group(*parts)


def _interval(each: Mapping[Any, Any], number: int) -> str:
    ratio, low, high = (each[f"{name}_{number}"] for name in ("ratio", "low", "high"))
    return f"{words.ratio_words(ratio)} ({words.interval_words(ratio, low, high)})"
