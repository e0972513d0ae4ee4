"""The plan's monitoring list, as every run records it: how each moved from the first burst to the last. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harness.analyse.records import Analysis
from reports import words
from reports.tables import Table

Held = Mapping[str, Sequence[float]]
"gauge -> its values, burst by burst"
TRANSITIONS = ("closed_to_open", "open_to_half_open", "half_open_to_closed", "half_open_to_open")


def table(analysis: Analysis) -> Table:
    """A row per arm, workload and end that keeps any of them: median over bursts, then first and last burst."""
    places: dict[tuple[str, str, str], dict[str, Sequence[float]]] = {}
    for each in analysis.gauges:
        workload, _, name = each.name.rpartition(": ")
        places.setdefault((each.workload or workload, each.arm, each.end), {})[name] = each.values
    rows = []
    for (workload, arm, end), held in sorted(places.items()):
        cells = tuple(_cell(read(held), spell) for read, spell in _COLUMNS.values())
        if any(cell != words.ABSENT for cell in cells):
            rows.append((workload or "slices", arm, end, *cells))
    headings = ("workload", "arm", "end", *_COLUMNS)
    return Table(
        "The plan's monitoring list: median over bursts (first and last)", headings, tuple(rows),
        tuple(range(3, len(headings))),
    )  # fmt: skip


def _cell(values: Sequence[float], spell: Callable[[float], str]) -> str:
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return words.ABSENT
    return f"{spell(float(np.median(known)))} ({spell(known[0])}, {spell(known[-1])})"


def _hit_rate(held: Held) -> Sequence[float]:
    hits, misses = held.get("pooling.hits", ()), held.get("pooling.misses", ())
    return [h / (h + m) if h + m else math.nan for h, m in zip(hits, misses, strict=False)]


def _transitions(held: Held) -> Sequence[float]:
    found = [held[f"circuit_breaker.{name}"] for name in TRANSITIONS if f"circuit_breaker.{name}" in held]
    return [sum(values) for values in zip(*found, strict=False)]


def _gauge(name: str) -> Callable[[Held], Sequence[float]]:
    return lambda held: held.get(name, ())


def _reuse(held: Held) -> Sequence[float]:
    ratios, acquired = held.get("buffer_pool.reuse_ratio", ()), held.get("buffer_pool.acquired", ())
    return [ratio if taken else math.nan for ratio, taken in zip(ratios, acquired, strict=False)]


def _share(value: float) -> str:
    return f"{words.number(100.0 * value, 1)}{words.THIN}%"


_COLUMNS: Mapping[str, tuple[Callable[[Held], Sequence[float]], Callable[[float], str]]] = {
    "pool hit rate": (_hit_rate, _share),
    "breaker transitions": (_transitions, words.count),
    "rejected requests": (_gauge("rate_limit.rejection_rate"), _share),
    "refused at the door": (_gauge("source_limit.rejection_rate"), _share),
    "buffer reuse": (_reuse, _share),
    "memory (USS)": (_gauge("memory.uss"), lambda value: words.quantity(value, "B")),
}
