"""What a person sees while a study runs: what is running, how long to go, the estimates so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from harness.analyse.records import Estimate, Verdict
from harness.execute.burst import Step
from harness.plan.budget import Forecast

SHOWN = 4
"verdicts in a line of a log"


class RunDisplay:
    """A live display on a terminal; a line per burst elsewhere. Use as a context manager."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._seconds = self._spent = 0.0
        self._clock = clock
        self._since: float | None = None
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}")
        )
        self._task = self._progress.add_task("starting", total=None, left="")
        self._step = Text("")
        self._estimates: Table | Text = Text("")
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self.renderable)

    def __enter__(self) -> RunDisplay:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._estimates = Text("")  # the result that follows says it better
            self._live.stop()

    def forecast(self, expected: Forecast, spent: float, left: float) -> None:
        """Say what is ahead: `left` seconds, after the `spent` ones that an interrupted run has measured before."""
        self._spent, self._seconds = spent, spent + left
        self._progress.update(self._task, total=self._seconds)
        self._console.print(
            f"measuring for about {_duration(left)}, in bursts of about {expected.burst_seconds:.0f} s", highlight=False
        )

    def step(self, step: Step) -> None:
        """What is happening now; the first step starts the clock."""
        if self._since is None:
            self._since = self._clock()
        self._step = Text(" ".join(filter(None, (step.doing, step.workload, f"on {step.arm}" if step.arm else ""))))

    def burst_done(self, number: int, spent: float, left: float, so_far: Sequence[Verdict]) -> None:
        """How long to go (`left` seconds; 0.0 after the last burst), and the verdicts so far: estimates with their
        intervals, once there are bursts enough for one.
        """
        self._spent, self._since, self._seconds = spent, self._clock(), spent + left
        self._progress.update(self._task, total=self._seconds)
        if self._console.is_terminal:
            self._estimates = _table(so_far)
            return
        estimates = [(each, each.contrast.estimate) for each in so_far if each.contrast and each.contrast.estimate]
        shown = "".join(f"; {_line(verdict, estimate)}" for verdict, estimate in estimates[:SHOWN])
        if estimates and not any(estimate.bounded for _, estimate in estimates):
            shown += "; too few bursts for intervals yet"
        told = f"burst {number + 1} done, {f'about {_duration(left)} to go' if left else 'the last'}{shown}"
        self._console.out(told, highlight=False)

    def renderable(self) -> Group:
        """The live display as of now."""
        if self._since is not None:
            now = min(self._spent + self._clock() - self._since, self._seconds)
            left = self._seconds - now
            shown = f"about {_duration(left)} to go" if left > 0 else "finishing"
            self._progress.update(self._task, completed=now, description="measuring", left=shown)
        return Group(self._progress, self._step, self._estimates)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min"


def _line(verdict: Verdict, estimate: Estimate) -> str:
    interval = f" ({estimate.low:.3g} to {estimate.high:.3g})" if estimate.bounded else ""
    return f"{verdict.expectation} vs {verdict.against}: x {estimate.ratio:.3g}{interval}"


def _table(so_far: Sequence[Verdict]) -> Table:
    table = Table("question", "against", "ratio so far", "interval", "claimed", box=None, padding=(0, 2, 0, 0))
    for verdict in so_far:
        estimate = verdict.contrast.estimate if verdict.contrast else None
        claimed = f"{'at most' if verdict.side == 'at_most' else 'at least'} x {verdict.bound:g}"
        ratio, interval = "-", "-"
        if estimate is not None:
            ratio = f"x {estimate.ratio:.3g}"
            interval = f"{estimate.low:.3g} to {estimate.high:.3g}" if estimate.bounded else "too few bursts yet"
        cells = (verdict.expectation, verdict.against, ratio, interval, claimed)
        table.add_row(*(Text(cell) for cell in cells))
    return table
