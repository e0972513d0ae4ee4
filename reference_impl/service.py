"""What a node answers: echo, sink (upload), source (download), stats. Pure: a request in, an answer out.

Kinds of request and answer share the one-byte `kind` of a message head.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from reference_impl.errors import Rejected, RemoteError
from reference_impl.security.frame import MAX_BODY
from reference_impl.security.noise import Bytes

ECHO, SINK, SOURCE, STATS = 1, 2, 3, 4
OK, REJECTED, ERROR = 128, 129, 130
SNAPSHOT = b"snapshot"
"the body of a stats request that asks for a cut through every series"

SIZE = struct.Struct(">I")
SECONDS = struct.Struct(">d")
_PATTERN = memoryview(bytes(range(256)) * (MAX_BODY // 256))

Stats = Callable[[], Mapping[str, Any]]


class Service:
    """Answers requests. `stats` gives the gauges that a stats request returns as JSON; `snapshot` what it does if its
    body is SNAPSHOT.
    """

    __slots__ = ("_snapshot", "_stats")

    def __init__(self, stats: Stats, snapshot: Stats) -> None:
        self._stats = stats
        self._snapshot = snapshot

    def answer(self, kind: int, body: Bytes) -> tuple[int, Bytes]:
        """(kind, body) of the answer; a request that makes no sense gets ERROR and a reason, never an exception."""
        if kind == ECHO:
            return OK, body
        if kind == SINK:
            return OK, SIZE.pack(len(body))
        if kind == SOURCE:
            return self._source(body)
        if kind == STATS:
            asked = self._snapshot if body == SNAPSHOT else self._stats
            return OK, json.dumps(asked()).encode()
        return ERROR, b"unknown request kind %d" % kind

    @staticmethod
    def _source(body: Bytes) -> tuple[int, Bytes]:
        if len(body) != SIZE.size:
            return ERROR, b"a source request is a 4-byte size"
        (size,) = SIZE.unpack(body)
        if size > MAX_BODY:
            return ERROR, b"source of %d bytes; at most %d are sent" % (size, MAX_BODY)
        return OK, _PATTERN[:size]


def rejection(retry_after: float) -> tuple[int, bytes]:
    """The answer to a request that the rate limiter refused; `retry_after` in seconds, infinity for never."""
    return REJECTED, SECONDS.pack(retry_after)


def refuse(kind: int, body: Bytes) -> NoReturn:
    """Raise `Rejected` or `RemoteError` for an answer that is not OK."""
    if kind == REJECTED and len(body) == SECONDS.size:
        raise Rejected(SECONDS.unpack(body)[0])
    if kind == ERROR:
        raise RemoteError(bytes(body[:200]).decode("utf-8", "replace"))
    raise RemoteError(f"answer of unknown kind {kind}")
