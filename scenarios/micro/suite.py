"""What a micro benchmark is, and how the scripts of this folder run as ordinary pyperf scripts.

A case is one operation; its variants do that operation with our off twin, our on twin, or a peer: a published library
with comparable semantics. What a peer does and does not do stands beside its builder. Builders run in the measuring
process only, so a worker imports no library but the one it measures.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, cycle, islice
from time import perf_counter
from typing import Any, Literal

Timed = Callable[[int], float]
"""Does the operation so many times and returns the seconds that took; for a memory case, the bytes."""
OURS = ("off", "first-day-reuse", "unlimited", "malloc-tuned", "on")
"""Variants that need no peer library."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a builder may use: the number of threads asked for, and a stack for what must be closed afterwards."""

    threads: int
    stack: ExitStack


Builder = Callable[[Setup], Timed]


@dataclass(frozen=True, slots=True)
class Goal:
    """What our on twin should cost: at most `bound` times `against` of this run, or of its case `case`.

    Without `against` the bound is absolute: bytes, or page faults per operation where `of` says so.
    """

    bound: float
    against: str = ""
    why: str = ""
    case: str = ""
    of: Literal["value", "page_faults"] = "value"


@dataclass(frozen=True, slots=True)
class Case:
    """One operation, or one thing whose bytes are counted. Memory is counted once a run, since that takes seconds and
    does not vary; the values of timed cases span `weight` times the usual stretch, and are as many fewer.
    """

    name: str
    variants: Mapping[str, Builder]
    goals: tuple[Goal, ...] = ()
    unit: Literal["second", "byte"] = "second"
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Room:
    """The cases of one script. `needs`: the import name of each peer; `env`: what a variant's process must be given."""

    name: str
    about: str
    cases: tuple[Case, ...]
    needs: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """The peers that are not installed here."""
        return sorted(peer for peer, module in self.needs.items() if not _installed(module))


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that would hold it
        return False


def each(items: Iterable[Any], work: Callable[[Iterator[Any]], object]) -> Timed:
    """Times `work` over an iterator that goes round `items`, each stretch from where the last one ended.

    A stretch is short: begun anew, it would meet the same few of many items every time, and those in the caches.
    """
    going_round = cycle(tuple(items))

    def timed(loops: int) -> float:
        some = islice(going_round, loops)
        began = perf_counter()
        work(some)
        return perf_counter() - began

    return timed


TURNS = 60.0
"""Weight of a case in threads: each of eight then runs for more than the interpreter's turn of 5 ms. In the time of
other cases every one would be done before the next has its turn, and they would never meet."""


def in_threads(count: int, make: Callable[[int], Callable[[int], object]]) -> Timed:
    """Times `loops` operations shared by `count` threads, from the moment all of them stand ready.

    `make(number)` runs on the thread and gives what does n operations there.
    """

    def timed(loops: int) -> float:
        share = max(1, loops // count)
        ready = threading.Barrier(count + 1)

        def body(number: int) -> None:
            work = make(number)
            ready.wait()
            work(share)

        threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        ready.wait()
        began = perf_counter()
        for thread in threads:
            thread.join()
        return (perf_counter() - began) * loops / (share * count)

    return timed


def held(build: Callable[[], object]) -> float:
    """Bytes of Python memory that what `build` returns keeps alive (tracemalloc; C libraries' own mallocs excluded)."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = build()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        del kept
    finally:
        tracemalloc.stop()
    return float(after - before)


def bytes_per(count: int, build: Callable[[int], object]) -> Timed:
    """The memory case of `count` things, as many as asked for of which `build` makes and returns together."""

    def timed(loops: int) -> float:
        build(1)  # what comes with the first for all, such as the modules of a peer, is no thing's own
        return held(lambda: build(count)) / count

    return timed


def main(room: Room) -> None:
    """Run the room's cases as a pyperf script.

    `--variant on` measures that variant alone under the bare case names, so that `pyperf compare_to` can set two files
    side by side; without it all variants are measured, under the names "case [variant]".
    """
    import pyperf

    def inherit(command: list[str], options: Any) -> None:
        command.extend(("--threads", str(options.threads), "--variant", options.variant))
        if options.peers:
            command.append("--peers")

    runner = pyperf.Runner(add_cmdline_args=inherit)
    runner.argparser.add_argument("--peers", action="store_true", help="measure the peers that are installed too")
    runner.argparser.add_argument("--threads", type=int, default=8, help="threads of the cases with threads")
    runner.argparser.add_argument("--variant", default="all", help="off, on or a peer: only this one")
    options = runner.parse_args()
    variants = dict.fromkeys(chain.from_iterable(case.variants for case in room.cases))
    here = [name for name in variants if name not in _left_out(room)]
    if options.variant not in ("all", *here):
        runner.argparser.error(f"--variant {options.variant} cannot be measured here; expected all, {', '.join(here)}")
    if options.threads < 1:
        runner.argparser.error(f"--threads {options.threads}; expected 1 or more")
    if options.peers and (missing := room.missing()):
        print(f"not installed, left out: {', '.join(missing)}", file=sys.stderr)
    with ExitStack() as stack:
        for case in room.cases:
            for variant, build in chosen(room, case, peers=options.peers, variant=options.variant):
                name = case.name if options.variant != "all" else f"{case.name} [{variant}]"
                timed = _late(build, Setup(options.threads, stack))
                runner.bench_time_func(f"{room.name}: {name}", timed, metadata={"unit": case.unit})


def chosen(room: Room, case: Case, *, peers: bool, variant: str) -> Iterator[tuple[str, Builder]]:
    """The variants of a case that are asked for and can be measured in this very process."""
    left_out = _left_out(room)
    for name, build in case.variants.items():
        wanted = name == variant if variant != "all" else peers or name in OURS
        if wanted and name not in left_out:
            yield name, build


def _left_out(room: Room) -> set[str]:
    """What is not installed, or needs an environment of its own."""
    return {*room.missing(), *room.env}


def _late(build: Builder, setup: Setup) -> Timed:
    """Built on first use: pyperf's own process visits every case but measures none."""
    made: list[Timed] = []

    def timed(loops: int) -> float:
        if not made:
            made.append(build(setup))
        return made[0](loops)

    return timed
