"The paper profile: every stage resolves, and all its runs train, on a small stand-in of the real shapes."

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mock_ntu import StandinConfig, make_standin

from stf_repro.cli import main
from stf_repro.training.runs import resolve
from stf_repro.data.sets.ntu import ntu_samples
from stf_repro.report.render import render

SHARES = {"ntu60": 0.0011, "ntu120": 0.00035}  # of the archives of NTU, which mock_ntu.py makes


def compose(root, path: Path) -> dict:
    from dvc.utils.hydra import compose_and_dump

    compose_and_dump(path, str(root / "conf"), None, "config", "", ["profile=paper"])
    params = yaml.safe_load(path.read_text())
    for kind in ("runs", "transfers"):  # written out, as a whole
        params[kind] = {key: resolve("", params, key).section for key in params[kind]}
    return params


@pytest.mark.slow
def test_every_stage_of_the_paper_resolves(clone):
    "`dvc repro --dry` lists downloads, preprocessing, 29 runs and 2 transfers, and its results."
    params = compose(clone, clone / "params.yaml")
    for source in params["sources"]:
        for folder in ("raw", "clips"):
            (clone / folder / source).mkdir(parents=True)
    for section in (*params["runs"].values(), *params["transfers"].values()):  # a dry run, too, looks at dependencies
        (clone / "runs" / "paper" / section["group"]).mkdir(parents=True, exist_ok=True)
        if "init_from" in section:
            (clone / "runs" / "paper" / "main" / section["init_from"]).mkdir(parents=True, exist_ok=True)
    dvc = Path(sys.executable).parent / "dvc"
    result = subprocess.run([str(dvc), "repro", "--dry"], cwd=clone, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    ran = {line.split("'")[1] for line in result.stdout.splitlines() if line.startswith("Running stage")}
    assert {f"train@{key}" for key in params["runs"]} | {f"transfer@{key}" for key in params["transfers"]} <= ran
    assert len(params["runs"]) + len(params["transfers"]) == 31
    assert {f"results@{name}" for name in params["results"]} <= ran


def small(section: dict) -> dict:
    "A run of the paper: its frames, bodies, recipe and terms; a tiny network, few steps."
    made = {"source": "synthkinetics", "benchmark": "synthkinetics"} if section["source"] == "kinetics" else {}
    network = section["network"] | {"width": 6, "num_gcn_scales": 2, "num_g3d_scales": 2, "windows": [3]}
    optim = section["optim"] | {
        "epochs": 1,
        "batch_size": 4 if section.get("percent") else 8,
        "accumulate": 2,
        "milestones": [],
    }
    objective = section["objective"] | {"warmup": 0.0}
    return section | made | {"network": network, "optim": optim, "objective": objective}


@pytest.fixture(scope="module")
def paper(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    params = compose(root, folder / "params.yaml")
    for kind in ("runs", "transfers"):
        params[kind] = {key: small(section) for key, section in params[kind].items()}
    params["sources"] = {"ntu60": {}, "ntu120": {}, "synthkinetics": {"train": 2, "val": 1}}
    for source, share in SHARES.items():
        names = [name for name in ntu_samples(root / "data" / "ntu") if source == "ntu120" or name < "S018"]
        make_standin(folder / "raw" / source, names, StandinConfig(share=share), progress=False)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for name in ("data", "conf", "nbs", "dvc.yaml"):
        (folder / name).symlink_to(root / name)
    return folder


@pytest.mark.slow
def test_the_paper_runs_end_to_end_on_a_stand_in(paper, monkeypatch):
    monkeypatch.chdir(paper)
    params = yaml.safe_load((paper / "params.yaml").read_text())
    for source in params["sources"]:
        command = ["preprocess", source, "--workers", "1", "--allow-bad"]  # most names of NTU are not there
        assert main(["download", source]) == 0 and main(command) == 0
    for key in (*params["runs"], *params["transfers"]):
        assert main(["train", key, "--device", "cpu"]) == 0, key
    assert len(list((paper / "runs" / "paper").glob("*/*/seed-0/scores.npz"))) == 31
    for name in ("table3_transfer", "table5_ablation"):
        folder = render(paper, params, name)
        text = (folder / "table.md").read_text()
        assert "not run" not in text, text
