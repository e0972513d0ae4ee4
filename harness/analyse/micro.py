"""The micro suite judged: what each case costs on against off and against peers, and whether the goals are met.

The worker process is the unit: layout shifts all values of one process together, so each gives one value per case. A
round is one worker of every variant, in random order; ratios are taken within rounds, and the estimate is their centre
with the signed-rank interval of all other contrasts. Intervals hold one by one, not as a family.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from harness.analyse.centre import centre, centre_interval
from harness.analyse.contrast import estimate, pair_up, usable
from harness.analyse.records import Estimate

Unit = Literal["second", "byte"]
Outcome = Literal["MET", "MISSED", "INCONCLUSIVE", "NOT MEASURED"]
CONFIDENCE = 0.95
ON, OFF = "on", "off"


class Goal(msgspec.Struct, frozen=True):
    """At most `bound` times the variant `against` (of `case`, or the same case), or `bound` itself where there is none.

    `of` says what is bounded: the value, or the page faults of one operation.
    """

    bound: float
    against: str = ""
    why: str = ""
    case: str = ""
    of: Literal["value", "page_faults"] = "value"


class Case(msgspec.Struct, frozen=True):
    """One operation as its script declares it, or one thing whose bytes are counted, in one round only."""

    name: str
    variants: tuple[str, ...]
    goals: tuple[Goal, ...] = ()
    unit: Unit = "second"


class Room(msgspec.Struct, frozen=True):
    """The cases of one script. `peers` are variants that are libraries, `missing` those not installed; `env` is what a
    variant's worker must find in its environment.
    """

    room: str
    about: str
    peers: tuple[str, ...]
    missing: tuple[str, ...]
    env: Mapping[str, Mapping[str, str]]
    cases: tuple[Case, ...]


class Reading(msgspec.Struct, frozen=True):
    """One worker's median of one case: seconds or bytes of one operation, and what else that operation cost."""

    room: str
    case: str
    variant: str
    round: int
    value: float
    page_faults: float = 0.0
    cpu_time: float = 0.0


class Cell(msgspec.Struct, frozen=True):
    """One variant of a case: medians over its workers."""

    variant: str
    workers: int
    value: float
    page_faults: float
    cpu_time: float


class Ratio(msgspec.Struct, frozen=True):
    """On against one other variant; None when the two never ran in the same round."""

    against: str
    estimate: Estimate | None


class GoalResult(msgspec.Struct, frozen=True):
    """A goal beside what was measured: a ratio, or the value itself, with its interval."""

    goal: Goal
    outcome: Outcome
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


class CaseResult(msgspec.Struct, frozen=True):
    """All there is to say about one case."""

    room: str
    case: str
    unit: Unit
    cells: tuple[Cell, ...]
    ratios: tuple[Ratio, ...]
    goals: tuple[GoalResult, ...]


Column = Mapping[int, Reading]
"""The readings of one variant of one case, by round."""


def analyse(rooms: Iterable[Room], readings: Sequence[Reading]) -> tuple[CaseResult, ...]:
    """Every case that was measured, in the order of its script."""
    columns: dict[tuple[str, str, str], dict[int, Reading]] = {}
    for each in readings:
        columns.setdefault((each.room, each.case, each.variant), {})[each.round] = each
    found = []
    for room in rooms:
        for case in room.cases:
            cells = tuple(
                _cell(name, columns[key]) for name in case.variants if (key := (room.room, case.name, name)) in columns
            )
            if cells:
                goals = tuple(_judge(columns, room, case, goal) for goal in case.goals)
                ratios = tuple(_ratios(columns, room.room, case, cells))
                found.append(CaseResult(room.room, case.name, case.unit, cells, ratios, goals))
    return tuple(found)


def _cell(variant: str, column: Column) -> Cell:
    values, faults, cpu = (
        [getattr(each, name) for each in column.values()] for name in ("value", "page_faults", "cpu_time")
    )
    return Cell(variant, len(column), *(float(np.median(each)) for each in (values, faults, cpu)))


def _ratios(
    columns: Mapping[tuple[str, str, str], Column], room: str, case: Case, cells: Sequence[Cell]
) -> Iterable[Ratio]:
    ours = columns.get((room, case.name, ON), {})
    for cell in cells:
        if ours and cell.variant != ON:
            yield Ratio(cell.variant, ratio(columns[room, case.name, cell.variant], ours, case))


def ratio(a: Column, b: Column, case: Case) -> Estimate | None:
    """b against a over the rounds both have; None without any. Bytes are counted, not timed: one round is exact."""
    logs = pair_up(
        {(number, 0): usable(each.value) for number, each in a.items()},
        {(number, 0): usable(each.value) for number, each in b.items()},
    )
    found = estimate(logs, CONFIDENCE) if logs.differences.size else None
    if found is not None and case.unit == "byte" and found.bursts == 1:
        return msgspec.structs.replace(found, low=found.ratio, high=found.ratio, method="counted")
    return found


def _judge(columns: Mapping[tuple[str, str, str], Column], room: Room, case: Case, goal: Goal) -> GoalResult:
    ours = columns.get((room.room, case.name, ON), {})
    if not goal.against:
        return _judge_value(ours, case, goal)
    found = ratio(columns.get((room.room, goal.case or case.name, goal.against), {}), ours, case)
    if found is None:
        return GoalResult(goal, "NOT MEASURED")
    return GoalResult(goal, outcome(found.low, found.high, goal.bound), found.ratio, found.low, found.high)


def _judge_value(ours: Column, case: Case, goal: Goal) -> GoalResult:
    values = np.array([getattr(each, goal.of) for each in ours.values()], dtype=np.float64)
    if not values.size:
        return GoalResult(goal, "NOT MEASURED")
    low, high = centre_interval(values, CONFIDENCE)
    if not math.isfinite(low) and (case.unit == "byte" or goal.of != "value"):
        low, high = float(values.min()), float(values.max())  # counted, not timed: few readings do
    return GoalResult(goal, outcome(low, high, goal.bound), centre(values), low, high)


def outcome(low: float, high: float, bound: float) -> Outcome:
    """What an interval says about "at most `bound`"."""
    if high <= bound:
        return "MET"
    return "MISSED" if low > bound else "INCONCLUSIVE"


class Saving(msgspec.Struct, frozen=True):
    """Allocation overhead: what one message costs off and on, in CPU seconds and page faults of its process."""

    case: str
    cpu_off: float
    cpu_on: float
    faults_off: float
    faults_on: float

    @property
    def cpu_saved(self) -> float:
        """CPU seconds that on saves per message; negative where it costs more."""
        return self.cpu_off - self.cpu_on


def savings(results: Iterable[CaseResult], room: str = "buffer_pool") -> tuple[Saving, ...]:
    """What on saves against off per message, for every case of the room that has both."""
    found = []
    for each in results:
        cells = {cell.variant: cell for cell in each.cells}
        if each.room == room and each.unit == "second" and {ON, OFF} <= cells.keys():
            off, on = cells[OFF], cells[ON]
            found.append(Saving(each.case, off.cpu_time, on.cpu_time, off.page_faults, on.page_faults))
    return tuple(found)
