"""How long a study takes and what it can prove, said before anything is measured.

A question needs enough bursts for its interval to exist at the family level at all; a study whose budget
cannot give them is refused, with what it would need. Beyond that, the planner says the smallest effect the
budget can be expected to show, from typical noise of this kind of measurement (docs/method.md).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from scipy import stats

from harness.errors import StudyError
from harness.measure.metrics import Metric, metric
from harness.plan import schedule
from harness.plan.arms import BurstKind, Layout, blocks_of, workloads
from harness.study.records import Study, Workload

LAYOUT_SD = 0.014
"standard deviation of a burst's process layout effect on the log metric"
PAIR_SD: Mapping[str, float] = {
    "latency_p50": 0.05,
    "latency_mean": 0.07,
    "service_p50": 0.05,
    "throughput": 0.07,
    "cpu_per_request": 0.05,
    "latency_p99": 0.12,
}
"robust standard deviation of one pair's log ratio; metrics not listed count as OTHER_SD"
OTHER_SD = 0.10


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds that measuring costs besides load. Defaults were measured with two processes an arm on two
    cores.

    `start` is per arm and burst (exec, ready, pin, end), `warmup` per arm and workload, `switch` per stretch of
    load, and `task` for each request of fixed work and each task to warm up with: the mean of arms that shake hands for
    every one of them and arms that do not.
    """

    start: float = 0.9
    warmup: float = 0.35
    switch: float = 0.02
    task: float = 0.0008


@dataclass(frozen=True, slots=True)
class Proof:
    """What one expectation against one arm can hope for.

    `resolution` is the expected half width of its interval as a share (0.02 = +-2 %), `bursts` how many
    bursts will hold its pair, `needed` the fewest that can decide it at all, and `run` how many the whole run has by
    then.
    """

    expectation: str
    against: str
    bursts: int
    needed: int
    run: int
    resolution: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """The time of a study: `seconds` for so many bursts, `burst_seconds` for one (the mean over all rounds), and what
    it can prove. `lasts` is how long measuring goes on: as the budget says, less where `max_bursts` end it before, more
    where the fewest bursts need more.
    """

    bursts: int
    burst_seconds: float
    seconds: float
    lasts: float
    proofs: tuple[Proof, ...]


def forecast(study: Study, layout: Layout, costs: Costs | None = None) -> Forecast:
    """What the study's budget buys. StudyError when a declared question cannot be decided within it, or the switches of
    a factorial design not be told apart.
    """
    _refuse_unmeasured(study, layout)
    each = burst_seconds(study, layout, costs or Costs())
    fitting = math.floor(study.budget.seconds / each)
    bursts = min(study.budget.max_bursts, max(study.budget.min_bursts, fitting))
    planned = bursts * each
    lasts = planned if bursts == study.budget.max_bursts else max(study.budget.seconds, planned)
    result = Forecast(bursts, each, planned, lasts, tuple(_proofs(study, layout, bursts)))
    refuse_undecidable(study, result)
    _refuse_unattributable(study, layout, result)
    return result


def left(study: Study, expected: Forecast, done: int, spent: float, foreseen: float) -> float:
    """Seconds of measuring still to come after `done` bursts in `spent` seconds; 0.0 when no other burst is due.

    Those still due take as much longer than forecast as those done took, which were forecast to take `foreseen`
    seconds. As many are due as the questions need at the least, beyond that what fits the time. A slower machine than
    forecast so measures for longer, rather than stop where nothing could be decided.
    """
    allowed = study.budget
    each = expected.burst_seconds * (max(1.0, spent / foreseen) if done else 1.0)
    needed = max((proof.run for proof in expected.proofs), default=0)
    due = max(allowed.min_bursts, min(needed, expected.bursts)) - done
    time = allowed.seconds - spent
    return max(0.0, min((allowed.max_bursts - done) * each, max(due * each, time if time >= each else 0.0)))


def foreseen(study: Study, layout: Layout, bursts: int, costs: Costs | None = None) -> float:
    """Seconds that the first so many bursts are forecast to take: kinds differ, and each run begins with others."""
    costs = costs or Costs()
    rest = bursts % len(layout.kinds)
    whole = (bursts - rest) * burst_seconds(study, layout, costs)
    begun = (schedule.kind(study, layout, number) for number in range(bursts - rest, bursts))
    return whole + _seconds(study, begun, costs)


def burst_seconds(study: Study, layout: Layout, costs: Costs) -> float:
    """Seconds of one burst, the mean over all rounds."""
    return _seconds(study, layout.kinds, costs) / len(layout.kinds)


def _seconds(study: Study, kinds: Iterable[BurstKind], costs: Costs) -> float:
    """Seconds of a burst of each of `kinds`."""
    by_name = {each.name: each for each in workloads(study)}
    total = 0.0
    for kind in kinds:
        measured = [(by_name[name], len(arms)) for name, arms in kind.playing]
        memory = 0.0 if any(each.is_episode for each, _ in measured) else study.budget.memory_requests * costs.task
        load = sum(arms * _load_seconds(each, blocks_of(study, each), costs) for each, arms in measured)
        total += len(kind.arms) * (costs.start + memory) + load
    return total


def _load_seconds(workload: Workload, blocks: int, costs: Costs) -> float:
    """Seconds that one arm of a burst spends on a workload."""
    if workload.is_episode:
        return workload.episode_seconds + workload.quiet_seconds + workload.settle_seconds + costs.switch
    slices = blocks * (workload.slice_seconds + workload.quiet_seconds + costs.switch)
    segments = 2 if workload.segment_seconds > 0.0 else 0
    return (
        costs.warmup
        + workload.warm_tasks * _task_seconds(workload, costs)
        + slices
        + segments * (workload.segment_seconds + workload.quiet_seconds + costs.switch)
    )


def _task_seconds(workload: Workload, costs: Costs) -> float:
    """What one task of warm-up takes: at the rate of an open workload, which is half of what could be done."""
    if workload.arrivals == "closed":
        return costs.task
    return 1.0 / workload.rate if workload.rate else 2.0 * costs.task


def bursts_needed(confidence: float) -> int:
    """The fewest bursts whose signed ranks give a two-sided interval of their centre at this confidence."""
    return math.ceil(1.0 - math.log2(1.0 - confidence) - 1e-9)


def sequential_bursts_needed(alpha: float) -> int:
    """The fewest unanimous bursts after which the e-process reaches 1/alpha: (2^(n+1) - 1) / (n + 1)."""
    bursts = 1
    while (2.0 ** (bursts + 1) - 1.0) / (bursts + 1) < 1.0 / alpha:
        bursts += 1
    return bursts


def resolution(pair_sd: float, blocks: int, bursts: int, confidence: float) -> float:
    """Expected half width of the interval of the centre of `bursts` burst medians of `blocks` pairs, as a share.

    The median of normal values has sqrt(pi/2) times the standard error of their mean, their centre sqrt(pi/3) times.
    """
    median, centre = math.sqrt(math.pi / 2.0), math.sqrt(math.pi / 3.0)
    of_burst = math.hypot(LAYOUT_SD, (median if blocks > 2 else 1.0) * pair_sd / math.sqrt(blocks))
    return math.expm1(float(stats.norm.ppf(0.5 + confidence / 2.0)) * centre * of_burst / math.sqrt(bursts))


def _proofs(study: Study, layout: Layout, bursts: int) -> Iterator[Proof]:
    confidence = study.family_confidence
    sequential = study.budget.stop_early
    needed = sequential_bursts_needed((1.0 - confidence) / 2.0) if sequential else bursts_needed(confidence)
    planned = [schedule.kind(study, layout, place) for place in range(max(bursts, (needed + 1) * len(layout.kinds)))]
    for each in study.expectations:
        of = metric(each.metric)
        on = next(one for one in workloads(study) if one.name == each.workload)
        for against in each.against:
            holding = list(accumulate(int(_holds(kind, each.workload, {against, each.arm})) for kind in planned))
            held = holding[bursts - 1]
            blocks = _blocks(study, of, on)
            width = resolution(PAIR_SD.get(of.name, OTHER_SD), blocks, held, confidence) if held else math.inf
            yield Proof(each.name, against, held, needed, bisect_left(holding, needed) + 1, width)


def _holds(kind: BurstKind, workload: str, pair: set[str]) -> bool:
    """Whether both arms of `pair` are measured on `workload` in such a burst."""
    return any(name == workload and pair <= set(arms) for name, arms in kind.playing)


def _blocks(study: Study, of: Metric, workload: Workload) -> int:
    if "reading" in of.sources or workload.is_episode:
        return 1
    return blocks_of(study, workload) if "slice" in of.sources else 2


def refuse_undecidable(study: Study, result: Forecast) -> None:
    """StudyError naming the first question that so few bursts cannot decide, and what it would need."""
    asked = study.questions
    of, fewer = (f"one of {asked} questions", ", or ask fewer questions") if asked > 1 else ("the one question", "")
    for proof in result.proofs:
        if proof.bursts < proof.needed:
            raise StudyError(
                f"expectation {proof.expectation!r} against {proof.against!r} gets {proof.bursts} bursts, but"
                f" {proof.needed} are the fewest that can decide {of} at"
                f" {study.confidence:.3g}: allow {proof.run} bursts (max_bursts) and"
                f" {math.ceil(proof.run * result.burst_seconds)} s (seconds){fewer}"
            )


def _refuse_unmeasured(study: Study, layout: Layout) -> None:
    """StudyError naming the first workload on which no two arms are compared: nothing would be measured there."""
    played = {name for kind in layout.kinds for name, _ in kind.playing}
    for each in workloads(study):
        if each.name not in played:
            raise StudyError(
                f"workload {each.name!r} has no two arms to compare in this run (its arms:"
                f" {', '.join(each.arms) or 'all'}); expected the baseline {study.design.baseline!r} among them and"
                " another that is measured, or leave it out (keep, of a depth)"
            )


def _refuse_unattributable(study: Study, layout: Layout, result: Forecast) -> None:
    """StudyError when a factorial design gets too few bursts of its cells: one for each effect, one for their noise."""
    if not layout.foldover:
        return
    folded = {frozenset(arms) for arms in layout.sets[layout.foldover_from :]}
    if not folded:
        raise StudyError("a factorial design has its cells on workloads in slices that name no arms; expected one")
    needed = len(study.optimizations) + 1
    planned = (schedule.kind(study, layout, place) for place in range(result.bursts + needed * len(layout.kinds)))
    holding = list(accumulate(int(frozenset(kind.arms) in folded) for kind in planned))
    held = holding[result.bursts - 1] if result.bursts else 0
    if held < needed:
        run = bisect_left(holding, needed) + 1
        raise StudyError(
            f"a factorial design of {len(study.optimizations)} switches gets {held} bursts of its cells, but {needed}"
            f" are the fewest that tell them apart: allow {run} bursts (max_bursts) and"
            f" {math.ceil(run * result.burst_seconds)} s (seconds)"
        )
