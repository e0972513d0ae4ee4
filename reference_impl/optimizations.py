"""The six optimizations by name, and how one is switched.

An optimization is a `Switch`: two constructors with the same signature, one for the twin a competent
developer writes on the first day (off) and one for the optimized twin (on). Which one is called is
decided once, in `assemble.py`. Nothing else in the package reads a flag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

OPTIMIZATIONS = ("pooling", "cleanup", "rate_limit", "circuit_breaker", "buffer_pool", "metrics")
CONTROLS = ("first-day-reuse",)


@dataclass(frozen=True, slots=True)
class Switch(Generic[T]):
    """One optimization: its name and the constructors of its twins.

    `controls` are further honest twins that take the off side's place when their name is enabled, such as
    "first-day-reuse" (one locked connection per peer) for pooling.
    """

    name: str
    off: Callable[..., T]
    on: Callable[..., T]
    controls: Mapping[str, Callable[..., T]] = field(default_factory=dict)

    def pick(self, enabled: frozenset[str]) -> Callable[..., T]:
        """The constructor of the twin that `enabled` selects."""
        if self.name in enabled:
            return self.on
        for name, twin in self.controls.items():
            if name in enabled:
                return twin
        return self.off


class UnknownOptimization(ValueError):
    """A name that is neither an optimization nor a control arm."""


def parse(names: Iterable[str]) -> frozenset[str]:
    """Validated set of enabled names; "all" and "none" are understood.

    Raises `UnknownOptimization` naming the unknown word and the words that exist.
    """
    enabled: set[str] = set()
    for name in filter(None, (n.strip() for n in names)):
        if name == "all":
            enabled.update(OPTIMIZATIONS)
        elif name in OPTIMIZATIONS or name in CONTROLS:
            enabled.add(name)
        elif name != "none":
            known = ", ".join((*OPTIMIZATIONS, "all", "none", *CONTROLS))
            raise UnknownOptimization(f"unknown optimization {name!r}; expected one of: {known}")
    if "pooling" in enabled and "first-day-reuse" in enabled:
        raise UnknownOptimization("first-day-reuse stands for pooling's off side; enable one of the two")
    return frozenset(enabled)
