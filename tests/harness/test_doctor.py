"""The doctor: what it sees, what it says about equal arms, and a real A/A on the reference node."""

from __future__ import annotations

import io
import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from harness import doctor
from harness.analyse.centre import centre_interval
from harness.analyse.contrast import Pairs
from harness.cli.app import app
from harness.doctor import machine
from harness.execute import host
from harness.fitness import MINUTES, RESAMPLED, Equal, Finding, findings, fit, judge, smallest_effect
from harness.gate.rules import Policy
from reports import doctor_view
from tests.harness.test_pipeline import Silent


def some_pairs(sd: float = 0.02, bursts: int = 20, shift: float = 0.0) -> dict[str, Pairs]:
    rng = np.random.default_rng(3)
    numbers = np.repeat(np.arange(bursts), 4)
    return {
        name: Pairs(numbers, shift + rng.normal(0.0, sd, numbers.size), {}) for name in ("latency_p50", "throughput")
    }


def shown(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_the_machine_is_described_whatever_it_is() -> None:
    found = {each.name: each for each in machine()}
    assert {
        "cores",
        "load average",
        "steady speed",
        "clock",
        "timer",
        "CPU frequency",
        "other busy processes",
    } <= found.keys()
    assert all(each.saw for each in found.values())
    assert all(each.remedy for each in found.values() if not each.fine)


def test_a_late_timer_is_told() -> None:
    ticks = itertools.count()
    late = {each.name: each for each in machine(nap=lambda seconds: None, clock=lambda: next(ticks) * 0.01)}["timer"]
    assert not late.fine
    assert "9000 us late" in late.saw


@pytest.mark.parametrize(("slower", "fine"), [(1.0, True), (2.0, True), (3.0, False)])
def test_a_core_whose_speed_varies_is_told(slower: float, fine: bool) -> None:
    def ticks() -> Iterator[float]:
        """Before and after each piece of work: every third takes so many times as long."""
        now = 0.0
        for piece in itertools.count():
            yield now
            now += 0.002 * (slower if piece % 3 == 0 else 1.0)
            yield now

    clock = ticks()
    found = {each.name: each for each in machine(cpu_clock=lambda: next(clock))}["steady speed"]
    assert found.fine is fine
    assert f"takes {slower - 1.0:.0%} more CPU time" in found.saw


class Times(NamedTuple):
    user: float
    steal: float


@pytest.mark.parametrize(
    ("changes", "unfit"),
    [
        ({}, []),
        ({"cores": 1, "load": 0.3}, ["cores"]),
        ({"load": 0.61}, ["load average"]),
        ({"stolen": 1.1}, ["stolen time"]),
        ({"governor": "powersave"}, ["CPU frequency"]),
    ],
)
def test_a_processor_that_is_not_all_ours_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], unfit: list[str]
) -> None:
    seen = {"cores": 2, "load": 0.6, "stolen": 0.9, "governor": "performance", **changes}
    for core, governor in enumerate(("performance", seen["governor"])):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
    monkeypatch.setattr(doctor, "Path", lambda place: tmp_path)
    monkeypatch.setattr(host, "cores", lambda: range(seen["cores"]))
    monkeypatch.setattr(os, "getloadavg", lambda: (seen["load"], 9.0, 9.0))
    monkeypatch.setattr(psutil, "cpu_times", lambda: Times(100.0 - seen["stolen"], seen["stolen"]))
    assert [each.name for each in doctor._processor() if not each.fine] == unfit


@pytest.mark.parametrize(("spent", "saw"), [(0.09, "none above a fifth of a core"), (0.11, "neighbour (pid 1) 22%")])
def test_another_process_that_takes_a_fifth_of_a_core_is_told(
    monkeypatch: pytest.MonkeyPatch, spent: float, saw: str
) -> None:
    """In half a second; what one that has just begun took before is unknown."""
    looks = iter(({1: ("neighbour", 5.0)}, {1: ("neighbour", 5.0 + spent), 2: ("newcomer", 9.0)}))
    monkeypatch.setattr(doctor, "_cpu_times", lambda but: next(looks))
    (found,) = doctor._others(lambda seconds: None)
    assert (found.saw, found.fine) == (saw, spent < 0.1)


def test_quiet_equal_arms_can_prove_little_things() -> None:
    found = judge(some_pairs(), 5.0, Policy())
    assert (found.bursts, found.gate_bursts) == (20, 60)
    for each in found.metrics:
        assert each.low < 1.0 < each.high
        assert each.burst_sd < each.pair_sd
        assert list(each.effects) == sorted(each.effects, reverse=True)
        assert each.effects[1] == pytest.approx(smallest_effect(each.burst_sd, 60.0))
    assert found.gates[0.0].fail.count == 0
    assert found.gates[0.05].fail.count == RESAMPLED
    assert fit(list(findings(found)))


def test_the_smallest_effect_is_found_with_the_power_it_names() -> None:
    rng = np.random.default_rng(2)
    sd, bursts, runs = 0.03, 25, 2_000
    effect = math.log1p(smallest_effect(sd, bursts))
    found = [centre_interval(medians, 0.95)[0] > 0.0 for medians in rng.normal(effect, sd, (runs, bursts))]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    assert smallest_effect(sd, 5) == math.inf


def test_arms_that_differ_make_the_machine_unfit() -> None:
    found = list(findings(judge(some_pairs(shift=0.08), 5.0, Policy())))
    assert not fit(found)
    assert all("equal arms differ by +" in each.saw and each.remedy for each in found)
    few = judge(some_pairs(bursts=3), 5.0, Policy())
    assert all("too few" in each.saw and not each.fine for each in findings(few))


def test_equal_arms_that_were_not_shown_equal_do_not_make_it_fit() -> None:
    noisy = list(findings(judge(some_pairs(bursts=6, sd=0.4), 5.0, Policy())))
    assert not fit(noisy)
    assert all("too wide to show that they are equal within 3 %" in each.saw for each in noisy)


def test_the_view_says_what_was_found() -> None:
    text = shown(doctor_view.equal(judge(some_pairs(), 5.0, Policy())))
    assert "no change" in text
    assert "first metric 5 % worse" in text
    assert "0.00 % (0.00-0.18)" in text
    few = shown(doctor_view.equal(judge(some_pairs(bursts=3), 15.0, Policy())))
    assert "not bounded" in few
    assert "too short" in few
    bad = [Finding("cores", False, "1 usable", "more"), Finding("clock", True, "fine")]
    assert "Not at its best for measuring: cores." in shown(doctor_view.answer(bad))
    assert "more" in shown(doctor_view.findings(bad))
    assert "fit to measure on" in shown(doctor_view.answer(bad[1:]))


def test_equal_arms_through_the_engine() -> None:
    display = Silent()
    asked = doctor.question(1.0).study
    assert [arm.optimizations for arm in asked.arms] == [asked.arms[0].optimizations] * 2
    found: Equal = doctor.equal(1.0, display, min_bursts=2)
    assert found.bursts == display.bursts == 2
    assert found.burst_seconds > 0.5
    labels = [each.label for each in found.metrics]
    assert labels == [
        "throughput on solo",
        "cpu_per_request on solo",
        "latency_p50 on steady",
        "cpu_per_request on steady",
    ]
    assert len(found.metrics[0].effects) == len(MINUTES)


def test_the_command_without_measuring() -> None:
    result = CliRunner().invoke(app, ["doctor", "--minutes", "0"])
    assert result.exit_code in (0, 1)
    assert "load average" in result.output
    assert ("fit to measure" in result.output) == (result.exit_code == 0)
