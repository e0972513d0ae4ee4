"""`python -m harness.execute.loop CORE PARENT`: one of the loops of `awake.py`; it ends with its parent."""

from __future__ import annotations

import os
import sys

from harness.lifeline import die_with_parent


def keep_awake(core: int) -> None:
    """Never returns."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    os.sched_setaffinity(0, {core})
    while True:
        pass


if __name__ == "__main__":
    die_with_parent(int(sys.argv[2]))
    keep_awake(int(sys.argv[1]))
