"The pipeline: what a change re-runs, what a kill leaves, what a mistake is told."

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import STF

from stf_repro.commands import options
from stf_repro.cli import main
from stf_repro.report.tables.arms import read_runs
from stf_repro.training.config import ConfigError, parse, run_configs
from stf_repro.training.runs import leaves, lookup, read_params, resolve, Training


def stf(folder: Path, *args: str, **kwargs):
    return subprocess.run([*STF, *args], cwd=folder, capture_output=True, text=True, **kwargs)


def parameters_by_stage(root) -> dict[str, list[str]]:
    "The parameters that each stage depends on."
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return {
            s.addressing: sorted(p for d in s.deps if hasattr(d, "params") for p in d.params) for s in repo.index.stages
        }


def parameters_of(root, stage: str) -> list[str]:
    return parameters_by_stage(root)[stage]


def compose(root, path: Path, *overrides: str) -> dict:
    "params.yaml as `dvc exp run -S ...` composes it."
    from dvc.utils.hydra import compose_and_dump

    compose_and_dump(path, str(root / "conf"), None, "config", "", list(overrides))
    return yaml.safe_load(path.read_text())


@pytest.mark.slow
def test_a_run_depends_on_its_own_parameters_only(root):
    "So a changed loss weight re-trains the runs that use it, and no other."
    params = yaml.safe_load((root / "params.yaml").read_text())
    for kind, stage in (("runs", "train"), ("transfers", "transfer")):
        for key in list(params[kind])[:2]:
            protocol, method = (params[kind][key][name] for name in ("protocol", "method"))
            assert parameters_of(root, f"{stage}@{key}") == sorted(
                ["profile", "base", f"protocols.{protocol}", f"methods.{method}", f"{kind}.{key}"]
            )


@pytest.mark.parametrize(
    "override,stages",
    [
        ("methods.M3.objective.relative_weights.divergence=0.2", {"train@M3"}),
        (
            "++protocols.kinetics.optim.epochs=11",
            {f"train@{n}-kinetics-{m}" for n in ("msg3d", "stf") for m in ("joint", "bone")},
        ),
        ("++runs.M2.optim.lr=0.1", {"train@M2"}),
        ("protocols.scarce.optim.epochs=9", {f"train@{n}-p{p}" for n in ("msg3d", "stf") for p in (10, 20, 25)}),
    ],
)
def test_a_changed_number_concerns_the_runs_that_use_it_only(root, tmp_path, override, stages):
    "Composed as `dvc exp run -S` does; which stages depend on a parameter that differs, and which runs look different."
    before, after = (
        yaml.safe_load((root / "params.yaml").read_text()),
        compose(root, tmp_path / "params.yaml", override),
    )
    changed = {
        stage
        for stage, names in parameters_by_stage(root).items()
        if any(lookup(before, n.split(".")) != lookup(after, n.split(".")) for n in names)
    }
    assert changed == stages
    configs = [
        {key: run_configs(resolve("", params, key)) for kind in ("runs", "transfers") for key in params[kind]}
        for params in (before, after)
    ]
    assert {f"train@{key}" for key in configs[0] if configs[0][key] != configs[1][key]} == stages


# what a run is made of


@pytest.mark.parametrize(
    "profile,key,expected",
    [
        ("paper", "stf-xset120-bone", {"seeds": [0], "label": "M5", "source": "ntu120", "benchmark": "ntu120-xset", "group": "main", "stf": True, "network.width": 96, "input.modality": "bone", "input.frames": 300, "input.recipe": "replay", "optim.epochs": 60, "optim.milestones": [30, 50], "optim.batch_size": 32, "optim.accumulate": 2, "optim.lr": 0.05, "optim.weight_decay": 5e-4, "objective.relative_weights.coherence": 0.1}),
        ("paper", "msg3d-kinetics-joint", {"label": "M1", "source": "kinetics", "benchmark": "kinetics400", "network.num_gcn_scales": 8, "network.num_g3d_scales": 8, "network.windows": [3, 5], "input.recipe": "pad", "optim.epochs": 65, "optim.milestones": [45, 55], "optim.batch_size": 128, "optim.lr": 0.1, "optim.weight_decay": 3e-4}),
        ("paper", "stf-p20", {"group": "scarce", "percent": 20, "benchmark": "ntu60-xsub", "optim.epochs": 50}),
        ("synthetic", "msg3d-p10", {"seeds": [0, 1, 2], "group": "scarce", "percent": 10, "source": "synth60", "optim.epochs": 30, "optim.recipe": "adamw", "objective.warmup": 0.3}),
        ("synthetic", "stf-xsub60-joint", {"seeds": [0, 1, 2, 3, 4], "label": "M5", "optim.epochs": 9, "optim.batch_size": 32, "input.frame_stride": 6, "input.frames": 60}),
        ("synthetic", "stf-transfer", {"group": "transfer", "label": "M5", "stf": True, "init_from": "stf-xsub60-joint", "source": "synth120", "optim.epochs": 10}),
        ("synthetic", "M5e", {"group": "ablation", "seeds": [0, 1, 2, 3, 4], "label": "M5e", "stf": True, "objective.relative_weights": {"exploration": 0.1, "divergence": 0.1, "adjacency": 1.0, "coherence": 0.1}, "reading": "early"}),
        ("choices", "focus-scale-norm", {"seeds": [0, 1, 2], "group": "choices", "label": "focus scaled to norm 1", "choices.focus_scale": "norm", "stf": True, "hold_out": "subject", "benchmark": "synth60-xsub"}),
        ("choices", "adjacency", {"seeds": [0, 1, 2, 3, 4], "label": "L_Gk alone", "stf": True, "objective.relative_weights": {"adjacency": 3.0}, "hold_out": "subject"}),
        ("search", "jhmdb-lr-high", {"group": "search", "hold_out": "clip", "optim.lr": 0.02, "network.name": "msg3d", "benchmark": ["jhmdb-1", "jhmdb-2"]}),
        ("why", "triple", {"group": "search", "hold_out": "pair", "benchmark": [f"sbu-{k}" for k in range(1, 6)], "optim.lr": 0.02, "objective.relative_weights.adjacency": 9.0, "objective.warmup": 0.3}),
        ("sbu", "M4", {"group": "study", "label": "M4", "source": "sbu", "benchmark": [f"sbu-{k}" for k in range(1, 6)], "seeds": [*range(5)], "input.recipe": "uniform", "optim.recipe": "adamw", "objective.relative_weights.adjacency": 3.0}),
        ("nwucla", "M5-p10", {"group": "study", "source": "nwucla", "benchmark": "nwucla", "percent": 10, "seeds": [*range(5)]}),
        ("jhmdb", "M1-bone", {"benchmark": ["jhmdb-1", "jhmdb-2", "jhmdb-3"], "seeds": [*range(10)], "input.modality": "bone", "network.width": 12}),
        ("jhmdb-full", "M5", {"benchmark": ["jhmdb-1", "jhmdb-2", "jhmdb-3"], "network.width": 96, "network.num_gcn_scales": 13, "input.frames": 100}),
    ],
)  # fmt: skip
def test_runs_are_what_they_were_meant_to_be(root, tmp_path, profile, key, expected):
    "A few of each profile, written out: the schedules of MS-G3D's released configurations, and what is special about a run."
    params = compose(root, tmp_path / "params.yaml", f"profile={profile}")
    section = resolve("", params, key).section
    assert {path: lookup(section, path.split(".")) for path in expected} == expected


def test_the_later_part_overrules_the_earlier_and_the_given_ones_stay_as_they_are():
    base, protocol = (
        {"optim": {"lr": 1, "epochs": 1, "milestones": [1, 2]}, "seeds": [0, 1]},
        {"optim": {"lr": 2, "milestones": [3]}},
    )
    params = {
        "profile": "p",
        "base": base,
        "protocols": {"x": protocol},
        "methods": {"M1": {"optim": {"lr": 3}, "label": "M1"}},
    }
    params["runs"] = {
        "a": {"group": "t", "protocol": "x", "method": "M1", "label": "own"},
        "b": {"group": "t", "protocol": "x"},
    }
    before = json.dumps(params)
    run = resolve("", params, "a")
    optim = {"lr": 3, "epochs": 1, "milestones": [3]}
    assert run.name == "runs.a"
    assert run.section == {"optim": optim, "seeds": [0, 1], "label": "own", "group": "t", "method": "M1"}
    assert resolve("", params, "b").section["optim"] == {"lr": 2, "epochs": 1, "milestones": [3]}
    assert json.dumps(params) == before


def test_another_profile_is_composed_in_memory(root, tmp_path, monkeypatch, capsys):
    "For one command: params.yaml stays, and so does the profile of the next command."
    for name in ("conf", "dvc.yaml"):
        (tmp_path / name).symlink_to(root / name)
    compose(root, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    before = Path("params.yaml").read_bytes()
    assert main(["--profile", "nwucla", "show", "M1-bone"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("runs/nwucla/study/M1-bone\n") and "conf/profile/nwucla.yaml" in said
    assert main(["--profile", "jhmdb", "runs"]) == 0 and "--fold jhmdb-3 --seed 9" in capsys.readouterr().out
    assert main(["show", "M1-bone"]) == 1 and "profile 'synthetic' has no run 'M1-bone'" in capsys.readouterr().err
    assert main(["--profile", "nwuclo", "runs"]) == 1 and "there is no profile 'nwuclo'" in capsys.readouterr().err
    assert Path("params.yaml").read_bytes() == before


def test_a_run_has_the_sizes_of_its_own_network_and_of_no_other():
    "From the general to the run's own line; a network that is written out in full overrules them all."
    base = {"network": "msg3d", "networks": {"msg3d": {"width": 12, "windows": [3]}, "convolution": {"width": 24}}}
    protocol = {"networks": {"msg3d": {"windows": [5]}}}
    params = {"profile": "p", "base": base, "protocols": {"x": protocol}}
    params["runs"] = {
        "a": {"group": "t", "protocol": "x"},
        "b": {"group": "t", "protocol": "x", "network": "convolution"},
        "c": {"group": "t", "networks": {"msg3d": {"width": 6}}},
        "d": {"group": "t", "network": {"name": "convolution", "width": 6}},
    }
    assert resolve("", params, "a").section == {"group": "t", "network": {"name": "msg3d", "width": 12, "windows": [5]}}
    assert resolve("", params, "b").section == {"group": "t", "network": {"name": "convolution", "width": 24}}
    assert resolve("", params, "c").section == {"group": "t", "network": {"name": "msg3d", "width": 6, "windows": [3]}}
    assert resolve("", params, "d").section == {"group": "t", "network": {"name": "convolution", "width": 6}}
    for wrong in ("msg3d", {"msg3d": 12}):
        with pytest.raises(ConfigError, match="`networks` is"):
            resolve("", params | {"base": base | {"networks": wrong}}, "a")


@pytest.mark.parametrize("change,reason", [
    ({"protocol": "xsab"}, "runs.M1.protocol is 'xsab', which params.yaml does not have under `protocols`; did you mean 'xsub'?"),
    ({"method": "M9"}, "runs.M1.method is 'M9'"),
    ({"protocol": ["xsub"]}, "runs.M1.protocol is ['xsub']"),
    ({"group": "../x"}, "runs.M1.group in params.yaml is '../x'"),
    ({"group": None}, "runs.M1.group in params.yaml is None"),
])  # fmt: skip
def test_parts_that_are_not_there_are_named(change, reason):
    params = {
        "profile": "p",
        "protocols": {"xsub": {}},
        "methods": {"M1": {}},
        "runs": {"M1": {"group": "t", "protocol": "xsub", "method": "M1"} | change},
    }
    with pytest.raises(ConfigError, match=re.escape(reason)):
        resolve("", params, "M1")


@pytest.mark.parametrize("content,reason", [
    (b"a: [1\nb: }", "is not YAML"),
    (b"\xff\xfe\x00", "is not YAML"),
    (b"", "has no section `profile`"),
    (b"- 1", "has no section `profile`"),
    (b"{profile: 3, sources: {a: {}}, runs: {a: {}}}", "`profile` in"),
    (b"{profile: ../x, sources: {a: {}}, runs: {a: {}}}", "expected a name"),
    (b"{profile: x, sources: {a: {}}, runs: [a]}", "`runs` in"),
    (b"{profile: x, sources: [a], runs: {a: {}}}", "`sources` in"),
    (b"{profile: x, sources: {a: {}}, runs: {a: {}}, transfres: {}}", "unknown section 'transfres'; did you mean 'transfers'?"),
])  # fmt: skip
def test_a_params_file_that_cannot_be_used_is_one_sentence(tmp_path, monkeypatch, capsys, content, reason):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for command in (["runs"], ["show", "a"], ["train", "a"], ["download", "synth60"], ["render", "table5_ablation"]):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert reason in error and error.count("\n") == 1 and "params.yaml" in error


def test_a_params_file_that_is_a_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 1 and "params.yaml cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("profile", ["synthetic", "paper", "sbu"])
def test_show_names_the_file_of_every_value(root, tmp_path, monkeypatch, capsys, profile):
    "And the value stands in it: read again here, by its own path."
    for name in ("conf", "dvc.yaml"):
        (tmp_path / name).symlink_to(root / name)
    params = compose(root, tmp_path / "params.yaml", f"profile={profile}")
    monkeypatch.chdir(tmp_path)
    files = set()
    for key in (*list(params["runs"])[:5], *params["transfers"]):
        assert main(["show", key]) == 0
        head, *lines = capsys.readouterr().out.splitlines()
        assert head == resolve("", params, key).folder.as_posix()
        shown = {line.split()[0]: line for line in lines}
        config = next(iter(run_configs(resolve("", params, key)).values())).model_dump(mode="json")
        assert len(shown) == len(lines) == sum(1 for _ in leaves(config))  # seeds for seed
        for path, line in shown.items():
            if not line.endswith(" default"):
                rest, _, file = line.partition(" in ")
                part = rest.split()[-1]
                files.add(file)
                keys = {"network.name": ["network"]}.get(path) or path.replace("network.", "networks.msg3d.").split(".")
                written = lookup(yaml.safe_load((root / file).read_text()), (*part.split(".", 1), *keys))
                value = (
                    params["runs" if key in params["runs"] else "transfers"][key]["source"]
                    if path == "source"
                    else written
                )
                assert (value if isinstance(value, str) else json.dumps(value)) in line, line
    assert (
        {"conf/methods.yaml", f"conf/profile/{profile}.yaml"}
        <= files
        <= {
            "conf/methods.yaml",
            f"conf/profile/{profile}.yaml",
            *(f"conf/{name}.yaml" for name in ("paper/runs", "paper/study", "small", "study", "first")),
        }
    )


def test_show_says_when_a_value_was_put_into_params_by_hand(root, tmp_path, monkeypatch, capsys):
    for name in ("conf", "dvc.yaml"):
        (tmp_path / name).symlink_to(root / name)
    params = compose(root, tmp_path / "params.yaml", "methods.M2.objective.relative_weights.exploration=0.7")
    params["runs"]["M2"]["optim"] = {"momentum": 0.5}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    assert main(["show", "M2"]) == 0
    text = re.sub(" +", " ", capsys.readouterr().out)
    assert (
        "objective.relative_weights.exploration 0.7 methods.M2 in params.yaml\n" in text
        and "optim.momentum 0.5 runs.M2 in params.yaml\n" in text
    )
    assert "optim.lr 0.015 base in conf/small.yaml\n" in text and "optim.accumulate 1 default\n" in text


# what is still to be trained


def finish(project, key: str, seed: int) -> None:
    "What a training leaves, as far as it is looked at."
    params = yaml.safe_load((project / "params.yaml").read_text())
    folder = resolve(project, params, key).place(Training(seed))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps(run_configs(resolve("", params, key), seed)[Training(seed)].model_dump(mode="json"))
    )
    (folder / "metrics.json").write_text("{}")


def test_runs_lists_what_is_still_to_be_trained(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["runs"] = {key: params["runs"][key] for key in ("M2", "stf-xsub60-joint", "stf-p10")}
    params["transfers"] = {"stf-transfer": params["transfers"]["stf-transfer"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    monkeypatch.chdir(tmp_path)

    def listed(*options):
        assert main(["runs", *options]) == 0
        return capsys.readouterr().out.splitlines()

    everything = [
        f"{key} --seed {seed}"
        for key, n in (("M2", 5), ("stf-xsub60-joint", 5), ("stf-p10", 3), ("stf-transfer", 3))
        for seed in range(n)
    ]
    assert listed() == listed("--all") == everything and listed("--ready") == everything[:-3]
    for key, seed in (("M2", 1), ("stf-xsub60-joint", 0), ("stf-p10", 0), ("stf-transfer", 0)):
        finish(tmp_path, key, seed)
    left = [
        line
        for line in everything
        if line not in ("M2 --seed 1", "stf-xsub60-joint --seed 0", "stf-p10 --seed 0", "stf-transfer --seed 0")
    ]
    assert listed() == left and listed("--ready") == left[:-2] and listed("--all") == everything
    params["methods"]["M2"]["objective"]["relative_weights"]["exploration"] = (
        0.2  # then what was trained with another number is not what is wanted
    )
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert listed() == [*(f"M2 --seed {s}" for s in range(5)), *left[4:]]
    (resolve(tmp_path, params, "stf-p10").place(Training(0)) / "metrics.json").unlink()
    assert "stf-p10 --seed 0" in listed()


@pytest.mark.slow
def test_every_fold_is_trained_with_every_seed(project, small_params, monkeypatch, capsys):
    "Two protocols of one source stand for two folds."
    small_params["runs"] = {
        "M1": small_params["runs"]["M1"]
        | {
            "benchmark": ["synth60-xsub", "synth60-xview"],
            "seeds": [0, 1],
            "percent": 50,
            "input": {"frames": 60, "frame_stride": 20},
        }
    }
    small_params["transfers"] = {}
    (project / "params.yaml").write_text(yaml.safe_dump(small_params))
    monkeypatch.chdir(project)
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"M1 --fold synth60-{fold} --seed {seed}" for fold in ("xsub", "xview") for seed in (0, 1)]
    assert main(["train", *lines[2].split()]) == 0 and "/M1/synth60-xview/seed-0: top-1 " in capsys.readouterr().out
    assert (
        main(["train", "M1", "--fold", "synth60-xset"]) == 1
        and "has no fold synth60-xset; its folds are synth60-xsub, synth60-xview" in capsys.readouterr().err
    )
    assert main(["runs"]) == 0 and capsys.readouterr().out.splitlines() == [lines[0], lines[1], lines[3]]
    assert main(["train", "M1", "--jobs", "2"]) == 0 and "mean of 4 trainings" in capsys.readouterr().out
    group = resolve("", read_params(project / "params.yaml"), "M1").section["group"]
    runs = read_runs(project, small_params["profile"], group)
    assert [(r.key, r.config["benchmark"], r.seed) for r in runs] == [
        ("M1", f"synth60-{fold}", seed) for fold in ("xsub", "xview") for seed in (0, 1)
    ]
    assert main(["show", "M1"]) == 0 and '["synth60-xsub", "synth60-xview"]' in capsys.readouterr().out


@pytest.mark.slow
def test_all_runs_of_a_profile_are_trained_together(project, small_params, monkeypatch, capfd):
    "Side by side across runs; what begins with the layers of another comes after it; a second call does nothing."
    short = {"percent": 50, "input": {"frames": 60, "frame_stride": 20}}
    small_params["runs"] = {key: run | short | {"seeds": [0, 1]} for key, run in small_params["runs"].items()}
    small_params["transfers"] = {"later": small_params["runs"]["M1"] | {"init_from": "M1", "seeds": [1]}}
    (project / "params.yaml").write_text(yaml.safe_dump(small_params | {"jobs": 2}))
    monkeypatch.chdir(project)
    assert main(["train", "--all"]) == 0
    out, err = capfd.readouterr()
    begun = [line.split(" | ")[0] for line in out.splitlines() if "epoch 1/" in line]
    assert sorted(begun) == ["M1 seed 0", "M1 seed 1", "M5 seed 0", "M5 seed 1", "later seed 1"], (out, err)
    assert begun[-1] == "later seed 1" and "5 trainings done, nothing is left of the profile synthetic" in out
    assert main(["train", "--all"]) == 0 and "0 trainings done" in capfd.readouterr().out
    assert main(["runs"]) == 0 and capfd.readouterr().out == ""
    for wrong, reason in ((["M1", "--all"], "leave out RUN"), ([], "name a run")):
        assert main(["train", *wrong]) == 1 and reason in capfd.readouterr().err
    (project / "params.yaml").write_text(yaml.safe_dump(small_params | {"launcher": "torchrun x"}))
    assert main(["train", "--all"]) == 0 and "started by `torchrun x`" in capfd.readouterr().out


def test_listing_waits_for_no_heavy_library(root):
    code = "import sys; from stf_repro.cli import main; main(['runs']); sys.exit(any(n in sys.modules for n in ('torch', 'pydantic', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True).returncode == 0


def test_nothing_to_do_is_nothing_to_say(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    for key in ("M1", "M5"):
        finish(project, key, 0)
    assert main(["runs"]) == 0 and capsys.readouterr().out == ""


def test_a_transfer_waits_for_the_run_it_starts_from(root):
    from dvc.repo import Repo

    params = yaml.safe_load((root / "params.yaml").read_text())
    with Repo(str(root)) as repo:
        for key, section in params["transfers"].items():
            stage = next(s for s in repo.index.stages if s.addressing == f"transfer@{key}")
            assert f"runs/{params['profile']}/main/{section['init_from']}" in {str(d.def_path) for d in stage.deps}


def test_dvc_shows_the_figures_and_the_curve_of_every_run(root):
    "Where `stf train` sums a run up: see test_engine."
    from dvc.repo import Repo

    params = yaml.safe_load((root / "params.yaml").read_text())
    folder = f"runs/{params['profile']}"
    sections = [
        (key, resolve("", params, key).section["group"])
        for kind in ("runs", "transfers")
        for key, section in params[kind].items()
    ]
    with Repo(str(root)) as repo:
        figures, curves = (
            {str(out) for stage in repo.index.stages for out in stage.outs if getattr(out, kind)}
            for kind in ("metric", "plot")
        )
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
    return [
        path for path in paths if not any(path == dep or path.startswith(f"{dep}/") for dep in section["do"]["deps"])
    ]


@pytest.mark.parametrize(
    "stage,entry",
    [
        ("download", {"data.sources", "data.synthetic.files", "data.synthetic.kinetics"}),
        ("preprocess", {"data.preprocess"}),
        ("train", {"training.trainer"}),
        ("transfer", {"training.trainer"}),
    ],
)
def test_stages_depend_on_every_module_they_import(root, stage, entry):
    assert lacking(stage, entry, root) == []


@pytest.mark.slow
def test_results_depend_on_every_module_their_notebook_imports(root):
    params = yaml.safe_load((root / "params.yaml").read_text())
    for section in ("results", "reports"):
        for name in params[section]:
            text = (root / "nbs" / "results" / f"{name}.ipynb").read_text()
            entry = {*re.findall(r"from stf_repro\.([\w.]+) import", text), "report.render"}
            assert lacking(section, entry, root) == [], name


def test_the_report_depends_on_everything_it_reads(root):
    "Each study and each table that its parameters name."
    stage = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]["reports"]["do"]
    for name, given in yaml.safe_load((root / "params.yaml").read_text())["reports"].items():
        read = {*(f"results/{s}/study" for s in given["sets"]), *(f"results/${{profile}}/{t}" for t in given["tables"])}
        assert given["sets"] and read <= {*stage["deps"]}, name


def test_training_stages_list_the_modules_that_they_fingerprint(root):
    "DVC calls a training when a module changes that it may depend on; the trainer then looks closer."
    from stf_repro.training.fingerprint import _TRAINER
    from stf_repro.training.code_deps import TABLES, reached

    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    used = {
        module.replace(".", "/") + ".py"
        for module, _ in reached([*_TRAINER, ("stf_repro.model.options", "elementwise")], TABLES)
    }
    assert len(used) > 15 and "stf_repro/data/samplers.py" in used
    for stage in ("train", "transfer"):
        deps = stages[stage]["do"]["deps"]
        assert [path for path in used if not any(path == d or path.startswith(f"{d}/") for d in deps)] == []


@pytest.mark.slow
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
    assert (
        again.returncode == 0
        and "(seed 0): was trained before" in again.stdout
        and "(seed 1): was trained before" not in again.stdout
    )
    assert json.loads((out / "seed-1" / "record.json").read_text())["fingerprint"] == marks[1] != marks[0]


@pytest.mark.slow
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


@pytest.mark.slow
def test_weights_that_blow_up_in_the_last_step_are_not_saved(project, small_params):
    "One step an epoch: every term of the epoch is finite, what comes after it is not."
    small_params["runs"]["M1"]["optim"] |= {"lr": 1e30, "epochs": 1, "batch_size": 168}
    (project / "params.yaml").write_text(yaml.safe_dump(small_params))
    result = stf(project, "train", "M1")
    assert result.returncode == 1 and "are NaN or infinite" in result.stderr
    assert not list((project / "runs").rglob("*.safetensors"))


@pytest.mark.slow
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
        *(
            (["train", "M1", "--device", name], f"device {name!r} cannot be used")
            for name in ("gpu", "meta", "cuda:99", "hpu", "cuda:-1")
        ),
        (["train", "M1", "--seed", "7"], "runs.M1 has no seed 7; its seeds are 0"),
        (["render", "table9"], "table9"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(project, monkeypatch, capsys, argv, expected):
    monkeypatch.chdir(project)
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert expected in error and len(error.strip().splitlines()) == 1


def test_a_full_disk_is_one_sentence_that_says_what_to_do(project, monkeypatch, capsys):
    def download(root, args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "raw/nwucla/all_sqe.zip")

    monkeypatch.chdir(project)
    monkeypatch.setattr(options, "download", download)
    assert main(["download", "nwucla"]) == 1
    assert re.fullmatch(
        r"stf download: raw/nwucla/all_sqe.zip: No space .*intact. Make room, and start the same command again\n",
        capsys.readouterr().err,
    )


def test_a_record_says_whether_git_could_be_asked(clone, tmp_path, monkeypatch):
    "Clean, changed, and the ways in which git does not answer: not there, refusing, no repository, the package not in it."
    from stf_repro.training import artifacts as record

    asked = lambda: [record.origin(torch.device("cpu"))[name] for name in ("commit", "uncommitted_changes")]
    monkeypatch.setattr(record.stf_repro, "__file__", str(clone / "stf_repro" / "__init__.py"))
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
    ).stdout.strip()
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
    sources = {"synth60": {"subjects": 1}, "synthkinetics": {"train": 1, "val": 1}}
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
    section = {
        "group": "a",
        "label": "M1",
        "source": "synth60",
        "benchmark": "synth60-xsub",
        "sead": 1,
        "optim": {"epochs": 0},
    }
    with pytest.raises(ConfigError) as error:
        parse(section, "runs.M1")
    assert "did you mean 'seed'" in str(error.value) and "runs.M1.optim.epochs" in str(error.value)


MADE = {
    "synth120": {"subjects": 3},
    "synthkinetics": {"train": 2, "val": 1},
}


@pytest.mark.parametrize("source", MADE)
def test_every_made_source_goes_from_its_command_to_a_batch(root, tmp_path, monkeypatch, source):
    "Made, preprocessed, split and exported by the command line, with nothing but params.yaml beside the shipped facts."
    from stf_repro.cli import main
    from stf_repro.data.samplers import RECIPES, Clips
    from stf_repro.data.registry import BENCHMARKS
    from stf_repro.data.clip_store import ClipStore

    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "data").symlink_to(root / "data")
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({"profile": "t", "sources": {source: MADE[source]}, "runs": {"M1": {}}})
    )
    monkeypatch.chdir(tmp_path)
    assert main(["download", source]) == 0 and main(["preprocess", source]) == 0
    assert main(["export", source, "pyskl", "out.pkl"]) == 0 and (tmp_path / "out.pkl").stat().st_size > 1000
    store = ClipStore.open(tmp_path / "clips" / source)
    benchmarks = [b for b in BENCHMARKS.values() if b.source == source]
    assert benchmarks and store.source == source
    for benchmark in benchmarks:
        parts = [benchmark.indices(store, part) for part in ("train", "test")]
        assert all(len(part) for part in parts) and not set(parts[0]) & set(parts[1])
        assert store.layout == benchmark.layout and store.labels.max() < len(benchmark.classes)
        assert sum(map(len, parts)) == len(store)
        assert all(set(store.labels[part]) == set(range(len(benchmark.classes))) for part in parts)
    clips = Clips(store, bodies=benchmarks[0].num_persons)
    x, _ = RECIPES["pad" if source == "synthkinetics" else "replay"](clips, torch.arange(8), 50)
    assert x.shape == (8, 3, 50, len(store.layout), 2) and torch.isfinite(x).all() and x.any()


@pytest.mark.parametrize(
    "sources,reason",
    [
        ({"synth60": {"seeed": 1}}, "sources.synth60.seeed in params.yaml is unknown; known: seed"),
        ({"synth60": {"seed": "abc"}}, "sources.synth60.seed in params.yaml is 'abc'; expected a number such as 0"),
        ({"synth60": 3}, "sources.synth60 in params.yaml is 3"),
        ({"synth60": {"denoise": "no"}}, "expected true or false"),
        ({"synth60": {"subjects": 99}}, "subjects must be 1 to 40"),
        ([1], "params.yaml is [1]; expected a mapping"),
    ],
)
def test_options_of_sources_are_checked(tmp_path, monkeypatch, capsys, sources, reason):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"profile": "t", "sources": sources, "runs": {"M1": {}}}))
    monkeypatch.chdir(tmp_path)
    assert main(["download", "synth60"]) == 1
    assert reason in capsys.readouterr().err
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({"profile": "t", "sources": {"nwucla": {"denoize": True}}, "runs": {"M1": {}}})
    )
    assert main(["preprocess", "nwucla"]) == 1 and "a fetched source has only `denoise`" in capsys.readouterr().err
    assert main(["export", "nobody", "pyskl", "x"]) == 1 and "no source 'nobody'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["preprocess", "synth60", "--workers", "0"])
