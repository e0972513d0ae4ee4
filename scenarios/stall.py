"""Does a stall of the target show? `python -m scenarios.stall`

A reference node is stopped for a second in the middle of a minute at 500 requests a second, twice: once under this
harness (an open segment, latency from the intended start), once under plain Locust (20 users of
`constant_throughput(25)`, its own statistics). A schedule that goes on through the stall finds 500 requests late,
evenly from 0 to 1 s, so of 30,000 requests the slowest thousandth took 0.94 s or more. A generator that waits for its
answers before it asks again finds 20.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from harness.analyse.contrast import value_of
from harness.errors import BenchError, LoadError
from harness.execute import burst, host
from harness.execute.guard import GUARD
from harness.execute.target import Target
from harness.measure.metrics import metric
from harness.study.file import ROOT
from harness.study.records import Workload

FILE = ROOT / "scenarios" / "load" / "steady.py"
NODE = (sys.executable, "-m", "reference_impl", "--peers", "8")
USERS = 64
WARM_SECONDS = 0.2
LOCUST_USERS = 20
PERCENTILE = 99.9
TOLERANCE = 0.10


@dataclass(frozen=True, slots=True)
class Stall:
    """What happens: `rate` requests a second for `seconds`, and in their middle the target stops for `stopped`."""

    seconds: float = 60.0
    rate: float = 500.0
    stopped: float = 1.0

    def expected(self) -> float:
        """The percentile an unbroken schedule sees, in seconds; 0 when too few requests were late."""
        late = self.stopped * self.rate
        beyond = (1.0 - PERCENTILE / 100.0) * self.seconds * self.rate
        return self.stopped * max(0.0, 1.0 - beyond / late)


def with_harness(stall: Stall) -> float:
    """The percentile as this harness reports it, in seconds: the metric of a segment, as in any report.

    Raises `TargetError` or `LoadError`.
    """
    workload = Workload(name="steady", file=str(FILE), arrivals="constant", users=USERS, rate=stall.rate)
    plan = burst.BurstSpec(0, (burst.ArmSpec("all", NODE, ("all",)),), (workload,))
    arrivals = tuple((np.arange(round(stall.seconds * stall.rate)) / stall.rate).tolist())
    short = tuple(each for each in arrivals if each < WARM_SECONDS)
    visits = (
        burst.BlockSpec("steady", 0, ("all",), short, stall.rate, WARM_SECONDS),
        burst.BlockSpec("steady", 1, ("all",), arrivals, stall.rate, stall.seconds, "segment"),
    )
    with burst.running(plan) as running:
        rows = running.slices(visits)
        next(rows)
        with _stalled(running.target_pid("all"), stall):
            segment = next(rows)
    found = value_of(metric("latency_p999"), segment, workload.request)
    if isinstance(found, str):
        raise LoadError(f"the segment has no percentile: {found}")
    return found


def with_locust(stall: Stall) -> float:
    """The percentile as plain Locust reports it, in seconds."""
    with _node() as node:
        env = {
            "SYNAPSED_TARGET": json.dumps(node.ready),
            "SYNAPSED_OPTIMIZATIONS": "all",
            "STEADY_PACE": str(stall.rate / LOCUST_USERS),
        }
        command = [
            *(sys.executable, "-m", "locust", "-f", str(FILE), "--headless", "--json", "--loglevel", "INFO"),
            *("-u", str(LOCUST_USERS), "-r", str(LOCUST_USERS)),
        ]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, stdout=pipe, stderr=pipe, env={**os.environ, **env}, text=True, process_group=0
        ) as locust:
            GUARD.watch(locust.pid)
            try:
                _wait_for_users(locust)
                host.pin((locust.pid,), host.cores()[1:2])
                with _stalled(node.pid, stall):
                    said = _after(stall.seconds, locust)
            finally:
                locust.kill()
                GUARD.release(locust.pid)
    counts = {float(ms): count for entry in json.loads(said) for ms, count in entry["response_times"].items()}
    return percentile(counts) / 1e3


def _wait_for_users(locust: subprocess.Popen[str]) -> None:
    """Until Locust says that its users are there. Raises `LoadError` when it ends instead."""
    assert locust.stderr is not None
    said = ""
    for line in locust.stderr:
        if "All users spawned" in line:
            return
        said = line.strip() or said
    raise LoadError(f"locust ended before its users were there: {said}")


def _after(seconds: float, locust: subprocess.Popen[str]) -> str:
    """What Locust prints when it is ended `seconds` from now.

    Its own time limit runs from before its users are there: on a busy machine it would end within the stall, and the
    requests that wait there are in no statistics. Raises `LoadError` when it ends by itself.
    """
    try:
        _, said = locust.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        locust.terminate()
        try:
            return locust.communicate(timeout=60.0)[0]
        except subprocess.TimeoutExpired:
            raise LoadError("locust did not end within a minute of being told to") from None
    raise LoadError(f"locust ended before its time: {said.strip()}")


def percentile(counts: Mapping[float, int]) -> float:
    """The response time that PERCENTILE of the requests stay at or below, from counts by rounded time."""
    left = sum(counts.values()) * (1.0 - PERCENTILE / 100.0)
    for value, count in sorted(counts.items(), reverse=True):
        left -= count
        if left < 0:
            return value
    return 0.0


@contextmanager
def _node() -> Iterator[Target]:
    with Target.start(NODE, {"SYNAPSED_OPTIMIZATIONS": "all"}) as node:
        host.pin(node.pids(), host.cores()[:1])
        yield node


@contextmanager
def _stalled(pid: int, stall: Stall) -> Iterator[None]:
    """Stop the process half-way through, for as long as asked; it runs again in the end, whatever happens."""
    over = threading.Event()

    def stop() -> None:
        if over.wait(stall.seconds / 2):
            return
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        over.wait(stall.stopped - (time.monotonic() - began))
        os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when the harness shows the stall within TOLERANCE and Locust's own statistics do not, 1 when one of
    the two is not so, 2 for a wrong option, and an error's own.
    """
    parser = argparse.ArgumentParser(prog="python -m scenarios.stall", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the segment")
    stall = Stall(seconds=parser.parse_args(argv).seconds)
    longest = stall.stopped / (1.0 - PERCENTILE / 100.0)
    if not 2.0 * stall.stopped <= stall.seconds < round(longest):
        parser.error(f"--seconds {stall.seconds:g}; expected {2.0 * stall.stopped:g} or more and less than {longest:g}")
    try:
        expected, found, locust = stall.expected(), with_harness(stall), with_locust(stall)
    except BenchError as error:
        sys.stderr.write(f"{parser.prog}: {error.fault}: {error}\n")
        return error.exit_code
    sys.stdout.write(
        f"p{PERCENTILE:g} through a stall of {stall.stopped:g} s in {stall.seconds:g} s at {stall.rate:g}/s:\n"
        f"  expected of an unbroken schedule  {expected:.3f} s\n"
        f"  this harness                      {found:.3f} s ({found / expected - 1.0:+.1%})\n"
        f"  plain Locust, its own statistics  {locust:.3f} s ({locust / expected - 1.0:+.1%})\n"
    )
    shown = abs(found / expected - 1.0) <= TOLERANCE
    hidden = abs(locust / expected - 1.0) > TOLERANCE
    return 0 if shown and hidden else 1


if __name__ == "__main__":
    sys.exit(main())
