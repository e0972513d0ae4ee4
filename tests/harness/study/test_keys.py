"""The page of study keys: current, complete, and its example a study."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness.plan import arms, budget
from harness.study import file as study_file
from harness.study import keys, records

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_current() -> None:
    text = (DOCS / "study-file.md").read_text()
    assert text == keys.markdown(), "run: python -m harness.study.keys > docs/study-file.md"


def test_every_record_of_a_study_has_its_table() -> None:
    described = {
        each
        for each in vars(records).values()
        if isinstance(each, type) and issubclass(each, msgspec.Struct) and each.__struct_fields__
    }
    assert described == set(keys.TABLES.values())


@pytest.mark.parametrize("record", keys.TABLES.values(), ids=lambda each: each.__name__)
def test_every_key_is_described(record: type[msgspec.Struct]) -> None:
    found = list(keys.keys(record))
    assert len(found) == len(record.__struct_fields__)
    assert all(each.type and each.meaning for each in found)


def test_what_the_guide_shows_is_in_the_example() -> None:
    guide, example = (DOCS / "own-system.md").read_text(), (DOCS / "example" / "study.toml").read_text()
    shown = [part.partition("```")[0] for part in guide.split("```toml\n")[1:]]
    assert len(shown) == 2
    assert all(each in example for each in shown)


def test_the_example_can_decide_what_it_asks() -> None:
    example = study_file.load(DOCS / "example" / "study.toml")
    assert example.optimizations == ("cache", "gzip")
    expected = budget.forecast(example, arms.layout(example))
    assert all(proof.bursts >= proof.needed for proof in expected.proofs)
