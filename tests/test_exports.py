"Out and in again: what other toolboxes are given is what this project trains on."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_repro.data.samplers import Clips, modality, replay
from stf_repro.data.benchmarks import Benchmark, Rule
from stf_repro.data.registry import BENCHMARKS
from stf_repro.data.clip_store import write_store
from stf_repro.data.exports import export_msg3d, export_pyskl
from stf_repro.data.formats import Recording
from stf_repro.data.sets.ntu import ntu_attributes
from stf_repro.data.pickles import read_pickle, read_pyskl
from stf_repro.data.preprocess import clip_of
from stf_repro.skeleton import LAYOUTS


def ntu(rng, i):
    name, M, T = f"S001C001P{i + 1:03d}R001A002", rng.integers(1, 4), rng.integers(1, 12)
    present = rng.random((M, T)) < 0.8
    present[0, 0] = True
    bodies = (rng.normal(size=(M, T, 25, 3)) * present[..., None, None]).astype(np.float32)
    return Recording(name, bodies, present, LAYOUTS["ntu25"], 1, ntu_attributes(name))


def image(rng, i):
    M, T = rng.integers(1, 4), rng.integers(1, 12)
    score = (rng.random((M, T, 18)) * (rng.random((M, T, 18)) < 0.9)).astype(np.float32)
    score[0, 0, 0] = 0.5
    present = score.any(-1)
    return Recording(
        f"v{i}", rng.random((M, T, 18, 2)).astype(np.float32), present, LAYOUTS["openpose18"], 7, {"part": i % 2}, score
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), kind=st.sampled_from([ntu, image]))
def test_pyskl_export_then_import_is_the_identity(tmp_path_factory, seed, kind):
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("out")
    clips = [clip_of(kind(rng, i)) for i in range(3)]
    layout = LAYOUTS["ntu25" if kind is ntu else "openpose18"]
    store = write_store(folder / "store", clips, "made", layout)
    benchmark = BENCHMARKS["ntu60-xsub" if kind is ntu else "kinetics400"]
    again = list(map(clip_of, read_pyskl(export_pyskl(store, [benchmark], folder / "a.pkl"))))
    for a, b in zip(clips, again, strict=True):
        assert (a.name, a.label) == (b.name, b.label) and len(a.bodies) == len(b.bodies)
        for x, y in zip(a.bodies, b.bodies):
            if kind is ntu:
                np.testing.assert_array_equal(x, y)
            else:
                np.testing.assert_allclose(x, y, atol=1e-6)  # fp32, to pixels and back
        np.testing.assert_array_equal(a.rotation, b.rotation)


def test_every_layout_comes_back(tmp_path):
    "SBU, NW-UCLA and JHMDB are no layouts of pyskl; the export names theirs."
    rng = np.random.default_rng(0)
    for layout, M, C in (("sbu15", 2, 3), ("kinect20", 1, 3), ("jhmdb15", 1, 2)):
        r = Recording(
            "clip",
            rng.normal(size=(M, 9, len(LAYOUTS[layout]), C)).astype(np.float32),
            np.ones((M, 9), bool),
            LAYOUTS[layout],
            0,
        )
        store = write_store(tmp_path / layout, [clip_of(r)], "made", LAYOUTS[layout])
        (again,) = read_pyskl(export_pyskl(store, [], tmp_path / "a.pkl"))
        assert again.layout == LAYOUTS[layout] and again.confidence is None
        np.testing.assert_array_equal(again.bodies, r.bodies)


def test_msg3d_export_is_what_training_reads(tmp_path):
    rng = np.random.default_rng(0)
    store = write_store(tmp_path / "store", [clip_of(ntu(rng, i)) for i in range(5)], "made", LAYOUTS["ntu25"])
    mine = Benchmark(
        "mine", "made", LAYOUTS["ntu25"], ("a", "b"), 2, Rule("subject", frozenset({1, 3}), frozenset({2, 4, 5}))
    )
    assert export_msg3d(store, mine, tmp_path / "out", 40, progress=False) == {"train": 2, "val": 3}
    for part, name in (("train", "train"), ("test", "val")):
        indices = torch.as_tensor(mine.indices(store, part))
        x, _ = replay(Clips(store), indices, 40)
        np.testing.assert_array_equal(np.load(tmp_path / "out" / f"{name}_data_joint.npy"), x)
        np.testing.assert_array_equal(
            np.load(tmp_path / "out" / f"{name}_data_bone.npy"), modality(x, store.layout, "bone")
        )
        assert read_pickle(tmp_path / "out" / f"{name}_label.pkl") == (
            [store.names[i] for i in indices],
            [1] * len(indices),
        )


def test_a_benchmark_to_take_away_is_whole_and_refused_without_truth(tmp_path):
    "By the command: names and shapes of the truth are those of the clips, test clips have marks, and real clips have none."
    import pickle

    from stf_repro.data.clip_store import ClipStore
    from stf_repro.data.preprocess import preprocess
    from stf_repro.data.registry import BENCHMARKS
    from stf_repro.data.synthetic.actions import SyntheticConfig
    from stf_repro.data.synthetic.files import make_synthetic
    from stf_repro.evaluation.truth_files import export_truth

    make_synthetic(tmp_path / "raw", SyntheticConfig(subjects=3, dropout=0.5), progress=False)
    preprocess("synth60", tmp_path / "raw", tmp_path / "clips", progress=False)
    store, own = ClipStore.open(tmp_path / "clips"), [b for b in BENCHMARKS.values() if b.source == "synth60"]
    marked = export_truth(store, own, tmp_path / "raw", tmp_path / "out")
    truth = np.load(tmp_path / "out" / "truth.npz")
    data = pickle.loads((tmp_path / "out" / "clips.pkl").read_bytes())
    clips = {clip["frame_dir"]: clip["keypoint"] for clip in data["annotations"]}
    assert len(truth.files) == marked > 0.9 * len(clips) and {*data["split"]["xsub_val"]} & {*truth.files}
    for name in truth.files:
        assert truth[name].shape == clips[name].shape[:3] and truth[name].any()
        assert clips[name].any(-1)[truth[name]].mean() > 0.99  # what is marked is seen
    (tmp_path / "raw" / "truth.jsonl").unlink()
    with pytest.raises(ValueError, match="synth60 and synth120"):
        export_truth(store, own, tmp_path / "raw", tmp_path / "other")
    assert not (tmp_path / "other").exists()
