"""Views of a finished run. Pure functions of records: the same run gives the same bytes; nothing is started.

`write` makes the two files every run folder has; `reports.markdown`, `reports.junit` and `reports.terminal`
are further views for pull requests, CI and the command line.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from harness.analyse.records import Analysis
from harness.measure.records import Environment
from harness.study.records import Study
from reports import html, summary
from reports.info import RunInfo


def write(folder: Path, study: Study, analysis: Analysis, environment: Environment, info: RunInfo) -> Path:
    """Write report.html and summary.json into an existing folder; returns the page.

    Each file appears whole or not at all. Raises OSError if the folder cannot be written to.
    """
    page = folder / "report.html"
    replace(page, html.render(study, analysis, environment, info).encode())
    replace(folder / "summary.json", summary.encode(study, analysis, environment, info))
    return page


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
