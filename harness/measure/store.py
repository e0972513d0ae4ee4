"""A run's rows in one SQLite file, committed as they are made: kill the writer at any moment, and what was measured
is there.

The folder of a run holds `run.sqlite`, and later `report.html` and `summary.json`. A file of another schema version
is refused, never misread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from harness.errors import StoreError
from harness.measure.records import SCHEMA_VERSION, ArmReading, Burst, Measured, Sample, Slice

T = TypeVar("T")
FILE = "run.sqlite"
_TABLES = """
create table if not exists meta (key text primary key, value blob not null) strict;
create table if not exists burst (number integer primary key, row blob not null) strict;
create table if not exists slice (
    id integer primary key, burst integer not null, workload text not null, arm text not null, row blob not null
) strict;
create table if not exists reading (
    burst integer not null, arm text not null, row blob not null, primary key (burst, arm)
) strict;
create table if not exists sample (
    id integer primary key, burst integer not null, arm text not null, row blob not null
) strict;
"""


class Store:
    """An open run. Use `create`, `open` or `read`, then `close` (or `with`). Every method raises `StoreError`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, *, writable: bool = True) -> None:
        self.folder = folder
        self._connection = connection
        self._writable = writable

    @classmethod
    def create(cls, folder: Path) -> Store:
        """A new run in a new folder."""
        try:
            folder.mkdir(parents=True)
            connection = sqlite3.connect(folder / FILE, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot create run folder {folder}: {error}") from error
        store = cls(folder, connection)
        with _explained(folder):
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            connection.executescript(_TABLES)
            connection.execute(f"pragma user_version = {SCHEMA_VERSION}")
        return store

    @classmethod
    def open(cls, folder: Path) -> Store:
        """An existing run, to go on with. Refuses another schema version and anything that is no run."""
        return cls(folder, _connect(folder, "rw"))

    @classmethod
    def read(cls, folder: Path) -> Store:
        """An existing run, as `open`, only to look at: its folder may be read-only, and is left as it is."""
        # Without a log there is no writer to look out for; the files that SQLite would do it with cannot be made there.
        alone = not (folder / f"{FILE}-wal").exists()
        return cls(folder, _connect(folder, "ro&immutable=1" if alone else "ro"), writable=False)

    def put(self, key: str, value: Any) -> None:
        """Keep one of the run's facts (study, environment, seed, rates ...)."""
        with _explained(self.folder):
            self._connection.execute("insert or replace into meta values (?, ?)", (key, msgspec.json.encode(value)))

    def get(self, key: str, kind: type[T]) -> T:
        """The fact kept under `key`."""
        found = self.find(key, kind)
        if found is None:
            raise StoreError(f"{self.folder} has no {key}: it ended before anything could be measured")
        return found

    def find(self, key: str, kind: type[T]) -> T | None:
        """The fact kept under `key`, or None."""
        with _explained(self.folder):
            row = self._connection.execute("select value from meta where key = ?", (key,)).fetchone()
            return None if row is None else msgspec.json.decode(row[0], type=kind)

    def add_burst(self, burst: Burst) -> None:
        """Keep a burst, or its newer state."""
        self._insert("insert or replace into burst values (?, ?)", burst.number, msgspec.msgpack.encode(burst))

    def add_slice(self, row: Slice) -> None:
        """Keep one stretch of load."""
        self._insert(
            "insert into slice (burst, workload, arm, row) values (?, ?, ?, ?)",
            *(row.burst, row.workload, row.arm, msgspec.msgpack.encode(row)),
        )

    def add_reading(self, row: ArmReading) -> None:
        """Keep what one arm's processes held."""
        self._insert("insert into reading values (?, ?, ?)", row.burst, row.arm, msgspec.msgpack.encode(row))

    def add_sample(self, row: Sample) -> None:
        """Keep one moment of an episode."""
        self._insert(
            "insert into sample (burst, arm, row) values (?, ?, ?)", row.burst, row.arm, msgspec.msgpack.encode(row)
        )

    def measured(self, since: int = 0) -> Measured:
        """Every row of the run from burst number `since` on, in the order it was made."""
        return Measured(
            bursts=tuple(self._rows("select row from burst where number >= ? order by number", Burst, since)),
            slices=tuple(self._rows("select row from slice where burst >= ? order by id", Slice, since)),
            readings=tuple(
                self._rows("select row from reading where burst >= ? order by burst, rowid", ArmReading, since)
            ),
            samples=tuple(self._rows("select row from sample where burst >= ? order by id", Sample, since)),
        )

    def slices(self) -> int:
        """How many stretches of load there are."""
        with _explained(self.folder):
            (count,) = self._connection.execute("select count(*) from slice").fetchone()
        return int(count)

    def next_burst(self) -> int:
        """The number of the burst that comes after all that were begun."""
        with _explained(self.folder):
            (last,) = self._connection.execute("select max(number) from burst").fetchone()
        return 0 if last is None else int(last) + 1

    def complete_bursts(self) -> int:
        """How many bursts were measured to their end."""
        return sum(burst.complete for burst in self._rows("select row from burst", Burst))

    def close(self) -> None:
        """Fold the log of what was written into the one file, so that the folder can be copied as it stands.

        A disk too full for that is no error: the rows stay in the log.
        """
        try:
            if self._writable:
                with suppress(sqlite3.Error):
                    self._connection.execute("pragma wal_checkpoint(truncate)")
        finally:
            self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _insert(self, statement: str, *values: object) -> None:
        with _explained(self.folder):
            self._connection.execute(statement, values)

    def _rows(self, query: str, kind: type[T], *values: object) -> Iterator[T]:
        with _explained(self.folder):
            for (row,) in self._connection.execute(query, values):
                yield msgspec.msgpack.decode(row, type=kind)


def _connect(folder: Path, mode: str) -> sqlite3.Connection:
    """A connection to the run in `folder`, in this mode of SQLite's file URIs."""
    file = folder / FILE
    if not file.is_file():
        raise StoreError(f"{folder} is no run: it has no {FILE}")
    with _explained(folder):
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
        (version,) = connection.execute("pragma user_version").fetchone()
        if not version:  # as of an empty file
            connection.close()
            raise StoreError(f"{folder} is no run: its {FILE} holds none")
        if version != SCHEMA_VERSION:
            connection.close()
            raise StoreError(
                f"{folder} was written with schema version {version}; this program reads version {SCHEMA_VERSION}. "
                "Use the version of synapsed-bench that wrote it, or measure again"
            )
        return connection


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, msgspec.DecodeError) as error:
        raise StoreError(f"run {folder}: {error}") from error
