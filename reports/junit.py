"""JUnit XML for CI: one test case per verdict, and one for the validity of the run.

MET passes, MISSED is a failure, INCONCLUSIVE is an error (never silently green), NOT MEASURABLE is skipped.
In an invalid run every verdict is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as xml

from harness.analyse.records import Analysis, Verdict
from harness.study.records import Study
from reports import words
from reports.info import RunInfo

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"characters XML 1.0 cannot hold, escaped or not"
_TAGS = {"MISSED": "failure", "INCONCLUSIVE": "error", "NOT MEASURABLE": "skipped"}


def render(study: Study, analysis: Analysis, info: RunInfo) -> bytes:
    """The XML document."""
    properties = {"run": info.run, "command": info.command, "scope": words.scope(study)}
    cases = [_validity(study, analysis, info), *verdicts(study, analysis)]
    return document(study.name, info.started, info.ended - info.started, cases, properties)


def verdicts(study: Study, analysis: Analysis) -> list[xml.Element]:
    """One test case per verdict."""
    return [_verdict(study, analysis, each) for each in analysis.verdicts]


def document(
    title: str, started: float, seconds: float, cases: Sequence[xml.Element], properties: Mapping[str, str]
) -> bytes:
    """The whole document of one test suite."""
    root = xml.Element("testsuites")
    suite = xml.SubElement(root, "testsuite", name=clean(f"synapsed-bench {title}"))
    suite.set("timestamp", words.moment(started)[:19].replace(" ", "T"))
    suite.set("time", f"{seconds:.3f}")
    if properties:
        told = xml.SubElement(suite, "properties")
        for name, value in properties.items():
            xml.SubElement(told, "property", name=name, value=clean(value))
    suite.extend(cases)
    suite.set("tests", str(len(cases)))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
    xml.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{xml.tostring(root, encoding="unicode")}\n'.encode()


def _case(study: Study, name: str) -> xml.Element:
    return xml.Element("testcase", classname=clean(f"synapsed-bench.{study.name}"), name=clean(name))


def _validity(study: Study, analysis: Analysis, info: RunInfo) -> xml.Element:
    case = _case(study, "validity")
    lines = [f"{each.name} ({each.where}): {each.saw}; bound: {each.bound}; {each.remedy}" for each in analysis.failed]
    if not analysis.valid:
        outcome(case, "error", "INVALID: the measurement is not fit to be judged", "\n".join(lines))
    elif not info.complete:
        outcome(case, "error", ": ".join(words.unfinished(info)), "")
    return case


def _verdict(study: Study, analysis: Analysis, verdict: Verdict) -> xml.Element:
    case = _case(study, f"{verdict.expectation} against {verdict.against}")
    detail = "\n".join(text for text in (verdict.claim, verdict.reason) if text)
    if verdict.outcome == "NOT MEASURABLE":
        outcome(case, "skipped", verdict.sentence, "")
    elif not analysis.valid:
        outcome(case, "error", f"INVALID run: {verdict.sentence}", detail)
    elif verdict.outcome in _TAGS:
        outcome(case, _TAGS[verdict.outcome], verdict.sentence, detail)
    else:
        xml.SubElement(case, "system-out").text = clean(verdict.sentence)
    return case


def outcome(case: xml.Element, tag: str, message: str, text: str) -> None:
    """Mark a test case: `tag` is failure, error or skipped."""
    xml.SubElement(case, tag, message=clean(message), type=tag).text = clean(text)


def clean(text: str) -> str:
    """`text` without what XML 1.0 cannot hold."""
    return _FORBIDDEN.sub("\ufffd", text)
