"""The least that can send the surge load: a gevent loop over sockets and ciphers, without rooms and without Locust.

Run as a process of its own (`python -m scenarios.bare`), the target's ready line in SYNAPSED_TARGET: each line of
standard input, a number of seconds, is answered by one line, `requests seconds`. The end of the input ends it.
"""

from __future__ import annotations

import json
import os
import sys
from time import perf_counter
from typing import Any

import gevent
from gevent import socket

from reference_impl.security.channel import PROLOGUE, SECOND_BYTES
from reference_impl.security.frame import HEAD, LENGTH_BYTES
from reference_impl.security.identity import Identity, verify_proof
from reference_impl.security.noise import TAG_BYTES, CipherState, Handshake
from reference_impl.service import ECHO, OK

USERS = 32
PEERS = 8
PAYLOAD = os.urandom(1024)
_REQUEST = HEAD.pack(ECHO, len(PAYLOAD)) + PAYLOAD
_ANSWER = HEAD.pack(OK, len(PAYLOAD)) + PAYLOAD
_RECORD_BYTES = len(_ANSWER) + TAG_BYTES
_LENGTH = _RECORD_BYTES.to_bytes(LENGTH_BYTES, "big")


class Loop:
    """`USERS` connections, spread over the first peers of a target, whose greenlets send and wait for the echo."""

    def __init__(self, ready: dict[str, Any]) -> None:
        identity = Identity.generate()
        self._connections = [_connect(identity, ready["peers"][number % PEERS]) for number in range(USERS)]
        self._open = False
        self._answered = 0
        self._last = 0.0

    def run(self, seconds: float) -> tuple[int, float]:
        """(requests, seconds until the last answer) of a stretch of about `seconds` seconds."""
        self._open, self._answered = True, 0
        began = perf_counter()
        greenlets = [gevent.spawn(self._user, *each) for each in self._connections]
        gevent.sleep(seconds)
        self._open = False
        gevent.joinall(greenlets, raise_error=True)
        return self._answered, self._last - began

    def _user(self, connected: Any, sending: CipherState, receiving: CipherState) -> None:
        encrypt, decrypt, send, receive = sending.encrypt, receiving.decrypt, connected.send, connected.recv
        while self._open:
            send(_LENGTH + encrypt(_REQUEST))
            data = receive(65_536)
            if len(data) < LENGTH_BYTES + _RECORD_BYTES:
                data += _read(connected, LENGTH_BYTES + _RECORD_BYTES - len(data))
            if decrypt(data[LENGTH_BYTES:]) != _ANSWER:
                raise ValueError("echo differs")
            self._answered += 1
            self._last = perf_counter()


def _connect(identity: Identity, peer: dict[str, Any]) -> tuple[Any, CipherState, CipherState]:
    """(socket, sending, receiving) of an authenticated connection."""
    connected = socket.create_connection(tuple(peer["addresses"]["tcp"]), 5.0)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    handshake = Handshake("initiator", identity.static_key, identity.static_public, prologue=PROLOGUE)
    _send_frame(connected, handshake.write())
    proof = handshake.read(_read(connected, SECOND_BYTES)[LENGTH_BYTES:])
    verify_proof(proof, handshake.remote_static, bytes.fromhex(peer["peer_id"]))
    _send_frame(connected, handshake.write(identity.proof))
    connected.settimeout(None)
    return connected, *handshake.split()


def _send_frame(connected: Any, message: bytes) -> None:
    connected.sendall(len(message).to_bytes(LENGTH_BYTES, "big") + message)


def _read(connected: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connected.recv(size - len(data))
        if not more:
            raise ConnectionResetError("the node closed a connection")
        data += more
    return data


def main() -> None:
    loop = Loop(json.loads(os.environ["SYNAPSED_TARGET"]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        answered, seconds = loop.run(float(line))
        sys.stdout.write(f"{answered} {seconds!r}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
