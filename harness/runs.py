"""Where runs live: `runs/<time>-<study>/`, with `runs/latest` pointing to the newest."""

from __future__ import annotations

import datetime
import os
from contextlib import suppress
from pathlib import Path

from harness.errors import StoreError
from harness.measure.store import FILE, Store

LATEST = "latest"


def create(root: Path, study: str, now: datetime.datetime) -> Store:
    """A store in a new folder named after the time and the study; `latest` points to it."""
    stem = f"{now:%Y%m%d-%H%M%S}-{study}"
    name, number = stem, 2
    while (root / name).exists():
        name, number = f"{stem}-{number}", number + 1
    store = Store.create(root / name)
    with suppress(OSError):  # a convenience; some file systems know no links
        temporary = root / f".{LATEST}-{os.getpid()}"
        temporary.symlink_to(name)
        temporary.replace(root / LATEST)
    return store


def find(root: Path, name: str) -> Path:
    """The run folder that `name` means: a path, a folder under `root`, or "latest". Raises `StoreError`."""
    for folder in (Path(name), root / name):
        if (folder / FILE).is_file():
            return folder.resolve()
    known = sorted(path.parent.name for path in root.glob(f"*/{FILE}") if not path.parent.is_symlink())
    listed = f"the newest are: {', '.join(known[-5:])}" if known else f"there are none in {root}"
    raise StoreError(f"no run {name!r}; {listed}")
