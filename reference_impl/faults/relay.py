"""A link between dialers and a node, `python -m reference_impl.faults.relay`: adds distance, plays a fault script.

It reads a target's ready line on standard input and prints the same line with addresses of its own, so whoever takes
the line dials through it. Its own CPU time, which a
measurement must not mistake for the node's, is in the line it prints at its end (and its pid in the ready line).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import uvloop

from reference_impl import settings as check
from reference_impl.faults.relayed import DialerEnd, Relayed
from reference_impl.faults.script import Hit, Script
from reference_impl.settings import SettingsError


class Relay:
    """Links to several addresses that share a script and a round trip time (seconds, added)."""

    def __init__(self, script: Script, rtt: float = 0.0) -> None:
        script.check_for("link")
        check.not_negative("relay", "rtt", rtt)
        self.script = script
        self.one_way = rtt / 2
        self._down_until = 0.0
        self.open: set[Relayed] = set()
        self.struck: Counter[str] = Counter()
        self.carried = 0
        self._numbers = itertools.count()
        self._servers: list[asyncio.Server] = []

    async def link(self, host: str, port: int) -> tuple[str, int]:
        """Listen for dialers of (host, port); returns the address to dial instead. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: DialerEnd(self, (host, port)), "127.0.0.1", 0, backlog=1024)
        self._servers.append(server)
        bound, number = server.sockets[0].getsockname()[:2]
        return bound, number

    def strike(self) -> tuple[Hit, ...]:
        """What strikes the connection that has just come; a crash strikes at once."""
        hits = self.script.decide("link", "connection", next(self._numbers))
        for hit in hits:
            self.struck[hit.fault.kind] += 1
            if hit.fault.kind == "crash":
                self.crash(hit.fault.seconds)
        return hits

    def is_down(self) -> bool:
        """After a crash, and not yet back."""
        return asyncio.get_running_loop().time() < self._down_until

    def crash(self, seconds: float) -> None:
        """The link is down for `seconds`: what is open dies, what comes is refused."""
        self._down_until = asyncio.get_running_loop().time() + seconds
        for relayed in list(self.open):
            relayed.cut()

    def gauges(self) -> dict[str, Any]:
        """Faults played by kind, bytes carried, and the CPU seconds of this process."""
        return {
            "open": len(self.open),
            "struck": dict(self.struck),
            "bytes_carried": self.carried,
            "cpu_seconds": time.process_time(),
        }

    def close(self) -> None:
        """Stop listening and cut every connection."""
        for server in self._servers:
            server.close()
        for relayed in list(self.open):
            relayed.cut()


async def through(relay: Relay, ready: dict[str, Any]) -> dict[str, Any]:
    """A target's ready line with every address led through `relay`."""
    peers = []
    for peer in ready["peers"]:
        addresses = {name: list(await relay.link(*where)) for name, where in peer["addresses"].items()}
        peers.append({**peer, "addresses": addresses})
    return {**ready, "peers": peers, "relay": {"pid": os.getpid(), "rtt": 2 * relay.one_way}}


async def _serve(script: Script, rtt: float, ready: dict[str, Any]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    relay = Relay(script, rtt)
    _say(await through(relay, ready))
    await stop.wait()
    _say(relay.gauges())
    relay.close()


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 after a signal, 2 when the arguments or the ready line are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_impl.faults.relay", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rtt", type=float, default=0.0, help="round trip time to add, in seconds")
    parser.add_argument("--faults", default="{}", help="JSON: a fault script for the link")
    arguments = parser.parse_args(argv)
    try:
        table = json.loads(arguments.faults)
        ready = json.loads(sys.stdin.readline())
        if not isinstance(table, dict) or not isinstance(ready, dict) or "peers" not in ready:
            raise SettingsError("expected a JSON object as --faults, and a target's ready line on standard input")
        uvloop.run(_serve(_script(table), arguments.rtt, ready))
    except (SettingsError, json.JSONDecodeError, OSError) as error:
        sys.stderr.write(f"relay: {error}\n")
        return 2
    return 0


def _script(table: dict[str, Any]) -> Script:
    for name in table:
        if name not in ("seed", "rules"):
            raise SettingsError(f"unknown setting faults.{name}; expected one of: seed, rules")
    return Script(**table)


if __name__ == "__main__":
    sys.exit(main())
