"""Workers of the micro suite: started fresh, one room in one variant each, read back as pyperf suites."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyperf

from harness.analyse.micro import Reading, Room
from harness.errors import TargetError, UsageError
from harness.execute.process import Child, python_path

ROOMS = ("pooling", "cleanup", "rate_limit", "circuit_breaker", "buffer_pool", "metrics", "channel", "calm")
_WORKER = ("-P", "-m", "scenarios.micro.worker")
_PATIENCE = 300.0
"seconds after which a worker is hung"


@dataclass(frozen=True, slots=True)
class Job:
    """One worker: the cases of `room` in `variant`, each value over about `seconds`, or only its memory."""

    room: str
    variant: str
    round: int
    seed: int
    threads: int
    seconds: float
    env: Mapping[str, str]
    memory: bool = False
    python: str = sys.executable
    "the interpreter of the worker; what it measures is found on the PYTHONPATH of `env`, else here"


def catalogue(room: str, env: Mapping[str, str] | None = None, python: str = sys.executable) -> Room:
    """What the room's script measures. Raises `UsageError` for an unknown room, `TargetError` when it cannot tell."""
    if room not in ROOMS:
        raise UsageError(f"unknown room {room!r}; expected some of: {', '.join(ROOMS)}")
    lines, words = _run([python, *_WORKER, "catalogue", room], env or {})
    try:
        return msgspec.json.decode("".join(lines), type=Room)
    except msgspec.DecodeError:
        raise TargetError(f"the room {room} cannot say what it measures: {words}") from None


def measure(job: Job) -> pyperf.BenchmarkSuite:
    """The worker's suite. Raises `TargetError` when it fails or hangs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "worker.json"
        options = {"--out": out, "--seed": job.seed, "--threads": job.threads, "--seconds": job.seconds}
        arguments = [str(each) for option in options.items() for each in option] + ["--memory"] * job.memory
        _, words = _run([job.python, *_WORKER, "measure", job.room, job.variant, *arguments], job.env)
        try:
            return pyperf.BenchmarkSuite.load(str(out))
        except (OSError, ValueError):  # written at the very end, so there is none, or half of one
            raise TargetError(f"the worker of {job.room}, {job.variant} measured nothing: {words}") from None


def readings(suite: pyperf.BenchmarkSuite, job: Job) -> list[Reading]:
    """One reading for each benchmark of a worker's suite."""
    found = []
    for benchmark in suite:
        told = benchmark.get_metadata()
        name = benchmark.get_name().removeprefix(f"{job.room}: ")
        value = float(np.median(benchmark.get_values()))
        more = (float(told.get(each, 0.0)) for each in ("page_faults", "cpu_time"))
        found.append(Reading(job.room, name, job.variant, job.round, value, *more))
    return found


def merge(into: dict[str, pyperf.BenchmarkSuite], key: str, suite: pyperf.BenchmarkSuite) -> None:
    """Add a worker's runs to the suite of its room and variant."""
    if key in into:
        into[key].add_runs(suite)
    else:
        into[key] = suite


def _run(command: list[str], env: Mapping[str, str]) -> tuple[list[str], str]:
    """The lines the program printed, and how it ended."""
    lines: list[str] = []
    child = Child(command, env={**env, "PYTHONPATH": python_path(env)}, on_line=lines.append)
    words = ""
    try:
        words = child.epitaph() if child.wait(_PATIENCE) else f"did not end within {_PATIENCE:.0f} s"
    finally:
        child.end(0.0)
    return lines, words
