"""Do tails differ? Exceedances per segment over a threshold that was fixed before any segment.

A percentile of one segment is a noisy thing, and the ratio of two even more so; the share of requests beyond a fixed
threshold counts events instead. The threshold is a percentile of the baseline's slices in the first burst that has
segments, so no segment has a say in it. Shares are (k + 1/2) / (n + 1), because a segment without any exceedance has
no logarithm; shares of none, pairs, bursts and intervals are those of every other contrast.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.analyse.centre import Floats, centre_p_value
from harness.analyse.contrast import Key, Pairs, Value, burst_medians, estimate, pair_up
from harness.analyse.records import TailTest
from harness.analyse.rows import Rows
from harness.analyse.sequential import log_e_path, p_value
from harness.measure.episodes import share
from harness.measure.metrics import latency_seconds, missing
from harness.measure.records import Slice
from harness.plan.arms import Comparison
from harness.study.records import Study, Workload

PERCENTILES = (99.0, 99.9)
EXPECTED = 10.0
"requests that must lie beyond a percentile: in the warm-up to fix the threshold, and in a segment to count against it"


def tails(rows: Rows, study: Study, workload: Workload, comparison: Comparison) -> Iterator[TailTest]:
    """The test at every percentile whose threshold the warm-up can fix; none without segments on both arms."""
    a, b = (rows.of(workload.name, arm, "segment") for arm in (comparison.a, comparison.b))
    if not a or not b:
        return
    before = warm_up(rows, workload, comparison.a, a[0].burst)
    for percentile in PERCENTILES:
        if fixes(percentile, before.size):
            threshold = float(np.percentile(before, percentile))
            yield _test(study, workload, comparison, percentile, threshold, (a, b))


def shares(segments: tuple[Slice, ...], request: str, threshold: float) -> dict[Key, tuple[int, int]]:
    """(exceedances, requests) of each segment by burst and block; a request without an answer exceeds."""
    found = {}
    for segment in segments:
        latencies, without = latency_seconds(segment, request), missing(segment, request)
        exceeding = int(np.count_nonzero(latencies > threshold)) + without
        found[segment.burst, segment.block] = exceeding, latencies.size + without
    return found


def fixes(percentile: float, requests: int) -> bool:
    """Whether so many requests of the warm-up fix the threshold of a percentile."""
    return requests > EXPECTED / (1.0 - percentile / 100.0) - 0.5  # a quotient: 10 / 0.001 is a little above 10,000


def warm_up(rows: Rows, workload: Workload, arm: str, burst: int) -> Floats:
    """Latencies of the arm's answered requests in the slices of that burst, whose percentiles are the thresholds."""
    slices = [row for row in rows.of(workload.name, arm) if row.burst == burst]
    return np.concatenate([np.empty(0), *(latency_seconds(row, workload.request) for row in slices)])


def _test(
    study: Study, workload: Workload, comparison: Comparison, percentile: float, threshold: float,
    segments: tuple[tuple[Slice, ...], tuple[Slice, ...]],
) -> TailTest:  # fmt: skip
    a, b = (shares(each, workload.request, threshold) for each in segments)
    pairs = _pairs(a, b, EXPECTED / (1.0 - percentile / 100.0))
    _, medians = burst_medians(pairs)
    found = estimate(pairs, study.confidence, study.budget.stop_early) if medians.size else None
    return TailTest(
        workload=workload.name,
        request=workload.request,
        a=comparison.a,
        b=comparison.b,
        percentile=percentile,
        threshold=threshold,
        share_a=_share(a),
        share_b=_share(b),
        estimate=found,
        p_value=_p_value(medians, sequential=study.budget.stop_early),
        reasons=pairs.reasons,
    )


def _pairs(a: dict[Key, tuple[int, int]], b: dict[Key, tuple[int, int]], needed: float) -> Pairs:
    few = f"fewer than {needed:,.0f} requests in a segment"

    def values(found: dict[Key, tuple[int, int]]) -> dict[Key, Value]:
        # needed is a quotient: 10 / 0.01 is a little above 1,000
        return {key: share(beyond, of) if of > needed - 0.5 else few for key, (beyond, of) in found.items()}

    return pair_up(values(a), values(b))


def _p_value(medians: Floats, *, sequential: bool) -> float:
    """Of "as many exceedances on both arms", two-sided."""
    if not sequential:
        return centre_p_value(medians, 0.0)
    return min(1.0, 2.0 * min(p_value(log_e_path(medians, 0.0)), p_value(log_e_path(-medians, 0.0))))


def _share(found: dict[Key, tuple[int, int]]) -> float:
    return sum(beyond for beyond, _ in found.values()) / max(1, sum(of for _, of in found.values()))
