"What retrains what: edits in a copy of the package, and the code hash of the runs that they touch."

import json
import os
import shutil
import subprocess
import sys

import pytest

RELATIVE_WEIGHTS = {"M1": {}, "M2": {"exploration": 0.1}, "M3": {"exploration": 0.1, "divergence": 0.1}}
RELATIVE_WEIGHTS["M5"] = RELATIVE_WEIGHTS["M3"] | {"adjacency": 0.1, "coherence": 0.1}
PROBE = """
import json, sys
from stf_repro.training.config import parse
from stf_repro.training.fingerprint import code_hash
base = {"group": "t", "label": "M", "source": "ntu60", "benchmark": "ntu60-xsub"}
runs = {m: base | {"stf": m == "M5", "objective": {"relative_weights": s}} for m, s in json.loads(sys.argv[1]).items()}
runs["gram"] = runs["M5"] | {"choices": {"stf_alpha": "gram"}}
runs["sbu"] = runs["M1"] | {"source": "sbu", "benchmark": "sbu-1"}
runs["pad"] = runs["M1"] | {"input": {"recipe": "pad"}}
runs["early"] = runs["M3"] | {"reading": "early"}
runs["convolution"] = runs["M1"] | {"network": "convolution"}
print(json.dumps({name: code_hash(parse(run)) for name, run in runs.items()}))
"""


@pytest.fixture
def package(root, tmp_path):
    return copied(root, tmp_path)


def copied(root, folder):
    shutil.copytree(root / "stf_repro", folder / "stf_repro", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "stf_repro"


@pytest.fixture(scope="module")
def before(root, tmp_path_factory):
    "The hashes of a copy that nobody edits."
    return hashes(copied(root, tmp_path_factory.mktemp("before")))


def hashes(package):
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(RELATIVE_WEIGHTS)],
        capture_output=True,
        text=True,
        cwd=package.parent,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


EVERY = {*RELATIVE_WEIGHTS, "gram", "sbu", "pad", "early", "convolution"}
STF = {"M5", "gram"}  # with STF modules


@pytest.mark.slow
@pytest.mark.parametrize(
    "file,old,new,touched",
    [
        # the formula of a term, a variant, a reading, a recipe
        (
            "model/losses.py",
            "return mean(distance(Q_i, stretch(Q_j, Q_i.shape[1])), present)",
            "return 2 * mean(distance(Q_i, stretch(Q_j, Q_i.shape[1])), present)",
            {"M5", "gram"},
        ),
        (
            "model/losses.py",
            "return mean(-distance(Q_1, Q_2), present)",
            "return mean(-2 * distance(Q_1, Q_2), present)",
            {"M3", "M5", "gram", "early"},
        ),
        (
            "model/objective.py",
            "return losses.exploration(again.logits",
            "return losses.exploration(2 * again.logits",
            {"M2", "M3", "M5", "gram", "early"},
        ),
        ("model/options.py", "return self.scale * together", "return 2 * self.scale * together", {"gram"}),
        ("model/options.py", "return G.softmax(-1)", "return G.softmax(-2)", set()),
        ("model/readings.py", '"divergence_module": "first"', '"divergence_module": "last"', {"early"}),
        ("data/samplers.py", "indices, t >= 0)", "indices, t >= 1)", EVERY - {"pad"}),
        ("data/samplers.py", "indices, t < clips.lengths", "indices, t <= clips.lengths", {"pad"}),
        ("data/samplers.py", "seen = sum(x) != 0", "seen = sum(x) > 0", EVERY),
        ("data/sets/sbu.py", "(102, 304, 502, 604)", "(102, 304, 502, 607)", {"sbu"}),
        # a network, its size, its cheaper order; another network
        (
            "model/nets/msg3d.py",
            "return self.tcn(F.relu(gcn + g3d))",
            "return self.tcn(F.relu(g3d + gcn))",
            EVERY - {"convolution"},
        ),
        (
            "model/nets/msg3d.py",
            "    num_g3d_scales: int = Field(6, ge=1)",
            "    num_g3d_scales: int = Field(6, ge=1, le=99)",
            EVERY - {"convolution"},
        ),
        ("model/nets/msg3d.py", '"CVPR 2020"', '"CVPR"', set()),
        ("model/nets/convolution.py", "kernel // 2", "(kernel - 1) // 2", {"convolution"}),
        (
            "model/fast/passes.py",
            "for unit in block.gcn_tcn:",
            "for unit in list(block.gcn_tcn):",
            EVERY - {"convolution"},
        ),
        ("model/networks.py", '    "msg3d": MSG3D,', '    "msg4d": MSG3D,\n    "msg3d": MSG3D,', set()),
        ("model/stf.py", "return S.softmax(-1)", "return S.softmax(-2)", STF),
        # what computes nothing: words, errors, progress, what other rooms do
        ("model/losses.py", '"L_c: modules', '# a remark\n    "L_c: other words, modules', set()),
        ("model/contract.py", 'raise ValueError(f"{expected}; got', 'raise ValueError(f"{expected}, and not', set()),
        ("training/trainer.py", "test clips are too few for ", "test clips do not fill ", set()),
        (
            "training/trainer.py",
            'f"{k} {v:.3g}" for k, v in row.items()',
            'f"{k}: {v:.2g}" for k, v in row.items()',
            set(),
        ),
        ("training/config.py", "the adjacency term teaches", "the adjacency term moves", set()),
        ("data/synthetic/actions.py", "import numpy as np", "import numpy as np\n\nKICK = 1.5", set()),
        ("evaluation/scores.py", "import numpy as np", "import numpy as np\n\nX = 1", set()),
        (
            "training/code_deps.py",
            "without: Collection[tuple[str, str]] = ()",
            "without: Collection[tuple[str, str]] = frozenset()",
            set(),
        ),
        # the trainer itself
        ("training/checkpoint.py", "[:-2]", "[:-3]", EVERY),
        ("training/loop.py", "PEAK = 0.3", "PEAK = 0.31", EVERY),
    ],
)
def test_an_edit_touches_the_runs_that_use_it(package, before, file, old, new, touched):
    path = package / file
    text = path.read_text()
    assert text.count(old) >= 1, f"{file} no longer holds {old!r}"
    path.write_text(text.replace(old, new, 1))
    after = hashes(package)
    assert {name for name in before if before[name] != after[name]} == touched


@pytest.mark.slow
def test_a_result_follows_the_tables_and_what_functions_import_for_themselves(package, tmp_path):
    "A protocol, a variant, a class name, a function imported inside another: each changes the mark of a result that may read it."
    notebook = tmp_path / "nbs" / "results" / "x.ipynb"
    notebook.parent.mkdir(parents=True)
    source = "from stf_repro.evaluation.localisation import load_run\nfrom stf_repro.report.render import render"
    notebook.write_text(json.dumps({"cells": [{"cell_type": "code", "source": source, "metadata": {}}]}))
    probe = "from pathlib import Path; from stf_repro.report.render import made_of; print(made_of(Path('.').absolute(), Path('nbs/results/x.ipynb').absolute(), {'profile': 'p'}))"

    def mark():
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, "-c", probe], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
        ).stdout

    marks = [mark(), mark()]
    assert marks[0] == marks[1]
    edits = [
        ("data/sets/sbu.py", "(102, 304, 502, 604)", "(102, 304, 502, 607)"),
        ("model/options.py", "return G.softmax(-1)", "return G.softmax(-2)"),
    ]
    edits += [
        ("report/index_page.py", "def write_front_page(", "def write_front_page(more=1, *, "),
        ("data/classes/nwucla.txt", "throw", "toss"),
    ]
    for file, old, new in edits:
        text = (package / file).read_text()
        assert old in text, file
        (package / file).write_text(text.replace(old, new, 1))
        marks.append(mark())
    assert len(set(marks)) == 1 + len(edits)
    for file in ("cli.py", "commands/training.py"):
        (package / file).write_text((package / file).read_text() + "\n\ndef more():\n    pass\n")
    assert mark() == marks[-1]


def test_every_choice_has_a_hash(root):
    "Whatever kind of thing an option is: a function, a class, a number, a slice, a method of torch."
    from stf_repro.model.options import CHOICES
    from stf_repro.training.config import parse
    from stf_repro.training.fingerprint import code_hash

    base = {"group": "t", "label": "M", "source": "ntu60", "benchmark": "ntu60-xsub", "stf": True}
    for name, choice in CHOICES.items():
        for option in choice.options:
            assert len(code_hash(parse(base | {"choices": {name: option}}))) == 64, (name, option)
