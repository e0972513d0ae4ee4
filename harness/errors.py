"""Whose fault it is. Every error a user can meet is one line: what happened, what was expected, what to do.

`exit_code` is what the command line returns: 2 for anything wrong before the first slice, 4 for what voids a
measurement after it.
"""

from __future__ import annotations

INTERRUPTED = 130
"exit code after Ctrl-C"


class BenchError(Exception):
    """Base of every error shown to a user without a traceback."""

    exit_code = 2
    fault = "synapsed-bench"


class UsageError(BenchError):
    """A flag or argument of the command line is wrong, or the port it names is taken."""

    fault = "usage"


class StudyError(BenchError):
    """The study is wrong, or cannot answer what it asks: the user's to mend."""

    fault = "study"


class DataError(BenchError):
    """A file of measurements made elsewhere cannot be read: the user's to mend."""

    fault = "data"


class TargetError(BenchError):
    """The system under test did not start, died, or broke the target contract."""

    fault = "target"


class LoadError(BenchError):
    """The load process or the Locust file failed."""

    fault = "load"


class StoreError(BenchError):
    """A run folder cannot be read or written (unknown run, other schema, full disk)."""

    fault = "store"


class MeasurementVoid(BenchError):
    """Something after the first slice makes what was measured unusable; `fault` says whose it is."""

    exit_code = 4

    def __init__(self, message: str, fault: str) -> None:
        super().__init__(message)
        self.fault = fault
