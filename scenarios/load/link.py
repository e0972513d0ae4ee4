"""A link between the users and a target's peers, as a process of its own: added round trip time, or an outage."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence

from reference_impl.transports.base import Peer


class Link:
    """A running `reference_impl.relay` in front of `peers`; dial its own `peers` instead. `end` it."""

    def __init__(self, peers: Sequence[Peer], rtt: float = 0.0) -> None:
        self._relay = subprocess.Popen(
            [sys.executable, "-m", "reference_impl.relay", "--rtt", str(rtt)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._relay.stdin is not None
        assert self._relay.stdout is not None
        known = [{"peer_id": bytes(each).hex(), "addresses": {"tcp": list(each.addresses["tcp"])}} for each in peers]
        self._relay.stdin.write(json.dumps({"peers": known}) + "\n")
        self._relay.stdin.flush()
        there = json.loads(self._relay.stdout.readline())["peers"]
        self.peers = tuple(
            Peer(bytes(each), {"tcp": tuple(reached["addresses"]["tcp"])}, resumes=each.resumes)
            for each, reached in zip(peers, there, strict=True)
        )

    def go_black(self) -> None:
        """From now on nothing moves and nobody accepts."""
        self._relay.send_signal(signal.SIGSTOP)

    def come_back(self) -> None:
        """It goes on where it stopped."""
        self._relay.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """End the relay, stopped or not."""
        self._relay.kill()
        self._relay.wait()
        for stream in (self._relay.stdin, self._relay.stdout):
            if stream is not None:
                stream.close()
