"""A port of its own for a program that must be told where to listen, and the address its load then goes to."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from msgspec.structs import replace

from harness.study.records import PLACEHOLDER, Target

LOOPBACK = "127.0.0.1"


def placed(target: Target) -> tuple[Target, str]:
    """`target` with every {port} replaced by a port nobody listens on, and the URL its load goes to ("" = not known).

    The kernel chooses the port; it is given back before the program asks for it, so another program could take it
    in between. That is seen when the target starts.
    """
    if any(PLACEHOLDER in text for text in (*target.command, target.ready, *target.env.values())):
        port = str(free_port())
        target = replace(
            target,
            command=tuple(word.replace(PLACEHOLDER, port) for word in target.command),
            ready=target.ready.replace(PLACEHOLDER, port),
            env={name: value.replace(PLACEHOLDER, port) for name, value in target.env.items()},
        )
        return target, _url(target.ready) or f"http://{LOOPBACK}:{port}"
    return target, _url(target.ready)


def free_port() -> int:
    """A TCP port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _url(ready: str) -> str:
    kind, _, value = ready.partition(":")
    if kind == "port" and value:
        host, _, port = value.rpartition(":")
        return f"http://{host or LOOPBACK}:{port}"
    if kind == "url":
        parts = urlsplit(value)
        return f"{parts.scheme}://{parts.netloc}"
    return ""
