"""How much can one node take? Users send 1 KiB and wait for the echo, again and again, each time at the next peer."""

from __future__ import annotations

from locust import task

from scenarios.load.users import EchoUser


class SurgeUser(EchoUser):
    """Closed and saturating: the next request follows the last answer at once."""

    @task
    def request(self) -> None:
        self.echo()
