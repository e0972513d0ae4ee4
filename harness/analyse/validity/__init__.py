"""Is the measurement fit to be judged? Pure checks over the stored rows, before any verdict.

Each check yields what it saw, the bound it was held to, and what to do. One "invalid" voids the run.
Autocorrelation is only reported: a 5 % test would void 5 % of good runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from harness.analyse.records import Check
from harness.analyse.validity import counts, evidence, load
from harness.analyse.validity.counts import HOPELESS, hopeless
from harness.analyse.validity.load import LOAD_LIMIT, load_was_the_limit
from harness.analyse.validity.subject import Subject

__all__ = ["CHECKS", "HOPELESS", "LOAD_LIMIT", "Subject", "check", "hopeless", "load_was_the_limit"]

CHECKS: tuple[Callable[[Subject], Iterator[Check]], ...] = (
    counts.mishap,
    counts.successes,
    counts.bursts,
    counts.machine,
    counts.rows_present,
    counts.errors,
    counts.rejections,
    counts.conservation,
    counts.slice_length,
    load.reached,
    load.generator,
    load.load_limit,
    load.lag,
    load.offered,
    evidence.steady,
    evidence.equivalence,
    evidence.deferred,
    evidence.thresholds,
    evidence.autocorrelation,
)


def check(subject: Subject) -> tuple[Check, ...]:
    """All checks in a fixed order; the run is valid when none is "invalid"."""
    return tuple(found for each in CHECKS for found in each(subject))
