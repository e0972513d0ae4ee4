"""What an interval says about a declared expectation, and the sentence that tells people.

All verdicts of a study hold together with the study's confidence: p-values go through Holm, and every
interval shown is at the family level 1 - alpha/questions. A decision Holm makes beyond the interval shown
says so in its sentence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from harness.analyse.centre import Floats, centre, centre_p_value, too_few
from harness.analyse.contrast import uncounted
from harness.analyse.records import ContrastResult, Estimate, Outcome, Verdict
from harness.analyse.sequential import log_e_path, p_value
from harness.measure.metrics import Metric, metric
from harness.study.records import Expectation, Study

ROUNDING = 1e-12
"log ratios that differ by less are the same"


@dataclass(frozen=True, slots=True)
class Question:
    """One expectation against one arm, with the evidence if any: the contrast and its burst medians (log
    ratios).

    `other` is the metric when it is not one of the table (data from another tool). `limited` are arms in which the
    load process was the limit: the system is at least as good there as was measured.
    """

    expectation: Expectation
    against: str
    contrast: ContrastResult | None = None
    medians: Floats = field(default_factory=lambda: np.empty(0))
    other: Metric | None = None
    limited: frozenset[str] = frozenset()

    @property
    def metric(self) -> Metric:
        """What the question is about."""
        return self.other or metric(self.expectation.metric)


def bound_of(expectation: Expectation) -> tuple[Literal["at_most", "at_least"], float]:
    """Which side is claimed, and the ratio."""
    if expectation.at_most is not None:
        return "at_most", expectation.at_most
    assert expectation.at_least is not None
    return "at_least", expectation.at_least


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjusted p-values, in the order given."""
    adjusted = [1.0] * len(p_values)
    floor = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return tuple(adjusted)


def judge(questions: Sequence[Question], study: Study, void: str = "") -> tuple[Verdict, ...]:
    """A verdict for each question, all of them together at the study's confidence.

    `void` is why the whole measurement is invalid, if it is: then nothing is MET or MISSED.
    """
    alpha = 1.0 - study.confidence
    p_values = [_p_value(each, study.budget.stop_early) for each in questions]
    return tuple(
        _verdict(each, alpha, values, void, sequential=study.budget.stop_early)
        for each, values in zip(questions, zip(p_values, holm(p_values), strict=True), strict=True)
    )


def _p_value(question: Question, sequential: bool) -> float:
    """Against the claimed bound, two-sided like the intervals."""
    found = question.contrast
    if found is None or found.estimate is None or found.problem:
        return 1.0
    if not sequential:
        return centre_p_value(question.medians, _edge(question))
    return min(1.0, 2.0 * min(map(p_value, _evidence(question))))


def _evidence(question: Question) -> tuple[Floats, Floats]:
    """log E of "above the claimed bound" and of "below it" after each burst."""
    edge = _edge(question)
    return log_e_path(question.medians, edge), log_e_path(-question.medians, -edge)


def _edge(question: Question) -> float:
    """The log ratio where the claimed side ends. The bound belongs to it, however a quotient of counts was rounded."""
    side, bound = bound_of(question.expectation)
    return math.log(bound) + (ROUNDING if side == "at_most" else -ROUNDING)


def _shown_below(question: Question, sequential: bool) -> bool:
    """On which side of the bound a decided question lies. Sequentially, on that of the evidence that was reached: the
    median may have crossed the bound since.
    """
    if sequential:
        above, below = map(p_value, _evidence(question))
        return below < above
    return centre(question.medians) < _edge(question)


def _verdict(
    question: Question, alpha: float, p_values: tuple[float, float], void: str, *, sequential: bool
) -> Verdict:
    expectation, found = question.expectation, question.contrast
    of = question.metric
    side, bound = bound_of(expectation)
    raw_p, adjusted_p = p_values
    outcome, reason = _outcome(question, of, alpha, adjusted_p, sequential)
    if void and outcome != "NOT MEASURABLE":
        outcome, reason = "INCONCLUSIVE", f"the measurement is invalid: {void}"
    return Verdict(
        expectation=expectation.name,
        claim=expectation.claim,
        workload=expectation.workload,
        metric=expectation.metric,
        request=found.request if found is not None else expectation.request,
        arm=expectation.arm,
        against=question.against,
        side=side,
        bound=bound,
        outcome=outcome,
        contrast=found,
        p_value=raw_p,
        adjusted_p=adjusted_p,
        sentence=_sentence(question, of, outcome, reason, adjusted_p),
        reason=reason,
    )


def _outcome(question: Question, of: Metric, alpha: float, adjusted_p: float, sequential: bool) -> tuple[Outcome, str]:
    found = question.contrast
    if found is None:
        return "INCONCLUSIVE", f"no pair of {question.expectation.arm} and {question.against} was measured"
    if uncounted(found):
        return "NOT MEASURABLE", "this machine shows us no counter of it"
    if found.estimate is None or found.problem:
        return "INCONCLUSIVE", found.problem
    if adjusted_p <= alpha:
        return _decided(question, found, of, _shown_below(question, sequential))
    if not found.estimate.bounded:
        return "INCONCLUSIVE", f"{too_few(found.estimate.bursts)} for an interval"
    return "INCONCLUSIVE", "the interval contains the claimed bound"


def _decided(question: Question, found: ContrastResult, of: Metric, below: bool) -> tuple[Outcome, str]:
    """On which side of the bound the evidence lies is what was claimed or not, unless the load process put it there."""
    worse = found.a if below == (of.direction == "lower") else found.b
    if worse in question.limited:
        return "INCONCLUSIVE", f"the load process was the limit of {worse}, which may be better than it seems"
    return ("MET" if below == (bound_of(question.expectation)[0] == "at_most") else "MISSED"), ""


def _sentence(question: Question, of: Metric, outcome: Outcome, reason: str, adjusted_p: float) -> str:
    shown = question.contrast.estimate if question.contrast is not None else None
    side, bound = bound_of(question.expectation)
    subject = f"{of.noun[0].upper()}{of.noun[1:]}"
    if question.expectation.request:
        subject += f" of {question.expectation.request}"
    if question.contrast is not None and question.contrast.workload:
        subject += f" on {question.contrast.workload}"
    times = bound >= 2.0 or (shown is not None and shown.ratio >= 2.0)  # both in the same words
    claimed = f"claimed: {describe_bound(side, bound, times)}"
    if shown is None:
        return f"{subject} against {question.against}: {outcome} ({reason}; {claimed})"
    words = f"{subject} {describe(shown, times)} against {question.against}; {claimed}: {outcome}"
    if reason:
        return f"{words} ({reason})"
    if shown.low <= math.exp(_edge(question)) <= shown.high:
        return f"{words} (decided by Holm's step-down, adjusted p = {adjusted_p:.2g})"
    return words


def describe(shown: Estimate, times: bool = False) -> str:
    """A ratio in words: "fell by 92 % (interval 91 to 93 %)"; from two on, and when `times`, as a multiple."""
    if shown.low == shown.ratio == shown.high == 1.0:
        return "did not change"
    if times or shown.ratio >= 2.0:
        interval = f"{shown.low:.3g} to {_number(shown.high)} times" if shown.bounded else "not bounded"
        return f"became {shown.ratio:.3g} times as high (interval {interval})"
    falling = shown.ratio < 1.0
    sign = -1.0 if falling else 1.0
    ends = sorted((sign * (shown.low - 1.0), sign * (shown.high - 1.0)))
    interval = f"{_percent(ends[0])} to {_percent(ends[1])} %" if shown.bounded else "not bounded"
    return f"{'fell' if falling else 'rose'} by {_percent(abs(shown.change))} % (interval {interval})"


def describe_bound(side: str, bound: float, times: bool = False) -> str:
    """A claimed ratio in words: "at least 70 % less", "at most 2 % more", "at least 2.5 times"."""
    if times:
        return f"{'at least' if side == 'at_least' else 'at most'} {bound:.3g} times"
    less = bound < 1.0
    word = "at least" if (side == "at_most") == less else "at most"
    return f"{word} {_percent(abs(bound - 1.0))} % {'less' if less else 'more'}"


def _percent(share: float) -> str:
    return _number(100.0 * share)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100.0 else f"{value:.0f}"
