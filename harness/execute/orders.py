"""The load process's side of the orders: which barrier opens when, and what is counted meanwhile.

Locust runs as a library: one environment and local runner per workload, all their users alive and held by
one barrier each, one barrier open at a time. Every order gets exactly one answer; clocks are read when
nobody is in flight.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import socket
import time
from collections.abc import Callable

import gevent
from gevent.queue import Queue

from harness.execute import wire
from harness.execute.barrier import hold_users
from harness.execute.cache_misses import Counter, counting
from harness.execute.counters import cpu_seconds, minor_faults, tree
from harness.execute.recorder import Recorder
from harness.execute.workload import LoadedWorkload, WorkloadError, load_workloads

_LOGGED_ERRORS = 20
_STOP_SECONDS = 3.0


class Worker:
    """Carries out the harness's orders, one at a time."""

    def __init__(self) -> None:
        self._recorder = Recorder(time.monotonic)
        self._workloads: dict[str, LoadedWorkload] = {}
        self._counts_misses = False
        self._misses: Counter | None = None
        self._collections_before = 0

    def answer(self, order: wire.Order) -> wire.Answer:
        """Do what `order` says; whatever goes wrong becomes Failed."""
        try:
            return self._carry_out(order)
        except WorkloadError as error:
            return wire.Failed(str(error))
        except (ProcessLookupError, MemoryError) as error:
            return wire.Failed(f"{type(error).__name__}: {error}")

    def _carry_out(self, order: wire.Order) -> wire.Answer:
        match order:
            case wire.Setup():
                return self._setup(order)
            case wire.OpenSlice():
                return self._slice(order)
            case wire.Work():
                return self._work(order)
            case wire.Gauges():
                return self._gauges()
            case wire.Settle():
                return self._settle(order)
            case wire.Stop():
                return self._stop()

    def _setup(self, order: wire.Setup) -> wire.Ready:
        hold_users()
        self._counts_misses = order.cache_misses
        random.seed(os.environ.get("SYNAPSED_SEED"))  # Locust files choose alike on all arms of a burst
        self._workloads, notes = load_workloads(order.workloads, self._recorder)
        deadline = time.monotonic() + order.timeout
        for workload in self._workloads.values():
            workload.spawn(deadline)
        # Imports and users stay as long as the process: keep them out of later collections, on every arm.
        gc.collect()
        gc.freeze()
        self._collections_before = _collections()
        return wire.Ready(notes)

    def _slice(self, order: wire.OpenSlice) -> wire.SliceResult:
        workload = self._workload(order.workload)
        barrier, arrivals = workload.barrier, order.arrivals

        def run() -> tuple[int, int]:
            if arrivals is None:
                return barrier.run_closed(order.planned, order.drain), 0
            taken = barrier.run_open(arrivals, order.planned, order.drain)
            return taken, len(arrivals) - taken

        return self._measured(workload, run, order.quiet, order.targets, lags=arrivals is not None)

    def _work(self, order: wire.Work) -> wire.SliceResult:
        workload = self._workload(order.workload)

        def run() -> tuple[int, int]:
            passed = workload.barrier.run_tasks(order.tasks, order.timeout, thinking=order.thinking)
            if passed < order.tasks:
                raise WorkloadError(
                    f"workload {order.workload!r} did {passed} of {order.tasks} tasks in {order.timeout:g} s; expected"
                    " all: lower memory_requests, warm_tasks or tasks, whichever of them is so many"
                )
            return passed, 0

        return self._measured(workload, run, order.quiet, order.targets, lags=False)

    def _measured(
        self,
        workload: LoadedWorkload,
        run: Callable[[], tuple[int, int]],
        quiet: float,
        targets: tuple[int, ...],
        *,
        lags: bool,
    ) -> wire.SliceResult:
        """Read the clocks, `run` (tasks passed, arrivals never taken), wait out the quiet gap, read the
        clocks again.
        """
        recorder, barrier = self._recorder, workload.barrier
        misses = self._cache_misses(targets)
        recorder.begin(lags=lags)
        faults, cpu_target, cpu_load = minor_faults(targets), cpu_seconds(targets), time.process_time()
        tasks, untaken = run()
        cancelled = len(barrier.busy) + untaken
        recorder.end()
        if quiet > 0:
            gevent.sleep(quiet)
        cpu_load = time.process_time() - cpu_load
        if targets:
            targets = tree(targets[0])  # it may have started others
        cpu_target = cpu_seconds(targets) - cpu_target
        faults = minor_faults(targets) - faults
        if misses is not None and self._misses is not None:
            misses = self._misses.read() - misses
        lag_max = barrier.lag_max
        workload.replace_stuck()
        reported = recorder.answered + sum(each.rejected + each.failed for each in recorder.unanswered())
        most = workload.requests_per_task * tasks
        return wire.SliceResult(
            seconds=max(0.0, recorder.answered_at - barrier.opened),
            tasks=tasks,
            answered=recorder.answered,
            rejected=recorder.rejected,
            failed=recorder.failed,
            cancelled=cancelled,
            cpu_target=cpu_target,
            cpu_load=cpu_load,
            page_faults=faults,
            lag_max=lag_max,
            samples=recorder.samples(),
            unanswered=recorder.unanswered(),
            surplus=max(0, reported - most) if most else 0,
            cache_misses=misses,
            said=recorder.said,
        )

    def _cache_misses(self, targets: tuple[int, ...]) -> float | None:
        """Those of both ends so far; the counter is opened when it is first asked for, and not again where there is
        none.
        """
        if self._counts_misses and self._misses is None and targets:
            self._misses = counting((*targets, os.getpid()))
            self._counts_misses = self._misses is not None
        return self._misses.read() if self._misses is not None else None

    def _gauges(self) -> wire.GaugesAnswer:
        """The target is one for all workloads; each of several has a dialer of its own, which its name tells apart."""
        target: dict[str, float] = {}
        load: dict[str, float] = {"process.collections": _collections() - self._collections_before}
        for name, workload in self._workloads.items():
            place = f"{name}: " if len(self._workloads) > 1 else ""
            held = workload.gauges("synapsed_gauges")  # first: asking the target takes a connection
            load.update((f"{place}{gauge}", value) for gauge, value in held.items())
            target.update(workload.gauges("synapsed_target_gauges"))
        return wire.GaugesAnswer(target, load)

    def _settle(self, order: wire.Settle) -> wire.Settled:
        gevent.sleep(order.seconds)
        for workload in self._workloads.values():
            workload.keep_house()
        return wire.Settled()

    def _stop(self) -> wire.Stopped:
        with gevent.Timeout(_STOP_SECONDS, False):
            for workload in self._workloads.values():
                workload.stop()
        return wire.Stopped()

    def _workload(self, name: str) -> LoadedWorkload:
        workload = self._workloads.get(name)
        if workload is None:
            raise WorkloadError(f"no workload {name!r} here; loaded: {', '.join(self._workloads) or 'none'}")
        workload.check_alive()
        return workload


def _collections() -> int:
    """Runs of this process's garbage collector since it began, of all generations."""
    return sum(each["collections"] for each in gc.get_stats())


class _FirstFew(logging.Filter):
    """Locust logs a traceback per failing task; after the first few that would be most of the load."""

    def __init__(self, allowed: int) -> None:
        super().__init__()
        self._left = allowed

    def filter(self, record: logging.LogRecord) -> bool:
        self._left -= 1
        return self._left >= 0


def serve(descriptor: int) -> int:
    """Answer orders until Stop (0) or the end of the stream (1)."""
    stream = socket.socket(fileno=descriptor)
    orders: Queue[wire.Order] = Queue()

    def read() -> None:
        try:
            while True:
                orders.put(wire.receive(stream, wire.ORDERS))
        except (OSError, EOFError, ValueError):
            os._exit(1)  # the harness is gone, perhaps in the middle of a slice: nobody is left to answer

    logging.getLogger("locust.user.task").addFilter(_FirstFew(_LOGGED_ERRORS))
    gevent.spawn(read)
    worker = Worker()
    while True:
        order = orders.get()
        wire.send(stream, worker.answer(order))
        if isinstance(order, wire.Stop):
            return 0
