"""From a study's arm to the processes it needs: the command of its target, the environment of both ends, its files."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import sys
import zlib
from pathlib import Path

from msgspec.structs import replace

from harness.execute.burst import ArmSpec
from harness.execute.ports import placed
from harness.execute.target import Readiness
from harness.plan.arms import declared_name, layout, workloads
from harness.study.file import resolve
from harness.study.records import Arm, Study, Target, Workload


def arm_spec(
    study: Study, arm: Arm, directory: Path, port: int, episode: Workload | None = None, seed: int = 0
) -> ArmSpec:
    """How `arm` is started; files are looked for in `directory` (the study's) and in the project.

    Its target listens on `port`, if it must be told. Both ends learn the environment and settings of an `episode`.
    `seed` is the burst's: all its arms learn it, so that faults and the choices of users differ from burst to burst and
    are the same on each arm. Hashes are seeded from it and the arm's name: another layout in every burst and arm, and
    yet the same run again from the same study.
    """
    started = arm.target or _switched(study, arm)
    target, url = placed(replace(started, env={**started.env, **arm.env}), port)
    settings = target.settings
    env = {"PYTHONHASHSEED": str(zlib.crc32(f"{seed} {arm.name}".encode())), **target.env}
    if episode is not None:
        settings = {
            room: {**settings.get(room, {}), **episode.settings.get(room, {})}
            for room in dict.fromkeys((*settings, *episode.settings))
        }
        env |= episode.env
    if "faults" in settings:
        settings = {**settings, "faults": {"seed": seed, **settings["faults"]}}
    files = {
        each.name: str(resolve(arm.files.get(declared_name(study, each)) or arm.file or each.file, directory))
        for each in workloads(study)
    }
    kind, _, value = target.ready.partition(":")
    return ArmSpec(
        name=arm.name,
        command=_command(target),
        optimizations=arm.optimizations,
        env={**env, "SYNAPSED_SEED": str(seed), "SYNAPSED_SETTINGS": json.dumps(settings)},
        files=files,
        load_env={"LOCUST_HOST": url} if url and "LOCUST_HOST" not in env else {},
        readiness=Readiness(kind, value),  # type: ignore[arg-type]
        cwd=str(directory) if target.kind == "command" else None,
        interpreter=arm.interpreter,
    )


def digests(study: Study, path: Path) -> dict[str, str]:
    """What the study at `path` is made of, by path: itself, its Locust files, and the programs of its commands, with
    the file that a runtime or launcher is given; other files a program may well write. The reference node is what the
    revision says. Raises `StudyError` where a Locust file is missing.
    """
    directory, paths = path.parent, {path}
    for spec in (arm_spec(study, arm, directory, port=0) for arm in layout(study).arms):
        paths |= {Path(file) for file in spec.files.values()}
        if spec.cwd is not None:
            program = directory / (shutil.which(spec.command[0]) or spec.command[0])
            paths.add(program)
            if spec.command[0] == sys.executable or not program.is_relative_to(directory):
                given = (directory / word for word in spec.command[1:])
                paths |= {*itertools.islice(filter(os.path.isfile, given), 1)}
    return {str(each): found for each in sorted(paths) if (found := digest(each))}


def digest(path: Path) -> str:
    """SHA-256 of a file; empty where there is none that can be read."""
    if not os.path.isfile(path):  # a word may name a device, too
        return ""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _switched(study: Study, arm: Arm) -> Target:
    """The study's target with what its switches add on this arm."""
    sides = [each.on if each.name in arm.optimizations else each.off for each in study.switches]
    words = (word for side in sides for word in side.args)
    env = {name: value for side in sides for name, value in side.env.items()}
    return replace(study.target, command=(*study.target.command, *words), env={**study.target.env, **env})


def _command(target: Target) -> tuple[str, ...]:
    if target.kind == "reference":
        return (sys.executable, "-m", "reference_impl", "--peers", str(target.peers))
    return tuple(sys.executable if word == "python" else word for word in target.command)
