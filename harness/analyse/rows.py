"""Stored rows in the order and grouping that every other module of the analysis reads."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from harness.measure.episodes import Episode
from harness.measure.records import STRETCHES, ArmReading, Burst, Measured, Sample, Slice, Stretch


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a run: stretches by (workload, arm, kind) in time order, readings by arm in burst order.

    `episodes` are what episodes left with their load and the moments within them, by (workload, arm).
    """

    bursts: tuple[Burst, ...]
    stretches: dict[tuple[str, str, Stretch], tuple[Slice, ...]]
    readings: dict[str, tuple[ArmReading, ...]]
    episodes: dict[tuple[str, str], tuple[Episode, ...]]

    def of(self, workload: str, arm: str, kind: Stretch = "slice") -> tuple[Slice, ...]:
        """The stretches of one arm on one workload, in time order; empty when there are none."""
        return self.stretches.get((workload, arm, kind), ())

    def every(self, workload: str, arm: str) -> tuple[Slice, ...]:
        """Stretches of all kinds of one arm on one workload, in time order."""
        found = [row for kind in STRETCHES for row in self.of(workload, arm, kind)]
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
        if not reading.workload:
            readings[reading.arm].append(reading)
    return Rows(
        tuple(sorted(measured.bursts, key=lambda each: each.number)),
        {key: tuple(rows) for key, rows in sorted(stretches.items())},
        {arm: tuple(rows) for arm, rows in sorted(readings.items())},
        _episodes(measured),
    )


def _episodes(measured: Measured) -> dict[tuple[str, str], tuple[Episode, ...]]:
    """Readings after episodes, each with its load and its moments; one without its load does not count."""
    loads = {(row.burst, row.arm): row for row in measured.slices if row.kind == "episode"}
    samples: defaultdict[tuple[int, str], list[Sample]] = defaultdict(list)
    for sample in sorted(measured.samples, key=lambda each: each.at):
        samples[sample.burst, sample.arm].append(sample)
    found: defaultdict[tuple[str, str], list[Episode]] = defaultdict(list)
    for row in sorted((each for each in measured.readings if each.workload), key=lambda each: (each.burst, each.arm)):
        key = (row.burst, row.arm)
        if key in loads:
            found[row.workload, row.arm].append(Episode(row, loads[key], tuple(samples[key])))
    return {key: tuple(rows) for key, rows in sorted(found.items())}
