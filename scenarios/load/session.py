"""What every workload needs before its first request: the peers under test, and a dialer with the same switches.

The harness names its target in SYNAPSED_TARGET (the node's ready line, or "@" and the file that
holds it) and the switches in SYNAPSED_OPTIMIZATIONS.
Without a target - plain `locust -f`, or the web UI - a reference node of our own is started with the switches that
were asked for (command line, start form), and ended with the test. Where nobody gives SYNAPSED_SETTINGS, it and the
dialers get what the workload needs to show anything (`PeerUser.ALONE`).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gevent import GreenletExit
from locust import events
from locust.runners import LocalRunner

from harness.errors import TargetError
from harness.execute.target import Target
from reference_impl import assemble
from reference_impl.dialer import Dialer
from reference_impl.optimizations import CONTROLS, OPTIMIZATIONS, UnknownOptimization, parse
from reference_impl.security.identity import Identity
from reference_impl.settings import SettingsError
from reference_impl.transports.base import Peer
from scenarios.load.switches import PURPOSE

OWN_NODE_PEERS = 256
READY_SECONDS = 30.0
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Session:
    """One environment's peers and dialer, and the node if it is our own."""

    peers: tuple[Peer, ...]
    dialer: Dialer
    node: Target | None
    make_dialer: Callable[[], Dialer]
    "another peer with the same switches"

    def over_tcp(self) -> tuple[Peer, ...]:
        """The peers, for a workload that opens connections beside the dialer's. Raises `ConnectionError` for a node
        that does not listen for Noise over TCP.
        """
        if any("tcp" not in peer.addresses for peer in self.peers):
            raise ConnectionError("this workload speaks Noise over TCP; expected a node that listens on transport tcp")
        return self.peers


_sessions: dict[Any, Session] = {}
on_failed_start: list[Callable[[str], None]] = []
"""Told why a test that a web UI asked for cannot start."""


def session(environment: Any) -> Session:
    """The session of a running environment."""
    return _sessions[environment]


def playing(environment: Any, module: str) -> bool:
    """Whether a user of this Locust file is among those chosen: several files may be loaded side by side."""
    return any(kind.__module__ == module for kind in environment.user_classes)


@events.init_command_line_parser.add_listener
def _add_switches(parser: Any) -> None:
    try:
        enabled = parse(_asked())
    except UnknownOptimization as error:
        parser.error(f"SYNAPSED_OPTIMIZATIONS: {error}")
    for name in OPTIMIZATIONS:
        parser.add_argument(  # not in a group of their own: Locust's start form leaves those out
            f"--{name.replace('_', '-')}",
            type=_boolean,
            default=name in enabled,
            metavar="true|false",
            env_var=f"SYNAPSED_{name.upper()}",
            help=PURPOSE[name],
        )


def _asked() -> list[str]:
    return os.environ.get("SYNAPSED_OPTIMIZATIONS", "all").split(",")


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r}; expected true or false") from None


@events.init.add_listener
def _prepare(environment: Any, **_: Any) -> None:
    """A headless Locust counts its run time from the start of the test: so the node is up before."""
    if getattr(environment.parsed_options, "headless", False) and isinstance(environment.runner, LocalRunner):
        _begin(environment)


@events.test_start.add_listener
def _begin(environment: Any, **_: Any) -> None:
    """Open the session. Where that fails, a headless Locust ends, and one with a web UI stays as it was."""
    if environment in _sessions:
        return
    try:
        _sessions[environment] = _open_session(environment)
    except (OSError, ValueError, TargetError, UnknownOptimization, SettingsError) as error:
        message = f"cannot start: {error}"
        if environment.web_ui is None:
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()
            raise SystemExit(2) from error
        logger.error(message)
        for tell in on_failed_start:
            tell(message)
        raise GreenletExit from error  # ends the greenlet that starts users, and nothing else
    environment.synapsed_gauges = lambda: dialer_gauges(environment)
    environment.synapsed_target_gauges = lambda: node_gauges(environment)


@events.test_stop.add_listener
def _end(environment: Any, **_: Any) -> None:
    if environment not in _sessions:
        return
    if _sessions[environment].node is not None:
        logger.info(_pool_summary(environment.synapsed_gauges()))
    _close_session(_sessions.pop(environment))


@events.quitting.add_listener
def _quit(environment: Any, **_: Any) -> None:
    """Users stop before their node does: Locust quits first, and would count what they then meet as failures."""
    if environment in _sessions:
        environment.runner.stop()


def _open_session(environment: Any) -> Session:
    options = environment.parsed_options
    ready = os.environ.get("SYNAPSED_TARGET", "")
    if ready.startswith("@"):
        ready = Path(ready[1:]).read_text(encoding="utf-8")
    names: Sequence[str] = _asked()
    if options is not None and not ready:
        names = [name for name in names if name in CONTROLS] + [
            name for name in OPTIMIZATIONS if getattr(options, name)
        ]
    settings = json.loads(os.environ.get("SYNAPSED_SETTINGS") or ("{}" if ready else _alone(environment)))
    described = json.loads(ready or "{}")
    if authority := described.get("tls", {}).get("authority"):  # it issues our certificate too
        settings["tls"] = {"authority": authority, **settings.get("tls", {})}

    def make_dialer() -> Dialer:
        return assemble.dialer(parse(names), Identity.generate(), settings)

    dialer = make_dialer()
    node = None if ready else _start_node(names, json.dumps(settings))
    described = node.ready if node else described
    peers = tuple(
        Peer(
            bytes.fromhex(peer["peer_id"]),
            {name: tuple(where) for name, where in peer["addresses"].items()},
            resumes=bool(peer.get("resumes")),
        )
        for peer in described["peers"]
    )
    return Session(peers, dialer, node, make_dialer)


def _alone(environment: Any) -> str:
    """What those workloads need that nobody gave settings for, of several the later's."""
    tables: dict[str, Any] = {}
    for kind in environment.user_classes:
        tables.update(getattr(kind, "ALONE", {}))
    if tables:
        logger.info("settings of this workload (SYNAPSED_SETTINGS gives others): %s", json.dumps(tables))
    return json.dumps(tables)


def _start_node(names: Sequence[str], settings: str) -> Target:
    on = ",".join(names) or "none"
    command = (sys.executable, "-m", "reference_impl", "--on", on, "--peers", str(OWN_NODE_PEERS))
    node = Target.start(command, {"SYNAPSED_SETTINGS": settings}, ready_timeout=READY_SECONDS, name="node")
    logger.info("started a reference node (pid %d) with these optimizations on: %s", node.pid, on)
    return node


def _close_session(closing: Session) -> None:
    closing.dialer.close()
    if closing.node is not None:
        closing.node.stop()


def _pool_summary(gauges: dict[str, float]) -> str:
    hits, misses = (round(gauges.get(f"pooling.{name}", 0)) for name in ("hits", "misses"))
    return f"pool hit rate {hits / max(1, hits + misses):.1%} ({hits:,} connections reused, {misses:,} made anew)"


def dialer_gauges(environment: Any) -> dict[str, float]:
    """The dialer's gauges as `room.name`."""
    return flat(session(environment).dialer.gauges())


def node_gauges(environment: Any) -> dict[str, float]:
    """The node's gauges as `room.name`, asked for over a connection of its own."""
    current = session(environment)
    with current.dialer.connect(current.peers[0]) as connection:
        return flat(cast("dict[str, dict[str, float]]", connection.stats()))


def flat(rooms: dict[str, dict[str, float]]) -> dict[str, float]:
    """Gauges by room, as `room.name`."""
    return {f"{room}.{name}": float(value) for room, gauges in rooms.items() for name, value in gauges.items()}
