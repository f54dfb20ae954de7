"""Kill each stage of a small project at random moments, and look at what is left: `python tests/kills.py [KILLS] [SEED]`, 50 kills unless you say otherwise.

Each kill is SIGKILL, at a random moment of the stage's usual time, to the process that was started or to all of its group. After it
- nothing goes on running,
- a result that was finished before is whole, in its place or beside it, from where the next call takes it back,
- the same command, called again (at once, or after more kills), ends with the bytes of a call that nobody disturbed, and leaves nothing else.

Not part of pytest for its length: test_kills.py calls it with two kills a stage.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
RUN = {
    "group": "ablation",
    "label": "M1",
    "source": "synth60",
    "benchmark": "synth60-xsub",
    "network": {"name": "msg3d", "width": 6, "num_gcn_scales": 2, "num_g3d_scales": 2, "windows": [3]},
    "input": {"frames": 60, "frame_stride": 20},
    "percent": 50,
    "optim": {"epochs": 3, "batch_size": 16, "lr": 0.02, "milestones": [2]},
    "seeds": [0, 1],
}
PARAMS = {
    "profile": "synthetic",
    "sources": {"synth60": {"seed": 0, "subjects": 3}},
    "runs": {"M1": RUN},
    "transfers": {},
    "results": {"table1_datasets": {}},
}
CHANGES = ("record.json",)  # holds the time of day
MARK = "STF_KILLS"  # an environment variable by which the processes of a call are found


@dataclass(frozen=True)
class Stage:
    "A command, and what it makes."

    name: str
    command: tuple[str, ...]
    made: str  # its folder
    stamps: str | None = None  # folder of notes that it is done

    def files(self, project: Path, folder: Path | None = None) -> dict[str, bytes]:
        "What it made, by name."
        folder = folder or project / self.made
        return {
            p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name not in CHANGES
        }

    def undo(self, project: Path, all_of_it: bool) -> None:
        "Make the command work again: from nothing, or on top of what is finished."
        for name in (self.stamps, self.made if all_of_it else None):
            if name:
                shutil.rmtree(project / name, ignore_errors=True)


STAGES = (
    Stage("download", ("download", "synth60"), "raw/synth60"),
    Stage("preprocess", ("preprocess", "synth60", "--workers", "2"), "clips/synth60"),
    Stage(
        "train",
        ("train", "M1", "--jobs", "2", "--device", "cpu"),
        "runs/synthetic/ablation/M1",
        "runs/synthetic/stamps",
    ),
    Stage("render", ("render", "table1_datasets"), "results/synthetic/table1_datasets", "runs/synthetic/rendered"),
)


def new_project(folder: Path) -> Path:
    "A project with one source, one run and one result."
    (folder / "nbs").mkdir(parents=True)
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    shutil.copytree(ROOT / "nbs" / "results", folder / "nbs" / "results")
    for name in ("data", "conf"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def start(stage: Stage, project: Path, mark: str = "") -> subprocess.Popen:
    "Call the command of a stage, as the leader of a group."
    environment = {**os.environ, "OMP_NUM_THREADS": "1", MARK: mark}
    command = [sys.executable, "-m", "stf_repro.cli", *stage.command]
    with open(project / "said.txt", "w") as said:  # no pipe: whoever is left would hold its end
        return subprocess.Popen(command, cwd=project, env=environment, start_new_session=True, stdout=said, stderr=said)


def finish(stage: Stage, project: Path) -> None:
    "Call the command of a stage, and let it come to its end."
    assert start(stage, project).wait() == 0, f"{stage.name} failed: {(project / 'said.txt').read_text()}"


def alive(mark: str) -> list[int]:
    "Processes of a call that are still there (on Linux)."
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # of somebody else, or gone
            pass
    return found


def kill_once(stage: Stage, project: Path, seconds: float, whole_group: bool) -> bool:
    "Kill the stage after some seconds; whether it was still at work."
    mark = uuid.uuid4().hex
    process = start(stage, project, mark)
    try:
        assert process.wait(seconds) == 0, f"{stage.name} failed: {(project / 'said.txt').read_text()}"
        return False
    except subprocess.TimeoutExpired:
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 30
    while left := alive(mark):
        assert time.monotonic() < end, f"{stage.name}: processes {left} go on, half a minute after the kill"
        time.sleep(0.1)
    return True


def whole(stage: Stage, project: Path, known: dict[str, bytes]) -> bool:
    "Whether what was finished is still there: in its place, or beside it."
    folder = project / stage.made
    return any(
        stage.files(project, place) == known
        for place in (folder, folder.parent / f".{folder.name}.old")
        if place.is_dir()
    )


def complete(stage: Stage, project: Path, known: dict[str, bytes], beside: set[str]) -> None:
    "Call the stage again; it must end as if nothing had happened."
    finish(stage, project)
    found = stage.files(project)
    assert found == known, (
        f"{stage.name}: other files than undisturbed: {sorted(k for k in {*found, *known} if found.get(k) != known.get(k))}"
    )
    left = {p.name for p in (project / stage.made).parent.iterdir()} - beside
    assert not left, f"{stage.name} leaves {sorted(left)}"


def torment(stage: Stage, project: Path, kills: int, rng: random.Random) -> None:
    "Kill a stage that often, and complete it now and then."
    began = time.monotonic()
    finish(stage, project)
    usual, known, beside = (
        time.monotonic() - began,
        stage.files(project),
        {p.name for p in (project / stage.made).parent.iterdir()},
    )
    assert known, f"{stage.name} made nothing"
    on_top = done = 0
    stage.undo(project, all_of_it=True)
    finished = False  # whether the result stood there, whole, when the stage was last begun anew
    while done < kills:
        if kill_once(stage, project, rng.uniform(0.05, 1) * usual, whole_group=rng.random() < 0.5):
            done, on_top = done + 1, on_top + finished
            assert not finished or whole(stage, project, known), f"{stage.name}: what was finished before is lost"
            if rng.random() < 0.5:
                continue  # killed again, on its way back
            complete(stage, project, known, beside)
        finished = stage.name != "train" and rng.random() < 0.5  # a training that is finished is not begun again
        stage.undo(project, all_of_it=not finished)
    complete(stage, project, known, beside)
    print(
        f"{stage.name}: {done} kills, {on_top} of them on top of a finished result, within {usual:.1f} s; nothing lost",
        flush=True,
    )


def main(kills: int = 50, seed: int = 0) -> None:
    rng = random.Random(seed)
    shares = [kills // len(STAGES) + (i < kills % len(STAGES)) for i in range(len(STAGES))]
    with tempfile.TemporaryDirectory() as folder:
        project = new_project(Path(folder) / "project")
        for stage, share in zip(STAGES, shares):
            torment(stage, project, share, rng)
    print(f"{kills} kills")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
