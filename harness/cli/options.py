"""What several commands share: where runs are, and the command as it was typed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

RUNS = Path("runs")
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["synapsed-bench", *sys.argv[1:]])
