"""Orders and answers between the harness and a load process: msgpack frames, each behind a 4-byte big-
endian length.

One order is answered by exactly one answer, in order; a broken or closed stream means the other side is
gone. This module stays free of numpy and of Locust, so that both sides can import it before anything heavy.
"""

from __future__ import annotations

import socket
import struct
from typing import TypeVar

import msgspec

_LENGTH = struct.Struct("!I")
MAX_FRAME = 1 << 30


class WorkloadFile(msgspec.Struct, frozen=True):
    """One workload of a load process: `users` users of the Locust file `file`; `env` holds while the file
    is loaded. `scheduled`: when a task starts is up to the harness's arrivals, so users' own wait times are left out.
    """

    name: str
    file: str
    users: int
    env: dict[str, str] = {}
    scheduled: bool = False


class Setup(msgspec.Struct, frozen=True, tag=True):
    """First order: load these files and bring every user to the barrier within `timeout` seconds. Answered
    by Ready. `cache_misses`: count those of both ends in every stretch, if this machine can.
    """

    workloads: tuple[WorkloadFile, ...]
    timeout: float
    cache_misses: bool = False


class OpenSlice(msgspec.Struct, frozen=True, tag=True):
    """Open the barrier of one workload for `planned` seconds; answered by SliceResult.

    `arrivals` are intended starts in seconds after the opening, ascending; None is a closed workload.
    Requests still in flight `drain` seconds after closing are cancelled. CPU of `targets` (pids) is read at
    the opening and after `quiet` seconds of silence.
    """

    workload: str
    planned: float
    quiet: float
    drain: float
    targets: tuple[int, ...]
    arrivals: tuple[float, ...] | None = None


class Work(msgspec.Struct, frozen=True, tag=True):
    """Run exactly `tasks` tasks of one workload, closed; answered by SliceResult. Takes at most `timeout`
    seconds.
    """

    workload: str
    tasks: int
    quiet: float
    timeout: float
    targets: tuple[int, ...]
    thinking: bool = True
    "whether users take their think time between the tasks"


class Gauges(msgspec.Struct, frozen=True, tag=True):
    """Ask the Locust files for their gauges; answered by GaugesAnswer."""


class Settle(msgspec.Struct, frozen=True, tag=True):
    """Stay quiet for `seconds`, then let the Locust files keep house; answered by Settled."""

    seconds: float


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Stop all users and exit; answered by Stopped."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """All users stand at the barrier. `notes` say what on this machine is coarser than it should be."""

    notes: tuple[str, ...] = ()


class Samples(msgspec.Struct, frozen=True):
    """Answered requests of one name: float32 little-endian seconds, as in
    `harness.measure.records.Latencies`.
    """

    name: str
    service: bytes
    lag: bytes = b""


class Unanswered(msgspec.Struct, frozen=True):
    """Rejections and failures of one request name, as in `harness.measure.records.Unanswered`."""

    name: str
    rejected: int
    failed: int
    seconds: float


class SliceResult(msgspec.Struct, frozen=True, tag=True):
    """What the load process knows of one slice; fields as in `harness.measure.records.Slice`.

    `tasks` counts passages through the barrier.
    """

    seconds: float
    tasks: int
    answered: int
    rejected: int
    failed: dict[str, int]
    cancelled: int
    cpu_target: float
    cpu_load: float
    page_faults: int
    lag_max: float
    samples: tuple[Samples, ...]
    unanswered: tuple[Unanswered, ...] = ()
    surplus: int = 0
    "reports of requests beyond what the tasks can have made; 0 where the users do not say (requests_per_task)"
    cache_misses: float | None = None
    said: dict[str, str] = {}

    @property
    def ended(self) -> int:
        """Every request that was told of, whatever became of it."""
        return self.answered + self.rejected + sum(self.failed.values()) + self.cancelled


class GaugesAnswer(msgspec.Struct, frozen=True, tag=True):
    """`target`: gauges of the system under test as the Locust file fetched them; `load`: the client side's
    own.
    """

    target: dict[str, float]
    load: dict[str, float]


class Settled(msgspec.Struct, frozen=True, tag=True):
    """The pause is over, and what a Locust file calls `synapsed_housekeeping` has run."""


class Stopped(msgspec.Struct, frozen=True, tag=True):
    """Users are gone; the process exits now."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The order could not be carried out; one line for the user."""

    message: str


Order = Setup | OpenSlice | Work | Gauges | Settle | Stop
Answer = Ready | SliceResult | GaugesAnswer | Settled | Stopped | Failed
Message = TypeVar("Message")

ORDERS: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
ANSWERS: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
_ENCODER = msgspec.msgpack.Encoder()


def send(stream: socket.socket, message: Order | Answer) -> None:
    """Write one frame. Raises OSError when the other side is gone."""
    body = _ENCODER.encode(message)
    stream.sendall(_LENGTH.pack(len(body)) + body)


def receive(stream: socket.socket, decoder: msgspec.msgpack.Decoder[Message]) -> Message:
    """Read one frame. Raises EOFError when the stream ends, TimeoutError per the socket, ValueError on
    garbage.
    """
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if length > MAX_FRAME:
        raise ValueError(f"frame of {length} bytes announced; at most {MAX_FRAME} are allowed")
    return decoder.decode(_exactly(stream, length))


def _exactly(stream: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    got = 0
    while got < size:
        received = stream.recv_into(view[got:])
        if received == 0:
            raise EOFError(f"stream ended after {got} of {size} bytes")
        got += received
    return bytes(data)
