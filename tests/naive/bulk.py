"""The transfers of scenarios/load/bulk.py: BULK_SIZE bytes (default 1 MiB) there and back, eight times a connection."""

from __future__ import annotations

import os
from time import perf_counter

from locust import task

from tests.naive.client import FAILURES, Connection
from tests.naive.users import IDENTITY, NaiveUser

PAYLOAD = os.urandom(int(os.environ.get("BULK_SIZE", str(1 << 20))))
MESSAGES = 8


class NaiveBulkUser(NaiveUser):
    @task
    def transfer(self) -> None:
        began = perf_counter()
        try:
            with Connection(IDENTITY, self.peers[self.number % len(self.peers)]) as connection:
                for _ in range(MESSAGES):
                    answer = connection.request(PAYLOAD)
                    moment = perf_counter()
                    wrong = None if len(answer) == len(PAYLOAD) else ValueError(f"{len(answer)} bytes came back")
                    self.report("echo", moment - began, len(answer), wrong)
                    began = perf_counter()
        except FAILURES as error:
            self.report("echo", perf_counter() - began, 0, error)
