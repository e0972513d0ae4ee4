"""Did the load keep its schedule, and did it, or the system, decide how fast things went?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from harness.analyse.records import Check
from harness.analyse.validity.subject import Subject, on_arm, status
from harness.measure.records import Slice
from harness.plan.arms import declared_name
from harness.study.records import Study, Workload

GENERATOR_BUSY = 0.90
"share of its core beyond which a load generator no longer keeps an open schedule"
OFFERED = 0.90
"share of the intended arrivals that must have been started"
LAG_SECONDS = 0.010
LAG_SHARE = 0.10
LAG_MOST = 0.100
"schedule lag that is tolerated: this long, or this share of the stretch if that is longer, but no more than the last"
IDLE = 1e-6
"CPU seconds per answered request: who uses less answered nothing, as reading and writing a socket alone take more"
LOAD_LIMIT = "load limit"
"name of the check that tells it"


def load_was_the_limit(study: Study, workload: Workload, rows: Sequence[Slice]) -> bool:
    """Whether the load process decided how fast a closed loop went: it is no part of the system, which was waiting."""
    if workload.arrivals != "closed" or _at_both_ends(study, workload):
        return False
    lasting = [row for row in rows if row.seconds > 0.0]
    if not lasting:
        return False
    load = float(np.median([row.cpu_load / row.seconds for row in lasting]))
    return load > GENERATOR_BUSY > float(np.median([row.cpu_target / row.seconds for row in lasting]))


def _at_both_ends(study: Study, workload: Workload) -> bool:
    """Whether the load process is a part of the system: before our own node, with a Locust file of an arm's own, and
    where the workload says so (`both_ends`).
    """
    own_files = any(arm.file or declared_name(study, workload) in arm.files for arm in study.arms)
    return workload.both_ends or study.target.kind == "reference" or own_files


def reached(subject: Subject) -> Iterator[Check]:
    """The program on trial is the one that answered."""
    for workload, arm, rows in subject.groups():
        answered = sum(row.answered for row in rows)
        if not answered or _at_both_ends(subject.study, workload):
            continue
        used = sum(row.cpu_target for row in rows) / answered
        elsewhere = (
            ", so the load went elsewhere: to an address in the Locust file, or to what the command starts outside"
            " itself, as docker run does"
        )
        yield Check(
            "target reached",
            status(used >= IDLE),
            on_arm(workload, arm),
            f"the program used {1e6 * used:.3g} us of CPU per answered request" + elsewhere * (used < IDLE),
            f"at least {1e6 * IDLE:g} us",
            "leave the address to Locust's host, and start the program itself; where requests are meant to be answered"
            " without it, a study says so (both_ends)",
        )


def generator(subject: Subject) -> Iterator[Check]:
    """The load process was not too busy to keep an open schedule."""
    for where, rows in _open(subject):
        busy = float(np.median([row.cpu_load / row.planned for row in rows]))
        yield Check(
            "generator CPU",
            status(busy <= GENERATOR_BUSY),
            where,
            f"the load process used {busy:.0%} of its core (median)",
            f"at most {GENERATOR_BUSY:.0%}",
            "lower the rate, or spread the load over more processes",
        )


def load_limit(subject: Subject) -> Iterator[Check]:
    """Where the load process was what limited a closed loop: a note."""
    for workload, arm, rows in subject.groups():
        if load_was_the_limit(subject.study, workload, rows):
            yield Check(
                LOAD_LIMIT,
                "note",
                on_arm(workload, arm),
                f"the load process used more than {GENERATOR_BUSY:.0%} of its core, and the target less",
                "the target, not the load process, is what a closed loop waits for",
                "let tasks arrive at a rate (arrivals, rate), use a faster user class, or ask for"
                " cpu_target_per_request; where the Locust file is on trial too, say so (both_ends)",
            )


def lag(subject: Subject) -> Iterator[Check]:
    """Requests were sent when they were meant to be."""
    for where, rows in _open(subject):
        seconds = float(np.median([row.lag_max for row in rows]))
        bound = min(LAG_MOST, max(LAG_SECONDS, LAG_SHARE * float(np.median([row.planned for row in rows]))))
        yield Check(
            "schedule lag",
            status(seconds <= bound),
            where,
            f"requests started up to {1e3 * seconds:.3g} ms late (median over stretches)",
            f"at most {1e3 * bound:.3g} ms",
            "lower the rate, or allow more users in flight",
        )


def offered(subject: Subject) -> Iterator[Check]:
    """As many requests were sent as were meant to be."""
    for where, rows in _open(subject):
        intended = sum(row.arrivals for row in rows)
        if intended:
            share = sum(row.tasks for row in rows) / intended
            yield Check(
                "offered rate",
                status(share >= OFFERED),
                where,
                f"{share:.0%} of the intended arrivals were started",
                f"at least {OFFERED:.0%}",
                "lower the rate, or allow more users in flight",
            )


def _open(subject: Subject) -> Iterator[tuple[str, tuple[Slice, ...]]]:
    """Stretches at open rates, those of a kind together: a median over few segments and many slices is the slices'."""
    for workload, arm, rows in subject.groups():
        if workload.arrivals != "closed":
            for kind in dict.fromkeys(row.kind for row in rows):
                where = on_arm(workload, arm) + (", segments" if kind == "segment" else "")
                yield where, tuple(row for row in rows if row.kind == kind)
