"""The barrier holds Locust's users between slices, from outside: any Locust file runs unchanged.

Laws. A user passes only by consuming one credit (closed) or one due arrival (open); with neither, nobody
passes. A user is busy from passing until its task has returned, and a slice is over when it is closed and
nobody is busy. Arrivals are consumed in order, by whoever is free first, and never dropped: what starts
late is recorded as lag.

A closed barrier costs nothing, an open one two set operations a task. Locust's own `gevent.sleep(0)` after
each task is left out, because a request that waits for its socket yields anyway; a user that would pass
twice with nobody in between yields first, so tasks without I/O cannot starve the others.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent import getcurrent
from gevent.event import Event
from gevent.hub import Waiter
from locust import TaskSet
from locust.exception import InterruptTaskSet, RescheduleTask, RescheduleTaskImmediately, StopTest, StopUser
from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING, DefaultTaskSet

from harness.execute.alarm import Alarm

CONTROL_FLOW = (InterruptTaskSet, RescheduleTask, RescheduleTaskImmediately, StopUser, StopTest)
"How Locust files steer Locust; none of them is a failed request."

_FOREVER = sys.maxsize
_draw_task: Any = DefaultTaskSet.get_next_task


class Barrier:
    """Holds the users of one workload. `make_alarm` builds alarms on the clock `clock` (seconds).

    `scheduled` users are paced by arrivals alone: their own wait times would cap the rate, and make a capacity
    measured without arrivals that of their patience.
    """

    __slots__ = (
        "_alarm",
        "_armed",
        "_arrivals",
        "_clock",
        "_deadline",
        "_done",
        "_granted",
        "_next",
        "_passed",
        "_timed",
        "busy",
        "carried",
        "credit",
        "error",
        "hurried",
        "lag_max",
        "last",
        "opened",
        "scheduled",
        "waiting",
    )

    def __init__(
        self,
        clock: Callable[[], float],
        make_alarm: Callable[[Callable[[], None]], Alarm],
        error: Callable[[Exception], None],
        *,
        scheduled: bool = False,
    ) -> None:
        self._clock = clock
        self.scheduled = scheduled
        self._alarm = make_alarm(self._pace)
        self._deadline = make_alarm(self._close)
        self._done = Event()
        self._arrivals: Sequence[float] = ()
        self._next = self._armed = 0
        self._timed = False
        self.hurried = False
        self._granted = self._passed = 0
        self.error = error
        self.credit = 0
        self.busy: set[Any] = set()
        self.carried: set[Any] = set()
        self.waiting: deque[tuple[Any, Waiter]] = deque()
        self.last: Any = None
        self.opened = 0.0
        self.lag_max = 0.0

    # for the harness

    def run_closed(self, planned: float, drain: float) -> int:
        """Let users pass for `planned` seconds, then wait for those in flight. Returns passages."""
        self._begin(timed=True, credit=_FOREVER)
        self._deadline.set(self.opened + planned)
        gevent.get_hub().loop.run_callback(self._release)
        self._done.wait(planned + drain)
        self._close()
        return self._passed

    def run_tasks(self, tasks: int, timeout: float, *, thinking: bool = True) -> int:
        """Let exactly `tasks` tasks pass and wait for them, users `thinking` in between as they are used to or not.
        Returns passages; fewer than asked when time ran out.
        """
        self._begin(timed=False, credit=tasks)
        self.hurried = not thinking
        gevent.get_hub().loop.run_callback(self._release)
        self._done.wait(timeout)
        self.hurried = False
        self._close()
        return self._passed

    def run_open(self, arrivals: Sequence[float], planned: float, drain: float) -> int:
        """Start one task per arrival (seconds after opening, ascending); returns passages so far.

        Arrivals nobody was free to take within `planned + drain` stay untaken; the caller counts them.
        """
        self._begin(timed=True, credit=0)
        self._arrivals, self._next, self._armed = arrivals, 0, -1
        self._deadline.set(self.opened + planned)
        gevent.get_hub().loop.run_callback(self._pace)
        self._done.wait(planned + drain)
        taken = self._next
        self._arrivals, self._next = (), 0
        self._alarm.cancel()
        self._close()
        return taken

    # for the users

    def enter(self, me: Any) -> None:
        """Pass, or stand here until allowed. The calling greenlet is busy afterwards."""
        if me in self.carried:
            self.carried.discard(me)
            return
        if self.last is me and (self.credit or self._due()):
            gevent.sleep(0)
        while True:
            if self.credit > 0:
                self.credit -= 1
                break
            if self._due():
                self._take(me)
                break
            self._stand(me)
        self.last = me
        self.busy.add(me)

    def leave(self, me: Any) -> None:
        """The task of this greenlet is over, whatever became of it."""
        self.busy.discard(me)
        if not self.busy:
            self._settle()

    def _stand(self, me: Any) -> None:
        waiter = Waiter()
        entry = (me, waiter)
        self.waiting.append(entry)
        self._arm()
        try:
            waiter.get()
        except BaseException:
            if entry in self.waiting:
                self.waiting.remove(entry)
            raise

    def _take(self, me: Any) -> None:
        lag = self._clock() - self.opened - self._arrivals[self._next]
        self._next += 1
        self.lag_max = max(self.lag_max, lag)
        me.synapsed_lag = lag

    # state

    def _begin(self, *, timed: bool, credit: int) -> None:
        self._done.clear()
        self._timed = timed
        self._granted = self.credit = credit
        self.lag_max = 0.0
        self.last = None
        self.opened = self._clock()

    def _due(self) -> bool:
        return self._next < len(self._arrivals) and self._arrivals[self._next] <= self._clock() - self.opened

    def _release(self) -> None:
        """In the hub: wake everybody who stands here now; who finds no credit left stands again."""
        for _ in range(len(self.waiting)):
            if not self.waiting:  # those woken so far may have ended others
                return
            self.waiting.popleft()[1].switch(None)

    def _pace(self) -> None:
        """In the hub: hand due arrivals to waiting users, first come first served, then sleep until the
        next.
        """
        while self.waiting and self._due():
            self.waiting.popleft()[1].switch(None)
        self._armed = -1
        if self.waiting:
            self._arm()

    def _arm(self) -> None:
        """Set the alarm for the next arrival, unless it is set: arming costs about 1 us, twice per request."""
        if self._armed != self._next < len(self._arrivals):
            self._armed = self._next
            self._alarm.set(self.opened + self._arrivals[self._next])

    def _close(self) -> None:
        self._timed = False
        self._deadline.cancel()
        if self._granted:
            self._passed = self._granted - self.credit
            self._granted = self.credit = 0
        if not self.busy:
            self._settle()

    def _settle(self) -> None:
        if not self._timed and not self.credit and self._next >= len(self._arrivals):
            self._done.set()


def current_lag() -> float:
    """Seconds between intended and actual start of the task that this greenlet, or the one that spawned it,
    runs.
    """
    greenlet = getcurrent()
    while greenlet is not None:
        lag: float | None = getattr(greenlet, "synapsed_lag", None)
        if lag is not None:
            return lag
        parent = getattr(greenlet, "spawning_greenlet", None)
        greenlet = parent() if parent else None
    return 0.0


def hold_users() -> None:
    """Put the barrier into Locust's task loop, for all users of this process.

    Which barrier holds a user is told by `synapsed_barrier` of its environment.
    """
    loop: Any = TaskSet
    loop.execute_next_task = _execute_next_task
    loop.wait = _wait
    root: Any = DefaultTaskSet
    root.get_next_task = _get_next_task


def _execute_next_task(taskset: Any) -> None:
    """`TaskSet.execute_next_task` behind the barrier; its fast path is `Barrier.enter` unrolled."""
    barrier = taskset._user.environment.synapsed_barrier
    task = taskset._task_queue.popleft()
    me = getcurrent()
    if isinstance(task, type):
        _run_nested(barrier, taskset, task, me)
        return
    if barrier.credit and barrier.last is not me and not barrier.carried:
        barrier.credit -= 1
        barrier.last = me
        barrier.busy.add(me)
    else:
        barrier.enter(me)
    try:
        taskset.execute_task(task)
    except CONTROL_FLOW:
        raise
    except Exception as error:
        barrier.error(error)
        raise
    finally:
        barrier.busy.discard(me)
        if not barrier.busy:
            barrier.leave(me)


def _get_next_task(taskset: Any) -> Any:
    """`DefaultTaskSet.get_next_task` that draws no lots among one: that would cost 1 us of each request."""
    tasks = taskset._user.tasks
    return tasks[0] if len(tasks) == 1 else _draw_task(taskset)


def _wait(taskset: Any) -> None:
    """`TaskSet.wait` without a trip through the event loop when there is no think time, or none that counts."""
    user = taskset._user
    if user._state == LOCUST_STATE_STOPPING:
        raise StopUser()
    barrier = user.environment.synapsed_barrier
    if barrier.scheduled or barrier.hurried:
        return
    seconds = taskset.wait_time()
    if seconds > 0:
        user._state = LOCUST_STATE_WAITING
        taskset._sleep(seconds)
        if user._state == LOCUST_STATE_STOPPING:
            raise StopUser()
        user._state = LOCUST_STATE_RUNNING


def _run_nested(barrier: Barrier, taskset: Any, task: type, me: Any) -> None:
    """A nested TaskSet loops inside one task of its parent: its own tasks pass the barrier one by one.

    The passage that let it in covers its `on_start` and is carried to its first task.
    """
    barrier.enter(me)
    barrier.carried.add(me)
    try:
        taskset.execute_task(task)
    except CONTROL_FLOW:
        raise
    except Exception as error:
        barrier.error(error)
        raise
    finally:
        barrier.carried.discard(me)
        barrier.leave(me)
