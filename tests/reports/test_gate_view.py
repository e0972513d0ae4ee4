"""The gate's JUnit report: nothing but a PASS is green."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as xml

import pytest

from harness.gate.rules import GateDecision, GateOutcome, MetricDecision
from reports.gate_view import GateInfo, as_junit

WELL = MetricDecision("throughput", "PASS", 1.0, 0.99, 1.01, 16, 128, 0.0, 9.0, 0.0)
INFO = GateInfo("t", "base", "head", "synapsed-bench gate", 1e9, 180.0, {"throughput": (1.0, 1.0)})


def trouble(decision: GateDecision) -> int:
    root = xml.fromstring(as_junit(decision, INFO))
    return sum(len(root.findall(f".//{tag}")) for tag in ("failure", "error"))


@pytest.mark.parametrize("outcome", ["FAIL", "INCONCLUSIVE", "INVALID"])
@pytest.mark.parametrize("own", ["PASS", "INCONCLUSIVE"])
def test_whatever_is_no_pass_is_not_green(outcome: GateOutcome, own: GateOutcome) -> None:
    metric = replace(WELL, outcome=own)
    assert trouble(GateDecision(outcome, (metric,), final=True, reason="equal arms are not yet shown to be equal")) > 0


def test_a_pass_is_green() -> None:
    assert trouble(GateDecision("PASS", (WELL,), final=True, reason="")) == 0
