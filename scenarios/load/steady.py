"""How long does a request take when nothing is saturated? The requests of surge, at a rate instead of in a loop.

The harness replaces the users' own pace by its arrival schedule. On its own, each user makes STEADY_PACE requests a
second (10).
"""

from __future__ import annotations

import os

from locust import constant_throughput, task

from scenarios.load.users import EchoUser


class SteadyUser(EchoUser):
    """Open: requests are due at given times, whether or not earlier ones were answered."""

    wait_time = constant_throughput(float(os.environ.get("STEADY_PACE", "10")))

    @task
    def request(self) -> None:
        self.echo()
