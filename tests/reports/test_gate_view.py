"""The gate's reports: nothing but a PASS is green, and sizes are those of the metric itself."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as xml

import msgspec
import pytest

from harness.gate.rules import GateDecision, GateOutcome, MetricDecision, Policy
from harness.gate.runner import line
from harness.measure.metrics import Direction
from reports.gate_view import GateInfo, as_junit, as_markdown, sentence, size, table

WELL = MetricDecision("throughput", "higher", "PASS", 1.0, 0.99, 1.01, 16, 128, 0.0, 9.0, 0.0)
INFO = GateInfo("t", "base", "head", "synapsed-bench gate", 1e9, 180.0, {"throughput": (1.0, 1.0)})


def trouble(decision: GateDecision) -> int:
    root = xml.fromstring(as_junit(decision, INFO))
    return sum(len(root.findall(f".//{tag}")) for tag in ("failure", "error"))


@pytest.mark.parametrize("outcome", ["FAIL", "INCONCLUSIVE", "INVALID"])
@pytest.mark.parametrize("own", ["PASS", "INCONCLUSIVE"])
def test_whatever_is_no_pass_is_not_green(outcome: GateOutcome, own: GateOutcome) -> None:
    metric = replace(WELL, outcome=own)
    assert trouble(GateDecision(outcome, (metric,), final=True, reason="equal arms are not yet shown to be equal")) > 0


def test_a_name_of_an_arm_breaks_no_table() -> None:
    info = msgspec.structs.replace(INFO, base="a|b", head="<i>")
    shown = as_markdown(GateDecision("PASS", (WELL,), final=True, reason=""), info)
    assert "| metric | a\\|b | \\<i\\> | change |" in shown


def test_a_pass_is_green() -> None:
    assert trouble(GateDecision("PASS", (WELL,), final=True, reason="")) == 0


MORE_THAN_TWICE = (537.0 / 1160.0, 537.0 / 1200.0, 537.0 / 1100.0)
"slowdown and the ends of its interval of a throughput that went from 537/s to 1160/s"
A_FIFTH = (5.0, 4.0, 8.0)


@pytest.mark.parametrize(
    ("name", "direction", "slowdowns", "told"),
    [
        ("throughput", "higher", MORE_THAN_TWICE, "116.0 % better (interval 104.8 to 123.5 %)"),
        ("throughput", "higher", A_FIFTH, "80.0 % worse (interval 75.0 to 87.5 %)"),
        ("throughput", "higher", (1.0, 0.8, 1.25), "0.0 % worse (interval -25.0 to 20.0 %)"),
        ("throughput", "higher", (0.0, 0.0, 0.0), "inf % better (16 bursts are too few for an interval)"),
        ("latency_p50", "lower", MORE_THAN_TWICE, "53.7 % better (interval 51.2 to 55.2 %)"),
        ("latency_p50", "lower", A_FIFTH, "400.0 % worse (interval 300.0 to 700.0 %)"),
    ],
)
def test_a_size_is_the_change_of_the_metric_itself_wherever_it_is_told(
    name: str, direction: Direction, slowdowns: tuple[float, float, float], told: str
) -> None:
    slowdown, low, high = slowdowns
    found = replace(WELL, name=name, direction=direction, slowdown=slowdown, low=low, high=high)
    decision = GateDecision("PASS", (found,), final=True, reason="")
    assert told.startswith(size(found))
    assert told in sentence(decision, INFO)
    assert told in as_junit(decision, INFO).decode()
    assert told in as_markdown(decision, INFO)
    (row,) = table(decision, INFO).rows
    change, ends = row[3:5]
    assert f"{change} ({ends})" == told.replace("interval ", "", 1)
    assert line(found, decision, Policy()).startswith(f"{name} {change}, ")
