"""The one table of metrics that code, command line, reports and docs share.

A metric is a pure function from one stretch of load (or one arm's memory reading) to a positive number; what
has no value there raises Unusable with the reason, so that nothing is ever dropped in silence. Percentiles
beyond the median exist only for segments and episodes: slices end before a stall can show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.errors import StudyError
from harness.measure import episodes
from harness.measure.episodes import Episode, NoneOf, Unusable, share
from harness.measure.records import STRETCHES, ArmReading, Slice

Direction = Literal["lower", "higher", "neither"]
"Which way is better; `neither` is descriptive only."
Source = Literal["slice", "segment", "episode", "reading"]

CACHE_MISSES = "cache_misses_per_request"
NO_COUNTER = "no counter"
"why a stretch has no value of what this machine cannot count"


class MetricInfo(msgspec.Struct, frozen=True):
    """One line of the table of metrics: `noun` names it inside a sentence, `definition` is one sentence for
    people; `judged` False means descriptive only.
    """

    name: str
    noun: str
    unit: str
    direction: Direction
    definition: str
    sources: tuple[Source, ...]
    judged: bool


def _no_slice(_stretch: Slice, _request: str) -> float:
    raise Unusable("not a metric of a stretch of load")


def _no_reading(_row: ArmReading) -> float:
    raise Unusable("not a metric of a memory reading")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `noun` names it inside a sentence; `sources` says which of the two functions has values.

    `of_episode` is for what only an episode leaves; without it a reading after an episode is one like any other.
    `of_slice` takes the stretch and a request name (ignored unless `per_request_name`). `min_requests` and
    `min_stretches` are what one arm needs before the metric is resolvable at all.
    """

    name: str
    noun: str
    unit: str
    direction: Direction
    definition: str
    sources: tuple[Source, ...]
    of_slice: Callable[[Slice, str], float] = _no_slice
    of_reading: Callable[[ArmReading], float] = _no_reading
    of_episode: Callable[[Episode], float] | None = None
    per_request_name: bool = False
    judged: bool = True
    min_requests: int = 1
    min_stretches: int = 1

    @property
    def after_work(self) -> bool:
        """Whether it is read after the fixed work of a burst of slices."""
        return "reading" in self.sources and self.of_episode is None

    def info(self) -> MetricInfo:
        """The table line as reports and `list metrics` show it."""
        return MetricInfo(self.name, self.noun, self.unit, self.direction, self.definition, self.sources, self.judged)


def metric(name: str) -> Metric:
    """The metric of that name; StudyError naming the choices if there is none."""
    try:
        return METRICS[name]
    except KeyError:
        raise StudyError(f"unknown metric {name!r}; expected one of {', '.join(METRICS)}") from None


def latency_seconds(stretch: Slice, request: str) -> NDArray[np.float64]:
    """Latencies from the intended start of all answered requests of that name ("" = any), perhaps empty."""
    found = [each.latency_seconds() for each in stretch.latencies if request in ("", each.name)]
    return np.concatenate(found).astype(np.float64) if found else np.empty(0)


def service_seconds(stretch: Slice, request: str) -> NDArray[np.float64]:
    """Service times (from the actual send) of all answered requests of that name ("" = any), perhaps empty."""
    found = [each.service_seconds() for each in stretch.latencies if request in ("", each.name)]
    return np.concatenate(found).astype(np.float64) if found else np.empty(0)


def _needed(values: NDArray[np.float64], request: str) -> NDArray[np.float64]:
    if not values.size:
        raise Unusable(f"no answered {request!r} request")
    return values


def missing(stretch: Slice, request: str) -> int:
    """Requests of that name ("" = any) without an answer: failed, or waited for in vain; those whose name is not known
    count for every name.
    """
    if not request:
        return stretch.failures + stretch.cancelled
    nameless = stretch.failures - sum(each.failed for each in stretch.unanswered)
    return _failed(stretch, request) + nameless + stretch.cancelled


def _failed(stretch: Slice, request: str) -> int:
    return sum(each.failed for each in stretch.unanswered if each.name == request)


def _quantile(fraction: float) -> Callable[[Slice, str], float]:
    """Of all requests but the rejected ones. One without an answer took longer than any other: where the percentile
    falls among those the length of the stretch stands for it, since in that time no answer came. Leaving them out would
    reward an arm for losing its slowest requests, or all of them: where none of that name is answered, those known to
    have failed say that it was asked for.
    """

    def of(stretch: Slice, request: str) -> float:
        values = latency_seconds(stretch, request)
        without = missing(stretch, request)
        if not (_failed(stretch, request) if request else without):
            _needed(values, request)
        if not without:
            return float(np.quantile(values, fraction))
        place = fraction * (values.size + without - 1)
        if place > values.size - 1:
            return max(stretch.lasted, float(values.max(initial=0.0)))
        return float(np.quantile(values, place / max(1, values.size - 1)))

    return of


def _latency_mean(stretch: Slice, request: str) -> float:
    return float(np.mean(_needed(latency_seconds(stretch, request), request)))


def _service_median(stretch: Slice, request: str) -> float:
    return float(np.median(_needed(service_seconds(stretch, request), request)))


def throughput(stretch: Slice, _request: str = "") -> float:
    """Goodput: answered requests per second up to the last completion."""
    if stretch.lasted <= 0.0:
        raise Unusable("the stretch has no duration")
    return stretch.answered / stretch.lasted


def _per_answered(amount: Callable[[Slice], float]) -> Callable[[Slice, str], float]:
    def of(stretch: Slice, _request: str) -> float:
        if not stretch.answered:
            raise Unusable("no answered request")
        return amount(stretch) / stretch.answered

    return of


def _share(amount: Callable[[Slice], int]) -> Callable[[Slice, str], float]:
    def of(stretch: Slice, _request: str) -> float:
        if not stretch.started:
            raise Unusable("no request was started")
        return share(amount(stretch), stretch.started)

    return of


_at_least_one_fault = _per_answered(lambda stretch: float(max(1, stretch.page_faults)))


def _page_faults(stretch: Slice, request: str) -> float:
    value = _at_least_one_fault(stretch, request)
    return value if stretch.page_faults else NoneOf(value)


def _cache_misses(stretch: Slice, request: str) -> float:
    misses = stretch.cache_misses
    if misses is None:
        raise Unusable(NO_COUNTER)
    return _per_answered(lambda _: misses)(stretch, request)


_STRETCHES: tuple[Source, ...] = STRETCHES
_TAIL: tuple[Source, ...] = ("segment", "episode")
_READING: tuple[Source, ...] = ("reading",)

_TABLE = (
    Metric(
        "latency_p50",
        "median latency",
        "s",
        "lower",
        "Median time from the intended start of a request to its complete answer.",
        _STRETCHES,
        _quantile(0.5),
        per_request_name=True,
    ),
    Metric(
        "latency_mean",
        "mean latency",
        "s",
        "lower",
        "Mean time from the intended start of a request to its complete answer.",
        _STRETCHES,
        _latency_mean,
        per_request_name=True,
    ),
    Metric(
        "latency_p99",
        "99th percentile of latency",
        "s",
        "lower",
        "Latency that 99 % of a segment's or episode's requests stay below, rejected ones apart; one without an answer "
        "took all of it.",
        _TAIL,
        _quantile(0.99),
        per_request_name=True,
        min_requests=2_000,
    ),
    Metric(
        "latency_p999",
        "99.9th percentile of latency",
        "s",
        "lower",
        "Latency that 99.9 % of a segment's or episode's requests stay below, as p99.",
        _TAIL,
        _quantile(0.999),
        per_request_name=True,
        min_requests=20_000,
        min_stretches=15,
    ),
    Metric(
        "service_p50",
        "median service time",
        "s",
        "lower",
        "Median time from the actual send of a request to its complete answer.",
        _STRETCHES,
        _service_median,
        per_request_name=True,
    ),
    Metric(
        "throughput",
        "throughput",
        "requests/s",
        "higher",
        "Goodput: answered requests per second, up to the last completion.",
        _STRETCHES,
        throughput,
    ),
    Metric(
        "cpu_per_request",
        "CPU per request",
        "s",
        "lower",
        "CPU time of target and load together per answered request, the quiet gap after the load included.",
        _STRETCHES,
        _per_answered(lambda stretch: stretch.cpu_target + stretch.cpu_load),
    ),
    Metric(
        "cpu_target_per_request",
        "target's CPU per request",
        "s",
        "lower",
        "CPU time of the target per answered request; descriptive: loopback charges the sender for both.",
        _STRETCHES,
        _per_answered(lambda stretch: stretch.cpu_target),
        judged=False,
    ),
    Metric(
        "cpu_load_per_request",
        "load's CPU per request",
        "s",
        "lower",
        "CPU time of the load process per answered request; descriptive, as for the target.",
        _STRETCHES,
        _per_answered(lambda stretch: stretch.cpu_load),
        judged=False,
    ),
    Metric(
        "page_faults_per_request",
        "page faults per request",
        "faults",
        "lower",
        "Page faults of the target per answered request; a stretch without any counts as one, so that it has a ratio.",
        _STRETCHES,
        _page_faults,
    ),
    Metric(
        "error_ratio",
        "error ratio",
        "1",
        "lower",
        "Requests that failed or never ended (rejections apart) per started request, (k + 1/2) / (n + 1).",
        _STRETCHES,
        _share(lambda stretch: stretch.failures + stretch.hung),
    ),
    Metric(
        "rejection_ratio",
        "rejection ratio",
        "1",
        "neither",
        "Rejected requests per started request, (k + 1/2) / (n + 1); good for an abuser, bad for honest peers.",
        _STRETCHES,
        _share(lambda stretch: stretch.rejected),
    ),
    Metric(
        "target_memory",
        "target memory",
        "B",
        "lower",
        "USS of the target after the fixed work, as increase over the same process idle at ready.",
        _READING,
        of_reading=lambda row: float(row.target_after.uss - row.target_idle.uss),
    ),
    Metric(
        "target_memory_whole",
        "memory of the whole target process",
        "B",
        "lower",
        "USS of the whole target process after the fixed work.",
        _READING,
        of_reading=lambda row: float(row.target_after.uss),
    ),
    Metric(
        "load_memory",
        "load memory",
        "B",
        "lower",
        "USS of the load process (with the dialers) after the fixed work, as increase over idle at ready.",
        _READING,
        of_reading=lambda row: float(row.load_after.uss - row.load_idle.uss),
    ),
    Metric(
        "load_memory_whole",
        "memory of the whole load process",
        "B",
        "lower",
        "USS of the whole load process after the fixed work.",
        _READING,
        of_reading=lambda row: float(row.load_after.uss),
    ),
    Metric(
        "memory",
        "memory of both ends",
        "B",
        "lower",
        "USS of target and load together after the fixed work, as increase over both idle at ready.",
        _READING,
        of_reading=lambda row: float(
            row.target_after.uss - row.target_idle.uss + row.load_after.uss - row.load_idle.uss
        ),
    ),
    Metric(
        "descriptors_delta",
        "open descriptors left",
        "descriptors",
        "lower",
        "Descriptors the target holds after the fixed work beyond those it held idle at ready.",
        _READING,
        of_reading=lambda row: float(row.target_after.descriptors - row.target_idle.descriptors),
        judged=False,
    ),
    Metric(
        "goodput",
        "goodput",
        "requests/s",
        "higher",
        "Answered requests of one name per second, up to the last completion of any.",
        _STRETCHES,
        episodes.goodput,
        per_request_name=True,
    ),
    Metric(
        "admitted_rate",
        "admitted rate",
        "requests/s",
        "lower",
        "Answered requests of one name per second, where fewer are better: those of an abuser.",
        ("episode",),
        episodes.goodput,
        per_request_name=True,
    ),
    Metric(
        "success_ratio",
        "success ratio",
        "1",
        "higher",
        "Answered requests of one name per request of that name that ended, (k + 1/2) / (n + 1).",
        _STRETCHES,
        episodes.success_ratio,
        per_request_name=True,
    ),
    Metric(
        "time_per_request",
        "time per request",
        "s",
        "lower",
        "Mean time a caller spent on a request of one name, whatever became of it: success, rejection or failure.",
        _STRETCHES,
        episodes.time_per_request,
        per_request_name=True,
    ),
    *(
        Metric(name, noun, unit, "lower", definition, _READING, of_episode=of)
        for name, noun, unit, definition, of in (
            (
                "descriptors_left",
                "descriptors left",
                "descriptors + 1",
                "One more than the descriptors both ends still hold after an episode and housekeeping, above idle.",
                episodes.descriptors_left,
            ),
            (
                "registry_left",
                "registry entries left",
                "entries + 1",
                "One more than the connections both ends' managers still list after an episode and housekeeping.",
                episodes.registry_left,
            ),
            (
                "collections_per_request",
                "garbage collections per request",
                "collections",
                "Runs of both ends' garbage collectors per answered request of an episode (none counts as one), where a"
                " target tells its own.",
                episodes.collections_per_request,
            ),
            (
                "attempts_wasted",
                "wasted attempts",
                "attempts + 1",
                "One more than the connection attempts made at what was known to be out of order during an outage.",
                episodes.told("outage.wasted", plus=1.0),
            ),
            (
                "attempts_at_return",
                "attempts at the return",
                "attempts + 1",
                "One more than the most connection attempts within 100 ms between an outage and the end of its grace.",
                episodes.told("outage.at_return", plus=1.0),
            ),
            (
                "recovery_time",
                "time to recovery",
                "s",
                "Time from the end of an outage to the first success at what had been out of order.",
                episodes.told("outage.recovery"),
            ),
            (
                "snapshot_time",
                "snapshot pause",
                "s",
                "Time of a request for a snapshot of the metrics of a node that has met every client of the mesh.",
                episodes.told("mesh.snapshot"),
            ),
        )
    ),
    Metric(
        CACHE_MISSES,
        "cache misses per request",
        "misses",
        "lower",
        "Last-level cache misses of target and load process per answered request, in user mode; counted where a study"
        " asks for them and the machine has a counter, which virtual machines mostly hide.",
        _STRETCHES,
        _cache_misses,
    ),
)

PACE = frozenset(
    {
        *("latency_p50", "latency_mean", "latency_p99", "latency_p999", "service_p50"),
        *("throughput", "goodput", "admitted_rate", "time_per_request"),
    }
)
"What follows in a closed loop from how fast its slowest part is."
METRICS: dict[str, Metric] = {each.name: each for each in _TABLE}
"name -> metric, in display order"
