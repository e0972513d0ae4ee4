"""One short worker: measures the cases of one room in one variant and writes them as a pyperf suite.

`python -m scenarios.micro.worker catalogue ROOM` prints what there is to measure, as JSON. Values are the mean cost of
one operation over a stretch of loops, short enough that most stretches are not preempted on a busy machine; the loops
that calibrate are kept as pyperf's warm-ups. Each run carries CPU
seconds and page faults per operation of this process in its metadata.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import random
import resource
import sys
import time
from contextlib import ExitStack
from typing import Any

import pyperf

from scenarios.micro.suite import Builder, Case, Room, Setup, Timed

ROOMS = ("pooling", "cleanup", "rate_limit", "circuit_breaker", "buffer_pool", "metrics", "channel", "calm")


LEAST_VALUES = 5
LONG = 0.1
"an operation of more seconds is done twice in all"


def room_of(name: str) -> Room:
    """The room's cases, from its script."""
    room: Room = importlib.import_module(f"scenarios.micro.{name}").ROOM
    return room


def catalogue(room: Room) -> dict[str, Any]:
    """What a room measures, as plain data."""
    cases = [
        {
            "name": case.name,
            "variants": list(case.variants),
            "goals": [dataclasses.asdict(goal) for goal in case.goals],
            "unit": case.unit,
        }
        for case in room.cases
    ]
    env = {variant: dict(values) for variant, values in room.env.items()}
    peers = sorted(room.needs)
    return {
        "room": room.name,
        "about": room.about,
        "peers": peers,
        "missing": room.missing(),
        "env": env,
        "cases": cases,
    }


def measure(case: Case, build: Builder, threads: int, seconds: float, values: int) -> tuple[Any, dict[str, Any]]:
    """((warm-ups, values), metadata) of one case: `values` stretches of about `seconds` each."""
    with ExitStack() as stack:
        timed = build(Setup(threads, stack))
        if case.unit == "byte":
            return ((), [timed(1)]), {"unit": "byte", "loops": 1}
        warmups, loops = _calibrate(timed, seconds * case.weight)
        values = max(LEAST_VALUES, round(values / case.weight)) if warmups[-1][1] <= LONG else 1
        faults, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        found = [timed(loops) / loops for _ in range(values)]
        cpu = time.process_time() - cpu
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    done = loops * values
    return (warmups, found), {"unit": "second", "loops": loops, "page_faults": faults / done, "cpu_time": cpu / done}


def _calibrate(timed: Timed, target: float) -> tuple[list[tuple[int, float]], int]:
    warmups = []
    loops = 1
    while True:
        took = timed(loops)
        warmups.append((loops, took / loops))
        if took >= target:
            return warmups, loops
        loops = max(loops + 1, min(10 * loops, int(loops * 1.1 * target / max(took, 1e-7))))


def _measure_all(room: Room, options: argparse.Namespace) -> pyperf.BenchmarkSuite:
    cases = [
        case for case in room.cases if options.variant in case.variants and (case.unit == "byte") == options.memory
    ]
    random.Random(options.seed).shuffle(cases)  # where a case meets the heap is chance, not always the same
    benchmarks: list[pyperf.Benchmark] = []
    for case in cases:
        (warmups, values), told = measure(
            case, case.variants[options.variant], options.threads, options.seconds, options.values
        )
        metadata = {"name": f"{room.name}: {case.name}", "seed": options.seed, "variant": options.variant, **told}
        run = pyperf.Run(values, warmups=warmups, metadata=metadata, collect_metadata=True)
        benchmarks.append(pyperf.Benchmark([run]))
    return pyperf.BenchmarkSuite(benchmarks)


def main(argv: list[str] | None = None) -> None:
    """Entry point: `catalogue ROOM`, or `measure ROOM VARIANT --out FILE ...`."""
    parser = argparse.ArgumentParser(description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("catalogue").add_argument("room", choices=ROOMS)
    one = actions.add_parser("measure")
    one.add_argument("room", choices=ROOMS)
    one.add_argument("variant")
    one.add_argument("--out", required=True)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--threads", type=int, default=8)
    one.add_argument("--seconds", type=float, default=0.001, help="of one value")
    one.add_argument("--values", type=int, default=15)
    one.add_argument("--memory", action="store_true", help="count bytes instead of measuring time")
    options = parser.parse_args(argv)
    room = room_of(options.room)
    if options.action == "catalogue":
        json.dump(catalogue(room), sys.stdout)
    else:
        _measure_all(room, options).dump(options.out, replace=True)


if __name__ == "__main__":
    main()
