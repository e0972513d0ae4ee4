"""The commands about stored runs: report, export, compare. `register` adds them to the command line."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import RUNS, RunsOption
from harness.cli.output import console, into_nothing, write
from harness.errors import UsageError

RunArgument = Annotated[str, typer.Argument(metavar="[RUN]", help="A run folder, its name, or latest.")]
FORMATS = ("csv", "json")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(report)
    app.command()(export)
    app.command()(compare)


def report(
    run_name: RunArgument = "latest",
    open_it: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    runs_folder: RunsOption = RUNS,
) -> None:
    """Judge a stored run again and write its report."""
    from harness import runs, session

    folder = runs.find(runs_folder, run_name)
    session.report(folder, console)
    if open_it:
        webbrowser.open((folder / "report.html").as_uri())


def export(
    run_name: RunArgument = "latest",
    format_: Annotated[str, typer.Option("--format", help=f"One of: {', '.join(FORMATS)}.")] = "csv",
    workload: Annotated[
        str, typer.Option(help="Only this workload, without its segments; `judge` reads one at a time.")
    ] = "",
    segments: Annotated[bool, typer.Option("--segments", help="Only segments.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; by default standard output.")] = None,
    runs_folder: RunsOption = RUNS,
) -> None:
    """Every measured value of a run as a table, for `judge`, pandas or a spreadsheet."""
    from harness import runs, session
    from harness.measure.store import FILE, Store
    from harness.plan.arms import workloads
    from reports import frames

    if format_ not in FORMATS:
        raise UsageError(f"--format {format_!r}; expected one of: {', '.join(FORMATS)}")
    folder = runs.find(runs_folder, run_name)
    if out is not None and out.resolve() == (folder / FILE).resolve():
        raise UsageError(f"--out {out}: this is the run to be read; expected another file to write")
    with Store.read(folder) as store:
        study, measured = session.stored(store)
    names = [each.name for each in workloads(study)]
    if workload and workload not in names:
        raise UsageError(f"--workload {workload!r}; expected one of: {', '.join(names)}")
    table = frames.values(study, measured, workload, segments)
    text = table.to_csv(index=False) if format_ == "csv" else table.to_json(orient="records", lines=True)
    if out is None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever reads has seen enough
            into_nothing(sys.stdout)
        return
    write(out, text.encode())


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, its name, or latest.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="The other one.")],
    runs_folder: RunsOption = RUNS,
) -> None:
    """Two runs beside each other; exit code 1 when both are valid and a verdict of one contradicts the other's.

    Each run's ratios were taken within it; absolute numbers of two runs are not compared, as the machine drifts.
    """
    from harness import runs, session
    from reports import comparison, frames

    one, other = (session.judged(runs.find(runs_folder, name)) for name in (first, second))
    shared = frames.verdicts(one, other)
    if not shared and frames.estimates(one, other).empty:
        raise UsageError(
            f"{first} and {second} share no expectation and no estimate with an interval; expected runs of one study"
        )
    console.print(comparison.result(one, other))
    contradicted = any(frames.contradict(*pair) for pair in shared)
    raise typer.Exit(int(one.valid and other.valid and contradicted))
