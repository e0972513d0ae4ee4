"""What every workload needs before its first request: the peers under test, and a dialer with the same switches.

The harness names its target in SYNAPSED_TARGET (the node's ready line) and the switches in SYNAPSED_OPTIMIZATIONS.
Without a target - plain `locust -f`, or the web UI - a reference node of our own is started with the switches that
were asked for (command line, start form), and ended with the test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, cast

from locust import events
from locust.exception import StopTest

from reference_impl import assemble
from reference_impl.dialer import Dialer
from reference_impl.identity import Identity
from reference_impl.optimizations import CONTROLS, OPTIMIZATIONS, UnknownOptimization, parse
from reference_impl.settings import SettingsError
from reference_impl.transports.base import Peer

OWN_NODE_PEERS = 256


@dataclass(slots=True)
class Session:
    """One environment's peers and dialer, and the node if it is our own."""

    peers: tuple[Peer, ...]
    dialer: Dialer
    node: subprocess.Popen[str] | None


_sessions: dict[Any, Session] = {}


def session(environment: Any) -> Session:
    """The session of a running environment."""
    return _sessions[environment]


@events.init_command_line_parser.add_listener
def _add_switches(parser: Any) -> None:
    enabled = parse(os.environ.get("SYNAPSED_OPTIMIZATIONS", "all").split(","))
    group = parser.add_argument_group("synapsed-bench switches")
    for name in OPTIMIZATIONS:
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=_boolean,
            default=name in enabled,
            metavar="true|false",
            env_var=f"SYNAPSED_{name.upper()}",
            help=f"Switch the optimization {name} on, at both ends",
        )


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}[text.lower()]
    except KeyError:
        raise ValueError(f"{text!r} is neither true nor false") from None


@events.test_start.add_listener
def _begin(environment: Any, **_: Any) -> None:
    try:
        _sessions[environment] = _open_session(environment.parsed_options)
    except (OSError, ValueError, UnknownOptimization, SettingsError) as error:
        sys.stderr.write(f"cannot start: {error}\n")
        environment.process_exit_code = 2
        raise StopTest from error
    environment.synapsed_gauges = lambda: dialer_gauges(environment)
    environment.synapsed_target_gauges = lambda: node_gauges(environment)


@events.test_stop.add_listener
def _end(environment: Any, **_: Any) -> None:
    if environment not in _sessions:
        return
    gauges = dialer_gauges(environment)
    if environment.web_ui is None and "SYNAPSED_TARGET" not in os.environ:
        shown = {name: value for name, value in sorted(gauges.items()) if name.startswith("pooling.")}
        sys.stderr.write(f"pool hit rate {hit_rate(gauges):.1%}; {shown}\n")
    _close_session(_sessions.pop(environment))


@events.quitting.add_listener
def _quit(environment: Any, **_: Any) -> None:
    if environment in _sessions:
        _close_session(_sessions.pop(environment))


def _open_session(options: Any) -> Session:
    ready = os.environ.get("SYNAPSED_TARGET")
    names = os.environ.get("SYNAPSED_OPTIMIZATIONS", "all").split(",")
    if options is not None and not ready:
        names = [name for name in names if name in CONTROLS] + [
            name for name in OPTIMIZATIONS if getattr(options, name)
        ]
    settings = json.loads(os.environ.get("SYNAPSED_SETTINGS", "{}"))
    dialer = assemble.dialer(parse(names), Identity.generate(), settings)
    node = None
    if ready is None:
        node, ready = _start_node(names)
    peers = tuple(
        Peer(bytes.fromhex(peer["peer_id"]), {name: tuple(where) for name, where in peer["addresses"].items()})
        for peer in json.loads(ready)["peers"]
    )
    return Session(peers, dialer, node)


def _start_node(names: list[str]) -> tuple[subprocess.Popen[str], str]:
    node = subprocess.Popen(
        [sys.executable, "-m", "reference_impl", "--on", ",".join(names) or "none", "--peers", str(OWN_NODE_PEERS)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert node.stdout is not None
    ready = node.stdout.readline()
    if not ready:
        raise OSError(f"the reference node ended with exit code {node.wait()} before it was ready")
    return node, ready


def _close_session(closing: Session) -> None:
    closing.dialer.close()
    if closing.node is not None:
        closing.node.terminate()
        closing.node.wait()


def hit_rate(gauges: dict[str, float]) -> float:
    """Share of checkouts that found a pooled connection; 0 without any checkout."""
    checkouts = gauges.get("pooling.hits", 0) + gauges.get("pooling.misses", 0)
    return gauges.get("pooling.hits", 0) / checkouts if checkouts else 0.0


def dialer_gauges(environment: Any) -> dict[str, float]:
    """The dialer's gauges as `room.name`."""
    return _flat(session(environment).dialer.gauges())


def node_gauges(environment: Any) -> dict[str, float]:
    """The node's gauges as `room.name`, asked for over a connection of its own."""
    current = session(environment)
    with current.dialer.connect(current.peers[0]) as connection:
        return _flat(cast("dict[str, dict[str, float]]", connection.stats()))


def _flat(rooms: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{room}.{name}": float(value) for room, gauges in rooms.items() for name, value in gauges.items()}
