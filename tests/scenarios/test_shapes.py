"""Load shapes: how many users, when, and the end."""

from __future__ import annotations

import pytest
from locust import LoadTestShape

from scenarios.load.ramp import Ramp
from scenarios.load.spike import Spike
from scenarios.load.stairs import Stairs


@pytest.mark.parametrize(
    ("shape", "users"),
    [
        (Ramp, {0.0: 1, 15.0: 16, 30.0: 32, 60.0: 64, 60.1: None}),
        (Spike, {0.0: 8, 19.9: 8, 20.0: 64, 39.9: 64, 40.0: 8, 60.1: None}),
        (Stairs, {0.0: 10, 9.9: 10, 10.0: 21, 59.9: 64, 60.0: None}),
    ],
)
def test_users_by_time(
    shape: type[LoadTestShape], users: dict[float, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = shape()
    for passed, expected in users.items():
        monkeypatch.setattr(made, "get_run_time", lambda passed=passed: passed)
        ticked = made.tick()
        assert (ticked[0] if ticked else None) == expected
