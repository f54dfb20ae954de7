"What every network promises, and what it takes to add one."

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import TRAINING, toy_store

from stf_repro.model.networks import NETWORKS
from stf_repro.model.stf import with_stf
from stf_repro.skeleton import LAYOUTS
from stf_repro.training.config import parse
from stf_repro.training.trainer import TrainingError, prepare


def small(name: str, classes=5, layout="ntu25", persons=2) -> torch.nn.Module:
    "A network of the table, narrow if it can be."
    torch.manual_seed(0)
    network = NETWORKS[name]
    config = network.Config(**({"width": 12} if "width" in network.Config.model_fields else {}))
    return network.build(config, classes, LAYOUTS[layout], persons, 3).eval()


SITED = [name for name in NETWORKS if small(name).sites()]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layout,persons", [("ntu25", 2), ("openpose18", 1)])
def test_a_network_is_what_it_says_of_itself(name, layout, persons):
    "Name, maps, sites and stages, for two layouts and an odd number of frames."
    model, T = small(name, 5, layout, persons), 13
    x = torch.randn(3, 3, T, len(LAYOUTS[layout]), persons)
    with torch.no_grad():
        out = model.run(x)
    assert NETWORKS[name].name == name == model.Config().name and model.title
    assert out.logits.shape == (3, 5) and torch.equal(model(x), out.logits)
    assert list(out.maps) == [m.name for m in model.feature_maps()]
    for m in model.feature_maps():
        rows, *shape = out.maps[m.name].shape
        assert rows in (3, 3 * persons) and shape == [m.channels, -(-T // m.stride), len(LAYOUTS[layout])]
        assert 0 <= m.stage < len(model.stages())
    assert {s.name for s in model.sites()} <= {m.name for m in model.feature_maps()} and not model.stf
    with pytest.raises(ValueError, match="expected"):
        model(x[:, :2])


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_depend_on_every_map(name):
    "A map is the tensor that a module reads, not a copy of it: or the focus would be zero."
    out = small(name).run(torch.randn(2, 3, 16, 25, 2))
    for map_name, X in out.maps.items():
        (slope,) = torch.autograd.grad(out.logits.sum(), X, retain_graph=True, allow_unused=True)
        assert slope is not None and slope.abs().max() > 0, map_name


@pytest.mark.parametrize("name", SITED)
def test_how_a_graph_enters_is_asked_of_every_unit(name):
    "Another `join` than the sum is used: here one that leaves G out."
    model, x = small(name), torch.randn(2, 3, 16, 25, 2)
    before = model.run(x).logits
    alone = lambda A, residual, G: (A + residual).expand_as(G)
    torch.testing.assert_close(with_stf(model, 16, join=alone).eval().run(x).logits, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SITED)
def test_with_closed_gates_stf_modules_change_nothing(name):
    "And with open ones they do, in every module, with a graph of each body's own."
    model, x = small(name), torch.randn(3, 3, 16, 25, 2)
    before = model.run(x)
    after = with_stf(model, 16, gate=0.0).eval().run(x)
    torch.testing.assert_close(
        after.logits, before.logits, rtol=1e-4, atol=1e-5
    )  # fp32: a matrix per body is another product than one for all
    assert list(after.G) == list(after.beta) == [site.name for site in model.sites()]
    for site in model.sites():
        assert after.G[site.name].shape == (6, site.scales, 25, 25) and after.beta[site.name].shape == after.maps[
            site.name
        ].shape[::2] + (25,)
    for name, module in model.stf.items():
        module.gate.data.fill_(1.0)
        assert not torch.allclose(model.run(x).logits, before.logits, atol=1e-5), name
        module.gate.data.zero_()


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in SITED])
def test_a_network_without_a_place_for_a_graph_says_so(name):
    with pytest.raises(ValueError, match="no graph convolution"):
        with_stf(small(name), 16)


@pytest.mark.parametrize(
    "change,reason",
    [
        ({"stf": True}, "no graph convolution"),
        ({"objective": {"relative_weights": {"coherence": 0.1}}}, "no feature maps"),
    ],
)
def test_a_training_that_a_network_cannot_do_ends_before_its_first_step(tmp_path, change, reason):
    config = parse({**TRAINING, "stf": False, "objective": {}, "network": "convolution", **change})
    with pytest.raises(TrainingError, match=f"^M5: convolution .*{reason}"):
        prepare(config, toy_store(tmp_path / "clips"), torch.device("cpu"))


NEW = """
from typing import Literal

import torch
from torch import nn

from ..contract import FeatureMap, Output, Part, Site, SkeletonNetwork, add


class OneGraphConfig(Part):
    name: Literal["one_graph"] = "one_graph"
    width: int = 8


class OneGraph(SkeletonNetwork):
    name, title, Config = "one_graph", "one graph", OneGraphConfig

    def __init__(self, num_classes, layout, num_persons=2, in_channels=3, width=8):
        super().__init__(layout, num_persons, in_channels)
        V = len(layout)
        self.register_buffer("A", torch.eye(V)[None], persistent=False)
        for child, parent in layout.bones:
            self.A[0, child, parent] = self.A[0, parent, child] = 0.5
        self.residual, self.join = nn.Parameter(torch.zeros(1, V, V)), add
        self.embed, self.mix = nn.Conv2d(in_channels, width, 1), nn.Conv2d(width, width, (3, 1), padding=(1, 0))
        self.head = nn.Linear(width, num_classes)

    def feature_maps(self):
        return [FeatureMap("early", self.in_channels), FeatureMap("late", self.embed.out_channels, stage=1)]

    def sites(self):
        return [Site("early", 1, (self,))]

    def stages(self):
        return [self.embed, self.mix]

    def run(self, x, present=None):
        early = self.fold(x)
        G, beta = self.own_adjacency({"early": early})
        A = self.A + self.residual if not G else self.join(self.A, self.residual, G["early"])
        late = torch.relu(self.embed(early @ A.transpose(-1, -2)))
        return Output(self.head(self.pool(torch.relu(self.mix(late)).mean((2, 3)))), {"early": early, "late": late}, beta, G)
"""
USE = """
import json, sys
from pathlib import Path
from processes import RELATIVE_WEIGHTS, toy_store
import torch
from stf_repro.data.samplers import Clips
from stf_repro.evaluation.localisation import clip_focus, load_run
from stf_repro.training.config import parse
from stf_repro.training.trainer import train

store = toy_store(Path("clips"))
base = {"group": "t", "label": "new", "source": "synth60", "benchmark": "synth60-xsub", "network": "one_graph", "input": {"frames": 12, "frame_stride": 3}}
optim = {"epochs": 3, "batch_size": 8, "lr": 0.02, "milestones": [2]}
for name, more in {"plain": {}, "M5": {"stf": True, "objective": {"relative_weights": RELATIVE_WEIGHTS, "warmup": 0.3}}}.items():
    part = parse(base | more | {"optim": optim})
    one = train(part, store, Path(name), "cpu", progress=False)
    assert train(part, store, Path(name), "cpu", progress=False) == one
    net = load_run(name)
    model, config = net.network, net.config
    for module in ("early", "late"):
        view = clip_focus(model, Clips(store), torch.arange(4), config.input, module=module)
        assert view.Q.shape[1:] == (2, 4, 25) and view.Q.max() == 1
    print(name, sorted(p for p in model.state_dict() if p.startswith("stf."))[:1])
"""
HASHES = """
import json
from stf_repro.training.config import parse
from stf_repro.training.fingerprint import code_hash
base = {"group": "t", "label": "M", "source": "ntu60", "benchmark": "ntu60-xsub"}
print(json.dumps([code_hash(parse(base | more)) for more in ({}, {"stf": True, "objective": {"relative_weights": {"adjacency": 1.0}}}, {"network": "convolution"})]))
"""


@pytest.mark.slow
def test_a_new_network_is_a_file_and_a_line_and_retrains_nothing(root, tmp_path):
    "Trained, found finished, loaded, looked into; with STF modules and all terms, and without."
    shutil.copytree(root / "stf_repro", tmp_path / "stf_repro", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(tmp_path), str(Path(__file__).parent))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }

    def run(code: str) -> str:
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    before = run(HASHES)
    (tmp_path / "stf_repro" / "model" / "nets" / "one_graph.py").write_text(NEW)
    table = tmp_path / "stf_repro" / "model" / "networks.py"
    text = table.read_text().replace("NETWORKS: dict", "from .nets.one_graph import OneGraph\n\nNETWORKS: dict", 1)
    table.write_text(text.replace('    "msg3d": MSG3D,\n', '    "msg3d": MSG3D,\n    "one_graph": OneGraph,\n', 1))
    assert json.loads(before) == json.loads(run(HASHES))
    said = [line for line in run(USE).splitlines() if "nothing to do" not in line]
    assert said == ["plain []", "M5 ['stf.early.alpha.phi.bias']"]


def test_a_size_for_a_network_that_does_not_exist_is_an_error(root, tmp_path):
    from stf_repro.training.config import run_configs
    from stf_repro.training.runs import ConfigError, read_params, resolve

    text = (root / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("    convolution:\n", "    convolutoin:\n"))
    run = resolve("", read_params(tmp_path / "params.yaml"), "msg3d-xsub60-joint")
    with pytest.raises(ConfigError, match="'convolutoin', which is no network; did you mean 'convolution'"):
        run_configs(run)


def test_an_edit_that_fails_leaves_the_finished_training(tmp_path, monkeypatch):
    "What was trained stays until the training that replaces it has done an epoch."
    from stf_repro.training import trainer

    store, out = toy_store(tmp_path / "clips"), tmp_path / "run"
    done = trainer.train(parse(TRAINING), store, out, "cpu", progress=False)

    def broken(*args):
        raise RuntimeError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "run_epoch", broken)
        with pytest.raises(RuntimeError, match="a mistake"):
            trainer.train(parse({**TRAINING, "label": "another"}), store, out, "cpu", progress=False)
    assert trainer.train(parse(TRAINING), store, out, "cpu", progress=False) == done
    assert trainer.finished(out) and not (out / "checkpoints").exists()
