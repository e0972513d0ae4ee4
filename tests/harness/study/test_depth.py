"""Depths of a study: what they change, what they keep, and what they must not name."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from harness.errors import StudyError, UsageError
from harness.plan.arms import layout
from harness.plan.budget import forecast
from harness.study import file as study_file
from harness.study.depth import at

TABLES: dict[str, Any] = {
    "name": "s",
    "budget": {"seconds": 100, "blocks": 2},
    "workloads": [{"name": "a", "env": {"N": "1", "M": "2"}}, {"name": "b"}],
    "expectations": [{"name": "x", "workload": "a"}, {"name": "y", "workload": "b"}],
    "depth": {
        "quick": {"keep": ["a"], "budget": {"seconds": 10}},
        "full": {"workload": {"a": {"env": {"N": "9"}}}, "expectation": {"y": {"at_most": 0.5}}},
        "wrong": {"workload": {"c": {}}},
    },
}


def tables() -> dict[str, Any]:
    return copy.deepcopy(TABLES)


def test_without_a_depth_the_study_stands_as_it_is() -> None:
    expected = {name: value for name, value in TABLES.items() if name != "depth"}
    assert at(tables(), None) == expected


def test_a_depth_keeps_some_workloads_and_their_expectations() -> None:
    found = at(tables(), "quick")
    assert found["name"] == "s-quick"
    assert [each["name"] for each in found["workloads"]] == ["a"]
    assert [each["name"] for each in found["expectations"]] == ["x"]
    assert found["budget"] == {"seconds": 10, "blocks": 2}


def test_a_depth_keeps_expectations_on_what_a_sweep_makes_of_a_workload() -> None:
    found = tables()
    found["expectations"] += [{"name": each, "workload": each} for each in ("a[users=8]", "b[users=8]", "misspelt")]
    assert [each["workload"] for each in at(found, "quick")["expectations"]] == ["a", "a[users=8]", "misspelt"]


def test_a_depth_that_keeps_nothing_has_no_workload() -> None:
    assert at({**tables(), "depth": {"quick": {"keep": []}}}, "quick")["workloads"] == []


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        (3, "depth: expected [depth.NAME] tables"),
        ({"quick": 1}, "depth.quick: expected a [depth.quick] table"),
        ({"quick": {"keep": 1}}, "depth.quick.keep: expected a list of text, the names of workloads"),
        ({"quick": {"keep": "a"}}, "depth.quick.keep: expected a list of text"),
        ({"quick": {"keep": [1]}}, "depth.quick names workload 1; expected one of: a, b"),
        ({"quick": {"workload": {"a": 3}}}, "depth.quick.workload: expected [depth.quick.workload.NAME] tables"),
    ],
)
def test_a_depth_of_another_type(depths: object, expected: str) -> None:
    with pytest.raises(StudyError, match=re.escape(expected)):
        at({**tables(), "depth": depths}, "quick")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('name = "surge"', "", r"4: workload\[1\]: expected a key 'name'"),
        ('workload = "surge"', "", r"7: expectation\[1\]: expected a key 'workload'"),
        ("[[workload]]", "[workload]", r"4: workload: expected "),
    ],
)
def test_a_mistake_of_the_study_is_told_at_its_place_at_every_depth(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    text = """\
name = "s"
title = "t"
seed = 3
[[workload]]
name = "surge"
file = "scenarios/load/surge.py"
[[expectation]]
name = "x"
claim = "c"
workload = "surge"
metric = "throughput"
at_least = 1
[depth.quick]
keep = ["surge"]
"""
    path = tmp_path / "study.toml"
    path.write_text(text)
    assert study_file.load(path, "quick").name == "s-quick"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(StudyError, match=expected):
        study_file.load(path, "quick")


def test_a_depth_changes_what_it_names() -> None:
    found = at(tables(), "full")
    assert found["workloads"][0]["env"] == {"N": "9", "M": "2"}
    assert found["expectations"][1]["at_most"] == 0.5
    assert "workload" not in found


def test_a_depth_changes_arms_and_switches_too() -> None:
    own = {"arms": [{"name": "tuned"}], "switches": [{"name": "cache"}]}
    changes = {"arm": {"tuned": {"file": "b.py"}}, "switch": {"cache": {"on": {"args": ["-c"]}}}}
    found = at({"name": "s", **own, "depth": {"other": changes}}, "other")
    assert found["arms"] == [{"name": "tuned", "file": "b.py"}]
    assert found["switches"] == [{"name": "cache", "on": {"args": ["-c"]}}]
    with pytest.raises(StudyError, match=r"depth.x names switch 'cache'; expected one of: none"):
        at({"name": "s", "depth": {"x": {"switch": {"cache": {}}}}}, "x")
    with pytest.raises(StudyError, match=r"depth.x.arm: expected \[depth.x.arm.NAME\] tables"):
        at({"name": "s", "depth": {"x": {"arm": []}}}, "x")


def test_a_depth_names_what_exists() -> None:
    with pytest.raises(UsageError, match="no depth 'deep'; it has: quick, full, wrong"):
        at(tables(), "deep")
    with pytest.raises(StudyError, match=r"depth.wrong names workload 'c'; expected one of: a, b"):
        at(tables(), "wrong")


@pytest.mark.parametrize("depth", [None, "quick", "episodes", "table", "full"])
def test_the_plan_can_be_decided_at_every_depth(depth: str | None) -> None:
    study = study_file.load(study_file.find("plan"), depth)
    plan = layout(study)
    expected = forecast(study, plan)
    assert expected.proofs
    assert all(proof.bursts >= proof.needed for proof in expected.proofs)
    if depth is None:
        assert expected.seconds <= 30 * 60
