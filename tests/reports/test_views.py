from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import msgspec
import pytest
from rich.console import Console, RenderableType

import reports
from harness.analyse.records import Verdict
from harness.study.records import Workload
from reports import context, junit, markdown, schema, summary, tables, terminal, words
from tests.reports.sample import ENVIRONMENT, INFO, STUDY, attributed, invalid, sample, small, swept, tailed

CUT = msgspec.structs.replace(INFO, complete=False)


def test_write_makes_both_files_and_nothing_else(tmp_path: Path) -> None:
    files = [tmp_path / "report.html", tmp_path / "summary.json"]
    assert reports.write(tmp_path, STUDY, small(), ENVIRONMENT, INFO) == files[0]
    content = [path.read_bytes() for path in files]
    assert sorted(tmp_path.iterdir()) == files
    reports.write(tmp_path, STUDY, small(), ENVIRONMENT, INFO)
    assert [path.read_bytes() for path in files] == content


def test_a_failed_write_keeps_the_old_file_and_leaves_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.html").write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        reports.write(tmp_path, STUDY, small(), ENVIRONMENT, INFO)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_the_summary_reads_back_as_its_own_schema() -> None:
    content = summary.encode(STUDY, sample(), ENVIRONMENT, INFO)
    found = json.loads(content)
    assert found["version"] == summary.SUMMARY_VERSION
    assert [each["outcome"] for each in found["verdicts"]] == [each.outcome for each in sample().verdicts]
    assert len(found["contrasts"]) == len(sample().contrasts)
    for each in found["contrasts"]:
        if each["estimate"]:
            assert each["estimate"]["low"] <= each["estimate"]["ratio"] <= each["estimate"]["high"]
        else:
            assert each["problem"]
    typed = msgspec.json.decode(content, type=summary.Summary)
    assert typed.verdicts == summary.summarise(STUDY, sample(), ENVIRONMENT, INFO).verdicts


def test_an_unbounded_interval_is_null_in_the_summary() -> None:
    contrast = next(each for each in sample().contrasts if each.estimate is not None)
    assert contrast.estimate is not None
    loose = msgspec.structs.replace(contrast.estimate, low=0.0, high=float("inf"), method="unbounded", bursts=2)
    short = msgspec.structs.replace(sample(), contrasts=(msgspec.structs.replace(contrast, estimate=loose),))
    (found,) = json.loads(summary.encode(STUDY, short, ENVIRONMENT, INFO))["contrasts"]
    assert found["estimate"]["low"] is None
    assert found["estimate"]["high"] is None
    assert "not bounded" in found["estimate"]["change"]


def test_an_open_end_of_a_crossover_is_null_in_the_summary() -> None:
    first, second = json.loads(summary.encode(STUDY, swept(), ENVIRONMENT, INFO))["crossovers"]
    assert (first["at"], first["low"], first["high"], first["pays_above"]) == (2400.0, 1100.0, None, True)
    assert second["at"] is None
    assert len(first["ratios"]) == len(first["values"]) == 4


def test_tails_travel_with_their_threshold_and_interval() -> None:
    first, second = json.loads(summary.encode(STUDY, tailed(), ENVIRONMENT, INFO))["tails"]
    assert (first["percentile"], first["threshold"], first["estimate"]["ratio"]) == (99.0, 0.0042, 0.34)
    assert second["estimate"] is None
    assert second["reasons"] == {"fewer than 1,000 requests in a segment": 4}


def test_the_documented_schema_is_current() -> None:
    documented = Path(__file__).parents[2] / "docs" / "summary-schema.md"
    assert documented.read_text() == schema.markdown(), "run: python -m reports.schema > docs/summary-schema.md"


def test_the_schema_describes_every_record_it_mentions() -> None:
    text = schema.markdown()
    mentioned = set(re.findall(r"\[(\w+)\]\(#", text))
    assert mentioned
    assert all(f"## {name}\n" in text for name in mentioned)


def test_markdown_has_the_verdicts_and_how_to_repeat_them() -> None:
    text = markdown.render(STUDY, sample(), INFO)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(sample().verdicts)
    for row, verdict in zip(rows[2:], sample().verdicts, strict=True):
        assert row.endswith(f"{markdown.SIGNS[verdict.outcome]} {verdict.outcome} |")
        assert markdown.escape(tables.measured_words(verdict)) in row
    assert f"```\n{INFO.command}\n```" in text


def test_markdown_of_a_broken_run_says_so_first() -> None:
    text = markdown.render(STUDY, invalid(), CUT)
    assert text.index("INVALID") < text.index("INTERRUPTED") < text.index("|")
    void = markdown.render(STUDY, msgspec.structs.replace(sample(), valid=False), INFO)
    assert markdown.SIGNS["MET"] not in void


def test_markdown_cells_cannot_be_left() -> None:
    study = msgspec.structs.replace(STUDY, title="a | b\n\n# <img src=x> [x](y) `z`")
    text = markdown.render(study, sample(), msgspec.structs.replace(INFO, command="echo ```; rm"))
    title = text.splitlines()[0]
    assert title == r"## a \| b \# \<img src=x\> \[x\](y) \`z\`"
    assert "````\necho ```; rm\n````" in text


def verdicts_as(outcome: str) -> tuple[Verdict, ...]:
    return tuple(msgspec.structs.replace(each, outcome=outcome) for each in sample().verdicts)


@pytest.mark.parametrize(
    ("outcome", "tag"),
    [("MET", None), ("MISSED", "failure"), ("INCONCLUSIVE", "error"), ("NOT MEASURABLE", "skipped")],
)
def test_junit_has_one_case_per_verdict(outcome: str, tag: str | None) -> None:
    found = msgspec.structs.replace(sample(), verdicts=verdicts_as(outcome))
    suite = xml.fromstring(junit.render(STUDY, found, INFO))[0]
    cases = suite.findall("testcase")
    assert suite.get("tests") == str(len(cases)) == str(1 + len(found.verdicts))
    for case in cases[1:]:
        kinds = [each.tag for each in case if each.tag != "system-out"]
        assert kinds == ([tag] if tag else [])
    counted = {"failure": "failures", "error": "errors", "skipped": "skipped"}
    assert all(suite.get(name) == ("7" if kind == tag else "0") for kind, name in counted.items())


def test_junit_never_shows_green_for_an_invalid_or_interrupted_run() -> None:
    void = msgspec.structs.replace(sample(), valid=False, verdicts=verdicts_as("MET"))
    suite = xml.fromstring(junit.render(STUDY, void, INFO))[0]
    assert suite.get("errors") == suite.get("tests")
    cut = xml.fromstring(junit.render(STUDY, sample(), CUT))[0]
    assert cut.find("testcase/error") is not None


def test_junit_survives_characters_that_xml_does_not_know() -> None:
    text = junit.render(msgspec.structs.replace(STUDY, name="a\x00\x1b<&\ud800"), sample(), INFO)
    assert xml.fromstring(text)[0].get("name") == "synapsed-bench a\ufffd\ufffd<&\ufffd"


def printed(shown: RenderableType, width: int = 200) -> str:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(shown)
    return file.getvalue()


def test_the_terminal_shows_answer_and_verdicts() -> None:
    text = printed(terminal.result(STUDY, sample(), INFO))
    assert sample().answer.split(".")[0] in text
    for verdict in sample().verdicts:
        assert tables.measured_words(verdict) in text
    assert "INVALID" not in text
    assert "INTERRUPTED" not in text


def test_names_of_arms_stay_whole_in_eighty_columns() -> None:
    text = printed(terminal.result(STUDY, sample(), INFO), 80)
    assert text.count("first-day-reuse") >= 3
    assert max(map(len, text.splitlines())) <= 80


def test_a_verdict_that_its_own_interval_does_not_show_says_who_decided_it() -> None:
    first = sample().verdicts[0]
    assert first.contrast is not None
    assert first.contrast.estimate is not None
    wide = msgspec.structs.replace(first.contrast.estimate, low=first.bound * 0.5, high=first.bound * 2.0)
    contrast = msgspec.structs.replace(first.contrast, estimate=wide)
    verdict = msgspec.structs.replace(first, outcome="MET", contrast=contrast, adjusted_p=0.0123)
    found = msgspec.structs.replace(sample(), verdicts=(verdict, *sample().verdicts[1:]))
    said = "only for the open ones (adjusted p = 0.012)"
    for shown in (printed(terminal.result(STUDY, found, INFO)), markdown.render(STUDY, found, INFO)):
        assert " ".join(shown.split()).count(said) == 1
    broken = msgspec.structs.replace(found, valid=False)
    assert said not in " ".join(printed(terminal.result(STUDY, broken, INFO)).split())
    assert not tables.stepped_down(sample())


def test_the_terminal_marks_broken_runs() -> None:
    text = printed(terminal.result(STUDY, invalid(), CUT))
    assert text.index("INVALID") < text.index("INTERRUPTED") < text.index("nothing is claimed")
    assert "timeout" in text


def test_the_terminal_shows_estimates_when_nothing_was_expected() -> None:
    text = printed(terminal.result(STUDY, msgspec.structs.replace(sample(), verdicts=()), INFO))
    assert "all against first-day-reuse" in text
    treatment = [
        each
        for each in sample().contrasts
        if each.role == "treatment" and each.metric == "throughput" and each.workload == "surge"
    ]
    for each in treatment:
        assert each.estimate is not None
        assert words.change(each.estimate) in text


def test_names_are_not_read_as_terminal_markup() -> None:
    loud = msgspec.structs.replace(sample(), answer="[bold]x[/bold] [/]")
    assert "[bold]x[/bold] [/]" in printed(terminal.result(STUDY, loud, INFO))


def test_failed_checks_come_first_and_stand_for_their_like() -> None:
    grouped, every = context.check_groups(invalid()), context.checks(invalid())
    assert grouped.rows[0][0] == every.rows[0][0] == "invalid"
    assert len(every.rows) == len(invalid().checks)
    assert len(grouped.rows) == len({(each.status, each.name) for each in invalid().checks})


def test_a_contrast_without_estimate_says_why() -> None:
    found = [each for each in sample().contrasts if each.estimate is None]
    shown = tables.estimates(sample(), found, "none")
    assert found
    for row, contrast in zip(shown.rows, found, strict=True):
        assert contrast.problem in row[3]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"users": 1, "awake": True}, "closed, 1 user, cores kept awake"),
        ({"users": 32}, "closed, 32 users"),
        ({"arrivals": "constant", "rate": 3000.0}, "open, constant, 3 000/s"),
        ({"arrivals": "poisson", "awake": True}, "open, poisson, half the slower arm's capacity, cores kept awake"),
    ],
)
def test_the_workloads_table_tells_how_requests_came_and_whether_cores_slept(asked: dict[str, Any], told: str) -> None:
    study = msgspec.structs.replace(STUDY, workloads=(Workload(name="one", file="one.py", **asked),))
    (row,) = context.workloads(study).rows
    assert str(row[2]).replace("\N{NARROW NO-BREAK SPACE}", " ").replace("\N{NO-BREAK SPACE}", " ") == told


def test_tables_are_rectangular() -> None:
    made = [
        tables.verdicts(sample()),
        tables.estimates(sample(), sample().contrasts, ""),
        tables.latency(sample().curves, ""),
        tables.throughput(sample(), "surge", ""),
        tables.cpu(sample().cpu, ""),
        tables.memory(sample()),
        tables.requests(sample().summaries),
        tables.gauges(sample()),
        context.checks(sample()),
        context.check_groups(sample()),
        context.arms(STUDY, sample()),
        context.workloads(STUDY),
        context.environment(ENVIRONMENT),
        context.run(STUDY, sample(), INFO),
        context.metrics(sample()),
    ]
    for table in made:
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.headings)}
        assert all(isinstance(cell, str) for row in table.rows for cell in row)


def test_the_terminal_and_markdown_tell_what_a_design_of_its_own_answers() -> None:
    for analysis, told in (
        (attributed(), "Which flag pays, CPU per request on surge: their product does NOT agree"),
        (swept(), f"CPU per request on surge: pays from message_bytes = {words.number(2400)}"),
    ):
        page = markdown.render(STUDY, analysis, INFO)
        assert " ".join(told.split()) in " ".join(printed(terminal.result(STUDY, analysis, INFO)).split())
        assert markdown.escape(told) in page
