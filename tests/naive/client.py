"""A client as one writes it on the first day: a connection and a handshake for every request, plain sockets."""

from __future__ import annotations

import json
import os
import socket
from types import TracebackType
from typing import NamedTuple

from tests.naive.secure import ECHO, OK, Identity, Initiator, SecurityError, frame, parse, seal

TIMEOUT_SECONDS = 5.0
FAILURES = (OSError, SecurityError)


class Peer(NamedTuple):
    peer_id: bytes
    address: tuple[str, int]


def peers() -> list[Peer]:
    """The peers of the target that the harness names in SYNAPSED_TARGET."""
    ready = json.loads(os.environ["SYNAPSED_TARGET"])
    return [Peer(bytes.fromhex(each["peer_id"]), tuple(each["addresses"]["tcp"])) for each in ready["peers"]]


class Connection:
    """A connected, authenticated peer. Use it as a context manager."""

    def __init__(self, identity: Identity, peer: Peer) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self.socket.settimeout(TIMEOUT_SECONDS)
            self.socket.connect(peer.address)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            initiator = Initiator(identity, peer.peer_id)
            self.socket.sendall(frame(initiator.first()))
            self.socket.sendall(frame(initiator.third(self._read_frame())))
            self.sending, self.receiving = initiator.ciphers()
        except BaseException:
            self.socket.close()
            raise

    def request(self, payload: bytes) -> bytes:
        """The peer's echo of `payload`."""
        self.socket.sendall(seal(self.sending, ECHO, payload))
        kind, body, missing = parse(self.receiving.decrypt(self._read_frame()))
        if kind != OK:
            raise SecurityError(f"peer answered with kind {kind}")
        if not missing:
            return body
        parts = []
        while missing > 0:
            parts.append(self.receiving.decrypt(self._read_frame()))
            missing -= len(parts[-1])
        return b"".join(parts)

    def _read_frame(self) -> bytes:
        return self._read(int.from_bytes(self._read(2), "big"))

    def _read(self, size: int) -> bytes:
        data = self.socket.recv(size)
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionResetError("peer closed the connection")
            data += more
        return data

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.socket.close()
