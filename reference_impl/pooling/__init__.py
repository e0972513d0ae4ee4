"""Room 1, connection pooling: connections to a peer are lent, returned and lent again, resumed when let go."""

from __future__ import annotations

from reference_impl.pooling.lease import Lease, LeaseError, Pool, PoolClosed, PoolSettings, PoolTimeout
from reference_impl.pooling.locked_reuse import LockedReuse
from reference_impl.pooling.per_request import PerRequest
from reference_impl.pooling.pool import POOLING, ConnectionPool

__all__ = [
    "POOLING",
    "ConnectionPool",
    "Lease",
    "LeaseError",
    "LockedReuse",
    "PerRequest",
    "Pool",
    "PoolClosed",
    "PoolSettings",
    "PoolTimeout",
]
