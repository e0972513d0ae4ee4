"""What is checked, and how a check tells what it saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.analyse.records import CheckStatus, ContrastResult
from harness.analyse.rows import Rows
from harness.measure.records import Slice
from harness.study.records import Study, Workload


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked. `mishap` is the error that ended the measuring, if one did."""

    study: Study
    workloads: tuple[Workload, ...]
    arms: tuple[str, ...]
    rows: Rows
    contrasts: Sequence[ContrastResult]
    mishap: str = ""

    def groups(self) -> Iterator[tuple[Workload, str, tuple[Slice, ...]]]:
        """(workload, arm, all its stretches) wherever something was measured."""
        for workload in self.workloads:
            for arm in self.arms:
                found = self.rows.every(workload.name, arm)
                if found:
                    yield workload, arm, found


def status(fine: bool) -> CheckStatus:
    """Of a check that voids the run when it fails."""
    return "ok" if fine else "invalid"


def on_arm(workload: Workload, arm: str) -> str:
    """Where something was seen."""
    return f"{workload.name} on {arm}"


def started(rows: Sequence[Slice]) -> int:
    """Requests that began."""
    return sum(row.started for row in rows)
