"""A Locust file loaded unchanged, as one workload of a load process: its own environment, runner, users and
barrier.

Several files share a process, so each workload sees the listeners of its own file and those of modules that
files share, never those of another workload's file. `locust.events` itself stays one object, as Locust
files expect.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import locust
from locust import argument_parser, runners
from locust.env import Environment
from locust.event import EventHook, Events
from locust.user.users import PytestUser
from locust.util.load_locustfile import load_locustfile

from harness.execute.alarm import Alarm, alarm
from harness.execute.barrier import Barrier
from harness.execute.recorder import Recorder
from harness.execute.wire import WorkloadFile

_KILL_SECONDS = 2.0
_POLL_SECONDS = 0.002


class WorkloadError(Exception):
    """A Locust file or its users cannot do what was ordered; the message is one line for the user."""


class LoadedWorkload:
    """One workload's environment and users. Its users stand at `barrier` whenever no slice of it is open."""

    def __init__(self, spec: WorkloadFile, environment: Any, barrier: Barrier) -> None:
        self.name = spec.name
        self.users = spec.users
        self.barrier = barrier
        self._environment = environment
        self._env = spec.env
        self._last_error = ""
        environment.events.user_error.add_listener(self._remember)
        self.requests_per_task = _requests_per_task(spec.file, environment.user_classes)
        "the most that one task makes; 0 where not every user class of the file says it"

    def spawn(self, deadline: float) -> None:
        """Start all users and wait until each stands at the barrier. Raises WorkloadError when one dies or
        `deadline` passes.
        """
        with _environment_variables(self._env):
            runner = self._environment.runner
            try:
                runner.start(self.users, spawn_rate=self.users)
                runner.spawning_greenlet.get()
            except Exception as error:
                raise WorkloadError(f"workload {self.name!r} cannot begin: {type(error).__name__}: {error}") from error
            self._gather(deadline)

    def check_alive(self) -> None:
        """Raise WorkloadError when a user has stopped: with fewer of them the load is another."""
        if stopped := self.users - self._environment.runner.user_count:
            raise WorkloadError(
                f"{stopped} of {self.users} users of workload {self.name!r} have stopped; expected all to stay and do"
                f" their tasks again{self._because()}"
            )

    def replace_stuck(self) -> None:
        """End the users still in a task and start others in their place, so that nobody sends between
        slices.
        """
        stuck = set(self.barrier.busy)
        if not stuck:
            return
        runner = self._environment.runner
        replacements: dict[str, int] = {}
        for greenlet in list(runner.user_greenlets):
            if greenlet in stuck:
                kind = type(greenlet.args[0]).__name__
                replacements[kind] = replacements.get(kind, 0) + 1
                greenlet.kill(block=False)
        gevent.joinall(list(stuck), timeout=_KILL_SECONDS)
        if self.barrier.busy:
            raise WorkloadError(f"{len(self.barrier.busy)} users of workload {self.name!r} cannot be stopped")
        standing = len(self.barrier.waiting)
        runner.spawn_users(replacements)
        self._gather(time.monotonic() + _KILL_SECONDS, standing + sum(replacements.values()))

    def gauges(self, attribute: str) -> dict[str, float]:
        """What the Locust file's gauge function (an attribute of its environment) tells; empty when it has
        none.
        """
        ask: Callable[[], dict[str, float]] | None = getattr(self._environment, attribute, None)
        if ask is None:
            return {}
        with self._explained(attribute):
            return {str(name): float(value) for name, value in ask().items()}

    def keep_house(self) -> None:
        """Call what the Locust file offers as `synapsed_housekeeping` of its environment, if anything."""
        keep: Callable[[], object] | None = getattr(self._environment, "synapsed_housekeeping", None)
        if keep is not None:
            with self._explained("synapsed_housekeeping"):
                keep()

    @contextmanager
    def _explained(self, attribute: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise WorkloadError(
                f"{attribute} of workload {self.name!r} failed: {type(error).__name__}: {error}"
            ) from error

    def stop(self) -> None:
        """End all users through Locust, so that their `on_stop` runs; nothing can be started after it."""
        # It would search the sources of all modules for its caller, to name it in a debug message: 30 ms each time.
        setattr(runners, "inspect", None)  # noqa: B010
        self._environment.runner.quit()
        self._environment.events.quitting.fire(environment=self._environment, reverse=True)

    def _gather(self, deadline: float, expected: int | None = None) -> None:
        """Wait until `expected` users stand at the barrier (default: all). A user in think time counts as
        on its way.
        """
        runner, barrier = self._environment.runner, self.barrier
        expected = self.users if expected is None else expected
        while len(barrier.waiting) < expected:
            if runner.user_count < expected:
                raise WorkloadError(f"a user of workload {self.name!r} ended before its first task{self._because()}")
            if time.monotonic() > deadline:
                raise WorkloadError(
                    f"{len(barrier.waiting)} of {expected} users of workload {self.name!r} were ready in time"
                    f"{self._because()}"
                )
            gevent.sleep(_POLL_SECONDS)

    def _remember(self, user_instance: Any, exception: BaseException, tb: Any, **_: Any) -> None:
        self._last_error = f"{type(exception).__name__}: {exception}"

    def _because(self) -> str:
        return f": {self._last_error}" if self._last_error else ""


def load_workloads(
    specs: tuple[WorkloadFile, ...], recorder: Recorder
) -> tuple[dict[str, LoadedWorkload], tuple[str, ...]]:
    """Load every file and give each an environment; returns workloads by name, and notes about this platform.

    Raises WorkloadError for a missing or broken file.
    """
    notes: set[str] = set()

    def make_alarm(ring: Callable[[], None]) -> Alarm:
        made, note = alarm(ring)
        notes.update({note} - {""})
        return made

    recorder.listen(locust.events.request)  # files may fire the global hook instead of their environment's
    loaded = [(spec, *_load(spec)) for spec in specs]
    owners = [id(module.__dict__) for _, _, module in loaded]
    workloads = {}
    for spec, classes, module in loaded:
        strangers = set(owners) - {id(module.__dict__)}
        barrier = Barrier(time.monotonic, make_alarm, recorder.error, scheduled=spec.scheduled)
        environment = _environment(spec, classes, _events_without(strangers), barrier, recorder)
        workloads[spec.name] = LoadedWorkload(spec, environment, barrier)
    return workloads, tuple(sorted(notes))


def _load(spec: WorkloadFile) -> tuple[list[type], Any]:
    path = Path(spec.file).resolve()
    if not path.is_file():
        raise WorkloadError(f"workload {spec.name!r}: there is no Locust file {spec.file}")
    try:
        with _environment_variables(spec.env):
            classes, _shapes = load_locustfile(str(path))
    except Exception as error:
        raise WorkloadError(f"{spec.file} cannot be loaded: {type(error).__name__}: {error}") from error
    if not classes:
        raise WorkloadError(f"{spec.file} defines no Locust user")
    if unheld := [name for name, kind in classes.items() if issubclass(kind, PytestUser)]:
        raise WorkloadError(f"{spec.file}: {', '.join(unheld)} is a PytestUser, which no barrier can hold")
    # load_locustfile names a file `locust.py` differently; everything else goes by its stem
    return list(classes.values()), sys.modules["locustfile" if path.stem == "locust" else path.stem]


def _requests_per_task(file: str, classes: list[type]) -> int:
    said = {each.__name__: getattr(each, "requests_per_task", None) for each in classes}
    for name, most in said.items():
        if most is not None and (type(most) is not int or most < 1):
            raise WorkloadError(f"{file}: requests_per_task of {name} is {most!r}; expected a whole number above 0")
    known = [most for most in said.values() if most]
    return max(known) if len(known) == len(classes) else 0


def _environment(spec: WorkloadFile, classes: list[type], events: Any, barrier: Barrier, recorder: Recorder) -> Any:
    with _environment_variables(spec.env):
        arguments: Any = argument_parser
        parser = arguments.get_empty_argument_parser(add_help=False, default_config_files=[])
        arguments.setup_parser_arguments(parser)
        events.init_command_line_parser.fire(parser=parser)
        options = parser.parse_args([])
        environment: Any = Environment(
            user_classes=classes,
            events=events,
            host=options.host,
            parsed_options=options,
            locustfile=Path(spec.file).name,
        )
        environment.synapsed_barrier = barrier
        own = list(events.request._handlers)
        runner = environment.create_local_runner()
        events.request._handlers[:] = own  # without Locust's statistics
        recorder.listen(events.request)
        events.init.fire(environment=environment, runner=runner, web_ui=None)
    return environment


class _StrictHook(EventHook):
    """Locust logs what a listener raises and goes on; a workload that began without what its listener was to lay - the
    distance to its peers, say - would measure something else.
    """

    def fire(self, *, reverse: bool = False, **kwargs: Any) -> None:
        for handler in self._handlers[::-1] if reverse else self._handlers[:]:
            handler(**kwargs)


def _events_without(strangers: set[int]) -> Any:
    """Hooks with the listeners of `locust.events`, except functions whose module dictionary is one of
    `strangers`.
    """
    make: Any = Events  # untyped constructor
    events = make()
    strict: Any = _StrictHook
    events.test_start = strict()
    for name, hook in vars(locust.events).items():
        if isinstance(hook, EventHook):
            getattr(events, name)._handlers.extend(
                handler for handler in hook._handlers if id(_globals(handler)) not in strangers
            )
    return events


def _globals(handler: Any) -> object:
    function = getattr(handler, "__func__", handler)
    return getattr(getattr(function, "__wrapped__", function), "__globals__", None)


@contextmanager
def _environment_variables(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
