"Every network against numbers that its original code produced (tests/fixtures/README.md), in float64."

import copy
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stf_repro.model.blocks import directed, hops, partitions
from stf_repro.model.networks import NETWORKS
from stf_repro.model.nets import dcgcn, paresgcn
from stf_repro.model.nets.stigcn import relations
from stf_repro.model.weights import load_published
from stf_repro.skeleton import LAYOUTS

FIXTURES = Path(__file__).parent / "fixtures" / "peers"
PEERS = {  # fixture -> network, what it is made with, parameters that only the original has
    **{
        name: (name, {}, 0)
        for name in ("stgcn", "agcn", "aagcn", "dcgcn", "ctrgcn", "stgcnpp", "stigcn", "pstgcn", "paresgcn")
    },
    "unik": ("unik", {}, 250),
    "gcnnas": ("gcnnas", {}, 274_784),
    "dynamicgcn": ("dynamicgcn", {"frames": 32}, 0),
    "dstanet": ("dstanet", {"frames": 32}, 0),
    "dstanet_spatial": ("dstanet", {"frames": 32, "time": "convolution"}, 0),
    "single_sgn": ("sgn", {"groups": tuple((v,) for v in range(9))}, 0),
}
# their softmax and sines were made in float32 by functions whose last bits are the processor's
LAST_BITS = {"stigcn": 1e-7, "gcnnas": 1e-7, "dstanet": 1e-7, "dstanet_spatial": 1e-7}


def weight(key: str, shape: list[int], kind: str, kept) -> torch.Tensor:
    "The value that a weight of the original has in the fixture; all were float32."
    r = np.random.RandomState(zlib.crc32(key.encode()) % 2**32)
    values = {
        "weight": lambda: r.standard_normal(shape) / np.sqrt(np.prod(shape[1:])),
        "gain": lambda: 1 + 0.1 * r.standard_normal(shape),
        "bias": lambda: 0.05 * r.standard_normal(shape),
        "adjacency": lambda: r.rand(*shape) ** 4,
        "scale": lambda: 0.5 + r.rand(*shape),
        "count": lambda: np.zeros(()),
        "stat": lambda: kept[f"stat/{key}"],
        "kept": lambda: kept[f"kept/{key}"] if f"kept/{key}" in kept else np.zeros(()),
    }[kind]()
    return torch.tensor(np.asarray(values, dtype=np.float32), dtype=torch.float64)


@pytest.fixture(scope="module", params=PEERS)
def peer(request):
    "A network with the weights of its fixture, and the fixture."
    name, more, _ = PEERS[request.param]
    said, stored = (
        json.loads((FIXTURES / f"{request.param}.json").read_text()),
        np.load(FIXTURES / f"{request.param}.npz"),
    )
    model = NETWORKS[name](60, LAYOUTS["ntu25"], **more).double()  # matrices are made in float32, as in the originals
    state = {key: weight(key, shape, kind, stored) for key, shape, kind, *_ in said["state"]}
    load_published(model, state)
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return request.param, model, said, stored


def the_input(model: nn.Module, stored, monkeypatch) -> torch.Tensor:
    "The clips; a network that makes several inputs of them gets those of the fixture."
    x = torch.tensor(stored["x"], dtype=torch.float64)
    if x.ndim == 6:  # (N, 3, 6, T, V, M)
        parts = [part.permute(0, 4, 1, 2, 3).flatten(0, 1) for part in x.unbind(1)]
        monkeypatch.setattr(paresgcn, "three_inputs", lambda *_: parts)
        return x[:, 0, :3]
    return x


def relative(ours: torch.Tensor, theirs) -> float:
    theirs = torch.as_tensor(np.asarray(theirs), dtype=torch.float64)
    return float((ours.detach() - theirs).abs().max() / theirs.abs().max())


def test_it_is_the_published_network(peer, monkeypatch):
    "Logits and each block in evaluation, then logits and loss in training."
    name, model, said, stored = peer
    x, blocks, seen = the_input(model, stored, monkeypatch), getattr(model, "blocks", ()), []
    hooks = [block.register_forward_hook(lambda _, __, out: seen.append(out.detach().clone())) for block in blocks]
    with torch.no_grad():
        logits = model.eval()(x)
    tolerance = LAST_BITS.get(name, 1e-9)
    assert relative(logits, stored["logits_eval"]) < tolerance
    units = [unit for unit in said["units"] if not unit.startswith(("input_branches", "spa_net", "tem_net"))]  # below
    for unit, out in zip(units, seen, strict=True):
        assert list(out.shape) == said["units"][unit]
        assert relative(out[0, :4, :4, :4], stored[f"act/{unit}/slice"]) < 1e-6  # stored as float32
    for hook in hooks:
        hook.remove()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        logits = model.train()(x)
    assert relative(logits, stored["logits_train"]) < tolerance
    loss = F.cross_entropy(logits, torch.as_tensor(stored["y"]).long())
    assert abs(loss.item() - float(stored["loss_train"])) < tolerance
    model.load_state_dict(before)  # running statistics


def test_its_gradient_is_the_published_networks(peer, monkeypatch):
    name, model, said, stored = peer
    x = the_input(model, stored, monkeypatch)
    if name == "paresgcn":  # its input is what the stems read
        parts = [part.requires_grad_() for part in paresgcn.three_inputs(x)]
        slopes = torch.autograd.grad(model.eval()(x).amax(1).sum(), parts)
        slope = torch.stack([s.unflatten(0, (2, 2)).permute(0, 2, 3, 4, 1) for s in slopes], 1)
    else:
        x.requires_grad_()
        (slope,) = torch.autograd.grad(model.eval()(x).amax(1).sum(), x)
    assert relative(slope, stored["input_grad"]) < 1e-6  # stored as float32


INNER = {  # a unit of the original -> where it is here
    "paresgcn": {
        f"input_branches.{i}.layers.{j}": (f"entry.each.{i}.{j + 1}", None) for i in range(3) for j in range(3)
    },
    "single_sgn": {  # the original's axes are joints, frames
        "spa_net.joint_embed": ("position", (0, 1, 3, 2)),
        "spa_net.dif_embed": ("velocity", (0, 1, 3, 2)),
        "spa_net.compute_g1": ("frame_graph", None),
        "spa_net.gcn": ("layers.2", (0, 1, 3, 2)),
        "tem_net.tem_embed": ("frame_code", (0, 1, 3, 2)),
    },
}


@pytest.mark.parametrize("peer", INNER, indirect=True)
def test_inner_units_are_those_of_the_original(peer, monkeypatch):
    name, model, said, stored = peer
    x, seen = the_input(model, stored, monkeypatch), {}
    modules = dict(model.named_modules())
    for unit, (ours, axes) in INNER[name].items():
        modules[ours].register_forward_hook(
            lambda _, __, out, unit=unit, axes=axes: seen.update({unit: out if axes is None else out.permute(axes)})
        )
    with torch.no_grad():
        model.eval()(x)
    for unit in INNER[name]:
        assert list(seen[unit].shape) == said["units"][unit]
        first = seen[unit][0, :4, :4, :4]
        assert relative(first, stored[f"act/{unit}/slice"].reshape(first.shape)) < 1e-6  # stored as float32


def ours_by_their_keys(model: nn.Module, said: dict, ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    "Values that belong to our weights, laid out as the original's: each of its numbers is followed to where it goes."
    places, start = {}, 0
    for key, shape, *_ in said["state"]:
        number = int(np.prod(shape))
        places[key] = torch.arange(start, start + number, dtype=torch.float64).reshape(shape)
        start += number
    numbered = copy.deepcopy(model)
    load_published(numbered, places)
    flat = torch.full((start,), torch.nan, dtype=torch.float64)
    for name, place in numbered.state_dict().items():
        if name in ours:
            flat[place.flatten().long()] = ours[name].detach().flatten().double()
    return {key: flat[place.long()] for key, place in places.items()}


def test_the_gradient_of_every_weight_is_the_published_networks(peer, monkeypatch):
    "Its norm, in training mode."
    name, model, said, stored = peer
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss = F.cross_entropy(model.train()(the_input(model, stored, monkeypatch)), torch.as_tensor(stored["y"]).long())
    weights = dict(model.named_parameters())
    slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    ours = {key: torch.zeros_like(w) if g is None else g for (key, w), g in zip(weights.items(), slopes)}
    model.load_state_dict(before)  # running statistics
    ours = ours_by_their_keys(model, said, ours)
    largest = np.nanmax(stored["param_grad_norm"])
    for key, norm in zip(said["param_names"], stored["param_grad_norm"], strict=True):
        if not np.isnan(norm):  # used
            assert ours[key].norm().item() == pytest.approx(norm, rel=1e-5, abs=1e-7 * largest), key


def test_weights_begin_as_the_published_networks(peer):
    "Mean and deviation of each weight of the original at its construction, within five standard errors."
    name, _, said, _ = peer
    network, more, _ = PEERS[name]
    torch.manual_seed(0)
    fresh = NETWORKS[network](60, LAYOUTS["ntu25"], **more).double()
    ours = ours_by_their_keys(fresh, said, fresh.state_dict())
    for key, _, kind, mean, deviation in said["state"]:
        n = ours[key].numel()
        if kind in ("stat", "count", "kept") or n < 64 or ours[key].isnan().any():
            continue
        error = deviation / n**0.5
        assert ours[key].mean().item() == pytest.approx(mean, abs=7 * error + 1e-6), key  # of two means
        assert ours[key].std(unbiased=False).item() == pytest.approx(deviation, abs=5 * error + 1e-6), key


def test_it_has_as_many_parameters(peer):
    name, model, said, _ = peer
    assert sum(p.numel() for p in model.parameters()) + PEERS[name][2] == said["parameters"]


def test_every_network_with_a_paper_is_compared():
    "MS-G3D has fixtures of its own (test_msg3d)."
    assert {name for name, _, _ in PEERS.values()} | {"msg3d"} == {k for k, v in NETWORKS.items() if v.paper}


def test_drop_graph_drops_what_the_original_drops():
    z = {key: torch.tensor(value) for key, value in np.load(FIXTURES / "dropgraph.npz").items()}
    x, keep = z["x"], float(z["keep_prob"])
    joints = dcgcn.drop_joints(x, keep, z["A_sum"].float(), z["uniform_space"])
    frames = dcgcn.drop_frames(x, keep, int(z["block_size_time"]), z["uniform_time"][:, 0])
    for ours, theirs in ((joints, z["out_space"]), (frames, z["out_time"])):
        assert torch.equal(ours == 0, theirs == 0)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)  # fp32


def test_three_inputs_are_those_of_the_original():
    z = np.load(FIXTURES / "features.npz")
    x = torch.tensor(z["joints"], dtype=torch.float64).permute(3, 0, 1, 2)  # (M, 3, T, V)
    theirs = torch.tensor(z["branches"], dtype=torch.float64).permute(0, 4, 1, 2, 3)
    for ours, expected in zip(paresgcn.three_inputs(x, LAYOUTS["ntu25"]), theirs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)  # stored as float32


def test_matrices_of_a_skeleton_are_those_of_the_originals():
    "Rows here are columns there."
    layout = LAYOUTS["ntu25"]
    stored = {name: np.load(FIXTURES / f"{name}.npz") for name in ("agcn", "stgcn", "paresgcn", "stigcn")}
    for ours, name, key in (
        (directed(layout), "agcn", "A"),
        (partitions(layout, cut_off=True), "stgcn", "A"),
        (hops(layout, 3), "paresgcn", "A"),
        *zip(relations(layout), ["stigcn"] * 4, ("A_joint", "A_bone", "A_cheb3", "A_cheb4_softmax")),
    ):
        theirs = torch.tensor(stored[name][f"graph/{key}"], dtype=torch.float32).transpose(-1, -2)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
