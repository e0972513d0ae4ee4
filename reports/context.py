"""Tables of what surrounds the result: validity checks, what was compared, machine, run, metrics."""

from __future__ import annotations

from harness.analyse.records import Analysis, Check
from harness.measure.records import Environment
from harness.study.records import Study, Workload
from reports import words
from reports.info import RunInfo
from reports.tables import Table

CHECK_ORDER = {"invalid": 0, "note": 1, "ok": 2}


def check_groups(analysis: Analysis) -> Table:
    """Validity checks, the failed ones first: one row per check and status, the first place standing for all."""
    grouped: dict[tuple[str, str], list[Check]] = {}
    for each in sorted(analysis.checks, key=lambda each: CHECK_ORDER[each.status]):
        grouped.setdefault((each.status, each.name), []).append(each)
    rows = tuple(
        (
            status,
            name,
            found[0].saw,
            found[0].bound,
            found[0].where + (f" (and {words.plural(len(found) - 1, 'more place')})" if len(found) > 1 else ""),
            found[0].remedy,
        )
        for (status, name), found in grouped.items()
    )
    return Table("Validity checks", ("status", "check", "saw", "bound", "where", "what to do"), rows)


def checks(analysis: Analysis) -> Table:
    """Every validity check in every place, the failed ones first."""
    rows = tuple(
        (each.status, each.name, each.where, each.saw, each.bound, each.remedy)
        for each in sorted(analysis.checks, key=lambda each: CHECK_ORDER[each.status])
    )
    return Table("Every check in every place", ("status", "check", "where", "saw", "bound", "what to do"), rows)


def arms(study: Study, analysis: Analysis) -> Table:
    """Who was compared."""
    part = {analysis.baseline: "baseline", analysis.treatment: "treatment"}
    part |= dict.fromkeys(analysis.controls, "control: an honest stand-in for the baseline")
    rows = [(name, part.get(name, ""), words.arm_words(study, name)) for name in analysis.arms]
    twin = f"twin of {analysis.baseline}: must not be shown to differ"
    rows += [(name, "hidden", twin) for name in analysis.hidden]
    return Table("Arms", ("arm", "part", "what it is"), tuple(rows))


def workloads(study: Study) -> Table:
    """What was asked of the arms."""
    rows = tuple(
        (
            each.name,
            each.question or words.ABSENT,
            _arrivals(each),
            "none" if each.is_episode else words.quantity(each.slice_seconds, "s"),
            words.quantity(each.segment_seconds, "s") if each.segment_seconds else "none",
            _episode(each),
        )
        for each in study.workloads
    )
    return Table("Workloads", ("workload", "question", "arrivals", "slice", "segment", "episode"), rows, (3, 4, 5))


def _episode(workload: Workload) -> str:
    if workload.tasks:
        return words.plural(workload.tasks, "task")
    return words.quantity(workload.episode_seconds, "s") if workload.is_episode else "none"


def _arrivals(workload: Workload) -> str:
    awake = ", cores kept awake" if workload.awake else ""
    if workload.arrivals == "closed":
        return f"closed, {workload.users} {'user' if workload.users == 1 else 'users'}{awake}"
    if workload.shape:
        knots = ", ".join(f"{words.number(rate)}/s at {words.quantity(at, 's')}" for at, rate in workload.shape)
        return f"open, {workload.arrivals}, {knots}{awake}"
    rate = f"{words.number(workload.rate)}/s" if workload.rate else "half the slower arm's capacity"
    return f"open, {workload.arrivals}, {rate}{awake}"


def environment(found: Environment) -> Table:
    """Machine and software."""
    rows = [
        ("machine", found.machine),
        ("processor", found.cpu),
        ("cores", words.count(found.cores)),
        ("memory", words.quantity(found.memory_bytes, "B")),
        ("kernel", found.kernel),
        ("Python", found.python),
        ("revision", found.revision + (", with uncommitted changes" if found.dirty else "")),
        *((name, version) for name, version in sorted(found.packages.items())),
        *found.variables.items(),
    ]
    return Table("Machine and software", ("what", "value"), tuple(rows))


def run(study: Study, analysis: Analysis, info: RunInfo) -> Table:
    """The run itself."""
    rows = (
        ("run", info.run),
        ("study", study.name),
        ("started", words.moment(info.started)),
        ("ended", words.moment(info.ended)),
        ("took", words.duration(info.ended - info.started)),
        ("under load", words.duration(analysis.seconds_measured)),
        ("bursts", f"{analysis.bursts} complete, {analysis.interrupted} interrupted"),
        ("seed", str(info.seed)),
        ("finished", "yes" if info.complete else f"no: {words.unfinished(info)[0].lower()}"),
    )
    return Table("Run", ("what", "value"), rows)


def metrics(analysis: Analysis) -> Table:
    """What each metric means."""
    rows = tuple(
        (
            each.noun,
            each.name,
            each.unit,
            f"{each.direction} is better" if each.judged else "descriptive",
            each.definition,
        )
        for each in analysis.metrics
    )
    return Table("Metrics", ("metric", "name in studies", "unit", "direction", "definition"), rows)
