"""Enabled names -> a wired dialer or node. The only reader of flags.

Settings come as plain tables by room name (from a study file or the command line) and become validated records here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from reference_impl.buffer_pool import BUFFER_POOL, BufferSettings
from reference_impl.circuit_breaker import CIRCUIT_BREAKER, BreakerSettings
from reference_impl.cleanup import CLEANUP
from reference_impl.dialer import Dialer
from reference_impl.identity import Identity
from reference_impl.metrics import METRICS, MetricsSettings
from reference_impl.node import Node, NodeSettings, Rooms
from reference_impl.pooling import POOLING, PoolSettings
from reference_impl.rate_limit import RATE_LIMIT, RateLimitSettings
from reference_impl.settings import SettingsError
from reference_impl.transports.tcp import TcpSettings, TcpTransport

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
}
"""Every settings table a study may give, by name. `source_limit` bounds connections per source address,
`rate_limit` requests per peer."""


def dialer(enabled: frozenset[str], identity: Identity, tables: Tables | None = None) -> Dialer:
    """A dialer with the twins that `enabled` selects. Raises `SettingsError`."""
    tables = checked(tables or {})
    buffers = BUFFER_POOL.pick(enabled)(_make(BufferSettings, tables, "buffer_pool"))
    pool = POOLING.pick(enabled)
    return Dialer(
        {"tcp": TcpTransport(identity, buffers, _make(TcpSettings, tables, "tcp"))},
        make_cleanup=CLEANUP.pick(enabled),
        attempts=CIRCUIT_BREAKER.pick(enabled)(_make(BreakerSettings, tables, "circuit_breaker")),
        buffers=buffers,
        metrics=METRICS.pick(enabled)(_make(MetricsSettings, tables, "metrics")),
        make_pool=lambda **calls: pool(_make(PoolSettings, tables, "pooling"), **calls),
    )


def node(enabled: frozenset[str], identities: Sequence[Identity], tables: Tables | None = None) -> Node:
    """A node with the twins that `enabled` selects, not yet listening. Raises `SettingsError`."""
    tables = checked(tables or {})
    limiter = RATE_LIMIT.pick(enabled)
    rooms = Rooms(
        make_cleanup=CLEANUP.pick(enabled),
        source_limit=limiter(_make(RateLimitSettings, tables, "source_limit")),
        peer_limit=limiter(_make(RateLimitSettings, tables, "rate_limit")),
        buffers=BUFFER_POOL.pick(enabled)(_make(BufferSettings, tables, "buffer_pool")),
        metrics=METRICS.pick(enabled)(_make(MetricsSettings, tables, "metrics")),
    )
    return Node(identities, rooms, _make(NodeSettings, tables, "node"))


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
