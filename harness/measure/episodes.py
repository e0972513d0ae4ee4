"""What metrics of episodes are made of: requests of one name, what an episode left, and what its Locust file told.

An episode's counts may well be zero (nothing leaked, nothing wasted), and zero has no ratio; such metrics add one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.measure.records import ArmReading, Sample, Slice

SETTLED = 0.3
"share of an episode that is start-up: caches fill and pools grow, which is no leak"
FEWEST = 4
"moments that a slope needs"


class Unusable(Exception):
    """This row has no value for the metric; the message says why."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One arm's episode: what it left, and the moments within it. `stretch` is its load."""

    reading: ArmReading
    stretch: Slice
    samples: tuple[Sample, ...]


class NoneOf(float):
    """A share of none: its value depends on how many there were, but two of them do not differ, and it is
    never more than a share of some.
    """


class AllOf(float):
    """A share of all, likewise: never less than a share of some."""


EXTREMES: Mapping[str, type[float]] = {"none": NoneOf, "all": AllOf}
"""What exported values are called that do not differ from others of their kind."""


def extreme(value: float) -> str:
    """The name of the kind of extreme that `value` is; empty for any other."""
    return next((name for name, kind in EXTREMES.items() if isinstance(value, kind)), "")


def share(count: int, of: int) -> float:
    """(k + 1/2) / (n + 1): a share of none has a ratio too, and no stretch drops out for being good."""
    kind = NoneOf if not count else AllOf if count == of else float
    return kind((count + 0.5) / (of + 1.0))


def answered(stretch: Slice, request: str) -> int:
    """Answered requests of that name."""
    return sum(len(each.service) // 4 for each in stretch.latencies if each.name == request)


def goodput(stretch: Slice, request: str) -> float:
    """Answered requests of that name per second."""
    if stretch.lasted <= 0.0:
        raise Unusable("the stretch has no duration")
    return answered(stretch, request) / stretch.lasted


def success_ratio(stretch: Slice, request: str) -> float:
    """Answered per ended request of that name, (k + 1/2) / (n + 1): nothing answered has a ratio too."""
    good = answered(stretch, request)
    bad = sum(each.rejected + each.failed for each in stretch.unanswered if each.name == request)
    if not good + bad:
        raise Unusable(f"no {request!r} request ended")
    return share(good, good + bad)


def time_per_request(stretch: Slice, request: str) -> float:
    """Mean seconds a caller spent on a request of that name, whatever became of it."""
    times = [each.service_seconds() for each in stretch.latencies if each.name == request]
    lost = [each for each in stretch.unanswered if each.name == request]
    ended = sum(each.size for each in times) + sum(each.rejected + each.failed for each in lost)
    if not ended:
        raise Unusable(f"no {request!r} request ended")
    return (sum(float(np.sum(each, dtype=np.float64)) for each in times) + sum(each.seconds for each in lost)) / ended


def descriptors_left(episode: Episode) -> float:
    """One more than the descriptors that both ends hold beyond those they held idle; a connection that waits in the
    pool is no leak, and has one at either end.
    """
    row = episode.reading
    if row.load_gauges.get("link.relays"):
        raise Unusable("a relay between both ends has descriptors of its own")
    more = sum(
        after.descriptors - idle.descriptors
        for after, idle in ((row.target_after, row.target_idle), (row.load_after, row.load_idle))
    )
    return 1.0 + max(0.0, more - 2.0 * row.load_gauges.get("pooling.idle", 0.0))


def registry_left(episode: Episode) -> float:
    """One more than the connections that both ends' managers still list, those that wait in the pool apart; the node
    lists the one that asks.
    """
    row = episode.reading
    if "node.connections" not in row.gauges or "cleanup.open" not in row.load_gauges:
        raise Unusable("the target or the dialer does not tell its registry")
    waiting = row.load_gauges.get("pooling.idle", 0.0)
    listed = row.gauges["node.connections"] + row.load_gauges["cleanup.open"] - 2.0 * waiting
    return max(1.0, listed)


def collections_per_request(episode: Episode) -> float:
    """Runs of both ends' garbage collectors per answered request; none count as one, so that it has a ratio."""
    row, name = episode.reading, "process.collections"
    if name not in row.gauges or name not in row.load_gauges:
        raise Unusable(f"the target does not tell its {name}")
    if not episode.stretch.answered:
        raise Unusable("no answered request")
    runs = row.gauges[name] + row.load_gauges[name]
    value = max(1.0, runs) / episode.stretch.answered
    return value if runs else NoneOf(value)


def told(name: str, plus: float = 0.0) -> Callable[[Episode], float]:
    """The value that the workload's Locust file publishes as `name`, plus `plus`."""

    def of(episode: Episode) -> float:
        value = episode.reading.load_gauges.get(name, math.nan)
        if math.isnan(value):
            raise Unusable(f"the workload does not tell {name}")
        return value + plus

    return of


def slope(episode: Episode, end: str) -> float:
    """Bytes per 1,000 answered requests by which the USS of one end grew (Theil-Sen over the moments after start-up;
    NaN when they are too few).
    """
    from scipy import stats

    late = [each for each in episode.samples if each.at >= SETTLED * episode.stretch.seconds]
    if len(late) < FEWEST or not episode.stretch.answered:
        return math.nan
    held: NDArray[np.float64] = np.array([getattr(each, end).uss for each in late], dtype=np.float64)
    at = np.array([each.at for each in late])
    per_second = float(stats.theilslopes(held, at).slope)
    return per_second * episode.stretch.seconds / episode.stretch.answered * 1000.0
