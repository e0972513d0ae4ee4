"""The command line. Every user error is one line and an exit code; see docs/cli in the README for the codes."""

from __future__ import annotations

import datetime
import signal
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console

from harness import runs, study_file
from harness.errors import BenchError, StudyError

app = typer.Typer(
    name="synapsed-bench",
    help="Which of these optimizations pays, on which workload, by how much?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console()

RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
RUNS = Path("runs")


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A bundled study or a study file.")] = "quick",
    on: Annotated[str, typer.Option(help="Compare none with these optimizations on (comma-separated).")] = "",
    off: Annotated[str, typer.Option(help="Compare all with these off against none.")] = "",
    only: Annotated[str, typer.Option(help="Compare none with exactly these.")] = "",
    design: Annotated[str, typer.Option(help="on-off, ablation, phases, factorial or sweep.")] = "",
    seconds: Annotated[float, typer.Option(help="Seconds to measure, instead of the study's.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the order and the arrivals, instead of the study's.")] = -1,
    resume: Annotated[str, typer.Option(metavar="RUN", help="Go on with an interrupted run.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show schedule, time and what it can prove.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 when an expectation is missed, 3 when undecided.")
    ] = False,
    runs_folder: RunsOption = RUNS,
) -> None:
    """Run a study: measure, judge, report."""
    from harness import session

    if resume:
        folder = runs.find(runs_folder, resume)
        raise typer.Exit(session.resume(folder, console, strict=strict))
    path = study_file.find(study)
    wanted = study_file.adjust(
        study_file.load(path),
        on=_names(on),
        off=_names(off),
        only=_names(only),
        design=design,
        seconds=seconds,
        seed=seed,
    )
    if dry_run:
        session.show_plan(wanted, console)
        return
    raise typer.Exit(
        session.start(
            wanted, path, runs_folder, _command_line(), console, strict=strict, now=datetime.datetime.now(datetime.UTC)
        )
    )


@app.command()
def report(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, its name, or latest.")] = runs.LATEST,
    open_it: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    runs_folder: RunsOption = RUNS,
) -> None:
    """Judge a stored run again and write its report."""
    from harness import session

    folder = runs.find(runs_folder, run_name)
    session.report(folder, console)
    if open_it:
        webbrowser.open((folder / "report.html").as_uri())


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="studies, workloads, optimizations or metrics.")] = "studies",
) -> None:
    """List what there is."""
    from harness import listing

    console.print(listing.table(what))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def serve(context: typer.Context) -> None:
    """One reference node in the foreground (`serve --help` for its options)."""
    from reference_impl.__main__ import main as serve_node

    raise typer.Exit(serve_node(context.args))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def web(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="Port of the web UI.")] = 8089,
    host: Annotated[
        str, typer.Option(help="Address to listen on; only this machine can reach the default.")
    ] = "127.0.0.1",
) -> None:
    """The Locust web UI with one switch per optimization."""
    from harness import web as web_ui

    raise typer.Exit(web_ui.serve(host, port, context.args))


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _command_line() -> str:
    return " ".join(["synapsed-bench", *sys.argv[1:]])


def fail(error: BenchError) -> NoReturn:
    """One line on stderr that says whose fault it is, and the error's exit code."""
    Console(stderr=True).print(f"synapsed-bench: {error.fault}: {error}", highlight=False, soft_wrap=True, markup=False)
    sys.exit(error.exit_code)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `synapsed-bench`."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(args=None if argv is None else list(argv), standalone_mode=True)
    except BenchError as error:
        fail(error)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        fail(StudyError(str(error)))
    except KeyboardInterrupt:
        sys.exit(130)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt
