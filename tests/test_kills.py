"Each stage, killed twice at random moments, and once where nothing may be written. More of the first by hand: `python tests/kills.py`."

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kills import STAGES, new_project

SCRIPT = Path(__file__).with_name("kills.py")
NAMESPACE = ["unshare", "--map-root-user", "--mount"]
NO_OVERRIDE = ["setpriv", "--bounding-set=-dac_override"]  # then permissions hold for root, too
READ_ONLY = 'mount --bind "$PWD" "$PWD" && mount -o remount,ro,bind "$PWD" && cd / && cd "$OLDPWD" && exec "$@"'


@pytest.mark.slow
def test_each_stage_killed_twice_loses_nothing_and_ends_with_the_same_bytes():
    result = subprocess.run([sys.executable, str(SCRIPT), str(2 * len(STAGES))], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.findall(r"^(\w+): 2 kills.*nothing lost$", result.stdout, re.M) == [
        "download",
        "preprocess",
        "train",
        "render",
    ]


def contents(folder: Path) -> dict[str, str]:
    return {
        str(p): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "" for p in sorted(folder.rglob("*"))
    }


@pytest.fixture
def read_only(tmp_path, made_data):
    "A project whose raw files and clips are there, and a way to call commands while nobody may write into it."
    project = new_project(tmp_path / "project")
    for name in ("raw", "clips"):
        shutil.copytree(made_data / name, project / name)

    def call(*command) -> subprocess.CompletedProcess:
        command = [sys.executable, "-B", "-m", "stf_repro.cli", *command]
        mounted = (
            shutil.which("unshare")
            and not subprocess.run(
                [*NAMESPACE, "sh", "-c", READ_ONLY, "sh", "true"], cwd=project, capture_output=True
            ).returncode
        )
        if mounted:
            return subprocess.run(
                [*NAMESPACE, "sh", "-c", READ_ONLY, "sh", *command], cwd=project, capture_output=True, text=True
            )
        folders = [project, *(p for p in project.rglob("*") if p.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        try:
            return subprocess.run(
                [*NO_OVERRIDE, *command] if os.geteuid() == 0 else command, cwd=project, capture_output=True, text=True
            )
        finally:
            for folder in folders:
                folder.chmod(0o755)

    call.project = project
    return call


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_where_nobody_may_write_each_stage_says_so_in_a_sentence(read_only, stage):
    before = contents(read_only.project)
    result = read_only(*stage.command)
    error = result.stderr.strip()
    assert result.returncode == 1 and len(error.splitlines()) == 1, result.stdout + result.stderr
    assert (
        error.startswith(f"stf {stage.name}: ")
        and stage.made in error
        and "cannot be written (" in error
        and error.endswith("nothing was changed")
    )
    assert contents(read_only.project) == before
