"""The command line. Every user error is one line and an exit code; the README lists the codes.

Commands import what they need when they are called: help and usage errors must not wait for numpy and scipy.
"""

from __future__ import annotations

import datetime
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from typing import Annotated, Any, NoReturn

import typer

from harness.cli import stored, verdicts
from harness.cli.options import RUNS, RunsOption, command_line, number
from harness.cli.output import Output, console
from harness.errors import INTERRUPTED, BenchError, MeasurementVoid, UsageError

app = typer.Typer(
    name="synapsed-bench",
    help="Which of these optimizations pays, on which workload, by how much?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

QUICK = "quick"
DESCRIPTORS = 65_536


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"synapsed-bench {metadata.version('synapsed-bench')}", highlight=False)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and exit.")
    ] = False,
) -> None:
    """What can be said before any command."""


@app.command()
def run(
    study: Annotated[
        str | None, typer.Argument(help="A bundled study (see `list`) or a study file.", show_default=QUICK)
    ] = None,
    on: Annotated[str | None, typer.Option(help="The treatment: exactly these (a,b or all).")] = None,
    off: Annotated[str | None, typer.Option(help="The treatment: all but these.")] = None,
    only: Annotated[str | None, typer.Option(help="The same as --on.")] = None,
    design: Annotated[str | None, typer.Option(help="on-off, ablation, phases, factorial or sweep.")] = None,
    depth: Annotated[str | None, typer.Option(help="A depth of the study, such as quick or full.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Seconds to measure, instead of the study's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of order and arrivals, instead of the study's.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with an interrupted run: its folder, name, or latest.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the schedule, its time, and what it can prove.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 when an expectation is missed, 3 when one is open or none is met.")
    ] = False,
    runs_folder: RunsOption = RUNS,
) -> None:
    """Run a study: measure, judge, report."""
    from harness import runs, session
    from harness.study import file as study_file

    if resume is not None:
        if dry_run or any(each is not None for each in (study, on, off, only, design, depth, seconds, seed)):
            raise UsageError("--resume goes on with the run's own study; expected nothing else but --strict and --runs")
        raise typer.Exit(session.resume(runs.find(runs_folder, resume), console, strict=strict))
    path = study_file.find(study or QUICK)
    wanted = study_file.adjust(
        study_file.load(path, depth),
        on=_names("--on", on),
        off=_names("--off", off),
        only=_names("--only", only),
        design=design,
        seconds=seconds,
        seed=seed,
    )
    if dry_run:
        session.show_plan(wanted, console)
        return
    now = datetime.datetime.now(datetime.UTC)
    raise typer.Exit(session.start(wanted, path, runs_folder, command_line(), console, strict=strict, now=now))


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="studies, workloads, optimizations or metrics.")] = "studies",
) -> None:
    """List what there is."""
    from harness.cli import listing

    console.print(listing.table(what))


@app.command()
def micro(
    rooms: Annotated[list[str] | None, typer.Argument(metavar="[ROOM]...", help="Which rooms; else all.")] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Measure the installed peer libraries too.")] = False,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of the cases with threads.")] = 8,
    seconds: Annotated[
        float | None, typer.Option(min=1.0, callback=number, help="Seconds to measure: about 20 a room.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order.")] = 1,
    runs_folder: RunsOption = RUNS,
) -> None:
    """The pyperf suite: each room off, on, and against published libraries."""
    from harness import micro as suite

    now = datetime.datetime.now(datetime.UTC)
    wish = suite.Wish(tuple(rooms or ()), peers, threads, seconds, seed)
    raise typer.Exit(suite.start(wish, runs_folder, command_line(), console, now))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def serve(context: typer.Context) -> None:
    """One reference node in the foreground (`serve --help` for its options)."""
    from reference_impl.__main__ import main as serve_node

    raise typer.Exit(serve_node(context.args))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def web(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="Port of the web UI.", min=1, max=65535)] = 8089,
    host: Annotated[
        str, typer.Option(help="Address to listen on; only this machine can reach the default.")
    ] = "127.0.0.1",
) -> None:
    """The Locust web UI with one switch per optimization. Further options go to Locust as they are."""
    from harness import web as web_ui

    raise typer.Exit(web_ui.serve(host, port, context.args))


stored.register(app)
verdicts.register(app)


def _names(option: str, text: str | None) -> tuple[str, ...]:
    """The words of a comma-separated option; an option given without any is a mistake."""
    names = tuple(filter(None, (name.strip() for name in (text or "").split(","))))
    if text is not None and not names:
        raise UsageError(f"{option} names nothing; expected optimizations separated by commas, or all or none")
    return names


def fail(error: BenchError) -> NoReturn:
    """One line on stderr that says whose fault it is, and the error's exit code."""
    said = " ".join(str(error).split())
    Output(stderr=True).out(f"synapsed-bench: {error.fault}: {said}", highlight=False)
    sys.exit(error.exit_code)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `synapsed-bench`."""
    signal.signal(signal.SIGTERM, _interrupt)
    _allow_descriptors()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        _refuse_bytes(words)
        app(args=words, prog_name="synapsed-bench")
    except BenchError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        with suppress(BrokenPipeError):
            traceback.print_exc()
        told = f"{type(error).__name__}: {error}; expected no such thing: please report it with the lines above"
        fail(MeasurementVoid(told, "a bug of ours"))  # never 1, which would be a verdict


def _refuse_bytes(words: Sequence[str]) -> None:
    """`UsageError` for a word that is no text: every run and report tells the command, in UTF-8."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{word!r} is not UTF-8; expected a name or command that can stand in a report") from error


def _allow_descriptors() -> None:
    """As many open files as the system grants, here and in processes started from here: a node has a port per peer."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        soft = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt
