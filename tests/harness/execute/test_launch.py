"""What the processes of an arm are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.execute.launch import arm_spec, digests
from harness.study.file import ROOT
from harness.study.records import Arm, Design, Side, Study, Sweep, Switch, Target, Workload

PORT = 4711


def test_hash_seeds_vary_by_burst_and_arm_and_come_again_with_the_study(tmp_path: Path) -> None:
    study = Study(name="any", title="any", workloads=())

    def seed(arm: str, burst: int) -> str:
        return arm_spec(study, Arm(name=arm), tmp_path, PORT, seed=burst).env["PYTHONHASHSEED"]

    seeds = {(arm, burst): seed(arm, burst) for arm in ("none", "all") for burst in range(20)}
    assert len(set(seeds.values())) == len(seeds)
    assert all(0 <= int(each) < 2**32 for each in seeds.values()), "what the interpreter takes"
    assert seeds == {(arm, burst): seed(arm, burst) for arm, burst in seeds}


def test_all_arms_of_a_burst_and_no_two_bursts_share_the_seed_of_choices(tmp_path: Path) -> None:
    study = Study(name="any", title="any", workloads=())

    def seeds(burst: int) -> set[str]:
        plans = (arm_spec(study, Arm(name=arm), tmp_path, PORT, seed=burst) for arm in ("none", "all"))
        return {plan.env["SYNAPSED_SEED"] for plan in plans}

    assert [seeds(burst) for burst in (7, 8, 9)] == [{"7"}, {"8"}, {"9"}]


def test_switches_of_a_program_are_words_and_variables(tmp_path: Path) -> None:
    study = Study(
        name="any",
        title="any",
        workloads=(),
        target=Target(kind="command", command=("./server",), env={"LEVEL": "1", "KEPT": "yes"}),
        switches=(
            Switch(name="cache", on=Side(args=("--cache", "--port={port}")), off=Side(args=("--no-cache",))),
            Switch(name="gzip", on=Side(env={"LEVEL": "9"})),
        ),
    )

    def started(*on: str, **others: Any) -> tuple[tuple[str, ...], str, str]:
        plan = arm_spec(study, Arm(name="x", optimizations=on, **others), tmp_path, PORT)
        return plan.command, plan.env["LEVEL"], plan.env["KEPT"]

    command, level, kept = started("cache", "gzip")
    assert (level, kept) == ("9", "yes")
    assert command == ("./server", "--cache", f"--port={PORT}")
    assert started() == (("./server", "--no-cache"), "1", "yes")
    assert started("gzip", env={"LEVEL": "5"}) == (("./server", "--no-cache"), "5", "yes"), (
        "what an arm says goes first"
    )
    other = Target(kind="command", command=("./other",), env={"LEVEL": "0", "KEPT": "no"})
    assert started("cache", target=other) == (("./other",), "0", "no"), "another program knows none of them"


def test_faults_follow_the_seed_of_the_burst_unless_the_study_gives_one(tmp_path: Path) -> None:
    rules = [{"kind": "reset", "share": 0.5}]

    def script(burst: int, **faults: Any) -> dict[str, Any]:
        study = Study(name="any", title="any", workloads=())
        episode = Workload(name="w", file="w.py", episode_seconds=1.0, settings={"faults": {"rules": rules, **faults}})
        plan = arm_spec(study, Arm(name="none"), tmp_path, PORT, episode, burst)
        return dict(json.loads(plan.env["SYNAPSED_SETTINGS"])["faults"])

    assert [script(burst) for burst in (3, 4)] == [{"seed": 3, "rules": rules}, {"seed": 4, "rules": rules}]
    assert script(3, seed=9) == {"seed": 9, "rules": rules}
    plain = arm_spec(Study(name="a", title="a", workloads=()), Arm(name="none"), tmp_path, PORT)
    assert "faults" not in plain.env["SYNAPSED_SETTINGS"]


def test_who_sets_a_hash_seed_gets_it(tmp_path: Path) -> None:
    study = Study(name="any", title="any", workloads=(), target=Target(env={"PYTHONHASHSEED": "7"}))
    assert arm_spec(study, Arm(name="none"), tmp_path, PORT).env["PYTHONHASHSEED"] == "7"


def test_variants_of_a_sweep_find_their_file_and_an_arm_s_own(tmp_path: Path) -> None:
    for name in ("visit.py", "other.py"):
        (tmp_path / name).touch()
    study = Study(
        name="any",
        title="any",
        workloads=(Workload(name="w", file="visit.py"), Workload(name="beside", file="visit.py")),
        design=Design(kind="sweep", sweep=Sweep(workload="w", parameter="SIZE", values=(1, 2))),
    )

    def files(**own: Any) -> dict[str, str]:
        found = arm_spec(study, Arm(name="none", **own), tmp_path, PORT).files
        return {name: Path(file).name for name, file in found.items()}

    variants = ("w[SIZE=1]", "w[SIZE=2]")
    assert files() == {**dict.fromkeys(variants, "visit.py"), "beside": "visit.py"}
    assert files(files={"w": "other.py"}) == {**dict.fromkeys(variants, "other.py"), "beside": "visit.py"}
    assert set(files(file="other.py").values()) == {"other.py"}


def test_an_arm_s_variables_learn_the_port_too(tmp_path: Path) -> None:
    target = Target(kind="command", command=("./server",), env={"PORT": "{port}"})
    study = Study(name="any", title="any", workloads=(), target=target)
    env = arm_spec(study, Arm(name="none", env={"SEEN_AS": "http://localhost:{port}"}), tmp_path, PORT).env
    assert (env["PORT"], env["SEEN_AS"]) == (str(PORT), f"http://localhost:{PORT}")


def test_what_load_and_programs_are_made_of_is_known_by_its_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of every arm, a program on the PATH among them and what it is given first; a port, a flag and a device are
    none, nor is what a program of the study's own may write.
    """
    mine = tmp_path / "mine.toml"
    mine.write_text("")
    surge = ROOT / "scenarios" / "load" / "surge.py"
    workload = Workload(name="surge", file="scenarios/load/surge.py")
    study = Study(name="any", title="any", workloads=(workload,))
    assert {*digests(study, mine)} == {str(mine), str(surge)}
    installed = tmp_path.parent / f"{tmp_path.name}-bin" / "old-server"
    installed.parent.mkdir()
    for path in (installed, *(tmp_path / name for name in ("new.py", "other.py", "conf", "log"))):
        path.write_text(path.name)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(installed.parent))
    study = Study(
        name="any",
        title="any",
        workloads=(workload,),
        design=Design(baseline="old", treatment="new"),
        arms=(
            Arm(
                name="old",
                target=Target(kind="command", command=("old-server", "--port={port}", "/dev/zero", "conf", "log")),
            ),
            Arm(name="new", target=Target(kind="command", command=("./new.py", "log")), file="other.py"),
        ),
    )
    found = digests(study, mine)
    assert {*found} == {
        str(mine),
        str(surge),
        str(installed),
        *(str(tmp_path / name) for name in ("new.py", "other.py", "conf")),
    }
    assert len({*found.values()}) == 6
    started_by_us = Target(kind="command", command=("python", "new.py", "log"))
    own = msgspec.structs.replace(study, target=started_by_us, design=Design(), arms=())
    monkeypatch.setattr("sys.executable", str(tmp_path / "other.py"))  # of an environment that lies in the same folder
    assert str(tmp_path / "new.py") in digests(own, mine)
    (tmp_path / "new.py").write_text("edited")
    assert [path for path, was in found.items() if digests(study, mine)[path] != was] == [str(tmp_path / "new.py")]
