"""All six rooms together on a calm path: CPU of both ends per 1 KiB request and answer.

A node and a client, each a process: 32 greenlets, each with a peer and so a connection of its own. `off` has the same
crypto and framing with none of the rooms: one locked connection per peer and no metrics; `first-day-reuse` is that with
the off twin of the metrics.
"""

from __future__ import annotations

import json

from harness.execute.counters import cpu_seconds
from scenarios.micro.ends import ARMS, End
from scenarios.micro.suite import Builder, Case, Goal, Room, Setup, Timed, main

GREENLETS = 32


def _calm(arm: str, greenlets: int) -> Builder:
    def build(setup: Setup) -> Timed:
        node = setup.stack.enter_context(End("node", arm, "--peers", str(greenlets)))
        client = setup.stack.enter_context(End("client", arm, "--peers", json.dumps(node.ready["peers"])))
        client.ask(str(20 * greenlets))
        both = [node.pid, client.pid]

        def timed(loops: int) -> float:
            began = cpu_seconds(both)
            done = client.ask(str(loops))
            return (cpu_seconds(both) - began) * loops / int(done)

        return timed

    return build


ROOM = Room(
    "calm",
    __doc__,
    (
        Case(
            "CPU of a request, all six rooms, 32 connections",
            {arm: _calm(arm, GREENLETS) for arm in ARMS},
            (Goal(1.08, "off", "at most 8 % of the calm path's CPU"),),
            weight=30.0,
        ),
        Case(
            "CPU of a request, all six rooms, one connection",
            {arm: _calm(arm, 1) for arm in ARMS},
            (Goal(1.08, "off", "at most 8 % of the calm path's CPU"),),
            weight=30.0,
        ),
    ),
)

if __name__ == "__main__":
    main(ROOM)
