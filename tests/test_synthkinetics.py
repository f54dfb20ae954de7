"The made Kinetics videos: honest truth, plausible pictures, the release's structure, same bytes for the same seed."

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from stf_repro.data.sets.kinetics import parse_kinetics_labels, read_kinetics
from stf_repro.data.synthetic import kinetics as kin
from stf_repro.data.synthetic.actions import ACTIONS, TWO_PERSON, perform
from stf_repro.data.synthetic.files import read_truth
from stf_repro.skeleton import LAYOUTS

SMALL = kin.KineticsConfig(train=1, val=1, shortest=20, longest=26)
HARD = dataclasses.replace(SMALL, train=2, crowd=1.0, lost=0.8, empty=0.15)
NAMES = {name: v for v, name in enumerate(LAYOUTS["openpose18"].joints)}
NTU = {name: v for v, name in enumerate(LAYOUTS["ntu25"].joints)}
NTU["neck"] = NTU.pop("spine at shoulders")  # what OpenPose calls the neck


def digest(folder):
    "One number for names and bytes of all files."
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return hashlib.sha256(b"".join(str(f.relative_to(folder)).encode() + f.read_bytes() for f in files)).hexdigest()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "set"
    return folder, kin.make_synthkinetics(folder, HARD, progress=False, workers=2)


def clips(folder):
    return {c["name"]: c for c in map(json.loads, (folder / "truth.jsonl").read_text().splitlines())}


def numbers(name):
    return int(name[1:4]), int(name[5:8]), int(name[9:12])  # action, subject, replication


def test_the_structure_is_the_releases(made):
    folder, count = made
    truth, listed = clips(folder), {}
    for part, people in (("train", {1, 2}), ("val", {3})):
        entries = json.loads((folder / f"kinetics_{part}_label.json").read_text())
        files = {f.stem for f in (folder / f"kinetics_{part}").iterdir()}
        assert set(entries) == files and {numbers(n)[1] for n in files} == people  # nobody is in both
        assert parse_kinetics_labels((folder / f"kinetics_{part}_label.json").read_bytes()) == {
            n: e["label_index"] for n, e in entries.items() if e["has_skeleton"]
        }
        for name, entry in entries.items():
            assert entry["label_index"] == numbers(name)[0] - 1 and entry["label"] == ACTIONS[entry["label_index"]]
            video = json.loads((folder / f"kinetics_{part}" / f"{name}.json").read_text())
            assert (video["label"], video["label_index"]) == (entry["label"], entry["label_index"])
            assert any(f["skeleton"] for f in video["data"]) == entry["has_skeleton"] == truth[name]["has_skeleton"]
            assert part == truth[name]["part"]
        listed |= entries
    assert len(listed) == count == len(truth) == 14 * 2 * 3
    assert {p.name for p in folder.iterdir()} == {
        "kinetics_train", "kinetics_val", "kinetics_train_label.json", "kinetics_val_label.json", "truth.jsonl", "config.json"
    }  # fmt: skip
    assert 0 < sum(not e["has_skeleton"] for e in listed.values()) < count / 2


def test_files_hold_what_an_estimator_gives(made):
    folder, _ = made
    truth, firsts, most = clips(folder), [], 0
    for name, clip in truth.items():
        if not clip["has_skeleton"]:
            continue
        path = folder / f"kinetics_{clip['part']}" / f"{name}.json"
        frames = json.loads(path.read_text())["data"]
        assert [f["frame_index"] for f in frames] == list(range(clip["first_frame"], clip["frames"]))
        firsts.append(clip["first_frame"])
        r = read_kinetics(path)
        most = max(most, r.bodies.shape[0])
        assert r.bodies.min() >= 0 and r.bodies.max() <= 1 and r.confidence.min() >= 0 and r.confidence.max() <= 1
        missed = r.confidence == 0
        assert (r.bodies[missed] == 0).all() and (r.bodies[~missed] > 0).all()
        assert ((~missed).sum(2)[r.present] >= 4).all()
        assert (np.diff(r.present.astype(int), axis=0) <= 0).all()  # listed people fill the first slots
    assert most == 5 and set(firsts) == {0, 1} and np.mean(firsts) > 0.7


def test_slots_follow_the_performers(made):
    "In the slot that the truth names, the picture of the undisturbed performance lies under the found joints."
    folder, _ = made
    truth, people = (read_truth(folder / "truth.jsonl", by=by) for by in ("slot", "performer"))
    checked, other = 0, 0
    for name, clip in clips(folder).items():
        if not clip["has_skeleton"]:
            assert not truth[name].any()
            continue
        r = read_kinetics(folder / f"kinetics_{clip['part']}" / f"{name}.json")
        assert truth[name].shape == r.bodies.shape[:3] and not truth[name][~r.present].any()
        p = perform(*numbers(name), HARD.performances)
        camera = kin.draw_camera(
            kin.generator(HARD.seed, 5, *numbers(name)), (np.pi / 4, -np.pi / 4)[numbers(name)[2] - 1]
        )
        xy, away = camera.project(kin.openpose_joints(p.bodies, p.faces))
        assert len(clip["bodies"]) == (2 if r.label in TWO_PERSON else 1) == len(p.bodies)
        first = clip["first_frame"]  # the truth counts frames as the file does
        assert not people[name][:, :first].any() and (people[name][:, first:].any(2) == p.truth.any(2)).all()
        for start, stop, who in clip["slots"]:
            assert all((r.present[:, t].sum() == len(who)) for t in range(start, stop))
            for slot, m in enumerate(who):
                if m >= 0:
                    t = np.arange(start, stop)
                    gap = np.abs(r.bodies[slot, t] - xy[m, t - clip["first_frame"]]).max(-1)[r.confidence[slot, t] > 0]
                    size = camera.focal * 1.75 / away[m].min()
                    assert np.median(gap) < 0.05 * size  # a person is `size` tall; the noise is about 0.01 of that
                    checked, other = checked + 1, other + (slot != m)
    assert checked > 200 and other > 100


def test_openpose_joints_are_where_they_should_be():
    p = perform(9, 1, 1, SMALL.performances)
    joints, body = kin.openpose_joints(p.bodies, p.faces)[0], p.bodies[0]
    for name, v in NAMES.items():
        if name in NTU:
            assert (joints[:, v] == body[:, NTU[name]]).all()
    right = body[:, NTU["right shoulder"]] - body[:, NTU["left shoulder"]]
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    forward = np.cross(np.array([0.0, 1.0, 0.0]), right)  # of somebody who looks along -z, right is +x
    head = (joints[:, NAMES["left ear"]] + joints[:, NAMES["right ear"]]) / 2
    for pair in ("eye", "ear"):
        across = joints[:, NAMES[f"right {pair}"]] - joints[:, NAMES[f"left {pair}"]]
        assert 0.04 < np.linalg.norm(across, axis=-1).min() and np.linalg.norm(across, axis=-1).max() < 0.2
        assert ((across * right).sum(-1) > 0).all()
    nose = joints[:, NAMES["nose"]] - head
    assert ((nose * forward).sum(-1) > 0.04).all() and np.linalg.norm(nose, axis=-1).max() < 0.18  # metres
    eyes = (joints[:, NAMES["left eye"]] + joints[:, NAMES["right eye"]]) / 2
    assert ((eyes - joints[:, NAMES["nose"]])[:, 1] > 0).all()


@pytest.mark.parametrize("action", range(1, 15))
def test_truth_is_translated(action):
    p = perform(action, 1, 1, SMALL.performances)
    for truth in p.intervals:
        new = kin.openpose_truth(truth, shift=3)
        assert [(a - 3, b - 3) for a, b, _ in new] == [(a, b) for a, b, _ in truth]
        for (_, _, joints), (_, _, old) in zip(new, truth):
            expected = {v for name, v in NAMES.items() if name in NTU and NTU[name] in old}
            expected |= {v for name, v in NAMES.items() if name.split()[-1] in ("nose", "eye", "ear") and 3 in old}
            expected |= {NAMES["right hip"], NAMES["left hip"]} if 0 in old else set()
            assert set(joints) == expected and expected


def test_a_camera_is_a_pinhole():
    "Straight lines stay straight, what is up is up, and the picture is not mirrored."
    camera = kin.Camera(0.4, 1.6, 3.0, 1.3, (0.5, 0.5))
    a, b = np.array([-0.5, 0.3, 0.2]), np.array([0.6, 1.9, -0.4])
    line = a + np.linspace(0, 1, 7)[:, None] * (b - a)
    xy, away = camera.project(line)
    d = xy - xy[0]
    assert np.abs(d[:, 0] * d[-1, 1] - d[:, 1] * d[-1, 0]).max() < 1e-12  # float64
    assert xy[-1, 1] < xy[0, 1] and (away > 0).all()
    facing = kin.Camera(
        0.0, 1.0, 3.0, 1.3, (0.5, 0.5)
    )  # looks at people who look along -z: their right is +x, on our left
    assert facing.project(np.array([0.3, 1.0, 0.0]))[0][0] < 0.5 < facing.project(np.array([-0.3, 1.0, 0.0]))[0][0]


def test_scores_fall_for_what_is_hidden_far_or_fast():
    p = perform(9, 1, 1, SMALL.performances)  # reads, and faces the angle 45 degrees
    joints = kin.openpose_joints(p.bodies, p.faces)
    config = dataclasses.replace(SMALL, missed=0.0)

    def scores(angle, distance=3.0, people=joints, part=0.8):
        camera = kin.Camera(np.pi / 4 + angle, 1.4, distance, part * 3.0 / 1.75, (0.5, 0.5))
        return kin.estimate(np.random.default_rng(0), people, camera, config)[1]

    face = [NAMES["nose"], NAMES["left eye"], NAMES["right eye"]]
    assert scores(0.0)[..., face].mean() > 2 * scores(np.pi)[..., face].mean()
    left, right = NAMES["left ear"], NAMES["right ear"]
    one, other = scores(0.9).mean((0, 1)), scores(-0.9).mean((0, 1))
    assert (one[left] > one[right]) != (other[left] > other[right])
    assert scores(0.0).mean() > scores(0.0, distance=9.0).mean() + 0.1  # a third of the size
    still, fast = joints.copy(), joints.copy()
    still[:, 1:, 4] = still[:, :1, 4]
    fast[:, ::2, 4] += [0.0, 0.3, 0.0]
    assert scores(0.0, people=still)[..., 4].mean() > 2 * scores(0.0, people=fast)[..., 4].mean()
    behind = joints + np.array([np.sin(np.pi / 4), 0, np.cos(np.pi / 4)])  # one metre away from that camera
    alone = scores(0.0, people=behind)
    both = scores(0.0, people=np.concatenate([joints, behind]))
    assert both[1].mean() < alone[0].mean() - 0.05


def test_same_seed_same_bytes(tmp_path):
    for name, config, workers in (
        ("a", SMALL, None),
        ("b", SMALL, 2),
        ("c", dataclasses.replace(SMALL, seed=1), None),
    ):
        assert kin.make_synthkinetics(tmp_path / name, config, progress=False, workers=workers) == 56
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_an_interruption_and_a_foreign_folder(tmp_path, monkeypatch):
    folder, mine = tmp_path / "set", tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="no synthetic data set"):
        kin.make_synthkinetics(mine, SMALL, progress=False)
    calls = iter(range(100))
    formatted = kin.format_kinetics

    def interrupted(*args):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return formatted(*args)

    monkeypatch.setattr(kin, "format_kinetics", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kin.make_synthkinetics(folder, SMALL, progress=False)
    assert [f.name for f in tmp_path.iterdir()] == ["mine"] and (mine / "notes.txt").read_text() == "keep"


def test_bad_configurations_are_refused():
    for bad in (
        {"train": 0},
        {"val": 0},
        {"train": 30, "val": 11},
        {"crowd": -0.1},
        {"noise": -1.0},
        {"shortest": 5},
    ):
        with pytest.raises(ValueError):
            kin.KineticsConfig(**bad)
