"""Cleanup: the contract of both twins, and exactly once under every fault on the guarded side."""

from __future__ import annotations

import asyncio
import dis
import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.cleanup import CLEANUP, Cleanup, ExplicitClose, GuardedClose, log_failure

TWINS = [ExplicitClose, GuardedClose]
ERRORS: list[type[BaseException]] = [
    OSError,
    TimeoutError,
    ValueError,
    RuntimeError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    asyncio.CancelledError,
]


class Hooks:
    """Both hooks of a manager; raises what it is told to, after counting the call."""

    def __init__(self) -> None:
        self.closed: Counter[int] = Counter()
        self.connection_closed: Counter[int] = Counter()
        self.fail: dict[str, BaseException] = {}
        self.reports: list[tuple[str, int, Exception]] = []

    def on_close(self, guard_id: int) -> None:
        self.closed[guard_id] += 1
        if "on_close" in self.fail:
            raise self.fail["on_close"]

    def on_connection_closed(self, guard_id: int) -> None:
        self.connection_closed[guard_id] += 1
        if "on_connection_closed" in self.fail:
            raise self.fail["on_connection_closed"]

    def report(self, step: str, guard_id: int, error: Exception) -> None:
        self.reports.append((step, guard_id, error))

    def explicit(self) -> ExplicitClose:
        return ExplicitClose(self.on_close, self.on_connection_closed)

    def guarded(self) -> GuardedClose:
        return GuardedClose(self.on_close, self.on_connection_closed, self.report)

    def once(self, *ids: int) -> bool:
        """Whether both hooks were called exactly once for each id, and for no other."""
        return self.closed == self.connection_closed == Counter(ids)


class Resource:
    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.closes = 0

    def close(self) -> None:
        self.closes += 1
        if self.failures:
            raise self.failures.pop(0)


class Descriptor:
    """A real descriptor; `close` raises the given failures first."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.fd: int | None = os.dup(2)

    def close(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
        if self.fd is not None:
            fd, self.fd = self.fd, None
            os.close(fd)


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


@pytest.fixture
def hooks() -> Hooks:
    return Hooks()


# -- the contract of both twins


@pytest.fixture(params=TWINS)
def twin(request: pytest.FixtureRequest, hooks: Hooks) -> Cleanup:
    made: Cleanup = request.param(hooks.on_close, hooks.on_connection_closed)
    return made


def test_the_switch_names_both_twins() -> None:
    assert CLEANUP.name == "cleanup"
    assert CLEANUP.pick(frozenset()) is ExplicitClose
    assert CLEANUP.pick(frozenset({"cleanup"})) is GuardedClose


def test_release_closes_calls_both_hooks_once_and_unregisters(twin: Cleanup, hooks: Hooks) -> None:
    resource = Resource()
    guard = twin.guard(resource)
    assert twin.open_connections() == twin.gauges()["open"] == 1
    guard.release()
    guard.release()
    assert resource.closes == 1
    assert hooks.once(guard.id)
    assert twin.open_connections() == 0


def test_ids_are_unique_and_hooks_get_them(twin: Cleanup, hooks: Hooks) -> None:
    guards = [twin.guard(Resource()) for _ in range(100)]
    for guard in guards:
        guard.release()
    assert len({guard.id for guard in guards}) == 100
    assert hooks.once(*(guard.id for guard in guards))


def test_a_block_left_normally_keeps_the_resource_however_often(twin: Cleanup, hooks: Hooks) -> None:
    resource = Resource()
    guard = twin.guard(resource)
    for _ in range(3):
        with guard as entered:
            assert entered is guard
    assert resource.closes == 0
    assert not hooks.closed
    assert twin.open_connections() == 1
    guard.release()
    assert hooks.once(guard.id)


def test_an_io_error_in_the_block_releases_and_travels_on(twin: Cleanup, hooks: Hooks) -> None:
    resource = Resource()
    guard = twin.guard(resource)
    with pytest.raises(ConnectionResetError, match="by peer"), guard:
        raise ConnectionResetError("by peer")
    assert resource.closes == 1
    assert hooks.once(guard.id)
    assert twin.open_connections() == 0


def test_an_io_error_of_close_still_calls_the_hooks(twin: Cleanup, hooks: Hooks) -> None:
    guard = twin.guard(Resource(OSError("gone")))
    guard.release()
    assert hooks.once(guard.id)
    assert twin.open_connections() == 0


def test_close_releases_what_is_registered_and_nothing_twice(twin: Cleanup, hooks: Hooks) -> None:
    resources = [Resource() for _ in range(5)]
    guards = [twin.guard(resource) for resource in resources]
    guards[0].release()
    twin.close()
    guards[1].release()
    assert [resource.closes for resource in resources] == [1] * 5
    assert hooks.once(*(guard.id for guard in guards))
    assert twin.open_connections() == 0


def test_sweep_has_nothing_to_do_while_guards_are_held(twin: Cleanup) -> None:
    guard = twin.guard(Resource())
    assert twin.sweep() == 0
    assert twin.open_connections() == 1
    guard.release()


def test_both_twins_have_the_same_gauges(hooks: Hooks) -> None:
    assert hooks.explicit().gauges().keys() == hooks.guarded().gauges().keys()


# -- where the first-day code leaks, and only there


@pytest.mark.parametrize("error", [e for e in ERRORS if not issubclass(e, OSError)])
def test_off_keeps_what_fails_otherwise_than_by_io(error: type[BaseException], hooks: Hooks) -> None:
    off, resource = hooks.explicit(), Resource()
    with pytest.raises(error), off.guard(resource):
        raise error
    assert resource.closes == 0
    assert off.open_connections() == 1
    off.close()
    assert resource.closes == 1
    assert off.open_connections() == 0


def test_off_loses_the_second_hook_when_the_first_raises(hooks: Hooks) -> None:
    off, resource = hooks.explicit(), Resource()
    hooks.fail["on_close"] = RuntimeError("hook")
    with pytest.raises(RuntimeError, match="hook"):
        off.guard(resource).release()
    assert resource.closes == 1
    assert hooks.connection_closed.total() == 0
    assert off.open_connections() == 1


# -- exactly once on the guarded side


@pytest.mark.parametrize("error", ERRORS)
def test_any_exception_in_the_block_releases_and_travels_on(error: type[BaseException], hooks: Hooks) -> None:
    on, resource = hooks.guarded(), Resource()
    guard = on.guard(resource)
    raised = error("stop")
    with pytest.raises(error) as caught, guard:
        raise raised
    assert caught.value is raised
    assert resource.closes == 1
    assert hooks.once(guard.id)


@pytest.mark.parametrize("step", ["close", "on_close", "on_connection_closed"])
@pytest.mark.parametrize("error", ERRORS)
def test_a_step_that_raises_keeps_no_other_from_running(step: str, error: type[BaseException], hooks: Hooks) -> None:
    on = hooks.guarded()
    failure = error(step)
    resource = Resource(*[failure] * (step == "close"))
    hooks.fail = {step: failure}
    guard = on.guard(resource)
    if issubclass(error, Exception):
        guard.release()
        assert hooks.reports == [(step, guard.id, failure)]
    else:
        with pytest.raises(error) as caught:
            guard.release()
        assert caught.value is failure
        assert not hooks.reports
    assert resource.closes == (2 if step == "close" else 1)
    assert hooks.once(guard.id)
    assert on.open_connections() == 0


def test_an_error_of_the_body_is_not_replaced_by_errors_of_the_release(hooks: Hooks) -> None:
    on = hooks.guarded()
    hooks.fail = {"on_close": RuntimeError("a"), "on_connection_closed": RuntimeError("b")}
    guard = on.guard(Resource(OSError("c"), OSError("d")))
    with pytest.raises(asyncio.CancelledError), guard:
        raise asyncio.CancelledError
    assert hooks.once(guard.id)
    assert [step for step, _, _ in hooks.reports] == ["close", "close", "on_close", "on_connection_closed"]
    assert on.gauges()["close_errors"] == 2
    assert on.gauges()["hook_errors"] == 2


def test_the_first_interrupt_wins_over_later_ones_and_errors(hooks: Hooks) -> None:
    on = hooks.guarded()
    hooks.fail = {"on_close": SystemExit("second"), "on_connection_closed": RuntimeError("third")}
    guard = on.guard(Resource(KeyboardInterrupt("first")))
    with pytest.raises(KeyboardInterrupt, match="first"):
        guard.release()
    assert hooks.once(guard.id)


def test_the_default_report_logs_step_and_connection(caplog: pytest.LogCaptureFixture) -> None:
    log_failure("on_close", 7, ValueError("broken hook"))
    assert "on_close failed while releasing connection 7" in caplog.text
    assert "broken hook" in caplog.text


def test_a_release_from_inside_a_hook_or_close_does_nothing_more() -> None:
    calls: list[int] = []
    on = GuardedClose(calls.append, lambda guard_id: guards[guard_id].release())

    class Reentrant(Resource):
        def close(self) -> None:
            super().close()
            on.close()

    resource = Reentrant()
    guard = on.guard(resource)
    guards = {guard.id: guard}
    guard.release()
    assert resource.closes == 1
    assert calls == [guard.id]


def test_eight_threads_releasing_the_same_guards_release_each_once(hooks: Hooks) -> None:
    on = hooks.guarded()
    resources = [Resource() for _ in range(500)]
    guards = [on.guard(resource) for resource in resources]
    start = threading.Barrier(8)

    def release_all() -> None:
        start.wait()
        for guard in guards:
            guard.release()
        on.close()
        on.sweep()

    threads = [threading.Thread(target=release_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {resource.closes for resource in resources} == {1}
    assert hooks.once(*(guard.id for guard in guards))


def test_cancelling_an_asyncio_task_releases(hooks: Hooks) -> None:
    on, resource = hooks.guarded(), Resource()

    async def use(entered: asyncio.Event) -> None:
        with on.guard(resource):
            entered.set()
            await asyncio.Event().wait()

    async def main() -> None:
        entered = asyncio.Event()
        task = asyncio.create_task(use(entered))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert resource.closes == 1
    assert hooks.closed.total() == hooks.connection_closed.total() == 1


# -- guards that are dropped


def test_a_dropped_guard_is_queued_by_its_finalizer_and_released_by_sweep(hooks: Hooks) -> None:
    on, resource = hooks.guarded(), Resource()
    guard_id = on.guard(resource).id
    assert resource.closes == 0
    assert not hooks.closed
    assert on.gauges()["deferred"] == 1
    assert on.sweep() == 1
    assert on.sweep() == 0
    assert resource.closes == 1
    assert hooks.once(guard_id)
    assert on.gauges() == {"open": 0, "deferred": 0, "finalized": 1, "close_errors": 0, "hook_errors": 0}


def test_a_guard_in_a_dead_cycle_is_released_after_its_collection(hooks: Hooks) -> None:
    on, resource = hooks.guarded(), Resource()

    class Connection:
        def __init__(self) -> None:
            self.guard = on.guard(resource)
            self.me = self

    Connection()
    gc.collect()
    assert resource.closes == 0
    assert on.sweep() == 1
    assert resource.closes == 1


def test_a_dropped_guard_that_was_released_or_closed_is_not_swept(hooks: Hooks) -> None:
    on = hooks.guarded()
    guard = on.guard(Resource())
    guard.release()
    del guard
    dropped = Resource()
    on.guard(dropped)
    on.close()
    assert on.sweep() == 0
    assert dropped.closes == 1


def test_sweep_goes_on_past_an_interrupt_and_raises_it_at_the_end(hooks: Hooks) -> None:
    on = hooks.guarded()
    resources = [Resource(), Resource(KeyboardInterrupt("in close")), Resource()]
    for resource in resources:
        on.guard(resource)
    with pytest.raises(KeyboardInterrupt, match="in close"):
        on.sweep()
    assert [resource.closes for resource in resources] == [1, 2, 1]
    assert on.open_connections() == 0


def test_the_finalizer_runs_no_code_of_the_resource_and_takes_no_lock(hooks: Hooks) -> None:
    on = hooks.guarded()
    on.guard(Resource())
    with on._tally_lock:
        on.guard(Resource())  # would hang here if the finalizer wanted the lock
        assert len(on._dropped) == 2
    assert on.sweep() == 2


# -- faults by the hundred thousand


def test_100_000_faults_leak_no_descriptor_and_call_each_hook_once(hooks: Hooks) -> None:
    rng = random.Random(11)
    on = hooks.guarded()
    before = open_descriptors()
    ids = []
    faults = 0
    for _ in range(100_000):
        error = rng.choice(ERRORS)("injected")
        where = rng.randrange(6)
        hooks.fail = {3: {"on_close": error}, 4: {"on_connection_closed": error}}.get(where, {})
        guard = on.guard(Descriptor(*[error] * (where == 2)))
        ids.append(guard.id)
        try:
            with guard:
                if where < 2:
                    raise error
            if where < 5:
                guard.release()
        except BaseException as caught:
            if caught is not error:
                raise
        faults += 1
        del guard  # where == 5: dropped without release
        if faults % 1_000 == 0:
            hooks.fail = {}
            on.sweep()
            hooks.reports.clear()
    assert faults == 100_000
    assert on.open_connections() == 0
    assert open_descriptors() == before
    assert hooks.once(*ids)


@given(st.lists(st.tuples(st.sampled_from(ERRORS), st.sampled_from(["body", "close", "on_close", "drop"]))))
def test_any_sequence_of_faults_is_released_exactly_once(
    faults: list[tuple[type[BaseException], str]],
) -> None:
    hooks = Hooks()
    on = hooks.guarded()
    resources = []
    ids = []
    for error, where in faults:
        failure = error("injected")
        hooks.fail = {"on_close": failure} if where == "on_close" else {}
        resource = Resource(*[failure] * (where == "close"))
        guard = on.guard(resource)
        resources.append((resource, where))
        ids.append(guard.id)
        try:
            with guard:
                if where == "body":
                    raise failure
            if where != "drop":
                guard.release()
        except BaseException as caught:
            if caught is not failure:
                raise
        del guard
    hooks.fail = {}
    on.sweep()
    assert hooks.once(*ids)
    assert all(resource.closes == 1 + (where == "close") for resource, where in resources)


def test_no_signal_handler_can_run_between_the_claim_and_the_try() -> None:
    """CPython looks for signals and thread switches at calls, function entries and backward jumps only."""
    guard_type = type(GuardedClose(int, int).guard(Resource()))
    names = [instruction.opname for instruction in dis.get_instructions(guard_type.release)]
    argvals = [instruction.argval for instruction in dis.get_instructions(guard_type.release)]
    between = names[names.index("DELETE_SUBSCR") : argvals.index("close")]
    assert len(between) > 1
    assert not [name for name in between if "CALL" in name or "JUMP_BACKWARD" in name or name == "RESUME"]


def test_a_signal_in_the_middle_of_close_or_of_a_hook_finishes_the_release(hooks: Hooks) -> None:
    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    class Signalled(Resource):
        def close(self) -> None:
            super().close()
            if self.closes == 1:
                signal.raise_signal(signal.SIGUSR1)

    on = hooks.guarded()
    resource = Signalled()
    guard = on.guard(resource)
    previous = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            guard.release()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert resource.closes == 2
    assert hooks.once(guard.id)


# -- fork and gevent, each in a fresh interpreter


def run(program: str) -> None:
    """Run a program of its own; its asserts are ours."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_forked_child_releases_nothing_of_its_parent() -> None:
    run("""
        import os, socket
        from reference_impl.cleanup import GuardedClose
        calls = []
        on = GuardedClose(calls.append, calls.append)
        ours, theirs = socket.socketpair()

        class Loud:
            def close(self):
                ours.shutdown(socket.SHUT_RDWR)
                ours.close()

        guard = on.guard(Loud())
        child = os.fork()
        if child == 0:
            assert on.open_connections() == 0
            guard.release()
            on.close()
            del guard
            assert on.sweep() == 0
            assert calls == []
            own = on.guard(Loud())
            assert on.open_connections() == 1
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        ours.sendall(b"still here")
        assert theirs.recv(10) == b"still here"
        guard.release()
        assert theirs.recv(1) == b""
        assert calls == [guard.id, guard.id]
    """)


def test_killed_greenlets_release_exactly_once() -> None:
    run("""
        from gevent import monkey
        monkey.patch_all()
        import random, gevent, socket
        from collections import Counter
        from reference_impl.cleanup import GuardedClose
        closed, gone = Counter(), Counter()
        on = GuardedClose(lambda i: closed.update([i]), lambda i: gone.update([i]))
        rng = random.Random(5)
        ids = []

        class Flushing:
            def __init__(self):
                self.ours, self.theirs = socket.socketpair()
            def close(self):
                gevent.sleep(0)  # a close that waits, as one that says goodbye does
                self.ours.close()
                self.theirs.close()

        def use(resource):
            guard = on.guard(resource)
            ids.append(guard.id)
            with guard:
                gevent.sleep(0)
            guard.release()

        resources = []
        for _ in range(300):
            resources.append(Flushing())
            greenlet = gevent.spawn(use, resources[-1])
            for _ in range(rng.randrange(4)):
                gevent.sleep(0)
            greenlet.kill()
        on.sweep()
        assert closed == gone == Counter(ids), (closed, gone)
        assert len(ids) > 100
        assert on.open_connections() == 0
        started = len(ids)
        assert sum(resource.ours.fileno() == -1 for resource in resources) == started
    """)
