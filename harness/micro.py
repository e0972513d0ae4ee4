"""The micro suite as a user meets it: rounds of short workers, standard pyperf files, a table, a page.

A round measures every room once: one worker for each variant, in random order, so that on, off and peers meet the same
weather. Rounds go on until the time is spent. Every worker is kept as soon as it is done; what was measured when the
user interrupts is judged.
"""

from __future__ import annotations

import datetime
import io
import os
import random
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from harness.analyse.micro import OFF, ON, CaseResult, Reading, Room, analyse
from harness.errors import INTERRUPTED, BenchError, MeasurementVoid, StoreError
from harness.execute import host
from harness.execute.micro import ROOMS, Job, catalogue, measure, merge, readings
from harness.study.file import ROOT

LEAST_ROUNDS = 7
"so many unanimous rounds give a bounded 95 % interval, with one to spare"
SECONDS_PER_ROOM = 20.0
VALUE_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for; `seconds` None: as long as the default takes, but never too few rounds for intervals."""

    rooms: tuple[str, ...]
    peers: bool
    threads: int
    seconds: float | None
    seed: int


def start(wish: Wish, root: Path, command: str, console: Console, now: datetime.datetime) -> int:
    """Measure, write the run folder, show the table; returns the exit code."""
    rooms = [catalogue(name) for name in dict.fromkeys(wish.rooms or ROOMS)]
    _tell_missing(wish, rooms, console)
    with folder_for(root, now) as folder:
        return _run(wish, rooms, folder, command, console, now)


def _run(
    wish: Wish, rooms: Sequence[Room], folder: Path, command: str, console: Console, now: datetime.datetime
) -> int:
    suites: dict[str, Any] = {}
    found: list[Reading] = []
    ended_by: KeyboardInterrupt | BenchError | None = None
    begun = 0
    try:
        with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as bar:
            task = bar.add_task("starting")
            for job in jobs(wish, rooms):
                bar.update(task, description=f"round {job.round + 1}: {job.room}, {job.variant}")
                if job.round + 1 > begun and not console.is_terminal:
                    begun = job.round + 1
                    console.print(f"round {begun} begins; {_wanted(wish, len(rooms))}", highlight=False)
                suite = measure(job)
                found += readings(suite, job)
                merge(suites, name := f"{job.room}-{job.variant}", suite)
                keep(suites[name], folder / "pyperf" / f"{name}.json")
    except (KeyboardInterrupt, BenchError) as error:
        ended_by = error
    if ended_by and not found:
        if isinstance(ended_by, BenchError):
            raise ended_by
        return INTERRUPTED
    results = analyse(rooms, found)
    _show(results, folder, console)
    try:
        _write(folder, wish, rooms, results, command, now)
        console.out(f"report: {folder / 'report.html'}", highlight=False)
    except StoreError as error:
        ended_by = ended_by if isinstance(ended_by, BenchError) else error  # the first of the two says more
    if isinstance(ended_by, BenchError):
        where = f"; what was measured until then is kept in {folder}" if _kept(folder) else ""
        raise MeasurementVoid(f"{ended_by}{where}", ended_by.fault)
    return INTERRUPTED if ended_by else 0


def _budget(wish: Wish, rooms: int) -> float:
    return SECONDS_PER_ROOM * rooms if wish.seconds is None else wish.seconds


def _wanted(wish: Wish, rooms: int) -> str:
    """How long it goes on."""
    least = f", at least {LEAST_ROUNDS} rounds" if wish.seconds is None else ""
    return f"as many as fit into {_budget(wish, rooms):.0f} s{least}"


def jobs(wish: Wish, rooms: Sequence[Room], clock: Any = time.monotonic) -> Iterator[Job]:
    """The workers in the order to be run; asks the clock, after the least number of rounds, whether there is time."""
    chance = random.Random(wish.seed)
    budget = _budget(wish, len(rooms))
    least = LEAST_ROUNDS if wish.seconds is None else 1
    began = clock()
    number, longest = 0, 0.0
    while number < least or clock() - began + longest < budget:
        before = clock()
        yield from _round(wish, rooms, number, chance, memory=False)
        longest = max(longest, clock() - before)
        number += 1
        if number == 1:
            yield from _round(wish, rooms, 0, chance, memory=True)


def _round(wish: Wish, rooms: Sequence[Room], number: int, chance: random.Random, *, memory: bool) -> Iterator[Job]:
    for room in chance.sample(rooms, len(rooms)):
        names = [name for name in chosen(room, wish.peers) if _measures(room, name, memory)]
        for name in chance.sample(names, len(names)):
            env = room.env.get(name, {})
            seed = chance.getrandbits(31)
            yield Job(room.room, name, number, seed, wish.threads, VALUE_SECONDS, env, memory)


def chosen(room: Room, peers: bool) -> list[str]:
    """The variants to be measured: ours, and the installed peers if they are wanted."""
    known = dict.fromkeys(name for case in room.cases for name in case.variants)
    left_out = room.missing if peers else room.peers
    return [name for name in known if name not in left_out]


def _measures(room: Room, variant: str, memory: bool) -> bool:
    return any(variant in case.variants and (case.unit == "byte") == memory for case in room.cases)


def _tell_missing(wish: Wish, rooms: Iterable[Room], console: Console) -> None:
    missing = sorted({name for room in rooms for name in room.missing})
    if wish.peers and missing:
        told = f"not installed, so not measured: {', '.join(missing)} (pip install -e '.[peers]')"
        console.out(told, highlight=False)


@contextmanager
def folder_for(root: Path, now: datetime.datetime, kind: str = "micro") -> Iterator[Path]:
    """A new run folder, which goes again if nothing was kept in it. `runs/latest` stays with the studies.

    Raises `StoreError` where it cannot be made.
    """
    folder = _new_folder(root, now, kind)
    try:
        yield folder
    finally:
        if not _kept(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _kept(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*"))


def _new_folder(root: Path, now: datetime.datetime, kind: str) -> Path:
    stem = f"{now:%Y%m%d-%H%M%S}-{kind}"
    for name in (stem, *(f"{stem}-{number}" for number in range(2, 100))):
        folder = root / name
        try:
            (folder / "pyperf").mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {error.strerror or error}") from error
        return folder
    raise StoreError(f"{root} holds too many runs of this very second")


def keep(suite: Any, path: Path) -> None:
    """Write the suite as it stands: whatever ends this process, the workers so far are kept. Raises `StoreError`."""
    import reports

    text = io.StringIO()
    suite.dump(text)
    try:
        reports.replace(path, text.getvalue().encode())
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error


def _write(
    folder: Path, wish: Wish, rooms: Sequence[Room], results: Sequence[CaseResult], command: str,
    now: datetime.datetime,
) -> None:  # fmt: skip
    import reports
    from reports import micro as views

    about = views.About(
        run=folder.name,
        command=command,
        started=now.timestamp(),
        seed=wish.seed,
        threads=wish.threads,
        peers=wish.peers,
    )
    environment = host.environment(ROOT)
    try:
        reports.replace(folder / "summary.json", views.summary(results, rooms, environment, about))
        reports.replace(folder / "report.html", views.page(results, rooms, environment, about).encode())
    except OSError as error:
        raise StoreError(f"the report cannot be written to {folder}: {error.strerror or error}") from error


def _show(results: Sequence[CaseResult], folder: Path, console: Console) -> None:
    from reports import micro as views

    console.print(views.terminal(results))
    rounds = max(cell.workers for each in results for cell in each.cells)
    if any(one.estimate and not one.estimate.bounded for each in results for one in each.ratios):
        told = "1 round is" if rounds == 1 else f"{rounds} rounds are"
        told += f" too few to bound an interval: ask for more --seconds, or for none and have {LEAST_ROUNDS} or more"
        console.out(told, highlight=False)
    names = f"{folder / 'pyperf'}{os.sep}ROOM-{OFF}.json ROOM-{ON}.json"
    console.out(f"compare: pyperf compare_to {names}", highlight=False)
