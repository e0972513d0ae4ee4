"""At which load does it bend? Beside another file: `locust -f surge.py,stairs.py`.

STAIRS_STEPS steps (default 6) of STAIRS_SECONDS (default 10) each, up to STAIRS_USERS (default 64).
"""

from __future__ import annotations

import os

from locust import LoadTestShape

USERS = int(os.environ.get("STAIRS_USERS", "64"))
STEPS = int(os.environ.get("STAIRS_STEPS", "6"))
SECONDS = float(os.environ.get("STAIRS_SECONDS", "10"))


class Stairs(LoadTestShape):
    """Equal steps, each as long as the other."""

    def tick(self) -> tuple[int, float] | None:
        step = int(self.get_run_time() // SECONDS)  # type: ignore[no-untyped-call]
        return None if step >= STEPS else (max(1, USERS * (step + 1) // STEPS), USERS)
