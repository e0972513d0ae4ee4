"""How long does a page take? An ordinary Locust file: `locust -f locustfile.py --host http://...` runs it too."""

from __future__ import annotations

import random

from locust import FastHttpUser, task


class Reader(FastHttpUser):
    """Reads one of 200 pages after the other, the first ones most often."""

    requests_per_task = 1  # lets the harness find a request that is told twice

    @task
    def read(self) -> None:
        self.client.get(f"/{min(199, int(random.expovariate(1 / 40)))}", name="page")
