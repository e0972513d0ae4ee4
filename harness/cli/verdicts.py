"""The commands that end in a word: judge, ab, gate, doctor. `register` adds them to the command line."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import RUNS, RunsOption, command_line, number
from harness.cli.output import console, write
from harness.errors import UsageError

MarkdownOption = Annotated[Path | None, typer.Option(help="Write a Markdown summary to this file.")]
JunitOption = Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")]

if TYPE_CHECKING:
    from harness.gate.runner import Files, Setting
    from harness.measure.metrics import Direction


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(judge)
    app.command()(gate)
    app.command()(ab)
    app.command()(doctor)


def judge(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS.CSV", help="Columns burst, pair, arm, metric, value.")],
    expect: Annotated[
        list[str] | None, typer.Option(help="'throughput>=2.5' or 'latency<=-70%': ratio of b to a. Repeatable.")
    ] = None,
    a: Annotated[str, typer.Option(help="The arm compared against; by default the first in the file.")] = "",
    b: Annotated[str, typer.Option(help="The arm judged; by default the other one in the file.")] = "",
    lower: Annotated[list[str] | None, typer.Option(metavar="METRIC", help="Lower is better. Repeatable.")] = None,
    higher: Annotated[list[str] | None, typer.Option(metavar="METRIC", help="Higher is better. Repeatable.")] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Judge like the gate: PASS, FAIL or INCONCLUSIVE.")] = False,
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Whoever measured looked at the numbers before stopping.")
    ] = False,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, callback=number, help="Of all verdicts together.")
    ] = 0.95,
    markdown: MarkdownOption = None,
    json: Annotated[Path | None, typer.Option(help="Write summary.json (docs/summary-schema.md) to this file.")] = None,
    junit: JunitOption = None,
) -> None:
    """Verdicts on data measured with any other tool."""
    from harness import judge as judging
    from harness.gate import runner
    from reports import judged_view

    views = (
        ("markdown", markdown, judged_view.as_markdown),
        ("json", json, judged_view.as_json),
        ("junit", junit, judged_view.as_junit),
    )
    runner.clear(tuple((kind, path) for kind, path, _ in views if path is not None), pairs)  # before anything can fail
    ask = judging.Ask(a, b, tuple(expect or ()), _directions(lower or (), higher or ()), confidence, sequential, gate)
    found = judging.judged(judging.read(pairs), ask)
    console.print(judged_view.on_terminal(found, pairs, command_line()))
    for _, path, view in views:
        if path is not None:
            write(path, view(found, pairs, command_line()))
    raise typer.Exit(found.exit_code)


def gate(
    base: Annotated[str, typer.Option(metavar="REV", help="The revision to hold against: branch, tag or commit.")],
    head: Annotated[str, typer.Option(metavar="REV", help="The revision to judge.")] = "HEAD",
    minutes: Annotated[
        float,
        typer.Option(callback=number, help="Measure for at most this long: 3.7 or more, with --micro all about 10."),
    ] = 5.0,
    build: Annotated[
        bool, typer.Option("--build/--no-build", help="An environment per lock, or the one at hand for both.")
    ] = True,
    micro: Annotated[
        list[str] | None,
        typer.Option("--micro", metavar="ROOM", help="Judge this room's micro benchmarks instead; or all. Repeatable."),
    ] = None,
    markdown: MarkdownOption = None,
    junit: JunitOption = None,
    runs_folder: RunsOption = RUNS,
) -> None:
    """Is this revision slower than that one? PASS, FAIL, INCONCLUSIVE or INVALID (exit codes 0, 1, 3, 4).

    Worktrees and environments are kept in RUNS/.gate; `rm -r` it, then `git worktree prune`, to be rid of them.
    """
    from harness.gate import commits, revisions, runner
    from harness.gate import micro as gate_micro
    from harness.study.file import ROOT

    cache, seconds = runs_folder / ".gate", 60.0 * minutes
    runner.clear(_files(markdown, junit))  # before anything can fail
    rooms = gate_micro.chosen(micro or ())
    if rooms:
        gate_micro.refuse_too_short(rooms, seconds)
    else:
        commits.refuse_too_short(seconds)
    tell = partial(console.out, highlight=False)
    one, other = revisions.prepare(ROOT, cache, (base, head), tell, build=build)
    notes = ("Uncommitted changes of this checkout are not measured.",) if revisions.dirty(ROOT) else ()
    setting = _setting("base", "head", cache, runs_folder, (markdown, junit), notes)
    if not rooms:
        raise typer.Exit(commits.run(one, other, setting, cache=cache, seconds=seconds))
    with commits.slots(cache, one, other) as slots:
        raise typer.Exit(gate_micro.run(one, other, setting, slots=slots, rooms=rooms, seconds=seconds))


def ab(
    file: Annotated[Path, typer.Option("-f", "--locustfile", help="Any Locust file.")],
    a: Annotated[
        str, typer.Option("--a", metavar="CMD", help="The program compared against; {port} becomes a port of its own.")
    ],
    b: Annotated[str, typer.Option("--b", metavar="CMD", help="The program judged.")],
    ready: Annotated[
        str,
        typer.Option(
            help="line (JSON), port, port:HOST:PORT, url:URL, url:/PATH or pattern:REGEX;"
            " by default port where the command has {port}, else line."
        ),
    ] = "",
    users: Annotated[int, typer.Option(min=1, help="Locust users.")] = 16,
    rate: Annotated[
        float, typer.Option(min=0.0, callback=number, help="Arrivals per second; 0 = each user asks again at once.")
    ] = 0.0,
    seconds: Annotated[
        float,
        typer.Option(callback=number, help="Measure for at most this long: 111 or more, at a --rate below 300 longer."),
    ] = 300.0,
    request: Annotated[str, typer.Option(help="The request name whose latency counts; by default all.")] = "",
    errors: Annotated[
        float, typer.Option(min=0.0, max=1.0, callback=number, help="Share of requests that may fail.")
    ] = 0.0,
    awake: Annotated[bool, typer.Option("--awake", help="Keep cores from sleeping: less noise.")] = False,
    markdown: MarkdownOption = None,
    junit: JunitOption = None,
    runs_folder: RunsOption = RUNS,
) -> None:
    """Is program b slower than program a? Any Locust file, any server, no study file."""
    from harness.gate import ab as comparing
    from harness.gate import runner

    runner.clear(_files(markdown, junit), file)  # before anything can fail
    ask = comparing.Ask(file, a, b, ready, users, rate, seconds, request, errors, awake)
    setting = _setting("a", "b", Path(), runs_folder, (markdown, junit))
    raise typer.Exit(comparing.run(ask, setting))


def doctor(
    minutes: Annotated[
        float, typer.Option(min=0.0, max=60.0, callback=number, help="Measure equal arms for this long; 0 = not.")
    ] = 1.0,
) -> None:
    """Is this machine fit to measure on? What it looks like, what it can prove, how often it would cry wolf."""
    from harness import doctor as examining
    from harness import fitness
    from harness.display import RunDisplay
    from reports import doctor_view

    found = examining.machine()
    console.print(doctor_view.findings(found))
    if minutes:
        with RunDisplay(console) as display:
            equal = examining.equal(60.0 * minutes, display)
        console.print(doctor_view.equal(equal))
        found += fitness.findings(equal)
    console.print(doctor_view.answer(found))
    raise typer.Exit(0 if fitness.fit(found) else 1)


def _directions(lower: Sequence[str], higher: Sequence[str]) -> Mapping[str, Direction]:
    if both := set(lower) & set(higher):
        raise UsageError(f"--lower and --higher are both {min(both)!r}; expected one of them")
    return {**dict.fromkeys(lower, "lower"), **dict.fromkeys(higher, "higher")}


def _setting(
    base: str, head: str, directory: Path, runs_folder: Path, files: tuple[Path | None, Path | None],
    notes: tuple[str, ...] = (),
) -> Setting:  # fmt: skip
    from harness.gate.runner import Setting

    now = datetime.datetime.now(datetime.UTC)
    return Setting(directory.absolute(), runs_folder, command_line(), base, head, console, now, _files(*files), notes)


def _files(markdown: Path | None, junit: Path | None) -> Files:
    return tuple((kind, path) for kind, path in (("markdown", markdown), ("junit", junit)) if path is not None)
