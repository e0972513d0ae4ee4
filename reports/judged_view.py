"""Views of verdicts on data that another tool measured: terminal, Markdown, JSON, JUnit XML."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from harness.judge import Judged
from harness.measure.records import Environment
from reports import gate_view, junit, markdown, summary, tables, terminal, words
from reports.gate_view import GateInfo
from reports.info import RunInfo
from reports.tables import Table

ELSEWHERE = Environment("not known: measured elsewhere", "", 0, 0, "", "", {}, "", dirty=False)


def on_terminal(found: Judged, source: Path, command: str) -> RenderableType:
    """Every estimate, the verdicts, the gate's word last."""
    parts: list[RenderableType] = [terminal.table(_estimates(found)), Text(found.analysis.answer, style="bold")]
    if found.analysis.verdicts:
        parts.append(terminal.verdict_table(found.analysis))
    if found.decision is not None:
        parts.append(gate_view.on_terminal(found.decision, _gate_info(found, source, command)))
    return Group(*parts)


def as_markdown(found: Judged, source: Path, command: str) -> bytes:
    """The gate's word if it was asked for, the verdicts, every estimate."""
    parts = [markdown.render(found.study, found.analysis, _info(source, command))]
    parts.append(markdown.table(tables.estimates(found.analysis, found.analysis.contrasts, "Estimates")) + "\n")
    if found.decision is not None:
        parts.insert(0, gate_view.as_markdown(found.decision, _gate_info(found, source, command)))
    return "\n".join(parts).encode()


def as_json(found: Judged, source: Path, command: str) -> bytes:
    """The same schema as a run's summary.json."""
    return summary.encode(found.study, found.analysis, ELSEWHERE, _info(source, command))


def as_junit(found: Judged, source: Path, command: str) -> bytes:
    """One test case per verdict, and before them the gate's if it was asked for."""
    if found.decision is None:
        return junit.render(found.study, found.analysis, _info(source, command))
    others = junit.verdicts(found.study, found.analysis)
    return gate_view.as_junit(found.decision, _gate_info(found, source, command), others)


def _info(source: Path, command: str) -> RunInfo:
    written = source.stat().st_mtime
    return RunInfo(source.name, written, written, command, 0, complete=True, notes=("Measured by another tool.",))


def _gate_info(found: Judged, source: Path, command: str) -> GateInfo:
    values = {each.metric: (each.value_a, each.value_b) for each in found.analysis.contrasts}
    title, arms, written = found.study.title, found.analysis, source.stat().st_mtime
    return GateInfo(title, arms.baseline, arms.treatment, command, written, 0.0, values)


def _estimates(found: Judged) -> Table:
    """What fits a terminal; the Markdown has the rest."""
    rows = []
    for each in found.analysis.contrasts:
        unit = words.metric_info(found.analysis, each.metric).unit
        shown, left_out = each.estimate, f", {each.unusable} left out" if each.unusable else ""
        rows.append(
            (
                words.metric_info(found.analysis, each.metric).noun,
                words.quantity(each.value_a, unit),
                words.quantity(each.value_b, unit),
                words.change(shown) if shown is not None else each.problem,
                (f"{shown.bursts} / {words.count(shown.pairs)}" if shown is not None else words.ABSENT) + left_out,
            )
        )
    headings = ("metric", found.analysis.baseline, found.analysis.treatment, "change (interval)", "bursts / pairs")
    return Table("Estimates", headings, tuple(rows), (1, 2))
