"""Each validity check voids the run it should, names what it saw, and leaves a good run alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from harness.analyse.analysis import analyse
from harness.analyse.centre import centre_interval
from harness.analyse.records import Check
from harness.analyse.validity import CHECKS, HOPELESS, hopeless, load_was_the_limit
from harness.measure.records import Latencies, Measured, Slice
from harness.plan.arms import workloads
from harness.study.records import Arm, Design, Expectation, Study, Sweep, Target
from tests.harness.analyse.synthetic import STEADY, SURGE, a_run, a_stretch, a_study, changed

DESIGN = Design(controls=("first-day-reuse",))
FACTORS = {"all": 0.5}
PROGRAM = Target(kind="command", command=("server",))


def both() -> Study:
    return a_study(workloads=(SURGE, STEADY), design=DESIGN)


def quiet_run(study: Study, factors: dict[str, float] | None = None, bursts: int = 12) -> Measured:
    return a_run(study, factors or FACTORS, bursts, sd_layout=0.002, sd_pair=0.004)


def found(study: Study, measured: Measured, name: str) -> list[Check]:
    return [each for each in analyse(study, measured).checks if each.name == name]


def some(measured: Measured, arm: str, **fields: object) -> Measured:
    """The run with these fields set in the stretches of one arm."""
    rows = tuple(msgspec.structs.replace(row, **fields) if row.arm == arm else row for row in measured.slices)
    return msgspec.structs.replace(measured, slices=rows)


def test_a_good_run_is_valid() -> None:
    analysis = analyse(both(), quiet_run(both()))
    assert analysis.valid
    assert {each.status for each in analysis.checks} <= {"ok", "note"}
    silent = 5  # no segments (2), nobody looked who else ran, the load was not the limit, the node is ours
    assert len({each.name for each in analysis.checks}) == len(CHECKS) - silent
    assert all(each.saw and each.bound and each.remedy and each.where for each in analysis.checks)


@pytest.mark.parametrize(
    ("name", "fields", "saw"),
    [
        ("successes", {"answered": 0, "failed": {"refused": 100}, "started": 100}, "0 answered of 3,600 started"),
        ("successes", {"answered": 0, "failed": {"E": 1}, "said": {"E": "no at x:1"}}, "requests (E: no at x:1)"),
        ("errors", {"failed": {"reset": 1}}, "of requests failed (reset)"),
        ("errors", {"failed": {"E": 1, "F": 1}, "said": {"E": "no at x:1"}}, "failed (E: no at x:1, F)"),
        ("errors", {"cancelled": 2}, "of requests failed (no answer in time)"),
        ("rejections", {"rejected": 1}, "of requests rejected"),
        ("conservation", {"cancelled": 3}, "requests not counted exactly once"),
    ],
)
def test_requests_gone_wrong(name: str, fields: dict[str, object], saw: str) -> None:
    study = a_study(design=DESIGN)
    analysis = analyse(study, some(quiet_run(study), "all", **fields))
    bad = [each for each in analysis.checks if each.name == name and each.status == "invalid"]
    assert [each.where for each in bad] == ["surge on all"]
    assert saw in bad[0].saw
    assert not analysis.valid
    assert analysis.answer.startswith("INVALID, so nothing is claimed: ")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("generator CPU", {"cpu_load": 0.19}),
        ("schedule lag", {"lag_max": 0.05}),
        ("offered rate", {"tasks": 80}),
    ],
)
def test_a_generator_that_cannot_keep_an_open_schedule(name: str, fields: dict[str, object]) -> None:
    bad = [each for each in found(both(), changed(quiet_run(both()), **fields), name) if each.status == "invalid"]
    assert len(bad) == 4
    assert all(each.where.startswith("steady on ") for each in bad)  # a closed workload may use its core up


@pytest.mark.parametrize(
    ("name", "fields"),
    [("generator CPU", {"cpu_load": 9.9}), ("schedule lag", {"lag_max": 0.11}), ("offered rate", {"tasks": 80})],
)
def test_segments_are_looked_at_by_themselves(name: str, fields: dict[str, object]) -> None:
    """Far more slices than segments lie beside them, and those are fine."""
    measured = quiet_run(both())
    segments = tuple(
        msgspec.structs.replace(row, kind="segment", planned=10.0, **fields)
        for row in measured.slices
        if row.workload == "steady" and row.block == 0
    )
    together = msgspec.structs.replace(measured, slices=(*measured.slices, *segments))
    bad = {each.where for each in found(both(), together, name) if each.status == "invalid"}
    assert bad == {f"steady on {arm}, segments" for arm in ("none", "all", "first-day-reuse", "none-again")}


def test_offered_rate_needs_a_rate() -> None:
    assert not found(both(), changed(quiet_run(both()), arrivals=0), "offered rate")


def test_declared_errors_and_rejections_are_allowed() -> None:
    allowed = msgspec.structs.replace(SURGE, max_error_ratio=0.1, max_rejection_ratio=0.1)
    study = a_study(workloads=(allowed,))
    measured = changed(quiet_run(study), failed={"reset": 5}, rejected=5)
    for name in ("errors", "rejections"):
        assert {each.status for each in found(study, measured, name)} == {"ok"}


def test_too_few_complete_bursts() -> None:
    study = a_study(design=DESIGN)
    measured = quiet_run(study, bursts=8)
    cut = tuple(msgspec.structs.replace(each, complete=each.number < 6) for each in measured.bursts)
    (check,) = found(study, msgspec.structs.replace(measured, bursts=cut), "bursts")
    assert (check.status, check.saw) == ("invalid", "6 complete bursts of 8")


def test_a_run_in_which_an_arm_answered_nothing_is_over() -> None:
    study = a_study(design=DESIGN)
    measured = quiet_run(study, bursts=1)
    silent = some(measured, "all", answered=0, failed={"E": 99}, started=HOPELESS, said={"E": "no"})
    assert not hopeless(measured)
    assert hopeless(silent)
    assert not hopeless(some(measured, "all", answered=0, started=HOPELESS // len(measured.slices)))
    once = (msgspec.structs.replace(silent.slices[0], answered=1), *silent.slices[1:])
    rows = [row for row in measured.slices if row.arm == "all"]
    assert not hopeless(msgspec.structs.replace(silent, slices=(*once, *rows)))
    analysis = analyse(study, silent)
    assert analysis.answer.startswith("INVALID, so nothing is claimed: successes: 0 answered of ")
    assert [each.remedy for each in analysis.checks if each.name == "bursts"] == ["measure anew"]


def test_missing_rows_are_named() -> None:
    study = a_study(design=DESIGN)
    measured = quiet_run(study)

    def lost(row: Slice) -> bool:
        return row.burst == 3 and row.arm == "all"

    rows = tuple(row for row in measured.slices if not lost(row))
    (check,) = found(study, msgspec.structs.replace(measured, slices=rows), "missing rows")
    assert (check.status, check.where) == ("invalid", "burst 3: surge on all")
    unfinished = tuple(msgspec.structs.replace(each, complete=each.number != 3) for each in measured.bursts)
    (check,) = found(study, msgspec.structs.replace(measured, slices=rows, bursts=unfinished), "missing rows")
    assert check.status == "ok"


def lasting(row: Slice, times: float) -> dict[str, object]:
    return {"seconds": row.seconds * times}


def late(row: Slice, times: float) -> dict[str, object]:
    later = (Latencies(each.name, (each.service_seconds() * times).tobytes()) for each in row.latencies)
    return {"latencies": tuple(later)}


@pytest.mark.parametrize("times", [1.3, 1 / 1.3])
@pytest.mark.parametrize(("slower", "workload"), [(lasting, "surge"), (late, "steady")])
def test_no_steady_state(slower: Callable[[Slice, float], dict[str, object]], workload: str, times: float) -> None:
    study = both()
    measured = quiet_run(study, bursts=20)
    warming = tuple(msgspec.structs.replace(row, **slower(row, times**row.block)) for row in measured.slices)
    bad = found(study, msgspec.structs.replace(measured, slices=warming), "steady state")
    assert {each.where for each in bad if each.status == "invalid"} == {
        f"{workload} on {arm}" for arm in ("none", "all", "first-day-reuse", "none-again")
    }
    one_block = tuple(row for row in measured.slices if row.block == 0)
    assert not found(study, msgspec.structs.replace(measured, slices=one_block), "steady state")


def test_few_bursts_cannot_tell_a_steady_state() -> None:
    checks = found(both(), quiet_run(both(), bursts=7), "steady state")
    assert {each.status for each in checks} == {"note"}
    assert all(each.saw.endswith("7 bursts are too few to tell") for each in checks)


def test_equal_arms_that_differ_void_the_run() -> None:
    study = a_study(design=DESIGN)
    checks = found(study, quiet_run(study, {"none-again": 1.10}, bursts=20), "A/A equivalence")
    assert {each.status for each in checks} == {"invalid"}
    assert all("equal arms differ by" in each.saw for each in checks)


def test_equivalence_not_shown_is_a_note() -> None:
    study = a_study(design=DESIGN)
    noisy = a_run(study, FACTORS, 12, sd_layout=0.05, seed=2)
    checks = found(study, noisy, "A/A equivalence")
    assert {each.status for each in checks} == {"note"}
    assert all(each.saw.endswith("too wide to show that they are equal") for each in checks)


def test_a_load_process_that_did_nothing_was_no_limit() -> None:
    study = msgspec.structs.replace(a_study(), target=PROGRAM)
    rows = tuple(msgspec.structs.replace(row, seconds=0.0) for row in quiet_run(study).slices)
    assert not load_was_the_limit(study, SURGE, rows)


def test_all_claims_of_equivalence_hold_together() -> None:
    study = a_study(design=DESIGN)
    analysis = analyse(study, a_run(study, FACTORS, 12, sd_layout=0.01, seed=2))
    told = [each for each in analysis.checks if each.name == "A/A equivalence"]
    twins = [
        each
        for each in analysis.contrasts
        if (each.role, each.source) == ("a/a", "slice")
        and f"{each.metric} on {each.workload}" in {c.where for c in told}
    ]
    assert len(told) == len(twins) > 1
    for check, twin in zip(told, twins, strict=True):
        low, high = centre_interval(np.log(twin.burst_ratios), 1.0 - 0.05 / len(twins))
        assert f"by {math.expm1(low):+.1%} to {math.expm1(high):+.1%}" in check.saw


def test_too_few_bursts_show_no_equivalence() -> None:
    study = a_study(design=DESIGN)
    notes = found(study, quiet_run(study, bursts=4), "A/A equivalence")
    assert {each.saw for each in notes} == {"4 bursts are too few to show that equal arms are equal"}
    assert {each.status for each in notes} == {"note"}


def test_segments_must_agree_with_slices() -> None:
    workload = msgspec.structs.replace(SURGE, segment_seconds=1.0)
    study = a_study(workloads=(workload,), design=DESIGN)
    measured = quiet_run(study)
    assert {each.status for each in found(study, measured, "segments agree with slices")} == {"ok"}
    for times in (5.0, 0.2):
        other = tuple(
            msgspec.structs.replace(row, cpu_target=times * row.cpu_target)
            if row.kind == "segment" and row.arm == "all"
            else row
            for row in measured.slices
        )
        bad = [
            each.where
            for each in found(study, msgspec.structs.replace(measured, slices=other), "segments agree with slices")
            if each.status == "invalid"
        ]
        assert "cpu_per_request on surge, all against none" in bad
    rare = tuple(
        msgspec.structs.replace(row, page_faults=0 if row.arm == "all" else row.answered // 20 + 1)
        for row in measured.slices
    )
    told = found(study, msgspec.structs.replace(measured, slices=rare), "segments agree with slices")
    assert {each.status for each in told} == {"ok"}, "what has a floor has another ratio where there are more requests"


def test_autocorrelation_is_only_reported() -> None:
    study = a_study(design=DESIGN)
    notes = found(study, quiet_run(study), "autocorrelation")
    assert {each.status for each in notes} == {"note"}
    assert len(notes) == 4
    assert not found(study, changed(quiet_run(study), latencies=()), "autocorrelation")


def test_a_request_that_no_task_reported_is_lost_unless_tasks_may_be_silent() -> None:
    one_more = {"started": 1_000}
    for silent, status in ((False, "invalid"), (True, "note")):
        study = a_study(workloads=(msgspec.structs.replace(SURGE, silent_tasks=silent),), design=DESIGN)
        checks = found(study, some(quiet_run(study), "all", **one_more), "conservation")
        assert [each.status for each in checks if each.where == "surge on all"] == [status]


def test_a_request_told_twice_is_not_conserved() -> None:
    """As a burst stores it, and whether or not tasks may be silent."""
    for silent in (False, True):
        study = a_study(workloads=(msgspec.structs.replace(SURGE, silent_tasks=silent),), design=DESIGN)
        measured = quiet_run(study)
        twice = some(measured, "all", answered=100, started=98, surplus=2)
        (check,) = (each for each in found(study, twice, "conservation") if each.where == "surge on all")
        rows = sum(row.arm == "all" for row in twice.slices)
        assert check.status == "invalid"
        assert check.saw.startswith(f"{2 * rows:,} of ")
        assert check.saw.endswith(f"{2 * rows:,} of them told twice")


def test_arrivals_nobody_took_are_no_failed_requests() -> None:
    study = both()
    late = some(quiet_run(study), "all", arrivals=101, tasks=100, started=101, cancelled=1, answered=100)
    assert {each.status for each in found(study, late, "errors") if each.where == "steady on all"} == {"ok"}


def test_an_error_that_ended_the_run_voids_it() -> None:
    study = a_study(design=DESIGN)
    analysis = analyse(study, quiet_run(study), mishap="target all (pid 7) died: killed by SIGKILL")
    assert not analysis.valid
    (check,) = analysis.failed
    assert (check.name, check.saw) == ("processes", "target all (pid 7) died: killed by SIGKILL")
    assert analysis.answer.startswith("INVALID, so nothing is claimed: processes: target all (pid 7) died")


def test_slices_that_hold_few_requests_of_a_user_are_told() -> None:
    study = a_study(design=DESIGN)
    checks = found(study, a_run(study, {"all": 8.0}, 8), "slice length")
    told = {each.where: (each.status, each.saw) for each in checks}
    assert told["surge on none"][0] == "ok"
    assert told["surge on all"][0] == "note"
    assert told["surge on all"][1].endswith("times as long as its median request")


def test_where_no_twin_was_measured_is_told_once() -> None:
    here = msgspec.structs.replace(STEADY, arms=("none", "all"))
    study = a_study(workloads=(SURGE, here), design=DESIGN)
    notes = [each for each in found(study, quiet_run(study), "A/A equivalence") if "no twin" in each.saw]
    assert [(each.status, each.where) for each in notes] == [("note", "steady")]
    alone = a_study(workloads=(here,), design=msgspec.structs.replace(DESIGN, hidden=False))
    assert not found(alone, quiet_run(alone), "A/A equivalence")


FASTER = {"metric": "throughput", "at_least": 2.5}


@pytest.mark.parametrize(
    ("claim", "target", "changes", "arm", "outcome"),
    [
        (FASTER, PROGRAM, {}, "all", "INCONCLUSIVE"),
        (FASTER, PROGRAM, {"both_ends": True}, "all", "MISSED"),
        (FASTER, PROGRAM, {"arrivals": "constant", "rate": 100.0}, "all", None),  # there it would void the run
        (FASTER, Target(), {}, "all", "MISSED"),
        ({"metric": "throughput", "at_least": 1.5}, PROGRAM, {}, "none", "INCONCLUSIVE"),
        ({"metric": "latency_p50", "at_most": 0.7}, PROGRAM, {}, "none", "INCONCLUSIVE"),
        ({"metric": "page_faults_per_request", "at_most": 1.1}, PROGRAM, {}, "none", "MET"),
    ],
)
def test_a_load_process_at_its_limit_judges_nobody(
    claim: dict[str, Any], target: Target, changes: dict[str, Any], arm: str, outcome: str | None
) -> None:
    """The pace of one arm is its load process's, and might be better; of the others the target is the limit."""
    asked = Expectation(name="x", claim="x", workload="surge", **claim)
    study = a_study(asked, workloads=(msgspec.structs.replace(SURGE, **changes),))
    measured = quiet_run(a_study(asked))
    slices = tuple(
        msgspec.structs.replace(row, cpu_load=load * row.seconds, cpu_target=(1.47 - load) * row.seconds)
        for row in measured.slices
        for load in (0.97 if row.arm == arm else 0.5,)
    )
    judged = analyse(msgspec.structs.replace(study, target=target), msgspec.structs.replace(measured, slices=slices))
    told = [(each.where, each.status) for each in judged.checks if each.name == "load limit"]
    assert told == [(f"surge on {arm}", "note")] * (target == PROGRAM and not changes)
    assert outcome in (None, judged.verdicts[0].outcome)


@pytest.mark.parametrize(
    ("own", "limit"),
    [({"file": "own.py"}, False), ({"files": {"surge": "own.py"}}, False), ({"files": {"other": "own.py"}}, True)],
)
def test_a_load_process_with_a_file_of_an_arms_own_is_on_trial_too(own: dict[str, Any], limit: bool) -> None:
    study = msgspec.structs.replace(a_study(), target=PROGRAM, arms=(Arm(name="own", **own),))
    busy = msgspec.structs.replace(a_stretch(), cpu_load=0.19, cpu_target=0.1)
    assert load_was_the_limit(study, SURGE, [busy]) is limit
    sweep = Sweep(workload="surge", parameter="users", values=(2, 4))
    swept = msgspec.structs.replace(study, design=Design(kind="sweep", sweep=sweep))
    assert [load_was_the_limit(swept, each, [busy]) for each in workloads(swept)] == [limit, limit]


@pytest.mark.parametrize(
    ("kind", "both_ends", "used", "status"),
    [
        ("command", False, 0.9e-6, "invalid"),
        ("command", False, 1.1e-6, "ok"),
        ("command", True, 0.0, None),
        ("reference", False, 0.0, None),
    ],
)
def test_a_program_that_answered_nothing_is_not_judged_by_what_did(
    kind: Any, both_ends: bool, used: float, status: str | None
) -> None:
    study = a_study(workloads=(msgspec.structs.replace(SURGE, both_ends=both_ends),), design=DESIGN)
    study = msgspec.structs.replace(study, target=Target(kind=kind, command=("server",) if kind == "command" else ()))
    measured = quiet_run(study)
    idle = tuple(
        msgspec.structs.replace(row, cpu_target=used * row.answered) if row.arm == "all" else row
        for row in measured.slices
    )
    analysis = analyse(study, msgspec.structs.replace(measured, slices=idle))
    told = {each.where: each for each in analysis.checks if each.name == "target reached"}
    assert (told["surge on all"].status if told else None) == status
    assert {each.status for where, each in told.items() if where != "surge on all"} <= {"ok"}
    assert analysis.valid == (status != "invalid")
    if status == "invalid":
        assert "target reached: the program used 0.9 us of CPU per answered request, so the load went elsewhere: " in (
            analysis.answer
        )
    assert not found(study, changed(measured, answered=0), "target reached"), "another check tells that"


@pytest.mark.parametrize(
    ("others", "stolen", "status"), [(0.05, 0.02, "ok"), (0.3, 0.0, "note"), (0.0, 0.3, "note"), (None, None, None)]
)
def test_a_busy_machine_is_told(others: float | None, stolen: float | None, status: str | None) -> None:
    measured = quiet_run(both())
    first, *rest = measured.bursts
    bursts = (msgspec.structs.replace(first, others=others, stolen=stolen), *rest)
    checks = found(both(), msgspec.structs.replace(measured, bursts=bursts), "quiet machine")
    assert [each.status for each in checks] == ([status] if status else [])
    if status == "note":
        assert "(at most 30%)" in checks[0].saw
        assert checks[0].saw.endswith("1 of 1 beyond the bound")
