"""Keeps cores from falling asleep: a loop of idle priority on each, which whatever else wants to run displaces at once.

Where one end waits for the other, a core sleeps between two requests, and what waking it costs varies more than most
changes to the code matter (in a virtual machine it goes through the host; docs/method.md). The loops must be in
the session of what they give way to: Linux shares a core out among sessions first, and only then by priority.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable

from harness.execute.process import Child, python_path

NO_IDLE_PRIORITY = "this system has no idle priority: cores could not be kept awake"
FELL_ASLEEP = "the loops that keep the cores awake ended early"


class Loops:
    """The loops of one burst, once `start`ed. Always `end` them."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._running = True

    def start(self, cores: Iterable[int]) -> None:
        """One running loop on each of `cores`; none where the system has no idle priority."""
        if hasattr(os, "SCHED_IDLE"):
            for core in cores:
                command = sys.executable, "-P", "-m", "harness.execute.loop", str(core), str(os.getpid())
                self.children.append(Child(command, env={"PYTHONPATH": python_path()}))

    @property
    def note(self) -> str:
        """Why the cores may have slept, if so."""
        if not self.children:
            return NO_IDLE_PRIORITY
        return "" if all(child.alive() for child in self.children) else FELL_ASLEEP

    def run(self, wanted: bool) -> None:
        """Let them run, or hold them."""
        if wanted != self._running:
            for child in self.children:
                child.send(signal.SIGCONT if wanted else signal.SIGSTOP)
            self._running = wanted

    def end(self) -> None:
        """End all of them."""
        for child in self.children:
            child.end(grace=0.0)
