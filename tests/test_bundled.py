"The networks and the clip that ship with the package, against their cards and against data made anew."

import json
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from stf_repro.data.samplers import Clips
from stf_repro.data.clip_store import ClipStore
from stf_repro.data.synthetic.actions import SyntheticConfig
from stf_repro.data.synthetic.files import make_synthetic, read_truth
from stf_repro.data.preprocess import preprocess
from stf_repro.evaluation.localisation import clip_focus
from stf_repro.evaluation.bundled import FOLDER, PEOPLE, SHIPPED, SYNTHETIC, clips_of, example_clip, load_pretrained
from stf_repro.model.options import elementwise
from stf_repro.training.loop import make_batch

PACK = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "pack.py"))  # writes what ships
choose_example, rounded = PACK["choose_example"], PACK["rounded"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "The data set that the cards name, made and preprocessed anew: the folder of the recordings, and the clips."
    folder = tmp_path_factory.mktemp("synth60")
    options = json.loads((FOLDER / "synth60-stf.json").read_text())["data"]["options"]
    make_synthetic(folder / "raw", SyntheticConfig(**options), progress=False)
    preprocess("synth60", folder / "raw", folder / "clips", workers=1, progress=False)
    return folder / "raw", Clips(ClipStore.open(folder / "clips"))


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_network_scores_what_its_card_says(made, name):
    "Counted here by argmax, batch by batch; another processor may decide one clip otherwise."
    net, (_, clips) = load_pretrained(name), made
    test = net.benchmark.indices(clips.store, "test")
    correct = 0
    with torch.no_grad():
        for part in torch.as_tensor(test).split(50):
            x, _ = make_batch(clips, part, net.config.input)
            correct += int((net.network(x).argmax(1) == clips.labels[part]).sum())
    accuracy = net.card["accuracy"]
    assert accuracy["clips"] == len(test) == 252
    assert abs(correct - accuracy["correct"]) <= 1 and accuracy["top1_percent"] == round(
        100 * accuracy["correct"] / len(test), 1
    )


def test_networks_are_whole_and_ready():
    for name in SHIPPED:
        net = load_pretrained(name)
        assert not net.network.training and all(p.dtype == torch.float32 for p in net.network.parameters())
        assert net.network.head.out_features == len(net.classes)
        assert name in PEOPLE or (len(net.classes) == 14 and net.layout.name == "ntu25")
        assert {"what", "intended_use", "licence", "data", "accuracy", "training", "config", "history"} <= set(net.card)
        assert (
            len(net.card["history"]["epoch"]) == net.config.optim.epochs and len(net.card["training"]["commit"]) == 40
        )
    net = load_pretrained("synth60-stf")
    assert net.network.stf and net.card["history"]["exploration"][-1] is not None


@pytest.mark.parametrize("name", PEOPLE)
def test_a_network_of_people_says_what_it_has_seen_and_answers(name):
    "The recordings themselves are not here: that it answers at all, and what its card says."
    net, (data, _) = load_pretrained(name), name.split("-")
    a, said = net.card["accuracy"], net.card["data"]
    assert said["source"] == data == net.config.source and said["page"].startswith("http")
    assert "redistribute" in said["terms_of_the_recordings"] and said["real_recordings"].endswith("in this package")
    low, high = a["interval_percent"]
    assert low < a["top1_percent"] < high and a["top1_percent"] == round(100 * a["correct"] / a["clips"], 1)
    assert a["top1_percent"] > 2 * 100 / len(net.classes)
    rng = np.random.default_rng(0)
    shape = (2, net.benchmark.channels, net.config.input.frames, len(net.layout), net.benchmark.num_persons)
    with torch.no_grad():
        p = net.network(torch.as_tensor(rng.normal(size=shape), dtype=torch.float32)).softmax(1)
    assert p.shape == (2, len(net.classes)) and p.isfinite().all() and (p[0] != p[1]).any()


def test_an_unknown_network_names_the_nearest():
    with pytest.raises(KeyError, match="no pretrained network 'stf-synth'; did you mean 'synth60-stf'"):
        load_pretrained("stf-synth")
    with pytest.raises(KeyError, match="did you mean 'jhmdb-ctrgcn'"):
        load_pretrained("jhmdb-ctrgc")


def test_they_are_small_and_part_of_the_package(root):
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    assert all(path.stat().st_size <= 300_000 for path in FOLDER.glob("*.safetensors"))
    globs = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["stf_repro"]
    packaged = {path for glob in globs for path in FOLDER.parent.glob(glob) if path.is_file()}
    assert packaged == {*files, FOLDER.parent / "py.typed"}


def test_loading_needs_neither_plots_nor_notebooks():
    code = "import sys; from stf_repro.evaluation.bundled import example_clip, load_pretrained; load_pretrained('synth60-stf'); example_clip(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"nbdev", "dvc", "papermill", "matplotlib", "seaborn", "IPython"} & set(loaded)


def test_the_example_is_the_recording_that_its_rule_chooses(made):
    "The file, its truth and the choice, from data made anew."
    (raw, clips), example = made, example_clip()
    name = example.recording.name
    again = (raw / f"{name}.skeleton").read_text().split()
    assert np.allclose(
        [float(word) for word in example.path.read_text().split()], [float(word) for word in again], atol=2e-5
    )  # written with five decimals
    truth = read_truth(raw / "truth.jsonl")[name]
    assert (read_truth(example.path.parent / "truth.jsonl")[name] == truth).all()
    pair = ("synth60-msg3d", "synth60-stf")
    networks = {key: (net.network, net.config) for key in pair for net in [load_pretrained(key)]}
    chosen, how = choose_example(networks, clips, raw)
    kicks = [
        clips.store.names[i]
        for i in load_pretrained("synth60-stf").benchmark.indices(clips.store, "test")
        if clips.store.labels[i] == 3
    ]
    assert {chosen, name} <= set(kicks) and how.split(" On ")[0] == example.chosen.split(" On ")[
        0
    ] == f"{len(kicks)} test clips show 'kick'."
    for network, own in networks.values():  # what the rule asks for, also where a last bit chose another clip
        view = clip_focus(network, example.clips, torch.tensor([0]), own.input, module="gcn1", form=elementwise)
        assert int(view.said) == 3 and bool(example.truth(own.input).flatten()[view.Q.argmax()])
    config = networks["synth60-stf"][1].input
    laid = example.truth(config)[0, 0].numpy()  # some of 60 frames; a shorter clip is repeated
    assert (laid == truth[0][np.arange(0, 60, config.frame_stride) % truth.shape[1]]).all() and set(
        np.flatnonzero(laid.any(0))
    ) == {17, 18, 19}


def test_an_action_that_fits_nowhere(made):
    raw, clips = made
    net = load_pretrained("synth60-msg3d")
    net.network.head.bias.data[0] = 1e6  # names everything "wave right hand"
    with pytest.raises(ValueError, match="no test clip of 'kick' fits"):
        choose_example({"a": (net.network, net.config)}, clips, raw)


def test_weights_that_do_not_bear_rounding_are_kept(made):
    "A scale beyond the range of 16 bits."
    _, clips = made
    net = load_pretrained("synth60-msg3d")
    state, correct, _ = rounded(net.network, clips, net.config)
    assert state["head.weight"].dtype == torch.float16 and state["data_norm.num_batches_tracked"].dtype == torch.int64
    net.network.head.weight.data *= 1e7
    net.network.head.bias.data *= 1e7
    state, again, _ = rounded(net.network, clips, net.config)
    assert state["head.weight"].dtype == torch.float32 and abs(again - correct) <= 1


def test_recordings_become_clips(made):
    "As from a store on disk."
    (_, clips), example = made, example_clip()
    i = clips.store.names.index(example.recording.name)
    config = load_pretrained("synth60-stf").config.input
    x, present = make_batch(clips_of([example.recording]), torch.tensor([0]), config)
    expected, there = make_batch(clips, torch.tensor([i]), config)
    assert torch.allclose(x, expected, atol=1e-4) and present.tolist() == there.tolist() == [[True, False]]
