"""Resumption: what two ends keep of a handshake, so that the next one between them is cheap. A part of pooling.

A full handshake costs each end a key, three exchanges and the check of a signature. From it both derive, without a
further message, a ticket: a name and a secret. With that the next handshake (Noise NNpsk0, and the dialer's empty
record to confirm it, which nobody waits for) costs each a key and one exchange. A connection that the pool had to let
go, or that broke, comes back at that price, and a ticket takes a twentieth of an idle connection's memory. The
ephemeral keys are fresh: what was said under a ticket stays secret when it becomes known, though until it is used or
expires its thief could be either end to the other.

Laws. (1) A ticket serves once: the dialing end forgets it when it offers it, the listening end when the dialer has
proved that it knows the secret; each handshake leaves a new one. (2) The kept secret is wiped when it is used, crowded
out, or found expired. (3) A chain of resumptions ends before a connection that is retired on time: no proof of an
identity is older than two lifetimes of connections. (4) No more than `max_tickets` are kept; strangers can crowd
them out, which costs full handshakes. (5) A forked child has none. (6) Whoever replays an offer that had never arrived
can neither read nor write a record, so it never confirms, and is let go as an unfinished handshake is.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from reference_impl import forks
from reference_impl.optimizations import Switch
from reference_impl.pooling.lease import PoolSettings
from reference_impl.security.noise import Handshake

NAME_BYTES = 16


@dataclass(slots=True, eq=False)
class Ticket:
    """The right to resume with `peer_id`, the other end of the handshake it comes from.

    `expires_at` is on its keeper's clock, in seconds.
    """

    name: bytes
    secret: bytearray
    peer_id: bytes
    expires_at: float

    def wipe(self) -> None:
        """Forget the secret."""
        self.secret[:] = bytes(len(self.secret))


class Resumption(Protocol):
    """What an end remembers of its handshakes. Every twin is thread-safe; all are made by `Twin(settings, clock)`.

    The dialing end keeps tickets by peer id, the listening end by name.
    """

    resuming: bool
    """Whether this end wants to resume at all."""

    def remember(
        self, handshake: Handshake, peer_id: bytes, chain: Ticket | None = None, *, by_name: bool = False
    ) -> None:
        """Keep a ticket of a handshake that is done and not yet split; `chain` is the one that it was resumed with."""

    def keep(self, key: bytes, ticket: Ticket) -> None:
        """Keep `ticket` under `key`."""

    def take(self, key: bytes) -> Ticket | None:
        """The newest ticket under `key`, which is now the caller's."""

    def sweep(self) -> int:
        """Forget what has expired; how many."""

    def forget(self) -> None:
        """Forget everything, as a process that crashed has."""

    def close(self) -> None:
        """Forget everything, and whatever is still to come."""

    def gauges(self) -> dict[str, float]:
        """`tickets` at present; since the start, handshakes that were `resumed`."""


class FullHandshakes:
    """Off: nothing is remembered; every connection begins with a full handshake."""

    resuming = False

    def __init__(self, settings: PoolSettings | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Has nothing to set."""

    def remember(
        self, handshake: Handshake, peer_id: bytes, chain: Ticket | None = None, *, by_name: bool = False
    ) -> None:
        """Nothing is remembered."""

    def keep(self, key: bytes, ticket: Ticket) -> None:
        """Nothing is kept."""

    def take(self, key: bytes) -> Ticket | None:
        return None

    def sweep(self) -> int:
        return 0

    def forget(self) -> None:
        """There is nothing to forget."""

    def close(self) -> None:
        """Nothing will come."""

    def gauges(self) -> dict[str, float]:
        return {"tickets": 0, "resumed": 0}


class Tickets:
    """On: tickets by key, the keys in the order in which they last got one; the oldest are crowded out first."""

    def __init__(self, settings: PoolSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._lifetime = settings.max_lifetime * (1 - settings.lifetime_jitter)
        self._allowed = settings.max_tickets
        self._clock = clock
        self._resumed = 0
        self.resuming = settings.max_tickets > 0
        self._begin()
        forks.join(self)

    def _begin(self) -> None:
        self._kept: OrderedDict[bytes, list[Ticket]] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def remember(
        self, handshake: Handshake, peer_id: bytes, chain: Ticket | None = None, *, by_name: bool = False
    ) -> None:
        name, secret = handshake.export(b"ticket")
        expires_at = self._clock() + self._lifetime if chain is None else chain.expires_at
        ticket = Ticket(name[:NAME_BYTES], bytearray(secret), peer_id, expires_at)
        with self._lock:
            self._resumed += chain is not None
        self.keep(ticket.name if by_name else peer_id, ticket)

    def keep(self, key: bytes, ticket: Ticket) -> None:
        with self._lock:
            self._kept.setdefault(key, []).append(ticket)
            self._kept.move_to_end(key)
            self._count += 1
            while self._count > self._allowed:
                oldest = next(iter(self._kept))
                self._remove(oldest, self._kept[oldest][0]).wipe()

    def take(self, key: bytes) -> Ticket | None:
        now = self._clock()
        with self._lock:
            while key in self._kept:
                ticket = self._remove(key, self._kept[key][-1])
                if now < ticket.expires_at:
                    return ticket
                ticket.wipe()
        return None

    def sweep(self) -> int:
        now = self._clock()
        with self._lock:
            expired = [(key, ticket) for key, kept in self._kept.items() for ticket in kept if now >= ticket.expires_at]
            for key, ticket in expired:
                self._remove(key, ticket).wipe()
        return len(expired)

    def forget(self) -> None:
        with self._lock:
            for kept in self._kept.values():
                for ticket in kept:
                    ticket.wipe()
            self._kept.clear()
            self._count = 0

    def close(self) -> None:
        self._allowed = 0  # written first: a handshake that ends now finds it, or is forgotten here
        self.forget()

    def gauges(self) -> dict[str, float]:
        return {"tickets": self._count, "resumed": self._resumed}

    def after_fork(self) -> None:
        """The copies are the child's to wipe; both processes offering one ticket would tell that they are related."""
        inherited = self._kept
        self._begin()
        for kept in inherited.values():
            for ticket in kept:
                ticket.wipe()

    def _remove(self, key: bytes, ticket: Ticket) -> Ticket:
        kept = self._kept[key]
        kept.remove(ticket)
        if not kept:
            del self._kept[key]
        self._count -= 1
        return ticket


NO_TICKETS = FullHandshakes()
RESUMPTION: Switch[Resumption] = Switch("pooling", off=FullHandshakes, on=Tickets)
