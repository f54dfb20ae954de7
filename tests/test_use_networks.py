"What somebody with recordings of their own does with a network of the table: a project, a training, questions, an export."

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_own import CLIPS, LABELS, STICK, SUBJECTS

from stf_repro.cli import main, parser
from stf_repro.custom.dataset import own_data
from stf_repro.custom.inference import look, open_network, read_for, unlike
from stf_repro.custom.project import new_project, recipe, suggest, takes_stf, train_own
from stf_repro.custom.poses import array_poses
from stf_repro.evaluation import adjacency
from stf_repro.evaluation.bundled import clips_of, example_clip, load_pretrained
from stf_repro.evaluation.localisation import TrainedNetwork
from stf_repro.model.networks import NETWORKS
from stf_repro.training.loop import make_batch

FAST = ("sgn", "convolution")
CLIP = "raw/gym/wave/anna/00.npy"


def project(folder: Path, network: str) -> list[str]:
    "A new project with clips, of one training of one epoch a run; returns its runs."
    (folder / "stick.yaml").write_text(
        yaml.safe_dump({"joints": list(STICK.joints), "bones": [list(bone) for bone in STICK.bones], "root": "chest"})
    )
    gym = folder / "gym"
    assert main(["new", str(gym), "--layout", str(folder / "stick.yaml"), "--clips", "24", "--network", network]) == 0
    for i, (clip, label, subject) in enumerate(zip(CLIPS, LABELS, SUBJECTS)):
        (gym / "raw" / "gym" / label / subject).mkdir(parents=True, exist_ok=True)
        np.save(gym / "raw" / "gym" / label / subject / f"{i:02d}.npy", clip)
    params = yaml.safe_load((gym / "params.yaml").read_text())
    params["sources"]["gym"]["split"] = {"subject": ["chen"]}
    params["base"]["optim"]["epochs"] = 1
    if "depth" in NETWORKS[network].Config.model_fields:  # fewer blocks alike: exporters take a second for each two
        params["base"]["network"]["depth"] = [1, 1, 1]
    (gym / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return list(params["runs"])


def check_onnx(net: TrainedNetwork, file: Path, dynamo: bool) -> None:
    "What ONNX Runtime says of the clips is what the network says. Attention multiplies rounding, hence a part of a thousand."
    import onnxruntime

    clips = clips_of(read_for(net, CLIP) + read_for(net, "raw/gym/bow/ben/03.npy"), bodies=net.benchmark.num_persons)
    x, _ = make_batch(clips, torch.arange(2), net.config.input)
    torch.onnx.export(net.network, (x,), file, dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(file)
    theirs = torch.as_tensor(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    with torch.no_grad():
        ours = net.network(x)
    assert (theirs - ours).abs().max() < 1e-3 * max(1, ours.abs().max())


@pytest.mark.filterwarnings("ignore")  # the exporters warn about packages that they could also use
@pytest.mark.parametrize(
    "network", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in NETWORKS]
)
def test_a_project_of_every_network_trains_and_answers(tmp_path, monkeypatch, capsys, network):
    monkeypatch.setattr("stf_repro.custom.project.training_time", lambda *_, **__: 1.0)  # two generic measurements
    monkeypatch.setattr("stf_repro.evaluation.mechanism.fitted_afterwards", lambda model, _: model)  # that take long
    runs = project(tmp_path, network)
    assert runs == (["stf", network] if takes_stf(network, STICK) else [network])
    monkeypatch.chdir(tmp_path / "gym")
    assert main(["preprocess", "gym"]) == 0 and "a training takes about" in capsys.readouterr().out
    for run in runs:
        place = f"runs/gym/own/{run}"
        assert main(["train", run, "--device", "cpu"]) == 0 and main(["evaluate", run]) == 0
        assert main(["predict", CLIP, "--network", place]) == 0
        assert main(["predict", CLIP, "--network", place, "--window", "9"]) == 0
        assert "8 test clips" in capsys.readouterr().out
        net = open_network(place)
        assert net.network.name == network and net.config.stf == bool(net.network.stf) == (run == "stf")
        maps = [m.name for m in net.network.feature_maps()]
        for module in maps:
            assert np.isfinite(look(net, read_for(net, CLIP)[0], module).Q).all()
        for command in (["focus", CLIP, "--network", place, "-o", "focus.csv"], ["mechanism", run, "--device", "cpu"]):
            assert main(command) == (0 if maps else 1)
        said = capsys.readouterr()
        assert "top1" in said.out if maps else said.err.count("hands out no") == 2
        check_onnx(net, tmp_path / f"{run}.onnx", dynamo=run == "stf" or len(runs) == 1)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_new_network_learns(network):
    "Weights as they are drawn can be trained; a test with weights that were stirred cannot see that they cannot."
    torch.manual_seed(0)
    model = NETWORKS[network].build(recipe(20, network)[0], 2, STICK, 1, 3, 20)
    x = torch.tensor(np.stack(CLIPS), dtype=torch.float32).permute(0, 3, 1, 2)[..., None]  # (N, C, T, V, 1)
    labels = torch.tensor([label == "wave" for label in LABELS]).long()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0  # which hides much in a few steps
    optimiser, values = torch.optim.AdamW(model.parameters(), 0.003), []
    for _ in range(8):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert min(values[-3:]) < 0.9 * values[0] and min(values[-3:]) < 0.6


@pytest.mark.parametrize("network", NETWORKS)
def test_sizes_suit_the_number_of_clips(network):
    "More clips, more weights; the published size at the end."
    count = lambda clips: sum(
        p.numel() for p in NETWORKS[network].build(recipe(clips, network)[0], 5, STICK, 1, 3, 20).parameters()
    )
    with torch.device("meta"):
        assert count(100) <= count(5000)
    assert recipe(40_000, network)[0] == NETWORKS[network].Config()


def test_a_network_without_a_graph_is_asked_for_without_stf(tmp_path):
    folder = tmp_path / "gym"
    new_project(folder, "coco17", network="convolution")
    params, readme = yaml.safe_load((folder / "params.yaml").read_text()), (folder / "README.md").read_text()
    assert list(params["methods"]) == ["plain"] and "stf train stf" not in readme and "no focus to draw" in readme
    store = own_data(tmp_path / "sticks", CLIPS, LABELS, STICK, split=2)
    with pytest.raises(ValueError, match="'convolution' has no graph that STF modules could enter: say stf=False"):
        suggest(store, network="convolution")
    assert suggest(store, stf=False, network="convolution").network.name == "convolution"


def test_a_misspelt_network_is_one_sentence(tmp_path, capsys):
    assert main(["new", str(tmp_path / "gym"), "--layout", "coco17", "--network", "ctrgnc"]) == 1
    assert (
        capsys.readouterr().err
        == "stf new: there is no network 'ctrgnc'; did you mean 'ctrgcn'? `stf networks` lists all\n"
    )
    assert not (tmp_path / "gym").exists()
    commands = next(action for action in parser()._actions if action.dest == "command").choices
    assert "--network NAME" in commands["new"].format_help() and "stf networks" in commands["new"].format_help()


def test_matrices_that_are_heard_have_the_sizes_of_those_that_are_read():
    "MS-G3D's are the same for all clips, and those of its GCN are not tiled: both ways of measuring must agree."
    net, example = load_pretrained("synth60-stf"), example_clip()
    ask = lambda: adjacency.class_adjacency(net.network, example.clips, torch.tensor([0, 0]), net.config.input, 60)
    read = ask()
    G = {
        name: net.network.run(example.batch(net.config.input)[0]).G[name][0].detach()
        for name in read
        if name.startswith("gcn")
    }
    with torch.no_grad():
        heard = adjacency._sizes_by_clip(net.network, example.clips, torch.tensor([0, 0]), net.config.input, G, 64)
    for name, sizes in heard.items():
        for what, value in sizes.items():
            assert value == pytest.approx(getattr(read[name], what), rel=1e-4, abs=1e-5), (name, what)


def test_other_units_are_noticed_by_every_network_whose_norm_knows_places(tmp_path):
    store = own_data(tmp_path / "sticks", CLIPS, LABELS, STICK, split=2)
    train_own(
        store, tmp_path / "run", suggest(store, stf=False, epochs=8, network="unik"), device="cpu", progress=False
    )
    net = open_network(str(tmp_path / "run" / "sticks-1"))
    clip = array_poses("wave", CLIPS[0], STICK)
    assert unlike(net, [clip]) == []
    assert "is unlike all clips" in unlike(net, [replace(clip, bodies=clip.bodies * 100)])[0]
