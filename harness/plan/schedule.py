"""Who runs when: a seeded random order.

Because burst n is a pure function of (study, n, how many before it were cut short), a resumed run continues the very
schedule that was interrupted, plays again what was, and the same seed gives the same order on every machine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, count

import numpy as np

from harness.measure.records import Stretch
from harness.plan.arms import BurstKind, Layout, blocks_of, workloads
from harness.study.records import Study, Workload

_SET_ORDER, _BURST = 1, 2  # separate random streams


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """Adjacent stretches of load, one per arm, in this order; each opens the barrier for `seconds`."""

    workload: str
    block: int
    kind: Stretch
    seconds: float
    order: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BurstPlan:
    """One set of processes. `arms` in the order they are started; `episode` when it measures one episode each.

    With `swapped` the two revisions of a gate change directories, because paths bias too.
    """

    number: int
    arms: tuple[str, ...]
    swapped: bool
    blocks: tuple[BlockPlan, ...]
    episode: bool = False


def schedule(study: Study, layout: Layout, start: int = 0, lost: int = 0) -> Iterator[BurstPlan]:
    """Bursts from number `start` on, `lost` of those before it cut short, without end; the budget decides where to
    stop.
    """
    return (burst(study, layout, number, lost) for number in count(start))


def kind(study: Study, layout: Layout, place: int) -> BurstKind:
    """What the burst with `place` whole ones before it plays. Each round makes every kind of its own once, in random
    order.
    """
    turn, place = _turn(layout, place)
    kinds = layout.rounds[turn % len(layout.rounds)]
    round_order = np.random.default_rng((study.seed, _SET_ORDER, turn)).permutation(len(kinds))
    return kinds[int(round_order[place])]


def burst(study: Study, layout: Layout, number: int, lost: int = 0) -> BurstPlan:
    """Burst `number`, with everything in random order. It plays what is next when `lost` before it were cut short."""
    of = kind(study, layout, number - lost)
    rng = np.random.default_rng((study.seed, _BURST, number))
    arms = _shuffled(of.arms, rng)
    by_name: Mapping[str, Workload] = {each.name: each for each in workloads(study)}
    blocks: list[BlockPlan] = []
    for index in rng.permutation(len(of.playing)):
        name, on = of.playing[int(index)]
        order = tuple(arm for arm in arms if arm in on)
        blocks += _blocks(by_name[name], blocks_of(study, by_name[name]), order, rng)
    episode = any(by_name[name].is_episode for name, _ in of.playing)
    return BurstPlan(number, arms, bool(rng.integers(2)), tuple(blocks), episode)


def _turn(layout: Layout, number: int) -> tuple[int, int]:
    """The round that holds burst `number`, counted from 0, and the burst's place in it."""
    times, place = divmod(number, len(layout.kinds))
    begins = [0, *accumulate(len(kinds) for kinds in layout.rounds)]
    turn = bisect_right(begins, place) - 1
    return times * len(layout.rounds) + turn, place - begins[turn]


def _blocks(workload: Workload, blocks: int, arms: tuple[str, ...], rng: np.random.Generator) -> Iterator[BlockPlan]:
    if workload.is_episode:
        yield BlockPlan(workload.name, 0, "episode", workload.episode_seconds, _shuffled(arms, rng))
        return
    for block in range(blocks):
        yield BlockPlan(workload.name, block, "slice", workload.slice_seconds, _shuffled(arms, rng))
    if workload.segment_seconds > 0.0:
        forth = _shuffled(arms, rng)
        for block, order in enumerate((forth, forth[::-1])):
            yield BlockPlan(workload.name, blocks + block, "segment", workload.segment_seconds, order)


def _shuffled(arms: tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(arms[int(index)] for index in rng.permutation(len(arms)))
