"""How does it take a sudden crowd, and how does it recover? Beside another file: `locust -f surge.py,spike.py`.

SPIKE_USERS (default 64) come at once for the middle third of SPIKE_SECONDS (default 60); an eighth is there always.
"""

from __future__ import annotations

import os

from locust import LoadTestShape

USERS = int(os.environ.get("SPIKE_USERS", "64"))
SECONDS = float(os.environ.get("SPIKE_SECONDS", "60"))


class Spike(LoadTestShape):
    """Few, all, few."""

    def tick(self) -> tuple[int, float] | None:
        passed = self.get_run_time()  # type: ignore[no-untyped-call]
        if passed > SECONDS:
            return None
        inside = SECONDS / 3 <= passed < SECONDS * 2 / 3
        return (USERS if inside else max(1, USERS // 8)), USERS
