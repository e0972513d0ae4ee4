"""What the analysis says, as frozen records: all that reports need beside the study and the environment.

Every ratio is arm b / arm a and travels with its interval. Everything is ordered and computed the same way
each time, so that the same stored rows give the same bytes. Times are seconds, sizes bytes, unless a record
names its unit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from harness.measure.metrics import MetricInfo, Source
from harness.plan.arms import Role

Outcome = Literal["MET", "MISSED", "INCONCLUSIVE", "NOT MEASURABLE"]
CheckStatus = Literal["ok", "invalid", "note"]
IntervalMethod = Literal["signed rank", "sequential", "unbounded", "counted"]


class Estimate(msgspec.Struct, frozen=True):
    """A ratio b/a with its interval, never one without the other.

    `ratio` is the exponential of the centre (Hodges and Lehmann) of burst medians of log(b) - log(a), of their median
    where `method` is "sequential". `low`, `high` is the interval at `confidence`; (0, inf) when the bursts are too few
    to bound it (`method` "unbounded"), `ratio` itself where nothing was timed ("counted"). `sd` is the standard
    deviation of the burst medians, `pair_sd` of the pairs, both of log ratios (0.01 is about 1 %); 0 when there is only
    one.
    """

    ratio: float
    low: float
    high: float
    confidence: float
    method: IntervalMethod
    bursts: int
    pairs: int
    sd: float
    pair_sd: float

    @property
    def bounded(self) -> bool:
        """Whether the bursts suffice for a finite interval."""
        return self.method != "unbounded"

    @property
    def change(self) -> float:
        """The ratio as a relative change: -0.92 is 92 % less."""
        return self.ratio - 1.0


class ContrastResult(msgspec.Struct, frozen=True):
    """Arm `b` against arm `a` on one workload and metric.

    `request` is the request name of a latency metric, else "". `workload` is "" for readings (memory) of the
    whole burst. `role` says what the contrast is for: treatment against baseline; treatment against a control
    (an honest stand-in); baseline against its hidden twin (a/a); in an ablation one flag alone against none
    ("single") or all but one against all ("without"); in phases each against the one before ("step").
    `estimate` is None when no pair could be used, then `problem` says why. `unusable` counts the pairs left
    out with their reasons in `reasons` (reason -> pairs). `burst_ratios` are the medians per burst, in burst
    order, and `burst_numbers` their bursts. `value_a`, `value_b` are the arms' absolute medians in the
    metric's unit (descriptive; NaN if nothing usable).
    """

    a: str
    b: str
    role: Role
    workload: str
    metric: str
    request: str
    source: Source
    estimate: Estimate | None
    burst_numbers: tuple[int, ...]
    burst_ratios: tuple[float, ...]
    value_a: float
    value_b: float
    unusable: int
    reasons: dict[str, int]
    problem: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What the interval says about one expectation against one arm.

    `bound` is the claimed ratio and `side` which side of it was claimed. `contrast` has the evidence, its
    interval at the family level (all verdicts of the study together hold with the study's confidence).
    `p_value` is that of the bound: the signed-rank test over bursts, two-sided, or 1/max E when the study may stop
    early; `adjusted_p` after Holm. `sentence` is the verdict in plain words; `reason` why it is INCONCLUSIVE
    or NOT MEASURABLE, else "".
    """

    expectation: str
    claim: str
    workload: str
    metric: str
    request: str
    arm: str
    against: str
    side: Literal["at_most", "at_least"]
    bound: float
    outcome: Outcome
    contrast: ContrastResult | None
    p_value: float
    adjusted_p: float
    sentence: str
    reason: str = ""


class Check(msgspec.Struct, frozen=True):
    """One validity check: what it `saw`, the `bound` it holds it to, and what to do about it (`remedy`).

    `where` names workload, arm or burst. `status` "invalid" voids the measurement; "note" is for the reader
    only.
    """

    name: str
    status: CheckStatus
    where: str
    saw: str
    bound: str
    remedy: str


def void(checks: Iterable[Check]) -> str:
    """What voids a measurement: the first failed of its checks, in words; empty when none has failed."""
    return next((f"{each.name}: {each.saw} ({each.where})" for each in checks if each.status == "invalid"), "")


class LatencyCurve(msgspec.Struct, frozen=True):
    """Latency distribution of one arm: `seconds[i]` (from the intended start) and `service_seconds[i]` at
    `percentiles[i]`.

    Percentiles beyond what `requests` answered requests of this `source` resolve are left out (slices stop at 95), and
    those that fall among requests without an answer.
    """

    workload: str
    arm: str
    request: str
    source: Source
    requests: int
    percentiles: tuple[float, ...]
    seconds: tuple[float, ...]
    service_seconds: tuple[float, ...]


class SeriesPoint(msgspec.Struct, frozen=True):
    """One slice: its place in the run and its value. `at` is seconds since the first slice of the run."""

    burst: int
    block: int
    at: float
    value: float


class ThroughputSeries(msgspec.Struct, frozen=True):
    """Answered requests per second of one arm, slice by slice in time order. Slices with none answered have
    value 0.
    """

    workload: str
    arm: str
    points: tuple[SeriesPoint, ...]


class CpuShare(msgspec.Struct, frozen=True):
    """CPU seconds per answered request by end (median over slices), and how busy each end was.

    `target_busy`, `load_busy` are CPU seconds per second of load (1.0 = one core full): what was saturated.
    """

    workload: str
    arm: str
    target_seconds: float
    load_seconds: float
    target_busy: float
    load_busy: float


class MemoryRow(msgspec.Struct, frozen=True):
    """Memory of one arm, bytes, medians over `bursts`, after `requests` requests of fixed work.

    `*_increase` is USS after the work less USS idle at ready; `*_whole` USS of the whole process after it.
    `descriptors` is the change in open descriptors of the target, `load_descriptors` that of the load
    process.
    """

    arm: str
    bursts: int
    requests: int
    target_increase: float
    target_whole: float
    target_pss: float
    load_increase: float
    load_whole: float
    load_pss: float
    descriptors: float
    load_descriptors: float


class SummaryValue(msgspec.Struct, frozen=True):
    """One metric of one arm, absolute and descriptive: median and quartiles over `count` usable slices or
    bursts.
    """

    metric: str
    request: str
    unit: str
    source: Source
    median: float
    quartile_low: float
    quartile_high: float
    count: int


class ArmSummary(msgspec.Struct, frozen=True):
    """Absolute values of one arm on one workload (`workload` "" = readings of the whole burst), and its
    request counts.

    started = answered + rejected + failed + cancelled; `failed` by kind.
    """

    workload: str
    arm: str
    values: tuple[SummaryValue, ...]
    slices: int
    started: int
    answered: int
    rejected: int
    failed: dict[str, int]
    cancelled: int


class GaugeSeries(msgspec.Struct, frozen=True):
    """A gauge the target (`end` "target") or the dialer ("load") keeps itself, at the end of each burst of slices, or
    of each episode of `workload`. A dialer that shares its process with those of other workloads has its workload's
    name before the gauge's. `memory.uss` is the memory of that end, bytes.
    """

    arm: str
    end: Literal["target", "load"]
    name: str
    bursts: tuple[int, ...]
    values: tuple[float, ...]
    workload: str = ""


class LeakSlope(msgspec.Struct, frozen=True):
    """How the USS of one end grows within episodes: bytes per 1,000 answered requests, the centre over `episodes` with
    its interval at the study's confidence; no ends when the episodes are too few to bound it.
    """

    workload: str
    arm: str
    end: Literal["target", "load"]
    slope: float
    low: float | None
    high: float | None
    episodes: int


class MemoryTrace(msgspec.Struct, frozen=True):
    """How the memory of one end moved within the episodes of a workload.

    `added[i]` is bytes of USS beyond the process idle at ready, `seconds[i]` after the opening; each is the median over
    `episodes` of their i-th moments.
    """

    workload: str
    arm: str
    end: Literal["target", "load"]
    seconds: tuple[float, ...]
    added: tuple[float, ...]
    episodes: int


class FlagEffect(msgspec.Struct, frozen=True):
    """The main effect of one flag on the log metric, as a ratio on/off with its interval (Shapley value
    without three-way interactions).
    """

    flag: str
    ratio: float
    low: float
    high: float


class Attribution(msgspec.Struct, frozen=True):
    """Which flag pays: factorial attribution of none -> all on one workload and metric.

    `predicted` is the product of all flags' ratios, `measured` the separately measured all-on/all-off ratio
    (None when it was not run); `closes` says whether their intervals agree. `bursts` is the number of
    clusters, `pairs` of fold-over pairs.
    """

    workload: str
    metric: str
    request: str
    confidence: float
    effects: tuple[FlagEffect, ...]
    predicted: FlagEffect
    measured: Estimate | None
    closes: bool | None
    bursts: int
    pairs: int


class Crossover(msgspec.Struct, frozen=True):
    """Where the treatment starts or stops to pay as one parameter of a workload grows.

    `at` is the value where the estimated ratio crosses 1, interpolated between the two neighbouring values of
    the sweep; `low`, `high` where the ends of its interval do (infinite where they never cross). `at` is None
    when the estimates do not cross. `values`, `ratios` are the sweep itself; `pays_above` says on which side of
    `at` the treatment is better.
    """

    workload: str
    parameter: str
    metric: str
    request: str
    at: float | None
    low: float
    high: float
    pays_above: bool | None
    values: tuple[float, ...]
    ratios: tuple[Estimate, ...]


class TailTest(msgspec.Struct, frozen=True):
    """Whether arm `b` has more slow requests than arm `a`: exceedances per segment over `threshold` seconds.

    The threshold is the `percentile` of a's slices in the first burst, fixed before any segment. `share_a`,
    `share_b` are the shares of requests beyond it over all segments; `estimate` is their ratio b/a from pairs of
    segments with its interval over bursts, `p_value` that of "no difference" by the signed-rank test over bursts.
    `reasons` counts the pairs left out.
    """

    workload: str
    request: str
    a: str
    b: str
    percentile: float
    threshold: float
    share_a: float
    share_b: float
    estimate: Estimate | None
    p_value: float
    reasons: dict[str, int]


class Analysis(msgspec.Struct, frozen=True):
    """Everything derived from a run's rows.

    `arms` in display order (baseline first, treatment last; hidden arms not among them, `hidden` names
    those). `valid` is False when any check is "invalid": then no verdict may be shown as green. `bursts`
    counts complete ones, `interrupted` the rest. `seconds_measured` is the wall time under load. `answer` is
    the study's result in one or two sentences for people. `confidence` is the study's, `family_confidence`
    the level of each verdict's own interval.
    """

    study: str
    baseline: str
    treatment: str
    controls: tuple[str, ...]
    arms: tuple[str, ...]
    hidden: tuple[str, ...]
    confidence: float
    family_confidence: float
    bursts: int
    interrupted: int
    seconds_measured: float
    valid: bool
    answer: str
    metrics: tuple[MetricInfo, ...]
    contrasts: tuple[ContrastResult, ...]
    verdicts: tuple[Verdict, ...]
    checks: tuple[Check, ...]
    curves: tuple[LatencyCurve, ...]
    throughput: tuple[ThroughputSeries, ...]
    cpu: tuple[CpuShare, ...]
    memory: tuple[MemoryRow, ...]
    summaries: tuple[ArmSummary, ...]
    gauges: tuple[GaugeSeries, ...]
    attributions: tuple[Attribution, ...] = ()
    crossovers: tuple[Crossover, ...] = ()
    leaks: tuple[LeakSlope, ...] = ()
    traces: tuple[MemoryTrace, ...] = ()
    tails: tuple[TailTest, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that make it invalid."""
        return tuple(each for each in self.checks if each.status == "invalid")
