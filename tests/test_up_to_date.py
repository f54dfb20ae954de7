"Nothing to do, said without PyTorch: when a stamp agrees, when it does not, and that what it answers is what the trainer would."

import json
import shutil
import subprocess
import sys

import pytest
import yaml

import stf_repro
from stf_repro.report.index_page import front_page
from stf_repro.report.render import render
from stf_repro.training import up_to_date as stamp
from stf_repro.training.runs import ConfigError, read_params, resolve, Training

HEAVY = ("torch", "numpy", "pandas", "scipy", "matplotlib", "pydantic", "safetensors", "pyarrow")
DONE = "was trained before, nothing to do"


def stf(folder, *args: str) -> tuple[str, set[str]]:
    "What a command says, and the heavy libraries that it has imported."
    code = f"import sys; from stf_repro.cli import main; code = main(sys.argv[1:]); print(*[n for n in {HEAVY} if n in sys.modules], file=sys.stderr); sys.exit(code)"
    result = subprocess.run([sys.executable, "-c", code, *args], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout, set(result.stderr.split())


@pytest.fixture
def package(root, tmp_path, monkeypatch):
    "A copy of the package that stamps are made of."
    shutil.copytree(root / "stf_repro", tmp_path / "copy" / "stf_repro", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(stf_repro, "__file__", str(tmp_path / "copy" / "stf_repro" / "__init__.py"))
    return tmp_path / "copy" / "stf_repro"


@pytest.mark.parametrize("file,old,new,same", [
    ("model/losses.py", '"L_c: modules with the same input', '# a remark\n    "Other words: modules with the same input', True),
    ("model/losses.py", "return mean(-distance(Q_1, Q_2), present)", "return mean(-2 * distance(Q_1, Q_2), present)", False),
    ("model/options.py", "return G.softmax(-1)", "return G.softmax(-2)", False),
    ("training/config.py", "lr: float = Field(0.05", "lr: float = Field(0.06", False),
    ("data/sets/sbu.py", "(102, 304, 502, 604)", "(102, 304, 502, 607)", False),
    ("data/classes/ntu.txt", "drink water", "drink tea", False),
    ("skeleton.py", "import numpy as np", "import numpy as np\n\nX = 1", False),
    ("data/synthetic/actions.py", "import numpy as np", "import numpy as np\n\nKICK = 1.5", True),
    ("evaluation/scores.py", "import numpy as np", "import numpy as np\n\nX = 1", True),
    ("report/index_page.py", "import pandas as pd", "import pandas as pd\n\nX = 1", True),
])  # fmt: skip
def test_a_formula_counts_and_a_comment_does_not(package, file, old, new, same):
    before, path = stamp.code_stamp(), package / file
    text = path.read_text()
    assert old in text, f"{file} no longer holds {old!r}"
    path.write_text(text.replace(old, new, 1))
    assert (stamp.code_stamp() == before) == same
    path.write_text(text)
    assert stamp.code_stamp() == before


def test_the_code_of_a_stamp_holds_all_that_a_fingerprint_follows(package):
    "Each module that a training reaches, changed by one statement, changes the stamp."
    from stf_repro.training.fingerprint import _TRAINER
    from stf_repro.training.code_deps import reached

    before, modules = stamp.code_stamp(), {module for module, _ in reached(_TRAINER)}  # tables and their rows, too
    assert len(modules) > 20
    for module in modules:
        path = package.parent / f"{module.replace('.', '/')}.py"
        text = path.read_text()
        path.write_text(text + "\nX = 1\n")
        assert stamp.code_stamp() != before, module
        path.write_text(text)


def test_everything_else_that_a_training_depends_on_counts(project, small_params, monkeypatch):
    small_params["transfers"] = {"T": small_params["runs"]["M1"] | {"init_from": "M1", "group": "transfer"}}
    run_of = lambda key: resolve(project, small_params, key)
    made = lambda key="M1", device=None, seed=0: stamp.training_stamp(run_of(key), Training(seed), device)
    start = run_of("M1").place(Training(0))
    start.mkdir(parents=True)
    (start / "model.safetensors").write_text("weights")
    run, transfer = made(), made("T")
    assert run and transfer and run == made() and len({run, transfer, made("M5"), made(device="cpu")}) == 4
    (start / "model.safetensors").write_text("other weights")
    assert made() == run and made("T") != transfer  # what a transfer starts from
    small_params["runs"]["S"] = small_params["runs"]["M1"] | {"start": str(start)}
    fine_tuned = made("S")
    (start / "model.safetensors").write_text("others again")
    assert made("S") not in (fine_tuned, None)  # and what a training goes on from
    small_params["runs"]["M1"]["seeds"] = [0, 7]
    assert made() == run != made(seed=7)
    small_params["runs"]["M1"]["seeds"] = [7]
    with pytest.raises(ConfigError, match="runs.M1 has no seed 0"):
        made("T")
    small_params["runs"]["M1"] |= {"seeds": [0], "optim": small_params["runs"]["M1"]["optim"] | {"lr": 0.01}}
    assert made() not in (run, None)
    small_params["runs"]["M1"]["optim"]["lr"] = 0.02
    assert made() == run
    with monkeypatch.context() as inside:
        inside.setattr(stamp, "version", lambda name: "99.0")
        assert made() not in (run, None)
    with monkeypatch.context() as inside:
        inside.setenv("CUDA_VISIBLE_DEVICES", "3")
        assert made() not in (run, None)
    with monkeypatch.context() as inside:
        inside.setenv("WORLD_SIZE", "2")
        assert made() is None
    store = project / "clips" / "synth60"
    text = (store / "store.json").read_text()
    meta = json.loads(text)
    meta["files"]["frames.npy"]["sha256"] = "0" * 64
    (store / "store.json").write_text(json.dumps(meta))
    assert made() not in (run, None)
    (store / "store.json").write_text(text)
    with open(store / "frames.npy", "ab") as file:
        file.write(b"more")
    assert made() not in (run, None)
    shutil.rmtree(store)
    assert made() is None


@pytest.mark.slow
def test_a_finished_training_is_known_without_pytorch(project, small_params):
    "Trained, asked again, damaged, changed and changed back; every answer is that of the trainer."
    small_params["runs"]["M1"] |= {"seeds": [0, 1], "optim": small_params["runs"]["M1"]["optim"] | {"epochs": 1}}
    (project / "params.yaml").write_text(yaml.safe_dump(small_params))
    run, before = resolve(project, small_params, "M1"), stamp.code_stamp()
    out = run.folder
    files = [stamp.stamp_file(run, Training(seed)) for seed in (0, 1)]
    said, heavy = stf(project, "train", "M1")
    assert (
        DONE not in said and "torch" in heavy and all(file.exists() for file in files) and before == stamp.code_stamp()
    )
    summary = said.splitlines()[-1]
    for options in ((), ("--jobs", "2")):
        again, heavy = stf(project, "train", "M1", *options)
        assert again.splitlines() == [f"M1 (seed 0): {DONE}", f"M1 (seed 1): {DONE}", summary] and not heavy, options
    (
        project / "runs" / "synthetic" / "metrics" / "ablation" / "M1.json"
    ).unlink()  # as DVC does before it calls a stage
    one, heavy = stf(project, "train", "M1", "--seed", "1")
    assert one.splitlines()[0] == f"M1 (seed 1): {DONE}" and "seed-1: top-1" in one and not heavy
    assert (
        stf(project, "train", "M1")[1] == set()
        and (project / "runs" / "synthetic" / "metrics" / "ablation" / "M1.json").exists()
    )

    scores = (out / "seed-1" / "scores.npz").read_bytes()
    (out / "seed-1" / "scores.npz").write_bytes(scores[:-1] + b"x")
    said, heavy = stf(project, "train", "M1")
    assert f"(seed 0): {DONE}" in said and f"(seed 1): {DONE}" not in said and "torch" in heavy
    assert (out / "seed-1" / "scores.npz").read_bytes() == scores and stf(project, "train", "M1") == (again, set())

    left = out / "seed-0" / "checkpoint-0123" / "epoch-0001.json"  # by a kill; the trainer clears it
    left.parent.mkdir()
    left.write_text("{}")
    said, heavy = stf(project, "train", "M1")
    assert (
        said == again
        and "torch" in heavy
        and not left.parent.exists()
        and stf(project, "train", "M1") == (again, set())
    )


def test_a_stamp_that_is_torn_or_of_something_else_agrees_with_nothing(tmp_path):
    out, file = tmp_path / "out", tmp_path / "stamps" / "out.json"
    (out / "deep").mkdir(parents=True)
    (out / "deep" / "a").write_text("1")
    stamp.write_stamp(file, "these", out)
    whole = file.read_text()
    assert (
        stamp.is_stamped(file, "these", out)
        and not stamp.is_stamped(file, "those", out)
        and not stamp.is_stamped(file, None, out)
    )
    for text in (whole[:-9], "", "[]", whole.replace("these", "those")):
        file.write_text(text)
        assert not stamp.is_stamped(file, "these", out)
    file.write_text(whole)
    (out / "deep" / "b").write_text("")
    assert not stamp.is_stamped(file, "these", out)
    shutil.rmtree(out)
    assert not stamp.is_stamped(file, "these", out)


def test_a_training_during_which_the_code_changed_is_not_stamped(project, small_params, monkeypatch):
    from stf_repro.cli import main
    from stf_repro.commands import training

    answers = iter(["before", "after"])
    monkeypatch.setattr(stamp, "training_stamp", lambda *args: next(answers))
    monkeypatch.setattr(training, "_ask_trainer", lambda *args: {"top1_last": 50.0, "test_clips": 8})
    monkeypatch.chdir(project)
    assert main(["train", "M1", "--seed", "0"]) == 0
    assert not list((project / "runs").rglob("*.json"))


@pytest.mark.slow
def test_a_result_that_is_current_is_known_without_pandas(root, tmp_path):
    "And the front page with it, which is written again when somebody has touched it, or changed what a profile makes."
    from test_results import notebook

    for path in ("dvc.yaml", "params.yaml"):
        (tmp_path / path).write_text(
            "stages: {}\n"
            if path == "dvc.yaml"
            else yaml.safe_dump({"profile": "p", "sources": {"a": {}}, "runs": {"a": {}}, "results": {"tiny": {}}})
        )
    (tmp_path / "conf" / "profile").mkdir(parents=True)
    (tmp_path / "conf" / "profile" / "p.yaml").write_text("# a small one\nresults: {tiny: {}}\n")
    path = tmp_path / "nbs" / "results" / "tiny.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(notebook("open(f'{out}/table.csv', 'w').write('a\\n')"))
    out, page = render(tmp_path, read_params(tmp_path / "params.yaml"), "tiny"), tmp_path / "results" / "README.md"
    written, text = (out / "tiny.ipynb").stat().st_mtime_ns, page.read_text()
    assert "profile `p`" in text and text == front_page(tmp_path)

    def again() -> set[str]:
        said, heavy = stf(tmp_path, "render", "tiny")
        assert (
            said.endswith("tiny: complete\n")
            and (out / "tiny.ipynb").stat().st_mtime_ns == written
            and page.read_text() == front_page(tmp_path)
        )
        return heavy

    assert again() == set()
    page.write_text("touched")
    assert "pandas" in again() and again() == set()
    (tmp_path / "conf" / "profile" / "p.yaml").write_text("# without pages\nresults: {}\n")
    assert "pandas" in again() and "profile `p`" not in page.read_text() and again() == set()
