"The focus of any layer, and a network as a file: what a notebook does not show."

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from stf_repro.cli import main
from stf_repro.custom import network_files
from stf_repro.custom.inference import open_network
from stf_repro.custom.network_files import check_network_file, export_network, some_clips
from stf_repro.model.any_layer import layer_focus
from stf_repro.model.focus import gradients
from stf_repro.model.nets.convolution import TemporalConvNet
from stf_repro.model.nets.sgn import SGN
from stf_repro.model.nets.stgcn import STGCN
from stf_repro.model.options import elementwise


class Twice(nn.Module):
    "Uses a layer twice, another in place, and one not at all; answers with logits."

    def __init__(self):
        super().__init__()
        self.first, self.again, self.unused = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.relu, self.pair = nn.ReLU(inplace=True), nn.LSTM(3, 3)

    def forward(self, x):
        x = self.relu(self.first(x))
        return self.again(self.again(x)).mean((2, 3))


def test_frozen_weights_and_layers_that_write_in_place_have_a_focus():
    torch.manual_seed(0)
    model, x = Twice().requires_grad_(False), torch.randn(4, 3, 5, 6)
    found = layer_focus(model, "first", x, form=elementwise)
    X = model.first(x).requires_grad_()
    logits = model.again(model.again(X.relu())).mean((2, 3))
    (gradient,) = gradients(logits.amax(1), [X])
    torch.testing.assert_close(found.Q, elementwise(gradient, X.detach()))
    assert found.Q.any() and not model.first._forward_hooks  # nothing stays behind
    assert found.classes.tolist() == logits.argmax(1).tolist()


def test_a_layer_is_named_or_given_and_a_class_too():
    torch.manual_seed(0)
    model, x = Twice(), torch.randn(4, 3, 5, 6)
    by_name, by_layer = (
        layer_focus(model, "first", x, classes=2),
        layer_focus(model, model.first, x, classes=torch.full((4,), 2)),
    )
    torch.testing.assert_close(by_name.Q, by_layer.Q)
    with torch.no_grad():  # a caller's habit
        torch.testing.assert_close(layer_focus(model, "first", x, classes=2).Q, by_name.Q)


@pytest.mark.parametrize(
    "layer, said",
    [
        ("frist", "did you mean 'first'"),
        ("", "there is no layer ''"),
        ("again", "called 2 times"),
        ("unused", "called 0 times"),
        (nn.Linear(2, 2), "no part of the network"),
    ],
)
def test_a_layer_that_cannot_be_asked_is_said(layer, said):
    with pytest.raises(ValueError, match=said):
        layer_focus(Twice(), layer, torch.randn(2, 3, 5, 6))


@pytest.fixture(scope="module")
def small():
    "A trained network's place, with a small network in it."
    shipped = open_network("synth60-ctrgcn")
    torch.manual_seed(0)
    network = STGCN(len(shipped.classes), shipped.layout, 2, 3, width=8, depth=(1, 1, 1)).eval()
    return dataclasses.replace(shipped, network=network)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_answers_for_any_number_of_clips_with_the_focus(small, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    x, _ = some_clips(small)
    found = export_network(small, tmp_path / "net.onnx", x, module="block2")
    assert list(found.difference) == ["logits", "focus"] and max(found.difference.values()) < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]  # one file, whole
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    text = session.get_modelmeta().custom_metadata_map["network.json"]
    assert tuple(json.loads(text)["classes"]) == small.classes
    for n in (1, 3):
        logits, Q = session.run(None, {"clips": x.numpy().repeat(n, 0)})
        assert logits.shape == (n, len(small.classes)) and Q.shape == (n, 2, 10, 25)
        assert np.isclose(Q.max((1, 2, 3)), 1).all() and not Q[:, 1].any()  # the second body is not there


@pytest.mark.parametrize(
    "kind, size, said",
    [
        (TemporalConvNet, {}, "hands out no map of single joints"),
        (SGN, {"width": 8, "frames": 10}, "cannot be traced for any number of clips"),
    ],
)
@pytest.mark.slow
def test_a_network_whose_focus_cannot_be_had_is_written_without(small, tmp_path, kind, size, said):
    net = dataclasses.replace(small, network=kind(len(small.classes), small.layout, 2, 3, **size).eval())
    x, _ = some_clips(net)
    found = export_network(net, tmp_path / "net.pt2", x)
    assert list(found.difference) == ["logits"] and said in found.left_out
    assert torch.export.load(tmp_path / "net.pt2").module()(x.repeat(3, 1, 1, 1, 1)).shape == (3, len(small.classes))


def test_a_file_that_answers_otherwise_is_not_kept(small, tmp_path, monkeypatch):
    (tmp_path / "net.pt2").write_bytes(b"of before")
    write = network_files._write_pt2
    monkeypatch.setattr(network_files, "_write_pt2", lambda *a: lambda x, ask=write(*a): [1.1 * y for y in ask(x)])
    with pytest.raises(ValueError, match="logits differs by .* nothing was written"):
        export_network(small, tmp_path / "net.pt2", some_clips(small)[0], with_focus=False)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"of before"]


def test_a_missing_package_and_another_ending_are_sentences(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "synth60-stf", "-o", "net.h5"]) == 1
    assert "is written as .onnx (ONNX Runtime) or .pt2" in capsys.readouterr().err
    assert main(["export", "synth60-stf"]) == 1 and "`stf export synth60-stf -o net.onnx`" in capsys.readouterr().err
    assert (
        main(["export", "stf-synht60", "-o", "net.pt2"]) == 1
        and "did you mean 'synth60-stf'" in capsys.readouterr().err
    )
    monkeypatch.setattr(network_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install onnx onnxscript onnxruntime .a .pt2 file"):
        check_network_file("net.onnx")
    check_network_file("net.pt2")


def test_the_command_writes_what_it_says(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stf_repro.custom.inference.open_network", lambda name: small)
    assert main(["export", "synth60-ctrgcn", "-o", "net.pt2", "--no-focus"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "net.pt2: clips (N, 3, 10, 25, 2); on the clip `example` it answers as the network does, logits"
    )
