"""What a load process does before it can take orders."""

from __future__ import annotations

import gc
from contextlib import suppress
from importlib import metadata

from harness.execute.worker import quick_imports


def test_quick_imports_find_the_same_plugins_and_leave_no_trace() -> None:
    look = metadata.entry_points
    expected = {each.name: each.value for each in look(group="console_scripts")}
    assert "locust" in expected
    with suppress(ImportError), quick_imports():
        assert metadata.entry_points is not look
        assert {each.name: each.value for each in metadata.entry_points(group="console_scripts")} == expected
        assert not list(metadata.entry_points(group="gevent.plugins.of.nobody"))
        assert not gc.isenabled()
        raise ImportError
    assert metadata.entry_points is look
    assert gc.isenabled()
