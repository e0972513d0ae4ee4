"""The dials of scenarios/load/dial.py, each with a connection and a handshake: by Zipf's law, then a 64-byte echo."""

from __future__ import annotations

import os
import random
from itertools import accumulate
from time import perf_counter

from locust import task

from tests.naive.client import FAILURES, Connection
from tests.naive.users import IDENTITY, NaiveUser

PAYLOAD = os.urandom(64)


class NaiveDialUser(NaiveUser):
    def on_start(self) -> None:
        super().on_start()
        self.random = random.Random(f"{os.environ.get('SYNAPSED_SEED', '0')}/{self.number}")
        self.weights = list(accumulate(1 / rank for rank in range(1, len(self.peers) + 1)))

    @task
    def dial(self) -> None:
        (peer,) = self.random.choices(self.peers, cum_weights=self.weights)
        began = connected = perf_counter()
        name = "connect"
        try:
            with Connection(IDENTITY, peer) as connection:
                connected = perf_counter()
                self.report("connect", connected - began, 0)
                name = "first request"
                answer = connection.request(PAYLOAD)
        except FAILURES as error:
            self.report(name, perf_counter() - connected, 0, error)
            return
        seconds = perf_counter() - connected
        self.report("first request", seconds, len(answer), None if answer == PAYLOAD else ValueError("echo differs"))
