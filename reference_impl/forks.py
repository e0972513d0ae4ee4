"""What a forked child sets right before its first step: locks, and what belongs to its parent.

`os.fork` copies the memory and one thread. A lock that another thread held would stay locked in the child for ever,
and what that thread was changing under it stays half changed. Laws. (1) Who has a lock, or something that a child
must not use, joins once, when it is made; what is made per key does not join, its keeper answers for it. (2) A lock
is replaced, never released, by one of the same kind: the thread that forks may hold the old one itself, and gives back
the one it took. (3) Beyond the locks a child has copies: counts, buckets and failures as they stood, one change under
each lock perhaps half done. Every room keeps working from any such state; what it may have lost, its class says.
"""

from __future__ import annotations

import logging
import os
import weakref
from typing import Protocol

_log = logging.getLogger(__name__)


class Inherited(Protocol):
    """Something a child of this process would inherit; weakly referable."""

    def after_fork(self) -> None:
        """In the child, where no other thread runs: make new locks, disown what is the parent's. Takes no lock."""


_all: weakref.WeakSet[Inherited] = weakref.WeakSet()


def join(one: Inherited) -> None:
    """Have `one.after_fork()` called in every forked child, as long as it lives."""
    _all.add(one)


def _after_fork() -> None:
    for one in list(_all):
        try:
            one.after_fork()
        except Exception:  # the others must not pay for it
            _log.exception("%r is unusable in this child", type(one))


os.register_at_fork(after_in_child=_after_fork)
