"Inputs that people have met: nobody in a video, skeletons of one's own, NaN, names that stand twice, labels without a class, too few of something."

import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from stf_repro.data.samplers import RECIPES, Clips, modality, replay, resize, uniform
from stf_repro.data.benchmarks import Benchmark, Rule, check_labels
from stf_repro.data.registry import BENCHMARKS
from stf_repro.data.clip_store import Clip, ClipStore, write_store
from stf_repro.data.exports import export_msg3d, export_pyskl
from stf_repro.data.formats import FormatError, Recording
from stf_repro.data.sets.kinetics import parse_kinetics, parse_kinetics_labels
from stf_repro.data.sets.ntu import format_ntu, ntu_attributes, parse_ntu
from stf_repro.data.sets.nwucla import parse_nwucla
from stf_repro.data.synthetic.actions import SyntheticConfig
from stf_repro.data.synthetic.files import read_truth, run_tasks
from stf_repro.data.synthetic.kinetics import KineticsConfig
from stf_repro.data.pickles import read_array, read_pyskl, write_pyskl
from stf_repro.data.preprocess import clip_of, list_recordings, preprocess, to_array
from stf_repro.data.registry import SOURCES
from stf_repro.skeleton import (
    LAYOUTS,
    Layout,
    disentangled_adjacency,
    layout_dict,
    read_layout,
    window_adjacency,
)

NTU, OPENPOSE = LAYOUTS["ntu25"], LAYOUTS["openpose18"]
NAME = "S001C002P003R002A013"
STICK = Layout("stick", ("hip", "chest", "head"), ((0, 1), (2, 1)), 1, 0)


def ntu(name=NAME, M=1, T=4, seed=0) -> Recording:
    bodies = np.random.default_rng(seed).normal(size=(M, T, 25, 3)).astype(np.float32)
    return Recording(name, bodies, np.ones((M, T), bool), NTU, 12, ntu_attributes(name))


def video(people: int, label=3) -> dict:
    person = {"pose": [0.25, 0.75] * 18, "score": [0.5] * 18}
    return {
        "data": [{"frame_index": 1, "skeleton": [person] * people}, {"frame_index": 2, "skeleton": []}],
        "label": "x",
        "label_index": label,
    }


def kinetics(folder, videos: dict[str, dict], labels: dict[str, list[str]]):
    "Write videos (path: content), and label files (part: names, all with a skeleton)."
    for path, content in videos.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(content))
    for part, names in labels.items():
        entries = {name: {"has_skeleton": True, "label": "x", "label_index": 3} for name in names}
        (folder / f"kinetics_{part}_label.json").write_text(json.dumps(entries))
    return folder


def one_clip(bodies: list[np.ndarray], layout: Layout, name="c", **more) -> Clip:
    return Clip(name, 0, {}, bodies, 4, np.eye(3), **more)


# --- nobody is seen ------------------------------------------------------------------------------------


def test_a_video_with_nobody_is_a_clip_of_zeros_all_the_way(tmp_path):
    "The original goes by has_skeleton alone; such a video counts, trains and is handed on as zeros."
    videos = {
        "kinetics_train/a.json": video(1),
        "kinetics_train/b.json": video(0),
        "kinetics_val/c.json": video(2) | {"data": []},
    }
    raw = kinetics(tmp_path / "raw", videos, {"train": ["a", "b"], "val": ["c"]})
    assert preprocess("kinetics", raw, tmp_path / "out", progress=False)["clips"] == 3
    store = ClipStore.open(tmp_path / "out")
    assert store.lengths.tolist() == [[2, 0], [0, 0], [0, 0]] and store.num_frames.tolist() == [3, 3, 0]
    for recipe in RECIPES:
        x, present = RECIPES[recipe](Clips(store), torch.arange(3), 7)
        assert x.shape[:3] == (3, 3, 7) and not x[1:].any() and torch.isfinite(x).all()
        assert present[:, 0].tolist() == [True, False, False]
        assert not modality(x, store.layout, "bone-motion")[1:].any()
    again = [clip_of(r) for r in read_pyskl(export_pyskl(store, [BENCHMARKS["kinetics400"]], tmp_path / "a.pkl"))]
    assert [len(clip.bodies[0]) for clip in again] == [2, 0, 0] and all(clip.confidence for clip in again)
    assert export_msg3d(store, BENCHMARKS["kinetics400"], tmp_path / "msg3d", 5, progress=False) == {
        "train": 2,
        "val": 1,
    }
    joints = np.load(tmp_path / "msg3d" / "train_data_joint.npy")
    assert joints.shape == (2, 3, 5, 18, 2) and joints[0].any() and not joints[1].any()


def test_a_store_in_which_nobody_is_ever_seen(tmp_path):
    store = write_store(tmp_path / "s", [one_clip([np.zeros((0, 25, 3), np.float32)], NTU)], "made", NTU)
    store.check()
    for recipe in RECIPES:
        x, present = RECIPES[recipe](Clips(store), torch.tensor([0]), 3)
        assert not x.any() and not present.any()


@pytest.mark.parametrize(
    "layout,C,score",
    [
        (NTU, 3, False),
        (OPENPOSE, 2, True),
        (LAYOUTS["coco17"], 2, True),
        (LAYOUTS["kinect20"], 3, False),
        (LAYOUTS["jhmdb15"], 2, False),
        (STICK, 3, False),
    ],
    ids=lambda v: getattr(v, "name", v),
)
@pytest.mark.parametrize("way", ["recording", "array", "pyskl"])
def test_nobody_and_only_the_second_in_every_layout(tmp_path, layout, C, score, way):
    V, rng = len(layout), np.random.default_rng(0)
    body = rng.uniform(0.1, 0.9, (6, V, C)).astype(np.float32)
    for seen in ((0, 0), (0, 1), (1, 1)):
        bodies = np.stack([body * s for s in seen])
        present = np.repeat(np.array(seen, bool)[:, None], 6, 1)
        confidence = np.where(present[..., None], np.float32(0.5), np.zeros((2, 6, V), np.float32)) if score else None
        r = Recording("clip", bodies, present, layout, 0, {}, confidence)
        if way == "pyskl":
            write_pyskl(tmp_path / "a.pkl", [r], {})
            (r,) = read_pyskl(tmp_path / "a.pkl")
        elif way == "array" and not score:
            np.save(tmp_path / "clip.npy", bodies)
            (r,) = read_array(tmp_path / "clip.npy", layout)
        clip = clip_of(r)
        assert [len(b) for b in clip.bodies] == {0: [0], 1: [6], 2: [6, 6]}[sum(seen)]
        if seen == (0, 1) and not score:
            np.testing.assert_array_equal(clip.bodies[0], body)
        assert to_array(r, 5).any() == any(seen)
        store = write_store(tmp_path / "s", [clip], "made", layout)
        x, _ = uniform(Clips(store), torch.tensor([0]), 5)
        assert x.any() == any(seen) and torch.isfinite(x).all()


def test_a_clip_made_by_hand_whose_first_body_is_empty(tmp_path):
    body = np.ones((3, 3, 3), np.float32)
    store = write_store(tmp_path / "s", [one_clip([body[:0], body], STICK)], "made", STICK)
    assert store.lengths.tolist() == [[3, 0]]


def test_what_has_no_frames_where_the_format_wants_some_stays_an_error():
    with pytest.raises(FormatError, match="no frames"):
        parse_ntu(b"0\n", NAME)
    with pytest.raises(FormatError, match="no frames|expected"):
        parse_nwucla(b'{"skeletons": []}', "a01_s01_e01_v01")
    empty = parse_ntu(b"2\n0\n0\n", NAME)  # two frames, nobody: the original goes on, with zeros
    assert not to_array(empty).any()


# --- the store holds the layout ------------------------------------------------------------------------


def test_a_store_of_a_layout_of_ones_own_opens_with_it(tmp_path):
    "33 joints of a pose estimator; from arrays to batches and bones, and on to other toolboxes."
    mine = Layout(
        "mediapipe33",
        [f"joint {v}" for v in range(33)],
        np.stack([np.arange(1, 33), np.arange(32)], 1),
        np.int64(0),
        centre=0,
    )
    np.savez(
        tmp_path / "mine.npz",
        wave=np.random.default_rng(0).normal(size=(30, 33, 3)),
        kick=np.ones((2, 9, 33, 3)),
        labels=np.array([0, 1]),
    )
    store = write_store(tmp_path / "s", map(clip_of, read_array(tmp_path / "mine.npz", mine)), "mine", mine)
    again = ClipStore.open(store.path)
    assert (
        again.layout == mine
        and again.layout not in LAYOUTS.values()
        and json.loads((tmp_path / "s" / "store.json").read_text())["layout"]["root"] == 0
    )
    x, _ = replay(Clips(again), torch.arange(2), 10)
    assert not x[:, :, :, 0, 0].any() and not modality(x, again.layout, "bone")[:, :, :, 0].any()
    recordings = list(read_pyskl(export_pyskl(again, [], tmp_path / "a.pkl")))
    assert all(r.layout == mine for r in recordings) and [r.name for r in recordings] == ["wave", "kick"]


@pytest.mark.parametrize("name", ["ntu25", "openpose18", "coco17"])
def test_a_built_in_name_with_other_bones_keeps_its_bones(tmp_path, name):
    "Neither NTU's rotation nor its bones, and nothing that goes by a name alone."
    chain = Layout(name, [f"joint {v}" for v in range(8)], [(v, v - 1) for v in range(1, 8)], 0)
    body = np.random.default_rng(0).normal(size=(1, 6, 8, 3)).astype(np.float32)
    r = Recording("clip", body, np.ones((1, 6), bool), chain, 0)
    assert (clip_of(r).rotation == np.eye(3)).all()
    store = ClipStore.open(
        write_store(tmp_path / "s", [replace(clip_of(r), rotation=np.diag([1.0, -1, -1]))], "mine", chain).path
    )
    assert store.layout == chain
    x, _ = replay(Clips(store), torch.tensor([0]), 6)
    np.testing.assert_array_equal(x[0, ..., 0].permute(1, 2, 0), body[0])  # not turned, not centred: copied
    (again,) = read_pyskl(export_pyskl(store, [], tmp_path / "a.pkl"))
    assert again.layout == chain and again.confidence is None
    np.testing.assert_array_equal(again.bodies, body)


def test_a_layout_of_ones_own_with_confidence_comes_back_as_parts_of_the_image(tmp_path):
    r = Recording(
        "clip",
        np.full((1, 4, 3, 2), 0.25, np.float32),
        np.ones((1, 4), bool),
        STICK,
        0,
        {},
        np.full((1, 4, 3), 0.5, np.float32),
    )
    store = write_store(tmp_path / "s", [clip_of(r)], "mine", STICK)
    (again,) = read_pyskl(export_pyskl(store, [], tmp_path / "a.pkl"))
    np.testing.assert_allclose(again.bodies, r.bodies, atol=1e-6)  # fp32, to pixels and back
    np.testing.assert_array_equal(again.confidence, r.confidence)


def test_layouts_are_plain_and_checked():
    for layout in (*LAYOUTS.values(), STICK):
        assert read_layout(json.loads(json.dumps(layout_dict(layout)))) == layout
    listed = Layout("stick", ["hip", "chest", "head"], [[0, 1], [2, 1]], 1, 0)
    assert listed == STICK and hash(listed) == hash(STICK)
    for change, reason in (
        ({"centre": 3}, "outside 0..2"),
        ({"upright": ((0, 1), (2, 9))}, "outside 0..2"),
        ({"upright": ((0, 1),)}, "upright is two of them"),
        ({"bones": ((0, 1, 2), (2, 1))}, "a bone is a pair"),
        ({"bones": ((0.5, 1), (2, 1))}, "must be numbers of joints"),
        ({"joints": ()}, "at least one joint"),
        ({"joints": (1, 2, 3)}, "at least one joint"),
    ):
        with pytest.raises(ValueError, match=reason):
            replace(STICK, **change)
    for content in ("ntu25", None, [], {"name": "a"}, layout_dict(STICK) | {"more": 1}):
        with pytest.raises(ValueError, match="no layout"):
            read_layout(content)


def test_annotations_of_an_older_export_name_their_layout(tmp_path):
    for layout, fine in (
        ("sbu15", True),
        ("stick", False),
        (layout_dict(replace(STICK, joints=("a", "b", "c"))), False),
        ({"joints": [1] * 15}, False),
        (15, False),
    ):
        entry = {"frame_dir": "clip", "label": 0, "keypoint": np.ones((2, 3, 15, 3)), "layout": layout}
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"annotations": [entry]}))
        if fine:
            assert next(read_pyskl(tmp_path / "a.pkl")).layout == LAYOUTS[layout]
        else:
            with pytest.raises(FormatError, match="clip: "):
                list(read_pyskl(tmp_path / "a.pkl"))


# --- NaN -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("word", ["NaN", "nan", "inf", "-inf", "1e999"])
def test_one_bad_number_among_three_is_told_with_its_line(place, word):
    lines = format_ntu(ntu(T=1)).split("\n")
    numbers = lines[4].split(" ")
    numbers[place] = word
    lines[4] = " ".join(numbers)
    with pytest.raises(FormatError, match="a joint at .* metres") as error:
        parse_ntu("\n".join(lines).encode(), NAME)
    assert error.value.line == 5


@pytest.mark.parametrize("layout", [NTU, LAYOUTS["kinect20"], OPENPOSE], ids=lambda v: v.name)
def test_nan_in_one_clip_stays_in_it(tmp_path, layout):
    "Absent bodies read the first frame of the store; there lies the NaN."
    V, rng = len(layout), np.random.default_rng(0)
    bad, good = rng.normal(size=(5, V, 3)).astype(np.float32), rng.normal(size=(7, V, 3)).astype(np.float32)
    bad[0] = np.nan
    clips = [one_clip([bad], layout, "bad"), one_clip([good], layout, "good"), one_clip([good[:0]], layout, "nobody")]
    store = write_store(tmp_path / "s", clips, "made", layout)
    clean = write_store(tmp_path / "clean", [one_clip([good], layout, "good")], "made", layout)
    for recipe in RECIPES:
        x, _ = RECIPES[recipe](Clips(store), torch.arange(3), 4)
        assert torch.isfinite(x[1:]).all() and not x[2].any()
        torch.testing.assert_close(
            x[1:2], RECIPES[recipe](Clips(clean), torch.tensor([0]), 4)[0], atol=1e-6, rtol=0
        )  # fp32, another batch size


def test_resize_does_not_look_at_a_frame_that_it_does_not_take(tmp_path):
    body = np.ones((3, 3, 3), np.float32)
    body[1] = np.nan
    x, _ = resize(
        Clips(write_store(tmp_path / "s", [one_clip([body], STICK)], "made", replace(STICK, centre=None))),
        torch.tensor([0]),
        3,
    )
    assert torch.isfinite(x[0, :, [0, 2]][..., 0]).all()


@pytest.mark.parametrize("field", ["bodies", "confidence"])
def test_a_recording_made_by_hand_with_nan_is_refused(field):
    values = {"bodies": np.full((2, 4, 18, 2), 0.5, np.float32), "confidence": np.full((2, 4, 18), 0.5, np.float32)}
    values[field][1, 2, 5] = np.nan
    r = Recording("mine", values["bodies"], np.ones((2, 4), bool), OPENPOSE, 0, {}, values["confidence"])
    with pytest.raises(FormatError, match=f"NaN or infinity in {field}, body 1, frame 2"):
        clip_of(r)


def test_absent_people_are_left_out_and_not_multiplied():
    "Whatever stands where nobody was found."
    bodies, score = np.full((2, 3, 18, 2), 0.25, np.float32), np.full((2, 3, 18), 0.5, np.float32)
    bodies[1], present = 1e30, np.array([[True] * 3, [False] * 3])
    alone = Recording("v", bodies[:1], present[:1], OPENPOSE, 0, {}, score[:1])
    both = Recording("v", bodies, present, OPENPOSE, 0, {}, score)
    np.testing.assert_array_equal(to_array(alone, 5), to_array(both, 5))


@pytest.mark.parametrize(
    "config,change",
    [
        (SyntheticConfig, {"jitter": float("nan")}),
        (SyntheticConfig, {"distraction": float("inf")}),
        (SyntheticConfig, {"dropout": float("nan")}),
        (KineticsConfig, {"noise": float("nan")}),
        (KineticsConfig, {"missed": float("nan")}),
    ],
)
def test_nan_is_no_setting(config, change):
    with pytest.raises(ValueError, match="must be|must lie"):
        config(**change)


# --- what stands twice, or contradicts -----------------------------------------------------------------


def test_a_video_in_both_parts_or_loose_and_zipped(tmp_path):
    raw = kinetics(
        tmp_path / "both",
        {"kinetics_train/0001.json": video(1), "kinetics_val/0001.json": video(1), "kinetics_val/2.json": video(1)},
        {"train": ["0001"], "val": ["2"]},
    )
    with pytest.raises(ValueError, match="more than one file for 0001"):
        list_recordings(SOURCES["kinetics"], raw)
    raw = kinetics(tmp_path / "zipped", {"kinetics_train/a.json": video(1)}, {"train": ["a"]})
    with zipfile.ZipFile(raw / "kinetics-skeleton.zip", "w") as archive:
        archive.writestr("kinetics_train/a.json", json.dumps(video(1)))
    with pytest.raises(ValueError, match="more than one file for a .*kinetics-skeleton.zip:kinetics_train/a.json"):
        list_recordings(SOURCES["kinetics"], raw)


def test_label_files_that_contradict_each_other_or_the_folders(tmp_path):
    raw = kinetics(tmp_path / "labels", {"kinetics_train/a.json": video(1)}, {"train": ["a"], "val": ["a"]})
    with pytest.raises(ValueError, match="a and 0 more videos are both in the training and in the validation"):
        list_recordings(SOURCES["kinetics"], raw)
    raw = kinetics(tmp_path / "folders", {"kinetics_val/a.json": video(1)}, {"train": ["a"]})
    with pytest.raises(ValueError, match="a.json lies in kinetics_val, but is in the label file of the other part"):
        list_recordings(SOURCES["kinetics"], raw)
    raw = kinetics(tmp_path / "twice", {"kinetics_train/a.json": video(1)}, {"train": ["a"]})
    with zipfile.ZipFile(raw / "labels.zip", "w") as archive:
        archive.writestr("x/kinetics_train_label.json", json.dumps({"b": {"has_skeleton": True, "label_index": 1}}))
    with pytest.raises(ValueError, match="more than one file for kinetics_train_label"):
        list_recordings(SOURCES["kinetics"], raw)
    (raw / "labels.zip").unlink()
    (raw / "KINETICS_TRAIN_LABEL.JSON").write_text("{}")
    with pytest.raises(ValueError, match="two label files of one part"):
        list_recordings(SOURCES["kinetics"], raw)


def test_keys_that_stand_twice_in_json():
    with pytest.raises(FormatError, match="the key 'a' is there more than once"):
        parse_kinetics_labels(
            b'{"a": {"has_skeleton": true, "label_index": 1}, "a": {"has_skeleton": true, "label_index": 2}}'
        )
    with pytest.raises(FormatError, match="the key 'label_index' is there more than once"):
        parse_kinetics(json.dumps(video(1))[:-1].encode() + b', "label_index": 5}', "v")
    with pytest.raises(FormatError, match="has_skeleton 'false'; expected true or false"):
        parse_kinetics_labels(b'{"a": {"has_skeleton": "false", "label_index": 1}}')


@pytest.mark.parametrize(
    "split,reason",
    [
        ({"xsub_train": [NAME, NAME]}, f"'xsub_train' names {NAME} more than once"),
        ({"xsub_train": [NAME], "xsub_val": [NAME]}, f"{NAME} is both in the training and in the test part of 'xsub'"),
        (
            {"xsub_train": [NAME], "xview_val": ["nobody", "no one", "none", "nil"]},
            "'xview_val' names nobody, no one, none and 1 more, of which there is no annotation",
        ),
        ({"train": [NAME], "test": [NAME]}, "both in the training and in the test part of 'split'"),
    ],
)
def test_split_lists_that_contradict(tmp_path, split, reason):
    "Read and written."
    entry = {"frame_dir": NAME, "label": 1, "keypoint": np.ones((1, 3, 25, 3))}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"split": split, "annotations": [entry]}))
    with pytest.raises(FormatError, match=reason):
        read_pyskl(tmp_path / "a.pkl")
    with pytest.raises(ValueError, match=reason):
        write_pyskl(tmp_path / "b.pkl", [ntu()], split)
    assert not list(tmp_path.glob("b.*"))


def test_a_clip_may_be_in_several_parts_that_test(tmp_path):
    write_pyskl(tmp_path / "a.pkl", [ntu()], {"xsub_val": [NAME], "xsub_test": [NAME], "xview_train": [NAME]})
    (again,) = read_pyskl(tmp_path / "a.pkl")
    assert (again.attributes["xsub"], again.attributes["xview"]) == (1, 0)


def test_names_that_stand_twice_where_they_are_written(tmp_path):
    with pytest.raises(ValueError, match=f"{NAME} is there more than once"):
        write_pyskl(tmp_path / "a.pkl", [ntu(), ntu(seed=1)], {})
    with pytest.raises(ValueError, match="a clip of this name is there already"):
        write_store(tmp_path / "s", [clip_of(ntu()), clip_of(ntu(seed=1))], "made", NTU)
    store = write_store(tmp_path / "s", [clip_of(ntu())], "made", NTU)
    two = [replace(BENCHMARKS["ntu60-xsub"], key=key) for key in ("a-xsub", "b-xsub")]
    with pytest.raises(ValueError, match="two benchmarks have the protocol 'xsub'"):
        export_pyskl(store, two, tmp_path / "a.pkl")


def test_arrays_and_truths_that_stand_twice(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 17, 2)))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "wave.npy")
        archive.write(tmp_path / "a.npy", "kick.npy")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.write(tmp_path / "a.npy", "wave.npy")
    with pytest.raises(FormatError, match="the array wave is there more than once"):
        read_array(tmp_path / "a.npz", "coco17")
    line = json.dumps({"name": "a", "frames": 2, "bodies": [], "slots": [[0, 2, []]]})
    (tmp_path / "truth.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(FormatError, match="line 2.*a is there twice"):
        read_truth(tmp_path / "truth.jsonl")


def test_companions_inside_an_npz(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 17, 2)))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "wave.npy")
        archive.writestr("__MACOSX/._wave.npy", b"\0\5\x16\7")
    assert [r.name for r in read_array(tmp_path / "a.npz", "coco17")] == ["wave"]


# --- labels and attributes -----------------------------------------------------------------------------


def labelled(folder, labels: list[int]):
    clips = [
        Clip(f"c{i}", label, {"subject": i}, [np.ones((2, 3, 3), np.float32)], 2, np.eye(3))
        for i, label in enumerate(labels)
    ]
    return write_store(folder, clips, "mine", STICK)


def two_classes(train, test) -> Benchmark:
    return Benchmark("mine", "mine", STICK, ("wave", "kick"), 1, Rule("subject", frozenset(train), frozenset(test)))


def test_labels_against_the_classes_of_a_benchmark(tmp_path):
    mine = two_classes([0, 1, 2], [3, 4, 5])
    check_labels(labelled(tmp_path / "fine", [0, 1, 0, 1, 0, 1]), mine)
    store = labelled(tmp_path / "s", [1, 2, 60, 1, -1, 3])
    expected = r"mine has 2 classes, labels 0 to 1, but 4 of its clips have others: c1 \(2\), c2 \(60\), c4 \(no label\) and 1 more"
    for call in (
        lambda: check_labels(store, mine),
        lambda: export_msg3d(store, mine, tmp_path / "out", progress=False),
        lambda: export_pyskl(store, [mine], tmp_path / "a.pkl"),
    ):
        with pytest.raises(ValueError, match=expected):
            call()
    check_labels(store, two_classes([0], [3]))  # the others take no part
    assert not (tmp_path / "out").exists() and not (tmp_path / "a.pkl").exists()


def test_labels_of_arrays(tmp_path):
    for labels, reason in (
        ([0, -1], "holds -1; classes are counted from 0"),
        ([0.0, 1.0], "whole numbers"),
        ([0], "expected 2 whole numbers"),
    ):
        np.savez(tmp_path / "a.npz", wave=np.ones((2, 17, 2)), kick=np.ones((2, 17, 2)), labels=np.array(labels))
        with pytest.raises(FormatError, match=reason):
            read_array(tmp_path / "a.npz", "coco17")
    np.savez(tmp_path / "a.npz", labels=np.array([], int))
    with pytest.raises(FormatError, match="no arrays of clips"):
        read_array(tmp_path / "a.npz", "coco17")
    with pytest.raises(ValueError, match="clip has no label"):
        write_pyskl(tmp_path / "a.pkl", [replace(ntu(), name="clip", label=None)], {})


@pytest.mark.parametrize(
    "change,reason",
    [
        ({"label": 1.5}, "its label is 1.5; expected a whole number"),
        ({"label": "kick"}, "its label is 'kick'"),
        ({"label": -2}, "its label is -2; classes are counted from 0"),
        ({"label": 2**70}, "beyond 64 bits"),
        ({"attributes": {"subject": "3"}}, "the attribute 'subject' is '3'; expected a whole number"),
        ({"attributes": {"subject": None}}, "the attribute 'subject' is None"),
        ({"attributes": {"label": 3}}, "cannot name an attribute"),
        ({"attributes": {1: 3}}, "cannot name an attribute"),
        ({"name": 7}, "names are strings"),
    ],
)
def test_what_the_index_cannot_hold_is_said_with_the_clip(tmp_path, change, reason):
    "At once, and the store that was there before is still there."
    labelled(tmp_path / "s", [0, 1])
    clip = Clip("c", 0, {"subject": 1}, [np.ones((2, 3, 3), np.float32)], 2, np.eye(3))
    with pytest.raises(ValueError, match=reason):
        write_store(tmp_path / "s", [replace(clip, **change)], "mine", STICK)
    assert len(ClipStore.open(tmp_path / "s")) == 2


def test_whole_numbers_of_numpy_are_fine(tmp_path):
    clip = Clip("c", np.int64(1), {"subject": np.uint8(3)}, [np.ones((2, 3, 3), np.float32)], np.int32(2), np.eye(3))
    store = write_store(tmp_path / "s", [clip], "mine", STICK)
    assert store.labels.tolist() == [1] and store.attributes(0) == {"subject": 3}


# --- too few -------------------------------------------------------------------------------------------


def test_one_joint_one_frame_one_class(tmp_path):
    point = Layout("point", ("ball",), (), 0, centre=None)
    clips = [one_clip([np.full((T, 1, 3), T, np.float32)], point, f"c{T}") for T in (1, 2)]
    store = write_store(tmp_path / "s", clips, "mine", point)
    for recipe in RECIPES:
        for frames in (1, 5):
            x, present = RECIPES[recipe](Clips(store), torch.arange(2), frames)
            assert x.shape[1:4] == (3, frames, 1) and torch.isfinite(x).all() and present[:, 0].all()
            assert all(
                torch.isfinite(modality(x, point, kind)).all() for kind in ("bone", "joint-motion", "bone-motion")
            )
    assert disentangled_adjacency(point, 3).shape == (3, 1, 1) and window_adjacency(point, 3, 2).shape == (2, 3, 3)
    everyone = Benchmark(
        "mine", "mine", point, ("bounce",), 1, Rule("subject", frozenset({0}), frozenset({1}))
    )  # one class
    check_labels(store, everyone)


def test_a_part_without_clips_is_not_exported(tmp_path):
    store = labelled(tmp_path / "s", [0, 1])
    with pytest.raises(ValueError, match="mine finds no clips for 'val'"):
        export_msg3d(store, two_classes([0, 1], [7]), tmp_path / "out", progress=False)


@pytest.mark.parametrize("workers", [0, -1])
def test_no_processes_are_too_few(tmp_path, workers):
    (tmp_path / f"{NAME}.skeleton").write_text(format_ntu(ntu()))
    with pytest.raises(ValueError, match="expected a number of processes from 1 up"):
        preprocess("synth60", tmp_path, tmp_path / "out", workers=workers, progress=False)
    with pytest.raises(ValueError, match="expected a number of processes from 1 up"):
        run_tasks(len, [], False, workers)


def test_more_processes_than_files(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / f"{NAME}.skeleton").write_text(format_ntu(ntu()))
    assert preprocess("synth60", tmp_path / "raw", tmp_path / "out", workers=8, progress=False)["clips"] == 1
    assert run_tasks(len, [[1]], False, 3) == [1]
