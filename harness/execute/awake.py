"""Keeps cores from falling asleep: a loop of idle priority on each, which whatever else wants to run displaces at once.

Where one end waits for the other, a core sleeps between two requests, and what it costs to wake it is most of a short
request and varies more than most changes to the code (in a virtual machine it goes through the host). The loops must be
in the session of what they give way to: Linux shares a core out among sessions first, and only then by priority.
`python -m harness.execute.awake CORE PARENT` is the loop; it ends with PARENT.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from harness.execute.worker import die_with_parent

NO_IDLE_PRIORITY = "this system has no idle priority: cores could not be kept awake"
FELL_ASLEEP = "the loops that keep the cores awake ended early"


def commands(cores: Iterable[int]) -> list[list[str]]:
    """How the loops are started, one for each core; none where the system has no idle priority."""
    if not hasattr(os, "SCHED_IDLE"):
        return []
    return [[sys.executable, "-P", "-m", __name__, str(core), str(os.getpid())] for core in cores]


def keep_awake(core: int) -> None:
    """Never returns."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    os.sched_setaffinity(0, {core})
    while True:
        pass


if __name__ == "__main__":
    die_with_parent(int(sys.argv[2]))
    keep_awake(int(sys.argv[1]))
