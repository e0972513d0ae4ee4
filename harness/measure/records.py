"""What is measured, as frozen records: the one vocabulary that store, analysis and reports share.

Times are seconds, sizes bytes, ratios plain numbers. A latency array holds one float32 per answered request, in
completion order, as raw little-endian bytes so that a record goes to the store and over a pipe unchanged.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 3
Stretch = Literal["slice", "segment", "episode"]
STRETCHES: tuple[Stretch, ...] = get_args(Stretch)


class Latencies(msgspec.Struct, frozen=True):
    """Answered requests of one name within one stretch of load.

    `service` counts from the actual send, `lag` is actual minus intended start; latency = service + lag. In a closed
    workload the intended start is the actual one and `lag` is empty.
    """

    name: str
    service: bytes
    lag: bytes = b""

    def service_seconds(self) -> NDArray[np.float32]:
        """Seconds from actual send to answer, one per request."""
        return np.frombuffer(self.service, dtype="<f4")

    def latency_seconds(self) -> NDArray[np.float32]:
        """Seconds from intended start to answer, one per request."""
        service = self.service_seconds()
        return service + np.frombuffer(self.lag, dtype="<f4") if self.lag else service


class Unanswered(msgspec.Struct, frozen=True):
    """Requests of one name within one stretch that were rejected or failed; `seconds` is what they took together."""

    name: str
    rejected: int
    failed: int
    seconds: float


class Slice(msgspec.Struct, frozen=True):
    """One stretch of load on one arm: a short slice, a contiguous segment, or an episode.

    `block` numbers the randomised group of adjacent slices (one per arm) inside the burst; two arms of one block
    form a pair. `seconds` runs from the barrier's opening to the last completion; `planned` is how long the barrier
    stood open.
    `cpu_target` is CPU seconds of the target's process tree from opening to the end of the quiet gap, `cpu_load` those
    of the load process: without what it started, such as a relay that stands for distance.
    `started` is counted where tasks begin (a task makes one request or more) and every request is counted once where it
    ends: unless one got lost or was told twice, started = answered + rejected + failed + cancelled.
    """

    burst: int
    block: int
    position: int
    workload: str
    arm: str
    kind: Stretch
    began: float
    planned: float
    seconds: float
    started: int
    answered: int
    rejected: int
    failed: dict[str, int]
    cancelled: int
    cpu_target: float
    cpu_load: float
    page_faults: int
    lag_max: float
    latencies: tuple[Latencies, ...]
    rate: float = 0.0
    "intended arrivals per second; 0 in a closed workload"
    arrivals: int = 0
    "intended starts of tasks; 0 in a closed workload"
    tasks: int = 0
    "tasks that were started; one may make several requests"
    unanswered: tuple[Unanswered, ...] = ()
    "rejected and failed requests by name; a task that failed outside any request has none"
    surplus: int = 0
    "reports of requests beyond what the tasks can have made, where the users say how many that is: told twice"
    cache_misses: float | None = None
    "of the target's processes and the load process, in user mode; None where nobody asked or the machine cannot tell"
    said: dict[str, str] = {}
    "by kind of failure: what the first one said, in one short line, and the file:line that raised it"

    @property
    def failures(self) -> int:
        """Requests that ended in an error other than a rejection."""
        return sum(self.failed.values())

    @property
    def untaken(self) -> int:
        """Arrivals for which no user was free before the stretch was over; they count as cancelled."""
        return max(0, self.arrivals - self.tasks)

    @property
    def hung(self) -> int:
        """Requests that had no answer when waiting for them was given up."""
        return max(0, self.cancelled - self.untaken)

    @property
    def lasted(self) -> float:
        """Seconds to the last completion; where requests never ended, at least as long as the barrier stood open: who
        stops answering was not done early.
        """
        return max(self.seconds, self.planned) if self.hung else self.seconds

    @property
    def lost(self) -> int:
        """Requests that began and were not told of."""
        told = self.answered + self.rejected + self.failures + self.cancelled - self.surplus
        return abs(self.started - told)


class Memory(msgspec.Struct, frozen=True):
    """Memory of one process tree at one moment, bytes; descriptors is a count."""

    uss: int
    pss: int
    rss: int
    descriptors: int


class Sample(msgspec.Struct, frozen=True):
    """What one arm's processes held at one moment of an episode, `at` seconds after its opening.

    `gauges` are the target's own where it publishes them (its ready line names a `metrics` URL).
    """

    burst: int
    arm: str
    workload: str
    at: float
    target: Memory
    load: Memory
    gauges: dict[str, float]


class ArmReading(msgspec.Struct, frozen=True):
    """What one arm's processes held in one burst: idle at ready, and after `requests` requests of fixed work.

    With a `workload`, it is what an episode left: read after its load has stopped and housekeeping had its chance,
    `requests` being those that were answered.
    `gauges` are the target's own (`room.name` -> value) at the end of the burst, `load_gauges` those of the dialer in
    the load process.
    """

    burst: int
    arm: str
    requests: int
    target_idle: Memory
    target_after: Memory
    load_idle: Memory
    load_after: Memory
    gauges: dict[str, float]
    load_gauges: dict[str, float]
    workload: str = ""


class Burst(msgspec.Struct, frozen=True):
    """One set of freshly exec'd processes. Complete bursts count; an interrupted one keeps its slices and says so."""

    number: int
    arms: tuple[str, ...]
    began: float
    complete: bool
    note: str = ""
    playing: tuple[tuple[str, tuple[str, ...]], ...] = ()
    "the workloads it was to measure, each with its arms; empty = every workload on every arm"
    others: float | None = None
    "cores that processes of others kept busy meanwhile, in the mean; None where nobody looked"
    stolen: float | None = None
    "cores that the host of a virtual machine took meanwhile"


class Environment(msgspec.Struct, frozen=True):
    """The machine and software a run was measured on, as shown in the report."""

    machine: str
    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    python: str
    packages: dict[str, str]
    revision: str
    dirty: bool
    variables: dict[str, str] = {}
    "environment variables that all processes inherit and that change how any program runs, such as MALLOC_ARENA_MAX,"
    " or what our Locust files do, such as CHURN_SHARE"


class Measured(msgspec.Struct, frozen=True):
    """All rows of a run: the only input of analysis and reports beside the study."""

    bursts: tuple[Burst, ...]
    slices: tuple[Slice, ...]
    readings: tuple[ArmReading, ...]
    samples: tuple[Sample, ...] = ()

    def __add__(self, later: Measured) -> Measured:
        """These rows and those of later bursts."""
        return Measured(
            self.bursts + later.bursts,
            self.slices + later.slices,
            self.readings + later.readings,
            self.samples + later.samples,
        )
