"""The requests of scenarios/load/surge.py, with a connection and a handshake each: 1 KiB to the next of eight peers."""

from __future__ import annotations

import os
from time import perf_counter

from locust import task

from tests.naive.client import FAILURES, Connection
from tests.naive.users import IDENTITY, NaiveUser

PEERS = 8
PAYLOAD = os.urandom(1024)


class NaiveSurgeUser(NaiveUser):
    def on_start(self) -> None:
        super().on_start()
        self.turn = self.number

    @task
    def request(self) -> None:
        self.turn += 1
        began = perf_counter()
        try:
            with Connection(IDENTITY, self.peers[self.turn % PEERS]) as connection:
                answer = connection.request(PAYLOAD)
        except FAILURES as error:
            self.report("request", perf_counter() - began, 0, error)
            return
        seconds = perf_counter() - began
        self.report("request", seconds, len(answer), None if answer == PAYLOAD else ValueError("echo differs"))
