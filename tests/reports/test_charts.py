from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest
from matplotlib.figure import Figure

from harness.analyse.records import Analysis, CpuShare, SeriesPoint, ThroughputSeries
from harness.study.file import ROOT
from harness.study.records import OPTIMIZATIONS
from reports import bars, charts, forest
from reports.svg import drawing, inline, linear_ticks, log_ticks, new_figure, write
from tests.reports.sample import attributed, sample


@pytest.mark.parametrize("low", [1e-6, 0.0021, 0.93, 1.0, 47.0, 8_000.0])
@pytest.mark.parametrize("spread", [1.01, 1.3, 3.0, 20.0, 4_000.0, 1e8])
def test_log_ticks_are_a_few_values_within_the_range(low: float, spread: float) -> None:
    for at_most in (5, 7, 9):
        ticks = log_ticks(low, low * spread, at_most)
        assert 2 <= len(ticks) <= at_most
        assert all(low * 0.999 <= tick <= low * spread * 1.001 for tick in ticks)
        apart = [math.log(after / before) / math.log(spread) for before, after in pairwise(ticks)]
        assert min(apart) > 0.06, "labels that crowd at one end cannot be read"


def test_linear_ticks_are_round_and_within_the_range() -> None:
    assert linear_ticks(0.0, 163.0) == (0.0, 25.0, 50.0, 75.0, 100.0, 125.0, 150.0)
    assert linear_ticks(0.97, 1.03, 5) == (0.98, 1.0, 1.02)


def test_ratio_axes_always_have_no_change() -> None:
    for low, high in ((0.1, 9.0), (0.99, 1.4), (0.97, 1.03), (0.001, 1.1)):
        assert 1.0 in forest.ratio_ticks(low, high, 9)


def test_text_stays_text_and_markup_in_it_is_escaped() -> None:
    def figure_with(words: str) -> str:
        with drawing("key"):
            figure = new_figure(100.0, 50.0)
            write(figure, 1.0, 20.0, words)
            return str(inline(figure, "key", words, words))

    drawn = figure_with('a < b & "c" $x^2$ <script>#010010 id="q" url(#z)</script>')
    assert "a &lt; b &amp; " in drawn
    assert "<script" not in drawn
    assert "$x^2$" in drawn
    assert "#010010 id=" in drawn.split("</desc>")[1], "text is not rewritten as if it were a tag"
    assert drawn == figure_with('a < b & "c" $x^2$ <script>#010010 id="q" url(#z)</script>')


def test_a_forest_has_one_line_per_estimate() -> None:
    shown = forest.blocks(sample(), sample().contrasts)
    estimates = [each for each in sample().contrasts if each.estimate is not None]
    assert sum(len(block.lines) for block in shown) == len(estimates)
    frame = forest.frame(shown)
    for block in shown:
        for line in block.lines:
            assert frame.low < line.ratio < frame.high
            assert all(frame.low < bound < frame.high for _, bound in line.bounds)
    assert frame.low < 1.0 < frame.high


def test_descriptive_metrics_are_neither_better_nor_worse() -> None:
    found = [each for each in sample().contrasts if each.metric == "cpu_target_per_request" and each.estimate]
    senses = {line.sense for block in forest.blocks(sample(), found) for line in block.lines}
    assert senses == {"neutral"}


def test_an_unbounded_interval_ends_in_arrows_at_the_edges() -> None:
    line = forest.Line("b against a", 0.5, 0.0, math.inf, "-50 % (not bounded)", "unclear")
    shown = (forest.Block("metric", "lower is better", (line,)),)
    chart = forest.forest(shown, forest.frame(shown), "key", "title")
    assert chart is not None
    assert "not bounded" in chart.wide
    cut = (forest.Block("metric", "lower is better", (_bounded(line),)),)
    whole = forest.forest(cut, forest.frame(cut), "key", "title")
    assert whole is not None
    assert chart.wide.count("<use") == whole.wide.count("<use") + 2


def _bounded(line: forest.Line) -> forest.Line:
    """The same line with an interval that fits."""
    return forest.Line(line.label, line.ratio, 0.45, 0.55, line.told, line.sense)


@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
def test_the_ratios_below_a_forest_are_neither_cut_off_nor_upon_each_other(width: float) -> None:
    lines = tuple(forest.Line("b against a", each, each, each, "", "better") for each in (0.0005, 28.0, 11_000.0))
    shown = (forest.Block("metric", "lower is better", lines),)
    figure = forest._figure(shown, forest.frame(shown), width)
    with drawing("key"):
        boxes = [each.get_window_extent() for each in figure.axes[0].get_xticklabels()]
    assert boxes[0].x0 >= 0.0
    assert boxes[-1].x1 <= width
    assert all(before.x1 < after.x0 for before, after in pairwise(boxes))


def test_attribution_shows_each_flag_and_the_whole() -> None:
    (found,) = attributed().attributions
    flags, whole = forest.attribution_blocks(found)
    assert len(flags.lines) == 6
    assert [line.label for line in whole.lines] == ["all flags multiplied", "measured separately"]


def test_charts_that_have_nothing_to_show_are_left_out() -> None:
    bare = msgspec.structs.replace(sample(), curves=(), throughput=(), cpu=(), memory=())
    assert charts.percentiles(bare, "surge", "request", "slice", "k") is None
    assert charts.throughput(bare, "surge", "k") is None
    assert bars.cpu(bare, "surge", "k") is None
    assert bars.memory(bare, "k") is None
    assert forest.forest((), forest.frame(()), "k", "title") is None


def test_an_arm_that_answered_nothing_leaves_a_cross_and_no_bar() -> None:
    silent = tuple(SeriesPoint(burst, 0, 10.0 * burst, 0.0) for burst in range(3))
    share = CpuShare("surge", "all", math.nan, math.nan, 0.0, 0.0)
    mute = msgspec.structs.replace(
        sample(),
        throughput=(*sample().throughput[:1], ThroughputSeries(sample().throughput[0].workload, "all", silent)),
        cpu=(share,),
    )
    chart = charts.throughput(mute, sample().throughput[0].workload, "k")
    assert chart is not None
    assert "stroke: var(--worse)" in chart.wide
    assert bars.cpu(mute, "surge", "k") is None


def test_a_median_among_requests_without_an_answer_is_not_told() -> None:
    found = sample()
    short = tuple(
        msgspec.structs.replace(each, percentiles=(10.0, 40.0), seconds=(0.1, 0.2), service_seconds=(0.1, 0.2))
        for each in found.curves
    )
    chart = charts.percentiles(msgspec.structs.replace(found, curves=short), "surge", "request", "slice", "k")
    assert chart is not None
    assert "not resolved" in chart.wide
    assert "ms" not in chart.wide.split("</desc>")[0]


def test_of_many_arms_curves_show_the_main_ones_and_of_few_every_one() -> None:
    names = ("none", *(f"x{i}" for i in range(20)), "first-day-reuse", "all")
    many = _with_arms(*names)
    assert charts.main_arms(many, names) == ("none", "first-day-reuse", "all")
    assert charts.main_arms(many, {"x3", "none"}) == ("none", "x3"), "what a workload's two arms are there for"


@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
@pytest.mark.parametrize("last", [95.0, 99.9, 99.999])
def test_percentiles_below_a_chart_do_not_touch(width: float, last: float) -> None:
    found = msgspec.structs.replace(sample().curves[0], percentiles=(50.0, last), seconds=(0.1, 0.2))
    curve = msgspec.structs.replace(found, service_seconds=found.seconds)
    figure = charts._percentile_figure([curve], {curve.arm: "arm-baseline"}, width)
    with drawing("key"):
        boxes = [each.get_window_extent() for each in figure.axes[0].get_xticklabels()]
    boxes.sort(key=lambda box: box.x0)
    assert len(boxes) >= 3
    assert all(before.x1 < after.x0 for before, after in pairwise(boxes))


@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
def test_a_legend_of_several_rows_stays_above_the_words_over_the_axes(width: float) -> None:
    names = [f"all-{name}" for name in OPTIMIZATIONS] + ["none"]
    figure, _ = charts.framed(names, dict.fromkeys(names, "arm-1"), (width, 100.0), "over", "under")
    legend, over = figure.texts[: len(names)], figure.texts[len(names)]
    assert over.get_text() == "over"
    lowest = min(each.get_position()[1] for each in legend)
    assert (lowest - over.get_position()[1]) * 72.0 * figure.get_size_inches()[1] > 15.0


def test_every_arm_has_a_colour_of_its_own_kind() -> None:
    roles = charts.arm_roles(_with_arms("none", "pooling", "metrics", "first-day-reuse", "all"))
    assert roles["none"] == "arm-baseline"
    assert roles["first-day-reuse"] == "arm-control"
    assert roles["all"] == "arm-treatment"
    assert len(set(roles.values())) == 5


def _with_arms(*names: str) -> Analysis:
    return msgspec.structs.replace(sample(), arms=names)


def test_burst_medians_follow_the_order_of_the_run() -> None:
    points = (SeriesPoint(4, 0, 1.0, 10.0), SeriesPoint(4, 1, 2.0, 30.0), SeriesPoint(2, 0, 9.0, 5.0))
    assert charts.burst_medians(ThroughputSeries("surge", "all", points)) == [(1.5, 20.0), (9.0, 5.0)]


def drawings(count: int, figure: Callable[[float], Figure] | None = None) -> list[charts.Chart]:
    """Charts of one word each, their own key."""

    def plain(width: float) -> Figure:
        made = new_figure(width, 40.0)
        write(made, 1.0, 20.0, "word")
        return made

    return [charts.Chart(f"k{number}", "title", "said", figure or plain) for number in range(count)]


@pytest.mark.parametrize("count", [charts.WORTH_FORKING - 1, charts.WORTH_FORKING + 3])
def test_charts_drawn_together_are_those_drawn_alone(count: int) -> None:
    together, alone = drawings(count), drawings(count)
    charts.draw_together(together)
    assert [(each.wide, each.narrow) for each in together] == [(each.wide, each.narrow) for each in alone]
    assert len({each.wide for each in together}) == count


def test_many_charts_are_drawn_by_children_and_what_these_could_not_draw_by_the_parent() -> None:
    parent, drawn = os.getpid(), []

    def here_only(width: float) -> Figure:
        if os.getpid() != parent:
            os._exit(1)  # as one that the kernel ends for want of memory
        drawn.append(width)
        return new_figure(width, 40.0)

    found = drawings(charts.WORTH_FORKING, here_only)
    charts.draw_together(found)
    assert drawn == []
    assert all(each.wide.startswith("<svg") for each in found)
    assert drawn == [charts.WIDE] * len(found)


WAITING = """
import os, signal
from reports import charts

def figure(width):
    print(os.getpid(), flush=True)
    signal.pause()

charts.draw_together([charts.Chart(f"k{number}", "", "", figure) for number in range(charts.WORTH_FORKING)])
"""


def test_children_that_draw_end_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", WAITING], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout as told:
        assert int(told.readline()) != parent.pid
        parent.kill()
        told.read()  # until nobody is left who could write, or the test's time limit
