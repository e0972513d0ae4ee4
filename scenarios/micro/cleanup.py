"""Cleanup: what it costs to own a resource so that it is released exactly once.

One operation makes the owner, uses the resource once without an error, and releases it: a close and two hooks, all
stubs. `off` is what first-day code does, and leaks where such code does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from reference_impl.cleanup import CLEANUP
from scenarios.micro.suite import Builder, Case, Goal, Room, Setup, Timed, each, main


class Resource:
    """Closing costs a call."""

    def close(self) -> None:
        pass


def hook(number: int) -> None:
    """Told of a release."""


def _ours(twin: Callable[..., Any], *, fails: bool = False) -> Builder:
    def build(setup: Setup) -> Timed:
        guard_of = twin(hook, hook).guard

        def work(resources: Iterator[Resource]) -> None:
            for resource in resources:
                guard = guard_of(resource)
                with guard:
                    pass
                guard.release()

        def work_failing(resources: Iterator[Resource]) -> None:
            for resource in resources:
                try:
                    with guard_of(resource):
                        raise error
                except OSError:
                    pass

        error = OSError()
        return each([Resource()], work_failing if fails else work)

    return build


def _entered(twin: Callable[..., Any]) -> Builder:
    def build(setup: Setup) -> Timed:
        guard = twin(hook, hook).guard(Resource())

        def work(times: Iterator[None]) -> None:
            for _ in times:
                with guard:
                    pass

        return each([None], work)

    return build


@contextmanager
def _owned(resource: Resource) -> Iterator[Resource]:
    # Releases on every way out of one block, once. No registry, no second use of the same owner, nothing at garbage
    # collection, and what close raises replaces the error under way and skips the hooks.
    try:
        yield resource
    finally:
        resource.close()
        hook(1)
        hook(1)


def _contextmanager(*, fails: bool = False) -> Builder:
    def build(setup: Setup) -> Timed:
        def work(resources: Iterator[Resource]) -> None:
            for resource in resources:
                with _owned(resource):
                    pass

        def work_failing(resources: Iterator[Resource]) -> None:
            for resource in resources:
                try:
                    with _owned(resource):
                        raise error
                except OSError:
                    pass

        error = OSError()
        return each([Resource()], work_failing if fails else work)

    return build


def _finalize(setup: Setup) -> Timed:
    # Exactly once, by call, garbage collection or interpreter exit, with a registry. Nothing on errors: somebody must
    # call it. What the first step raises skips the others.
    resource = Resource()

    def release(number: int) -> None:
        resource.close()
        hook(number)
        hook(number)

    def work(owners: Iterator[Resource]) -> None:
        for owner in owners:
            weakref.finalize(owner, release, 1)()

    return each([Resource()], work)


ROOM = Room(
    "cleanup",
    __doc__,
    (
        Case(
            "guard: make, use, release",
            {
                "off": _ours(CLEANUP.off),
                "on": _ours(CLEANUP.on),
                "contextmanager": _contextmanager(),
                "weakref.finalize": _finalize,
            },
            (Goal(350 / 946, "contextmanager", "350 ns where contextlib.contextmanager takes 946"),),
        ),
        Case(
            "guard: released by an OSError",
            {
                "off": _ours(CLEANUP.off, fails=True),
                "on": _ours(CLEANUP.on, fails=True),
                "contextmanager": _contextmanager(fails=True),
            },
        ),
        Case("guard: one further use", {"off": _entered(CLEANUP.off), "on": _entered(CLEANUP.on)}),
    ),
    needs={"contextmanager": "contextlib", "weakref.finalize": "weakref"},
)

if __name__ == "__main__":
    main(ROOM)
