"""Tables of what there is: studies, workloads, optimizations, metrics."""

from __future__ import annotations

import ast
from collections.abc import Callable

from rich.table import Table

from harness.errors import UsageError
from harness.measure.metrics import METRICS
from harness.plan.arms import layout
from harness.plan.budget import forecast
from harness.study import file as study_file
from harness.study.records import OPTIMIZATIONS
from scenarios.load.switches import PURPOSE


def table(what: str) -> Table:
    """The table `what` asks for. Raises `UsageError` for a word that is none of them."""
    tables: dict[str, Callable[[], Table]] = {
        "studies": _studies,
        "workloads": _workloads,
        "optimizations": _optimizations,
        "metrics": _metrics,
    }
    if what not in tables:
        raise UsageError(f"cannot list {what!r}; expected one of: {', '.join(tables)}")
    out = tables[what]()
    names = out.columns[0]  # what one has to type: in one piece, however narrow the terminal
    names.no_wrap, names.min_width = True, max(len(str(name)) for name in names.cells)
    return out


def _studies() -> Table:
    out = Table("study", "question", "measures for")
    for path in sorted(study_file.STUDIES.glob("*.toml")):
        study = study_file.load(path)
        lasts = forecast(study, layout(study)).lasts
        out.add_row(path.stem, study.question or study.title, f"{lasts / 60:.0f} min")
    return out


def _workloads() -> Table:
    """Every Locust file beside the bundled studies: the first line of its docstring is the question it answers."""
    out = Table("workload", "question", "file")
    for path in sorted((study_file.ROOT / "scenarios" / "load").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.ClassDef) and "User" in node.name and _has_task(node) for node in tree.body):
            doc = (ast.get_docstring(tree) or "").splitlines()[0]
            out.add_row(path.stem, doc, str(path.relative_to(study_file.ROOT)))
    return out


def _has_task(node: ast.ClassDef) -> bool:
    return any(
        isinstance(member, ast.FunctionDef) and any(getattr(each, "id", "") == "task" for each in member.decorator_list)
        for member in node.body
    )


def _optimizations() -> Table:
    out = Table("optimization", "what it does")
    for name in OPTIMIZATIONS:
        out.add_row(name, PURPOSE[name])
    return out


def _metrics() -> Table:
    out = Table("metric", "unit", "better", "definition")
    for metric in METRICS.values():
        out.add_row(metric.name, metric.unit, metric.direction, metric.definition)
    return out
