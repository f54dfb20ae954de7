"The pipeline: what a change re-runs, what a kill leaves, what a mistake is told."

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from conftest import STF

from stf_repro.cli import main
from stf_repro.training.config import ConfigError, parse


def stf(folder: Path, *args: str, **kwargs):
    return subprocess.run([*STF, *args], cwd=folder, capture_output=True, text=True, **kwargs)


def parameters_of(root, stage: str) -> list[str]:
    "The parameters that a stage depends on."
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        found = next(s for s in repo.index.stages if s.addressing == stage)
        return sorted(p for d in found.deps if hasattr(d, "params") for p in d.params)


def test_a_run_depends_on_its_own_parameters_only(root):
    "So a changed loss weight re-trains the runs that use it, and no other."
    params = yaml.safe_load((root / "params.yaml").read_text())
    for kind, stage in (("runs", "train"), ("shifts", "shift")):
        for key in list(params[kind])[:2]:
            assert parameters_of(root, f"{stage}@{key}") == ["profile", f"{kind}.{key}"]


def test_a_shift_waits_for_the_run_it_starts_from(root):
    from dvc.repo import Repo

    params = yaml.safe_load((root / "params.yaml").read_text())
    with Repo(str(root)) as repo:
        for key, section in params["shifts"].items():
            stage = next(s for s in repo.index.stages if s.addressing == f"shift@{key}")
            assert f"runs/{params['profile']}/main/{section['start']}" in {str(d.def_path) for d in stage.deps}


def test_dvc_shows_the_figures_and_the_curve_of_every_run(root):
    "Where `stf train` sums a run up: see test_engine."
    from dvc.repo import Repo

    params = yaml.safe_load((root / "params.yaml").read_text())
    folder = f"runs/{params['profile']}"
    sections = [(key, section["table"]) for kind in ("runs", "shifts") for key, section in params[kind].items()]
    with Repo(str(root)) as repo:
        figures, curves = ({str(out) for stage in repo.index.stages for out in stage.outs if getattr(out, kind)} for kind in ("metric", "plot"))
    assert figures == {f"{folder}/metrics/{table}/{key}.json" for key, table in sections}
    assert curves == {f"{folder}/curves/{table}/{key}.tsv" for key, table in sections}


def closure(modules: set[str], arrows: dict[str, set[str]]) -> set[str]:
    "All modules of the package that these import, directly or not."
    todo, seen = set(modules), set()
    while todo:
        module = todo.pop()
        if module in arrows and module not in seen:
            seen.add(module)
            todo |= arrows[module]
    return seen


def lacking(stage: str, entry: set[str], root) -> list[str]:
    "Modules that a stage imports, directly or not, and does not list."
    from test_house import graph

    section = yaml.safe_load((root / "dvc.yaml").read_text())["stages"][stage]
    paths = [f"stf_repro/{module.replace('.', '/')}.py" for module in closure(entry, graph(root))]
    assert paths
    return [path for path in paths if not any(path == dep or path.startswith(f"{dep}/") for dep in section["do"]["deps"])]


@pytest.mark.parametrize(
    "stage,entry",
    [
        ("download", {"data.sources", "data.synthetic", "data.synthkinetics", "data.standin"}),
        ("preprocess", {"data.preprocess"}),
        ("train", {"training.trainer"}),
        ("shift", {"training.trainer"}),
    ],
)
def test_stages_depend_on_every_module_they_import(root, stage, entry):
    assert lacking(stage, entry, root) == []


def test_results_depend_on_every_module_their_notebook_imports(root):
    groups = yaml.safe_load((root / "params.yaml").read_text())["results"]
    for group, notebooks in groups.items():
        for name in notebooks:
            text = (root / "nbs" / "results" / f"{name}.ipynb").read_text()
            entry = {*re.findall(r"from stf_repro\.([\w.]+) import", text), "report.notebooks"}
            assert lacking(f"results_{group}", entry, root) == [], name


def test_training_stages_list_the_modules_that_they_fingerprint(root):
    from stf_repro.training.config import CODE

    deps = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]["train"]["do"]["deps"]
    for pattern in CODE:
        assert f"stf_repro/{pattern.removesuffix('/*.py')}" in deps


def test_the_seed_is_part_of_a_training(project, small_params):
    "A finished training of another configuration is not taken for this one."
    out = project / "runs" / "synthetic" / "ablation" / "M1"
    small_params["runs"]["M1"]["optim"]["epochs"] = 1
    small_params["runs"]["M1"]["seeds"] = [0, 1]
    (project / "params.yaml").write_text(yaml.safe_dump(small_params))
    assert stf(project, "train", "M1").returncode == 0
    marks = [json.loads((out / f"seed-{n}" / "record.json").read_text())["fingerprint"] for n in (0, 1)]
    shutil.copytree(out / "seed-0", out / "seed-1", dirs_exist_ok=True)
    again = stf(project, "train", "M1")
    assert again.returncode == 0 and "(seed 0): was trained before" in again.stdout and "(seed 1): was trained before" not in again.stdout
    assert json.loads((out / "seed-1" / "record.json").read_text())["fingerprint"] == marks[1] != marks[0]


def test_damaged_results_are_made_again_and_whole_ones_left(project):
    out = project / "runs" / "synthetic" / "ablation" / "M1" / "seed-0"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert stf(project, "train", "M1", env=environment).returncode == 0
    scores = (out / "scores.npz").read_bytes()
    (out / "record.json.part").write_text("left by a kill")
    again = stf(project, "train", "M1", env=environment)
    assert "nothing to do" in again.stdout and not list(out.glob("*.part"))
    (out / "scores.npz").write_bytes(b"junk")
    assert "nothing to do" not in stf(project, "train", "M1", env=environment).stdout
    assert (out / "scores.npz").read_bytes() == scores


def test_one_folder_one_trainer(project, monkeypatch, capsys):
    import fcntl

    monkeypatch.chdir(project)
    out = project / "runs" / "synthetic" / "ablation" / "M1" / "seed-0"
    out.mkdir(parents=True)
    handle = os.open(out, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert main(["train", "M1"]) == 1
    assert "another process is training" in capsys.readouterr().err
    os.close(handle)


def test_weights_that_blow_up_in_the_last_step_are_not_saved(project, small_params):
    "One step an epoch: every term of the epoch is finite, what comes after it is not."
    small_params["runs"]["M1"]["optim"] |= {"lr": 1e30, "epochs": 1, "batch_size": 168}
    (project / "params.yaml").write_text(yaml.safe_dump(small_params))
    result = stf(project, "train", "M1")
    assert result.returncode == 1 and "are NaN or infinite" in result.stderr
    assert not list((project / "runs").rglob("*.safetensors"))


def test_nan_stops_training_with_the_clips_named_and_nothing_written(project, small_params):
    small_params["runs"]["M1"]["optim"]["lr"] = 1e30
    (project / "params.yaml").write_text(yaml.safe_dump(small_params))
    result = stf(project, "train", "M1")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "cross_entropy is NaN or infinite" in result.stderr and "S001C001P001" in result.stderr
    assert not list((project / "runs").rglob("metrics.json"))


@pytest.mark.parametrize(
    "argv,expected",
    [
        (["train", "M6"], "no run 'M6'; did you mean 'M5'"),
        (["download", "nwulca"], "did you mean 'nwucla'"),
        *((["train", "M1", "--device", name], f"device {name!r} cannot be used") for name in ("gpu", "meta", "cuda:99", "hpu", "cuda:-1")),
        (["train", "M1", "--seed", "7"], "runs.M1 has no seed 7; its seeds are 0"),
        (["render", "table9"], "table9"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(project, monkeypatch, capsys, argv, expected):
    monkeypatch.chdir(project)
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert expected in error and len(error.strip().splitlines()) == 1


def test_a_record_says_whether_git_could_be_asked(clone, tmp_path, monkeypatch):
    "Clean, changed, and the ways in which git does not answer: not there, refusing, no repository, the package not in it."
    from stf_repro.training import record

    asked = lambda: [record.origin(torch.device("cpu"))[name] for name in ("commit", "uncommitted_changes")]
    monkeypatch.setattr(record.stf_repro, "__file__", str(clone / "stf_repro" / "__init__.py"))
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True).stdout.strip()
    assert asked() == [head, False]
    (clone / "conf" / "config.yaml").write_text("# changed")
    assert asked() == [head, True]
    with monkeypatch.context() as inside:
        inside.setenv("PATH", str(tmp_path / "empty"))
        assert asked() == ["unknown", None]
        (tmp_path / "git").write_text("#!/bin/sh\necho 'fatal: detected dubious ownership' >&2\nexit 128\n")
        (tmp_path / "git").chmod(0o755)
        inside.setenv("PATH", str(tmp_path))
        assert asked() == ["unknown", None]
    shutil.rmtree(clone / ".git")
    assert asked() == ["unknown", None]


def test_making_data_writes_no_bar_into_a_log(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    sources = {"synth60": {"subjects": 1}, "standin60": {"share": 0.0005}, "synthkinetics": {"train": 1, "val": 1}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"profile": "t", "sources": sources, "runs": {"M1": {}}}))
    (tmp_path / "data").symlink_to(Path(__file__).parents[1] / "data")
    for source in sources:
        result = stf(tmp_path, "download", source)
        assert result.returncode == 0 and result.stderr == "" and result.stdout.count("\n") == 1, result.stderr


def test_training_without_clips_says_what_to_do(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    shutil.rmtree(project / "clips")
    assert main(["train", "M1"]) == 1
    assert "stf preprocess synth60" in capsys.readouterr().err


def test_a_bad_recording_is_set_aside(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    victim = sorted((project / "raw" / "synth60").glob("*.skeleton"))[0]
    victim.write_text(victim.read_text()[:1000])
    assert main(["preprocess", "synth60"]) == 1
    assert victim.stem in capsys.readouterr().err
    assert victim.stem in (project / "clips" / "synth60.bad.tsv").read_text()
    assert main(["preprocess", "synth60", "--allow-bad"]) == 0


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("download", "preprocess", "train", "render"))


def test_several_mistakes_are_told_at_once():
    section = {"table": "a", "label": "M1", "source": "synth60", "benchmark": "synth60-xsub", "sead": 1, "optim": {"epochs": 0}}
    with pytest.raises(ConfigError) as error:
        parse(section, "runs.M1")
    assert "did you mean 'seed'" in str(error.value) and "runs.M1.optim.epochs" in str(error.value)


MADE = {"synth120": {"subjects": 3}, "synthkinetics": {"train": 2, "val": 1}, "standin60": {"share": 0.002}, "standin120": {"share": 0.002}}


@pytest.mark.parametrize("source", MADE)
def test_every_made_source_goes_from_its_command_to_a_batch(root, tmp_path, monkeypatch, source):
    "Made, preprocessed, split and exported by the command line, with nothing but params.yaml beside the shipped facts."
    from stf_repro.cli import main
    from stf_repro.data.batches import Clips
    from stf_repro.data.benchmarks import BENCHMARKS
    from stf_repro.data.clips import ClipStore

    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "data").symlink_to(root / "data")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"profile": "t", "sources": {source: MADE[source]}, "runs": {"M1": {}}}))
    monkeypatch.chdir(tmp_path)
    assert main(["download", source]) == 0 and main(["preprocess", source]) == 0
    assert main(["export", source, "pyskl", "out.pkl"]) == 0 and (tmp_path / "out.pkl").stat().st_size > 1000
    store = ClipStore.open(tmp_path / "clips" / source)
    benchmarks = [b for b in BENCHMARKS.values() if b.source == source]
    assert benchmarks and store.source == source
    for benchmark in benchmarks:
        parts = [benchmark.indices(store, part) for part in ("train", "test")]
        assert all(len(part) for part in parts) and not set(parts[0]) & set(parts[1])
        assert store.layout.name == benchmark.layout and store.labels.max() < len(benchmark.classes)
        if source.startswith("synth"):
            assert sum(map(len, parts)) == len(store) and all(set(store.labels[part]) == set(range(len(benchmark.classes))) for part in parts)
    clips = Clips(store, bodies=benchmarks[0].num_persons)
    x, _ = (clips.pad if source == "synthkinetics" else clips.replay)(torch.arange(8), 50)
    assert x.shape == (8, 3, 50, len(store.layout), 2) and torch.isfinite(x).all() and x.any()


@pytest.mark.parametrize(
    "sources,reason",
    [
        ({"synth60": {"seeed": 1}}, "sources.synth60.seeed in params.yaml is unknown; known: seed"),
        ({"synth60": {"seed": "abc"}}, "sources.synth60.seed in params.yaml is 'abc'; expected a number such as 0"),
        ({"synth60": 3}, "sources.synth60 in params.yaml is 3"),
        ({"synth60": {"denoise": "no"}}, "expected true or false"),
        ({"synth60": {"subjects": 99}}, "subjects must be 1 to 40"),
        ([1], "sources.synth60 in params.yaml is [1]"),
    ],
)
def test_options_of_sources_are_checked(tmp_path, monkeypatch, capsys, sources, reason):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"profile": "t", "sources": sources, "runs": {"M1": {}}}))
    monkeypatch.chdir(tmp_path)
    assert main(["download", "synth60"]) == 1
    assert reason in capsys.readouterr().err
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"profile": "t", "sources": {"nwucla": {"denoize": True}}, "runs": {"M1": {}}}))
    assert main(["preprocess", "nwucla"]) == 1 and "a fetched source has only `denoise`" in capsys.readouterr().err
    assert main(["export", "nobody", "pyskl", "x"]) == 1 and "no source 'nobody'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["preprocess", "synth60", "--workers", "0"])
