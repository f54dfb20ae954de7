"What people do with a network that they were handed, and what they meet on the command line: each case was met by a user of this or another project."

import copy
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
import yaml
from torch.nn.utils import prune

from stf_repro.cli import main
from stf_repro.custom.inference import open_network
from stf_repro.evaluation.bundled import example_clip, load_pretrained
from stf_repro.model.nets.convolution import TemporalConvNet
from stf_repro.model.fast.passes import Fast, accelerate, is_fast
from stf_repro.model.contract import Output
from stf_repro.model.nets.msg3d import MSG3D
from stf_repro.model.objective import Objective
from stf_repro.model.stf import with_stf
from stf_repro.model.options import every
from stf_repro.skeleton import LAYOUTS

SIZE = dict(width=6, num_gcn_scales=2, num_g3d_scales=2, windows=(3,))
NTU = LAYOUTS["ntu25"]
NETWORKS = {
    "msg3d": lambda **more: MSG3D(5, NTU, **{**SIZE, **more}),
    "stf": lambda **more: with_stf(MSG3D(5, NTU, **{**SIZE, **more}), 8),
    "convolution": lambda **more: TemporalConvNet(5, NTU, width=6),
}


@pytest.fixture
def kick():
    "The network that is asked by default, and what it reads of the clip that ships with the package."
    net = load_pretrained("synth60-stf")
    return net, *example_clip().batch(net.config.input)


def clips(n: int = 3, bodies: int = 2) -> torch.Tensor:
    "Random clips; the first is of one person."
    x = torch.randn(n, 3, 8, 25, bodies, generator=torch.Generator().manual_seed(0))
    x[0, ..., 1:] = 0
    return x


# --- networks that are handed out are plain modules -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["synth60-stf", "synth60-msg3d"])
def test_a_network_that_is_handed_out_is_of_its_own_class(name):
    for net in (load_pretrained(name), open_network(name)):
        assert type(net.network) is MSG3D and not any(isinstance(m, Fast) for m in net.network.modules())


def test_every_inner_module_is_called(kick):
    "What captum, torchinfo and the like rest on: each module with weights answers to a hook, forward and backward."
    net, x, _ = kick
    units = [
        m for m in net.network.modules() if not list(m.children()) and any(True for _ in m.parameters(recurse=False))
    ]
    called, reached = set(), set()
    for m in units:
        m.register_forward_hook(lambda m, args, out: called.add(m))
        m.register_full_backward_hook(lambda m, before, after: reached.add(m))
    net.network(x.requires_grad_()).amax().backward()
    beta = {
        m for module in getattr(net.network, "stf", {}).values() for m in module.beta.modules()
    }  # taught by L_Gk alone
    assert called == set(units) and reached == set(units) - beta


def test_a_grad_cam_by_hooks_is_the_focus(kick):
    "captum's LayerGradCam, by hand, on the end of the first pathway."
    net, x, present = kick
    kept = {}
    hook = net.network.blocks[0].gcn_tcn[1].register_forward_hook(lambda m, args, out: kept.update(X=out))
    logits = net.network(x)
    gradient = torch.autograd.grad(logits.amax(), kept["X"])[0]
    hook.remove()
    out = net.network.run(x, present)
    expected = torch.autograd.grad(out.logits.amax(), out.places["output"]["gcn1"])[0]
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_are_copied_pickled_and_saved_whole(kind):
    model = NETWORKS[kind]().eval()
    x = clips()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert type(twin) is type(model) and list(twin.state_dict()) == list(model.state_dict())
        assert torch.equal(twin(x), model(x))
    quick = accelerate(model)
    assert torch.equal(pickle.loads(pickle.dumps(quick))(x), quick(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporters warn about packages that they could also use
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("taken", [lambda model: model, accelerate])
def test_both_onnx_exporters_write_the_network(kick, dynamo, taken, tmp_path):
    import onnxruntime

    net, x, _ = kick
    x = torch.cat([x, x.flip(2)])
    torch.onnx.export(taken(net.network), (x,), tmp_path / "net.onnx", dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    logits = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(
            torch.as_tensor(logits), net.network(x), rtol=1e-4, atol=1e-4
        )  # fp32, another order of summation


# --- the fast path is taken by asking for it, and steps aside -------------------------------------------------------


def swap(unit, place, new):
    parent, _, name = place.rpartition(".")
    setattr(unit.get_submodule(parent), name, new) if not name.isdigit() else unit.get_submodule(parent).__setitem__(
        int(name), new
    )


class Wrapped(nn.Module):
    "As an adapter of low rank wraps a layer."

    def __init__(self, layer, more):
        super().__init__()
        self.layer, self.more = layer, more

    def forward(self, *args):
        return self.layer(*args) + self.more


class OtherBlock(type(MSG3D(5, NTU, **SIZE).blocks[0])):
    def forward(self, x, *G):
        out, *maps = super().forward(x, *G)
        return 2 * out, *maps


def _patched(module, name):
    plain = getattr(module, name)
    setattr(module, name, lambda *args: plain(*args) * 1.5)


def _parametrised(model):
    nn.utils.parametrizations.weight_norm(model.blocks[0].gcn.mix)


CHANGES = {
    "another norm": lambda m: swap(m.blocks[0].gcn, "norm", nn.GroupNorm(1, 6)),
    "instance norm": lambda m: swap(
        m.blocks[1].tcn.branches[0], "1", nn.InstanceNorm2d(2, affine=True, track_running_stats=True)
    ),
    "norm without averages": lambda m: swap(m.blocks[0].gcn, "norm", nn.BatchNorm2d(6, track_running_stats=False)),
    "norm without weights": lambda m: swap(m.blocks[0].g3d[0], "norm", nn.BatchNorm2d(6, affine=False)),
    "another epsilon": lambda m: setattr(m.blocks[0].gcn.norm, "eps", 0.1),
    "a frozen norm": lambda m: m.blocks[0].tcn.branches[0][1].eval(),
    "a wrapped convolution": lambda m: swap(m.blocks[1].gcn, "mix", Wrapped(m.blocks[1].gcn.mix, 0.5)),
    "a wrapped unit": lambda m: swap(m.blocks[1], "tcn", Wrapped(m.blocks[1].tcn, 0.5)),
    "a wrapped block": lambda m: setattr(m.blocks[1], "__class__", OtherBlock),
    "a wrapped head": lambda m: swap(m, "head", Wrapped(m.head, 0.5)),
    "another activation": lambda m: swap(m.blocks[0].tcn.branches[0], "2", nn.GELU()),
    "another dilation": lambda m: swap(m.blocks[0].tcn.branches[3], "3", copy.deepcopy(m.blocks[0].tcn.branches[0][3])),
    "another pool": lambda m: swap(m.blocks[0].tcn.branches[4], "3", nn.AvgPool2d((3, 1), 1, (1, 0))),
    "no bias": lambda m: swap(m.blocks[0].gcn, "mix", nn.Conv2d(6, 6, 1, bias=False)),
    "another padding": lambda m: (
        setattr(m.blocks[0].tcn.branches[0][3].conv, "padding_mode", "circular")
        or setattr(m.blocks[0].tcn.branches[0][3].conv, "_reversed_padding_repeated_twice", [0, 0, 1, 1])
    ),
    "weight norm": _parametrised,
    "pruned": lambda m: prune.random_unstructured(m.blocks[0].tcn.branches[0][0], "weight", 0.5),
    "a patched forward": lambda m: _patched(m.blocks[0].gcn, "forward"),
    "a patched fold": lambda m: _patched(m, "fold"),
    "one branch less": lambda m: swap(
        m.blocks[0], "tcn", nn.Sequential(m.blocks[0].tcn.branches[0], nn.Conv2d(1, 6, 1))
    ),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_was_changed_computes_what_it_says(change, training):
    "Asked to be fast, it is right: whatever was replaced, wrapped or patched, before or after it was asked."
    torch.manual_seed(0)
    model, x = MSG3D(5, NTU, **SIZE).train(training), clips()
    quick = accelerate(model)
    assert is_fast(quick)
    CHANGES[change](model)
    if change == "a frozen norm" and not training:
        return
    assert not is_fast(quick)
    assert torch.equal(quick(x), model(x))


class Halved(MSG3D):
    def pool(self, x):
        return super().pool(x) / 2


class MixesBodies(nn.Module):
    "A predictor of the focus that normalises over the batch."

    def __init__(self, channels):
        super().__init__()
        self.read = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, x):
        return self.read(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Halved(5, NTU, **SIZE),
        lambda: TemporalConvNet(5, NTU, width=6),
        lambda: nn.SyncBatchNorm.convert_sync_batchnorm(MSG3D(5, NTU, **SIZE)).eval(),
        lambda: with_stf(MSG3D(5, NTU, **SIZE), 8, gate=0.5, beta=MixesBodies),
        lambda: with_stf(MSG3D(5, NTU, **SIZE), 8, gate=0.5, beta=lambda C: MixesBodies(C).read),
        lambda: with_stf(MSG3D(5, NTU, **SIZE), 8, gate=0.5, squash=lambda G: G / G.norm()),
        lambda: MSG3D(5, NTU, **SIZE).half().float().to(torch.bfloat16),
    ],
)
def test_other_networks_stay_on_their_own_path(make):
    torch.manual_seed(0)
    model = make()
    before = type(model)
    quick, x = accelerate(model), clips().to(next(model.parameters()).dtype)
    assert type(model) is before and not is_fast(quick)
    assert torch.equal(quick(x), model(x))


@pytest.mark.parametrize(
    "kind",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_a_hook_anywhere_is_heard_and_its_removal_gives_the_speed_back(kind):
    model = NETWORKS["stf"]()
    quick, x = accelerate(model), clips().requires_grad_()
    for module in model.modules():
        heard = []
        hook = getattr(module, kind)(lambda *args: heard.append(1) and None)
        assert not is_fast(quick)
        hook.remove()
    module = model.blocks[0].tcn.branches[0][1]
    hook = getattr(module, kind)(lambda *args: heard.append(1) and None)
    quick(x).sum().backward()
    hook.remove()
    assert heard and is_fast(quick)


def test_a_hook_on_all_modules_is_heard():
    model, heard = NETWORKS["msg3d"](), set()
    hook = nn.modules.module.register_module_forward_hook(lambda m, args, out: heard.add(m))
    try:
        accelerate(model)(clips())
    finally:
        hook.remove()
    assert set(model.blocks[0].gcn.children()) <= heard


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_default_dtype_is_followed(kind):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = NETWORKS[kind]().eval()
        x = clips().double()
        assert {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()} == {torch.float64}
        torch.testing.assert_close(accelerate(model)(x), model(x))
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("kind", NETWORKS)
def test_shapes_can_be_had_without_computing(kind):
    model = accelerate(NETWORKS[kind]()).to("meta")
    assert model(clips().to("meta")).shape == (3, 5)


def test_training_and_scoring_ask_for_the_fast_path(monkeypatch, kick):
    "And leave no trace on the network."
    from stf_repro.custom.inference import ask, look
    from stf_repro.evaluation.faithfulness import faithfulness
    from stf_repro.model.fast import passes
    from stf_repro.training.distributed import Step

    net, x, present = kick
    taken, whole = [], passes.fast_pass
    monkeypatch.setattr(passes, "fast_pass", lambda *args: taken.append(1) or whole(*args))
    before, state = dict(vars(net.network)), list(net.network.state_dict())
    example = example_clip()
    for use in (
        lambda: ask(net, [example.recording]),
        lambda: look(net, example.recording),
        lambda: faithfulness(net.network, example.clips, torch.tensor([0]), net.config.input, steps=2),
        lambda: Step(net.network, Objective())(x, torch.tensor([0]), present),
    ):
        taken.clear()
        use()
        assert taken and vars(net.network) == before and list(net.network.state_dict()) == state
    taken.clear()
    net.network(x)
    net.network.run(x, present)
    assert not taken


# --- the code is edited while a training runs -----------------------------------------------------------------------

EDITED = """
import sys
from pathlib import Path
from stf_repro.training import trainer
from stf_repro.training.config import run_configs
from stf_repro.training.runs import read_params, resolve

config = next(iter(run_configs(resolve("", read_params("params.yaml"), "M1")).values()))
whole, file, more = trainer.save_checkpoint, Path(trainer.__file__).with_name("loop.py"), sys.argv[1]
print(trainer.identify(config, trainer.ClipStore.open("clips/synth60"), trainer.find_device("cpu"))[0]["fingerprint"])
trainer.save_checkpoint = lambda *args: (whole(*args), file.write_text(file.read_text() + more))
trainer.train(config, "clips/synth60", "out", "cpu", progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("more", ["\n\nPEAK = 0.9\n", "\n\ndef half(written:\n"])
def test_code_that_is_edited_while_a_training_runs_costs_no_result(project, root, more):
    "The result is written under the fingerprint that the training began with, with a line that says so."
    shutil.copytree(root / "stf_repro", project / "stf_repro", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", EDITED, more], cwd=project, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert json.loads((project / "out" / "record.json").read_text())["fingerprint"] == result.stdout.split()[0]
    assert "changed since this training began" in result.stderr and (project / "out" / "scores.npz").exists()


# --- terms on networks of other kinds -------------------------------------------------------------------------------


class Foreign(nn.Module):
    "Joints as tokens; what it hands out is made by `form`."

    def __init__(self, form=None, attention=False, norm=None):
        super().__init__()
        self.read, self.norm, self.head = nn.Conv2d(3, 8, 1), norm or nn.Identity(), nn.Linear(8, 5)
        self.form, self.attention = form or (lambda X, Y: Output(None, {"a": X, "b": Y})), attention

    def run(self, x, present=None):
        X = self.norm(self.read(x.permute(0, 4, 1, 2, 3).flatten(0, 1))).tanh()  # (N*M, C, T, V)
        tokens = X.flatten(2).transpose(1, 2)
        tokens = F.scaled_dot_product_attention(tokens, tokens, tokens) if self.attention else tokens
        Y = tokens.transpose(1, 2).view_as(X).sin()
        out = self.form(X, Y)
        return (
            replace(out, logits=self.head(Y.mean((2, 3))).unflatten(0, (len(x), -1)).mean(1))
            if isinstance(out, Output)
            else out
        )


def step(model, *names, n=3):
    objective = Objective(dict.fromkeys(names, 0.1), warmup=0.0, choices={"exploration": {"counted": every}})
    losses = objective(
        model, clips(n), torch.arange(n) % 5, torch.ones(n, 2, dtype=torch.bool), names or ("cross_entropy",)
    )
    losses.total.backward()
    return losses


def test_a_network_with_attention_trains_with_the_terms():
    "Its fused kernel has no second derivative, so that a step with terms takes the plain one."
    model = Foreign(attention=True)
    assert set(step(model, "exploration", "divergence", "coherence").terms) == {
        "cross_entropy",
        "exploration",
        "divergence",
        "coherence",
    }
    assert model.read.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "form,said",
    [
        (lambda X, Y: Output(None, [X, Y]), "dictionary.*list"),
        (lambda X, Y: Output(None, {"a": X.flatten(2), "b": Y}), r"four axes.*'a' is \(6, 8, 200\)"),
        (lambda X, Y: Output(None, {"a": (X,), "b": Y}), "four axes.*'a' is tuple"),
        (lambda X, Y: Output(None, {"a": X, "b": F.avg_pool2d(Y, (1, 5))}), "'b' has 5 joints and the clips have 25"),
        (lambda X, Y: Output(None, {"a": X[:2], "b": Y}), "'a' has 2 rows, and there are 3 clips"),
    ],
)
def test_maps_of_another_form_are_told_in_a_sentence(form, said):
    with pytest.raises((ValueError, TypeError), match=said):
        step(Foreign(form), "exploration", "coherence")


def test_any_network_that_predicts_its_focus_can_have_the_adjacency_term():
    with pytest.raises(ValueError, match=r"Output\(logits, maps, beta\)"):
        step(Foreign(), "adjacency")
    assert (
        "adjacency"
        in step(Foreign(lambda X, Y: Output(None, {"a": X, "b": Y}, {"a": X.mean(1).sigmoid()})), "adjacency").terms
    )
    for beta in ({"a": torch.zeros(6, 1, 8, 25)}, {"c": torch.zeros(6, 8, 25)}, {"a": torch.zeros(6, 8, 5)}):
        with pytest.raises(ValueError, match="expected .B, T, V. with the rows and the joints"):
            step(Foreign(lambda X, Y, beta=beta: Output(None, {"a": X, "b": Y}, beta)), "adjacency")


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_the_masked_pass_moves_no_running_average(kind):
    norm = kind(8, track_running_stats=True)
    model, twin = (Foreign(norm=copy.deepcopy(norm)) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    step(model, "exploration")
    step(twin)
    assert torch.equal(model.norm.running_mean, twin.norm.running_mean) and torch.equal(
        model.norm.running_var, twin.norm.running_var
    )


# --- annotation files of pyskl --------------------------------------------------------------------------------------


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch) -> dict:
    "Files of the shipped clip, and of others, in a folder of their own."
    monkeypatch.chdir(tmp_path)
    body = example_clip().recording.bodies
    rng = np.random.default_rng(0)
    made = {
        "kick": body,
        "long": np.tile(body, (1, 11, 1, 1))[:, :410],
        "down": body * [1, -1, 1],
        "mirrored": body * [-1, 1, 1],
        "noise": rng.normal(size=body.shape),
        "numbers": rng.integers(0, 100, body.shape),
        "one": body[:, :1],
    }
    for name, array in made.items():
        np.save(f"{name}.npy", array.astype(np.float32))
    Path("bad.npy").write_text("no array")
    return made


def test_a_network_says_which_frames_it_read(files, capsys):
    assert main(["predict", "long.npy"]) == 0
    said = capsys.readouterr()
    assert "frames 0 to 59 of 410" in said.out and "--window 60" in said.err
    assert main(["predict", "long.npy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"][0]["frames_read"] == [0, 59]
    assert main(["predict", "long.npy", "--window", "60"]) == 0 and "--window" not in capsys.readouterr().err
    assert main(["predict", "long.npy", "--window", "100"]) == 0 and "first 60 of 100" in capsys.readouterr().err
    assert main(["focus", "long.npy", "-o", "f.csv"]) == 0 and "first 60 of 410" in capsys.readouterr().err
    assert main(["predict", "kick.npy"]) == 0 and "first" not in capsys.readouterr().err


def test_one_bad_file_costs_no_other(files, capsys):
    assert main(["predict", "kick.npy", "bad.npy", "nowhere.npy", "long.npy"]) == 1
    said = capsys.readouterr()
    assert (
        "kick.npy" in said.out
        and "long.npy" in said.out
        and "bad.npy: not an array" in said.err
        and "nowhere.npy: No such file" in said.err
    )
    assert main(["predict", "bad.npy", "nowhere.npy"]) == 1 and "none of the 2 files" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name,said",
    [
        ("noise", "unlike all clips"),
        ("numbers", "unlike all clips"),
        ("one", "nothing moves"),
        ("down", "does y point down"),
        ("mirrored", "left is on its right"),
    ],
)
def test_a_clip_that_is_unlike_all_training_clips_is_told(files, capsys, name, said):
    assert main(["predict", f"{name}.npy"]) == 0 and said in capsys.readouterr().err
    assert main(["predict", "kick.npy"]) == 0 and said not in capsys.readouterr().err


@pytest.mark.slow
def test_a_clip_is_drawn_without_a_network(files, capsys, monkeypatch):
    assert main(["draw", "example"]) == 0 and Path("example.png").read_bytes()[:4] == b"\x89PNG"
    assert f"{example_clip().recording.bodies.shape[1]} frames, 1 body, 25 joints of ntu25" in capsys.readouterr().out
    assert (
        main(["draw", "down.npy", "--layout", "ntu25", "-o", "down.gif"]) == 0
        and Path("down.gif").read_bytes()[:3] == b"GIF"
    )
    assert "does y point down" in capsys.readouterr().err
    assert (
        main(["draw", "kick.npy"]) == 0 and "25 joints of ntu25" in capsys.readouterr().out
    )  # metres are no scores: not body25
    for argv, text in (
        (["nowhere.npy"], "No such file"),
        (["kick.npy", "--layout", "ntu"], "did you mean"),
        (["example", "-o", "a.avi"], "expected a name that ends with .png"),
    ):
        assert main(["draw", *argv]) == 1 and text in capsys.readouterr().err
    np.save("image.npy", np.random.default_rng(0).random((20, 17, 3)).astype(np.float32))
    assert main(["draw", "image.npy"]) == 0 and "17 joints of coco17" in capsys.readouterr().out


@pytest.mark.slow
def test_what_draws_writes_files_whatever_the_backend_is(tmp_path):
    "As in a shell of a notebook, whose backend this environment may not have."
    environment = {**os.environ, "MPLBACKEND": "module://not_installed.backend"}
    for argv in (["focus", "example", "-o", "f.png"], ["draw", "example"]):
        subprocess.run(
            [sys.executable, "-m", "stf_repro.cli", *argv],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["example.png", "f.png"]


def test_too_little_memory_is_a_sentence(project, capsys, monkeypatch):
    from stf_repro.training import trainer

    def fail(*_):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    monkeypatch.chdir(project)
    monkeypatch.setattr(trainer, "run_epoch", fail)
    assert main(["train", "M1", "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert "not enough memory" in said and "optim.accumulate" in said and "optim.batch_size" in said


@pytest.mark.slow
def test_evaluate_says_that_a_run_is_of_another_configuration(project, small_params, capsys, monkeypatch):
    monkeypatch.chdir(project)
    assert main(["train", "M1", "--device", "cpu"]) == 0 and main(["evaluate", "M1"]) == 0
    assert "before params.yaml was changed" not in capsys.readouterr().out
    small_params["runs"]["M1"]["optim"] = small_params["runs"]["M1"]["optim"] | {"epochs": 1}
    Path("params.yaml").write_text(yaml.safe_dump(small_params))
    for run in (
        "M1",
        *map(str, sorted(Path("runs").glob("*/*/M1"))),
        *map(str, sorted(Path("runs").glob("*/*/M1/seed-*"))),
    ):
        assert main(["evaluate", run]) == 0
        assert "optim.epochs 3, now 1" in capsys.readouterr().out, run
    assert (
        main(["train", "M1", "--device", "cpu"]) == 0
        and "a finished training of another configuration" in capsys.readouterr().out
    )


def test_a_network_on_no_device_is_a_sentence():
    from stf_repro.custom.inference import ask, look

    net, kick = open_network(device="meta"), example_clip().recording
    for use in (ask, lambda net, clips_: look(net, clips_[0])):
        with pytest.raises(ValueError, match="'meta', which holds shapes"):
            use(net, [kick])


def test_clips_follow_the_network(monkeypatch):
    from stf_repro.custom import inference as room

    seen, whole = [], room.clips_of
    monkeypatch.setattr(room, "_device", lambda net: torch.device("cpu", 0))
    monkeypatch.setattr(
        room,
        "clips_of",
        lambda recordings, device="cpu", bodies=2: seen.append(device) or whole(recordings, device, bodies),
    )
    net, kick = open_network(), example_clip().recording
    room.ask(net, [kick])
    room.look(net, kick, of="punch")
    room.track(net, kick, 30)
    assert set(seen) == {torch.device("cpu", 0)} and len(seen) == 3


def test_a_network_in_double_precision_answers(kick):
    from stf_repro.custom.inference import ask, look

    net, _, _ = kick
    before = ask(net, [example_clip().recording])[0].classes
    net.network.double()
    after = ask(net, [example_clip().recording])[0].classes
    assert [name for name, _ in after] == [name for name, _ in before] and abs(after[0][1] - before[0][1]) < 1e-4
    assert look(net, example_clip().recording).said == "kick"


def test_doctor_asks_for_what_a_project_needs(tmp_path, monkeypatch):
    from stf_repro import doctor

    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("dvc", "papermill") else "1.0")
    for text, state in (("stages: {}\n", "ok"), ("stages: {train: {cmd: stf train M1}}\n", "missing")):
        (tmp_path / "dvc.yaml").write_text(text)
        assert [f.state for f in doctor.machine(tmp_path) if f.what == "pipeline"] == [state]
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert any(f.state == "missing" and "WSL" in f.said for f in doctor.machine(tmp_path))


def test_a_command_without_fcntl_is_a_sentence(tmp_path):
    "As on Windows."
    code = "import sys; sys.modules['fcntl'] = None\nfrom stf_repro.cli import main\nsys.exit(main(['predict', 'example']))"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and "use WSL" in result.stderr and "Traceback" not in result.stderr


def test_a_benchmark_that_is_given_is_the_one_that_is_suggested(made_data):
    from stf_repro.data.registry import BENCHMARKS
    from stf_repro.data.clip_store import ClipStore
    from stf_repro.custom.project import suggest

    store = ClipStore.open(made_data / "clips" / "synth60")
    first, second = BENCHMARKS["synth60-xsub"], BENCHMARKS["synth60-xview"]
    for given in ([first], [second], [second, first]):
        assert suggest(store, benchmarks=given).benchmark == given[0].key


def test_an_estimate_counts_what_a_training_does(made_data, monkeypatch):
    "As many batches of each kind as there are, whatever the schedule is; and the shortest of several times."
    from stf_repro.data.registry import BENCHMARKS
    from stf_repro.data.clip_store import ClipStore
    from stf_repro.custom import project as own

    store, given = ClipStore.open(made_data / "clips" / "synth60"), [BENCHMARKS["synth60-xsub"]]
    monkeypatch.setattr(own, "_batch_time", lambda job, plan: 1.0 + 10 * sum(map(len, plan)))
    monkeypatch.setattr(own, "_shortest", lambda do, repeats: 0.0)
    config = own.suggest(store, benchmarks=given, epochs=10)
    steps = 10 * (len(given[0].indices(store, "train")) // config.optim.batch_size)
    plain = round(0.3 * steps)
    estimate = own.training_time(config, store, "cpu", given[0])
    assert abs(estimate - (plain * 11 + (steps - plain) * (31 + 41) / 2)) < 45  # a step more or less


def test_operations_of_the_fast_path_are_counted_on_it():
    "PyTorch's own counter hooks every module, and a network with hooks takes its own path."
    from stf_repro.bench.measure import operations

    quick, seen = accelerate(NETWORKS["msg3d"]()), []
    assert operations(lambda: seen.append(is_fast(quick)) or quick(clips())) > 0 and seen == [True]


# --- what a breaker found afterwards --------------------------------------------------------------------------------


class Doubled(torch.nn.Sequential):
    "A container that looks like the one it replaces, and computes something else."

    def forward(self, x):
        return 2 * super().forward(x)


def _exchange(net, what: str) -> None:
    block = net.blocks[0]
    if what == "pathway":
        block.gcn_tcn = Doubled(*block.gcn_tcn)
    elif what == "branch":
        block.tcn.branches[0] = Doubled(*block.tcn.branches[0])
    elif what == "statistics":
        block.gcn.norm.track_running_stats = False


@pytest.mark.parametrize("what", ["pathway", "branch", "statistics"])
def test_a_container_of_another_class_takes_the_plain_path(what):
    net = load_pretrained("synth60-msg3d").network
    _exchange(net, what)
    x = torch.randn(2, 3, 60, 25, 2)
    assert not is_fast(accelerate(net.eval()))
    torch.testing.assert_close(accelerate(net)(x), net(x))


def test_a_unit_that_is_patched_on_its_class_takes_the_plain_path(monkeypatch):
    from stf_repro.model.nets.msg3d import MultiScaleGraphConv

    net = load_pretrained("synth60-msg3d").network
    assert is_fast(accelerate(net))
    forward = MultiScaleGraphConv.forward
    monkeypatch.setattr(MultiScaleGraphConv, "forward", lambda self, *args: 2 * forward(self, *args))
    assert not is_fast(accelerate(net))


def test_a_device_that_is_not_there_is_a_sentence():
    for name in ("gpu", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(RuntimeError, match=f"device '{name}' cannot be used"):
            open_network("synth60-stf", name)
