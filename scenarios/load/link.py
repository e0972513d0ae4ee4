"""A link between the users and a target's peers, as a process of its own: added round trip time, or an outage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from harness.lifeline import die_with_parent
from reference_impl.transports.base import Peer


class Link:
    """A running `reference_impl.faults.relay` in front of `peers`; dial its own `peers` instead. `end` it.

    It dies with this process, and a Ctrl-C is none of its business: users end before what they talk to. Raises
    `ConnectionError` when it does not start; it says why on standard error.
    """

    def __init__(self, peers: Sequence[Peer], rtt: float = 0.0) -> None:
        self._relay = subprocess.Popen(
            [sys.executable, "-m", "scenarios.load.link", str(os.getpid()), "--rtt", str(rtt)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._relay.stdin is not None
        assert self._relay.stdout is not None
        known = [{"peer_id": bytes(each).hex(), "addresses": {"tcp": list(each.addresses["tcp"])}} for each in peers]
        with suppress(BrokenPipeError):
            self._relay.stdin.write(json.dumps({"peers": known}) + "\n")
            self._relay.stdin.flush()
        ready = self._relay.stdout.readline()
        if not ready:
            self.end()
            raise ConnectionError("the link to the peers did not start")
        there = json.loads(ready)["peers"]
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
                with suppress(BrokenPipeError):
                    stream.close()


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from reference_impl.faults.relay import main  # here, as the process that starts it has no use for it

    sys.exit(main(sys.argv[2:]))
