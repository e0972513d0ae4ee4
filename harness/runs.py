"""Where runs live: `runs/<time>-<study>/`, with `runs/latest` pointing to the newest."""

from __future__ import annotations

import datetime
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import StoreError
from harness.measure.store import FILE, Store

LATEST = "latest"


def create(root: Path, study: str, now: datetime.datetime) -> Store:
    """A store in a new folder named after the time and the study; `latest` points to it. Raises `StoreError`."""
    stem = f"{now:%Y%m%d-%H%M%S}-{study}"
    name, number = stem, 2
    while os.path.exists(root / name):  # which a folder that may not be looked into does not fail
        name, number = f"{stem}-{number}", number + 1
    store = Store.create(root / name)
    _point_latest(root, name)
    return store


def discard(folder: Path) -> None:
    """Remove a run in which nothing was measured; `latest` points to the newest that is left."""
    shutil.rmtree(folder, ignore_errors=True)
    root = folder.parent
    if left := known(root):
        _point_latest(root, left[-1])
    else:
        (root / LATEST).unlink(missing_ok=True)


@contextmanager
def kept_if_measured(store: Store) -> Iterator[None]:
    """However this is left, by a bug of ours too: a run in which nothing was measured leaves no folder."""
    try:
        yield
    finally:
        with suppress(StoreError):  # of rows that cannot be read any more: what ended the run says more
            if not store.slices():
                discard(store.folder)


def known(root: Path) -> list[str]:
    """Names of the runs under `root`, oldest first."""
    return sorted(path.parent.name for path in root.glob(f"*/{FILE}") if not path.parent.is_symlink())


def find(root: Path, name: str) -> Path:
    """The run folder that `name` means: a path, a folder under `root`, or "latest". Raises `StoreError`."""
    for folder in (root / name, Path(name)):
        if os.path.isfile(folder / FILE):
            return folder.resolve()
    names = known(root)
    listed = f"the newest in {root} are: {', '.join(names[-5:])}" if names else f"there are none in {root}"
    raise StoreError(f"no run {name!r}; {listed}")


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the run for writing: two processes that measure into one run would mix their bursts.

    The kernel gives the claim back when the holder dies. Raises `StoreError` when somebody else holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError(f"{folder.name} is being measured by another process; wait for its end") from None
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child forked at the wrong moment may still hold a copy
        os.close(descriptor)


def is_claimed(folder: Path) -> bool:
    """Whether some process holds the run for writing just now; the caller must not."""
    try:
        with claimed(folder):
            return False
    except StoreError:
        return True


def _point_latest(root: Path, name: str) -> None:
    with suppress(OSError):  # a convenience; some file systems know no links
        temporary = root / f".{LATEST}-{os.getpid()}"
        temporary.symlink_to(name)
        temporary.replace(root / LATEST)
