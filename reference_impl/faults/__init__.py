"""What goes wrong on purpose, in a node and on a link: seeded, and decided before it happens."""

from __future__ import annotations

from reference_impl.faults.script import KINDS, TIMED, Event, Fault, Script, calibrate, spoil

__all__ = [
    "KINDS",
    "TIMED",
    "Event",
    "Fault",
    "Script",
    "calibrate",
    "spoil",
]
