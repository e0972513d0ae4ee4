"""Stored rows in, everything a report says out: a pure function, so that the same run gives the same bytes.

Order of the story: the design's comparisons become contrasts, the rows are checked, then the expectations are
judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial

from harness.analyse import views
from harness.analyse.attribution import attribute
from harness.analyse.centre import Floats
from harness.analyse.contrast import Contrast, Readings, Row, judge_contrast, readings, uncounted
from harness.analyse.crossover import crossover
from harness.analyse.records import Analysis, Attribution, ContrastResult, Crossover, Estimate, TailTest, Verdict, void
from harness.analyse.rows import Rows, arrange
from harness.analyse.tails import tails
from harness.analyse.validity import Subject, check, load_was_the_limit
from harness.analyse.verdict import Question, describe, judge
from harness.measure.metrics import METRICS, PACE, Metric, Source, metric
from harness.measure.records import STRETCHES, Measured
from harness.plan.arms import Comparison, Layout, layout, workloads
from harness.study.records import Expectation, Study, Workload

Judged = tuple[ContrastResult, Floats]
OUTCOMES = ("MET", "MISSED", "INCONCLUSIVE", "NOT MEASURABLE")
HEADLINE = ("latency_p50", "throughput", "cpu_per_request")
"metrics people ask for first"
MOST_TOLD = 6
"that a headline tells one by one: three metrics of two workloads"


def analyse(study: Study, measured: Measured, mishap: str = "") -> Analysis:
    """All that follows from a run's rows. `mishap` is the error that ended the measuring, if one did: then nothing is
    claimed.
    """
    return _Analyst(study, arrange(measured)).analysis(mishap)


def interim(study: Study, measured: Measured) -> tuple[Verdict, ...]:
    """The verdicts on the rows so far, validity aside: what the progress display shows.

    When the study may stop early (`budget.stop_early`) and none is INCONCLUSIVE, it may stop now.
    """
    return judge(tuple(_Analyst(study, arrange(measured)).questions()), study)


class _Analyst:
    """The rows of one run with what is derived from them more than once."""

    def __init__(self, study: Study, rows: Rows) -> None:
        self.study = study
        self.rows = rows
        self.layout: Layout = layout(study)
        self.workloads = workloads(study)
        self.arms = tuple(arm.name for arm in self.layout.arms)
        self.shown = tuple(name for name in self.arms if name not in self.layout.hidden)
        self._readings: dict[tuple[str, str, Source, str, str], Readings] = {}

    @cached_property
    def requests(self) -> dict[str, tuple[str, ...]]:
        """Names of all requests by workload."""
        return {each.name: views.request_names(self.rows, each, self.arms) for each in self.workloads}

    def analysis(self, mishap: str) -> Analysis:
        found = (self._judged(each, self.study.confidence)[0] for each in self._contrasts())
        contrasts = tuple(each for each in found if not uncounted(each))
        checks = check(Subject(self.study, self.workloads, self.arms, self.rows, contrasts, mishap))
        why = void(checks)
        verdicts = judge(tuple(self.questions()), self.study, why)
        complete = sum(burst.complete for burst in self.rows.bursts)
        described = views.describe_arms(self.rows, self.workloads, self.shown, self.requests)
        return Analysis(
            study=self.study.name,
            baseline=self.study.design.baseline,
            treatment=self.study.design.treatment,
            controls=self.study.design.controls,
            arms=self.shown,
            hidden=self.layout.hidden,
            confidence=self.study.confidence,
            family_confidence=self.study.family_confidence,
            bursts=complete,
            interrupted=len(self.rows.bursts) - complete,
            seconds_measured=sum(row.seconds for rows in self.rows.stretches.values() for row in rows),
            valid=not why,
            answer=answer(verdicts, contrasts, why),
            metrics=tuple(each.info() for each in METRICS.values()),
            contrasts=contrasts,
            verdicts=verdicts,
            checks=checks,
            curves=described.curves,
            throughput=described.throughput,
            cpu=described.cpu,
            memory=described.memory,
            summaries=described.summaries,
            gauges=described.gauges,
            attributions=tuple(self._attributions()),
            crossovers=tuple(self._crossovers(contrasts)),
            leaks=tuple(views.leaks(self.rows, self.study.confidence)),
            traces=tuple(views.traces(self.rows, self.shown)),
            tails=tuple(self._tails()),
        )

    def _attributions(self) -> Iterator[Attribution]:
        """Which flag pays, for the metrics people ask for first; only a factorial design can say."""
        if not self.layout.foldover:
            return
        for workload in self.workloads:
            for name in HEADLINE:
                of = metric(name)
                request = workload.request if of.per_request_name else ""
                asked = Contrast("none", "all", "treatment", workload.name, of, request, "slice")
                found = attribute(
                    asked,
                    self.layout,
                    self.rows.bursts,
                    partial(self._read, asked),
                    self.study.confidence,
                    self.study.budget.stop_early,
                )
                if found is not None:
                    yield found

    def _crossovers(self, contrasts: Sequence[ContrastResult]) -> Iterator[Crossover]:
        """Where the treatment starts to pay, for the sweep's metric or those people ask for first."""
        sweep = self.study.design.sweep
        if self.study.design.kind != "sweep" or sweep is None:
            return
        own = next(each.request for each in self.study.workloads if each.name == sweep.workload)
        for name in (sweep.metric,) if sweep.metric else HEADLINE:
            found = crossover(sweep, name, own if metric(name).per_request_name else "", contrasts)
            if found is not None:
                yield found

    def _tails(self) -> Iterator[TailTest]:
        """Whether tails differ, for every comparison made in segments."""
        for workload in self.workloads:
            for comparison in self.layout.on[workload.name]:
                yield from tails(self.rows, self.study, workload, comparison)

    def _contrasts(self) -> Iterator[Contrast]:
        """Every comparison of the design on every workload, metric, kind of stretch and request that was
        measured.
        """
        for comparison in self.layout.comparisons:
            for workload in self.workloads:
                if comparison not in self.layout.on[workload.name]:
                    continue
                for of in METRICS.values():
                    for source in self._sources(of, workload, comparison):
                        for request in self.requests[workload.name] if of.per_request_name else ("",):
                            yield _contrast(comparison, of, source, workload.name, request)
            for of in METRICS.values():
                if of.after_work and comparison.a in self.rows.readings and comparison.b in self.rows.readings:
                    yield _contrast(comparison, of, "reading", "", "")

    def _sources(self, of: Metric, workload: Workload, comparison: Comparison) -> Iterator[Source]:
        for kind in STRETCHES:
            arms = (comparison.a, comparison.b)
            if kind in of.sources and any(self.rows.of(workload.name, arm, kind) for arm in arms):
                yield kind
        if "reading" in of.sources and any((workload.name, arm) in self.rows.episodes for arm in arms):
            yield "reading"

    def _judged(self, question: Contrast, confidence: float) -> Judged:
        a, b = (self._read(question, arm) for arm in (question.a, question.b))
        return judge_contrast(question, a, b, self.study, confidence)

    def _read(self, question: Contrast, arm: str) -> Readings:
        of, source, workload = question.metric, question.source, question.workload
        key = (workload, arm, source, of.name, question.request)
        if key not in self._readings:
            self._readings[key] = readings(self._rows(workload, arm, source), of, question.request)
        return self._readings[key]

    def _rows(self, workload: str, arm: str, source: Source) -> Sequence[Row]:
        if source != "reading":
            return self.rows.of(workload, arm, source)
        return self.rows.episodes.get((workload, arm), ()) if workload else self.rows.readings.get(arm, ())

    def questions(self) -> Iterator[Question]:
        """Every expectation against every arm it names, with its evidence at the family level."""
        confidence = self.study.family_confidence
        for expectation in self.study.expectations:
            for against in expectation.against:
                asked = self._asked(expectation, against)
                if asked is None:
                    yield Question(expectation, against)
                else:
                    evidence = self._judged(asked, confidence)
                    yield Question(expectation, against, *evidence, limited=self._limited(asked))

    def _limited(self, asked: Contrast) -> frozenset[str]:
        """Of the two arms, those whose pace the load process decided, where the question is about pace."""
        played = [each for each in self.workloads if each.name == asked.workload and asked.metric.name in PACE]
        return frozenset(
            arm
            for workload in played
            for arm in (asked.a, asked.b)
            if load_was_the_limit(self.study, workload, self.rows.every(workload.name, arm))
        )

    def _asked(self, expectation: Expectation, against: str) -> Contrast | None:
        """The contrast an expectation is about, from the first kind of stretch that has rows; None if there
        is none.
        """
        of = metric(expectation.metric)
        roles = {(each.a, each.b): each for each in reversed(self.layout.comparisons)}
        comparison = roles[against, expectation.arm]
        workload = next((each for each in self.workloads if each.name == expectation.workload), None)
        if of.after_work and (workload is None or not workload.is_episode):
            return _contrast(comparison, of, "reading", "", "")
        source = next(self._sources(of, workload, comparison), None) if workload is not None else None
        if workload is None or source is None:
            return None
        request = (expectation.request or workload.request) if of.per_request_name else ""
        return _contrast(comparison, of, source, workload.name, request)


def _contrast(comparison: Comparison, of: Metric, source: Source, workload: str, request: str) -> Contrast:
    return Contrast(comparison.a, comparison.b, comparison.role, workload, of, request, source)


def answer(verdicts: Sequence[Verdict], contrasts: Sequence[ContrastResult], why: str) -> str:
    """The study's result in one or two sentences for people; `why` it is INVALID, if it is."""
    if why:
        return f"INVALID, so nothing is claimed: {why}."
    if verdicts:
        counts = [(word, sum(each.outcome == word for each in verdicts)) for word in OUTCOMES]
        told = ", ".join(f"{count} {word}" for word, count in counts if count)
        of = f"{len(verdicts)} verdicts" if len(verdicts) > 1 else "1 verdict"
        return f"Of {of}: {told}. {verdicts[0].sentence}."
    return _headline(contrasts)


def _headline(contrasts: Sequence[ContrastResult]) -> str:
    """What the treatment did to the metrics people ask for first: each, or of many only how often it was shown."""
    found = [
        (each, each.estimate)
        for each in contrasts
        if each.role == "treatment" and each.estimate and each.metric in HEADLINE
    ]
    if not found:
        return "Nothing was measured that could be compared."
    told = [f"{metric(each.metric).noun} on {each.workload} {describe(estimate)}" for each, estimate in found]
    if len(told) > MOST_TOLD:
        by_metric = {name: [estimate for each, estimate in found if each.metric == name] for name in HEADLINE}
        told = [f"{metric(name).noun} {_how_often(estimates)}" for name, estimates in by_metric.items() if estimates]
    first = contrasts[0]
    return f"{first.b} against {first.a}: " + "; ".join(told) + "."


def _how_often(estimates: Sequence[Estimate]) -> str:
    fell, rose = sum(each.high < 1.0 for each in estimates), sum(each.low > 1.0 for each in estimates)
    shown = [f"{word} in {count}" for word, count in (("fell", fell), ("rose", rose)) if count]
    return f"{' and '.join(shown) or 'was not shown to change in any'} of {len(estimates)} comparisons"
