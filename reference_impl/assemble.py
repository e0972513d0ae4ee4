"""Enabled names -> a wired dialer or node. The only reader of flags.

Settings come as plain tables by room name (from a study file or the command line) and become validated records here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from reference_impl.buffer_pool import BUFFER_POOL, Buffers, BufferSettings
from reference_impl.circuit_breaker import CIRCUIT_BREAKER, BreakerSettings
from reference_impl.cleanup import CLEANUP
from reference_impl.dialer import Dialer
from reference_impl.faults import TIMED, Script
from reference_impl.faults.faulty import Playback
from reference_impl.metrics import METRICS, MetricsSettings
from reference_impl.node import Node, NodeSettings, Rooms
from reference_impl.pooling import POOLING, PoolSettings
from reference_impl.pooling.resumption import RESUMPTION, Resumption
from reference_impl.rate_limit import RATE_LIMIT, RateLimitSettings
from reference_impl.security.identity import Identity
from reference_impl.settings import SettingsError
from reference_impl.transports.base import Listener, Transport
from reference_impl.transports.memory import MemoryListener, MemoryTransport
from reference_impl.transports.tcp import TcpSettings, TcpTransport
from reference_impl.transports.tcp_server import TcpListener
from reference_impl.transports.tls_settings import TlsSettings

S = TypeVar("S")
Tables = Mapping[str, Mapping[str, Any]]

SETTINGS: Mapping[str, type[Any]] = {
    "pooling": PoolSettings,
    "rate_limit": RateLimitSettings,
    "source_limit": RateLimitSettings,
    "circuit_breaker": BreakerSettings,
    "buffer_pool": BufferSettings,
    "metrics": MetricsSettings,
    "node": NodeSettings,
    "tcp": TcpSettings,
    "tls": TlsSettings,
    "faults": Script,
}
"""Every settings table a study may give, by name. `source_limit` bounds connections per source address,
`rate_limit` requests per peer, `tcp` holds for TLS too; `faults` is a node's fault script."""

NETWORK_TRANSPORTS = ("tcp", "tls")
TRANSPORTS = (*NETWORK_TRANSPORTS, "memory")


def dialer(enabled: frozenset[str], identity: Identity, tables: Tables | None = None) -> Dialer:
    """A dialer with the twins that `enabled` selects. Raises `SettingsError`."""
    tables = checked(tables or {})
    buffers = BUFFER_POOL.pick(enabled)(_make(BufferSettings, tables, "buffer_pool"))
    pool, settings = POOLING.pick(enabled), _make(PoolSettings, tables, "pooling")
    tickets = RESUMPTION.pick(enabled)(settings)
    return Dialer(
        _transports(identity, buffers, tickets, tables),
        make_cleanup=CLEANUP.pick(enabled),
        attempts=CIRCUIT_BREAKER.pick(enabled)(_make(BreakerSettings, tables, "circuit_breaker")),
        buffers=buffers,
        metrics=METRICS.pick(enabled)(_make(MetricsSettings, tables, "metrics")),
        make_pool=lambda **calls: pool(settings, **calls),
        tickets=tickets,
        cleanup_interval=settings.cleanup_interval,
    )


def node(
    enabled: frozenset[str],
    identities: Sequence[Identity],
    tables: Tables | None = None,
    transports: Sequence[str] = ("tcp",),
) -> Node:
    """A node with the twins that `enabled` selects, not yet listening. Raises `SettingsError`."""
    tables = checked(tables or {})
    limiter = RATE_LIMIT.pick(enabled)
    rooms = Rooms(
        make_cleanup=CLEANUP.pick(enabled),
        source_limit=limiter(_make(RateLimitSettings, tables, "source_limit")),
        peer_limit=limiter(_make(RateLimitSettings, tables, "rate_limit")),
        buffers=BUFFER_POOL.pick(enabled)(_make(BufferSettings, tables, "buffer_pool")),
        metrics=METRICS.pick(enabled)(_make(MetricsSettings, tables, "metrics")),
        tickets=RESUMPTION.pick(enabled)(_make(PoolSettings, tables, "pooling")),
    )
    listeners = [_listener(name, rooms, tables) for name in dict.fromkeys(transports)]
    settings = _make(NodeSettings, tables, "node")
    script = _make(Script, tables, "faults")
    if not script.rules:
        return Node(identities, rooms, settings, listeners)
    if "memory" in transports:
        _refuse_timed(script)
    playback = Playback(script)
    made = Node(identities, rooms, settings, listeners, playback.session)
    made.more_gauges["faults"] = playback.gauges
    return made


def _refuse_timed(script: Script) -> None:
    for number, rule in enumerate(script.rules):
        if rule.kind in TIMED:
            raise SettingsError(
                f"faults.rules[{number}].kind is {rule.kind!r}; no time passes over the memory transport"
            )


def _transports(identity: Identity, buffers: Buffers, tickets: Resumption, tables: Tables) -> dict[str, Transport]:
    """Every way to dial that the settings allow; a peer's addresses say which of them reach it."""
    tcp, tls = _make(TcpSettings, tables, "tcp"), _make(TlsSettings, tables, "tls")
    made: list[Transport] = [
        TcpTransport(identity, buffers, tcp, tickets),
        MemoryTransport(identity, buffers, tickets),
    ]
    if tls.authority:
        from reference_impl.security.certificates import Authority
        from reference_impl.transports.tls import TlsTransport

        made.append(TlsTransport(identity, Authority.from_pem(tls.authority), buffers, tcp))
    return {transport.name: transport for transport in made}


def _listener(name: str, rooms: Rooms, tables: Tables) -> Listener:
    if name == "tcp":
        return TcpListener(rooms.buffers, rooms.tickets)
    if name == "tls":
        from reference_impl.security.certificates import Authority
        from reference_impl.transports.tls import TlsListener

        given = _make(TlsSettings, tables, "tls").authority
        return TlsListener(Authority.from_pem(given) if given else Authority.generate(), rooms.buffers)
    if name == "memory":
        return MemoryListener(rooms.buffers, rooms.tickets)
    raise SettingsError(f"transport is {name!r}; expected one of: {', '.join(TRANSPORTS)}")


def checked(tables: Tables) -> Tables:
    """`tables` if every room and setting exists. Raises `SettingsError` naming the first that does not."""
    for room, values in tables.items():
        if room not in SETTINGS:
            raise SettingsError(f"unknown settings table {room!r}; expected one of: {', '.join(SETTINGS)}")
        known = [field.name for field in dataclasses.fields(SETTINGS[room])]
        for name in values:
            if name not in known:
                raise SettingsError(f"unknown setting {room}.{name}; expected one of: {', '.join(known)}")
    return tables


def _make(record: type[S], tables: Tables, room: str) -> S:
    return record(**tables.get(room, {}))
