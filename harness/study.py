"""A study file (TOML) parsed once into frozen, validated records; from here on nothing is optional or
unchecked.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

OPTIMIZATIONS = ("pooling", "cleanup", "rate_limit", "circuit_breaker", "buffer_pool", "metrics")
DesignKind = Literal["on-off", "ablation", "phases", "factorial", "sweep"]
PLACEHOLDER = "{port}"
"in a command, its environment or its `ready`: a port that nobody listens on, another one for every start"
ArrivalKind = Literal["closed", "constant", "poisson"]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Target(_Record, frozen=True, kw_only=True):
    """The system under test. `reference` is our node; `command` any program that becomes ready (see
    docs/target-contract.md).
    """

    kind: Literal["reference", "command"] = "reference"
    command: tuple[str, ...] = ()
    ready: str = "line"
    "how a command shows that it is ready: line, port:HOST:PORT, url:URL, pattern:REGEX"
    env: dict[str, str] = {}
    peers: int = 256
    settings: dict[str, dict[str, Any]] = {}


class Arm(_Record, frozen=True, kw_only=True):
    """One configuration under test: the switches that are on, and what else differs (a control's environment,
    another program).
    """

    name: str
    optimizations: tuple[str, ...] = ()
    env: dict[str, str] = {}
    target: Target | None = None
    file: str | None = None
    "the Locust file of every workload on this arm, instead of the workload's own"
    files: dict[str, str] = {}
    "the same for single workloads, by name; goes before `file`"
    interpreter: str = ""
    "the Python of the load process, instead of ours: for an arm with an environment of its own"


class Sweep(_Record, frozen=True, kw_only=True):
    """One parameter of one workload over several values: a field of the workload, or else a variable its file
    reads.
    """

    workload: str
    parameter: str
    values: tuple[float | str, ...]
    metric: str = ""
    "whose crossover is sought; empty = median latency, throughput and CPU per request"


class Design(_Record, frozen=True, kw_only=True):
    """Which arms are compared. `controls` are honest stand-ins (first-day-reuse) shown beside the baseline.

    `hidden` adds a twin of the baseline that must show no difference (A/A). `fractions` is how many of the
    four quarter fractions a factorial design visits; `sweep` belongs to the design of that kind.
    """

    kind: DesignKind = "on-off"
    baseline: str = "none"
    treatment: str = "all"
    controls: tuple[str, ...] = ()
    hidden: bool = True
    fractions: int = 4
    sweep: Sweep | None = None


class Workload(_Record, frozen=True, kw_only=True):
    """Locust users + arrivals + message mix. `rate` 0 in an open workload means half the slower arm's
    capacity, found in warm-up.

    With `episode_seconds` it is a workload with a memory of time: measured alone in fresh processes, one contiguous
    stretch per arm, and then given `settle_seconds` without load before what is left is read.
    """

    name: str
    file: str
    question: str = ""
    arrivals: ArrivalKind = "closed"
    users: int = 32
    rate: float = 0.0
    slice_seconds: float = 0.2
    blocks: int = 0
    "adjacent groups of slices a burst; 0 = as many as the budget says"
    quiet_seconds: float = 0.01
    awake: bool = False
    "keep the cores of both ends from sleeping while they wait, so that no request pays for waking one"
    warm_tasks: int = 0
    "tasks that every arm does before its first slice of a burst, for what fills up with use (a pool) to be full"
    request: str = "request"
    "the request name whose latency stands for the workload"
    silent_tasks: bool = False
    "whether some of its tasks make no request at all; if not, one that reports none is a request that got lost"
    max_error_ratio: float = 0.0
    max_rejection_ratio: float = 0.0
    segment_seconds: float = 0.0
    "length of the contiguous segments that tails need; 0 = none"
    shape: tuple[tuple[float, float], ...] = ()
    "knots (seconds, arrivals per second) of a ramp or spike, straight in between; overrides rate"
    env: dict[str, str] = {}
    "variables its file reads; an episode's reach the target too"
    episode_seconds: float = 0.0
    "length of an episode; 0 = the workload is measured in slices"
    tasks: int = 0
    "what an episode consists of, when not of a length: exactly so many tasks, in about episode_seconds"
    settle_seconds: float = 0.0
    "what housekeeping gets after an episode, before readings are taken"
    settings: dict[str, dict[str, Any]] = {}
    "settings tables of an episode, over those of the target"
    arms: tuple[str, ...] = ()
    "the only arms of the design that are measured on it; empty = all"

    @property
    def is_episode(self) -> bool:
        """Whether it needs fresh processes of its own."""
        return self.episode_seconds > 0.0


class Budget(_Record, frozen=True, kw_only=True):
    """How long to measure. `blocks` adjacent groups of slices per burst, of each workload that does not say itself; as
    many bursts as fit into `seconds`.
    """

    seconds: float = 150.0
    blocks: int = 3
    min_bursts: int = 7
    max_bursts: int = 60
    table_every: int = 1
    "bursts whose arms no expectation compares, which only fill the table, are measured in one round of so many"
    memory_requests: int = 2000
    "requests of fixed work after which memory is read"
    stop_early: bool = False
    "end as soon as every expectation is decided; intervals then hold at any stopping time and are wider"


class Expectation(_Record, frozen=True, kw_only=True):
    """A declared target of a contrast: metric of `arm` over that of each of `against`, within the bound."""

    name: str
    claim: str
    workload: str
    metric: str
    arm: str = "all"
    against: tuple[str, ...] = ("none",)
    request: str = ""
    "request name for latency metrics; empty = the workload's own"
    at_most: float | None = None
    at_least: float | None = None
    reason: str = ""


class Study(_Record, frozen=True, kw_only=True):
    """One question, ready to be scheduled."""

    name: str
    title: str
    question: str = ""
    seed: int = 0
    confidence: float = 0.95
    target: Target = Target()
    design: Design = Design()
    budget: Budget = Budget()
    arms: tuple[Arm, ...] = ()
    workloads: tuple[Workload, ...]
    expectations: tuple[Expectation, ...] = ()
