"""What does a node keep of the peers it has met? Each of MESH_CLIENTS identities dials once, asks once, and leaves.

A study whose workload has fewer tasks leaves the rest of them at home.

"request" is connecting and the answer together; the clients are the same on every arm, as the question is the node. A
snapshot of its metrics at the end tells how long the node pauses for it.
"""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any

import gevent
from locust import events, task

from reference_impl.buffer_pool import Allocating, BufferSettings
from reference_impl.security.identity import Identity
from reference_impl.service import ECHO
from reference_impl.transports.tcp import TcpSettings, TcpTransport
from scenarios.load.episode import EpisodeUser, told
from scenarios.load.session import dialer_gauges, playing, session
from scenarios.load.users import FAILURES

CLIENTS = int(os.environ.get("MESH_CLIENTS", "25000"))
PAYLOAD = os.urandom(64)
IDENTITIES: list[Identity] = []


@events.test_start.add_listener
def _prepare(environment: Any, **_: Any) -> None:
    """Identities are made before the load: making them is no part of what a node is asked for."""
    if not playing(environment, __name__):
        return
    while len(IDENTITIES) < CLIENTS:
        IDENTITIES.append(Identity.generate())


class MeshUser(EpisodeUser):
    """Plays one client after another."""

    def on_start(self) -> None:
        super().on_start()
        self.peers = session(self.environment).over_tcp()
        self.buffers = Allocating(BufferSettings())
        self.environment.synapsed_gauges = self.gauges

    @task
    def visit(self) -> None:
        if not IDENTITIES:
            gevent.sleep(0.05)  # everybody has been there
            return
        client = TcpTransport(IDENTITIES.pop(), self.buffers, TcpSettings())
        peer = self.peers[0]
        began = perf_counter()
        try:
            with client.open(peer.addresses["tcp"]) as connected:
                link = client.secure(connected, peer)
                with link.exchange(ECHO, PAYLOAD) as answer:
                    size = len(answer.body)
        except FAILURES as error:
            self.report("request", perf_counter() - began, 0, error)
        else:
            self.report("request", perf_counter() - began, size)

    def gauges(self) -> dict[str, float]:
        """Time a snapshot over a connection that stands: asked for last, when memory has been read."""
        current, found = session(self.environment), told(self.environment)
        with current.dialer.connect(current.peers[0]) as connection:
            connection.request(PAYLOAD)
            began = perf_counter()
            connection.snapshot()
            found["mesh.snapshot"] = perf_counter() - began
        found["mesh.clients"] = float(CLIENTS - len(IDENTITIES))
        return {**dialer_gauges(self.environment), **found}
