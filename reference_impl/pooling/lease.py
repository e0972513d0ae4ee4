"""What every twin of the pooling room shares: settings, errors, the lease, and the Protocol.

A lease is made for one checkout and dies with it. A connection that goes round is lent under a new lease each
time, so a lease kept too long can neither return nor reach a connection that has become somebody else's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from reference_impl import settings as check

C = TypeVar("C")


class PoolError(Exception):
    """Anything this room refuses; errors of connecting pass through as they are."""


class PoolTimeout(PoolError, TimeoutError):
    """No connection became free within `wait_timeout`."""


class PoolClosed(PoolError):
    """Checkout from a closed pool."""


class LeaseError(PoolError):
    """Use or return of what was given back before."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Limits of the pool. Times are in seconds, counts in connections or tickets.

    A bad or contradictory value raises `SettingsError` with the setting's name, value and allowed range.
    """

    max_connections_per_peer: int = 32
    """Open, opening and lent connections to one peer. 32: one for each greenlet of the reference surge load."""
    max_idle_time: float = 60.0
    """An idle connection older than this is closed. 60: below the idle timeouts of common NATs and proxies."""
    cleanup_interval: float = 5.0
    """Pause between two rounds of the dialer's housekeeping, the pool's sweep among them. 5: an idle connection
    overstays by a twelfth at most."""
    max_lifetime: float = 1800.0
    """Age at which a connection is retired on return. 1800: fresh keys and a fresh address twice an hour."""
    lifetime_jitter: float = 0.1
    """Share of max_lifetime, drawn per connection, that is taken off: connections opened in one burst must not
    all be opened again in one burst. 0 <= jitter < 1; 0.1 spreads 1,800 s over three minutes."""
    max_idle_total: int = 1024
    """Idle connections kept over all peers: a pool raises memory. 1024: about 7 MB of a peer's and our memory."""
    wait_timeout: float = 5.0
    """Longest wait for a free connection before `PoolTimeout`; connecting is not counted. 5: a caller that
    waited longer has usually given up."""
    liveness_after: float = 0.5
    """A connection used within this time is lent without polling it; 0 polls always. 0.5: a poll costs as much
    as the rest of the checkout, and a peer that died half a second ago is found by the request itself."""
    leak_after: float = 0.0
    """A lease held longer is reported with its borrower's stack; 0 turns it off. 0: a stack costs 20 us."""

    max_tickets: int = 1024
    """Tickets kept to resume with peers (see `resumption.py`); 0 never resumes. 1024: 0.3 to 0.4 MB, a twentieth of
    what as many idle connections take while their ciphers live, a seventh of trimmed ones."""

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check.count(owner, "max_connections_per_peer", self.max_connections_per_peer)
        check.count(owner, "max_tickets", self.max_tickets, least=0)
        check.count(owner, "max_idle_total", self.max_idle_total)
        for name in ("max_idle_time", "cleanup_interval", "max_lifetime", "wait_timeout"):
            check.positive(owner, name, getattr(self, name))
        for name in ("lifetime_jitter", "liveness_after", "leak_after"):
            check.not_negative(owner, name, getattr(self, name))
        if self.lifetime_jitter >= 1:
            raise check.SettingsError(f"{owner}.lifetime_jitter is {self.lifetime_jitter!r}; expected less than 1")
        check.ordered(owner, "cleanup_interval", self.cleanup_interval, "max_idle_time", self.max_idle_time)
        check.ordered(owner, "max_idle_time", self.max_idle_time, "max_lifetime", self.max_lifetime)


class PooledConnection(Generic[C]):
    """The pool's side of a connection. created_at and last_used are on the pool's clock, in seconds."""

    __slots__ = ("__weakref__", "connection", "created_at", "in_use", "last_used")
    connection: C

    def __init__(self) -> None:
        self.created_at = self.last_used = 0.0
        self.in_use = False


class Lease(Generic[C]):
    """What checkout lends, for one checkout: given back, it knows nothing but that it is not `in_use`, and
    `connection` raises AttributeError.

    Keep the lease for as long as the connection is used: a lease that is dropped counts as leaked, and the
    on side closes its connection.
    """

    # Filled in by its maker: an __init__ would cost a fifth of checkout and checkin together.
    __slots__ = ("connection", "record")
    connection: C
    record: Any

    @property
    def created_at(self) -> float:
        """When the connection was opened."""
        return float(self.record.created_at)

    @property
    def last_used(self) -> float:
        """When the connection was last given back, or opened."""
        return float(self.record.last_used)

    @property
    def in_use(self) -> bool:
        """Whether this lease still holds the connection."""
        return hasattr(self, "connection")


def lend(record: PooledConnection[C]) -> Lease[C]:
    """A fresh lease on the connection of `record`."""
    record.in_use = True
    lease: Lease[C] = Lease()
    lease.connection = record.connection
    lease.record = record
    return lease


def take_back(lease: Lease[C]) -> Any:
    """End the lease; exactly one caller succeeds, the others get `LeaseError`."""
    try:
        del lease.connection
    except AttributeError:
        raise LeaseError("this lease was given back before") from None
    record = lease.record
    lease.record = None
    record.in_use = False
    return record


class Pool(Protocol[C]):
    """Lends connections. Every twin is thread-safe, and works under gevent when made after patching.

    All twins are made by `Twin(settings, connect, close, is_alive, clock, rng)`.
    """

    def checkout(self, peer: bytes) -> Lease[C]:
        """Borrow a connection to `peer`. Raises `PoolTimeout`, `PoolClosed`, or what connecting raised."""

    def checkin(self, lease: Lease[C]) -> None:
        """Give the connection back in working order. Raises `LeaseError` the second time."""

    def discard(self, lease: Lease[C]) -> None:
        """Instead of checkin when the connection is broken: closes it and gives its place free."""

    def abandon(self, lease: Lease[C]) -> None:
        """Instead of checkin when the use was broken off and nobody has closed the connection: gives its place free.

        Only the on side, which answers for what it lends, closes it.
        """

    def sweep(self) -> int:
        """Close what has been idle or alive too long and finish leaked leases; how many were closed."""

    def close(self) -> None:
        """Close what is idle; what is lent is closed when it comes back."""

    def gauges(self) -> dict[str, float]:
        """Totals since the start (hits, misses, waits, timeouts, evicted, discarded, discarded_dead,
        connect_failures, close_errors, leaked) and the present (idle, in_use, waiting, peers)."""


_GAUGES = (
    *("hits", "misses", "waits", "timeouts", "evicted", "discarded", "discarded_dead", "connect_failures"),
    *("close_errors", "leaked", "idle", "in_use", "waiting", "peers"),
)


def all_gauges(known: Mapping[str, int]) -> dict[str, float]:
    """Every gauge of the room, 0 where a twin has none, so that dashboards need not know the twin."""
    return {name: known.get(name, 0) for name in _GAUGES}
