"""What several commands share: where runs are, and the command as it was typed."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.errors import UsageError

RUNS = Path("runs")
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]


def number(value: float | None) -> float | None:
    """What an option takes: neither infinite nor no number at all, which the types of the command line let through."""
    if value is not None and not math.isfinite(value):
        raise UsageError(f"{value}; expected a finite number")
    return value


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["synapsed-bench", *sys.argv[1:]])
