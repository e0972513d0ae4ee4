"""What does a connection cost when the peer is far away? Like dial, over a link that adds DISTANT_RTT seconds.

"connect" is having the connection, new or reused; with DISTANT_WHOLE=1 it is "dial": that and the first answer too.
"""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any

from locust import events, task

from scenarios.load.episode import EpisodeUser
from scenarios.load.link import Link
from scenarios.load.session import session
from scenarios.load.users import FAILURES, zipf

RTT = float(os.environ.get("DISTANT_RTT", "0.01"))
WHOLE = os.environ.get("DISTANT_WHOLE", "") == "1"
PEERS = 64
PAYLOAD = os.urandom(64)

_links: dict[Any, Link] = {}


@events.test_start.add_listener
def _lay(environment: Any, **_: Any) -> None:
    _links[environment] = Link(session(environment).peers[:PEERS], RTT)


@events.test_stop.add_listener
@events.quitting.add_listener
def _cut(environment: Any, **_: Any) -> None:
    if environment in _links:
        _links.pop(environment).end()


class DistantUser(EpisodeUser):
    """Needs a connection to some distant peer, uses it once, gives it back."""

    def on_start(self) -> None:
        super().on_start()
        self.peers = _links[self.environment].peers
        self.weights = zipf(len(self.peers))

    @task
    def dial(self) -> None:
        (peer,) = self.random.choices(self.peers, cum_weights=self.weights)
        name = "dial" if WHOLE else "connect"
        began = perf_counter()
        try:
            with self.dialer.connect(peer) as connection:
                connected = perf_counter()
                size = len(connection.request(PAYLOAD))
        except FAILURES as error:
            self.report(name, perf_counter() - began, 0, error)
            return
        self.report(name, (perf_counter() if WHOLE else connected) - began, size)
