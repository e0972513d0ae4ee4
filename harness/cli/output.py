"""Where commands write. Nobody may read it to its end: `synapsed-bench run ... | head` takes no measurement away."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

from rich.console import Console

from harness.errors import StoreError


class Output(Console):
    """A console that falls silent when its reader has left, or nothing can be written any more, while the command goes
    on: its exit code answers too.
    """

    def on_broken_pipe(self) -> None:
        """Go on without a reader."""
        self.quiet = True
        into_nothing(self.file)

    def _check_buffer(self) -> None:  # where rich tells a reader that has left
        try:
            super()._check_buffer()
        except OSError as error:
            del self._buffer[:]
            self.on_broken_pipe()
            with suppress(OSError):
                sys.stderr.write(f"standard output: {error.strerror or error}; going on without it\n")


console = Output()


def write(path: Path, content: bytes) -> None:
    """Put a report where the user asked for it. Raises `StoreError`."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


def into_nothing(stream: IO[str]) -> None:
    """Send what is still to be written to `stream` nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
