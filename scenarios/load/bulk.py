"""What do large transfers cost? Users send a message of BULK_SIZE bytes (default 1 MiB) eight times over a connection.

BULK_MIX names what they do in turn: echo (the default), upload, download.
"""

from __future__ import annotations

import os
from time import perf_counter

from locust import task

from reference_impl.dialer import Connection
from reference_impl.service import ECHO
from scenarios.load.users import FAILURES, PeerUser

SIZE = int(os.environ.get("BULK_SIZE", str(1 << 20)))
MIX = os.environ.get("BULK_MIX", "echo").split(",")
MESSAGES = 8
PAYLOAD = os.urandom(SIZE)


class BulkUser(PeerUser):
    """Connects to a peer, transfers eight messages, gives the connection back."""

    requests_per_task = MESSAGES

    @task
    def transfer(self) -> None:
        peer = self.peers[self.number % len(self.peers)]
        name, began = MIX[0], perf_counter()
        try:
            with self.dialer.connect(peer) as connection:
                for turn in range(MESSAGES):
                    name = MIX[turn % len(MIX)]
                    size = self._one(connection, name)
                    moment = perf_counter()
                    wrong = None if size == SIZE else ValueError(f"{size} bytes came of {SIZE}")
                    self.report(name, moment - began, size, wrong)
                    began = perf_counter()
        except FAILURES as error:
            self.report(name, perf_counter() - began, 0, error)

    @staticmethod
    def _one(connection: Connection, name: str) -> int:
        """One message; the bytes that came back or arrived. AES-GCM vouches for what they are."""
        if name == "upload":
            return connection.upload(PAYLOAD)
        message = connection.download(SIZE) if name == "download" else connection.exchange(ECHO, PAYLOAD)
        with message:
            return len(message.body)
