"""What `doctor` found, on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from harness.fitness import CONFIDENCE, MINUTES, POWER, Equal, Finding
from harness.gate.resample import Rate
from reports import terminal, words
from reports.tables import Table


def findings(found: Sequence[Finding]) -> RenderableType:
    """One row per finding; what to do only where something is wrong."""
    rows = tuple((each.name, "ok" if each.fine else "!", each.saw, "" if each.fine else each.remedy) for each in found)
    return terminal.table(Table("Machine", ("what", "", "saw", "what to do"), rows))


def equal(found: Equal) -> RenderableType:
    """What equal arms can prove here, and how often the gate would be wrong."""
    rows = tuple(
        (
            each.label.replace("_", " "),
            _interval(each.low, each.high),
            f"{100.0 * each.pair_sd:.1f} %",
            f"{100.0 * each.burst_sd:.1f} %",
            *(_effect(effect) for effect in each.effects),
        )
        for each in found.metrics
    )
    headings = ("metric", "equal arms differ by", "sd pair", "burst", *(f"{minutes:g} min" for minutes in MINUTES))
    gates = tuple(
        (
            "no change" if not effect else f"first metric {100.0 * effect:.0f} % worse",
            _rate(outcomes.fail),
            _rate(outcomes.passed),
            _rate(outcomes.inconclusive),
            f"{outcomes.bursts * found.burst_seconds:.0f} s",
        )
        for effect, outcomes in found.gates.items()
    )
    runs = next(iter(found.gates.values())).fail.of
    return Group(
        Text(
            f"{found.bursts} bursts of {found.burst_seconds:.1f} s on equal arms; under the minutes, the smallest"
            f" effect they prove ({CONFIDENCE:.0%} interval, probability {POWER:.0%}):"
        ),
        terminal.table(Table("", headings, rows, tuple(range(1, len(headings))))),
        Text(
            f"{words.count(runs)} gates of at most {MINUTES[1]:g} min, resampled from these pairs"
            f" ({CONFIDENCE:.0%} intervals):"
        ),
        terminal.table(Table("", ("truth", "FAIL", "PASS", "INCONCLUSIVE", "until"), gates, (1, 2, 3, 4))),
    )


def answer(found: Sequence[Finding]) -> RenderableType:
    """The answer in one sentence."""
    wrong = [each.name for each in found if not each.fine]
    if not wrong:
        return Text("This machine is fit to measure on.", style="bold green")
    return Text(f"Not at its best for measuring: {', '.join(wrong)}.", style="bold yellow")


def _interval(low: float, high: float) -> str:
    if not math.isfinite(high):
        return "not bounded"
    return f"{100.0 * (low - 1.0):+.1f} to {100.0 * (high - 1.0):+.1f} %"


def _effect(share: float) -> str:
    return "too short" if math.isinf(share) else f"{100.0 * share:.1f} %"


def _rate(found: Rate) -> str:
    return f"{100.0 * found.count / found.of:.2f} % ({100.0 * found.low:.2f}-{100.0 * found.high:.2f})"
