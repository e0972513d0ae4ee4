"""Load shapes: how many users, when, and the end. In a process of their own, for importing Locust patches sockets."""

from __future__ import annotations

import json
import subprocess
import sys

from harness.study.file import ROOT

EXPECTED = {
    "Ramp": {0.0: 1, 15.0: 16, 30.0: 32, 60.0: 64, 60.1: None},
    "Spike": {0.0: 8, 19.9: 8, 20.0: 64, 39.9: 64, 40.0: 8, 60.1: None},
    "Stairs": {0.0: 10, 9.9: 10, 10.0: 21, 59.9: 64, 60.0: None},
}
PROGRAM = """
import importlib, json, sys
told = {}
for name, times in json.loads(sys.argv[1]).items():
    shape = getattr(importlib.import_module("scenarios.load." + name.lower()), name)()
    told[name] = []
    for passed in times:
        shape.get_run_time = lambda: passed
        ticked = shape.tick()
        told[name].append([passed, ticked[0] if ticked else None])
print(json.dumps(told))
"""


def test_users_by_time() -> None:
    times = json.dumps({name: list(users) for name, users in EXPECTED.items()})
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, times], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    told = json.loads(ended.stdout)
    assert {name: dict(map(tuple, pairs)) for name, pairs in told.items()} == EXPECTED
