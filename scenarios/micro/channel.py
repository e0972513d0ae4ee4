"""The channel beneath the rooms: the Noise handshake against others, and what an idle connection costs the node.

There is no off twin of the channel: full handshakes are compared with peers only, resumed ones with full ones too. The
two arms of an idle connection are a node with all six rooms and one with none.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from time import perf_counter

from harness.execute.counters import cpu_seconds
from harness.measure.probes import memory
from reference_impl.buffer_pool import Allocating, BufferSettings
from reference_impl.security.channel import SECOND_BYTES, Initiation
from scenarios.micro.ends import CLIENT, End, allow_descriptors
from scenarios.micro.handshakes import RESUMPTIONS, SCHEMES, InMemory, receive
from scenarios.micro.suite import Builder, Case, Goal, Room, Setup, Timed, each, main

FIRST, LAST = 500, 6500
LIVE = 3600.0
TRIMMED = 0.2
SETTLED = 5
"""Readings in a row without change after which trimming is over."""


def _both_ends(scheme: Callable[[], InMemory]) -> Builder:
    def build(setup: Setup) -> Timed:
        shake = scheme().both_ends

        def work(times: object) -> None:
            for _ in times:  # type: ignore[attr-defined]
                shake()

        return each([None], work)

    return build


def _over_loopback(name: str, clock: str) -> Builder:
    """Connect, handshake, close, against a process that accepts: wall time, or the CPU time of one side."""

    def build(setup: Setup) -> Timed:
        other = setup.stack.enter_context(End("accept", name))
        dial = SCHEMES[name]().dial
        clocks: dict[str, Callable[[], float]] = {
            "wall": perf_counter,
            "dialing": time.process_time,
            "listening": lambda: cpu_seconds([other.pid]),
        }
        now = clocks[clock]

        def timed(loops: int) -> float:
            began = now()
            for _ in range(loops):
                connected = socket.create_connection(("127.0.0.1", other.ready))
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                dial(connected).close()  # type: ignore[attr-defined]
            return now() - began

        return timed

    return build


def _idle(arm: str, tick: float) -> Builder:
    """Bytes of the node's USS for each further connection that authenticates and then stays silent."""

    def build(setup: Setup) -> Timed:
        def slope(loops: int) -> float:
            allow_descriptors(LAST + 500)
            with End("node", arm, "--tick", str(tick)) as node:
                peer = node.ready["peers"][0]
                connections: list[socket.socket] = []
                name, port = bytes.fromhex(peer["peer_id"]), peer["addresses"]["tcp"][1]
                try:
                    readings = []
                    for count in (FIRST, LAST):
                        while len(connections) < count:
                            connections.append(_authenticated(name, port))
                        readings.append(_uss(node.pid, settle=tick < LIVE))
                finally:
                    for connected in connections:
                        connected.close()
            return (readings[1] - readings[0]) / (LAST - FIRST)

        return slope

    return build


def _authenticated(peer_id: bytes, port: int) -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", port))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    initiation = Initiation(CLIENT, peer_id)
    connected.sendall(initiation.first)
    last, channel = initiation.finish(receive(connected, SECOND_BYTES), Allocating(BufferSettings()))
    connected.sendall(last)
    channel.close()
    return connected


def _uss(pid: int, *, settle: bool) -> int:
    """USS once the node has worked off what it was sent and, if asked, trimmed what is idle."""
    same, before = 0, (0.0, 0)
    while True:
        time.sleep(2 * TRIMMED)  # a period of the node's own clock, which cannot be asked from outside
        now = (round(cpu_seconds([pid]), 2), memory([pid]).uss)
        same = same + 1 if abs(now[1] - before[1]) < 65_536 else 0
        if same >= (SETTLED if settle else 1):
            return now[1]
        before = now


FASTER = (Goal(0.85, "noiseprotocol", "at least 15 % faster"), Goal(0.85, "tls13", "at least 15 % faster"))
ROOM = Room(
    "channel",
    __doc__,
    (
        Case(
            "handshake, both ends in memory",
            {name: _both_ends(scheme) for name, scheme in SCHEMES.items()},
            FASTER,
            weight=5.0,
        ),
        *(
            Case(
                f"handshake over loopback, {label}",
                {name: _over_loopback(name, clock) for name in SCHEMES},
                FASTER,
                weight=5.0,
            )
            for clock, label in (
                ("wall", "wall time"),
                ("dialing", "CPU of the dialing side"),
                ("listening", "CPU of the listening side"),
            )
        ),
        Case(
            "handshake of two that have met, both ends in memory",
            {name: _both_ends(scheme) for name, scheme in RESUMPTIONS.items()},
            (Goal(0.6, "off", "at most 60 % of a full handshake"), FASTER[0]),
            weight=5.0,
        ),
        Case(
            "memory of an idle connection, ciphers live",
            {arm: _idle(arm, LIVE) for arm in ("off", "on")},
            (Goal(7 * 1024, why="7 KiB"),),
            "byte",
        ),
        Case(
            "memory of an idle connection, trimmed",
            {arm: _idle(arm, TRIMMED) for arm in ("off", "on")},
            (Goal(4 * 1024, why="4 KiB"),),
            "byte",
        ),
    ),
    needs={"noiseprotocol": "noise", "tls13": "ssl"},
)

if __name__ == "__main__":
    main(ROOM)
