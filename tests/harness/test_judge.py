"""Data from any tool: the same verdicts as the analysis gives, and mistakes told by line and column."""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as xml

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from harness.analyse.centre import centre_interval
from harness.analyse.contrast import burst_medians, pair_up
from harness.cli.app import app
from harness.errors import BenchError, DataError, UsageError
from harness.judge import Ask, judged, read
from reports import judged_view

HEADER = "burst,pair,arm,metric,value\n"


def lines(
    effect: float, *, metric: str = "throughput", bursts: int = 20, seed: int = 1, sd: float = 0.02
) -> Iterator[str]:
    """Pairs of x and y; y's values are `effect` times those of x but for noise and layout."""
    rng = np.random.default_rng(seed)
    for burst in range(bursts):
        layout = rng.normal(0.0, 0.014)
        for pair in range(4):
            yield f"{burst},{pair},x,{metric},{math.exp(rng.normal(0.0, sd))!r}\n"
            yield f"{burst},{pair},y,{metric},{effect * math.exp(layout + rng.normal(0.0, sd))!r}\n"


def a_file(folder: Path, *parts: str, header: str = HEADER) -> Path:
    path = folder / "pairs.csv"
    path.write_text(header + "".join(parts))
    return path


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and output of `judge`; errors as the command line would show them."""
    result = CliRunner().invoke(app, ["judge", *arguments])
    if isinstance(result.exception, BenchError):
        return result.exception.exit_code, f"{result.exception.fault}: {result.exception}"
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("claim", "code"),
    [("throughput>=2.5", 0), ("throughput>=3.5", 1), ("throughput >= 3", 3), ("throughput<=+250%", 0), ("", 0)],
)
def test_exit_code_follows_the_verdicts(tmp_path: Path, claim: str, code: int) -> None:
    path = a_file(tmp_path, *lines(3.0))
    assert run(str(path), *(("--expect", claim) if claim else ()))[0] == code


def test_the_interval_is_that_of_the_analysis(tmp_path: Path) -> None:
    recorded = read(a_file(tmp_path, *lines(1.1)))
    (found,) = judged(recorded, Ask()).analysis.contrasts
    pairs = pair_up(recorded.values["throughput", "x"], recorded.values["throughput", "y"])
    low, high = centre_interval(burst_medians(pairs)[1], 0.95)
    assert found.estimate is not None
    assert (found.estimate.low, found.estimate.high) == (math.exp(low), math.exp(high))
    assert (found.estimate.bursts, found.estimate.pairs, found.unusable) == (20, 80, 0)


def test_several_claims_hold_together(tmp_path: Path) -> None:
    recorded = read(a_file(tmp_path, *lines(3.0)))
    claims = ("throughput>=2.5", "throughput<=3.5")
    analysis = judged(recorded, Ask(expectations=claims)).analysis
    assert analysis.family_confidence == pytest.approx(0.975)
    assert [each.outcome for each in analysis.verdicts] == ["MET", "MET"]
    assert all(each.contrast and each.contrast.estimate for each in analysis.verdicts)
    assert "2 MET" in analysis.answer


def test_sequential_intervals_are_wider(tmp_path: Path) -> None:
    recorded = read(a_file(tmp_path, *lines(1.1)))
    (fixed,) = judged(recorded, Ask()).analysis.contrasts
    (anytime,) = judged(recorded, Ask(sequential=True)).analysis.contrasts
    assert fixed.estimate is not None
    assert anytime.estimate is not None
    assert anytime.estimate.method == "sequential"
    assert anytime.estimate.low < fixed.estimate.low < fixed.estimate.high < anytime.estimate.high


def test_values_without_a_partner_or_a_logarithm_are_counted(tmp_path: Path) -> None:
    path = a_file(tmp_path, *lines(3.0), "50,0,x,throughput,1\n", "51,0,x,throughput,0\n51,0,y,throughput,2\n")
    (found,) = judged(read(path), Ask()).analysis.contrasts
    assert found.reasons == {"no value of y": 1, "zero": 1}
    assert run(str(path), "--gate")[0] == 4  # the gate never decides on part of the data


@pytest.mark.parametrize(
    ("effect", "arguments", "code", "word"),
    [
        (0.9, ("--gate",), 1, "FAIL: y against x: throughput"),
        (1.1, ("--gate",), 0, "PASS: no metric of y lost its margin against x"),
        (1.1, ("--gate", "--lower", "throughput"), 1, "FAIL"),
        (1.1, ("--gate", "--a", "y", "--b", "x"), 1, "FAIL: x against y"),
    ],
)
def test_the_gate_judges_the_same_data(
    tmp_path: Path, effect: float, arguments: tuple[str, ...], code: int, word: str
) -> None:
    found, output = run(str(a_file(tmp_path, *lines(effect))), *arguments)
    assert found == code
    assert word in " ".join(output.split())


def test_few_bursts_are_no_pass(tmp_path: Path) -> None:
    path = a_file(tmp_path, *lines(1.1, bursts=14))
    assert run(str(path), "--gate")[0] == 3
    assert run(str(a_file(tmp_path, *lines(3.0, bursts=3))), "--expect", "throughput>=2.5")[0] == 3


def test_an_unknown_metric_needs_its_direction_only_for_the_gate(tmp_path: Path) -> None:
    path = a_file(tmp_path, *lines(0.5, metric="frame jank"))
    assert run(str(path), "--expect", "frame jank<=-40%")[0] == 0
    code, told = run(str(path), "--gate")
    assert (code, told) == (
        2,
        "usage: which way is 'frame jank' better? expected --lower frame jank or --higher frame jank",
    )
    assert run(str(path), "--gate", "--lower", "frame jank")[0] == 0


def test_columns_may_stand_in_any_order_among_others(tmp_path: Path) -> None:
    text = "note,value,metric,ARM, pair ,burst\n,1.5,m,x,0,0\nignored,3,m,y,0,0\n\n"
    path = a_file(tmp_path, text, header="\ufeff")
    (found,) = judged(read(path), Ask()).analysis.contrasts
    assert found.burst_ratios == pytest.approx((2.0,))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1: burst: is missing; expected a header with burst,pair,arm,metric,value"),
        ("burst,pair,arm,metric\n", "1: value: is missing"),
        ("burst,burst,pair,arm,metric,value\n", "1: burst: appears twice"),
        (HEADER, "2: has no measurements"),
        (HEADER + "0,0,x,m,1\n0,0,y\n", "3: has 3 columns; expected 5"),
        (HEADER + "0,0,x,m,1\n-1,0,y,m,1\n", "3: burst: is '-1'; expected a whole number >= 0"),
        (HEADER + "0,1.5,x,m,1\n", "2: pair: is '1.5'; expected a whole number"),
        (HEADER + "0,0,,m,1\n", "2: arm: is empty; expected a name"),
        (HEADER + "0,0,x,,1\n", "2: metric: is empty"),
        (HEADER + "0,0,x,m,fast\n", "2: value: is 'fast'; expected a finite number"),
        (HEADER + "0,0,x,m,nan\n", "2: value: is 'nan'; expected a finite number"),
        (HEADER + "0,0,x,m,1\n0,0,x,m,2\n", "3: value: a second value for burst 0, pair 0 of 'm' on 'x'; expected one"),
        (HEADER + '0,0,x,m,"1\n', "not CSV"),
    ],
)
def test_a_mistake_in_the_file_is_told_by_line_and_column(tmp_path: Path, text: str, told: str) -> None:
    path = a_file(tmp_path, text, header="")
    with pytest.raises(DataError, match=re.escape(told)) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert caught.value.exit_code == 2


def test_a_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "absent.csv")
    (tmp_path / "pairs.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        read(tmp_path / "pairs.csv")


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (Ask(a="z"), "--a 'z' is no arm"),
        (Ask(a="x", b="x"), "both 'x'"),
        (Ask(directions={"speed": "lower"}), "--lower 'speed' is no metric of pairs.csv; expected one of: throughput"),
        (Ask(expectations=("speed>=2",)), "expected METRIC>=RATIO"),
        (Ask(expectations=("throughput>2",)), "expected METRIC>=RATIO"),
        (Ask(expectations=("throughput>=1.2.3",)), "expected one > 0"),
        (Ask(expectations=("throughput<=-100%",)), "would be 0; expected one > 0"),
    ],
)
def test_a_question_that_does_not_fit_the_data(tmp_path: Path, ask: Ask, told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        judged(read(a_file(tmp_path, *lines(1.0, bursts=2))), ask)


def test_no_metric_is_better_both_ways(tmp_path: Path) -> None:
    path = a_file(tmp_path, *lines(1.0, bursts=2, metric="speed"))
    code, said = run(str(path), "--gate", "--lower", "speed", "--higher", "speed")
    assert (code, said) == (2, "usage: --lower and --higher are both 'speed'; expected one of them")


def test_more_or_fewer_than_two_arms_must_be_named(tmp_path: Path) -> None:
    third = a_file(tmp_path, *lines(1.0, bursts=2), "0,0,z,throughput,1\n")
    with pytest.raises(UsageError, match="--a and --b"):
        judged(read(third), Ask())
    with pytest.raises(UsageError, match="--a and --b"):
        judged(read(third), Ask(a="x"))
    assert judged(read(third), Ask(a="x", b="z")).analysis.treatment == "z"
    with pytest.raises(UsageError, match="--a and --b"):
        judged(read(a_file(tmp_path, "0,0,x,m,1\n")), Ask())
    assert judged(read(a_file(tmp_path, *lines(1.0, bursts=2))), Ask(b="x")).analysis.baseline == "y"


def test_views_agree_and_nothing_in_the_file_breaks_out(tmp_path: Path) -> None:
    path = a_file(tmp_path, *lines(0.9, metric="a|b *i*"))
    os.utime(path, (1e9, 1e9))
    written = {kind: tmp_path / kind for kind in ("markdown", "json", "junit")}
    options = [word for kind, target in written.items() for word in (f"--{kind}", str(target))]
    code, _ = run(str(path), "--gate", "--higher", "a|b *i*", "--expect", "a|b *i*>=0.8", *options)
    assert code == 1
    text = written["markdown"].read_text()
    assert "FAIL" in text
    assert "a\\|b \\*i\\*" in text.split("```")[0]
    summary = json.loads(written["json"].read_bytes())
    assert summary["verdicts"][0]["outcome"] == "MET"
    assert summary["environment"]["machine"] == "not known: measured elsewhere"
    suite = xml.fromstring(written["junit"].read_bytes())[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("timestamp")) == ("3", "1", "2001-09-09T01:46:40")
    plain = Console(file=io.StringIO(), width=100)
    plain.print(judged_view.on_terminal(judged(read(path), Ask()), path, "again"))
    assert "a|b *i*" in plain.file.getvalue()  # type: ignore[attr-defined]


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    code, told = run(str(a_file(tmp_path, *lines(1.0))), "--markdown", str(tmp_path / "no" / "such"))
    assert (code, told[:6]) == (2, "usage:")


def test_more_pairs_in_a_burst_than_the_margins_allow_are_judged_by_burst(tmp_path: Path) -> None:
    """What the pairs of one burst share must not count sixteen times."""
    rows = ["burst,pair,arm,metric,value"]
    for burst in range(16):
        for pair in range(16):
            slower = 1.02 if burst % 2 else 0.99  # half the layouts are slow: no regression of 1 %
            rows += [f"{burst},{pair},x,latency,1.0", f"{burst},{pair},y,latency,{slower + 1e-6 * pair}"]
    path = tmp_path / "many.csv"
    path.write_text("\n".join(rows))
    found = judged(read(path), Ask(gate=True, directions={"latency": "lower"}))
    assert found.decision is not None
    assert [(each.pairs, each.bursts) for each in found.decision.metrics] == [(16, 16)]


def test_the_junit_of_a_gate_has_the_verdicts_too(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(
        "\n".join(
            ["burst,pair,arm,metric,value"]
            + [f"{burst},0,{arm},throughput,{value}" for burst in range(40) for arm, value in (("x", 1.0), ("y", 1.1))]
        )
    )
    code, _ = run(str(path), "--gate", "--expect", "throughput>=2", "--junit", str(tmp_path / "out.xml"))
    assert code == 1
    suite = xml.fromstring((tmp_path / "out.xml").read_bytes())[0]
    assert [case.get("name") for case in suite.findall("testcase")] == [
        "validity",
        "throughput",
        "throughput>=2 against x",
    ]
    assert suite.get("failures") == "1"


def test_reports_of_an_earlier_judgement_do_not_speak_for_one_that_failed(tmp_path: Path) -> None:
    names = {flag: tmp_path / f"old.{flag}" for flag in ("markdown", "json", "junit")}
    for path in names.values():
        path.write_text("all fine, yesterday")
    code, said = run(
        str(tmp_path / "none.csv"), *(word for flag, path in names.items() for word in (f"--{flag}", str(path)))
    )
    assert code == 2, said
    assert not any(path.exists() for path in names.values())


def test_two_shares_of_none_do_not_differ(tmp_path: Path) -> None:
    """(k + 1/2) / (n + 1) of no errors is less the more requests there were."""
    header = HEADER.replace("value", "value,extreme")
    rows = [
        f"{burst},0,{arm},error_ratio,{0.5 / (n + 1)},none\n"
        for burst in range(8)
        for arm, n in (("x", 100), ("y", 999))
    ]
    (found,) = judged(read(a_file(tmp_path, *rows, header=header)), Ask()).analysis.contrasts
    assert found.estimate
    assert (found.estimate.low, found.estimate.high) == (1.0, 1.0)
    path = a_file(tmp_path, "1,0,x,error_ratio,0.1,nothing\n", header=header)
    with pytest.raises(DataError, match=r":2: extreme: is 'nothing'; expected one of: none, all, or nothing"):
        read(path)


def test_numbers_whose_ratio_is_none_are_no_traceback(tmp_path: Path) -> None:
    rows = [f"{burst},0,{arm},m,{value}\n" for burst in range(8) for arm, value in (("x", 1e-200), ("y", 1e200))]
    path = a_file(tmp_path, *rows)
    (found,) = judged(read(path), Ask()).analysis.contrasts
    assert found.estimate
    assert not found.estimate.bounded
    assert run(str(path), "--expect", "m>=2")[0] in (0, 3)
