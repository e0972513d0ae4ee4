"""report.html: one self-contained page. Opens from disk, asks the network for nothing, runs no script.

Everything a study or a target can name is escaped (autoescape); only the charts' SVG, built here, is markup.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined

from harness.analyse.records import Analysis, Check, Verdict
from harness.measure.records import Environment
from harness.study.records import Study
from reports import bars, charts, context, flags, forest, monitoring, tables, traces, words
from reports.charts import Chart
from reports.info import RunInfo
from reports.tables import Table

TEMPLATES = Templates(
    loader=PackageLoader("reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
TONES = {"MET": "met", "MISSED": "missed", "INCONCLUSIVE": "inconclusive", "NOT MEASURABLE": "unmeasurable"}


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart, if there was something to draw, with its table. `anchor` is unique within the page.

    A folded panel shows only its title until it is opened; `numbers_open` is whether the table shows at once.
    """

    anchor: str
    title: str
    chart: Chart | None
    table: Table
    folded: bool = False
    numbers_open: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """One verdict as the page shows it."""

    against: str
    outcome: str
    tone: str
    effect: str
    interval: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Question:
    """One expectation with its verdicts side by side."""

    title: str
    about: str
    claimed: str
    reason: str
    answers: tuple[Answer, ...]


def render(study: Study, analysis: Analysis, environment: Environment, info: RunInfo) -> str:
    """The whole page."""
    memory = Panel("memory-added", "", bars.memory(analysis, "memory"), tables.memory(analysis))
    panels = {
        "estimates": tuple(_estimates(analysis)),
        "attributions": tuple(_attributions(analysis)),
        "crossovers": tuple(_crossovers(analysis)),
        "latency": tuple(_latency(analysis)),
        "throughput": tuple(_throughput(analysis)),
        "cpu": tuple(_cpu(analysis)),
        "traces": tuple(_traces(analysis)),
    }
    every = [memory, *chain.from_iterable(panels.values())]
    charts.draw_together([each.chart for each in every if each.chart is not None])
    page = TEMPLATES.get_template("report.html.j2").render(
        study=study,
        analysis=analysis,
        environment=environment,
        info=info,
        scope=words.scope(study),
        unfinished=words.unfinished(info),
        took=words.duration(info.ended - info.started),
        day=words.moment(info.started),
        broken=broken(analysis),
        questions=questions(study, analysis),
        flag_tables=tuple(flags.flag_tables(study, analysis)),
        ranking=flags.ranking(study, analysis),
        memory=memory,
        **panels,
        tables=tables,
        monitoring=monitoring.table(analysis),
        context=context,
        plural=words.plural,
        percent=_percent,
    )
    return page.rstrip() + "\n"


def _percent(level: float) -> str:
    return f"{100.0 * level:.4g}{words.THIN}%"


def broken(analysis: Analysis) -> tuple[tuple[Check, int], ...]:
    """The first failed check of each name, and how many more like it there are."""
    names = dict.fromkeys(each.name for each in analysis.failed)
    alike = [[each for each in analysis.failed if each.name == name] for name in names]
    return tuple((found[0], len(found) - 1) for found in alike)


def questions(study: Study, analysis: Analysis) -> tuple[Question, ...]:
    """The expectations in the study's order, each with a verdict per arm it is held against."""
    grouped: dict[str, list[Verdict]] = {}
    for each in analysis.verdicts:
        grouped.setdefault(each.expectation, []).append(each)
    reasons = {each.name: each.reason for each in study.expectations}
    return tuple(
        Question(
            title=found[0].claim or name,
            about=f"{words.metric_words(analysis, found[0].metric, found[0].request)},"
            f" {found[0].workload or 'all workloads together'}",
            claimed=words.claim(found[0].side, found[0].bound),
            reason=reasons.get(name, ""),
            answers=tuple(_answer(each, analysis.valid) for each in found),
        )
        for name, found in grouped.items()
    )


def _answer(verdict: Verdict, valid: bool) -> Answer:
    shown = verdict.contrast.estimate if verdict.contrast is not None else None
    return Answer(
        against=verdict.against,
        outcome=verdict.outcome,
        tone=TONES[verdict.outcome] if valid else "inconclusive",
        effect=words.effect(shown) if shown is not None else "",
        interval=words.interval(shown) if shown is not None else "no estimate",
        sentence=verdict.sentence,
    )


def _workloads(analysis: Analysis) -> tuple[str, ...]:
    """Every workload that has contrasts, "" (memory readings) last."""
    names = dict.fromkeys(each.workload for each in analysis.contrasts)
    return tuple(sorted(names, key=lambda name: name == ""))


def _estimates(analysis: Analysis) -> Iterator[Panel]:
    for group, roles in forest.GROUPS:
        found = [each for each in analysis.contrasts if each.role in roles]
        within = forest.frame(forest.blocks(analysis, found))
        about = forest.GROUP_TITLES[group]
        split = [""] if group == "aa" else _workloads(analysis)
        for index, workload in enumerate(split):
            contrasts = found if group == "aa" else [each for each in found if each.workload == workload]
            if not contrasts:
                continue
            title = about if group == "aa" else ": ".join(part for part in (words.place(workload), about) if part)
            key = f"estimates-{group}-{index}"
            chart = forest.forest(forest.blocks(analysis, contrasts), within, key, f"Estimates: {title}")
            table = tables.estimates(analysis, contrasts, f"Estimates: {title}")
            yield Panel(key, title, chart, table, folded=group in ("single", "aa"), numbers_open=False)


def _attributions(analysis: Analysis) -> Iterator[Panel]:
    for index, each in enumerate(analysis.attributions):
        shown = forest.attribution_blocks(each)
        title = f"{words.metric_words(analysis, each.metric, each.request)} on {words.place(each.workload)}"
        key = f"attribution-{index}"
        chart = forest.forest(shown, forest.frame(shown), key, f"Which flag pays: {title}")
        yield Panel(key, f"{title}: {words.closure(each)}", chart, tables.attribution(each))


def _crossovers(analysis: Analysis) -> Iterator[Panel]:
    for index, each in enumerate(analysis.crossovers):
        metric = words.metric_words(analysis, each.metric, each.request)
        direction = words.metric_info(analysis, each.metric).direction
        title = f"{metric} on {each.workload}: {words.crossover_words(each, direction)}"
        shown = forest.sweep_blocks(analysis, each)
        key = f"crossover-{index}"
        chart = forest.forest(shown, forest.frame(shown), key, title)
        yield Panel(key, title, chart, tables.sweep(each, f"{metric} on {each.workload}, by {each.parameter}"))


def _traces(analysis: Analysis) -> Iterator[Panel]:
    for index, place in enumerate(traces.places(analysis)):
        key = f"trace-{index}"
        shown = traces.chart(analysis, place, key)
        yield Panel(key, traces.title(place), shown, traces.table(analysis, place), folded=True)


def _latency(analysis: Analysis) -> Iterator[Panel]:
    kinds = dict.fromkeys((each.workload, each.request, each.source) for each in analysis.curves)
    for index, (workload, request, source) in enumerate(kinds):
        curves = [
            each
            for each in analysis.curves
            if (each.workload, each.request, each.source) == (workload, request, source)
        ]
        title = f"{workload}: {request}, from {words.SOURCES[source]}"
        key = f"latency-{index}"
        chart = charts.percentiles(analysis, workload, request, source, key)
        yield Panel(key, title, chart, tables.latency(curves, f"Latency of {title}"))


def _throughput(analysis: Analysis) -> Iterator[Panel]:
    for index, workload in enumerate(dict.fromkeys(each.workload for each in analysis.throughput)):
        key = f"throughput-{index}"
        table = tables.throughput(analysis, workload, f"Throughput on {workload}")
        if table.rows:
            yield Panel(key, workload, charts.throughput(analysis, workload, key), table)


def _cpu(analysis: Analysis) -> Iterator[Panel]:
    for index, workload in enumerate(dict.fromkeys(each.workload for each in analysis.cpu)):
        rows = [each for each in analysis.cpu if each.workload == workload]
        key = f"cpu-{index}"
        table = tables.cpu(rows, f"CPU time on {workload}")
        yield Panel(key, workload, bars.cpu(analysis, workload, key), table)
