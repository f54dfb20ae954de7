"What every network promises, and what it takes to add one."

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import TRAINING, toy_store
from test_losses import LEARNED, FixedBalance, objective_of, slopes

from stf_repro.data.samplers import Clips
from stf_repro.evaluation.localisation import clip_focus
from stf_repro.model.blocks import directed, middle, partitions
from stf_repro.model.losses import frozen_statistics, same_draws
from stf_repro.model.nets.dcgcn import DropGraph
from stf_repro.model.networks import NETWORKS
from stf_repro.model.objective import TERMS, ForwardPass
from stf_repro.model.options import attached, heard_with_gradient
from stf_repro.model.stf import with_stf
from stf_repro.model.weights import load_published
from stf_repro.skeleton import LAYOUTS, hop_distance
from stf_repro.training.config import parse
from stf_repro.training.loop import make_batch
from stf_repro.training.trainer import TrainingError, prepare, train


def small(name: str, classes=5, layout="ntu25", persons=2, frames=16) -> torch.nn.Module:
    "A network of the table, narrow if it can be."
    torch.manual_seed(0)
    network = NETWORKS[name]
    config = network.Config(**({"width": 12} if "width" in network.Config.model_fields else {}))
    return stirred(network.build(config, classes, LAYOUTS[layout], persons, 3, frames)).eval()


def stirred(model: torch.nn.Module) -> torch.nn.Module:
    "As if it had been trained a little: norms and convolutions that begin at nothing would hide what comes before them."
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
                part.weight.fill_(1.0)
            elif isinstance(part, torch.nn.Conv2d) and not part.weight.any():
                torch.nn.init.normal_(part.weight, 0, 0.1)
    return model


SITED = [name for name in NETWORKS if small(name).sites()]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layout,persons", [("ntu25", 2), ("openpose18", 1)])
def test_a_network_is_what_it_says_of_itself(name, layout, persons):
    "Name, maps, sites and stages, for two layouts and an odd number of frames."
    model, T = small(name, 5, layout, persons, 13), 13
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
    alone = lambda A, residual, G: A + residual + 0 * G
    torch.testing.assert_close(with_stf(model, 16, join=alone).eval().run(x).logits, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SITED)
def test_with_closed_gates_stf_modules_change_nothing(name):
    "And with open ones they do, in every module, with a graph of each body's own. In float64, where rounding is 1e-16."
    model, x = small(name).double(), torch.randn(3, 3, 16, 25, 2, dtype=torch.float64)
    before = model.run(x)
    after = with_stf(model, 16, gate=0.0).double().eval().run(x)
    size = before.logits.abs().max()
    assert (after.logits - before.logits).abs().max() < 1e-12 * size
    assert list(after.G) == list(after.beta) == [site.name for site in model.sites()]
    for site in model.sites():
        B, _, T, V = after.maps[site.name].shape
        assert after.G[site.name].shape == (B, site.scales, V, V) and after.beta[site.name].shape == (B, T, V)
    for name, module in model.stf.items():
        module.gate.data.fill_(1.0)
        assert (model.run(x).logits - before.logits).abs().max() > 1e-9 * size, name
        module.gate.data.zero_()


@pytest.mark.parametrize("name", SITED)
def test_a_graph_for_one_joint_reaches_that_joint_alone(name):
    "G[v, u] lets joint v hear joint u: nobody else's features change at the end of that graph convolution."
    model, v, u = small(name).double(), 7, 20
    site, x = model.sites()[0], torch.randn(1, 3, 16, 25, 2, dtype=torch.float64)
    unit, before = site.units[0], {}
    hook = unit.register_forward_hook(lambda _, args, out: before.update(args=args, out=out))
    with torch.no_grad():
        model.run(x)
        hook.remove()
        G = torch.zeros(before["args"][0].shape[0], site.scales, 25, 25, dtype=torch.float64)
        G[:, :, v, u] = 1.0
        args = before["args"]
        change = (unit(*args[:-1], G) if len(args) > 1 else unit(*args, G)) - before["out"]
    if name == "sgn":  # its unit makes the graph: (B, T, V, V)
        moved = change.abs().amax((0, 1))
        assert moved[v, u] > 0.5 and moved.sum() == moved[v, u]
    else:
        joints = (change.abs() > 1e-12).flatten(0, 2).any(0).unflatten(0, (-1, 25)).any(0)  # windows hold V joints each
        assert joints[v]
        if name not in ("aagcn", "dynamicgcn", "msg3d"):  # attention over joints, or windows, spread what one heard
            assert joints.sum() == 1


@pytest.mark.parametrize(
    "name", [name for name in NETWORKS if getattr(small(name), "blocks", None) and name != "msg3d"]
)
def test_the_end_of_a_block_is_what_the_next_one_reads(name):
    out = small(name).run(torch.randn(2, 3, 16, 25, 2))
    names = list(out.maps)
    for one, following in zip(names, names[1:]):
        assert out.places["output"][one] is out.maps[following]


@pytest.mark.parametrize("name", [name for name in NETWORKS if small(name).feature_maps()])
def test_the_focus_of_every_map_can_be_drawn(name, tmp_path):
    "From a network whose weights are not being trained: only what makes a map, and what follows, is recorded."
    model, store = small(name, classes=8), Clips(toy_store(tmp_path / "clips"))
    config = parse({**TRAINING, "input": {"frames": 48, "frame_stride": 3}}).input
    for part in model.modules():  # norms know what they read: or eight blocks without a norm in between explode
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.momentum = 1.0
    model.train()(make_batch(store, torch.arange(6), config)[0])
    model.eval()
    for m in model.feature_maps():
        view = clip_focus(model, store, torch.arange(3), config, module=m.name)
        assert view.Q.shape == (3, 2, 16, 25) and view.Q.amax() == 1, m.name


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


@pytest.mark.parametrize("name", SITED)
def test_terms_have_the_right_gradient_on_every_network(name):
    "Float64, with STF modules and open gates: along a random direction in the space of all weights, beside central differences."
    model = small(name, classes=4, frames=8)
    model = with_stf(model, 8, taught_on=attached, hears=heard_with_gradient, gate=5.0).double().train()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, 8, 25, 2, generator=generator, dtype=torch.float64)
    present = torch.ones(3, 2, dtype=torch.bool)
    with frozen_statistics(model):
        labels = model.run(x).logits.argmax(1).detach()

        def value():
            torch.manual_seed(3)  # the same dropout each time
            objective = objective_of(LEARNED, balance=FixedBalance)
            return objective(model, x, labels, present, ("cross_entropy", *TERMS)).total

        steps = (1e-9, 1e-10, 3e-11)  # ten blocks bend more than three
        exact, difference, grads = slopes(value, list(model.parameters()), torch.Generator().manual_seed(2), steps)
    assert all(g.isfinite().all() for g in grads if g is not None)
    assert difference == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_clip_is_judged_without_its_neighbours(name):
    "In evaluation, in float64: who else is in the batch changes nothing."
    model, x = small(name).double(), torch.randn(3, 3, 16, 25, 2, dtype=torch.float64)
    with torch.no_grad():
        alone, together = model(x[:1]), model(x)[:1]
    assert (alone - together).abs().max() < 1e-12 * together.abs().max()


def test_drop_graph_is_for_training_and_for_the_last_four_blocks():
    torch.manual_seed(0)
    model, x = NETWORKS["dcgcn"](5, LAYOUTS["ntu25"], width=16, keep=0.5), torch.randn(3, 3, 16, 25, 2)
    has = [any(isinstance(part, DropGraph) for part in block.modules()) for block in model.blocks]
    assert has == [False] * 6 + [True] * 4
    with torch.no_grad():
        assert torch.equal(model.eval()(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("depth", [(1,), (1, 1), (2, 2)])
def test_drop_graph_fits_any_depth_and_renames_nothing(depth):
    make = lambda keep: NETWORKS["dcgcn"](5, LAYOUTS["ntu25"], width=8, depth=depth, keep=keep)
    model = make(0.5).train()
    assert list(model.state_dict()) == list(make(1.0).state_dict())
    assert model(torch.randn(3, 3, 16, 25, 2)).isfinite().all()


def test_dropout_drops():
    "In training, at the place and the share that the configuration says."
    x = torch.randn(3, 3, 20, 25, 2)
    for name in ("stgcn", "stigcn", "sgn"):
        torch.manual_seed(0)
        model = NETWORKS[name](5, LAYOUTS["ntu25"], dropout=0.5, **({"frames": 20} if name == "sgn" else {}))
        seen = []
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout) and part.p:
                part.register_forward_hook(
                    lambda _, args, out: seen.append(((out == 0) & (args[0] != 0), args[0] != 0))
                )
        with torch.no_grad():
            model.train()(x)
        share = [(gone.sum() / there.sum()).item() for gone, there in seen]
        assert share and all(0.3 < s < 0.7 for s in share), name


def test_graphs_point_to_the_neck_where_a_layout_begins_at_the_nose():
    "In OpenPose's layout; elsewhere to the root."
    layout = LAYOUTS["openpose18"]
    nose, neck = layout.joints.index("nose"), layout.joints.index("neck")
    _, inward, outward = directed(layout)
    assert inward[nose, neck] and outward[neck, nose] and not inward[neck].any()
    assert partitions(layout)[2][nose, neck] and middle(LAYOUTS["ntu25"]) == LAYOUTS["ntu25"].root


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("T", [1, 2])
def test_a_clip_may_have_one_frame(name, T):
    with torch.no_grad():
        assert small(name, frames=T)(torch.randn(2, 3, T, 25, 2)).isfinite().all()


def test_joints_that_are_not_there_cannot_be_pooled():
    with pytest.raises(ValueError, match="joint 99, and the layout has 25"):
        NETWORKS["sgn"](5, LAYOUTS["ntu25"], groups=((0, 99),))


def test_a_network_without_a_table_of_names_says_so():
    with pytest.raises(KeyError, match="MSG3D has no table of published names"):
        load_published(small("msg3d"), {})


def test_the_partition_that_the_paper_means():
    "ST-GCN's option changes the matrices of every block, and nothing else."
    code, paper = (NETWORKS["stgcn"](5, LAYOUTS["ntu25"], width=8, partition=p) for p in ("code", "paper"))
    paper.load_state_dict(code.state_dict())
    for a, b in zip(code.blocks, paper.blocks):
        assert b.graph.A.count_nonzero((1, 2)).tolist() == [25, 24, 24]
        assert a.graph.A.count_nonzero((1, 2)).tolist() == [25, 40, 8]
        torch.testing.assert_close(a.graph.A.sum(0), b.graph.A.sum(0))


def test_dropout_is_the_same_in_the_masked_pass():
    "A mask of nothing leaves the score as it was, although the network drops half of its features."
    model = small("stgcn").train()
    x, present = torch.randn(3, 3, 16, 25, 2), torch.ones(3, 2, dtype=torch.bool)
    forward = ForwardPass(model, x, torch.zeros(3, dtype=torch.long), present)
    where = torch.get_rng_state()
    with frozen_statistics(model), same_draws(forward.drawn, x):
        again = model.run(x, present)
    assert torch.equal(again.logits, forward.out.logits) and torch.equal(torch.get_rng_state(), where)
    assert not torch.equal(model.run(x, present).logits, forward.out.logits)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_goes_through_pickle_and_deepcopy(name):
    model, x = small(name), torch.randn(2, 3, 16, 25, 2)
    if model.sites():
        with_stf(model, 16).eval()
    with torch.no_grad():
        for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert torch.equal(twin(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", SITED)
def test_every_network_trains_with_all_terms(name, tmp_path):
    "Two epochs: the second with every term."
    size = {"num_gcn_scales": 2, "num_g3d_scales": 2, "windows": [3]} if name == "msg3d" else {}
    optim = TRAINING["optim"] | {"epochs": 2, "milestones": [1]}
    config = parse(TRAINING | {"network": {"name": name, "width": 12, **size}, "optim": optim})
    out = tmp_path / "run"
    train(config, toy_store(tmp_path / "clips"), out, "cpu", progress=False)
    last = (out / "history.tsv").read_text().splitlines()
    names, values = last[0].split("\t"), last[-1].split("\t")
    found = dict(zip(names, values))
    assert all(found[term] for term in TERMS)


@pytest.mark.parametrize("name", ["gcnnas", "stigcn"])
def test_chebyshev_terms_of_the_matrix_are_an_option(name):
    "The default computes what was published; the mended form reaches joints two bones away, which powers of entries do not."
    A = [NETWORKS[name](5, LAYOUTS["ntu25"], width=8, powers=powers).blocks[1].graph.A for powers in ("code", "paper")]
    far = torch.as_tensor(hop_distance(LAYOUTS["ntu25"])) > 1
    third = 2 if name == "stigcn" else 1  # of the parents
    assert not A[0][third][far].any() and A[1][third][far].any()
