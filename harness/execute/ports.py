"""Ports for programs that must be told where to listen, and the address their load then goes to."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from urllib.parse import urlsplit

from msgspec.structs import replace

from harness.study.records import PLACEHOLDER, Target

LOOPBACK = "127.0.0.1"


def placed(target: Target, port: int) -> tuple[Target, str]:
    """`target` with every {port} replaced by this one, and the URL its load goes to ("" = not known)."""
    if any(PLACEHOLDER in text for text in (*target.command, target.ready, *target.env.values())):
        number = str(port)
        target = replace(
            target,
            command=tuple(word.replace(PLACEHOLDER, number) for word in target.command),
            ready=target.ready.replace(PLACEHOLDER, number),
            env={name: value.replace(PLACEHOLDER, number) for name, value in target.env.items()},
        )
        return target, _url(target.ready) or f"http://{LOOPBACK}:{port}"
    return target, _url(target.ready)


def free_ports(number: int) -> tuple[int, ...]:
    """So many TCP ports on loopback that nobody listens on, no two the same.

    The kernel chooses them; they are given back before programs ask for them, so another program could take one in
    between. That is seen when the target starts.
    """
    with ExitStack() as probes:
        held = [probes.enter_context(socket.socket()) for _ in range(number)]
        for probe in held:  # all at once, or the kernel may choose one again
            probe.bind((LOOPBACK, 0))
        return tuple(int(probe.getsockname()[1]) for probe in held)


def _url(ready: str) -> str:
    kind, _, value = ready.partition(":")
    if kind == "port" and value:
        host, _, port = value.rpartition(":")
        return f"http://{host or LOOPBACK}:{port}"
    if kind == "url":
        parts = urlsplit(value)
        return f"{parts.scheme}://{parts.netloc}"
    return ""
