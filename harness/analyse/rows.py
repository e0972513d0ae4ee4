"""Stored rows in the order and grouping that every other module of the analysis reads."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from harness.measure.records import ArmReading, Burst, Measured, Slice, Stretch


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a run: stretches by (workload, arm, kind) in time order, readings by arm in burst order."""

    bursts: tuple[Burst, ...]
    stretches: dict[tuple[str, str, Stretch], tuple[Slice, ...]]
    readings: dict[str, tuple[ArmReading, ...]]

    def of(self, workload: str, arm: str, kind: Stretch = "slice") -> tuple[Slice, ...]:
        """The stretches of one arm on one workload, in time order; empty when there are none."""
        return self.stretches.get((workload, arm, kind), ())

    def every(self, workload: str, arm: str) -> tuple[Slice, ...]:
        """Stretches of all kinds of one arm on one workload, in time order."""
        kinds: tuple[Stretch, ...] = ("slice", "segment", "episode")
        found = [row for kind in kinds for row in self.of(workload, arm, kind)]
        return tuple(sorted(found, key=_place))


def _place(row: Slice) -> tuple[int, int, float, int]:
    return row.burst, row.block, row.began, row.position


def arrange(measured: Measured) -> Rows:
    """The rows of a run, grouped and sorted, whatever order the store returned them in."""
    stretches: defaultdict[tuple[str, str, Stretch], list[Slice]] = defaultdict(list)
    for row in sorted(measured.slices, key=_place):
        stretches[row.workload, row.arm, row.kind].append(row)
    readings: defaultdict[str, list[ArmReading]] = defaultdict(list)
    for reading in sorted(measured.readings, key=lambda each: (each.burst, each.arm)):
        readings[reading.arm].append(reading)
    return Rows(
        tuple(sorted(measured.bursts, key=lambda each: each.number)),
        {key: tuple(rows) for key, rows in sorted(stretches.items())},
        {arm: tuple(rows) for arm, rows in sorted(readings.items())},
    )
