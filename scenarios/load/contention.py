"""What do metrics cost when eight threads record at once? Each task has 8 real threads record so many requests each,
of a peer of its own where there are as many.

CONTENTION_RECORDINGS (10,000) says how many; "record" is the time of one: the whole task's divided by all of them. They
begin together, and have work for longer than the 5 ms after which the interpreter lets another thread run: of fewer
recordings each thread would have made all of its own before the next one had its turn.
"""

from __future__ import annotations

import os
import random
from itertools import cycle, islice
from time import perf_counter

import gevent
from gevent import monkey
from gevent.lock import BoundedSemaphore
from gevent.threadpool import ThreadPool
from locust import task

from reference_impl.metrics import Recorder
from scenarios.load.users import PeerUser

THREADS = 8
RECORDINGS = int(os.environ.get("CONTENTION_RECORDINGS", "10000"))
DURATIONS = tuple(random.Random(1).lognormvariate(-7.0, 0.8) for _ in range(500))
"around a millisecond, as requests take: one duration alone would fill one bucket of a histogram"
_pool = ThreadPool(THREADS)
_alone = BoundedSemaphore(1)
"""Held by a task for its threads: of two users that shared them out, each would wait for the other's at its line."""
_lock = monkey.get_original("_thread", "allocate_lock")


class StartingLine:
    """Lets so many native threads go when all of them have come.

    With native locks: those of threading.Barrier are gevent's under Locust, and native threads missed their wake-ups:
    with threads just started one of a few such lines was never left.
    """

    def __init__(self, threads: int) -> None:
        self._missing = threads
        self._count, self._gate = _lock(), _lock()
        self._gate.acquire()

    def wait(self) -> None:
        """Come, and go with the others."""
        with self._count:
            self._missing -= 1
            last = not self._missing
        if last:
            self._gate.release()
        with self._gate:  # a turnstile: who has passed lets the next one pass
            pass


class ContentionUser(PeerUser):
    """Records requests, sends none."""

    def on_start(self) -> None:
        super().on_start()
        self.recorders = [
            self.dialer.metrics.recorder(bytes(each), "tcp") for each in islice(cycle(self.peers), THREADS)
        ]

    @task
    def record(self) -> None:
        with _alone:
            ready = StartingLine(THREADS)
            began = perf_counter()
            gevent.joinall([_pool.spawn(record_many, ready, each) for each in self.recorders], raise_error=True)
        self.report("record", (perf_counter() - began) / (THREADS * RECORDINGS), 0)


def record_many(ready: StartingLine, recorder: Recorder) -> None:
    """What one thread does, once all of them stand ready."""
    ready.wait()
    for duration in islice(cycle(DURATIONS), RECORDINGS):
        recorder.request(duration, 1024, 1024)
