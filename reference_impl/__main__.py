"""One node in the foreground: `python -m reference_impl --on all --peers 8`.

Prints one JSON ready line (see docs/target-contract.md), serves until SIGTERM or SIGINT, exits 0. Anything wrong
with the arguments or the ports is one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import uvloop

from reference_impl import assemble
from reference_impl.optimizations import parse
from reference_impl.security.identity import Identity
from reference_impl.settings import SettingsError

CONTRACT = 1
PORTS = 65_535


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="synapsed-bench serve", description="One reference node in the foreground.")
    parser.add_argument(
        "--on", default=os.environ.get("SYNAPSED_OPTIMIZATIONS", "all"), help="comma-separated optimizations"
    )
    parser.add_argument("--peers", type=int, default=1, help="identities, each on a port of its own")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--port", type=int, default=0, help="port of the first peer; the others follow it (0: kernel's choice)"
    )
    parser.add_argument(
        "--transports",
        default="tcp",
        help=f"comma-separated, each with a port of its own: {', '.join(assemble.NETWORK_TRANSPORTS)}",
    )
    parser.add_argument("--settings", default=os.environ.get("SYNAPSED_SETTINGS", "{}"), help="JSON tables by room")
    parser.add_argument("--faults", help="JSON: a fault script, the same as the settings table faults")
    parser.add_argument(
        "--metrics-port", type=int, help="expose Prometheus metrics on this port of 127.0.0.1 (0: kernel's choice)"
    )
    parser.add_argument(
        "--seed", default="", help="make the identities reproducible (tests only: they become guessable)"
    )
    return parser.parse_args(argv)


def _host(name: str) -> str:
    try:
        if not name.encode("idna"):  # which would be every address there is
            raise UnicodeError
    except UnicodeError:
        raise SettingsError(f"--host is {name!r}; expected an address or a name") from None
    return name


def _ports(first: int, peers: int, transports: int) -> Sequence[int]:
    """The ports to listen on, one for each peer on each transport; empty when the kernel chooses."""
    if not 0 <= first <= PORTS:
        raise SettingsError(f"--port is {first}; expected 0 to {PORTS}")
    count = peers * transports
    if max(first, 1) + count > PORTS + 1:
        raise SettingsError(f"--peers is {peers}: {count} ports from {max(first, 1)} on; expected none beyond {PORTS}")
    return range(first, first + count) if first else ()


def _identities(count: int, seed: str) -> list[Identity]:
    if count < 1:
        raise SettingsError(f"--peers is {count}; expected a whole number >= 1")
    if seed:
        return [Identity.from_seed(f"{seed}/{number}".encode()) for number in range(count)]
    return [Identity.generate() for _ in range(count)]


def _fault_table(text: str) -> dict[str, Any]:
    table = json.loads(text)
    if not isinstance(table, dict):
        raise SettingsError(f"--faults is {text!r}; expected a JSON object with seed and rules")
    return table


def _transports(names: str) -> list[str]:
    chosen = list(dict.fromkeys(names.split(",")))
    for name in chosen:
        if name not in assemble.NETWORK_TRANSPORTS:
            known = ", ".join(assemble.NETWORK_TRANSPORTS)
            raise SettingsError(f"--transports names {name!r}; expected some of: {known}")
    return chosen


async def _serve(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    enabled = parse(arguments.on.split(","))
    transports = _transports(arguments.transports)
    host, ports = _host(arguments.host), _ports(arguments.port, arguments.peers, len(transports))
    if "tls" in transports and not settings.get("tls", {}).get("authority"):
        from reference_impl.security.certificates import Authority

        settings["tls"] = {**settings.get("tls", {}), "authority": Authority.generate().pem}
    node = assemble.node(enabled, _identities(arguments.peers, arguments.seed), settings, transports)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    addresses = await node.start(host, ports)
    resumes = {"resumes": True} if node.rooms.tickets.resuming and "tcp" in transports else {}
    ready = {
        "contract": CONTRACT,
        "pid": os.getpid(),
        "optimizations": sorted(enabled),
        "peers": [
            {"peer_id": identity.peer_id.hex(), "addresses": reached, **resumes}
            for identity, reached in zip(node.identities, addresses, strict=True)
        ],
    }
    if "tls" in transports:
        ready["tls"] = {"authority": settings["tls"]["authority"]}
    with contextlib.ExitStack() as until_the_end:
        until_the_end.callback(node.close)
        if arguments.metrics_port is not None:
            from reference_impl import monitoring  # the client library is a third of the start-up time
            from reference_impl.metrics import exposition

            wanted = exposition.ExpositionSettings(port=arguments.metrics_port)
            exposed = exposition.Exposition(monitoring.node_gauges(node), node.rooms.metrics, wanted)
            until_the_end.enter_context(exposed)
            ready["metrics"] = f"http://127.0.0.1:{exposed.port}/metrics"
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await stop.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 after a signal, 2 when the node could not start."""
    arguments = _arguments(argv)
    try:
        settings = json.loads(arguments.settings)
        if not isinstance(settings, dict) or not all(isinstance(table, dict) for table in settings.values()):
            raise SettingsError("--settings is not a JSON object of tables by room")
        if arguments.faults is not None:
            settings["faults"] = _fault_table(arguments.faults)
        uvloop.run(_serve(arguments, settings))
    except (ValueError, RecursionError) as error:  # of a setting, an optimization, or what is no JSON
        sys.stderr.write(f"serve: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"serve: cannot listen on {arguments.host}:{arguments.port or 'any port'}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
