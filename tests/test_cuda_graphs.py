"Passes that could be recorded as CUDA graphs: that nothing in them asks for a number, and that recorded ones train the same."

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from stf_repro.bench.measure import SHAPES, reduced, walks
from stf_repro.data.samplers import Clips
from stf_repro.model import objective as page
from stf_repro.model.fast.passes import accelerate, distinct
from stf_repro.model.networks import NETWORKS
from stf_repro.model.nets.msg3d import MSG3D
from stf_repro.model.objective import CE, TERMS, Objective, size_table
from stf_repro.model.options import RunningBalance
from stf_repro.model.stf import with_stf
from stf_repro.skeleton import LAYOUTS
from stf_repro.training.config import find_benchmark, parse, run_configs
from stf_repro.training.cuda_graphs import GraphedStep, called_again, compile_units, why_not
from stf_repro.training.distributed import Step
from stf_repro.training.loop import build_model, build_objective, make_optimiser, train_epoch
from stf_repro.training.runs import read_params, resolve
from stf_repro.training.trainer import TrainingError, train

CLIPS = torch.randn(6, 3, 16, 25, 2), torch.zeros(6, dtype=torch.long), torch.ones(6, 2).bool()


def emptied(network, mode):
    "The network, and a batch for it, as tensors that have no values."
    empty = lambda t: FakeTensor(mode, t.detach().to("meta"), t.device)
    for module in network.modules():
        for name, p in module._parameters.items():
            module._parameters[name] = None if p is None else nn.Parameter(empty(p), p.requires_grad)
        for name, b in module._buffers.items():
            module._buffers[name] = None if b is None else empty(b)
    return [empty(t) for t in CLIPS]


def measured(network, kinds, monkeypatch):
    "Every kind of step, backward included, without a value."
    # labels are checked on a CPU, and there alone
    without = lambda logits, labels, _: (F.cross_entropy(logits, labels), labels.new_full((), len(labels)))
    monkeypatch.setattr(page, "cross_entropy", without)
    mode = FakeTensorMode()
    batch = emptied(network, mode)
    with mode:
        for names in kinds:
            found, _ = Objective(dict.fromkeys(TERMS, 0.1)).measure(network, *batch, names)
            sum(value for value, _ in found.values()).backward()
            assert size_table(found).shape == (2, len({CE, *names}))


@pytest.mark.parametrize("name", NETWORKS)
def test_no_step_of_any_network_asks_for_a_number(name, monkeypatch):
    kind = NETWORKS[name]
    network = kind.build(kind.Config(name=name), 5, LAYOUTS["ntu25"], 2, 3, 16)
    maps, kinds = len(network.feature_maps()), [(CE,)]
    kinds += [(CE, "exploration"), (CE, "divergence")] * (maps > 0) + [(CE, "coherence")] * (maps > 1)
    measured(network, kinds, monkeypatch)


@pytest.mark.parametrize("room", [10, None])
def test_the_fast_path_asks_only_how_many_bodies_there_are(room, monkeypatch):
    quick = accelerate(with_stf(MSG3D(5, LAYOUTS["ntu25"], width=6, num_gcn_scales=2, num_g3d_scales=2), frames=16))
    quick.room = room
    if room is None:
        with pytest.raises(DataDependentOutputException):
            measured(quick, [(CE, *TERMS)], monkeypatch)
    else:
        measured(quick, [(CE, *TERMS)], monkeypatch)


def test_rows_to_spare_change_nothing():
    "Logits, foci and derivatives of a pass with more rows than bodies, in double precision."
    torch.manual_seed(0)
    net = with_stf(MSG3D(5, LAYOUTS["ntu25"], width=6, num_gcn_scales=2, num_g3d_scales=2), frames=16).double()
    x, labels, here = CLIPS[0].double(), CLIPS[1], torch.tensor([[True, i > 3] for i in range(6)])
    x[:4, ..., 1] = 0
    assert len(distinct(x, here)[0]) == 9
    found = {}
    for room in (None, 9, 12):
        net.zero_grad()
        quick = accelerate(net)
        quick.room = room
        terms, logits = Objective(dict.fromkeys(TERMS, 0.1)).measure(quick, x, labels, here, (CE, *TERMS))
        sum(value for value, _ in terms.values()).backward()
        found[room] = [logits, *(v for v, _ in terms.values()), *(p.grad for p in net.parameters())]
    for room in (9, 12):
        for a, b in zip(found[None], found[room]):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)  # the order of sums


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    "M5 of the paper, small, with two passes a step."
    from conftest import ROOT
    from dvc.utils.hydra import compose_and_dump

    path = tmp_path_factory.mktemp("paper") / "params.yaml"
    compose_and_dump(path, str(ROOT / "conf"), None, "config", "", ["profile=paper"])
    run = next(iter(run_configs(resolve("", read_params(path), SHAPES["NTU"][1])).values()))
    section = reduced(run).model_dump()
    section["optim"] |= {"accumulate": 2, "epochs": 2, "lr": 0.01}
    section["objective"] |= {"warmup": 0.25}
    return parse(section)


def test_recorded_passes_train_the_same(config, tmp_path):
    "Two epochs with two passes a step: history, factors and weights; the job is called again in place of a graph."
    clips = Clips(walks(LAYOUTS["ntu25"], 16, 40, tmp_path / "store"), "cpu", 2)
    found = {}
    for wrap in (lambda step: step, lambda step: GraphedStep(step, 2, called_again)):
        torch.manual_seed(0)
        network, objective = build_model(config, find_benchmark(config)).double(), build_objective(config)
        step = wrap(Step(network, objective))
        optimiser = make_optimiser(list(network.parameters()), config.optim)
        history = []
        for epoch in range(2):
            history.append(train_epoch(step, optimiser, objective, Double(clips), torch.arange(16), config, epoch))
        found[type(step)] = history, objective.state(), network.state_dict()
    (history, state, weights), (again, same, others) = found.values()
    assert len(step.kept) >= 3 and state["frozen"].keys() >= {"divergence", "exploration"}
    for a, b in zip(history, again):
        assert a == pytest.approx(b, rel=1e-5)  # what is tallied is read as float32
    assert same["frozen"] == pytest.approx(state["frozen"], rel=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=1e-4, atol=1e-6)  # the order of sums, over four steps


class Double:
    "Clips whose coordinates come in double precision, so that two orders of sums stay close."

    def __init__(self, clips):
        self.clips = clips

    def __getattr__(self, name):
        return getattr(self.clips, name)

    def __len__(self):
        return len(self.clips)

    def place(self, *arguments):
        x, present = self.clips.place(*arguments)
        return x.double(), present


def test_who_cannot_be_recorded_is_told_why():
    network = MSG3D(5, LAYOUTS["ntu25"], width=6, num_gcn_scales=2, num_g3d_scales=2)
    assert why_not(Step(network, Objective({}))) == ""
    assert "change with every step" in why_not(Step(network, Objective({}, balance=RunningBalance)))
    kind = NETWORKS["dcgcn"]
    changing = kind.build(kind.Config(name="dcgcn"), 5, LAYOUTS["ntu25"], 2, 3, 16)
    assert "over the epochs" in why_not(Step(changing, Objective({})))


def test_graphs_need_a_card(config, tmp_path):
    store = walks(LAYOUTS["ntu25"], 8, 40, tmp_path / "store")
    with pytest.raises(TrainingError, match="one GPU"):
        train(config, store, tmp_path / "out", "cpu", cuda_graphs=True)


def test_units_that_a_focus_crosses_are_not_compiled():
    "With terms the last block stays as it is; without, all are compiled. A compiled unit of the last block has no second derivative."
    make = lambda: MSG3D(5, LAYOUTS["ntu25"], width=6, num_gcn_scales=2, num_g3d_scales=2)
    terms, alone = Objective({"divergence": 0.1}), Objective({})
    assert not any(name.startswith("blocks.2") for name in compile_units(make(), terms, backend="eager"))
    assert any(name.startswith("blocks.2") for name in compile_units(make(), alone, backend="eager"))
    network = make()
    network.blocks[2].tcn.compile(backend="aot_eager")
    with pytest.raises(RuntimeError, match="double backward"):
        terms(network, *CLIPS, (CE, "divergence")).total.backward()
