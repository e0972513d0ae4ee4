"""The other end of a benchmark, in a process of its own: `python -m scenarios.micro.ends accept|node|client ...`.

A child says one JSON line when it is ready, does what the lines of its standard input ask, and ends when that ends:
whoever started it may die in any way without leaving it behind.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from reference_impl import assemble
from reference_impl.metrics import MetricsSettings, PerThreadMetrics, Recorder
from reference_impl.metrics.locked_metrics import LockedMetrics
from reference_impl.metrics.series import Snapshot
from reference_impl.optimizations import OPTIMIZATIONS, Switch
from reference_impl.security.identity import Identity
from reference_impl.transports.base import Peer

ARMS = {
    "off": frozenset({"first-day-reuse"}),
    "first-day-reuse": frozenset({"first-day-reuse"}),
    "on": frozenset(OPTIMIZATIONS),
}
"""Switches by arm; in `off` the metrics count nothing either."""
CLIENT = Identity.from_seed(b"micro client")


class End:
    """A started child."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "scenarios.micro.ends", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        self.ready = self._answer()

    def ask(self, line: str) -> Any:
        """Send one line, wait for the answer to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the other end left with exit status {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> End:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def say(answer: object) -> None:
    """One line to whoever started this process."""
    print(json.dumps(answer), flush=True)


def allow_descriptors(count: int) -> None:
    """Raise this process's limit of open descriptors, and its children's, to `count`. Raises OSError if it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
        except ValueError:
            told = f"{count} open descriptors are needed, {hard} are allowed: try after `ulimit -n {count}`"
            raise OSError(told) from None


class NoMetrics:
    """Metrics of a layer without any."""

    def attempt(self) -> None: ...
    def opened(self, seconds: float) -> None: ...
    def failed(self) -> None: ...
    def request(self, seconds: float, sent: int, received: int) -> None: ...
    def closed(self) -> None: ...

    def recorder(self, peer: bytes, transport: str) -> Recorder:
        return self

    def snapshot(self) -> Snapshot:
        return LockedMetrics(MetricsSettings()).snapshot()

    def sweep(self) -> int:
        return 0

    def gauges(self) -> dict[str, float]:
        return {}


def _accept(scheme: str) -> None:
    """Authenticate whoever comes, one at a time, until the input ends."""
    from scenarios.micro.handshakes import SCHEMES

    accepting = SCHEMES[scheme]()
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    say(listener.getsockname()[1])
    threading.Thread(target=_serve, args=(listener, accepting.accept), daemon=True).start()
    sys.stdin.read()


def _serve(listener: socket.socket, accept: Callable[[socket.socket], Any]) -> None:
    while True:
        connected, _ = listener.accept()
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):
            accept(connected).close()
        connected.close()


def _without_metrics(arm: str) -> None:
    if arm == "off":
        none: Switch[Any] = Switch("metrics", off=lambda settings: NoMetrics(), on=PerThreadMetrics)
        vars(assemble)["METRICS"] = none  # a twin that no user should be able to choose


def _node(arm: str, peers: int, tick: float) -> int:
    """The reference node, until the input ends; its own ready line is what it says."""
    from reference_impl.__main__ import main as serve

    def until_the_input_ends() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=until_the_input_ends, daemon=True).start()
    settings = json.dumps({"node": {"tick": tick}})
    return serve(["--on", ",".join(ARMS[arm]), "--peers", str(peers), "--settings", settings])


def _client(arm: str, peers: list[Peer], payload: bytes) -> None:
    """Greenlets, each with a peer of its own, that share the requests asked for by a line with their number."""
    import gevent
    from gevent.threadpool import ThreadPool

    dialer = assemble.dialer(ARMS[arm], CLIENT)

    def requests(peer: Peer, count: int) -> None:
        for _ in range(count):
            with dialer.connect(peer) as connection:
                connection.request(payload)

    reading = ThreadPool(1)
    say("ready")
    while line := reading.spawn(sys.stdin.readline).get():
        share = -(-int(line) // len(peers))
        gevent.joinall([gevent.spawn(requests, peer, share) for peer in peers], raise_error=True)
        say(share * len(peers))
    dialer.close()


def main(argv: list[str] | None = None) -> int:
    """Entry point of a child; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    accept = actions.add_parser("accept")
    accept.add_argument("scheme")
    node = actions.add_parser("node")
    node.add_argument("arm", choices=ARMS)
    node.add_argument("--peers", type=int, default=1)
    node.add_argument("--tick", type=float, default=2.0)
    client = actions.add_parser("client")
    client.add_argument("arm", choices=ARMS)
    client.add_argument("--peers", required=True, help="JSON: what the node said")
    client.add_argument("--size", type=int, default=1024)
    options = parser.parse_args(argv)
    if options.action == "accept":
        _accept(options.scheme)
        return 0
    _without_metrics(options.arm)
    if options.action == "node":
        return _node(options.arm, options.peers, options.tick)
    from gevent import monkey

    monkey.patch_all()
    peers = [
        Peer(
            bytes.fromhex(peer["peer_id"]),
            {"tcp": ("127.0.0.1", peer["addresses"]["tcp"][1])},
            resumes=bool(peer.get("resumes")),
        )
        for peer in json.loads(options.peers)
    ]
    _client(options.arm, peers, bytes(options.size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
