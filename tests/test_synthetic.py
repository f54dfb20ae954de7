"The synthetic data set: same bytes for the same seed, rigid limbs, honest truth, readable files."

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import yaml

from stf_repro.data.formats import FormatError
from stf_repro.data.sets.ntu import ntu_attributes, read_ntu
from stf_repro.data.io import project_root
from stf_repro.data.synthetic import actions
from stf_repro.data.synthetic import body
from stf_repro.data.synthetic import files
from stf_repro.data.synthetic import camera as cam
from stf_repro.data.class_names import class_names
from stf_repro.skeleton import LAYOUTS

SMALL = actions.SyntheticConfig(subjects=1, shortest=20, longest=26)
WIDE = dataclasses.replace(SMALL, part="120")  # subjects 1 and 9
CLEAN = dataclasses.replace(SMALL, jitter=0.0, dropout=0.0, spurious=0.0)
NTU = LAYOUTS["ntu25"]
ALL = range(1, len(actions.ACTIONS) + 1)


def performer(action):
    "A subject of `WIDE` who performs the action."
    return 1 if action <= 14 else 9


def digest(folder):
    "One number for names and bytes of all files."
    return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in sorted(folder.iterdir()))).hexdigest()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "set"
    config = dataclasses.replace(WIDE, subjects=2, dropout=0.6, spurious=0.5)
    return folder, files.make_synthetic(folder, config, progress=False)


def test_names_and_choreography_agree():
    "The names are a text file, the movements are code: the first of a name goes with the first of a movement."
    names = actions.ACTIONS
    assert names == class_names("synthetic") and len(names) == len(set(names)) == actions.CLASSES["120"] == 24
    assert sorted(c for pair in actions.PAIRS for c in pair[:2]) == list(range(24))
    moved = {**actions._ONE, **actions._TWO, **actions._BACKWARDS}
    assert sorted(moved) == list(range(24)) and len(moved) == len(actions._ONE) + len(actions._TWO) + len(
        actions._BACKWARDS
    )
    left, right = set(actions.ARM[0] + actions.LEG[0]), set(actions.ARM[1] + actions.LEG[1])
    for a, name in enumerate(names):
        p = actions.perform(a + 1, performer(a + 1), 1, WIDE)
        assert len(p.bodies) == (
            2 if any(word in name for word in ("approach", "part", "shake hands", "push", "hug", "hand over")) else 1
        )
        used = set(np.flatnonzero(p.truth[0].any(0)).tolist())
        assert "left" not in name or used <= left
        assert "right" not in name or used <= right
        assert not {"knee", "kick", "walk", "run"} & set(name.split()) or used & {14, 18}  # ankles
        assert not {"wave", "punch", "clap", "point", "salute", "drink", "read"} & set(name.split()) or used & {
            6,
            10,
        }  # wrists


def test_same_seed_same_bytes(tmp_path):
    for name, config, workers in (
        ("a", SMALL, None),
        ("b", SMALL, 2),
        ("c", dataclasses.replace(SMALL, seed=1), None),
    ):
        files.make_synthetic(tmp_path / name, config, progress=False, workers=workers)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    truths = [(tmp_path / x / "truth.jsonl").read_bytes() for x in "ac"]
    clips = [(tmp_path / x / "S001C001P001R001A001.skeleton").read_bytes() for x in "ac"]
    assert truths[0] != truths[1] and clips[0] != clips[1]


def test_names_are_complete_and_files_read_back(made):
    folder, count = made
    names = sorted(f.stem for f in folder.glob("*.skeleton"))
    halves = [((1, 2), range(1, 15)), ((9, 10), range(15, 25))]
    expected = {(c, p, r, a) for ps, actions in halves for c in (1, 2, 3) for p in ps for r in (1, 2) for a in actions}
    keys = ("camera", "subject", "replication", "action")
    assert {tuple(ntu_attributes(n)[k] for k in keys) for n in names} == expected and count == len(names) == len(
        expected
    )
    assert {f.name for f in folder.iterdir()} == {f"{n}.skeleton" for n in names} | {
        "truth.jsonl",
        "config.json",
    }
    truth = files.read_truth(folder / "truth.jsonl")
    people = files.read_truth(folder / "truth.jsonl", by="performer")
    assert list(truth) == names == list(people)
    for name in names:
        recording = read_ntu(folder / f"{name}.skeleton")
        assert recording.bodies.shape[:3] == truth[name].shape
        assert not truth[name][~recording.present].any()
        assert len(people[name]) == (2 if recording.label in actions.TWO_PERSON else 1)
        assert people[name].any((1, 2)).all()


def test_slots_follow_the_performers(made):
    "The body in a slot is the performer that the truth file names: compare positions with the undisturbed performance."
    folder, _ = made
    config = dataclasses.replace(WIDE, subjects=2)
    swapped = 0
    for line in (folder / "truth.jsonl").read_text().splitlines():
        clip = json.loads(line)
        at = ntu_attributes(clip["name"])
        bodies = read_ntu(folder / f"{clip['name']}.skeleton").bodies
        world = actions.perform(at["action"], at["subject"], at["replication"], config).bodies
        true = cam.camera_view(world, at["camera"], at["setup"])
        for start, stop, who in clip["slots"]:
            for slot, m in enumerate(who):
                if m >= 0:
                    # 12 cm: many times the jitter's mean over 25 joints (1 to 3 cm), far below the distance of two bodies
                    assert np.abs(bodies[slot, start:stop] - true[m, start:stop]).mean((1, 2)).max() < 0.12
                    swapped += slot != m
    assert swapped > 10  # drop-outs and furniture really move people to other slots


@pytest.mark.parametrize("action", ALL)
def test_limbs_are_rigid_and_feet_on_the_floor(action):
    p = actions.perform(action, performer(action), 2, WIDE)
    bodies = p.bodies
    assert np.isfinite(bodies).all() and np.isfinite(p.faces).all()
    for child, parent in NTU.bones:
        length = np.linalg.norm(bodies[:, :, child] - bodies[:, :, parent], axis=-1)  # (M, T)
        assert np.ptp(length, axis=1).max() < 1e-9  # float64
        assert length.min() > 0.01
    assert np.allclose(p.faces @ p.faces.swapaxes(-1, -2), np.eye(3), atol=1e-12)  # float64
    assert np.linalg.det(p.faces).min() > 0 and (p.faces[..., 1, 1] > 0).all()  # no mirror image, heads up
    up = (bodies[:, :, 3] - bodies[:, :, 2]) / np.linalg.norm(bodies[:, :, 3] - bodies[:, :, 2], axis=-1)[..., None]
    assert ((p.faces[..., 1] * up).sum(-1) > 0.95).all()  # the same head as in the joints
    feet = bodies[:, :, [15, 19], 1]
    assert feet.min() > -0.02 and feet.min(2).max() < 0.12  # at least one foot is down, none is below the floor


def test_every_number_of_a_performance_counts():
    "Another seed, subject or replication is another motion, not only another noise."
    two = dataclasses.replace(SMALL, subjects=2, shortest=20, longest=20)
    base = actions.perform(1, 1, 1, two).bodies
    for other in ((1, 1, dataclasses.replace(two, seed=1)), (2, 1, two), (1, 2, two)):
        again = actions.perform(1, *other).bodies
        gaps = [np.linalg.norm(x - x[:, :, :1], axis=-1) for x in (base, again)]  # the same from every side
        assert np.abs(gaps[0] - gaps[1]).max() > 0.02
    drawn = [actions.perform(1, 1, 1, actions.SyntheticConfig(seed=s, subjects=1)).bodies.shape[1] for s in range(6)]
    assert len(set(drawn)) > 1  # not the build alone
    assert actions.subject(1, two) == actions.subject(1, two) != actions.subject(2, two)


def test_left_is_left_and_knees_bend_forward():
    for replication, camera in ((1, 2), (2, 3)):  # the camera that the person faces
        xyz = cam.camera_view(actions.perform(5, 1, replication, SMALL).bodies[0], camera, 1)  # (T, 25, 3)
        assert (xyz[:, 8, 0] > xyz[:, 4, 0]).all()  # facing us, right is to the camera's left, which is +x
        assert (xyz[:, 15, 2] < xyz[:, 14, 2]).all()  # toes point at the camera
    for action, shoulder, wrist in ((1, 8, 10), (2, 4, 6)):  # a hand that waves is out and up
        joints = actions.perform(action, 1, 1, SMALL).bodies[0]
        outward = joints[:, shoulder] - joints[:, 20]
        raised = joints[:, wrist, 1] > joints[:, shoulder, 1] + 0.1
        assert raised.any()
        assert ((joints[:, wrist] - joints[:, shoulder]) * outward).sum(1)[raised].min() > 0
    world = actions.perform(5, 1, 1, SMALL).bodies[0]
    for hip, knee, ankle in ((12, 13, 14), (16, 17, 18)):
        forward = np.cross(world[:, 12] - world[:, 16], [0, 1, 0])  # left x up, in a right-handed frame
        assert ((world[:, knee] - (world[:, hip] + world[:, ankle]) / 2) * forward).sum(1).min() > 0


@pytest.mark.parametrize("camera", cam.CAMERAS)
def test_cameras_see_the_same_performance(camera):
    "Without faults, a recording is the performance up to a rigid motion: all distances between joints are kept."
    p = actions.perform(13, 1, 1, CLEAN)
    recording, order = cam.record(p, camera, 3, CLEAN)
    assert recording.present.all() and order == [[0, 1]] * p.bodies.shape[1]
    both = [x.transpose(1, 0, 2, 3).reshape(len(order), 50, 3)[::5].astype(float) for x in (p.bodies, recording.bodies)]
    far = [np.linalg.norm(x[:, :, None] - x[:, None], axis=-1) for x in both]
    assert np.abs(far[0] - far[1]).max() < 5e-5  # rounded to 1e-5 metres
    turn = np.stack([np.linalg.det(x[:, [0, 3, 8]] - x[:, [19]]) for x in both])
    assert np.allclose(*turn, atol=1e-3)  # no mirror image


def energy(bodies):
    "How much each joint moves: (M, V)."
    return np.square(np.diff(bodies, axis=1)).sum((1, 3))


@pytest.mark.parametrize("pair", [i for i, (_, _, kind) in enumerate(actions.PAIRS) if kind == "where"])
def test_where_pairs_share_the_timing_and_differ_in_the_limb(pair):
    a, b = (actions.perform(c + 1, performer(c + 1), 1, WIDE) for c in actions.PAIRS[pair][:2])
    assert not (a.truth & b.truth).any()  # other joints
    assert (a.truth.any(2) == b.truth.any(2)).all()  # same frames
    joints = [x.truth[0].any(0) for x in (a, b)]
    outside = ~(joints[0] | joints[1])
    assert (a.bodies[:, :, outside] == b.bodies[:, :, outside]).all()  # nothing else tells the two apart
    # the truth is where they differ, and the limb of the class moves more there than in the twin
    for own, other, mine in ((a, b, joints[0]), (b, a, joints[1])):
        assert energy(own.bodies)[0, mine].sum() > 3 * energy(other.bodies)[0, mine].sum()


def test_walking_and_running_differ_in_tempo_and_somewhat_in_posture_of_the_same_joints():
    config = dataclasses.replace(SMALL, shortest=60, longest=60, distraction=0.0)
    a, b = (actions.perform(c, 1, 1, config) for c in (5, 6))
    assert (a.truth == b.truth).all()
    still = ~a.truth[0].any(0)
    assert (a.bodies[:, :, still] == b.bodies[:, :, still]).all()
    heights = [x.bodies[0, :, 14, 1] for x in (a, b)]
    assert 1.1 < np.ptp(heights[1]) / np.ptp(heights[0]) < 1.5  # feet are lifted higher, not to another place
    beats = [np.abs(np.fft.rfft(h - h.mean(), 512)).argmax() for h in heights]
    assert beats[1] / beats[0] == pytest.approx(2, rel=0.15)


def test_no_legs_are_too_fast_for_the_frames_of_the_default_profile():
    every = yaml.safe_load((project_root() / "params.yaml").read_text())["base"]["input"]["frame_stride"]
    config = dataclasses.replace(SMALL, subjects=40)
    clocks = [actions._clock(body.generator(n), config, actions.subject(1 + n % 40, config)) for n in range(400)]
    fastest = max(clock.tempo for clock in clocks)
    assert 1.2 < fastest < 1.18 * 1.12
    assert fastest * actions._ONE[5].keywords["hertz"] < 30 / every / 2  # Nyquist


def test_clapping_differs_in_tempo_only():
    config = dataclasses.replace(WIDE, shortest=60, longest=60)
    a, b = (actions.perform(c, 9, 1, config) for c in (17, 18))
    assert (a.truth == b.truth).all()
    still = ~a.truth[0].any(0)
    assert (a.bodies[:, :, still] == b.bodies[:, :, still]).all()
    apart = [np.linalg.norm(x.bodies[0, :, 6] - x.bodies[0, :, 10], axis=1)[15:45] for x in (a, b)]
    assert np.ptp(apart[0]) == pytest.approx(np.ptp(apart[1]), rel=0.2)  # not the amplitude
    turns = [np.count_nonzero(np.diff(np.sign(np.diff(d)))) for d in apart]
    assert turns[1] > turns[0] > 0


@pytest.mark.parametrize("forth, back", [(7, 8), (11, 12), (19, 20)])
def test_reversed_pairs(forth, back):
    a, b = (actions.perform(c, performer(c), 1, WIDE) for c in (forth, back))
    assert (a.bodies[:, ::-1] == b.bodies).all() and (a.truth[:, ::-1] == b.truth).all()
    assert (a.faces[:, ::-1] == b.faces).all()
    assert (a.truth.any(1) == b.truth.any(1)).all()  # the same joints
    assert np.allclose(energy(a.bodies), energy(b.bodies))  # no energy, only the order, tells them apart


def test_both_pairs_of_one_person_share_what_is_outside_the_truth():
    for first, second in ((9, 10), (21, 22)):
        a, b = (actions.perform(c, performer(c), 2, WIDE) for c in (first, second))
        outside = ~(a.truth | b.truth)[0].any(0)
        assert outside.sum() > 10 and (a.bodies[:, :, outside] == b.bodies[:, :, outside]).all()
        assert (a.truth[0].any(0) != b.truth[0].any(0)).any()


def test_who_sits_is_low_and_who_hugs_is_close():
    heights = actions.perform(19, 9, 1, WIDE).bodies[0, :, 0, 1]
    assert heights[-1] < 0.7 * heights[0]
    near = []
    for action in (23, 24):
        p = actions.perform(action, 9, 1, WIDE)
        near.append(np.linalg.norm(p.bodies[0, :, 20] - p.bodies[1, :, 20], axis=1).min())
    assert near[0] < 0.5 and near[1] > 0.65  # metres from shoulders to shoulders
    meet = np.linalg.norm(p.bodies[0, :, 11] - p.bodies[1, :, 11], axis=1)  # right hands, when something is handed over
    assert meet.min() < 0.12 and meet[[0, -1]].min() > 0.25


@pytest.mark.parametrize("action", [1, 2, 3, 4, 9, 10, 13, 15, 16, 17, 18, 21, 22, 23, 24])
def test_most_motion_lies_in_the_truth(action):
    "Without distraction, a joint of the truth moves more inside the truth's frames than the rest does."
    config = dataclasses.replace(WIDE, distraction=0.0)
    p = actions.perform(action, performer(action), 1, config)
    speed = np.linalg.norm(np.diff(p.bodies, axis=1), axis=-1)  # (M, T - 1, V)
    inside = p.truth[:, 1:] & p.truth[:, :-1]
    assert speed[inside].mean() > 2 * speed[~inside].mean()


def test_only_the_faults_that_are_asked_for():
    p = actions.perform(11, 1, 1, SMALL)
    always = dataclasses.replace(SMALL, dropout=1.0, spurious=1.0)
    recording, order = cam.record(p, 1, 1, always)
    assert [sorted(listed) for listed in order] == [list(np.flatnonzero(x)) for x in recording.present.T]
    assert recording.bodies.shape[0] == 3 and not recording.present[:2].all(1).any()
    assert (recording.bodies[~recording.present] == 0).all()
    furniture = recording.bodies[2][recording.present[2]]
    assert furniture.std(0).max() < 0.1  # it hardly moves


def test_a_set_is_replaced_and_foreign_folders_are_not(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    files.make_synthetic(folder, SMALL, progress=False)
    before = digest(folder)
    files.make_synthetic(folder, SMALL, progress=False)
    assert digest(folder) == before and [f.name for f in tmp_path.iterdir()] == ["set"]
    calls = iter(range(100))

    def interrupted(*args, **kwargs):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return write(*args, **kwargs)

    write = files.write_ntu
    monkeypatch.setattr(files, "write_ntu", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.make_synthetic(folder, dataclasses.replace(SMALL, seed=3), progress=False)
    assert digest(folder) == before and [f.name for f in tmp_path.iterdir()] == ["set"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="no synthetic data set"):
        files.make_synthetic(mine, SMALL)
    assert (mine / "notes.txt").read_text() == "keep"


def test_bad_input_is_refused(tmp_path):
    for bad in (
        {"subjects": 0},
        {"shortest": 10},
        {"shortest": 40, "longest": 30},
        {"dropout": 2.0},
        {"jitter": -1.0},
        {"part": 60},
        {"part": "120", "subjects": 9},
    ):
        with pytest.raises(ValueError):
            actions.SyntheticConfig(**bad)
    with pytest.raises(ValueError, match="subject 2"):
        actions.perform(1, 2, 1, SMALL)
    with pytest.raises(ValueError, match="action 1 to 14"):
        actions.perform(15, 1, 1, SMALL)
    with pytest.raises(ValueError, match="subjects 1 to 1 and 9 to 9"):
        cam.setup_of(2, WIDE)
    (tmp_path / "truth.jsonl").write_text('{"name": "S001C001P001R001A001"}\n')
    with pytest.raises(FormatError, match="line 1"):
        files.read_truth(tmp_path / "truth.jsonl")


def test_part_120_is_part_60_and_an_extension(tmp_path):
    for part in ("60", "120"):
        files.make_synthetic(tmp_path / part, dataclasses.replace(SMALL, part=part), progress=False, workers=2)
    old, new = ({f.name: f.read_bytes() for f in (tmp_path / part).glob("*.skeleton")} for part in ("60", "120"))
    assert old.items() < new.items() and (len(old), len(new)) == (14 * 6, 24 * 6)
    added = [ntu_attributes(name[:-9]) for name in new.keys() - old.keys()]
    assert all(a["subject"] >= 9 and a["setup"] >= 5 and a["action"] >= 15 for a in added)


def test_both_halves_are_split_by_subject_camera_and_setup():
    "NTU's own rules: some subjects, some cameras and the even set-ups train, in each half."
    train = {1, 2, 4, 5, 8, 9, 13, 14, 15, 16}  # the first of NTU's training subjects
    for config in (
        actions.SyntheticConfig(),
        actions.SyntheticConfig(part="120"),
        actions.SyntheticConfig(subjects=40),
    ):
        setups = {number: cam.setup_of(number, config) for _, subjects in config.halves for number in subjects}
        assert set(setups.values()) == set(range(1, 4 * len(config.halves) + 1))
        if config.subjects == 8:
            for _, subjects in config.halves:
                assert len(train & set(subjects)) == 5
                assert {setups[n] % 2 for n in subjects} == {0, 1}
