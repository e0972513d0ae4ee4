"""The gate on the micro suite: what each case costs in one revision and in another, and in a twin of the first.

A round is a fresh worker of every room in every arm, the arms of a room next to each other in random order, so that
each round gives one pair per case; with one pair per burst the gate's evidence is exact. The scripts come from the
running checkout; each arm sees its own `reference_impl` through a directory that changes from round to round.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from harness.analyse.contrast import Key, Pairs, Value, pair_up, usable
from harness.analyse.micro import ON, Reading, Room
from harness.errors import INTERRUPTED, BenchError, MeasurementVoid, UsageError
from harness.execute.micro import ROOMS, Job, catalogue, measure, merge, readings
from harness.gate import rules, runner
from harness.gate.commits import BASE, HEAD, Slots
from harness.gate.revisions import Revision
from harness.gate.rules import GateDecision, Margins, Policy
from harness.gate.runner import Setting
from harness.gate.two_arms import refuse_too_few, weigh
from harness.micro import VALUE_SECONDS, folder_for, keep
from harness.plan.arms import hidden_name

POLICY = Policy(margins=Margins(fail=0.02, passing=0.05))
"wider than for requests: the address of a dictionary alone shifts a case of 100 ns by some per cent"
THREADS = 8
ALL = "all"
ARMS = (BASE, HEAD, hidden_name(BASE))


@dataclass(frozen=True, slots=True)
class Suite:
    """The revisions by arm, and the rooms that can be measured in all of them."""

    revisions: Mapping[str, Revision]
    rooms: tuple[Room, ...]


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The rooms of these names; `all` means each there is. Raises `UsageError` for an unknown one."""
    if unknown := [name for name in names if name not in (*ROOMS, ALL)]:
        raise UsageError(f"unknown room {unknown[0]!r}; expected {ALL} or some of: {', '.join(ROOMS)}")
    return ROOMS if ALL in names else tuple(dict.fromkeys(names))


def refuse_too_short(
    names: Sequence[str], seconds: float, policy: Policy = POLICY, clock: Callable[[], float] = time.monotonic
) -> None:
    """`UsageError` when the rounds before any word do not fit the time, going by one worker of each room, run here.

    Raises `TargetError` when one fails.
    """
    rooms = [catalogue(name) for name in names]
    began = clock()
    for room in rooms:
        measure(Job(room.room, ON, 0, 0, THREADS, VALUE_SECONDS, room.env.get(ON, {})))
    refuse_too_few(seconds, policy.min_bursts, "rounds", len(ARMS) * (clock() - began))


def run(
    base: Revision, head: Revision, setting: Setting, *, slots: Slots, rooms: Sequence[str], seconds: float,
    policy: Policy = POLICY, clock: Callable[[], float] = time.monotonic,
) -> int:  # fmt: skip
    """Measure until the word is final or the time is spent; returns the exit code.

    Raises `TargetError` when one of the rooms cannot be measured in a revision, `MeasurementVoid` when a worker fails
    later.
    """
    runner.clear(setting.files)
    suite = _suite(base, head, slots, rooms)
    found: list[Reading] = []
    decision, ended_by, began = _decide(found, policy), None, clock()
    try:
        with folder_for(setting.runs, setting.now, "gate-micro") as folder:
            for word in _rounds(suite, setting.console, folder, slots, policy, found):
                decision = word
                spent = clock() - began
                if decision.final or spent * (1.0 + 1.0 / _count(found)) > seconds:
                    break
    except (KeyboardInterrupt, BenchError) as error:
        ended_by = error
        decision = _decide(found, policy, str(error) or "interrupted before there was a verdict")
    _tell(decision, found, f"{head} against {base}", setting, clock() - began)
    if isinstance(ended_by, BenchError):
        raise MeasurementVoid(str(ended_by), ended_by.fault) if found else ended_by
    return INTERRUPTED if ended_by else rules.EXIT_CODES[decision.outcome]


def _suite(base: Revision, head: Revision, slots: Slots, rooms: Sequence[str]) -> Suite:
    revisions = dict(zip(ARMS, (base, head, base), strict=True))
    paths = slots.place(ARMS)
    found = []
    for name in rooms:
        for arm in (HEAD, BASE):  # the same script for both, which must be able to load either's code
            room = catalogue(name, {"PYTHONPATH": str(paths[arm])}, revisions[arm].python)
        if any(ON in case.variants and case.unit == "second" for case in room.cases):
            found.append(room)
    return Suite(revisions, tuple(found))


def _rounds(
    suite: Suite, console: Console, folder: Path, slots: Slots, policy: Policy, found: list[Reading]
) -> Iterator[GateDecision]:
    """Measure round after round into `found`; the gate's word after each."""
    chance = random.Random(policy.min_bursts)
    suites: dict[str, Any] = {}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting")
        for number in range(policy.max_bursts):
            fresh: list[Reading] = []  # a round counts as a whole
            for job, arm in jobs(suite, slots, number, chance):
                bar.update(task, description=f"round {number + 1}: {job.room}, {arm}")
                measured = measure(job)
                fresh += [_of(arm, each) for each in readings(measured, job)]
                merge(suites, name := f"{job.room}-{arm}", measured)
                keep(suites[name], folder / "pyperf" / f"{name}.json")
            found += fresh
            word = _decide(found, policy)
            if not console.is_terminal:
                console.out(f"round {number + 1} done; {word.reason}", highlight=False)
            yield word


def jobs(suite: Suite, slots: Slots, number: int, chance: random.Random) -> Iterator[tuple[Job, str]]:
    """The workers of one round with the arm of each: rooms in random order, the arms of a room side by side."""
    paths = slots.place(chance.sample(ARMS, len(ARMS)))
    for room in chance.sample(suite.rooms, len(suite.rooms)):
        seed = chance.getrandbits(31)  # the same order of cases in all arms
        for arm in chance.sample(ARMS, len(ARMS)):
            env = {**room.env.get(ON, {}), "PYTHONPATH": str(paths[arm])}
            python = suite.revisions[arm].python
            yield Job(room.room, ON, number, seed, THREADS, VALUE_SECONDS, env, python=python), arm


def _of(arm: str, reading: Reading) -> Reading:
    return Reading(reading.room, reading.case, arm, reading.round, reading.value)


def _decide(found: Sequence[Reading], policy: Policy, void: str = "") -> GateDecision:
    values: dict[str, dict[str, dict[Key, Value]]] = {}
    for each in found:
        by_arm = values.setdefault(f"{each.room}: {each.case}", {})
        by_arm.setdefault(each.variant, {})[each.round, 0] = usable(each.value)

    def read(a: str, b: str) -> Mapping[str, Pairs]:
        return {case: pair_up(by_arm[a], by_arm[b]) for case, by_arm in values.items() if a in by_arm and b in by_arm}

    lower = replace(policy, directions=dict.fromkeys(values, "lower"))
    if not values:
        return GateDecision("INVALID", (), final=bool(void), reason=void or "nothing measured")
    return weigh(read, (BASE, HEAD), lower, void)


def _count(found: Sequence[Reading]) -> int:
    return len({each.round for each in found})


def _tell(decision: GateDecision, found: Sequence[Reading], title: str, setting: Setting, seconds: float) -> None:
    from reports import gate_view

    values = {}
    for each in decision.metrics:
        of = [reading for reading in found if f"{reading.room}: {reading.case}" == each.name]
        values[each.name] = _median(of, BASE), _median(of, HEAD)
    started = setting.now.timestamp()
    info = gate_view.GateInfo(
        title, setting.base, setting.head, setting.command, started, seconds, values, "s", setting.notes
    )
    setting.console.print(gate_view.on_terminal(decision, info))
    runner.write_views(decision, info, setting.files)


def _median(found: Sequence[Reading], arm: str) -> float:
    return median(each.value for each in found if each.variant == arm)
