"""The gate's decision for people and for CI: terminal, Markdown, JUnit XML. Pure functions of records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as xml

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from harness.analyse.centre import too_few
from harness.gate.rules import GateDecision, GateOutcome, MetricDecision
from harness.measure.metrics import METRICS
from reports import junit, markdown, terminal, words
from reports.tables import Table

STYLES: Mapping[GateOutcome, str] = {
    "PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow", "INVALID": "bold magenta",
}  # fmt: skip
SIGNS: Mapping[GateOutcome, str] = {
    "PASS": "\u2705",
    "FAIL": "\u274c",
    "INCONCLUSIVE": "\u2753",
    "INVALID": "\u26a0\ufe0f",
}
_TAGS: Mapping[GateOutcome, str] = {"FAIL": "failure", "INCONCLUSIVE": "error", "INVALID": "error"}


class GateInfo(msgspec.Struct, frozen=True):
    """What was compared and how to repeat it. `started` is seconds since 1970 (UTC), `seconds` the measuring.

    `values` are the absolute medians of both sides by metric, in the unit of the table of metrics or else in `unit`.
    `notes` are sentences for the reader.
    """

    title: str
    base: str
    head: str
    command: str
    started: float
    seconds: float
    values: Mapping[str, tuple[float, float]] = {}
    unit: str = "1"
    notes: tuple[str, ...] = ()


def loss(found: MetricDecision) -> str:
    """ "5.1 % worse (4.0 to 6.2 %)": the change with the interval that holds at any stopping time."""
    ends = interval(found)
    return size(found) if not ends else f"{size(found)} ({ends})"


def interval(found: MetricDecision) -> str:
    """ "interval 4.0 to 6.2 %", in the terms of `size`; it holds at any stopping time."""
    if math.isnan(found.slowdown):
        return ""
    if found.low <= 0.0 or math.isinf(found.high):
        return f"{too_few(found.bursts)} for an interval"
    sign = 1.0 if found.slowdown >= 1.0 else -1.0
    ends = sorted(sign * found.lost(end) for end in (found.low, found.high))
    return f"interval {100.0 * ends[0]:.1f} to {100.0 * ends[1]:.1f} %"


def size(found: MetricDecision) -> str:
    """ "5.1 % worse": the metric's own change alone, for places where the interval comes later."""
    if math.isnan(found.slowdown):
        return "nothing measured"
    return f"{100.0 * abs(found.lost(found.slowdown)):.1f} % {'worse' if found.slowdown >= 1.0 else 'better'}"


def sentence(decision: GateDecision, info: GateInfo) -> str:
    """The outcome in one sentence, with names and sizes."""
    shown = [f"{_noun(each.name)} {loss(each)}" for each in decision.metrics]
    failed = [f"{_noun(each.name)} {loss(each)}" for each in decision.metrics if each.outcome == "FAIL"]
    if decision.outcome == "FAIL":
        return f"FAIL: {info.head} against {info.base}: {'; '.join(failed)}"
    if decision.outcome == "PASS":
        return f"PASS: no metric of {info.head} lost its margin against {info.base}: {'; '.join(shown)}"
    return f"{decision.outcome}: {decision.reason}"


def table(decision: GateDecision, info: GateInfo) -> Table:
    """One row per metric."""
    rows = []
    for each in decision.metrics:
        base, head = info.values.get(each.name, (math.nan, math.nan))
        unit = _unit(each.name, info.unit)
        word: GateOutcome = "INVALID" if decision.outcome == "INVALID" else each.outcome
        outcome = "undecided" if word == "INCONCLUSIVE" else word
        absolute = (words.quantity(base, unit), words.quantity(head, unit))
        rows.append(
            (_noun(each.name), *absolute, size(each), interval(each).removeprefix("interval "), _exact(each), outcome)
        )
    headings = ("metric", info.base, info.head, "change", "interval", "exact p", "verdict")
    return Table("Gate", headings, tuple(rows), (1, 2, 3, 4, 5))


CALIBRATED = (
    "The word comes from pairs whose margins were calibrated by simulation; exact p is that of whole bursts for a loss"
    " beyond the margin, whatever the pairs of a burst share."
)


EXACT = "With one pair a burst the evidence is exact, whenever the measuring stops."


def _evidence(decision: GateDecision) -> str:
    return EXACT if all(each.pairs == each.bursts for each in decision.metrics) else CALIBRATED


def _exact(found: MetricDecision) -> str:
    """The burst-level p-value that holds at any stopping time: 1 / E."""
    return f"{min(1.0, math.exp(-found.log_e_exact)):.2g}"


def on_terminal(decision: GateDecision, info: GateInfo) -> RenderableType:
    """Table first, the word last."""
    parts: list[RenderableType] = [Text(f"{info.title}: {_counts(decision)}")]
    if decision.metrics:
        parts += [terminal.table(table(decision, info)), Text(_evidence(decision), style="dim")]
    parts += [Text(note, style="dim") for note in info.notes]
    parts.append(Text(sentence(decision, info), style=STYLES[decision.outcome]))
    return Group(*parts)


def as_markdown(decision: GateDecision, info: GateInfo) -> str:
    """For a pull request: the word, the table, how to repeat it."""
    parts = [
        f"## {markdown.escape(info.title)}",
        f"**{SIGNS[decision.outcome]} {markdown.escape(sentence(decision, info))}**",
    ]
    if decision.metrics:
        parts += [markdown.table(table(decision, info)), _evidence(decision)]
    parts += [markdown.escape(note) for note in info.notes]
    measured = f" measured in {words.duration(info.seconds)}, both sides interleaved" if info.seconds else ""
    parts.append(f"{_counts(decision)}{measured}. Repeat it with:\n\n{markdown.fenced(info.command)}")
    return "\n\n".join(parts) + "\n"


def as_junit(decision: GateDecision, info: GateInfo, others: Sequence[xml.Element] = ()) -> bytes:
    """One test case per metric; undecided and invalid are errors, never silently green. `others` are appended."""
    return junit.document(info.title, info.started, info.seconds, [*_cases(decision, info), *others], {})


def _cases(decision: GateDecision, info: GateInfo) -> Sequence[xml.Element]:
    validity = xml.Element("testcase", classname="synapsed-bench.gate", name="validity")
    void = decision.outcome == "INVALID"
    if void:
        junit.outcome(validity, "error", f"INVALID: {decision.reason}", "")
    elif decision.outcome != "PASS" and all(each.outcome == "PASS" for each in decision.metrics):
        # Equal arms are not yet shown to be equal: every metric may look well, and the gate has not passed.
        junit.outcome(validity, "error", f"{decision.outcome}: {decision.reason}", "")
    cases = [validity]
    for each in decision.metrics:
        case = xml.Element("testcase", classname="synapsed-bench.gate", name=junit.clean(_noun(each.name)))
        outcome: GateOutcome = "INVALID" if void else each.outcome
        told = f"{outcome}: {_noun(each.name)} of {info.head} is {loss(each)} against {info.base}"
        if outcome in _TAGS:
            junit.outcome(case, _TAGS[outcome], told, "")
        else:
            xml.SubElement(case, "system-out").text = junit.clean(told)
        cases.append(case)
    return cases


def _counts(decision: GateDecision) -> str:
    if not decision.metrics:
        return "nothing measured"
    bursts = max(each.bursts for each in decision.metrics)
    return f"{words.plural(max(each.pairs for each in decision.metrics), 'pair')} in {words.plural(bursts, 'burst')}"


def _noun(label: str) -> str:
    """A metric of the table in words, with the workload if the label names one; any other label as it is."""
    name, on, workload = label.partition(" on ")
    return f"{METRICS[name].noun}{on}{workload}" if name in METRICS else label.replace("_", " ")


def _unit(label: str, other: str) -> str:
    name = label.partition(" on ")[0]
    return METRICS[name].unit if name in METRICS else other
