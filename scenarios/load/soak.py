"""Does anything grow? The requests of surge, for as long as one likes; the harness watches memory and descriptors."""

from __future__ import annotations

import os
from time import perf_counter

from locust import task

from scenarios.load.episode import EpisodeUser
from scenarios.load.users import FAILURES

PEERS = 64
PAYLOAD = os.urandom(1024)


class SoakUser(EpisodeUser):
    """Closed: any of 64 peers, again and again."""

    @task
    def request(self) -> None:
        peer = self.peers[self.random.randrange(min(PEERS, len(self.peers)))]
        began = perf_counter()
        try:
            with self.dialer.connect(peer) as connection:
                answer = connection.request(PAYLOAD)
        except FAILURES as error:
            self.report("request", perf_counter() - began, 0, error)
            return
        self.report("request", perf_counter() - began, len(answer))
