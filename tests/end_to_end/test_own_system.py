"""Somebody's program with switches of its own: the example of docs/own-system.md through real processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.measure.store import Store
from harness.study.file import ROOT
from tests.processes import bench, run

NOTES = """
import json, os, runpy, sys
with open("started.jsonl", "a") as file:
    variables = [os.environ.get(name) for name in ("SYNAPSED_OPTIMIZATIONS", "GZIP")]
    file.write(json.dumps([*variables, "--cache" in sys.argv]) + "\\n")
runpy.run_path("server.py", run_name="__main__")
"""


@pytest.mark.timeout(300)
def test_the_switches_of_a_program_are_taken_apart(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "example", tmp_path / "example")
    study = tmp_path / "example" / "study.toml"
    (tmp_path / "example" / "noted.py").write_text(NOTES)
    text = study.read_text().partition("[[expectation]]")[0]
    for old, new in (
        ('"server.py"', '"noted.py"'),
        ('kind = "ablation"', 'kind = "ablation"\nhidden = false'),
        ("seconds = 130\nmemory_requests = 300", "seconds = 1\nmin_bursts = 2\nmax_bursts = 2\nmemory_requests = 20"),
        ("warm_tasks = 400", "warm_tasks = 20"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    study.write_text(text)
    ended = run(*bench("run", str(study)), cwd=tmp_path)
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if not path.is_symlink())
    summary = json.loads((folder / "summary.json").read_bytes())
    assert ended.code == (0 if summary["valid"] else 4), ended
    assert {*summary["arms"]} == {"none", "all", "cache", "gzip"}
    started = {tuple(json.loads(line)) for line in (tmp_path / "example" / "started.jsonl").read_text().splitlines()}
    assert started == {("", "0", False), ("cache", "0", True), ("gzip", "1", False), ("cache,gzip", "1", True)}
    with Store.open(folder) as store:
        rows = store.measured().slices
    assert rows
    assert all(row.lost == row.failures == 0 < row.answered for row in rows)
    page = (folder / "report.html").read_text()
    assert "Every flag on every workload" in page
    assert "plan:" not in page
    assert "on: cache; --cache GZIP=0" in page
