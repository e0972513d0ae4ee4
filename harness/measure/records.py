"""What is measured, as frozen records: the one vocabulary that store, analysis and reports share.

Times are seconds, sizes bytes, ratios plain numbers. A latency array holds one float32 per answered request, in
completion order, as raw little-endian bytes so that a record goes to the store and over a pipe unchanged.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 1
Stretch = Literal["slice", "segment", "episode"]


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


class Slice(msgspec.Struct, frozen=True):
    """One stretch of load on one arm: a short slice, a contiguous segment, or an episode.

    `block` numbers the randomised group of adjacent slices (one per arm) inside the burst; two arms of one block
    form a pair. `seconds` runs from the barrier's opening to the last completion; `planned` is how long the barrier
    stood open.
    `cpu_target` and `cpu_load` are CPU seconds of the process trees from opening to the end of the quiet gap.
    Every started request is counted once: started = answered + rejected + failed + cancelled.
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

    @property
    def failures(self) -> int:
        """Requests that ended in an error other than a rejection."""
        return sum(self.failed.values())


class Memory(msgspec.Struct, frozen=True):
    """Memory of one process tree at one moment, bytes; descriptors is a count."""

    uss: int
    pss: int
    rss: int
    descriptors: int


class ArmReading(msgspec.Struct, frozen=True):
    """What one arm's processes held in one burst: idle at ready, and after `requests` requests of fixed work.

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


class Burst(msgspec.Struct, frozen=True):
    """One set of freshly exec'd processes. Complete bursts count; an interrupted one keeps its slices and says so."""

    number: int
    arms: tuple[str, ...]
    began: float
    complete: bool
    note: str = ""


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
    notes: tuple[str, ...] = ()


class Measured(msgspec.Struct, frozen=True):
    """All rows of a run: the only input of analysis and reports beside the study."""

    bursts: tuple[Burst, ...]
    slices: tuple[Slice, ...]
    readings: tuple[ArmReading, ...]
