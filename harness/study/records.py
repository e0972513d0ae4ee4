"""A study file (TOML) parsed once into frozen, validated records; from here on nothing is optional or
unchecked.

What stands below a field is the field's line in docs/study-file.md.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

OPTIMIZATIONS = ("pooling", "cleanup", "rate_limit", "circuit_breaker", "buffer_pool", "metrics")
"the plan's six, which a study switches that names no others"
DesignKind = Literal["on-off", "ablation", "phases", "factorial", "sweep"]
PLACEHOLDER = "{port}"
"in a command, its environment or its `ready`: a port that nobody listens on, another one for every start"
ArrivalKind = Literal["closed", "constant", "poisson"]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Target(_Record, frozen=True, kw_only=True):
    """The system under test."""

    kind: Literal["reference", "command"] = "reference"
    "our node, or any program that becomes ready (target-contract.md)"
    command: tuple[str, ...] = ()
    "of a program: its words, started in the study's folder without a shell; `python` is ours, `{port}` a free port"
    ready: str = "line"
    "how a program shows that it is: `line`, `port:HOST:PORT`, `url:URL`, `pattern:REGEX`; the place may hold `{port}`"
    env: dict[str, str] = {}
    "variables of both ends"
    peers: int = 256
    "ports of our node, each with an identity of its own"
    settings: dict[str, dict[str, Any]] = {}
    "settings tables, which both ends get as JSON in `SYNAPSED_SETTINGS`; baselines.md has those of our node"


class Side(_Record, frozen=True, kw_only=True):
    """How a program learns that one of its switches is on, or off."""

    args: tuple[str, ...] = ()
    "words added to the target's command"
    env: dict[str, str] = {}
    "variables of both ends"


class Switch(_Record, frozen=True, kw_only=True):
    """One optimization of a program of your own."""

    name: str
    "as in arms, reports and `--on`; while it is on it also stands in `SYNAPSED_OPTIMIZATIONS`, at both ends"
    on: Side = Side()
    "what an arm with it gets"
    off: Side = Side()
    "what an arm without it gets"


class Arm(_Record, frozen=True, kw_only=True):
    """A configuration that switches alone do not describe: a control's environment, another program."""

    name: str
    "as expectations and the design call it"
    optimizations: tuple[str, ...] = ()
    "what is on"
    env: dict[str, str] = {}
    "variables of both ends"
    target: Target | None = None
    "another system than the study's; its `[[switch]]` tables do not concern it"
    file: str | None = None
    "the Locust file of every workload on this arm, instead of the workload's own"
    files: dict[str, str] = {}
    "the same for single workloads, by name; goes before `file`"
    interpreter: str = ""
    "the Python of the load process, instead of ours: for an arm with an environment of its own"


class Sweep(_Record, frozen=True, kw_only=True):
    """One parameter of one workload over several values."""

    workload: str
    "its name"
    parameter: str
    "`users`, `tasks`, `rate`, `slice_seconds`, or else a variable its Locust file reads"
    values: tuple[float | str, ...]
    "each makes a workload of its own, `NAME[PARAMETER=VALUE]`"
    metric: str = ""
    "whose crossover is sought; empty = median latency, throughput and CPU per request"


class Design(_Record, frozen=True, kw_only=True):
    """Which arms are compared."""

    kind: DesignKind = "on-off"
    "treatment against baseline; ablation: also each alone and all but each; phases: step by step; factorial: cells"
    " against their complements, which attributes the whole to its parts; sweep: over a parameter"
    baseline: str = "none"
    "an arm: `none`, `all`, names joined by `+`, `all-NAME`, or a declared one"
    treatment: str = "all"
    "the arm that is compared with it"
    controls: tuple[str, ...] = ()
    "honest stand-ins beside the baseline, such as `first-day-reuse` of our node"
    hidden: bool = True
    "whether a twin of the baseline runs along, which must not be shown to differ (A/A); not on workloads with `arms`"
    fractions: int = 4
    "of a factorial design of six: how many of the four quarters of its 64 cells; of fewer, all cells are visited"
    phases: tuple[tuple[str, ...], ...] = ()
    "of a phases design: what each adds; empty = the plan's order, or your switches one by one"
    sweep: Sweep | None = None
    "of a design of that kind"


class Workload(_Record, frozen=True, kw_only=True):
    """Locust users, their arrivals, and what they send.

    With `episode_seconds` it is a workload with a memory of time: measured alone in fresh processes, one contiguous
    stretch per arm, and then given `settle_seconds` without load before what is left is read.
    """

    name: str
    "as expectations and reports call it"
    file: str
    "its Locust file: beside the study, or in this project"
    question: str = ""
    "what it asks, for the report"
    arrivals: ArrivalKind = "closed"
    "closed: a user's next task follows its last; open: tasks arrive at a rate, and latency counts from then"
    users: int = 32
    "closed: as many are always busy; open: at most as many are in flight"
    rate: float = 0.0
    "arrivals per second; 0 in an open workload = half the slower arm's capacity, found before the run"
    slice_seconds: float = 0.2
    "how long a slice is open"
    blocks: int = 0
    "adjacent groups of slices a burst; 0 = as many as the budget says"
    quiet_seconds: float = 0.01
    "after a slice, for CPU that its requests leave behind"
    awake: bool = False
    "keep the cores of both ends from sleeping while they wait, so that no request pays for waking one"
    warm_tasks: int = 0
    "tasks that every arm does before its first slice of a burst, so that what fills up with use is full: at the rate"
    " of an open workload, else without think time"
    request: str = "request"
    "the request name whose latency stands for the workload"
    silent_tasks: bool = False
    "whether some of its tasks make no request at all; if not, one that reports none is a request that got lost"
    both_ends: bool = False
    "whether its file is on trial too, as a client's library is; if not, a load process at its limit says nothing about"
    " the system"
    max_error_ratio: float = 0.0
    "share of requests that may fail before the run is INVALID"
    max_rejection_ratio: float = 0.0
    "share of requests that a limiter may refuse"
    segment_seconds: float = 0.0
    "length of the contiguous segments that tails need; 0 = none"
    shape: tuple[tuple[float, float], ...] = ()
    "knots (seconds, arrivals per second) of a ramp or spike, straight in between; overrides rate"
    env: dict[str, str] = {}
    "variables its file reads when it is loaded; an episode's reach the target too"
    episode_seconds: float = 0.0
    "length of an episode; 0 = the workload is measured in slices"
    tasks: int = 0
    "what an episode consists of, when not of a length: exactly so many tasks, in about episode_seconds"
    settle_seconds: float = 0.0
    "what housekeeping gets after an episode, before readings are taken"
    settings: dict[str, dict[str, Any]] = {}
    "settings tables of an episode, over those of the target"
    arms: tuple[str, ...] = ()
    "the only arms of the design that are measured on it; empty = all, and in a factorial design its cells"

    @property
    def is_episode(self) -> bool:
        """Whether it needs fresh processes of its own."""
        return self.episode_seconds > 0.0


class Budget(_Record, frozen=True, kw_only=True):
    """How long to measure: as many bursts as fit into `seconds`, and no fewer than the expectations need."""

    seconds: float = 150.0
    "of measuring, with starting and warming; finding a rate comes before it and the analysis after it"
    blocks: int = 3
    "adjacent groups of slices per burst, of each workload that does not say itself"
    min_bursts: int = 7
    "measured even when `seconds` are over; a run that ends with fewer is INVALID; `--seconds` sets it to 1"
    max_bursts: int = 60
    "after which it ends before its time"
    table_every: int = 1
    "bursts whose arms no expectation compares, which only fill the table, are measured in one round of so many"
    memory_requests: int = 2000
    "tasks of fixed work, of the first workload in slices and without think time, after which memory is read"
    stop_early: bool = False
    "end as soon as every expectation is decided; intervals then hold at any stopping time and are wider"


class Expectation(_Record, frozen=True, kw_only=True):
    """A declared target of a contrast: the metric of an arm over that of each it is held against, within the bound."""

    name: str
    "of its own in the study"
    claim: str
    "what is claimed, in the words of who claims it"
    workload: str
    "where it is measured"
    metric: str
    "one of `synapsed-bench list metrics`"
    arm: str = "all"
    "whose metric it is"
    against: tuple[str, ...] = ("none",)
    "arms whose metric it is divided by, a verdict each"
    request: str = ""
    "request name for latency metrics; empty = the workload's own"
    at_most: float | None = None
    "the most that the ratio may be: 0.3 for -70 %. One of the two bounds is needed"
    at_least: float | None = None
    "the least that it may be: 2.5 for x 2.5"
    reason: str = ""
    "why this measures the claim, for the report"


class Study(_Record, frozen=True, kw_only=True):
    """One question, ready to be scheduled."""

    name: str
    "names the run's folder"
    title: str
    "heads the report"
    question: str = ""
    "what the report answers"
    seed: int = 0
    "of the order of arms, arrivals and faults, and of what Locust files draw from `random`"
    confidence: float = 0.95
    "of all verdicts together, and of each other interval by itself"
    target: Target = Target()
    "the system under test"
    switches: tuple[Switch, ...] = ()
    "the optimizations of a program of your own; none = the plan's six"
    design: Design = Design()
    "which arms are compared"
    budget: Budget = Budget()
    "how long to measure"
    arms: tuple[Arm, ...] = ()
    "configurations that switches alone do not describe"
    workloads: tuple[Workload, ...]
    "at least one"
    expectations: tuple[Expectation, ...] = ()
    "what is claimed, and judged"

    @property
    def optimizations(self) -> tuple[str, ...]:
        """The names that can be on: `all` is all of these."""
        return tuple(each.name for each in self.switches) or OPTIMIZATIONS

    @property
    def questions(self) -> int:
        """How many verdicts it declares: expectations times what each is held against."""
        return sum(len(each.against) for each in self.expectations)

    @property
    def family_confidence(self) -> float:
        """Confidence of each single interval so that all verdicts together hold with `confidence` (Bonferroni)."""
        return 1.0 - (1.0 - self.confidence) / max(1, self.questions)

    @property
    def asks_for(self) -> frozenset[str]:
        """The metrics that expectations and a sweep are about."""
        swept = (self.design.sweep.metric,) if self.design.sweep is not None else ()
        return frozenset((*(each.metric for each in self.expectations), *swept))
