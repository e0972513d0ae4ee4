"""How does it behave as more and more users come? Beside another file: `locust -f surge.py,ramp.py`.

RAMP_USERS (default 64) are there after RAMP_SECONDS (default 60).
"""

from __future__ import annotations

import os

from locust import LoadTestShape

USERS = int(os.environ.get("RAMP_USERS", "64"))
SECONDS = float(os.environ.get("RAMP_SECONDS", "60"))


class Ramp(LoadTestShape):
    """A straight line from one user to all of them."""

    def tick(self) -> tuple[int, float] | None:
        passed = self.get_run_time()  # type: ignore[no-untyped-call]
        return None if passed > SECONDS else (max(1, round(USERS * passed / SECONDS)), USERS)
