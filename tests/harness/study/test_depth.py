"""Depths of a study: what they change, what they keep, and what they must not name."""

from __future__ import annotations

import copy
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


def tables() -> dict[str, object]:
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
