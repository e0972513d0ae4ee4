"""How close does a Locust load process come to the fastest loop there could be? `python -m scenarios.ceiling`

Both send the same encrypted 1 KiB requests from 32 greenlets to the same node with all optimizations on: a bare gevent
loop (`scenarios/bare.py`) and Locust, held by the harness, running `scenarios/load/surge.py`. They take turns in short
adjacent slices in random order, node on the first core, load on the second. Processes are started afresh several times,
because memory layout shifts all slices of one start alike: the ratio is the centre over starts of the median over their
rounds. The command takes about a minute and a half.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import NoReturn

import numpy as np

from harness.analyse.centre import centre, centre_interval
from harness.errors import BenchError, LoadError
from harness.execute import host
from harness.execute.load import LoadProcess, LoadSpec
from harness.execute.target import Target
from harness.execute.wire import OpenSlice, WorkloadFile
from harness.study.file import ROOT
from scenarios.bare import PEERS, USERS

GOAL = 0.5
CONFIDENCE = 0.95
_QUIET = 0.01
_DRAIN = 5.0
_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class Round:
    """Two adjacent slices: answered requests per second of each side. `start` counts the sets of processes."""

    start: int
    bare: float
    locust: float

    @property
    def ratio(self) -> float:
        """Locust's share of the bare loop's rate."""
        return self.locust / self.bare


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Median requests per second of both sides, and the ratio with its interval at `CONFIDENCE`."""

    bare: float
    locust: float
    ratio: float
    low: float
    high: float


class BareLoop:
    """The bare loop's process; `stop` ends it, and so does the end of this process."""

    def __init__(self, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scenarios.bare"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
        )
        self.pid = self._process.pid

    def wait_ready(self) -> None:
        """Wait until every connection stands. Raises LoadError."""
        self._hear()

    def rate(self, seconds: float) -> float:
        """Answered requests per second of one slice. Raises LoadError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._died()
        answered, took = map(float, self._hear().split())
        return answered / took

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        with self._process:  # closes the pipes and waits
            pass

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline() or self._died()

    def _died(self) -> NoReturn:
        raise LoadError(f"the bare loop (pid {self.pid}) died with exit status {self._process.wait(_GRACE)}")


class _Start:
    """One set of processes, ready and pinned."""

    def __init__(self, target: Target, bare: BareLoop, locust: LoadProcess) -> None:
        self._target, self._bare, self._locust = target, bare, locust

    def bare(self, seconds: float) -> float:
        return self._bare.rate(seconds)

    def locust(self, seconds: float) -> float:
        result = self._locust.slice(OpenSlice("surge", seconds, _QUIET, _DRAIN, self._target.pids()))
        if result.failed or result.rejected:
            raise LoadError(f"requests failed: {result.failed}, {result.rejected} rejected")
        return result.answered / result.seconds


@contextmanager
def _started() -> Iterator[_Start]:
    node = (sys.executable, "-m", "reference_impl", "--on", "all", "--peers", str(PEERS))
    with Target.start(node, {"PYTHONPATH": str(ROOT)}, ready_timeout=30.0, name="node") as target:
        env = {"SYNAPSED_TARGET": json.dumps(target.ready), "SYNAPSED_OPTIMIZATIONS": "all"}
        bare = BareLoop(env)
        try:
            surge = WorkloadFile("surge", str(ROOT / "scenarios" / "load" / "surge.py"), USERS)
            with LoadProcess.start(LoadSpec("locust", (surge,), env)) as locust:
                bare.wait_ready()
                cores = host.cores()
                host.pin(target.pids(), cores[:1])
                host.pin((bare.pid, *locust.pids()), cores[1:2])
                yield _Start(target, bare, locust)
        finally:
            bare.stop()


def rounds(starts: int, per_start: int, seconds: float, rng: random.Random) -> Iterator[Round]:
    """`starts` times fresh processes, warmed by one slice each, and `per_start` rounds of slices of `seconds` s."""
    for number in range(starts):
        with _started() as processes:
            sides = [processes.bare, processes.locust]
            for side in sides:
                side(seconds)
            for _ in range(per_start):
                rates = {side: side(seconds) for side in rng.sample(sides, 2)}
                yield Round(number, rates[processes.bare], rates[processes.locust])


def ceiling(measured: Sequence[Round]) -> Ceiling:
    """The ratio over starts (signed ranks of their medians), and the median rate of each side."""
    starts = {each.start for each in measured}
    medians = np.array([median(math.log(e.ratio) for e in measured if e.start == start) for start in sorted(starts)])
    low, high = centre_interval(medians, CONFIDENCE)
    return Ceiling(
        bare=median(each.bare for each in measured),
        locust=median(each.locust for each in measured),
        ratio=math.exp(centre(medians)),
        low=math.exp(low),
        high=math.exp(high),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print every start and the result; 0 when the goal lies below the interval, else 1; 2 for a wrong option, and an
    error's own exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m scenarios.ceiling", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--starts", type=int, default=12, help="sets of fresh processes; fewer than 6 give no interval")
    parser.add_argument("--rounds", type=int, default=6, help="pairs of slices per set of processes")
    parser.add_argument("--seconds", type=float, default=0.4, help="length of one slice")
    options = parser.parse_args(argv)
    if min(options.starts, options.rounds) < 1 or not 0.0 < options.seconds < math.inf:
        parser.error("expected at least one start, one round and slices of more than 0 seconds")
    measured: list[Round] = []
    try:
        for each in rounds(options.starts, options.rounds, options.seconds, random.Random(0)):
            measured.append(each)
            sys.stdout.write(
                f"start {each.start + 1}: bare {each.bare:8,.0f}/s  locust {each.locust:8,.0f}/s  {each.ratio:.3f}\n"
            )
            sys.stdout.flush()
    except BenchError as error:
        sys.stderr.write(f"{parser.prog}: {error.fault}: {error}\n")
        return error.exit_code
    found = ceiling(measured)
    sys.stdout.write(
        f"bare gevent loop {found.bare:,.0f} requests/s, one Locust process {found.locust:,.0f} requests/s\n"
        f"ratio {found.ratio:.3f}, {CONFIDENCE:.0%} interval {found.low:.3f} to {found.high:.3f} (goal {GOAL})\n"
    )
    return 0 if found.low >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
