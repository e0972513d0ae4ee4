"""A peer ends an idle pooled connection: the dialer's next checkout discards it and opens another one.

The whole path, dialer to node over tcp and tls, under threads and under gevent. Between them stands a relay of this
test's, because a node never half-closes or resets by itself.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reference_impl import assemble
from reference_impl.optimizations import parse
from reference_impl.transports.base import Address, Peer
from tests.reference_impl.conftest import CLIENT, TLS, RunningNode
from tests.reference_impl.helpers import wait_until

ENDS = ["half-close", "close", "reset"]
_here = __name__


def carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Middle:
    """Carries bytes between dialers and a node, and ends its side of a dialer's connection when told."""

    def __init__(self, target: Address) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address: Address = self._server.getsockname()
        self._carried: list[tuple[socket.socket, socket.socket, list[threading.Thread]]] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, node = self._server.accept()[0], socket.create_connection(self._target)
                threads = [threading.Thread(target=carry, args=ends) for ends in ((ours, node), (node, ours))]
                self._carried.append((ours, node, threads))
                for thread in threads:
                    thread.start()

    def end(self, how: str) -> None:
        """End the connection accepted last."""
        ours, _, (reading, _) = self._carried[-1]
        if how == "half-close":
            ours.shutdown(socket.SHUT_WR)
            return
        ours.shutdown(socket.SHUT_RD)
        reading.join()  # while somebody reads from it, the kernel keeps a closed socket open
        if how == "reset":
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ours.close()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._server.close()
        for ours, node, threads in self._carried:
            for one in (ours, node):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
            ours.close()
            node.close()


def ended_while_idle(peer: Peer, name: str, how: str, tls: dict[str, str]) -> None:
    middle = Middle(peer.addresses[name])
    dialer = assemble.dialer(parse(["all"]), CLIENT, {"tls": tls, "pooling": {"liveness_after": 0}})
    through = Peer(bytes(peer), {name: middle.address}, resumes=peer.resumes)
    try:
        with dialer.connect(through) as connection:
            assert connection.request(b"one") == b"one"
            first = connection._established
        with dialer.connect(through) as connection:
            assert connection._established is first
        middle.end(how)
        assert wait_until(lambda: not first.is_alive())
        with dialer.connect(through) as connection:
            second = connection._established
            assert second is not first
            assert connection.request(b"two") == b"two"
        with dialer.connect(through) as connection:
            assert connection._established is second
        assert not first.link.usable
        assert first.link._socket.fileno() == -1  # type: ignore[attr-defined]
        pooling = dialer.gauges()["pooling"]
        seen = {key: pooling[key] for key in ("misses", "hits", "discarded_dead", "idle", "in_use")}
        assert seen == {"misses": 2, "hits": 2, "discarded_dead": 1, "idle": 1, "in_use": 0}
        assert dialer.cleanup.open_connections() == 1
        assert dialer.gauges()["metrics"]["active"] == 1
    finally:
        dialer.close()
        middle.close()


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("name", ["tcp", "tls"])
def test_under_threads(running: Callable[..., RunningNode], name: str, how: str) -> None:
    ended_while_idle(running("all", name).peers[0], name, how, TLS)


def under_gevent(given: dict[str, Any]) -> None:
    """For a patched interpreter: every end over every transport, each in a greenlet of its own."""
    import gevent
    from gevent.thread import LockType

    assert isinstance(threading.Lock(), LockType)
    peer = Peer(bytes.fromhex(given["peer_id"]), {name: tuple(at) for name, at in given["addresses"].items()})
    cases = [(name, how) for name in peer.addresses for how in ENDS]
    greenlets = [gevent.spawn(ended_while_idle, peer, name, how, given["tls"]) for name, how in cases]
    gevent.joinall(greenlets, raise_error=True)
    sys.stdout.write(f"{len(cases)} ended")


def test_under_gevent(running: Callable[..., RunningNode]) -> None:
    peer = running("all", "tcp,tls").peers[0]
    given = {"peer_id": peer.hex(), "addresses": peer.addresses, "tls": TLS}
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        f"import json, sys; from {_here} import under_gevent; under_gevent(json.loads(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, json.dumps(given)],
        check=False, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "6 ended"
