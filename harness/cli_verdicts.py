"""The commands that end in a word: judge, ab, gate, doctor. `register` adds them to the command line."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.analyse.records import Direction
from harness.errors import StoreError

MarkdownOption = Annotated[Path | None, typer.Option(help="Write a Markdown summary to this file.")]
JunitOption = Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")]
console = Console()


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(judge)


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
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Of all verdicts together.")] = 0.95,
    markdown: MarkdownOption = None,
    json: Annotated[Path | None, typer.Option(help="Write summary.json (docs/summary-schema.md) to this file.")] = None,
    junit: JunitOption = None,
) -> None:
    """Verdicts on data measured with any other tool."""
    from harness import judge as judging
    from reports import judged_view

    directions: dict[str, Direction] = dict.fromkeys(lower or (), "lower")
    directions |= dict.fromkeys(higher or (), "higher")
    ask = judging.Ask(a, b, tuple(expect or ()), directions, confidence, sequential, gate)
    found = judging.judged(judging.read(pairs), ask)
    for path, view in ((markdown, judged_view.as_markdown), (json, judged_view.as_json), (junit, judged_view.as_junit)):
        if path is not None:
            write(path, view(found, pairs, command_line()))
    console.print(judged_view.on_terminal(found, pairs, command_line()))
    raise typer.Exit(found.exit_code)


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["synapsed-bench", *sys.argv[1:]])


def write(path: Path, content: bytes) -> None:
    """Put a report where the user asked for it. Raises `StoreError`."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
