"""Output that nobody may read to its end: `synapsed-bench run ... | head` must not take a measurement away."""

from __future__ import annotations

import os
from typing import IO

from rich.console import Console


class Output(Console):
    """A console that falls silent when its reader has left, while the command goes on: its exit code answers too."""

    def on_broken_pipe(self) -> None:
        """Go on without a reader."""
        self.quiet = True
        into_nothing(self.file)


def into_nothing(stream: IO[str]) -> None:
    """Send what is still to be written to `stream` nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
