"""Views of a finished run. Pure functions of records: the same run gives the same bytes; nothing is started.

`write` makes the two files every run folder has; `reports.markdown`, `reports.junit` and `reports.terminal`
are further views for pull requests, CI and the command line.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from harness.analyse.records import Analysis
from harness.measure.records import Environment
from harness.study.records import Study
from reports import html, summary
from reports.info import RunInfo

__all__ = ["RunInfo", "Written", "replace", "write"]


class Written(NamedTuple):
    """Where the files of a run's report are."""

    html: Path
    summary: Path


def write(folder: Path, study: Study, analysis: Analysis, environment: Environment, info: RunInfo) -> Written:
    """Write report.html and summary.json into an existing folder.

    Each file appears whole or not at all. Raises OSError if the folder cannot be written to.
    """
    page = html.render(study, analysis, environment, info).encode()
    written = Written(folder / "report.html", folder / "summary.json")
    replace(written.html, page)
    replace(written.summary, summary.encode(study, analysis, environment, info))
    return written


def replace(path: Path, content: bytes) -> None:
    """Make this the file's content, whole or not at all: what was there stays when it cannot. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
