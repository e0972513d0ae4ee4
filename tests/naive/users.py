"""The kind of Locust user that the naive workloads are made of."""

from __future__ import annotations

from itertools import count
from typing import Any

from locust import User, constant

from tests.naive.client import peers
from tests.naive.secure import Identity

_numbers = count()
IDENTITY = Identity()


class NaiveUser(User):
    """A user with peers, numbered from 0; subclasses add tasks."""

    abstract = True
    wait_time = constant(0)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.number = next(_numbers)

    def on_start(self) -> None:
        self.peers = peers()

    def report(self, name: str, seconds: float, length: int, error: BaseException | None = None) -> None:
        """Tell Locust of one finished request."""
        self.environment.events.request.fire(
            request_type="naive",
            name=name,
            response_time=seconds * 1000,
            response_length=length,
            exception=error,
            context={},
        )
