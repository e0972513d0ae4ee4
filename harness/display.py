"""What a person sees while a study runs: what is running, how long to go, the estimates so far."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from harness.analyse.records import Analysis
from harness.execute.burst import Step
from harness.plan.budget import Forecast


class RunDisplay:
    """A live display on a terminal; a line per burst elsewhere. Use as a context manager."""

    def __init__(self, console: Console, seconds: float) -> None:
        self._console = console
        self._seconds = seconds
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task("starting", total=seconds)
        self._step = Text("")
        self._estimates: Table | Text = Text("")
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._renderable)
        self._spent = 0.0
        self._since = time.monotonic()

    def __enter__(self) -> RunDisplay:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._estimates = Text("")
            self._live.stop()

    def forecast(self, expected: Forecast) -> None:
        """Say what is ahead."""
        self._console.print(
            f"measuring for about {self._seconds / 60:.1f} min: {expected.bursts} bursts of {expected.burst_seconds:.0f} s",
            highlight=False,
        )

    def step(self, step: Step) -> None:
        """What is happening now."""
        parts = [step.doing, step.workload, f"on {step.arm}" if step.arm else ""]
        self._step = Text(" ".join(filter(None, parts)))
        if self._console.is_terminal:
            now = self._spent + time.monotonic() - self._since
            self._progress.update(self._task, completed=min(now, self._seconds), description="measuring")

    def burst_done(self, number: int, spent: float, left: float, so_far: Analysis) -> None:
        """The estimates after this burst."""
        self._spent, self._since = spent, time.monotonic()
        self._progress.update(self._task, completed=min(spent, self._seconds))
        if self._console.is_terminal:
            self._estimates = _table(so_far)
        else:
            shown = "; ".join(_line(verdict.expectation, verdict.against, verdict) for verdict in so_far.verdicts[:4])
            self._console.print(
                f"burst {number + 1} done, about {left:.0f} s to go: {shown}", highlight=False, soft_wrap=True
            )

    def _renderable(self) -> Group:
        return Group(self._progress, self._step, self._estimates)


def _line(name: str, against: str, verdict: object) -> str:
    contrast = getattr(verdict, "contrast", None)
    if contrast is None or contrast.estimate is None:
        return f"{name} vs {against}: nothing yet"
    estimate = contrast.estimate
    interval = f"{estimate.low:.3g} to {estimate.high:.3g}" if estimate.bounded else "interval not yet bounded"
    return f"{name} vs {against}: x {estimate.ratio:.3g} ({interval})"


def _table(so_far: Analysis) -> Table:
    table = Table("question", "against", "ratio so far", "interval", "claimed", box=None, padding=(0, 2, 0, 0))
    for verdict in so_far.verdicts:
        estimate = verdict.contrast.estimate if verdict.contrast else None
        claimed = f"{'at most' if verdict.side == 'at_most' else 'at least'} x {verdict.bound:g}"
        if estimate is None:
            table.add_row(verdict.expectation, verdict.against, "-", "-", claimed)
            continue
        interval = f"{estimate.low:.3g} to {estimate.high:.3g}" if estimate.bounded else "too few bursts yet"
        table.add_row(verdict.expectation, verdict.against, f"x {estimate.ratio:.3g}", interval, claimed)
    return table
