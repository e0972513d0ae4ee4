"""Whom users choose: anew in every burst, alike on every arm of it."""

from __future__ import annotations

import json
import sys

import pytest

from harness.study.file import ROOT
from tests.processes import run

CHOICES = """
import json
from locust.env import Environment
from {module} import {kind}
users = [{kind}(Environment(user_classes=[{kind}])) for _ in range(2)]
print(json.dumps([[each.random.randrange(1000) for _ in range(20)] for each in users]))
"""


def chosen(kind: str, module: str, seed: str) -> list[list[int]]:
    ended = run(sys.executable, "-c", CHOICES.format(kind=kind, module=module), cwd=ROOT, env={"SYNAPSED_SEED": seed})
    assert ended.code == 0, ended
    found: list[list[int]] = json.loads(ended.out)
    return found


@pytest.mark.parametrize(
    ("kind", "module"), [("DialUser", "scenarios.load.dial"), ("ChurnUser", "scenarios.load.churn")]
)
def test_choices_follow_the_seed_of_the_burst(kind: str, module: str) -> None:
    first, again, other = (chosen(kind, module, seed) for seed in ("7", "7", "8"))
    assert first == again, "both arms of a burst choose alike"
    assert not {*map(tuple, first)} & {*map(tuple, other)}, "another burst is another draw"
    assert first[0] != first[1], "users choose for themselves"
