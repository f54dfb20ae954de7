"Options of a training's recipe that networks of the field need: each does what it says, and nothing where it is not asked for."

import re

import pytest
import torch
import torch.nn.functional as F
from processes import TRAINING, toy_store

from stf_repro.data.samplers import Clips, modality, turned
from stf_repro.model.networks import NETWORKS
from stf_repro.model.nets.dcgcn import DropGraph
from stf_repro.model.objective import Objective
from stf_repro.skeleton import LAYOUTS
from stf_repro.training.config import InputConfig, OptimConfig, parse
from stf_repro.training.loop import build_model, learning_rate, make_batch
from stf_repro.training.runs import ConfigError
from stf_repro.training.trainer import TrainingError, prepare, train


def test_the_rate_rises_over_the_first_epochs():
    optim = OptimConfig(lr=0.1, warmup_epochs=5, epochs=20, milestones=(10, 15))
    rates = [learning_rate(optim, epoch * 7 + 3, 7) for epoch in range(20)]
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08] + [0.1] * 6 + [0.01] * 5 + [0.001] * 5)
    plain = OptimConfig(lr=0.1, epochs=20, milestones=(10, 15))
    assert [learning_rate(plain, epoch * 7, 7) for epoch in range(10)] == [0.1] * 10


def test_a_rate_that_rises_by_itself_takes_no_warmup():
    with pytest.raises(ConfigError, match="optim: warmup_epochs is for recipe: sgd"):
        parse({**TRAINING, "optim": {"recipe": "adamw", "warmup_epochs": 5}})


def test_labels_are_smoothed_in_the_training_loss_alone():
    model, x = NETWORKS["stgcn"](5, LAYOUTS["ntu25"], width=4).eval(), torch.randn(4, 3, 8, 25, 2)
    labels, present = torch.tensor([0, 1, 2, 3]), torch.ones(4, 2, dtype=torch.bool)
    logits = model(x)
    for smoothing in (0.0, 0.1):
        value = Objective(label_smoothing=smoothing)(model, x, labels, present).total
        wanted = (1 - smoothing) * F.cross_entropy(logits, labels) - smoothing * logits.log_softmax(1).mean()
        assert value.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_bodies_are_turned_as_a_whole_and_in_training_alone(tmp_path):
    clips = Clips(toy_store(tmp_path / "clips"))
    still, moving = InputConfig(frames=12), InputConfig(frames=12, turn=30)
    draw, all_of_them = torch.Generator().manual_seed(0), torch.arange(len(clips))
    x, _ = make_batch(clips, all_of_them, still)
    assert torch.equal(make_batch(clips, all_of_them, moving)[0], x)  # scoring
    y, _ = make_batch(clips, all_of_them, moving, draw)
    along = lambda x: modality(x, clips.layout, "bone").norm(dim=1)
    torch.testing.assert_close(along(x), along(y), rtol=1e-4, atol=1e-5)
    a, b = (modality(z, clips.layout, "bone").permute(0, 2, 3, 4, 1) for z in (x, y))
    angle = torch.rad2deg(torch.arccos(F.cosine_similarity(a, b, dim=-1)[a.norm(dim=-1) > 1e-3].clamp(-1, 1)))
    assert 5 < angle.max() < 60  # three turns of at most 30 degrees, of which two nearly add up
    assert not torch.equal(make_batch(clips, all_of_them, moving, draw)[0], y)


def test_turns_are_about_all_three_axes_and_uniform():
    "Of a vector along each axis, in the mean over many draws: cos(a) cos(b) with a, b uniform in 30 degrees."
    x = torch.eye(3)[None].repeat(20_000, 1, 1)[:, :, None, :, None]  # (N, C, 1, 3 "joints", 1)
    y = turned(x, 30.0, torch.Generator().manual_seed(1))[:, :, 0, :, 0]
    a = torch.deg2rad(torch.tensor(30.0))
    mean = y.mean(0)
    torch.testing.assert_close(mean.diagonal(), ((a.sin() / a) ** 2).expand(3), rtol=0, atol=0.01)
    torch.testing.assert_close(y @ y.mT, torch.eye(3).expand_as(y), rtol=0, atol=1e-5)
    assert torch.linalg.det(y).min() > 0.99  # turned, not mirrored


def test_flat_bodies_are_not_turned(tmp_path):
    config = parse({**TRAINING, "input": {**TRAINING["input"], "turn": 10}})
    store = toy_store(tmp_path / "clips")
    prepare(config, store, torch.device("cpu"))
    store.confidence = True
    with pytest.raises(TrainingError, match="input.turn turns bodies in space"):
        prepare(config, store, torch.device("cpu"))
    with pytest.raises(ValueError, match="input.turn"):
        turned(torch.zeros(2, 2, 4, 25, 1), 10, torch.Generator())


@pytest.mark.parametrize("name", ["msg3d", "stgcn", "ctrgcn"])
def test_several_streams_enter_one_network_side_by_side(name, tmp_path):
    store = toy_store(tmp_path / "clips")
    size = {"name": name, "width": 12}
    config = parse({**TRAINING, "network": size, "input": {**TRAINING["input"], "modality": "joint+bone+joint-motion"}})
    job = prepare(config, store, torch.device("cpu"))
    x, _ = make_batch(job.clips, torch.arange(3), config.input)
    assert job.model.in_channels == x.shape[1] == 9
    alone = [
        make_batch(job.clips, torch.arange(3), config.input.model_copy(update={"modality": s}))[0]
        for s in config.input.streams
    ]
    assert torch.equal(x, torch.cat(alone, 1))
    assert job.model.eval()(x).shape[0] == 3


@pytest.mark.parametrize(
    "modality,reason", [("joint+bones", "'bones'; did you mean 'bone'"), ("bone+bone", "names a modality twice")]
)
def test_a_misspelt_stream_is_one_sentence(modality, reason):
    with pytest.raises(ConfigError, match=re.escape(reason)):
        parse({**TRAINING, "input": {"modality": modality}})


def test_drop_graph_begins_with_nothing(tmp_path, monkeypatch):
    "Its share falls from epoch to epoch, and a training that is resumed goes on with the share of its epoch."
    seen = []
    forward = DropGraph.forward
    monkeypatch.setattr(DropGraph, "forward", lambda self, x: (seen.append(self.keep), forward(self, x))[1])
    part = {**TRAINING, "stf": False, "objective": {}, "network": {"name": "dcgcn", "width": 8, "keep": 0.8}}
    config = parse({**part, "optim": {**TRAINING["optim"], "epochs": 3}})
    train(config, toy_store(tmp_path / "clips"), tmp_path / "run", "cpu", progress=False)
    assert sorted(set(seen), reverse=True) == pytest.approx([1.0, 0.9, 0.8])
    model = build_model(config, prepare(config, toy_store(tmp_path / "again"), torch.device("cpu")).benchmark)
    model.begin_epoch(1, 3)
    assert {round(p.keep, 6) for p in model.modules() if isinstance(p, DropGraph)} == {0.9}


@pytest.mark.parametrize("modality", ["bone", "joint+bone"])
def test_a_network_that_makes_its_streams_takes_joints(modality):
    with pytest.raises(ConfigError, match="takes input.modality: joint"):
        parse({**TRAINING, "stf": False, "objective": {}, "network": "paresgcn", "input": {"modality": modality}})


@pytest.mark.parametrize(
    "change,reason",
    [
        ({"network": {"name": "stgcn", "depth": [0]}}, "network.depth"),
        ({"network": {"name": "sgn", "groups": [[]]}}, "network.groups"),
        ({"optim": {"warmup_epochs": 9, "epochs": 3, "milestones": [2]}}, "warmup_epochs: 9 is no part of 3 epochs"),
        ({"optim": {"milestones": [0, 2]}}, "milestones"),
        ({"input": {"recipe": "resample", "turn": 10}}, "turns clips in training by itself"),
    ],
)
def test_numbers_that_mean_nothing_are_named(change, reason):
    with pytest.raises(ConfigError, match=reason):
        parse({**TRAINING, "stf": False, "objective": {}, **change})
