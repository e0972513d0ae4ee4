"""A short Markdown summary for pull requests and CI job pages. Nothing a study names can break out of its cell."""

from __future__ import annotations

import re

from harness.analyse.records import Analysis
from harness.study.records import Study
from reports import flags, tables, words
from reports.info import RunInfo
from reports.tables import Table

SIGNS = {"MET": "\u2705", "MISSED": "\u274c", "INCONCLUSIVE": "\u2753", "NOT MEASURABLE": "\u2796"}
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&!@])")


def render(study: Study, analysis: Analysis, info: RunInfo) -> str:
    """Answer, verdicts, failed checks, the command to repeat it."""
    parts = [f"## {escape(study.title)}"]
    if not analysis.valid:
        parts.append("> **INVALID.** This measurement is not fit to be judged; no number below supports a claim.")
        parts.append("\n".join(f"- {escape(f'{c.name} ({c.where}): {c.saw}; {c.bound}')}" for c in analysis.failed))
    if not info.complete:
        word, sentence = words.unfinished(info)
        parts.append(f"> **{word}.** {sentence}")
    parts.append(f"**{escape(analysis.answer)}**")
    if analysis.verdicts:
        parts.append(table(_signed(tables.verdicts(analysis), analysis.valid)))
        parts += [escape(each) for each in tables.stepped_down(analysis)]
    for each in (*tables.findings(analysis), *flags.steps_in_text(study, analysis)):
        parts += [escape(each.caption), table(each)]
    parts.append(escape(words.scope(study)))
    bursts = words.plural(analysis.bursts, "burst")
    parts.append(f"Run {escape(info.run)}, {bursts}, seed {info.seed}. Repeat it with:\n\n{fenced(info.command)}")
    return "\n\n".join(parts) + "\n"


def table(shown: Table) -> str:
    """A table of text as a Markdown table."""
    rule = _row(["---:" if i in shown.numbers else "---" for i in range(len(shown.headings))])
    heading, *rows = (_row([escape(cell) for cell in row]) for row in (shown.headings, *shown.rows))
    return "\n".join((heading, rule, *rows))


def escape(text: str) -> str:
    """Text that Markdown and the HTML within it show as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", re.sub(r"\s*[\r\n\t\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text))


def _signed(shown: Table, valid: bool) -> Table:
    """With a sign before each verdict; none of a good one when the run is invalid."""
    rows = tuple((*row[:-1], f"{SIGNS[row[-1]] if valid else SIGNS['INCONCLUSIVE']} {row[-1]}") for row in shown.rows)
    return Table(shown.caption, shown.headings, rows, shown.numbers)


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def fenced(text: str) -> str:
    """A code block that nothing in `text` can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
