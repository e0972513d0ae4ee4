"""Resumption: what two ends keep of a handshake, so that the next one between them is cheap. A part of pooling.

A full handshake costs each end a key, three exchanges and the check of a signature. From it both derive, without a
further message, a ticket: a name and a secret. With that the next handshake (Noise NNpsk0) costs each a key and one
exchange; its ephemeral keys are fresh, so what is said stays secret even if the ticket becomes known later. A
connection that the pool had to let go, or that broke, comes back at that price; a ticket takes a twentieth of an idle
connection's memory. What a listening end has resumed is confirmed by the dialer's first record; who replays an offer
that never arrived can neither read nor write one.

Laws. (1) A ticket serves once: the dialing end forgets it when it offers it, the listening end when the dialer has
proved that it knows the secret; each handshake leaves a new one. (2) Its secret is wiped when it is used, expired,
or crowded out. (3) A chain of resumptions ends `max_lifetime` after its full handshake: identities are proved afresh as
often as connections are retired. (4) No more than `max_tickets` are kept. (5) A forked child has none.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from reference_impl import forks
from reference_impl.lease import PoolSettings
from reference_impl.noise import Handshake
from reference_impl.optimizations import Switch

NAME_BYTES = 16


class Ticket:
    """The right to resume with `peer_id`, the other end of the handshake it comes from."""

    __slots__ = ("expires_at", "name", "peer_id", "secret")

    def __init__(self, handshake: Handshake, peer_id: bytes, expires_at: float) -> None:
        name, secret = handshake.export(b"ticket")
        self.name, self.secret = name[:NAME_BYTES], bytearray(secret)
        self.peer_id = peer_id
        self.expires_at = expires_at

    def wipe(self) -> None:
        """Forget the secret."""
        self.secret[:] = bytes(len(self.secret))


class Resumption(Protocol):
    """What an end remembers of its handshakes. Every twin is thread-safe; all are made by `Twin(settings, clock)`.

    The dialing end keeps tickets by peer id, the listening end by name.
    """

    resuming: bool
    """Whether this end wants to resume at all."""

    def issue(self, handshake: Handshake, peer_id: bytes, chain: Ticket | None = None) -> Ticket | None:
        """A ticket of a handshake that is done and not yet split; `chain` is the one that it was resumed with."""

    def keep(self, key: bytes, ticket: Ticket | None) -> None:
        """Remember `ticket` under `key`."""

    def take(self, key: bytes) -> Ticket | None:
        """The newest ticket under `key`, which is now the caller's."""

    def sweep(self) -> int:
        """Forget what has expired; how many."""

    def forget(self) -> None:
        """Forget everything, as a process that ends does."""

    def gauges(self) -> dict[str, float]:
        """`tickets` at present; since the start, handshakes that were `resumed`."""


class FullHandshakes:
    """Off: nothing is remembered; every connection begins with a full handshake."""

    resuming = False

    def __init__(self, settings: PoolSettings | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Has nothing to set."""

    def issue(self, handshake: Handshake, peer_id: bytes, chain: Ticket | None = None) -> Ticket | None:
        return None

    def keep(self, key: bytes, ticket: Ticket | None) -> None:
        """Nothing is kept."""

    def take(self, key: bytes) -> Ticket | None:
        return None

    def sweep(self) -> int:
        return 0

    def forget(self) -> None:
        """There is nothing to forget."""

    def gauges(self) -> dict[str, float]:
        return {"tickets": 0, "resumed": 0}


class Tickets:
    """On: tickets in the order in which their keys were last used, the oldest crowded out first."""

    resuming = True

    def __init__(self, settings: PoolSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._resumed = 0
        self._begin()
        forks.join(self)

    def _begin(self) -> None:
        self._kept: OrderedDict[bytes, list[Ticket]] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def issue(self, handshake: Handshake, peer_id: bytes, chain: Ticket | None = None) -> Ticket | None:
        if chain is None:
            return Ticket(handshake, peer_id, self._clock() + self._settings.max_lifetime)
        with self._lock:
            self._resumed += 1
        return Ticket(handshake, peer_id, chain.expires_at)

    def keep(self, key: bytes, ticket: Ticket | None) -> None:
        if ticket is None:
            return
        with self._lock:
            self._kept.setdefault(key, []).append(ticket)
            self._kept.move_to_end(key)
            self._count += 1
            while self._count > self._settings.max_tickets:
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

    def gauges(self) -> dict[str, float]:
        return {"tickets": self._count, "resumed": self._resumed}

    def after_fork(self) -> None:
        """Its copies of the secrets are its own to wipe; both processes offering one ticket would tell them related."""
        inherited = self._kept
        self._begin()
        for ticket in [ticket for kept in list(inherited.values()) for ticket in list(kept)]:
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
