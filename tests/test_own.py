"Skeletons of your own: a store with its benchmark, trainings that need no registration, a project folder, a track over time."

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from stf_repro.cli import main
from stf_repro.training.artifacts import trained_on, write_benchmark
from stf_repro.training.runs import resolve
from stf_repro.data.benchmarks import Benchmark, Rule, benchmark_dict, read_benchmark
from stf_repro.data.registry import BENCHMARKS, check_own, get_benchmark
from stf_repro.data.clip_store import Clip, ClipStore, StoreError, benchmarks_of, write_store
from stf_repro.data.formats import FormatError
from stf_repro.data.synthetic.actions import SyntheticConfig, perform
from stf_repro.data.synthetic.camera import record
from stf_repro.custom.dataset import bone_figures, check_joints, folds, own_data, preprocess_own, read_own
from stf_repro.data.pickles import read_array
from stf_repro.data.text import fold_names
from stf_repro.custom.poses import array_poses, make_layout, read_poses
from stf_repro.custom.inference import ask, cut, open_network, read_for, track
from stf_repro.evaluation.run_summary import find_trained, overview
from stf_repro.evaluation.bundled import example_clip, load_pretrained
from stf_repro.skeleton import IN_IMAGES, LAYOUTS, Layout
from stf_repro.custom.project import RELATIVE_WEIGHTS, new_project, recipe, suggest, train_own, training_time

STICK = Layout(
    "stick",
    ("hip", "chest", "head", "left hand", "right hand", "foot"),
    ((0, 1), (2, 1), (3, 1), (4, 1), (5, 0)),
    root=1,
)
BODY = np.array([[0, 0, 0], [0, 0.5, 0], [0, 0.8, 0], [0.4, 0.4, 0], [-0.4, 0.4, 0], [0, -0.6, 0]])
MINE = Benchmark(
    "mine",
    "mine",
    STICK,
    ("wave", "bow"),
    1,
    Rule("subject", frozenset({0}), frozenset({1}), ("camera", frozenset({1, 2}))),
)


def sticks(n: int = 24, T: int = 20) -> tuple[list[np.ndarray], list[str], list[str]]:
    "Clips (T, 6, 3) that wave or bow, their labels, and three subjects."
    rng = np.random.default_rng(0)
    labels, subjects = ["wave", "bow"] * (n // 2), [("anna", "ben", "chen")[i // 2 % 3] for i in range(n)]
    clips = np.tile(BODY, (n, T, 1, 1)) + rng.normal(0, 0.01, (n, T, 6, 3))
    for clip, label in zip(clips, labels):
        clip[:, 4 if label == "wave" else 2, 1] += 0.3 * np.sin(np.arange(T) / 2 + rng.uniform(0, 6))
    return list(clips), labels, subjects


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A store of sticks, and a short training on it."
    folder = tmp_path_factory.mktemp("own")
    clips, labels, subjects = sticks()
    store = own_data(folder / "clips" / "sticks", clips, labels, STICK, {"subject": subjects}, {"subject": ["chen"]})
    train_own(store, folder / "run", suggest(store, epochs=2), device="cpu", progress=False)
    return folder


# benchmarks, kept


def test_a_benchmark_comes_back_from_json():
    for benchmark in (*BENCHMARKS.values(), MINE):
        assert read_benchmark(json.loads(json.dumps(benchmark_dict(benchmark))), benchmark.layout) == benchmark
    with pytest.raises(ValueError, match="no benchmark"):
        read_benchmark({"key": "mine"}, STICK)


def test_a_name_that_is_taken_is_refused():
    check_own([MINE], STICK)
    for wrong, layout, reason in (
        (replace(MINE, key="nwucla"), STICK, "'nwucla' is that of another benchmark"),
        (
            replace(MINE, layout=replace(STICK, name="ntu25")),
            replace(STICK, name="ntu25"),
            "'ntu25' is that of another layout",
        ),
        (MINE, LAYOUTS["ntu25"], "is of the layout 'stick'"),
    ):
        with pytest.raises(ValueError, match=reason):
            check_own([wrong], layout)


def test_a_store_carries_benchmarks_and_others_carry_none(tmp_path):
    clip = Clip("a", 0, {"subject": 0, "camera": 1}, [np.ones((3, 6, 3), np.float32)], 3, np.eye(3))
    write_store(tmp_path / "mine", [clip], "mine", STICK, [MINE])
    assert benchmarks_of(ClipStore.open(tmp_path / "mine")) == {"mine": MINE}
    plain = write_store(tmp_path / "plain", [clip], "plain", STICK)
    assert benchmarks_of(plain) == {} and "benchmarks" not in plain.meta
    with pytest.raises(ValueError, match="is of the layout 'ntu25'"):
        write_store(tmp_path / "wrong", [clip], "mine", STICK, [replace(MINE, layout=LAYOUTS["ntu25"])])
    store = json.loads((tmp_path / "mine" / "store.json").read_text())
    store["benchmarks"][0].pop("classes")
    (tmp_path / "mine" / "store.json").write_text(json.dumps(store))
    with pytest.raises(StoreError, match="damaged store: no benchmark"):
        benchmarks_of(ClipStore.open(tmp_path / "mine"))


def test_a_damaged_file_beside_a_training_is_named(tmp_path):
    write_benchmark(tmp_path, MINE)
    assert trained_on(tmp_path) == MINE
    (tmp_path / "benchmark.json").write_text("{}")
    with pytest.raises(ValueError, match="benchmark.json is damaged"):
        trained_on(tmp_path)


# from arrays to a store


def test_text_becomes_numbers_and_the_split_a_benchmark(tmp_path):
    clips, labels, subjects = sticks()
    store = own_data(
        tmp_path / "sticks",
        clips,
        labels,
        STICK,
        {"subject": subjects, "take": list(range(24))},
        {"subject": ["chen", "anna"]},
    )
    alone = own_data(tmp_path / "alone", clips, labels, STICK, {"subject": subjects}, {"subject": "ben"})
    assert benchmarks_of(alone)["alone"].rule == Rule("subject", frozenset({0, 2}), frozenset({1}))
    (b,) = benchmarks_of(store).values()
    assert (b.key, b.source, b.layout, b.classes, b.num_persons, b.channels) == (
        "sticks",
        "sticks",
        STICK,
        ("bow", "wave"),
        1,
        3,
    )
    assert store.labels.tolist() == [int(label == "wave") for label in labels]
    for part, inside in (("train", {"ben"}), ("test", {"anna", "chen"})):
        assert b.indices(store, part).tolist() == [i for i, s in enumerate(subjects) if s in inside]
    assert store.attributes(7) == {"subject": 0, "take": 7}
    np.testing.assert_allclose(store.frames[:20], clips[0], atol=1e-6)


def test_a_list_of_names_tests(tmp_path):
    clips, labels, _ = sticks(6)
    store = own_data(tmp_path / "sticks", dict(zip("abcdef", clips)), labels, STICK, split=["b", "e"])
    (b,) = benchmarks_of(store).values()
    assert [store.names[i] for i in b.indices(store, "test")] == ["b", "e"] and len(b.indices(store, "train")) == 4


def test_folds_are_stratified_disjoint_and_complete(tmp_path):
    clips, labels, _ = sticks()
    labels[:3] = ["nod"] * 3
    store = own_data(tmp_path / "sticks", np.stack(clips), labels, STICK, split=3)
    own = benchmarks_of(store)
    assert list(own) == ["sticks-1", "sticks-2", "sticks-3"]
    tested = [b.indices(store, "test") for b in own.values()]
    assert sorted(np.concatenate(tested)) == list(range(24)) and {len(t) for t in tested} == {8}
    for t, b in zip(tested, own.values()):
        assert sorted([*t, *b.indices(store, "train")]) == list(range(24))
        assert all(abs(np.sum(store.labels[t] == k) - np.sum(store.labels == k) / 3) < 1 for k in range(3))
    assert folds([0, 0, 1, 1], 2, seed=1).tolist() == folds([0, 0, 1, 1], 2, seed=1).tolist()


def test_a_second_body_is_kept_and_images_get_their_score(tmp_path):
    clips, labels, _ = sticks(4)
    two = [np.stack([clips[0], clips[1]]), *clips[1:]]
    assert benchmarks_of(own_data(tmp_path / "two", two, labels, STICK, split=2))["two-1"].num_persons == 2
    rng = np.random.default_rng(0)
    pixels = [rng.uniform(100, 300, (9, 17, 2)) for _ in range(4)]
    with pytest.warns(UserWarning, match="change their length"):  # noise is no body
        store = own_data(tmp_path / "image", pixels, labels, "coco17", split=2, image_shape=(480, 640))
    assert store.confidence and benchmarks_of(store)["image-1"].channels == 3
    np.testing.assert_allclose(
        store.frames[0, 0], [pixels[0][0, 0, 0] / 640 - 0.5, 0.5 - pixels[0][0, 0, 1] / 480, 1], atol=1e-6
    )


CLIPS, LABELS, SUBJECTS = sticks()


@pytest.mark.parametrize("other,reason", [
    ({"labels": LABELS[1:]}, "23 labels for 24 clips"),
    ({"labels": [1, 2] * 12}, "labels run from 1 to 2.*subtract 1"),
    ({"labels": [1, 2] * 12, "classes": ["wave", "bow"]}, "counted from 0 to 1; subtract 1"),
    ({"labels": [0, -1] * 12}, "labels run from -1 to 0"),
    ({"labels": [0.0, 1.0] * 12}, "labels hold 0.0; expected text, or whole numbers"),
    ({"labels": ["wave"] * 24}, "expected at least two classes"),
    ({"labels": [0, 2] * 12}, "no clip has the label '1'"),
    ({"classes": ["wave", "nod"]}, "the label 'bow' is not among the classes"),
    ({"clips": np.stack(CLIPS), "labels": LABELS[:2]}, r"as a stack \(N, T, V, C\) it holds 24 clips, and there are 2 labels"),
    ({"clips": CLIPS[0]}, r"expected a list of arrays \(T, V, C\)"),
    ({"clips": [np.stack(CLIPS)] * 24}, "has 24 bodies .its first axis"),
    ({"layout": "coco17"}, "no layout here has 6 joints"),
    ({"clips": [c.swapaxes(0, 1) for c in CLIPS]}, r"expected \(T, V, C\) or"),
    ({"names": ["a"] * 24}, "1 different names for 24 clips"),
    ({"split": 13}, "the class 'bow' has 12 clips, and each of 13 folds"),
    ({"split": 1}, "split is 1; expected a number of folds"),
    ({"split": {"camera": [1]}}, "by 'camera', which is no attribute of the clips; known: subject"),
    ({"split": {"subject": ["dora"]}}, "no clip has subject 'dora'; known: anna, ben, chen"),
    ({"split": {"folds": 4, "by": "subject"}}, "4 folds by 'subject', which has 3 values; expected from 2 to 3"),
    ({"split": {"folds": 2, "by": "camera"}}, "by 'camera', which is no attribute of the clips; known: subject"),
    ({"split": {"subject": ["anna", "ben", "chen"]}}, "no clip is in the training part"),
    ({"split": ["clip-0000"]}, "the class 'bow' is in the training part only"),
    ({"split": ["clip 0"]}, "names 'clip 0', and no clip has that name; the first is 'clip-0000'"),
    ({"labels": ["nod"] * 2 + LABELS[2:], "split": {"subject": ["anna"]}}, "the class 'nod' is in the test part only"),
    ({"attributes": {"subject": SUBJECTS[1:]}}, "23 values of 'subject' for 24 clips"),
    ({"attributes": {"age": [1.5] * 24}}, "'age' holds 1.5"),
    ({"attributes": {"fold": [0, 1] * 12}}, "'fold' is the name of a column that a split writes"),
    ({"labels": ["lonely"] + LABELS[1:]}, "the class 'lonely' has 1 clip; folds need at least 2 of each"),
    ({"labels": ["wave", 1] * 12}, "labels mix text such as 'wave' and 1;"),
    ({"labels": None}, "labels: found None; expected a list"),
    ({"labels": "wave"}, "labels: found 'wave'; expected a list"),
    ({"attributes": {"subject": ["anna", 1] * 12}}, "the values of 'subject' mix text such as 'anna' and 1"),
    ({"attributes": {"subject": None}}, "the values of 'subject': found None"),
    ({"attributes": SUBJECTS}, "attributes is a list; expected a dictionary"),
    ({"clips": "clips.npy"}, "clips is the path 'clips.npy'; expected arrays"),
    ({"clips": None}, "clips is None; expected a list of arrays"),
    ({"clips": np.full((24, 5, 6, 3), None)}, "clips is one array of object; expected numbers"),
    ({"layout": "kinect2"}, "no layout 'kinect2'; did you mean 'kinect20'?"),
    ({"clips": [np.concatenate([c, c[..., :1]], -1) for c in CLIPS]}, "has 4 coordinates per joint, .* drop the last"),
    ({"clips": [c[:0] for c in CLIPS]}, "clip-0000 has no frames"),
    ({"folder": "sbu"}, "'sbu' is the name of a data set of the field"),
    ({"folder": "2024"}, "cannot be called '2024'"),
])  # fmt: skip
def test_what_does_not_fit_is_one_sentence_and_writes_nothing(tmp_path, other, reason):
    given = {
        "folder": "sticks",
        "clips": CLIPS,
        "labels": LABELS,
        "layout": STICK,
        "attributes": {"subject": SUBJECTS},
        "split": 3,
    } | other
    with pytest.raises(ValueError, match=reason) as error:
        own_data(**given | {"folder": tmp_path / given["folder"]})
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_folds_by_subject_keep_people_apart_and_test_everybody_once(tmp_path):
    clips, labels, subjects = sticks()
    store = own_data(tmp_path / "s", clips, labels, STICK, {"subject": subjects}, {"folds": 2, "by": "subject"})
    of = lambda b, part: {subjects[i] for i in b.indices(store, part)}
    benchmarks = benchmarks_of(store)
    assert list(benchmarks) == fold_names("s", {"folds": 2, "by": "subject"}) == ["s-1", "s-2"]
    assert all(of(b, "test") | of(b, "train") == set(subjects) for b in benchmarks.values())
    assert all(not of(b, "test") & of(b, "train") for b in benchmarks.values())
    assert sorted(name for b in benchmarks.values() for name in of(b, "test")) == sorted(set(subjects))


def test_files_that_cannot_be_read_are_all_counted_or_left_out(tmp_path):
    raw = tmp_path / "raw" / "mine"
    for i, (clip, label) in enumerate(zip(CLIPS, LABELS)):
        (raw / label).mkdir(parents=True, exist_ok=True)
        np.save(raw / label / f"{i}.npy", clip)
    for name in ("broken", "worse"):
        (raw / LABELS[0] / f"{name}.npy").write_bytes(b"no array")
    section = {"layout": "layout.yaml", "split": 3}
    (tmp_path / "layout.yaml").write_text(
        yaml.safe_dump({"joints": list(STICK.joints), "bones": [list(b) for b in STICK.bones]})
    )
    with pytest.raises(
        ValueError, match=rf"broken.npy: not an array .*1 more of {len(CLIPS) + 2} files cannot be read"
    ):
        preprocess_own("mine", section, tmp_path)
    listed = tmp_path / "clips" / "mine.bad.tsv"
    with pytest.warns(UserWarning, match="left out 2 files that cannot be read"):
        store = preprocess_own("mine", section, tmp_path, allow_bad=True)
    rows = listed.read_text().splitlines()
    assert len(store) == len(CLIPS) and len(rows) == 3 and "broken.npy" in rows[1] and "worse.npy" in rows[2]
    for name in ("broken", "worse"):
        (raw / LABELS[0] / f"{name}.npy").unlink()
    preprocess_own("mine", section, tmp_path)
    assert not listed.exists()


def test_a_stack_is_not_read_as_one_clip(tmp_path):
    np.save(tmp_path / "stack.npy", np.stack(CLIPS))
    for read in (read_array, read_poses):
        with pytest.raises(
            FormatError, match="24 bodies .its first axis., and at most 4 are looked at; for a stack of clips"
        ):
            read(tmp_path / "stack.npy", STICK)


def test_bones_that_are_no_tree_are_named():
    joints = ["hip", "chest", "head", "hand"]
    layout = make_layout("stick", joints, [("chest", "hip"), (2, 1), ("chest", 3)], root="chest", centre="hip")
    assert layout == Layout("stick", tuple(joints), ((0, 1), (2, 1), (3, 1)), root=1, centre=0)
    for bones, reason in (
        ([(0, 1), (1, 2)], "no bones lead from hip to hand"),
        ([(0, 1), (1, 2), (2, 0), (1, 3)], "joined in another way already"),
        ([(0, 1), (1, 2), (1, "foot")], "a bone names 'foot', which is no joint"),
        ([(0, 1), (1, 2), (1, 4)], "a bone names 4"),
    ):
        with pytest.raises(ValueError, match=reason):
            make_layout("stick", joints, bones)


def test_joints_in_another_order_are_noticed():
    "On the example that ships: the right order is quiet, and so is any scale; shuffled joints are not."
    kick = example_clip().recording
    assert check_joints([kick]) == [] and check_joints([replace(kick, bodies=kick.bodies * 7)]) == []
    rng = np.random.default_rng(0)
    for _ in range(5):
        (said,) = check_joints([replace(kick, bodies=kick.bodies[:, :, rng.permutation(25)])])
        assert "times as long as the shortest tree" in said and "base of spine, middle of spine" in said
    shaken = kick.bodies * rng.uniform(0.2, 2, (1, kick.bodies.shape[1], 25, 1))
    assert any(
        "change their length" in said for said in check_joints([replace(kick, bodies=shaken.astype(np.float32))])
    )
    long, change = bone_figures(np.tile(BODY, (5, 1, 1)) + 1, STICK)
    assert long == pytest.approx(
        (0.5 + 0.3 + 2 * np.hypot(0.4, 0.1) + 0.6) / (0.5 + 0.3 + 2 * np.hypot(0.4, 0.1) + 0.6)
    ) and change == pytest.approx(0, abs=1e-9)


ELSEWHERE = {  # joints that the made body does not have, by what it has: in metres to the left, up, to the front
    "hip centre": "base of spine", "spine": "middle of spine", "shoulder centre": "spine at shoulders", "torso": "middle of spine", "belly": "middle of spine", "face": "head",
    "middle of hips": "base of spine", "nose": ("head", 0, 0, 0.1), "eye": ("head", 0.03, 0.03, 0.08), "inner eye": ("head", 0.02, 0.03, 0.08), "outer eye": ("head", 0.04, 0.03, 0.07),
    "ear": ("head", 0.08, 0.01, 0), "of mouth": ("head", 0.02, -0.05, 0.08), "little finger": ("hand", 0.03, 0, 0), "index finger": "hand tip", "thumb": "thumb", "toes": "foot", "big toe": "foot",
    "small toe": ("foot", 0.04, 0, 0), "heel": ("ankle", 0, -0.05, -0.04),
}  # fmt: skip


def joint_of(bodies: np.ndarray, name: str) -> np.ndarray:  # (T, 3)
    "A joint of any layout, from a body of the Kinect's that faces the camera, more or less."
    side, _, rest = name.partition(" ") if name.startswith(("left ", "right ")) else ("", "", name)
    own = LAYOUTS["ntu25"].joints
    if name in own:
        return bodies[:, own.index(name)]
    known = ELSEWHERE[rest]
    joint, *shift = (known, 0, 0, 0) if isinstance(known, str) else known
    at = own.index(joint if joint in own else f"{side} {joint}")
    return bodies[:, at] + np.array(shift) * [-1 if side == "left" else 1, 1, -1]


@pytest.fixture(scope="module")
def performed() -> list[np.ndarray]:
    "Twenty clips of the synthetic set, actions in turn, by several people, seen by all cameras: (T, 25, 3)."
    config = SyntheticConfig()
    return [record(perform(1 + i % 14, 1 + i % 5, 1, config), 1 + i % 3, 1, config)[0].bodies[0] for i in range(20)]


def in_layout(performed, name: str, scale: float = 1.0) -> list:
    "Those clips with the joints of a layout; in pixels where it is one of images."
    made = []
    for i, body in enumerate(performed):
        xyz = np.stack([joint_of(body, joint) for joint in LAYOUTS[name].joints], 1)
        if name in (*IN_IMAGES, "jhmdb15"):
            xyz = 320 - 180 * xyz[..., :2]
        made.append(array_poses(f"{i}", scale * xyz, LAYOUTS[name], (640, 640) if name in IN_IMAGES else None))
    return made


def exchanged(recordings, a: str, b: str) -> list:
    "Two joints in each other's place."
    order = np.arange(len(layout := recordings[0].layout))
    order[[layout.joints.index(a), layout.joints.index(b)]] = layout.joints.index(b), layout.joints.index(a)
    return [replace(r, bodies=r.bodies[:, :, order]) for r in recordings]


@pytest.mark.parametrize("name", LAYOUTS)
def test_right_clips_of_every_layout_are_quiet_and_exchanged_joints_are_not(performed, name):
    clips = in_layout(performed, name)
    assert check_joints(clips) == [] and check_joints(clips[:5]) == []
    hand = "hand" if name == "sbu15" else "wrist"
    for a, b in (
        ("left elbow", "right elbow"),
        ("left hip", "left knee"),
        ("right shoulder", "right elbow"),
        ("left elbow", f"left {hand}"),
    ):
        (said,) = check_joints(exchanged(clips, a, b))
        assert ("were exchanged" in said and a in said and b in said) or "as on the other side" in said, said
        assert not any(
            a in said or "exchanged" in said for said in check_joints(exchanged(clips, a, b)[:4])
        )  # too few to tell
    both = exchanged(
        exchanged(clips, "left hip", "left knee"), "right hip", "right knee"
    )  # then each bone equals its mirror image
    (said,) = check_joints(both)
    assert "were exchanged" in said or "the shortest tree" in said


def test_what_lengths_cannot_tell_is_quiet(performed):
    "All of the left side exchanged with all of the right."
    clips = in_layout(performed, "ntu25")
    for name in LAYOUTS["ntu25"].joints:
        if name.startswith("left "):
            clips = exchanged(clips, name, name.replace("left", "right"))
    assert check_joints(clips) == []


def test_a_joint_that_is_none_and_a_long_bone_are_named(performed):
    clips = in_layout(performed, "ntu25")
    at = LAYOUTS["ntu25"].joints.index
    away, long = [r.bodies.copy() for r in clips], [r.bodies.copy() for r in clips]
    for body in away:
        body[:, :, at("head")] += 5  # a marker on the wall
    for body in long:
        body[:, :, at("left ankle")] += body[:, :, at("left ankle")] - body[:, :, at("left knee")]
        body[:, :, at("left foot")] = body[:, :, at("left ankle")] - 0.1
    assert (
        "the bone between 'head' and 'neck' is 1"
        in check_joints([replace(r, bodies=b) for r, b in zip(clips, away)])[0]
    )
    (said,) = check_joints([replace(r, bodies=b) for r, b in zip(clips, long)])
    assert re.search(
        r"the bone from left (ankle to left knee|knee to left ankle) is 2.\d times as long as on the other side", said
    )


@pytest.mark.parametrize("name", ["ntu25", "kinect20"])
@pytest.mark.parametrize("scale,unit", [(1000, "millimetres"), (100, "centimetres")])
def test_millimetres_are_noticed_and_pixels_are_not(performed, name, scale, unit):
    for clips in (in_layout(performed, name, scale), in_layout(performed[:1], name, scale)):  # one body is enough
        (said,) = check_joints(clips)
        assert f"as in {unit} (in metres it is 1 to 2)" in said and f"divide the coordinates by {scale}" in said
    own = Layout("mine", LAYOUTS["jhmdb15"].joints, LAYOUTS["jhmdb15"].bones, root=1)
    pixels = [r.bodies for r in in_layout(performed, "jhmdb15")]
    for third in (np.ones_like, lambda x: np.random.default_rng(0).random(x.shape)):  # a score is no depth
        scored = [np.concatenate([b, third(b[..., :1])], -1) for b in pixels]
        assert (
            check_joints([array_poses("a", b, own) for b in scored])
            == check_joints([array_poses("a", b, own) for b in pixels])
            == []
        )


def test_millimetres_are_said_when_a_store_is_written_and_when_a_network_is_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, scale in (("right", 1), ("large", 1000)):
        np.save(f"{name}.npy", scale * example_clip().recording.bodies)
        for command in (
            ["predict", f"{name}.npy"],
            ["predict", f"{name}.npy", "--window", "30"],
            ["focus", f"{name}.npy", "-o", "f.csv"],
        ):
            assert main(command) == 0
            assert (f"stf {command[0]}: bodies of 'ntu25' have a size of 1" in capsys.readouterr().err) == (
                scale == 1000
            )
    clips, labels, _ = sticks()
    with pytest.warns(UserWarning, match="have a size of 1[34].., as in millimetres"):
        own_data(tmp_path / "sticks", [1000 * clip for clip in clips], labels, STICK)


# files


def test_folders_tables_and_archives_say_the_same(tmp_path):
    rows = ["file,label,subject,take"]
    for i, (clip, label, subject) in enumerate(zip(CLIPS, LABELS, SUBJECTS)):
        for place in (tmp_path / "folders" / label / subject, tmp_path / "table" / "all"):
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / f"{i:02d}.npy", clip)
        rows.append(f"all/{i:02d}.npy,{label},{subject},{i}")
    (tmp_path / "table" / "labels.csv").write_text("\n".join(rows))
    np.savez(
        tmp_path / "all.npz",
        **{f"{i:02d}": c for i, c in enumerate(CLIPS)},
        labels=np.array(LABELS),
        subject=np.array(SUBJECTS),
    )
    table, packed, sorted_ = (read_own(tmp_path / name, STICK) for name in ("table", "all.npz", "folders"))
    assert table.labels == packed.labels == LABELS and table.attributes == {
        "subject": SUBJECTS,
        "take": list(range(24)),
    }
    assert packed.attributes == {"subject": SUBJECTS} and table.clips[3].name == "all/03"
    found = {(c.name, label, s) for c, label, s in zip(sorted_.clips, sorted_.labels, sorted_.attributes["subject"])}
    assert found == {(f"{label}/{s}/{i:02d}", label, s) for i, (label, s) in enumerate(zip(LABELS, SUBJECTS))}
    np.testing.assert_allclose(table.clips[3].bodies[0], CLIPS[3], atol=1e-6)
    with pytest.raises(FormatError, match="labels holds text such as 'wave'"):
        read_array(tmp_path / "all.npz", STICK)


@pytest.mark.parametrize("files,reason", [
    ({}, "no files"),
    ({"a.npy": None}, "expected a folder per class"),
    ({"wave/a.npy": None, "wave/b.npy": None, "bow/anna/c.npy": None}, "expected a folder per class.*; bow/anna/c.npy is not at the depth of the others"),
    ({"wave/a/b/c.npy": None}, "expected a folder per class.*; found wave/a/b/c.npy"),
    ({"wave/t.npy": "0.1 0.2"}, "t.npy: not an array written by np.save"),
    ({"labels.csv": "name,class\na.npy,wave\n"}, "columns file and label"),
    ({"labels.csv": "file,label\na.npy,wave\n"}, "line 2: a.npy is not there"),
    ({"a.npy": None, "labels.csv": "file,label,subject\na.npy,wave\n"}, "line 2: a cell is missing"),
])  # fmt: skip
def test_files_that_are_not_sorted_are_reported(tmp_path, files, reason):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / name, CLIPS[0]) if text is None else (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match=reason):
        read_own(tmp_path, STICK)


def test_files_that_are_left_out_are_counted(tmp_path, recwarn):
    for name in ("wave/a.npy", "bow/b.npy", "t.npy", "u.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, CLIPS[0])
    with pytest.warns(
        UserWarning, match=r"left out 2 files that lie beside the folders of the classes, the first: t\.npy; move them"
    ) as caught:
        assert len(read_own(tmp_path, STICK).clips) == 2
    assert len(caught) == 1
    (tmp_path / "labels.csv").write_text("file,label\nwave/a.npy,wave\nt.npy,wave\nu.npy,bow\n")
    with pytest.warns(UserWarning, match=r"left out 1 file that labels.csv does not list: bow/b\.npy; add a row"):
        assert len(read_own(tmp_path, STICK).clips) == 3
    (tmp_path / "bow" / "b.npy").unlink()
    read_own(tmp_path, STICK)
    assert not recwarn.list


def test_clips_in_which_nothing_can_be_seen_are_named(tmp_path):
    clips = [np.zeros_like(CLIPS[0]), CLIPS[1][:1], CLIPS[2][:1], *CLIPS[3:]]
    with pytest.warns(UserWarning) as caught:
        own_data(tmp_path / "sticks", clips, LABELS, STICK, split=2)
    assert [str(w.message) for w in caught] == [
        "the clip clip-0000 holds nobody: all joints are zero in all frames",
        "2 clips, such as clip-0001, each hold one frame: nothing moves in it",
    ]


def test_an_array_of_arrays_is_a_list(tmp_path):
    "numpy's way to hold clips of different lengths; in a file it would be a pickle."
    several = np.empty(24, object)
    several[:] = [clip[: 10 + i % 3] for i, clip in enumerate(CLIPS)]
    assert own_data(tmp_path / "sticks", several, LABELS, STICK, split=2).num_frames.tolist() == [
        10 + i % 3 for i in range(24)
    ]
    np.save(tmp_path / "several.npy", several)
    with pytest.raises(FormatError, match="an array of objects, not of numbers; .* np.savez them"):
        read_poses(tmp_path / "several.npy", STICK)


def test_a_misspelt_file_or_layout_is_answered_with_the_nearest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("clip.npy", CLIPS[0])
    for command, said in (
        (["focus", "exampel", "-o", "x.gif"], "no file 'exampel'; did you mean `example`?"),
        (["predict", "clap"], "clap: No such file"),
        (["new", "gym", "--layout", "kinect2"], "no layout 'kinect2'; did you mean 'kinect20'?"),
        (["new", "gym", "--layout", "my.yaml"], "the file my.yaml is not there"),
    ):
        assert main(command) == 1
        assert capsys.readouterr().err.startswith(f"stf {command[0]}: {said}")
    for read in (read_own, read_poses):
        with pytest.raises(ValueError, match="no layout 'kinect2'; did you mean 'kinect20'?"):
            read("clip.npy", "kinect2")


# training


@pytest.mark.parametrize("clips", [2, 5, 20, 60, 127, 128, 600, 2001, 40_000])
def test_recipes_fit_the_number_of_clips(clips):
    model, _, optim = recipe(clips)
    steps = clips // optim.batch_size * optim.epochs
    assert optim.batch_size <= clips and steps >= (200 if clips >= 40 else 1)
    assert recipe(clips * 2)[0].width >= model.width


def test_shares_are_those_of_the_paper_s_method(root):
    assert (
        yaml.safe_load((root / "conf" / "methods.yaml").read_text())["methods"]["M5"]["objective"]["relative_weights"]
        == RELATIVE_WEIGHTS
    )


def test_what_was_trained_is_found_without_the_store(trained):
    "In this process the benchmark was never registered."
    folder = trained / "run" / "seed-0"
    assert "sticks" not in BENCHMARKS and "stick" not in LAYOUTS
    net = open_network(str(trained / "run"))
    assert net.classes == ("bow", "wave") and net.layout == STICK and not net.config.hold_out
    found = overview(find_trained(trained / "run"))
    assert found.clips == 8 and [name for name, *_ in found.classes] == ["bow", "wave"]
    assert (
        trained_on(folder).layout == STICK and json.loads((folder / "config.json").read_text())["benchmark"] == "sticks"
    )


@pytest.mark.slow
def test_another_process_uses_the_folder_alone(trained, tmp_path, capsys):
    "The commands, in an empty folder, and what they say against the network itself."
    run = trained / "run" / "seed-0"
    np.save(tmp_path / "clip.npy", CLIPS[0])
    stf = lambda *args: subprocess.run(
        [sys.executable, "-m", "stf_repro.cli", *args], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    said = stf("predict", "clip.npy", "--network", str(run), "--json")
    assert "synthetic data" not in said.stderr
    net = open_network(str(run))
    classes = {c["class"]: c["probability"] for c in json.loads(said.stdout)["clips"][0]["classes"]}
    assert classes == pytest.approx(dict(ask(net, read_for(net, tmp_path / "clip.npy"))[0].classes), abs=1e-5)
    assert "8 test clips" in stf("evaluate", str(run)).stdout
    stf("focus", "clip.npy", "--network", str(run), "-o", "focus.csv")
    rows = (tmp_path / "focus.csv").read_text().splitlines()
    assert len(rows) == 1 + 20 * 6 and {row.split(",")[1] for row in rows[1:]} == set(STICK.joints)


def test_the_same_again_trains_nothing_and_other_data_do(trained, capsys):
    store, config = (
        ClipStore.open(trained / "clips" / "sticks"),
        suggest(ClipStore.open(trained / "clips" / "sticks"), epochs=2),
    )
    before = (trained / "run" / "seed-0" / "model.safetensors").stat().st_mtime_ns
    train_own(store, trained / "run", config, device="cpu", progress=False)
    assert "was trained before, nothing to do" in capsys.readouterr().out
    assert (trained / "run" / "seed-0" / "model.safetensors").stat().st_mtime_ns == before
    assert 0 < training_time(config, store, "cpu") < 3600
    with pytest.raises(ValueError, match="carries the benchmarks sticks, and not 'stick'"):
        suggest(store, "stick")


def test_a_training_of_ones_own_goes_on_from_another(trained, tmp_path):
    "The size is that of the network it goes on from, which has to read the same joints."
    store = ClipStore.open(trained / "clips" / "sticks")
    further = suggest(store, epochs=1, start=str(trained / "run"))
    assert further.network == suggest(store).network and further.start == str(trained / "run")
    train_own(store, tmp_path / "further", further, device="cpu", progress=False)
    assert overview(find_trained(tmp_path / "further")).clips == overview(find_trained(trained / "run")).clips
    with pytest.raises(
        ValueError, match="synth60-msg3d reads ntu25 joints with 3 values each, and these clips have stick"
    ):
        suggest(store, start="synth60-msg3d")
    with pytest.raises(ValueError, match="is no folder of a finished training"):
        suggest(store, start="nowhere")


def test_folds_and_seeds_get_folders_of_their_own(tmp_path):
    store = own_data(tmp_path / "sticks", CLIPS, LABELS, STICK, split=2)
    places = list(
        train_own(
            store, tmp_path / "run", suggest(store, stf=False, epochs=1), seeds=(0, 3), device="cpu", progress=False
        )
    )
    assert places == [f"sticks-{k}/seed-{s}" for k in (1, 2) for s in (0, 3)]
    found = find_trained(tmp_path / "run")
    assert [t.place for t in found] == places and overview(found).clips == 24


# a project


@pytest.mark.slow
def test_a_new_project_goes_from_files_to_a_focus(tmp_path, monkeypatch, capsys):
    "All commands that its README names, in a folder that has nothing to do with the repository."
    monkeypatch.chdir(tmp_path)
    layout = {
        "joints": list(STICK.joints),
        "bones": [[STICK.joints[a], STICK.joints[b]] for a, b in STICK.bones],
        "root": "chest",
        "name": "stick",
    }
    (tmp_path / "stick.yaml").write_text(yaml.safe_dump(layout))
    assert main(["new", "gym", "--layout", "stick.yaml", "--clips", "24"]) == 0
    monkeypatch.chdir(tmp_path / "gym")
    assert main(["preprocess", "gym"]) == 1 and "no files" in capsys.readouterr().err
    assert main(["train", "stf"]) == 1 and "`stf preprocess gym`" in capsys.readouterr().err
    assert main(["download", "gym"]) == 1 and "put its files into raw/gym" in capsys.readouterr().err
    assert main(["doctor"]) == 1 and "put your files into raw/gym" in capsys.readouterr().out
    for i, (clip, label) in enumerate(zip(CLIPS, LABELS)):
        (tmp_path / "gym" / "raw" / "gym" / label).mkdir(exist_ok=True)
        np.save(tmp_path / "gym" / "raw" / "gym" / label / f"clip{i}.npy", clip)
    params = yaml.safe_load((tmp_path / "gym" / "params.yaml").read_text())
    params["sources"]["gym"]["split"], params["base"]["benchmark"] = 2, ["gym-1", "gym-2"]
    params["base"]["optim"] |= {"epochs": 1}
    (tmp_path / "gym" / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert main(["preprocess", "gym"]) == 0
    said = capsys.readouterr().out
    assert "24 clips (bow 12, wave 12)" in said and "benchmarks: gym-1, gym-2" in said and "optim.batch_size 8" in said
    assert re.search(r"a training takes about \d+ s here each; 2 folds, about \d+ minutes?$", said, re.M)
    assert main(["runs"]) == 0 and capsys.readouterr().out.splitlines()[0] == "stf --fold gym-1 --seed 0"
    with monkeypatch.context() as terminal:
        terminal.setattr(sys.stdout, "isatty", lambda: True)
        assert main(["runs"]) == 0 and capsys.readouterr().out.splitlines()[:2] == [
            "each line is what follows `stf train`:",
            "stf --fold gym-1 --seed 0",
        ]
    assert main(["show", "stf"]) == 0 and "gym-1" in capsys.readouterr().out
    assert main(["train", "stf", "--device", "cpu"]) == 0 and main(["train", "stf", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("was trained before") == 2
    assert main(["evaluate", "stf"]) == 0 and "2 trainings, 24 test clips" in capsys.readouterr().out
    assert (
        main(["focus", "raw/gym/wave/clip0.npy", "--network", "runs/gym/own/stf/gym-1/seed-0", "-o", "focus.png"]) == 0
    )
    assert (tmp_path / "gym" / "focus.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["export", "gym", "pyskl", "gym.pkl"]) == 0 and main(["doctor"]) == 0
    assert "gym" not in BENCHMARKS and "stick" not in LAYOUTS


@pytest.fixture
def gym(tmp_path, monkeypatch):
    "A project of sticks, a folder per class and subject, split in two folds and preprocessed; and a function that changes its params.yaml."
    (tmp_path / "stick.yaml").write_text(
        yaml.safe_dump({"joints": list(STICK.joints), "bones": [list(bone) for bone in STICK.bones], "root": "chest"})
    )
    folder = new_project(tmp_path / "gym", str(tmp_path / "stick.yaml"), 24)
    for i, (clip, label, subject) in enumerate(zip(CLIPS, LABELS, SUBJECTS)):
        (folder / "raw" / "gym" / label / subject).mkdir(parents=True, exist_ok=True)
        np.save(folder / "raw" / "gym" / label / subject / f"{i:02d}.npy", clip)

    def change(split, benchmark, **more) -> None:
        params = yaml.safe_load((folder / "params.yaml").read_text())
        params["sources"]["gym"]["split"], params["base"]["benchmark"] = split, benchmark
        params["base"]["optim"] |= {"epochs": 1}
        params["sources"]["gym"] |= more
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    change(2, ["gym-1", "gym-2"])
    monkeypatch.chdir(folder)
    assert main(["preprocess", "gym"]) == 0
    return change


@pytest.mark.slow
def test_a_run_counts_the_split_of_now_only(gym, capsys):
    train = lambda *more: main(["train", "msg3d", "--device", "cpu", *more])
    assert train("--fold", "gym-1") == 0
    capsys.readouterr()
    assert main(["evaluate", "msg3d"]) == 0
    out = capsys.readouterr().out
    assert (
        "1 of 2 folds is trained; 12 clips are not tested yet: `stf train msg3d`" in out
        and "gym-1: 1 training, 12 test clips" in out
    )
    gym({"subject": ["chen"]}, "gym")
    assert main(["preprocess", "gym"]) == 0 and main(["evaluate", "msg3d"]) == 1
    assert (
        "no finished training of gym on the split of now, only gym-1/seed-0: `stf train msg3d`"
        in capsys.readouterr().err
    )
    assert train() == 0
    capsys.readouterr()
    assert main(["evaluate", "msg3d"]) == 0
    out = capsys.readouterr().out
    assert "gym: 1 training, 8 test clips" in out and re.search("^not counted.*: gym-1/seed-0$", out, re.M)
    assert (
        main(["evaluate", "runs/gym/own/msg3d"]) == 1
        and "different splits of the same clips" in capsys.readouterr().err
    )
    gym({"subject": ["anna"]}, "gym")  # the same name, and other clips
    assert main(["preprocess", "gym"]) == 0 and main(["evaluate", "msg3d"]) == 1
    assert "only gym-1/seed-0, seed-0" in capsys.readouterr().err


@pytest.mark.slow
def test_trainings_of_another_split_are_not_pooled(tmp_path):
    clips = {f"{i:02d}": clip for i, clip in enumerate(CLIPS)}

    def train(split, **more) -> list:
        store = own_data(tmp_path / "re", clips, LABELS, STICK, {"subject": SUBJECTS}, split, **more)
        train_own(store, tmp_path / "run", suggest(store, stf=False, epochs=1), device="cpu", progress=False)
        return find_trained(tmp_path / "run")

    assert len(train(3)) == 3
    assert overview(find_trained(tmp_path / "run")).clips == 24
    with pytest.raises(
        ValueError, match=r"different splits of the same clips \(re-1/seed-0, re-2/seed-0, re-3/seed-0\)"
    ):
        train(2)  # re-3 is one of three folds
    shutil.rmtree(tmp_path / "run" / "re-3")
    assert len(find_trained(tmp_path / "run")) == 2
    with pytest.raises(ValueError, match="different splits of the same clips"):
        train({"subject": ["chen"]})


def test_an_interval_of_a_percentage_is_one():
    from stf_repro.evaluation.run_summary import Trained, overview_text
    from stf_repro.evaluation.scores import Scores

    labels, names = np.array([0, 1] * 4), np.array([str(i) for i in range(8)])
    said = [np.eye(2)[labels], np.eye(2)[np.where(np.arange(8) < 2, 1 - labels, labels)]]
    found = [Trained(f"seed-{s}", MINE, Scores(logits, labels, names)) for s, logits in enumerate(said)]
    assert "over trainings 0.0 to 100.0 (Student's t, 95 %)" in overview_text(overview(found))


def test_changed_parameters_want_the_clips_made_again(gym, capsys):
    gym({"subject": ["chen"]}, "gym")
    said = "clips/gym was made with split 2, params.yaml says {subject: [chen]}: run `stf preprocess gym`"
    for command in (["train", "msg3d", "--device", "cpu"], ["show", "msg3d"]):
        assert main(command) == 1 and capsys.readouterr().err == f"stf {command[0]}: {said}\n"
    capsys.readouterr()
    assert main(["doctor"]) == 1 and said in capsys.readouterr().out
    gym(2, ["gym-1", "gym-2"], seed=1)
    assert main(["train", "msg3d"]) == 1 and "made with seed 0, params.yaml says 1" in capsys.readouterr().err
    gym(2, ["gym-1", "gym-2"], seed=0)
    assert main(["show", "msg3d"]) == 0
    layout = yaml.safe_load(Path("layout.yaml").read_text())
    Path("layout.yaml").write_text(yaml.safe_dump(layout | {"root": "hip"}))
    assert (
        main(["train", "msg3d"]) == 1
        and "clips/gym was made with another layout.yaml: run `stf preprocess gym`" in capsys.readouterr().err
    )


def test_readme_and_parameters_of_a_new_project_agree(tmp_path):
    from stf_repro.commands.options import parser

    folder = new_project(tmp_path / "gym", "coco17", 250)
    readme, params = (folder / "README.md").read_text(), yaml.safe_load((folder / "params.yaml").read_text())
    assert (
        len(readme.splitlines()) <= 30
        and set(params["runs"]) == {"stf", "msg3d"}
        and resolve("", params, "stf").section["benchmark"][4] == "gym-5"
    )
    commands = next(action for action in parser()._actions if action.dest == "command").choices
    assert {
        word for word in ("preprocess", "train", "evaluate", "focus", "predict", "show") if f"`stf {word}" in readme
    } <= set(commands)
    assert all(name in commands["new"].format_help() for name in LAYOUTS)
    network, _, optim = recipe(200)
    assert params["base"]["optim"]["epochs"] == optim.epochs and params["base"]["network"]["width"] == network.width
    order = " ".join(readme.split("The joints of coco17, in order:")[1].split()).split(", ")
    assert (
        order == [f"{v} {name}" for v, name in enumerate(LAYOUTS["coco17"].joints)]
        and "run `stf preprocess gym` again" in readme
    )
    with pytest.raises(FileExistsError, match="not empty"):
        new_project(folder, "coco17")
    for name, layout, reason in (
        ("gym2", "coco18", "no layout 'coco18'"),
        ("sbu", "coco17", "is the name of a data set of the field"),
        ("yes", "coco17", "cannot be called"),
    ):
        with pytest.raises(ValueError, match=reason):
            new_project(tmp_path / name, layout)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("option,reason", [
    ({"layout": "stik.yaml"}, "sources.gym.layout in params.yaml is 'stik.yaml'"),
    ({"layout": "coco17", "splits": 3}, "sources.gym.splits"),
    ({"layout": "coco17", "split": "five"}, "sources.gym.split"),
])  # fmt: skip
def test_a_wrong_option_of_a_project_is_named(tmp_path, monkeypatch, capsys, option, reason):
    folder = new_project(tmp_path / "gym", "coco17")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["sources"]["gym"] = option
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(folder)
    assert main(["preprocess", "gym"]) == 1 and reason in capsys.readouterr().err


# over time


@pytest.mark.parametrize(
    "T,size,first",
    [(100, 40, [0, 20, 40, 60]), (95, 40, [0, 20, 40, 55]), (40, 40, [0]), (30, 40, [0]), (5, 1, [0, 1, 2, 3, 4])],
)
def test_windows_cover_a_recording_to_its_end(T, size, first):
    r = array_poses("r", np.arange(T * 18).reshape(T, 6, 3) + 1.0, STICK)
    parts = cut(r, size)
    assert [t for t, _ in parts] == first and all(p.bodies.shape[1] == min(size, T) for _, p in parts)
    assert (
        all((p.bodies[0, 0] == r.bodies[0, t]).all() for t, p in parts)
        and parts[-1][0] + parts[-1][1].bodies.shape[1] == T
    )
    with pytest.raises(ValueError, match="at least one"):
        cut(r, 0)


def test_a_track_says_what_a_network_says_of_each_window(tmp_path, capsys):
    net, kick = load_pretrained("synth60-stf"), example_clip().recording
    T = kick.bodies.shape[1]
    gap = np.zeros_like(kick.bodies)
    twice = np.concatenate([kick.bodies, gap, gap, kick.bodies], 1)
    long = replace(kick, bodies=twice, present=twice.any((2, 3)))
    found = track(net, long, T)
    assert [(w.first, w.last) for w in found] == [(t, t + T - 1) for t in sorted({*range(0, 3 * T, T // 2), 3 * T})]
    whole = ask(net, [kick])[0].classes
    for w in (found[0], found[-1]):
        assert dict(w.classes) == pytest.approx(dict(whole), abs=1e-5)
    nobody = [w for w in found if not w.classes]
    assert nobody and all(w.first >= T and w.last < 3 * T for w in nobody)
    np.save(tmp_path / "long.npy", twice)
    assert main(["predict", str(tmp_path / "long.npy"), "--window", str(T), "--json"]) == 0
    (clip,) = json.loads(capsys.readouterr().out)["clips"]
    assert [(w["first"], w["last"]) for w in clip["windows"]] == [(w.first, w.last) for w in found] and clip[
        "frames"
    ] == 4 * T
    assert main(["predict", str(tmp_path / "long.npy"), "--window", str(T), "--top", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert (
        len(out) == 1 + len(found) and "kick" in out[1] and sum("nobody is seen" in line for line in out) == len(nobody)
    )


# pictures


def test_a_clip_of_a_store_is_drawn_as_it_was_given(tmp_path):
    from stf_repro.custom.figures import clip_bodies, draw_curves, draw_own

    rng = np.random.default_rng(0)
    two = [np.stack([CLIPS[0], CLIPS[1]]), *CLIPS[1:4]]
    store = own_data(tmp_path / "two", two, LABELS[:4], STICK, split=2)
    np.testing.assert_allclose(clip_bodies(store), two[0], atol=1e-6)
    written = [text.get_text() for text in draw_own(store).findobj(lambda a: hasattr(a, "get_text"))]
    assert all(f" {v} {name} " in written for v, name in enumerate(STICK.joints))
    image = [
        array_poses(f"{i}", np.concatenate([rng.uniform(0, 1, (9, 17, 2)), np.ones((9, 17, 1))], -1), "coco17")
        for i in range(4)
    ]
    with pytest.warns(UserWarning):
        store = own_data(tmp_path / "image", image, LABELS[:4], "coco17", split=2)
    assert clip_bodies(store).shape == (2, 9, 17, 2)
    with pytest.raises(FileNotFoundError, match="no finished training"):
        draw_curves(tmp_path)


def test_the_confusions_and_curves_of_a_run_are_drawn(trained):
    from stf_repro.custom.figures import draw_confusion, draw_curves

    found = find_trained(trained / "run")
    ax = draw_confusion(found).axes[0]
    assert sum(int(text.get_text()) for text in ax.texts) == 8 and [
        label.get_text() for label in ax.get_yticklabels()
    ] == ["bow", "wave"]
    lines = {line.get_label(): line.get_ydata() for line in draw_curves(trained / "run").axes[0].lines}
    hits = 100 * np.mean(found[0].scores.logits.argmax(1) == found[0].scores.labels)
    assert lines["test clips"][-1] == pytest.approx(hits, abs=1e-3) and len(lines["training clips"]) == 2


def test_long_names_stay_in_the_picture(trained):
    "With matplotlib's own settings, not with those of a notebook."
    import matplotlib
    from stf_repro.custom.figures import draw_confusion, draw_curves

    (found,) = find_trained(trained / "run")
    long = replace(
        found,
        benchmark=replace(found.benchmark, classes=("bow to somebody who is far away", "wave with the right hand")),
    )
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        for fig in (draw_confusion([long]), draw_curves(trained / "run")):
            fig.draw_without_rendering()
            drawn, (width, height) = fig.get_tightbbox(), fig.get_size_inches()  # of all that is drawn, in inches
            assert min(drawn.x0, drawn.y0) > -0.01 and drawn.x1 < width + 0.01 and drawn.y1 < height + 0.01


@pytest.mark.parametrize("T", [1, 7, 8, 9, 20, 50, 300])
def test_frames_of_a_strip_lie_evenly(T):
    from stf_repro.custom.inference import Look
    from stf_repro.custom.focus_files import draw_look

    net = load_pretrained("synth60-stf")
    x = np.random.default_rng(0).normal(size=(3, T, 25, 1))
    fig = draw_look(net, Look("clip", x, np.ones((1, T, 25)), list(range(T)), "kick", "kick", "gcn1", "elementwise"))
    shown = [
        int(ax.texts[0].get_text().split()[1])
        for ax in fig.axes
        if ax.texts and ax.texts[0].get_text().startswith("frame ")
    ]
    assert len(set(np.diff(shown))) <= 1 and min(T, 4) <= len(shown) <= 8
    assert abs(shown[0] - (T - 1 - shown[-1])) <= 1


def test_poses_of_images_are_not_drawn_mirrored():
    from stf_repro.report.plots import drawable, picture_plane

    x = np.random.default_rng(0).normal(size=(3, 4, 17, 1))
    bodies, _ = drawable(x, LAYOUTS["coco17"], "uniform")
    np.testing.assert_array_equal(picture_plane(bodies)[0], x[:2, :, :, 0].transpose(1, 2, 0))


def test_a_scored_pose_is_read_alike_in_every_file(tmp_path):
    "MediaPipe's axes are turned in an .npz as in an .npy."
    landmarks = np.random.default_rng(0).normal(size=(5, 33, 3))
    np.save(tmp_path / "one.npy", landmarks)
    np.savez(tmp_path / "many.npz", one=landmarks)
    (one,), (many,) = (read_poses(tmp_path / name, "mediapipe33") for name in ("one.npy", "many.npz"))
    np.testing.assert_array_equal(one.bodies, many.bodies)
    np.testing.assert_allclose(one.bodies[0], landmarks * [-1, -1, 1], atol=1e-6)


def test_another_benchmark_on_the_same_clips_is_an_object(trained, tmp_path):
    "Nothing is written into the store, and the run knows its benchmark all the same. A later run of the store's own takes the file over."
    store = ClipStore.open(trained / "clips" / "sticks")
    (own,) = benchmarks_of(store).values()
    other = replace(
        own, key="other", classes=("bowing", "waving"), rule=Rule("subject", frozenset({1, 2}), frozenset({0}))
    )
    config = suggest(store, stf=False, epochs=1, benchmarks=[other])
    assert config.benchmark == "other" and config.source == "sticks"
    assert list(train_own(store, tmp_path / "run", config, device="cpu", progress=False, benchmarks=[other])) == [
        "seed-0"
    ]
    (found,) = find_trained(tmp_path / "run")
    assert found.benchmark == other and found.scores.names.tolist() == [
        store.names[i] for i in other.indices(store, "test")
    ]
    assert open_network(str(tmp_path / "run")).classes == ("bowing", "waving") and benchmarks_of(store) == {
        "sticks": own
    }


def test_a_registered_benchmark_leaves_no_file_of_an_earlier_one(made_data, tmp_path):
    "And a training on it is that of the trainer."
    from stf_repro.training.config import parse
    from stf_repro.training.trainer import is_trained, train

    network, optim = (
        {"width": 6, "num_gcn_scales": 2, "num_g3d_scales": 2, "windows": [3]},
        {"epochs": 1, "batch_size": 16},
    )
    config = parse(
        {
            "group": "g",
            "label": "M1",
            "source": "synth60",
            "benchmark": "synth60-xsub",
            "network": network,
            "input": {"frames": 60, "frame_stride": 10},
            "optim": optim,
        }
    )
    write_benchmark(tmp_path, MINE)
    assert not is_trained(config, made_data / "clips" / "synth60", tmp_path, "cpu")
    train(config, made_data / "clips" / "synth60", tmp_path, "cpu", progress=False)
    assert not (tmp_path / "benchmark.json").exists() and is_trained(
        config, made_data / "clips" / "synth60", tmp_path, "cpu"
    )
    assert open_network(str(tmp_path)).classes == get_benchmark("synth60-xsub").classes
