"""What a report must know about a run beyond its rows."""

from __future__ import annotations

import msgspec


class RunInfo(msgspec.Struct, frozen=True):
    """How a run came about. `started`, `ended` are seconds since 1970 (UTC); `command` repeats it exactly.

    `complete` is False for a run that was interrupted before its budget was spent or its questions answered, or that is
    `running` while this is written.
    `notes` are sentences for the reader (say, what was resumed or left out).
    """

    run: str
    started: float
    ended: float
    command: str
    seed: int
    complete: bool
    running: bool = False
    notes: tuple[str, ...] = ()
