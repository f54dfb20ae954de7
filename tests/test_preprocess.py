"""Preprocessing and clip stores against the original's output and against plain loops."""

import functools
import json
import operator
import math
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_repro.data.samplers import Clips, pad, replay, resample
from stf_repro.data.clip_store import Clip, ClipStore, StoreError, StoreWriter, write_store
from stf_repro.data.formats import Recording
from stf_repro.data.sets.kinetics import parse_kinetics
from stf_repro.data.sets.ntu import format_ntu, parse_ntu, write_ntu
from stf_repro.data.preprocess import (
    BadFilesError,
    body_order,
    clip_of,
    denoise,
    kept_frames,
    list_recordings,
    preprocess,
    to_array,
)
from stf_repro.data.registry import SOURCES
from stf_repro.skeleton import LAYOUTS

FIXTURES = Path(__file__).parent / "fixtures"
NTU, KINECT = LAYOUTS["ntu25"], LAYOUTS["kinect20"]


# --- the whole preprocessing as loops, written for reading ---------------------------------------------


def loop_energy(body):
    frames = [frame for frame in body if frame.sum() != 0]
    if not frames:
        return 0.0
    return sum(np.std([[joint[c] for joint in frame] for frame in frames]) for c in range(3))


def loop_turn(u, e):
    "The rotation of u onto e, by quaternion."
    axis = np.cross(u, e)
    if abs(axis).sum() < 1e-6 or abs(u).sum() < 1e-6:
        return np.eye(3)
    cosine = np.dot(u / np.linalg.norm(u), e)
    theta = math.acos(min(1.0, max(-1.0, cosine)))
    if abs(theta) < 1e-6:
        return np.eye(3)
    axis = axis / math.sqrt(np.dot(axis, axis))
    w, (x, y, z) = math.cos(theta / 2), axis * math.sin(theta / 2)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def loop_pad(person):
    "Move a late body to the front, then repeat it from the first frame behind which nothing comes."
    if not person.any():
        return
    if person[0].sum() == 0:
        frames = [frame.copy() for frame in person if frame.sum() != 0]
        person[:] = 0
        for t, frame in enumerate(frames):
            person[t] = frame
    for t in range(len(person)):
        if not person[t:].any():
            for rest in range(t, len(person)):
                person[rest] = person[rest % t]
            return


def loop_rotate(s, u, e):
    matrix = loop_turn(u, e)
    for person in s:
        for frame in person:
            for j in range(len(frame)):
                frame[j] = matrix @ frame[j]


def loop_preprocess(recording, frames=300):
    "(C, frames, V, 2): select, pad, centre, rotate twice."
    M, T, V, C = recording.bodies.shape
    slots = [recording.bodies[m] if m < M else np.zeros((T, V, C), np.float32) for m in range(4)]
    energies = [loop_energy(body) for body in slots]
    best = sorted(range(4), key=lambda m: (energies[m], m), reverse=True)[:2]
    s = np.zeros((2, frames, V, C), np.float32)
    for m, slot in enumerate(best):
        s[m, :T] = slots[slot]
    for person in s:
        loop_pad(person)
    middle = s[0, :, 1].copy()
    for person in s:
        for t in range(frames):
            for j in range(V):
                if person[t, j].sum() != 0:
                    person[t, j] -= middle[t]
    loop_rotate(s, s[0, 0, 1] - s[0, 0, 0], np.array([0.0, 0, 1]))
    loop_rotate(s, s[0, 0, 8] - s[0, 0, 4], np.array([1.0, 0, 0]))
    return s.transpose(3, 1, 2, 0)


# --- against the original ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original():
    return np.load(FIXTURES / "ntu_preprocess.npz")


@pytest.fixture(scope="module")
def recordings(original):
    with zipfile.ZipFile(FIXTURES / "ntu_preprocess.zip") as archive:
        return [parse_ntu(archive.read(f"{name}.skeleton"), str(name)) for name in original["names"]]


@pytest.fixture(scope="module")
def store(recordings, tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "ntu60", map(clip_of, recordings), "ntu60", NTU)


def test_body_selection_equals_the_original(recordings, original):
    for recording, expected, T in zip(recordings, original["raw_two_bodies"], original["num_frames"]):
        chosen = recording.bodies[body_order(recording)]
        np.testing.assert_array_equal(chosen, expected[:, :T].transpose(3, 1, 2, 0)[: len(chosen)])
        assert not expected.transpose(3, 1, 2, 0)[len(chosen) :].any()
        assert not expected[:, T:].any()


@pytest.mark.parametrize("path", ["to_array", "replay", "loop"])
def test_arrays_equal_the_original(path, recordings, store, original):
    if path == "replay":
        arrays = replay(Clips(store), torch.arange(8))[0].numpy()
    else:
        arrays = np.stack([{"to_array": to_array, "loop": loop_preprocess}[path](r) for r in recordings])
    assert arrays.shape == (8, 3, 300, 25, 2) and arrays.dtype == np.float32
    T = original["normalized"].shape[2]
    np.testing.assert_allclose(arrays[:, :, :T], original["normalized"], atol=1e-5)  # metres
    np.testing.assert_allclose(arrays[:, :, 299], original["last_frame"], atol=1e-5)
    flat = arrays.reshape(8, -1).astype(np.float64)
    sums = np.stack([flat.sum(1), np.abs(flat).sum(1)], 1)
    np.testing.assert_allclose(
        sums, original["normalized_checksum"], atol=1e-5 * flat.shape[1] / 10
    )  # 45,000 terms a sum


# --- properties over random recordings -----------------------------------------------------------------


@st.composite
def random_recordings(draw):
    "Up to five bodies that come, go, and are missed; single joints may be missed as well."
    T, M = draw(st.integers(1, 14)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    present = np.array([[draw(st.booleans()) for _ in range(T)] for _ in range(M)])
    present[draw(st.integers(0, min(M, 4) - 1)), draw(st.integers(0, T - 1))] = True
    bodies = (
        rng.normal(size=(M, 1, 25, 3)) * 0.4 + rng.normal(size=(M, T, 25, 3)) * 0.1 + rng.normal(size=(M, 1, 1, 3)) * 2
    )
    bodies *= rng.random((M, T, 25, 1)) > draw(st.sampled_from([0.0, 0.2]))
    bodies = (bodies * present[..., None, None]).astype(np.float32)
    return Recording("S001C001P001R001A001", bodies, present, NTU, 0, {"subject": 1})


@settings(max_examples=60, deadline=None)
@given(random_recordings(), st.sampled_from([14, 20, 47]))
def test_fast_paths_equal_the_loop(tmp_path_factory, recording, frames):
    expected = loop_preprocess(recording, frames)
    np.testing.assert_allclose(
        to_array(recording, frames), expected, atol=2e-5
    )  # metres, up to about 10: float32 rounds by 1e-6, and some ten times
    folder = tmp_path_factory.mktemp("random")
    x, present = replay(
        Clips(write_store(folder / "made", [clip_of(recording)], "made", NTU)), torch.tensor([0]), frames
    )
    shutil.rmtree(folder)
    np.testing.assert_allclose(x[0].numpy(), expected, atol=2e-5)
    np.testing.assert_array_equal(present[0].numpy(), expected.any((0, 1, 2)))


@settings(max_examples=60, deadline=None)
@given(random_recordings())
def test_rotation_keeps_bone_lengths_and_replay_repeats(recording):
    T = recording.bodies.shape[1]
    x = to_array(recording, 3 * T).transpose(3, 1, 2, 0)  # (2, T, V, C)
    for m, slot in enumerate(body_order(recording)):
        body = recording.bodies[slot]
        places = kept_frames(body)
        if not len(places):
            assert not x[m].any()
            continue
        for t in range(3 * T):
            raw = body[places[t % len(places)]]
            seen = raw.sum(-1) != 0
            for child, parent in NTU.bones:
                if seen[child] and seen[parent]:
                    expected = np.linalg.norm(raw[child] - raw[parent])
                    assert abs(np.linalg.norm(x[m, t, child] - x[m, t, parent]) - expected) < 1e-5  # fp32, metres


def test_rotation_is_orthonormal_and_aligns(recordings):
    for recording in recordings:
        R = clip_of(recording).rotation
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(R) > 0
        across = to_array(recording)[:, 0, 8, 0] - to_array(recording)[:, 0, 4, 0]
        np.testing.assert_allclose(across, [np.linalg.norm(across), 0, 0], atol=1e-5)


def test_an_opposite_bone_is_left_as_it_is():
    "The original does not turn a body that stands on its head; neither do we."
    bodies = np.zeros((1, 1, 25, 3), np.float32)
    bodies[0, 0] = np.linspace(1, 2, 25)[:, None]
    bodies[0, 0, 1] = bodies[0, 0, 0] - [0, 0, 0.5]
    bodies[0, 0, 8] = bodies[0, 0, 4] + [0.25, 0, 0]
    recording = Recording("a", bodies, np.ones((1, 1), bool), NTU)
    np.testing.assert_array_equal(clip_of(recording).rotation, np.eye(3))


def test_other_layouts_are_not_rotated():
    rng = np.random.default_rng(0)
    recording = Recording("a", rng.normal(size=(1, 9, 20, 3)).astype(np.float32), np.ones((1, 9), bool), KINECT)
    clip = clip_of(recording)
    assert (clip.rotation == np.eye(3)).all() and len(clip.bodies) == 1
    np.testing.assert_array_equal(clip.bodies[0], recording.bodies[0])


def test_a_recording_without_bodies_is_a_clip_of_zeros():
    "The original prints that it has no skeleton, and leaves the zeros."
    empty = Recording("empty", np.zeros((1, 3, 25, 3), np.float32), np.zeros((1, 3), bool), NTU)
    clip = clip_of(empty)
    assert [len(body) for body in clip.bodies] == [0] and (clip.rotation == np.eye(3)).all()
    assert not to_array(empty).any() and not loop_preprocess(empty).any()


# --- resampling ----------------------------------------------------------------------------------------


def loop_resample(body, frames):
    "CTR-GCN's NW-UCLA recipe at test time, for one clip (T, V, C)."
    value = body.astype(np.float64) - body[0, 1].astype(np.float64)
    flat = value.reshape(-1, 3)
    flat = (flat - flat.min(0)) / (flat.max(0) - flat.min(0)) * 2 - 1
    picks = np.linspace(0, len(body) - 1, frames).astype(int)
    return flat.reshape(value.shape)[picks].transpose(2, 0, 1)[..., None]


@pytest.fixture(scope="module")
def kinect_clips(tmp_path_factory):
    rng = np.random.default_rng(1)
    bodies = [rng.normal(size=(T, 20, 3)).astype(np.float32) for T in (1, 2, 32, 52, 53, 201)]  # 32: rounding
    clips = [Clip(f"c{len(b)}", 0, {"camera": 1}, [b], len(b), np.eye(3)) for b in bodies]
    return bodies, Clips(write_store(tmp_path_factory.mktemp("kinect") / "nwucla", clips, "nwucla", KINECT))


@pytest.mark.parametrize("frames", [1, 2, 52, 300])
def test_resample_equals_the_loop(kinect_clips, frames):
    bodies, clips = kinect_clips
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    x, present = resample(clips, order, frames)
    assert x.shape == (6, 3, frames, 20, 1) and present.shape == (6, 1) and present.all()
    for n, i in enumerate(order):
        np.testing.assert_allclose(x[n].numpy(), loop_resample(bodies[i], frames), atol=1e-5)  # fp32 against fp64


def test_resample_for_training(kinect_clips):
    _, clips = kinect_clips
    index = torch.tensor([5] * 64)
    x, _ = resample(clips, index, 52, torch.Generator().manual_seed(3))
    again, _ = resample(clips, index, 52, torch.Generator().manual_seed(3))
    other, _ = resample(clips, index, 52, torch.Generator().manual_seed(4))
    assert torch.equal(x, again) and not torch.equal(x, other) and not torch.equal(x[0], x[1])
    assert x.min() >= -1 - 1e-6 and x.max() <= 1 + 1e-6


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_training_rotation_is_the_recipe(seed):
    from stf_repro.data.samplers import _rotate, _view_change

    generator = torch.Generator().manual_seed(seed)
    ours = _view_change(3, generator)
    generator.manual_seed(seed)
    angles = torch.randint(-60, 61, (3, 2), generator=generator)
    scales = 0.5 + torch.rand(3, generator=generator)
    X = torch.randn(3, 5, 3, generator=generator)  # rows of vectors
    turned = _rotate(X.permute(2, 0, 1), ours).permute(1, 2, 0)
    for n in range(3):
        agx, agy = (math.radians(int(a)) for a in angles[n])
        Rx = np.array([[1, 0, 0], [0, math.cos(agx), math.sin(agx)], [0, -math.sin(agx), math.cos(agx)]])
        Ry = np.array([[math.cos(agy), 0, -math.sin(agy)], [0, 1, 0], [math.sin(agy), 0, math.cos(agy)]])
        expected = X[n].numpy() @ (Ry @ (Rx @ np.diag([float(scales[n])] * 3)))
        np.testing.assert_allclose(turned[n].numpy(), expected, atol=1e-5)  # fp32


def test_a_flat_coordinate_becomes_zero(tmp_path):
    body = np.random.default_rng(0).normal(size=(5, 20, 3)).astype(np.float32)
    body[..., 2] = 3
    clips = Clips(write_store(tmp_path / "flat", [Clip("flat", 0, {}, [body], 5, np.eye(3))], "made", KINECT))
    x, _ = resample(clips, torch.tensor([0]), 8)
    assert torch.isfinite(x).all() and not x[:, 2].any() and x[:, :2].any()


# --- the store -----------------------------------------------------------------------------------------


def test_store_round_trip(store, recordings):
    again = ClipStore.open(store.path)
    again.check()
    assert len(again) == 8 and again.layout == NTU and again.source == "ntu60"
    for i, recording in enumerate(recordings):
        clip = clip_of(recording)
        assert again.names[i] == clip.name and again.labels[i] == clip.label and again.num_frames[i] == clip.num_frames
        assert again.attributes(i) == recording.attributes
        np.testing.assert_array_equal(again.rotations[i], clip.rotation)
        for m, body in enumerate(clip.bodies):
            at = again.offsets[i, m]
            np.testing.assert_array_equal(again.frames[at : at + again.lengths[i, m]], body)
    assert again.lengths.sum() == len(again.frames)


def copy_of(store, folder):
    return Path(shutil.copytree(store.path, folder / "copy"))


@pytest.mark.parametrize("name", ["frames.npy", "index.parquet", "store.json"])
def test_a_torn_store_is_refused(store, tmp_path, name):
    path = copy_of(store, tmp_path)
    with open(path / name, "r+b") as file:
        file.truncate((path / name).stat().st_size - 7)
    with pytest.raises(StoreError, match=f"torn store: {name}.*stf preprocess "):
        ClipStore.open(path)
    (path / name).unlink()
    with pytest.raises(StoreError, match=f"torn store: {name}"):
        ClipStore.open(path)


def damage_index(folder, **columns):
    "Write the index again with other numbers, and its new hash and size into store.json."
    import hashlib

    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "index.parquet")
    for name, value in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array([value] * len(table), pa.int64()))
    pq.write_table(table, folder / "index.parquet")
    meta = json.loads((folder / "store.json").read_text())
    content = (folder / "index.parquet").read_bytes()
    meta["files"]["index.parquet"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "store.json").write_text(json.dumps(meta))


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: flip(f / "index.parquet", 100),
        lambda f: flip(f / "index.parquet", -3),
        lambda f: flip(f / "frames.npy", 3),
        lambda f: flip(f / "frames.npy", 20),
        lambda f: damage_index(f, offset0=-1),
        lambda f: damage_index(f, length1=-5),
        lambda f: damage_index(f, offset0=10**9),
        lambda f: (f / "store.json").write_text((f / "store.json").read_text().replace('"root": 20', '"root": 21')),
        lambda f: (f / "store.json").write_text((f / "store.json").read_text().replace('"layout"', '"lay-out"')),
        lambda f: (f / "store.json").write_text((f / "store.json").read_text().replace('"clips"', '"clops"')),
        lambda f: (f / "store.json").write_text('{"version": 3, "files": {}}'),
        lambda f: (f / "store.json").write_text('{"version": 3, "files": [1]}'),
        lambda f: (f / "store.json").write_text("[]"),
    ],
)
def test_a_damaged_store_of_the_right_size_is_refused(store, tmp_path, damage):
    shutil.copytree(store.path, tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(StoreError, match="stf preprocess"):
        ClipStore.open(tmp_path / "copy")


def test_another_version_is_refused(store, tmp_path):
    path = copy_of(store, tmp_path)
    meta = json.loads((path / "store.json").read_text())
    for version in (0, 2):  # version 2 held the name of a layout only
        (path / "store.json").write_text(json.dumps({**meta, "version": version, "layout": "ntu25"}))
        with pytest.raises(StoreError, match=f"version {version}; this code reads version 3.*stf preprocess ntu60"):
            ClipStore.open(path)


def test_a_missing_store_says_what_to_do(tmp_path):
    with pytest.raises(StoreError, match="no clip store.*stf preprocess nwucla"):
        ClipStore.open(tmp_path / "nwucla")


def test_check_finds_a_flipped_bit(store, tmp_path):
    path = copy_of(store, tmp_path)
    content = bytearray((path / "frames.npy").read_bytes())
    content[-1] ^= 1
    (path / "frames.npy").write_bytes(content)
    with pytest.raises(StoreError, match="frames.npy has SHA-256"):
        ClipStore.open(path).check()


def test_a_failing_stream_leaves_nothing(tmp_path, recordings):
    def clips():
        yield clip_of(recordings[0])
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_store(tmp_path / "made", clips(), "made", NTU)
    assert [path.name for path in tmp_path.iterdir()] == [".made.lock"]
    with pytest.raises(ValueError, match="no clips"):
        write_store(tmp_path / "made", [], "made", NTU)


def test_clips_must_fit_each_other(tmp_path):
    body = np.ones((2, 25, 3), np.float32)
    with pytest.raises(ValueError, match="attributes .'camera'.*expected .*subject"):
        clips = [
            Clip("a", 0, {"subject": 1}, [body], 2, np.eye(3)),
            Clip("b", 0, {"camera": 1}, [body], 2, np.eye(3)),
        ]
        write_store(tmp_path / "made", clips, "made", NTU)
    with pytest.raises(ValueError, match="1 or 2 bodies"):
        Clip("c", 0, {}, [body, body[:, :20]], 2, np.eye(3))


# --- all files of a source -----------------------------------------------------------------------------


@pytest.fixture
def raw(tmp_path, recordings):
    folder = tmp_path / "raw"
    folder.mkdir()
    for recording in recordings:
        write_ntu(recording, folder)
    return folder


@pytest.mark.slow
def test_preprocess_is_the_same_loose_zipped_and_in_processes(raw, tmp_path, recordings, monkeypatch):
    import stf_repro.data.sets.ntu as module

    summary = preprocess("synth60", raw, tmp_path / "one", workers=1)
    assert summary["clips"] == 8 and summary["bad"] == 0 and not (tmp_path / "one.bad.tsv").exists()
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    with zipfile.ZipFile(zipped / SOURCES["ntu60"].files[0].name, "w") as archive:
        for recording in reversed(recordings):
            archive.writestr(f"nturgb+d_skeletons/{recording.name}.skeleton", format_ntu(recording))
    monkeypatch.setattr(module, "project_root", lambda: FIXTURES.parent.parent)
    with pytest.raises(BadFilesError, match="listed, but not there"):  # of NTU's 56,578 names
        preprocess("ntu60", zipped, tmp_path / "two")
    one, two = (ClipStore.open(tmp_path / name) for name in ("one", "two"))
    assert one.names == sorted(r.name for r in recordings)
    missing = set(one.names) - set(two.names)  # the NTU lists leave out samples; made names may be on them
    assert all(name in module.missing_ntu(FIXTURES.parent.parent / "data" / "ntu") for name in missing)
    kept = [i for i, name in enumerate(one.names) if name not in missing]
    np.testing.assert_allclose(  # batches of unequal size: fp32, metres
        replay(Clips(one), torch.tensor(kept))[0], replay(Clips(two), torch.arange(len(two)))[0], atol=1e-6
    )


def test_processes_give_the_same_bytes(tmp_path, recordings):
    raw = tmp_path / "raw"
    raw.mkdir()
    text = format_ntu(recordings[2])
    for subject in range(1, 206):
        (raw / f"S001C001P{subject:03d}R001A001.skeleton").write_text(text)
    (raw / "S001C001P100R001A001.skeleton").write_text(text[:9000])
    for workers in (1, 2):
        summary = preprocess("synth60", raw, tmp_path / f"w{workers}", workers=workers, allow_bad=True)
        assert (summary["clips"], summary["bad"]) == (204, 1)
    for name in ("frames.npy", "index.parquet", "store.json"):
        assert (tmp_path / "w1" / name).read_bytes() == (tmp_path / "w2" / name).read_bytes()


def test_bad_files_are_reported_and_fail(raw, tmp_path):
    names = sorted(path.name for path in raw.iterdir())
    (raw / names[1]).write_bytes((raw / names[1]).read_bytes()[:5000])
    (raw / names[4]).write_bytes(b"\xff\xfe")
    with pytest.raises(BadFilesError, match="2 of 8 recordings.*allow bad files"):
        preprocess("synth60", raw, tmp_path / "out")
    lines = (tmp_path / "out.bad.tsv").read_text().splitlines()
    assert lines[0] == "file\tline\treason" and [Path(line.split("\t")[0]).name for line in lines[1:]] == [
        names[1],
        names[4],
    ]
    assert len(ClipStore.open(tmp_path / "out")) == 6
    assert preprocess("synth60", raw, tmp_path / "out", allow_bad=True)["bad"] == 2
    for name in (names[1], names[4]):
        (raw / name).unlink()
    preprocess("synth60", raw, tmp_path / "out")
    assert not (tmp_path / "out.bad.tsv").exists()


def test_only_bad_files_leave_no_store(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "no_ntu_name.skeleton").write_text("1\n0\n")
    with pytest.raises(BadFilesError, match="1 of 1 recordings.*no store was written"):
        preprocess("synth60", tmp_path / "raw", tmp_path / "out", allow_bad=True)
    assert not (tmp_path / "out").exists() and (tmp_path / "out.bad.tsv").exists()


def test_a_damaged_zip_member_is_a_bad_file(tmp_path):
    clip = json.dumps({"skeletons": np.random.default_rng(0).normal(size=(4, 20, 3)).tolist()})
    path = tmp_path / "raw" / "all_sqe.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for camera in (1, 2, 3):
            archive.writestr(f"all_sqe/a01_s01_e01_v0{camera}.json", clip)
    content = bytearray(path.read_bytes())
    content[200] ^= 0x10  # inside the first member's data: its CRC no longer fits
    path.write_bytes(content)
    assert preprocess("nwucla", path.parent, tmp_path / "out", allow_bad=True)["clips"] == 2
    assert "damaged in the archive" in (tmp_path / "out.bad.tsv").read_text()


def test_a_member_that_claims_to_be_huge_is_not_unpacked(tmp_path):
    path = tmp_path / "raw" / "all_sqe.zip"
    path.parent.mkdir()
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("all_sqe/a01_s01_e01_v01.json", "w") as file,
    ):
        for _ in range(257):
            file.write(bytes(1 << 20))
    with pytest.raises(BadFilesError, match="is no recording"):
        preprocess("nwucla", path.parent, tmp_path / "out")


def test_no_files_and_doubled_files(raw, tmp_path, recordings):
    with pytest.raises(FileNotFoundError, match="no .json files below.*stf download nwucla"):
        list_recordings(SOURCES["nwucla"], tmp_path)
    (raw / "again").mkdir()
    write_ntu(recordings[0], raw / "again")
    with pytest.raises(ValueError, match=f"more than one file for {recordings[0].name}"):
        list_recordings(SOURCES["synth60"], raw)


# --- Kinetics ------------------------------------------------------------------------------------------


def loop_kinetics(r, frames=300):
    "(3, frames, 18, 2): the original's steps, person by person, in its float64."
    M, T, V, _ = r.bodies.shape
    data = np.zeros((3, frames, V, 5))
    for t in range(min(T, frames)):
        for m in range(min(M, 5)):
            if r.present[m, t]:
                data[0, t, :, m], data[1, t, :, m], data[2, t, :, m] = (
                    r.bodies[m, t, :, 0],
                    r.bodies[m, t, :, 1],
                    r.confidence[m, t],
                )
    data[0:2] = data[0:2] - 0.5
    data[1:2] = -data[1:2]
    data[0][data[2] == 0] = 0
    data[1][data[2] == 0] = 0
    out = np.zeros((3, frames, V, 2))
    for t in range(frames):
        # stable; added one by one as numpy does along joints: Python's own sum carries a correction since 3.12, and ties decide here
        order = sorted(range(5), key=lambda m: -functools.reduce(operator.add, data[2, t, :, m].tolist()))
        for place, m in enumerate(order[:2]):
            out[:, t, :, place] = data[:, t, :, m]
    return out.astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), M=st.integers(1, 7), T=st.integers(1, 12), lost=st.floats(0, 0.9))
def test_kinetics_preprocessing_equals_the_loops(seed, M, T, lost):
    "Scores of one decimal, so that people tie often; read from text, as the files are."
    rng = np.random.default_rng(seed)
    frames = []
    for t in range(T):
        people = [m for m in range(M) if rng.random() >= lost] if t else list(range(M))
        scores = np.round(rng.random((len(people), 18)) * (rng.random((len(people), 18)) < 0.8), 1)
        if len(people) > 1:
            scores[1] = rng.permutation(scores[0])  # the same numbers in another order
        scores[0 if len(people) else slice(0), 0] = 0.5
        frames.append(
            {
                "frame_index": t,
                "skeleton": [{"pose": np.round(rng.random(36), 3).tolist(), "score": s.tolist()} for s in scores],
            }
        )
    r = parse_kinetics(json.dumps({"data": frames, "label_index": 3}).encode(), "v")
    np.testing.assert_allclose(to_array(r, 20), loop_kinetics(r, 20), atol=1e-6)


def test_kinetics_fixtures_from_their_zip_to_the_batch(tmp_path):
    "Listed by the label file, read inside the zip, stored, and padded on the device: the original's arrays."
    original = np.load(FIXTURES / "kinetics_preprocess.npz")
    (tmp_path / "raw").mkdir()
    shutil.copy(FIXTURES / "kinetics_preprocess.zip", tmp_path / "raw" / "kinetics-skeleton.zip")
    preprocess("kinetics", tmp_path / "raw", tmp_path / "out")
    store = ClipStore.open(tmp_path / "out")
    assert store.names == original["names"].tolist() and store.labels.tolist() == original["labels"].tolist()
    assert all(store.attributes(i) == {"part": 0} for i in range(5))
    x, _ = pad(Clips(store), torch.arange(5), 300)
    T = original["array"].shape[2]
    np.testing.assert_allclose(x[:, :, :T], original["array"], atol=1e-6)
    assert not x[:, :, T:].any()


def test_kinetics_without_label_files_is_told(tmp_path):
    (tmp_path / "kinetics_train").mkdir()
    (tmp_path / "kinetics_train" / "a.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="kinetics_train_label.json"):
        list_recordings(SOURCES["kinetics"], tmp_path)


# --- denoising -----------------------------------------------------------------------------------------


def loop_denoise(r):
    "Places of the bodies that stay, by SGN's three rules."
    frames = {m: [f for f in body if f.sum() != 0] for m, body in enumerate(r.bodies)}
    frames = {m: f for m, f in frames.items() if f}
    if len(frames) > 1:
        long = {m: f for m, f in frames.items() if len(f) > 11}
        frames = long or frames
    if len(frames) > 1:
        upright = {}
        for m, body in frames.items():
            flat = sum(
                max(j[0] for j in f) - min(j[0] for j in f) > 0.8 * (max(j[1] for j in f) - min(j[1] for j in f))
                for f in body
            )
            if flat / len(body) < 0.69754:
                upright[m] = body
        frames = upright or frames
    motion = {
        m: sum(np.var([j[c] for f in body for j in f], dtype=np.float32) for c in range(3))
        for m, body in frames.items()
    }
    most = max(motion, key=lambda m: (motion[m], -m))
    return [m for m in frames if m == most or 0.089925 <= motion[m] <= 2]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), M=st.integers(1, 4), T=st.integers(5, 30))
def test_denoising_equals_the_loops(seed, M, T):
    rng = np.random.default_rng(seed)
    scale = rng.choice([0.05, 0.3, 1.0, 2.0], (M, 1, 1, 3))
    bodies = (rng.normal(size=(M, T, 25, 3)) * scale).astype(np.float32)
    present = np.arange(T) < rng.integers(1, T + 1, M)[:, None]
    bodies *= present[..., None, None]
    r = Recording("S001C001P001R001A001", bodies, present, NTU)
    kept = loop_denoise(r)
    np.testing.assert_array_equal(denoise(r).bodies, bodies[kept] if len(kept) < M else bodies)


def test_denoising_is_for_metres(tmp_path):
    with pytest.raises(ValueError, match="bodies in metres.*kinetics holds openpose18"):
        preprocess("kinetics", tmp_path, tmp_path / "out", denoised=True)


# --- what is missing, and who dies -----------------------------------------------------------------------


def test_videos_that_the_label_file_lists_must_be_there(tmp_path):
    with zipfile.ZipFile(FIXTURES / "kinetics_preprocess.zip") as archive:
        archive.extractall(tmp_path / "raw")
    (tmp_path / "raw" / "kinetics_train" / "vid02_000005.json").unlink()
    with pytest.raises(BadFilesError, match="1 of 5 recordings.*vid02_000005.json: listed, but not there"):
        preprocess("kinetics", tmp_path / "raw", tmp_path / "out")
    assert preprocess("kinetics", tmp_path / "raw", tmp_path / "out", allow_bad=True)["clips"] == 4


def test_what_macos_adds_to_an_archive_is_no_recording(tmp_path, recordings):
    (tmp_path / "raw").mkdir()
    with zipfile.ZipFile(tmp_path / "raw" / "a.zip", "w") as archive:
        for r in recordings:
            archive.writestr(f"x/{r.name}.skeleton", format_ntu(r))
            archive.writestr(f"__MACOSX/x/._{r.name}.skeleton", b"\0")
    assert preprocess("synth60", tmp_path / "raw", tmp_path / "out")["clips"] == 8


DIES = """
import os, signal, sys
import stf_repro.data.sets.ntu as module
from stf_repro.data import preprocess as jobs
from stf_repro.data.preprocess import preprocess
read = module.parse_ntu
def parse(text, name, path=""):
    if name.startswith("S001C001P250"):
        os.kill(os.getpid(), signal.SIGKILL)
    return read(text, name, path)
module.parse_ntu = parse
if __name__ == "__main__":
    import multiprocessing
    jobs.multiprocessing.get_all_start_methods = lambda: ["spawn"]  # so that the patch reaches the workers
    preprocess("synth60", sys.argv[1], sys.argv[2], workers=2, progress=False)
"""


def test_a_worker_that_dies_is_told_and_leaves_nothing(tmp_path, recordings):
    raw = tmp_path / "raw"
    raw.mkdir()
    for subject in range(1, 500):
        (raw / f"S001C001P{subject:03d}R001A001.skeleton").write_text(format_ntu(recordings[1]))
    (tmp_path / "run.py").write_text(DIES)
    result = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), str(raw), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 1 and "WorkerError: a worker process died" in result.stderr, result.stderr
    assert not (tmp_path / "out.part").exists() and not (tmp_path / "out").exists()
    assert preprocess("synth60", raw, tmp_path / "out", workers=1)["clips"] == 499


def test_a_fault_of_ours_costs_one_recording(tmp_path, recordings, monkeypatch):
    import stf_repro.data.preprocess as module

    (tmp_path / "raw").mkdir()
    for r in recordings:
        write_ntu(r, tmp_path / "raw")
    original = module.clip_of
    monkeypatch.setattr(module, "clip_of", lambda r: 1 / 0 if r.name == recordings[3].name else original(r))
    with pytest.raises(BadFilesError, match="1 of 8 .*ZeroDivisionError: division by zero"):
        preprocess("synth60", tmp_path / "raw", tmp_path / "out", workers=1)


# --- killed, and torn ----------------------------------------------------------------------------------


def made_clips(n, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Clip(
            f"c{i:03d}",
            i % 3,
            {"subject": i},
            [rng.normal(size=(rng.integers(1, 9), 25, 3)).astype(np.float32) for _ in range(1 + i % 2)],
            9,
            np.eye(3),
        )
        for i in range(n)
    ]


def files_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def states_of(folder, work):
    "The folder as a kill would leave it, line by line, while `work` is done."
    kept, states = folder.parent / "states", []

    def line(frame, event, _):
        if Path(frame.f_code.co_filename).name in ("clip_store.py", "io.py"):
            states.append(Path(shutil.copytree(folder, kept / str(len(states)))))
        return line

    sys.settrace(line)
    try:
        work()
    finally:
        sys.settrace(None)
    return states


@pytest.mark.parametrize("there", [False, True], ids=["nothing there", "an older one there"])
def test_a_writer_killed_at_any_line_leaves_no_half_store(tmp_path, there):
    "What stands under the name is nothing, or a store that is whole; the next writer ends with the same bytes, and leaves nothing else."
    clips, folder = made_clips(3), tmp_path / "now"
    folder.mkdir()
    old = files_of(write_store(folder / "out", made_clips(2, seed=1), "made", NTU).path) if there else None
    states = states_of(folder, lambda: write_store(folder / "out", clips, "made", NTU))
    new, seen = files_of(folder / "out"), set()
    for state in states:
        beside = [
            state / name for name in ("out", ".out.old") if (state / name).exists()
        ]  # from where it is taken back
        found = files_of(beside[0]) if beside else None
        assert found in (old, new), sorted(found or ())
        seen.add("new" if found == new else "old")
        write_store(state / "out", clips, "made", NTU)
        assert files_of(state / "out") == new and {p.name for p in state.iterdir()} == {"out", ".out.lock"}
    assert seen == {"old", "new"} and len(states) > 50


def test_two_writers_are_refused(tmp_path):
    with StoreWriter(tmp_path / "out", "made", NTU) as writer:
        writer.add(made_clips(1)[0])
        with pytest.raises(StoreError, match="another process is writing"):
            StoreWriter(tmp_path / "out", "made", NTU)
        assert len(writer.finish()) == 1
        with StoreWriter(tmp_path / "out", "made", NTU) as second:  # the first has let go
            writer.discard()  # and takes nothing from the second
            second.add(made_clips(1)[0])
            second.finish()


KILLED = """
import sys
from stf_repro.data.preprocess import preprocess
if __name__ == "__main__":
    preprocess("synth60", sys.argv[1], sys.argv[2], workers=1, progress=False)
"""


@pytest.mark.parametrize("there", [False, True], ids=["nothing there", "an older one there"])
def test_preprocessing_killed_at_any_moment_leaves_no_half_store(tmp_path, recordings, there):
    "SIGKILL after a while, several times; then the store is the one of a call that nobody killed."
    raw, out, frames = tmp_path / "raw", tmp_path / "out", tmp_path / "out.part" / "frames.npy"
    raw.mkdir()
    text = format_ntu(recordings[1])
    (raw / "S001C001P001R001A001.skeleton").write_text(text)
    old = preprocess("synth60", raw, out, workers=1) and files_of(out) if there else None
    for subject in range(2, 400):
        (raw / f"S001C001P{subject:03d}R001A001.skeleton").write_text(text)
    preprocess("synth60", raw, tmp_path / "whole", workers=1)
    (tmp_path / "run.py").write_text(KILLED)
    killed = 0
    for share in (0, 0.3, 0.6):
        size = share * (tmp_path / "whole" / "frames.npy").stat().st_size
        process = subprocess.Popen([sys.executable, str(tmp_path / "run.py"), str(raw), str(out)])
        while process.poll() is None and (not frames.exists() or frames.stat().st_size < size):
            time.sleep(0.002)
        process.kill()
        if process.wait() == 0:
            break  # it was faster
        killed += 1
        assert (files_of(out) if out.exists() else None) == old
    assert killed >= 2
    preprocess("synth60", raw, out, workers=1)
    assert files_of(out) == files_of(tmp_path / "whole") and not frames.parent.exists()


def test_a_full_disk_leaves_the_older_store(tmp_path, raw, monkeypatch):
    preprocess("synth60", raw, tmp_path / "out", workers=1)
    old, original = files_of(tmp_path / "out"), StoreWriter.add

    def full(self, clip):
        if len(self._rows) == 4:
            raise OSError(28, "No space left on device")
        original(self, clip)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(StoreWriter, "add", full)
        preprocess("synth60", raw, tmp_path / "out", workers=1)
    assert files_of(tmp_path / "out") == old and not (tmp_path / "out.part").exists()
    assert preprocess("synth60", raw, tmp_path / "out", workers=1)["clips"] == 8


# --- pickles that hold many ------------------------------------------------------------------------------


def test_pyskl_pickles_are_preprocessed_with_their_splits(tmp_path, recordings):
    from stf_repro.data.pickles import write_pyskl

    (tmp_path / "raw").mkdir()
    names = [r.name for r in recordings]
    write_pyskl(tmp_path / "raw" / "ntu60_3danno.pkl", recordings, {"xsub_train": names[:5], "xsub_val": names[5:]})
    assert preprocess("ntu60-pyskl", tmp_path / "raw", tmp_path / "out")["clips"] == 8
    store = ClipStore.open(tmp_path / "out")
    for i, r in enumerate(recordings):
        clip = clip_of(r)
        assert store.names[i] == r.name and store.attributes(i) == r.attributes | {"xsub": int(i >= 5)}
        np.testing.assert_array_equal(
            store.frames[store.offsets[i, 0] : store.offsets[i, 0] + store.lengths[i, 0]], clip.bodies[0]
        )
