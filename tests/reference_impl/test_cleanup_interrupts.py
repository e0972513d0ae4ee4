"""Cleanup while it is finishing: reports that raise, and interrupts that fall between two steps of a release."""

from __future__ import annotations

import dis
import gc
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from reference_impl.cleanup import GuardedClose
from tests.reference_impl.test_cleanup import Hooks, Resource, run

STEPS = ["close", "on_close", "on_connection_closed"]


class Raising(Hooks):
    """Hooks whose report raises `error` every time, after noting the call."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def report(self, step: str, guard_id: int, error: Exception) -> None:
        super().report(step, guard_id, error)
        raise self.error


def failing(hooks: Hooks, step: str) -> Resource:
    """A resource; it, or one of the hooks, raises an error at `step`."""
    hooks.fail = {step: RuntimeError(step)}
    return Resource(*[OSError("gone")] * (step == "close"))


@pytest.mark.parametrize("step", STEPS)
def test_a_report_that_raises_keeps_no_step_from_running(step: str, caplog: pytest.LogCaptureFixture) -> None:
    hooks = Raising(ZeroDivisionError("in the report"))
    on, resource = hooks.guarded(), failing(hooks, step)
    guard = on.guard(resource)
    guard.release()
    assert hooks.once(guard.id)
    assert resource.closes == 1 + (step == "close")
    assert [name for name, _, _ in hooks.reports] == [step]
    assert on.gauges()["close_errors"] + on.gauges()["hook_errors"] == 1
    assert "in the report" in caplog.text
    assert step in caplog.text


@pytest.mark.parametrize("step", STEPS)
def test_a_broken_log_keeps_no_step_from_running(step: str) -> None:
    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("no space left on device")

    hooks = Hooks()
    on, resource = GuardedClose(hooks.on_close, hooks.on_connection_closed), failing(hooks, step)
    guard = on.guard(resource)
    log, handler = logging.getLogger("reference_impl.cleanup"), Full()
    log.addHandler(handler)
    try:
        guard.release()
    finally:
        log.removeHandler(handler)
    assert hooks.once(guard.id)
    assert on.gauges()["close_errors"] + on.gauges()["hook_errors"] == 1


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupt_in_the_report_travels_after_the_last_step(step: str) -> None:
    hooks = Raising(KeyboardInterrupt("in the report"))
    on, resource = hooks.guarded(), failing(hooks, step)
    guard = on.guard(resource)
    with pytest.raises(KeyboardInterrupt, match="in the report"):
        guard.release()
    assert hooks.once(guard.id)
    assert resource.closes == 1 + (step == "close")
    assert on.open_connections() == 0


def test_an_interrupt_in_every_report_of_a_release_costs_no_step() -> None:
    hooks = Raising(KeyboardInterrupt("in the report"))
    on, resource = hooks.guarded(), Resource(OSError("gone"), OSError("still gone"))
    hooks.fail = {"on_close": RuntimeError(), "on_connection_closed": RuntimeError()}
    guard = on.guard(resource)
    with pytest.raises(KeyboardInterrupt, match="in the report"):
        guard.release()
    assert hooks.once(guard.id)
    assert [step for step, _, _ in hooks.reports] == ["close", *STEPS]


def test_errors_after_an_interrupt_are_counted_and_reported_too() -> None:
    hooks = Hooks()
    on = hooks.guarded()
    hooks.fail = {"on_close": KeyboardInterrupt("first"), "on_connection_closed": RuntimeError("second")}
    guard = on.guard(Resource())
    with pytest.raises(KeyboardInterrupt, match="first"):
        guard.release()
    assert [step for step, _, _ in hooks.reports] == ["on_connection_closed"]
    assert on.gauges()["hook_errors"] == 1


def test_a_sweep_that_is_interrupted_counts_what_it_finished() -> None:
    hooks = Hooks()
    on = hooks.guarded()
    for failures in ((), (KeyboardInterrupt(),), ()):
        on.guard(Resource(*failures))
    with pytest.raises(KeyboardInterrupt):
        on.sweep()
    assert on.gauges()["finalized"] == 3


class Signal:
    """Raises KeyboardInterrupt at the `number`th place in cleanup.py, from the first error on, where CPython looks
    for signals: as a function begins, after a call, and at a jump backwards."""

    def __init__(self, number: int) -> None:
        self.left = number
        self._ran: dict[FrameType, str] = {}
        self._failed = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith("reference_impl/cleanup.py"):
            return None
        frame.f_trace_opcodes = True
        if event == "exception":
            self._failed = True
            self._ran[frame] = ""  # the call that raised looks for no signal
        elif event in ("call", "opcode"):
            opcode = dis.opname[frame.f_code.co_code[frame.f_lasti]] if frame.f_lasti >= 0 else "RESUME"
            ran, self._ran[frame] = self._ran.get(frame, ""), opcode
            if event == "call" or ran.startswith("CALL") or "JUMP_BACKWARD" in ran:
                self._arrive()
        return self

    def _arrive(self) -> None:
        if self._failed:
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt("signal")


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No collection, in whose finalizers a signal of the test would be ignored."""
    collecting = gc.isenabled()
    gc.disable()
    yield
    if collecting:
        gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("first", [RuntimeError, SystemExit])
@pytest.mark.parametrize("step", STEPS)
def test_an_interrupt_anywhere_while_a_release_is_finished_costs_no_step(step: str, first: type[BaseException]) -> None:
    places = 0
    while True:
        hooks = Hooks()
        on = hooks.guarded()
        hooks.fail = {step: first("first")}
        resource = Resource(*[first("first")] * (step == "close"))
        guard = on.guard(resource)
        signal = Signal(places + 1)
        caught: BaseException | None = None
        before = sys.gettrace()
        sys.settrace(signal)
        try:
            guard.release()
        except BaseException as error:
            caught = error
        finally:
            sys.settrace(before)
        assert hooks.once(guard.id), places
        assert resource.closes == 1 + (step == "close"), places
        assert on.open_connections() == 0
        if signal.left:
            break
        assert isinstance(caught, (KeyboardInterrupt, SystemExit)), places
        places += 1
    assert places >= (6 if first is RuntimeError else 2)


@pytest.mark.skipif(sys.version_info[:2] not in ((3, 11), (3, 12)), reason="bytecode of other versions was not read")
def test_no_signal_handler_can_run_between_taking_a_step_and_beginning_it() -> None:
    code = list(dis.get_instructions(GuardedClose._finish))
    names = [instruction.opname for instruction in code]
    taken = names.index("DELETE_SUBSCR")
    calls = [at for at, name in enumerate(names) if at > taken and name == "CALL"]
    for begin, end, what in ((taken, calls[0], "close"), (calls[0] + 1, calls[1], "_hooks")):
        way = code[begin:end]  # to the call of either branch, which is the step itself and no call before it
        assert what in [instruction.argval for instruction in way]
        assert not [instruction for instruction in way if "JUMP_BACKWARD" in instruction.opname]


def test_greenlets_killed_in_a_hook_or_a_report_finish_the_release() -> None:
    run("""
        from gevent import monkey
        monkey.patch_all()
        import gevent, socket
        from collections import Counter
        from reference_impl.cleanup import GuardedClose
        waits = fails = ""
        ran = Counter()

        def step(name):
            def call(*_):
                ran[name] += 1
                if waits == name and ran[name] == 1:
                    gevent.sleep(60)  # killed in here
                if fails == name:
                    raise OSError(name)
            return call

        class Counted:
            def __init__(self):
                self.ours, self.theirs = socket.socketpair()
            def close(self):
                self.ours.close()
                self.theirs.close()
                step("close")()

        on = GuardedClose(step("on_close"), step("on_connection_closed"), step("report"))
        ends = []

        def use(resource):
            try:
                on.guard(resource).release()
            except gevent.GreenletExit as error:
                ends.append(error)
                raise

        cases = [(name, "") for name in ("close", "on_close", "on_connection_closed")]
        cases += [("report", name) for name in ("close", "on_close", "on_connection_closed")]
        for waits, fails in cases:
            ran.clear()
            resource = Counted()
            greenlet = gevent.spawn(use, resource)
            while not ran[waits]:
                gevent.sleep(0)
            greenlet.kill()
            assert ran["on_close"] == ran["on_connection_closed"] == 1, (waits, fails, ran)
            assert resource.ours.fileno() == resource.theirs.fileno() == -1
            assert on.open_connections() == 0
        assert len(ends) == len(cases), ends
    """)


def test_every_step_runs_once_whatever_raises() -> None:
    """All combinations of what two steps and the report may raise."""
    errors = (None, OSError("error"), KeyboardInterrupt("interrupt"))
    for first in errors:
        for second in errors:
            for reported in errors:
                hooks = Raising(reported) if reported else Hooks()
                hooks.fail = {
                    name: error for name, error in (("on_close", first), ("on_connection_closed", second)) if error
                }
                on, resource = hooks.guarded(), Resource()
                guard = on.guard(resource)
                caught: Counter[type[BaseException]] = Counter()
                try:
                    guard.release()
                except BaseException as error:
                    caught[type(error)] += 1
                assert hooks.once(guard.id)
                assert resource.closes == 1
                interrupted = isinstance(first, KeyboardInterrupt) or isinstance(second, KeyboardInterrupt)
                interrupted |= bool(hooks.reports) and isinstance(reported, KeyboardInterrupt)
                assert caught == Counter({KeyboardInterrupt: 1} if interrupted else {})
