"What several tests need: the project's root, and a small project to run the pipeline in."

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
STF = [sys.executable, "-m", "stf_repro.cli"]  # the command `stf`


@pytest.fixture(autouse=True)
def figures_closed():
    "Pictures that a test leaves open are closed after it: the twenty-first would warn in some other test."
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture
def clone(tmp_path) -> Path:
    "The project's files as they are, in a git repository of their own."
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in names.splitlines():
        source = ROOT / name
        if source.is_file():
            target = tmp_path / "clone" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    folder = tmp_path / "clone"
    for command in (
        ["init", "-q"],
        ["config", "user.name", "t"],
        ["config", "user.email", "t@example.org"],
        ["add", "-A"],
        ["commit", "-qm", "t"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.fixture
def small_params() -> dict:
    "Runs that train in seconds."
    network = {"width": 6, "num_gcn_scales": 2, "num_g3d_scales": 2, "windows": [3]}
    optim = {"epochs": 3, "batch_size": 16, "lr": 0.02, "milestones": [2]}
    base = {
        "group": "ablation",
        "source": "synth60",
        "benchmark": "synth60-xsub",
        "input": {"frames": 60, "frame_stride": 10},
        "optim": optim,
    }
    shares = {"exploration": 0.1, "divergence": 0.1, "adjacency": 0.1, "coherence": 0.1}
    return {
        "profile": "synthetic",
        "sources": {"synth60": {"seed": 0, "subjects": 3}},
        "runs": {
            "M1": base | {"label": "M1", "network": network, "seeds": [0]},
            "M5": base
            | {
                "label": "M5",
                "network": network,
                "stf": True,
                "objective": {"relative_weights": shares, "warmup": 0.3},
                "seeds": [0],
            },
        },
        "transfers": {},
    }


@pytest.fixture(scope="session")
def made_data(tmp_path_factory) -> Path:
    "A small synthetic data set, preprocessed once for all tests."
    folder = tmp_path_factory.mktemp("made")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "params.yaml").write_text(
        yaml.safe_dump({"profile": "t", "sources": {"synth60": {"seed": 0, "subjects": 3}}, "runs": {"M1": {}}})
    )
    for command in (["download", "synth60"], ["preprocess", "synth60"]):
        subprocess.run([*STF, *command], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def project(tmp_path, small_params, made_data) -> Path:
    "A project with a small synthetic data set, preprocessed, and runs to train."
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "params.yaml").write_text(yaml.safe_dump(small_params))
    for name in ("raw", "clips"):
        shutil.copytree(made_data / name, folder / name)
    return folder
