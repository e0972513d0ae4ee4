"""Study files: every mistake is one line with the file, the line, the key and what was expected."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import StudyError, UsageError
from harness.plan import arms, budget
from harness.study import file as study_file
from harness.study.records import OPTIMIZATIONS, Study

GOOD = """\
# line 1
name = "tiny"
title = "Do they pay?"
seed = 7

[target]
peers = 8

[design]
kind = "on-off"
treatment = "all"
controls = ["first-day-reuse"]

[budget]
seconds = 10
min_bursts = 2
max_bursts = 5

[[arm]]
name = "mine"
optimizations = ["pooling"]

[[workload]]
name = "surge"
file = "scenarios/load/surge.py"
users = 4

[[workload]]  # the second
name = "steady"
file = "scenarios/load/steady.py"
arrivals = "poisson"
rate = 50.0

[[expectation]]
name = "throughput"
claim = "more"
workload = "surge"
metric = "throughput"
at_least = 2.5
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> str:
    """The one line a user gets, without the path before the line number."""
    path = write(folder, text)
    with pytest.raises(StudyError) as caught:
        study_file.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}:")
    return message.removeprefix(f"{path}:")


def line_of(text: str, fragment: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if fragment in line)


def test_a_good_study_becomes_records(tmp_path: Path) -> None:
    study = study_file.load(write(tmp_path, GOOD))
    assert (study.name, study.seed, study.target.peers) == ("tiny", 7, 8)
    assert [each.name for each in study.workloads] == ["surge", "steady"]
    assert study.arms[0].optimizations == ("pooling",)
    assert study.expectations[0].at_least == 2.5


def test_the_highest_confidence_can_be_planned(tmp_path: Path) -> None:
    text = GOOD.replace("seed = 7", "confidence = 0.9999").replace("seconds = 10", "seconds = 600")
    study = study_file.load(write(tmp_path, text.replace("max_bursts = 5", "max_bursts = 60")))
    assert budget.forecast(study, arms.layout(study)).proofs


def test_every_bundled_study_loads_and_can_decide_what_it_asks() -> None:
    paths = sorted(study_file.STUDIES.glob("*.toml"))
    assert "quick" in [path.stem for path in paths]
    for path in paths:
        study = study_file.load(path)
        expected = budget.forecast(study, arms.layout(study))
        assert all(proof.bursts >= proof.needed for proof in expected.proofs), path
        assert study_file.find(path.stem) == path


REPLACED = [
    # what stands there, what stands there instead, where the mistake is then, its key, what was expected
    ('name = "tiny"', 'name = "../tiny"', "../tiny", "name", "letters, digits"),
    ("seed = 7", "seed = -1", "seed", "seed", "a whole number >= 0"),
    ("seed = 7", "confidence = 1.5", "confidence", "confidence", "0.5 <= confidence <= 0.9999"),
    ("seed = 7", "confidence = 0.9999999999999999", "confidence", "confidence", "0.5 <= confidence <= 0.9999"),
    ("seed = 7", "sead = 7", "sead", "sead", "unknown key; expected one of: .*seed.*workload,"),
    ("peers = 8", 'peers = "8"', "peers", "target.peers", "expected a whole number, got text in quotes"),
    ("peers = 8", "peers = 0", "peers", "target.peers", "from 1 to 2000"),
    ("peers = 8", "pears = 8", "pears", "target.pears", "unknown key; expected one of: .*peers"),
    ("rate = 50.0", "rate = 1e12", "rate", "workload[2].rate", r"up to 1e\+12 arrivals a second, for 0.2 s"),
    (
        "rate = 50.0",
        "shape = [[0, 9], [1, 1e9]]\nepisode_seconds = 2",
        "shape",
        "workload[2].shape",
        r"has up to 1e\+09 arrivals a second, for 2 s; expected at most 10,000,000 a stretch",
    ),
    ("peers = 8", 'ready = "port:a..b:{port}"', "ready", "target.ready", "port:HOST:PORT"),
    ("peers = 8", 'ready = "port:localhost:999999"', "ready", "target.ready", "port:HOST:PORT"),
    ("peers = 8", 'ready = "url:http://[::1:{port}"', "ready", "target.ready", "url:URL"),
    ("peers = 8", 'ready = "never"', "ready", "target.ready", "port:HOST:PORT"),
    ("peers = 8", 'ready = "pattern:listening on (.*"', "ready", "target.ready", "pattern:REGEX"),
    ("peers = 8", 'env = {"A=B" = "1"}', "env", "target.env", "names 'A=B'; expected names of variables, without '='"),
    ("peers = 8", 'env = {"" = "1"}', "env", "target.env", "names ''; expected names of variables"),
    ("peers = 8", 'env = {"A\\u0000" = "1"}', "env", "target.env", r"names 'A\\x00'; expected names of variables"),
    ("peers = 8", 'env = {A = "\\u0000"}', "env", "target.env", r"sets A to '\\x00'; expected text without a NUL byte"),
    (
        "peers = 8",
        'kind = "command"\ncommand = ["\\u0000"]',
        "command = ",
        "target.command",
        "words without a NUL byte",
    ),
    ("peers = 8", 'kind = "a\\"b\'c"', "kind", "target.kind", r"is 'a\"b\\'c'; expected \"reference\" or \"command\"$"),
    ("peers = 8", "kind = 3", "kind", "target.kind", 'expected "reference" or "command", got a whole number'),
    ("peers = 8", 'command = "./a b"', "command", "target.command", "expected a list of text, got text in quotes"),
    ("peers = 8", "env = {PORT = 80}", "env", "target.env", "expected text in each of its keys, got a whole number"),
    (
        "peers = 8",
        "settings = {node = {since = 2026-01-01}}",
        "settings",
        "target.settings",
        "cannot be told to the target: .* date .*; expected texts, finite numbers and tables",
    ),
    (
        "peers = 8",
        "settings = {node = {tick = inf}}",
        "settings",
        "target.settings",
        "cannot be told to the target",
    ),
    (
        "peers = 8",
        "settings = {pool = 1}",
        "settings",
        "target.settings",
        "expected a table in each of its keys, got a wh",
    ),
    ("peers = 8", 'kind = "command"', "[target]", "target.command", "is empty; expected the program"),
    ("peers = 8", 'command = ["x"]', "command", "target.command", 'expected kind = "command"'),
    ('kind = "on-off"', 'kind = "onoff"', "kind", "design.kind", 'is \'onoff\'; expected "on-off" or "ablation" or '),
    ('kind = "on-off"', 'kind = "sweep"', "[design]", "design.sweep", "a sweep needs"),
    (
        'kind = "on-off"',
        'kind = "sweep"\nsweep = {workload = "surge", parameter = "users", values = [1, 2], metric = "speed"}',
        "sweep = {",
        "design.sweep.metric",
        "is 'speed'; expected one of: latency_p50",
    ),
    (
        'kind = "on-off"',
        "kind = 'sweep'\nsweep = {workload = 'surge', parameter = 'users', values = [1, 2]}",
        'workload = "surge"',
        "expectation[1].workload",
        r"is 'surge'; expected one of: surge\[users=1\], surge\[users=2\], steady",
    ),
    (
        "peers = 8",
        'kind = "command"\ncommand = ["x"]\nready = "port:localhost:80"',
        "ready = ",
        "target.ready",
        "run at the same time; expected {port} in it",
    ),
    ("users = 4", "users = 4\nsegment_seconds = 10", "segment_seconds", "workload[1].segment_seconds", "open arrivals"),
    (
        "users = 4",
        'users = 4\narrivals = "constant"\nrate = 5',
        "[[workload]]",
        "workload[1].slice_seconds",
        "fewer than 10 arrivals in it; expected at least 2 s",
    ),
    (
        "users = 4",
        'users = 4\narrivals = "constant"\nshape = [[0, 1], [5, 10]]',
        "shape",
        "workload[1].shape",
        "expected episode_seconds",
    ),
    ("users = 4", "users = 4\nblocks = -1", "blocks = -1", "workload[1].blocks", "or 0 for as many as the budget says"),
    ("users = 4", "users = 4\nblocks = 2\nepisode_seconds = 1", "blocks", "workload[1].blocks", "one of the two"),
    ("users = 4", "users = 4\nwarm_tasks = -1", "warm_tasks", "workload[1].warm_tasks", "a whole number >= 0"),
    ('kind = "on-off"', "fractions = 5", "fractions", "design.fractions", "1 to 4"),
    ('treatment = "all"', 'treatment = "none"', "treatment", "design.treatment", "expected another arm"),
    ('treatment = "all"', 'treatment = "turbo"', "treatment", "design.treatment", "unknown arm 'turbo'; expected one"),
    ('["first-day-reuse"]', '["second-day"]', "controls", "design.controls", "unknown arm 'second-day'"),
    ("seconds = 10", "seconds = inf", "seconds", "budget.seconds", "a number of seconds > 0"),
    ("seconds = 10", "seconds = nan", "seconds", "budget.seconds", "a number of seconds > 0"),
    ("seconds = 10", "blocks = 0", "blocks", "budget.blocks", "a whole number >= 1"),
    ("max_bursts = 5", "max_bursts = 5\ntable_every = 0", "table_every", "budget.table_every", "a whole number of"),
    ("max_bursts = 5", "max_bursts = 1", "max_bursts", "budget.max_bursts", "less than min_bursts, 2"),
    ("max_bursts = 5", "memory_requests = 0", "memory_req", "budget.memory_requests", "a whole number >= 1"),
    ('["pooling"]', '["poling"]', "poling", "arm[1].optimizations", "names 'poling'; expected any of: pooling, "),
    ('name = "mine"', 'name = "none-again"', "none-again", "arm[1].name", "the baseline's hidden twin"),
    ('["pooling"]', '["pooling"]\nenv = {"A=" = ""}', "env", "arm[1].env", "names 'A='; expected names of variables"),
    (
        '["pooling"]',
        '["pooling"]\ninterpreter = "\\u0000"',
        "interp",
        "arm[1].interpreter",
        "a path without a NUL byte",
    ),
    ('["pooling"]', '["pooling"]\ntarget = 3', "target = 3", "arm[1].target", "expected a table, got a whole number"),
    (
        '["pooling"]',
        '["pooling"]\ntarget.pears = 3',
        "target.pears",
        "arm[1].target.pears",
        "expected one of: kind, command",
    ),
    ('["pooling"]', '["pooling"]\nfile = "no.py"', "no.py", "arm[1].file", "no Locust file 'no.py'"),
    ('["pooling"]', '["pooling"]\nfiles = {dial = "x.py"}', "files =", "arm[1].files", "one of: surge, steady"),
    ("users = 4", "users = 0", "users", "workload[1].users", "is 0; expected a whole number >= 1"),
    ("users = 4", "users = 4.5", "users", "workload[1].users", "expected a whole number, got a number"),
    ("users = 4", "rate = 5.0", "rate = 5.0", "workload[1].rate", "belongs to open arrivals"),
    ("users = 4", "slice_seconds = 0.05", "slice", "workload[1].slice_seconds", "at least 0.1 s"),
    ("users = 4", 'env = {"A=" = ""}', "env", "workload[1].env", "names 'A='; expected names of variables"),
    ("users = 4", "quiet_seconds = -1", "quiet", "workload[1].quiet_seconds", ">= 0"),
    ("users = 4", "max_error_ratio = 2", "max_error", "workload[1].max_error_ratio", "a share from 0 to 1"),
    ("users = 4", "request = true", "request", "workload[1].request", "expected text, got true or false"),
    ("users = 4", "request = 2000-01-01", "request", "workload[1].request", "expected text, got a date"),
    ("users = 4", "shape = [5]", "shape", "workload[1].shape[1]", "expected a list of number, got a whole number"),
    ("users = 4", "shape = [[5]]", "shape", "workload[1].shape[1]", "expected a list of length 2, got 1"),
    ("users = 4", 'arm = ["all"]', "arm = ", "workload[1].arm", "unknown key; expected one of: .*settings, arms$"),
    ("users = 4", 'arms = ["alll"]', "arms = ", "workload[1].arms", "unknown arm 'alll'"),
    ("seed = 7", 'switch = [{name = "cache"}]', "switch", "switch", 'which has its own; expected kind = "command"'),
    (
        'kind = "on-off"',
        'phases = [["cash"]]',
        "phases",
        "design.phases",
        "names 'cash'; expected any of: pooling, ",
    ),
    ('kind = "on-off"', 'phases = [["metrics"], ["metrics"]]', "phases", "design.phases", "adds one twice"),
    ('kind = "on-off"', 'phases = [[], ["metrics"]]', "phases", "design.phases", "has one that adds nothing"),
    ("users = 4", 'arrivals = "opn"', "opn", "workload[1].arrivals", "is 'opn'; expected \"closed\" or "),
    ('file = "scenarios/load/surge.py"\n', "", "[[workload]]", "workload[1]", "expected a key 'file'"),
    ("load/steady.py", "load/stedy.py", "stedy.py", "workload[2].file", "no Locust file 'scenarios/load/stedy.py'"),
    ('name = "steady"', 'name = "surge"', 'name = "surge"', "workload[1].name", "used twice"),
    ("rate = 50.0", "rate = -5", "rate = -5", "workload[2].rate", "requests per second, or 0"),
    ("rate = 50.0", "shape = [[0, 1], [0, 2]]", "shape", "workload[2].shape", "times that increase"),
    ("rate = 50.0", "shape = [[0, -1]]", "shape", "workload[2].shape", "none negative"),
    ("rate = 50.0", "shape = [[-1, 5]]", "shape", "workload[2].shape", "none negative"),
    ("rate = 50.0", "shape = [[0, nan]]", "shape", "workload[2].shape", "expected finite"),
    ("rate = 50.0", "shape = [[0, 0], [1, 0]]", "shape", "workload[2].shape", "a rate above 0"),
    ('workload = "surge"', 'workload = "serge"', "serge", "expectation[1].workload", "one of: surge, steady"),
    ('metric = "throughput"', 'metric = "speed"', "speed", "expectation[1].metric", "one of: latency_p50"),
    (
        "at_least = 2.5",
        'at_least = "2"',
        "at_least",
        "expectation[1].at_least",
        "expected a number, got text in quotes",
    ),
    ("at_least = 2.5", "at_least = 0", "at_least", "expectation[1].at_least", "a ratio > 0"),
    ("at_least = 2.5", "at_least = nan", "at_least", "expectation[1].at_least", "a ratio > 0"),
    ("at_least = 2.5", "at_least = inf", "at_least", "expectation[1].at_least", "a ratio > 0"),
    ("at_least = 2.5", "at_least = 2\nat_most = 1", "throughput", "expectation[1].name", "has 2 bounds"),
    ("at_least = 2.5\n", "", "throughput", "expectation[1].name", "has 0 bounds; expected at_most or at_least"),
    ("at_least = 2.5", 'at_least = 2\nagainst = ["al"]', "against", "expectation[1].against", "unknown arm 'al'"),
    ("at_least = 2.5", 'at_least = 2\nagainst = ["all"]', "against", "expectation[1].against", "other than 'all'"),
]


@pytest.mark.parametrize(("old", "new", "at", "key", "expected"), REPLACED, ids=[f"{k}: {e}" for *_, k, e in REPLACED])
def test_a_mistake_is_placed_and_explained(
    tmp_path: Path, old: str, new: str, at: str, key: str, expected: str
) -> None:
    assert GOOD.count(old) == 1
    text = GOOD.replace(old, new)
    said = refusal(tmp_path, text)
    assert said.startswith(f"{line_of(text, at)}: {key}: ")
    assert re.search(expected, said)


@pytest.mark.parametrize(
    ("sweep", "key", "expected"),
    [
        (
            'workload = "surge", parameter = "rate", values = [50, 100]',
            "design.sweep",
            "makes 'surge[rate=50]', whose rate belongs to open arrivals",
        ),
        (
            'workload = "surge", parameter = "users", values = [8, 8.0]',
            "design.sweep",
            "makes 'surge[users=8]' twice; expected a name of its own for each value",
        ),
        ('workload = "surge", parameter = "SIZE", values = [8, "8"]', "design.sweep", "makes 'surge[SIZE=8]' twice"),
        (
            'workload = "surge", parameter = "users", values = [2, 0]',
            "design.sweep",
            "makes 'surge[users=0]', whose users is 0; expected a whole number >= 1",
        ),
        (
            'workload = "surge", parameter = "users", values = [1.5]',
            "design.sweep",
            "sweep over users needs whole numbers, not 1.5",
        ),
        (
            'workload = "surge", parameter = "users", values = [inf, 2]',
            "design.sweep",
            "sweep over users needs finite numbers, not inf",
        ),
        (
            'workload = "surge", parameter = "SIZE", values = [2, nan]',
            "design.sweep",
            "sweep over SIZE needs finite numbers, not nan",
        ),
        (
            'workload = "surge", parameter = "A=B", values = [1]',
            "design.sweep",
            "makes 'surge[A=B=1]', whose env names 'A=B'; expected names of variables",
        ),
        (
            'workload = "steady", parameter = "rate", values = [-5, 50]',
            "design.sweep",
            "makes 'steady[rate=-5]', whose rate is -5.0; expected requests per second",
        ),
        (
            'workload = "steady", parameter = "rate", values = [5]',
            "design.sweep",
            "makes 'steady[rate=5]', whose slice_seconds has fewer than 10 arrivals in it; expected at least 2 s",
        ),
        (
            'workload = "surge", parameter = "slice_seconds", values = [0.0]',
            "design.sweep",
            "makes 'surge[slice_seconds=0]', whose slice_seconds is 0.0; expected at least 0.1 s",
        ),
        (
            'workload = "surge", parameter = "tasks", values = [100]',
            "design.sweep",
            "makes 'surge[tasks=100]', whose tasks belongs to an episode",
        ),
        (
            'workload = "steady", parameter = "users", values = [2, 4], metric = "latency_p99"',
            "design.sweep.metric",
            "is 'latency_p99', which 'steady' does not tell; expected segment_seconds or episode_seconds there",
        ),
        (
            'workload = "surge", parameter = "users", values = [true]',
            "design.sweep.values[1]",
            "expected a number or text, got true or false",
        ),
        (
            'workload = "ramp", parameter = "rate", values = [5, 50]',
            "design.sweep.parameter",
            "is 'rate', which the shape of 'ramp' overrides; expected another",
        ),
        (
            'workload = "ramp", parameter = "slice_seconds", values = [1, 2]',
            "design.sweep.parameter",
            "is 'slice_seconds', but 'ramp' is an episode; expected another",
        ),
    ],
)
def test_a_sweep_makes_workloads_that_could_be_declared(tmp_path: Path, sweep: str, key: str, expected: str) -> None:
    ramp = """
[[workload]]
name = "ramp"
file = "scenarios/load/steady.py"
arrivals = "constant"
shape = [[0, 1], [5, 10]]
episode_seconds = 5
"""
    text = (
        GOOD.partition("[[expectation]]")[0].replace('kind = "on-off"', f'kind = "sweep"\nsweep = {{{sweep}}}') + ramp
    )
    said = refusal(tmp_path, text)
    assert said.startswith(f"{line_of(text, 'sweep = {')}: {key}: ")
    assert expected in said


OWN = """
name = "own"
title = "switches of one's own"
[target]
kind = "command"
command = ["./server", "--port", "{port}"]
ready = "port:127.0.0.1:{port}"
[[switch]]
name = "cache"
on = { args = ["--cache"] }
[[switch]]
name = "gzip"
off = { env = { GZIP = "0" } }
[[arm]]
name = "both"
optimizations = ["cache", "gzip"]
[[workload]]
name = "surge"
file = "scenarios/load/surge.py"
"""


def test_a_program_has_switches_of_its_own(tmp_path: Path) -> None:
    study = study_file.load(write(tmp_path, OWN))
    assert study.optimizations == ("cache", "gzip")
    assert arms.resolve_arm(study, "all").optimizations == ("cache", "gzip")
    assert study_file.adjust(study, off=("gzip",)).design.treatment == "cache"
    with pytest.raises(UsageError, match="unknown optimization 'pooling'; expected one of: cache, gzip, all, none"):
        study_file.adjust(study, on=("pooling",))
    with pytest.raises(
        StudyError, match=r"unknown arm 'first-day-reuse'; expected one of both, none, all, cache, gzip, "
    ):
        arms.resolve_arm(study, "first-day-reuse")


@pytest.mark.parametrize(
    ("old", "new", "key", "expected"),
    [
        ('"gzip"\noff', '"cache"\noff', "switch[1].name", "'cache' is used twice"),
        ('"gzip"\noff', '"all"\noff', "switch[2].name", "not all, none or all-"),
        ('"gzip"\noff', '"a+b"\noff', "switch[2].name", "expected letters, digits"),
        ('"gzip"\noff', '"gzip"\nof', "switch[2].of", "unknown key; expected one of: name, on, off"),
        ('"gzip"\noff', '"none-again"\noff', "switch[2].name", "'none-again' is used twice"),
        ('"--cache"] }', '"--cache"], env = { GZIP = "1" } }', "switch[2]", "sets GZIP like switch 'cache'"),
        ("GZIP", '"GZIP="', "switch[2].off.env", "names 'GZIP='; expected names of variables"),
        ('["--cache"]', '["\\u0000"]', "switch[1].on.args", "expected words without a NUL byte"),
        ('name = "both"', 'name = "gzip"', "arm[1].name", "'gzip' means a set of optimizations"),
        ("[[workload]]", '[design]\ntreatment = "all-gzip"\n[[workload]]', "design.treatment", "is the arm 'cache'"),
        ('["cache", "gzip"]', '["cash"]', "arm[1].optimizations", "names 'cash'; expected any of: cache, gzip"),
        (
            '"gzip"\noff',
            "".join(f'"s{each}"\n[[switch]]\nname = ' for each in range(5)) + '"gzip"\n[design]\nkind = "factorial"\n#',
            "design.kind",
            "is 'factorial' of 7 switches; expected at most 6 of them, or ablation",
        ),
    ],
)
def test_switches_that_make_no_sense(tmp_path: Path, old: str, new: str, key: str, expected: str) -> None:
    assert OWN.count(old) == 1
    text = OWN.replace(old, new)
    if "design" in new:
        text = text.replace('["cache", "gzip"]', '["cache"]')
    said = refusal(tmp_path, text)
    assert f": {key}: " in said
    assert expected in said


SINGLE = """
name = "single"
title = "one switch"
[target]
kind = "command"
command = ["./server", "--port", "{port}"]
ready = "port:127.0.0.1:{port}"
[[switch]]
name = "fast"
on = { args = ["--fast"] }
[design]
treatment = "fast"
[[workload]]
name = "surge"
file = "scenarios/load/surge.py"
[[workload]]
name = "dial"
file = "scenarios/load/dial.py"
arms = ["none", "fast", "all"]
[[expectation]]
name = "faster"
claim = "c"
workload = "surge"
metric = "throughput"
arm = "fast"
at_least = 2
[[expectation]]
name = "idle"
claim = "c"
workload = "surge"
metric = "throughput"
arm = "none"
against = ["all", "fast"]
at_most = 1
"""


def test_the_name_of_a_single_switch_is_the_arm_all(tmp_path: Path) -> None:
    study = study_file.load(write(tmp_path, SINGLE))
    assert [arm.name for arm in arms.layout(study).arms] == ["none", "all", "none-again"]
    assert study.workloads[1].arms == ("none", "all")
    assert [(each.arm, each.against) for each in study.expectations] == [("all", ("none",)), ("none", ("all",))]
    other = write(tmp_path, SINGLE.replace('treatment = "fast"', 'baseline = "fast"\ntreatment = "none"'))
    assert study_file.load(other).design.baseline == "all"
    said = refusal(tmp_path, SINGLE.replace('arm = "fast"', 'arm = "fats"'))
    assert "unknown arm 'fats'; expected one of none, all, fast, " in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", r"1: study: expected a key 'name'"),
        ('name = "x"\ntitle = "y"\n', r"1: study: expected at least one \[\[workload\]\]"),
        ('name = "x"\ntitle = "y"\n[workload]\n', r"3: workload: expected \[\[workload\]\] tables, got a table"),
        ('name = "x"\nworkload = 5\n', r"2: workload: expected \[\[workload\]\] tables, got a whole number"),
        ('name = "x"\n[[workloads]]\nname = "y"\n', r"2: workloads: expected \[\[workload\]\] tables"),
        ('name = "x\n', r"1: not TOML: illegal character"),
        ('name = "x"\nname = "y"\n', r"2: not TOML: cannot overwrite a value"),
        ('name = "x"\n[target\n', r"2: not TOML: expected ']'"),
    ],
)
def test_a_file_that_is_no_study(tmp_path: Path, text: str, expected: str) -> None:
    assert re.match(expected, refusal(tmp_path, text))


def test_a_key_missing_in_one_table_is_not_found_in_the_next(tmp_path: Path) -> None:
    text = GOOD.replace('workload = "surge"\n', "") + '\n[[expectation]]\nname = "b"\nclaim = "c"\nworkload = "surge"\n'
    assert refusal(tmp_path, text).startswith(f"{line_of(text, '[[expectation]]')}: expectation[1]: expected a key")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudyError, match=r"binary\.toml: cannot be read: .*decode"):
        study_file.load(binary)
    with pytest.raises(StudyError, match=r"gone\.toml: cannot be read: No such file"):
        study_file.load(tmp_path / "gone.toml")


def test_an_unknown_study_names_the_bundled_ones() -> None:
    with pytest.raises(StudyError, match=r"no study 'quik'; expected a study file or one of: .*quick"):
        study_file.find("quik")


@settings(max_examples=40)
@given(st.text(max_size=200))
def test_any_text_is_a_study_or_one_study_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(GOOD.replace("seed = 7", text), encoding="utf-8")
    with suppress(StudyError):
        assert study_file.load(path).name == "tiny"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return study_file.load(write(tmp_path, GOOD))


@pytest.mark.parametrize(
    ("switches", "treatment"),
    [
        ({"on": ("pooling", "metrics")}, "pooling+metrics"),
        ({"only": ("cleanup",)}, "cleanup"),
        ({"off": ("metrics",)}, "all-metrics"),
        ({"on": ("all",)}, "all"),
        ({"off": ("none",)}, "all"),
        ({}, "all"),
    ],
)
def test_switches_choose_the_treatment_and_expectations_follow(
    study: Study, switches: dict[str, tuple[str, ...]], treatment: str
) -> None:
    adjusted = study_file.adjust(study, **switches)  # type: ignore[arg-type]
    assert adjusted.design.treatment == treatment
    assert adjusted.expectations[0].arm == treatment
    assert treatment in [arm.name for arm in arms.layout(adjusted).arms]


def test_design_time_and_seed_of_the_command_line_replace_the_study_s(study: Study) -> None:
    adjusted = study_file.adjust(study, design="phases", seconds=33.0, seed=0)
    assert (adjusted.design.kind, adjusted.budget.seconds, adjusted.seed) == ("phases", 33.0, 0)
    assert adjusted.budget.min_bursts == 1  # whoever asks for a time means it


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"on": ("poling",)}, r"unknown optimization 'poling'; expected one of: pooling, .*metrics, all, none"),
        ({"on": ("pooling",), "off": ("pooling",)}, r"--on and --off each say the whole treatment"),
        ({"on": ("pooling",), "only": ("pooling",)}, r"--on and --only each say the whole treatment"),
        ({"off": OPTIMIZATIONS}, r"treatment 'none', which is the baseline"),
        ({"design": "factorail"}, r"--design 'factorail'; expected one of: on-off, "),
        ({"seconds": 0.0}, r"--seconds 0; expected a number of seconds > 0"),
        ({"seconds": float("nan")}, r"--seconds nan"),
        ({"seconds": float("inf")}, r"--seconds inf"),
        ({"seed": -2}, r"--seed -2; expected a whole number >= 0"),
        ({"design": "sweep"}, r"with these flags design.sweep a sweep needs \[design.sweep\]"),
    ],
)
def test_contradictions_of_the_command_line(study: Study, change: dict[str, object], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        study_file.adjust(study, **change)  # type: ignore[arg-type]


def test_flags_that_leave_an_expectation_without_sense_are_refused(tmp_path: Path) -> None:
    beside = GOOD.replace("at_least = 2.5", 'at_least = 2.5\nagainst = ["none", "pooling"]')
    study = study_file.load(write(tmp_path, beside))
    with pytest.raises(UsageError, match=r"with these flags expectations\.0\.against .*expected arms other than 'pool"):
        study_file.adjust(study, only=("pooling",))
    swept = 'kind = "sweep"\nsweep = {workload = "surge", parameter = "users", values = [1, 2]}'
    variant = GOOD.replace('kind = "on-off"', swept).replace(
        'workload = "surge"\nmetric', 'workload = "surge[users=1]"\nmetric'
    )
    study = study_file.load(write(tmp_path, variant))
    with pytest.raises(UsageError, match=r"with these flags expectations\.0\.workload is 'surge\[users=1\]'"):
        study_file.adjust(study, design="on-off")
