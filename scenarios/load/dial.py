"""What does it cost to have an authenticated connection to peer P, and then the first answer from it?

"connect" runs from needing the connection to having it, new or reused; "first request" is a 64-byte echo over it.
Which peer is needed follows Zipf's law over all of the target's peers: some often, most seldom.
"""

from __future__ import annotations

import os
from time import perf_counter

from locust import task

from scenarios.load.users import FAILURES, PeerUser, zipf

PAYLOAD = os.urandom(64)


class DialUser(PeerUser):
    """Needs a connection to some peer, uses it once, gives it back."""

    requests_per_task = 2  # connect, then the first request

    def on_start(self) -> None:
        super().on_start()
        self.weights = zipf(len(self.peers))

    @task
    def dial(self) -> None:
        (peer,) = self.random.choices(self.peers, cum_weights=self.weights)
        began = connected = perf_counter()
        name = "connect"
        try:
            with self.dialer.connect(peer) as connection:
                connected = perf_counter()
                self.report("connect", connected - began, 0)
                name = "first request"
                answer = connection.request(PAYLOAD)
        except FAILURES as error:
            self.report(name, perf_counter() - connected, 0, error)
            return
        seconds = perf_counter() - connected
        self.report("first request", seconds, len(answer), None if answer == PAYLOAD else ValueError("echo differs"))
