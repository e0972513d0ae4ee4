"""What leaks when peers come and go and things go wrong? In a seeded 30 % of uses something does, on the users' side.

They cancel the connect or the request, raise in the middle of the use, or a stranger first leaves a handshake
unfinished. Only the first two can leak; the others are there to show that they do not. Beside that the node's fault
script (settings table `faults`) refuses, falls silent, resets, corrupts, delays and crashes.
"""

from __future__ import annotations

import os
import socket
from time import perf_counter

import gevent
from locust import task

from scenarios.load.episode import EpisodeUser
from scenarios.load.session import session
from scenarios.load.users import FAILURES

PEERS = 32
PAYLOAD = os.urandom(256)
MISFORTUNES = ("cancelled connect", "cancelled request", "raising callback", "unfinished handshake")
SHARE = float(os.environ.get("CHURN_SHARE", "0.3"))
"of uses that a misfortune of the user's own strikes"
CONNECT_SECONDS, REQUEST_SECONDS = 0.0004, 0.0001
"after which connecting, or a request, is cancelled: in the middle of either"


class Cancelled(Exception):
    """The caller gave up."""


class CallbackError(Exception):
    """The caller's own code failed in the middle of a use; no I/O error."""


class ChurnUser(EpisodeUser):
    """Needs some peer for a moment; sometimes it ends badly."""

    ALONE = {  # noqa: RUF012 - faults, and time limits that seconds of them meet
        "node": {"tick": 0.25, "handshake_timeout": 0.5},
        "pooling": {"max_idle_time": 0.5, "cleanup_interval": 0.25, "wait_timeout": 0.25},
        "tcp": {"connect_timeout": 0.25, "request_timeout": 0.25},
        "circuit_breaker": {"timeout": 0.25, "max_timeout": 1.0, "backoff": 0.01},
        "faults": {
            "rules": [
                {"kind": "refuse", "share": 0.02},
                {"kind": "silent", "share": 0.01},
                {"kind": "reset", "share": 0.03},
                {"kind": "corrupt", "share": 0.03},
                {"kind": "delay", "share": 0.02, "seconds": 0.01},
                {"kind": "throttle", "share": 0.01, "rate": 20000.0},
                {"kind": "busy", "share": 0.01, "iterations": 500},
                {"kind": "crash", "first": 1000, "count": 1, "seconds": 0.2},
            ]
        },
    }

    def on_start(self) -> None:
        super().on_start()
        self.peers = session(self.environment).over_tcp()[:PEERS]

    @task
    def use(self) -> None:
        self.now()
        peer = self.random.choice(self.peers)
        fate = self.random.choice(MISFORTUNES) if self.random.random() < SHARE else ""
        began = perf_counter()
        try:
            if fate == "unfinished handshake":
                self.knock(peer.addresses["tcp"])
            cancel = gevent.Timeout(CONNECT_SECONDS if fate == "cancelled connect" else None)
            with cancel, self.dialer.connect(peer) as connection:
                cancel.close()
                if fate == "raising callback":
                    raise CallbackError
                with gevent.Timeout(REQUEST_SECONDS if fate == "cancelled request" else None):
                    answer = connection.request(PAYLOAD)
        except gevent.Timeout:
            self.report("request", perf_counter() - began, 0, Cancelled(fate))
        except (*FAILURES, CallbackError) as error:
            self.report("request", perf_counter() - began, 0, error)
        else:
            self.report("request", perf_counter() - began, len(answer))

    @staticmethod
    def knock(address: tuple[str, int]) -> None:
        """A stranger who says half a word and leaves."""
        with socket.create_connection(address, 0.5) as stranger:
            stranger.sendall(b"\x00\x20" + os.urandom(10))
