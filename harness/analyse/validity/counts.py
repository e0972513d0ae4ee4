"""Was there a run, and is every request of it accounted for?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from harness.analyse.contrast import readings
from harness.analyse.records import Check
from harness.analyse.validity.subject import Subject, on_arm, started, status
from harness.measure.metrics import metric
from harness.measure.records import Measured, Slice

BESIDE = 0.10
"of a core that others may take before a note says so"
SLICE_MEDIANS = 50
"median requests that fit into a slice"
HOPELESS = 100
"started requests of an arm on a workload; where none of so many was answered, none will be"


def hopeless(measured: Measured) -> bool:
    """Whether an arm answered none of so many requests of a workload that measuring on is a waste."""
    groups: dict[tuple[str, str], list[Slice]] = {}
    for row in measured.slices:
        groups.setdefault((row.workload, row.arm), []).append(row)
    return any(map(_unheard, groups.values()))


def _unheard(rows: Sequence[Slice]) -> bool:
    return started(rows) >= HOPELESS and not any(row.answered for row in rows)


def mishap(subject: Subject) -> Iterator[Check]:
    """No process died or failed while it was measured."""
    yield Check(
        "processes",
        status(not subject.mishap),
        "run",
        subject.mishap or "all of them lived as long as they were needed",
        "none dies or fails while it is measured",
        "mend the cause and measure anew: a system that dies under load is not judged by what it did before",
    )


def bursts(subject: Subject) -> Iterator[Check]:
    """Enough of them are complete."""
    complete = sum(burst.complete for burst in subject.rows.bursts)
    needed = subject.study.budget.min_bursts
    over = bool(subject.mishap) or any(_unheard(rows) for _, _, rows in subject.groups())
    yield Check(
        "bursts",
        status(complete >= needed),
        "run",
        f"{complete} complete bursts of {len(subject.rows.bursts)}",
        f"at least {needed} complete",
        "measure anew" if over else "continue the run with --resume, or give it a larger budget",
    )


def machine(subject: Subject) -> Iterator[Check]:
    """Only told: what else goes on widens intervals, and pairs next to each other share it."""
    bursts = [each for each in subject.rows.bursts if each.others is not None and each.stolen is not None]
    if not bursts:
        return
    others, stolen = ([each.others or 0.0 for each in bursts], [each.stolen or 0.0 for each in bursts])
    busy = sum(max(each) > BESIDE for each in zip(others, stolen, strict=True))
    yield Check(
        "quiet machine",
        "note" if busy else "ok",
        "run",
        f"other processes took {float(np.median(others)):.0%} of a core (at most {max(others):.0%}), the host"
        f" {float(np.median(stolen)):.0%} (at most {max(stolen):.0%}); median over bursts, {busy} of"
        f" {len(bursts)} beyond the bound",
        f"at most {BESIDE:.0%} of a core each",
        "end what else runs there (`synapsed-bench doctor` names it), or compare with another run",
    )


def rows_present(subject: Subject) -> Iterator[Check]:
    """Every arm was measured on every workload that it was to play."""
    seen = {(row.burst, row.workload, row.arm) for rows in subject.rows.stretches.values() for row in rows}
    every = tuple((workload.name, ()) for workload in subject.workloads)
    missing = [
        f"burst {burst.number}: {workload} on {arm}"
        for burst in subject.rows.bursts
        if burst.complete
        for workload, arms in burst.playing or every
        for arm in arms or burst.arms
        if (burst.number, workload, arm) not in seen
    ]
    yield Check(
        "missing rows",
        status(not missing),
        missing[0] if missing else "run",
        f"{len(missing)} of the planned arms on a workload without any stretch of load",
        "every complete burst has load on each of its arms and workloads",
        "look for a lost worker or a missing final report in the log of the load process",
    )


def successes(subject: Subject) -> Iterator[Check]:
    """Every arm was answered at all."""
    for workload, arm, rows in subject.groups():
        answered = sum(row.answered for row in rows)
        yield Check(
            "successes",
            status(answered > 0),
            on_arm(workload, arm),
            f"{answered:,} answered of {started(rows):,} started requests" + ("" if answered else _told(rows)),
            "at least one",
            "run the Locust file against this target by hand and read its first failure",
        )


def errors(subject: Subject) -> Iterator[Check]:
    """No more requests failed than the workload allows."""
    for workload, arm, rows in subject.groups():
        ratio = sum(row.failures + row.hung for row in rows) / max(1, started(rows))
        yield Check(
            "errors",
            status(ratio <= workload.max_error_ratio),
            on_arm(workload, arm),
            f"{ratio:.3%} of requests failed{_told(rows)}",
            f"at most {workload.max_error_ratio:.3%} (max_error_ratio)",
            "mend the failures, or raise max_error_ratio if they belong to the workload",
        )


def rejections(subject: Subject) -> Iterator[Check]:
    """No more requests were rejected than the workload allows."""
    for workload, arm, rows in subject.groups():
        ratio = sum(row.rejected for row in rows) / max(1, started(rows))
        yield Check(
            "rejections",
            status(ratio <= workload.max_rejection_ratio),
            on_arm(workload, arm),
            f"{ratio:.3%} of requests rejected",
            f"at most {workload.max_rejection_ratio:.3%} (max_rejection_ratio)",
            "raise the target's limits above the offered load, or the bound if rejections are wanted",
        )


def conservation(subject: Subject) -> Iterator[Check]:
    """Every request that began was told of once."""
    for workload, arm, rows in subject.groups():
        lost, twice = sum(row.lost for row in rows), sum(row.surplus for row in rows)
        told_twice = f", {twice:,} of them told twice" if twice else ""
        yield Check(
            "conservation",
            "note" if lost and not twice and workload.silent_tasks else status(lost == twice == 0),
            on_arm(workload, arm),
            f"{lost + twice:,} of {started(rows):,} started requests not counted exactly once{told_twice}",
            "started = answered + rejected + failed + cancelled",
            "let the Locust file report each request once (at most requests_per_task of a task); if some tasks make"
            " none, say so (silent_tasks)",
        )


def slice_length(subject: Subject) -> Iterator[Check]:
    """Only told: a loop of many users at saturation has long requests, and the time to the last completion is known."""
    for workload, arm, _ in subject.groups():
        slices = subject.rows.of(workload.name, arm)
        values = readings(slices, metric("service_p50"), workload.request).values.values()
        medians = [each for each in values if not isinstance(each, str)]
        if medians:
            times = float(np.median([row.planned for row in slices])) / float(np.median(medians))
            yield Check(
                "slice length",
                "ok" if times >= SLICE_MEDIANS else "note",
                on_arm(workload, arm),
                f"a slice is {times:.0f} times as long as its median request",
                f"at least {SLICE_MEDIANS} times",
                "longer slices (slice_seconds) or fewer users: what begins and ends a slice is a part of it",
            )


def _told(rows: Sequence[Slice]) -> str:
    """The kinds of failures, each with what the first of it said, in brackets; empty when there are none."""
    first: dict[str, str] = {}
    for row in rows:
        first = {kind: row.said.get(kind, "") for kind in row.failed} | first
    kinds = [": ".join(filter(None, each)) for each in sorted(first.items())]
    kinds += ["no answer in time"] * any(row.hung for row in rows)
    return f" ({', '.join(kinds)})" if kinds else ""
