"""Readers: the quick NTU reader against the plain one and against Python's float, formats against loops, and ten thousand damaged files."""

import json
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_repro.data.sets import ntu as F
from stf_repro.data.formats import FormatError, Recording
from stf_repro.data.sets.kinetics import format_kinetics, parse_kinetics
from stf_repro.data.sets.ntu import format_ntu, ntu_attributes, parse_ntu
from stf_repro.data.sets.nwucla import parse_nwucla
from stf_repro.data.sets.sbu import parse_sbu
from stf_repro.data.pickles import read_array, read_pickle, read_pyskl, write_pyskl
from stf_repro.data.sets.jhmdb import JHMDB_CLASSES, read_jhmdb
from stf_repro.skeleton import LAYOUTS

NTU, OPENPOSE, COCO = (LAYOUTS[name] for name in ("ntu25", "openpose18", "coco17"))
NAME = "S001C002P003R002A013"


def recording(seed=0, M=2, T=4) -> Recording:
    "Random bodies, some absent."
    rng = np.random.default_rng(seed)
    present = rng.random((M, T)) < 0.7
    present[:, 0] |= ~present.any()
    bodies = (rng.normal(size=(M, T, 25, 3)) * present[..., None, None]).astype(np.float32)
    return Recording(NAME, bodies, present, NTU, 12, ntu_attributes(NAME))


def picture(seed=0, M=3, T=5) -> Recording:
    "Random people in images; slot m is the m-th person of each frame, so slots fill from below."
    rng = np.random.default_rng(seed)
    present = np.arange(M)[:, None] < rng.integers(0, M + 1, T)
    score = (rng.random((M, T, 18)) * (rng.random((M, T, 18)) < 0.8) * present[..., None]).astype(np.float32)
    bodies = (rng.random((M, T, 18, 2)) * (score != 0)[..., None]).astype(np.float32)
    return Recording("video", bodies, present, OPENPOSE, 206, {}, score)


# --- NTU: the quick reader ---------------------------------------------------------------------------------


def numbers():
    "Decimal numbers as files write them, and as they do not."
    plain = st.floats(-999, 999, allow_nan=False).flatmap(
        lambda x: st.sampled_from([f"{x:.7g}", f"{x:.9g}", f"{x:.3f}", f"{x:.0f}", repr(x), f"{x:e}"])
    )
    return plain | st.sampled_from(
        ["0", "-0", "0.", "00.50", "1E-05", "999.9999999999", "0.000000000001", "12345678.12345", "123456789.123456"]
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(numbers(), min_size=1, max_size=40))
def test_decimals_are_the_bits_of_float(texts):
    ends = np.cumsum([len(t) + 1 for t in texts]) - 1
    ours = F._decimals(" ".join(texts).encode(), ends - [len(t) for t in texts], ends)
    assert ours.tobytes() == np.array([float(t) for t in texts]).tobytes()  # the sign of -0 too


@pytest.mark.parametrize(
    "text",
    ["", ".", "-", "-.", "e5", ".e5", "1.2.3", "--1", "1-2", "abc", "0x10", "1e", "1_0", "1,5", "+", "1 2", "\x001"],
)
def test_what_is_no_plain_number_is_left_to_the_plain_reader(text):
    with pytest.raises(ValueError):
        F._decimals(f"1 {text} 2".encode(), np.array([2]), np.array([2 + len(text)]))


def same(a, b) -> bool:
    return a[0] == b[0] and a[1] == b[1] and np.array_equal(a[2], b[2])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), M=st.integers(1, 5), T=st.integers(1, 9), crlf=st.booleans(), end=st.booleans())
def test_the_quick_reader_agrees_with_the_plain_one(seed, M, T, crlf, end):
    text = format_ntu(recording(seed, M, T)).replace("\n", "\r\n" if crlf else "\n")
    text = (text if end else text.rstrip()).encode()
    assert same(F._scan_ntu(text, 25), F._walk_ntu("", text, 25))
    again = parse_ntu(text, NAME)
    r = recording(seed, M, T)
    listed = [r.bodies[r.present[:, t], t] for t in range(T)]
    for t in range(T):  # written and read: the bodies of each frame, in order
        np.testing.assert_array_equal(again.bodies[again.present[:, t], t], listed[t])


def test_the_official_zip_is_read_without_unpacking(tmp_path):
    r = recording()
    path = tmp_path / "nturgbd_skeletons_s001_to_s017.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"nturgb+d_skeletons/{NAME}.skeleton", format_ntu(r))
    np.testing.assert_array_equal(F.read_ntu(path, NAME).bodies, parse_ntu(format_ntu(r).encode(), NAME).bodies)
    with pytest.raises(FormatError, match="holds no S001C001P001R001A001"):
        F.read_ntu(path, "S001C001P001R001A001")
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


def damage(text: str, line: int, new: str) -> bytes:
    lines = text.split("\n")
    lines[line - 1] = new
    return "\n".join(lines).encode("utf-8", "surrogateescape")


NTU_FAULTS = [  # line, what stands there instead, what is said
    (1, "0", 1, "no frames"),
    (1, "x", 1, "number of frames"),
    (1, "-3", 1, "expected 0 to"),
    (1, "99999999", 1, "expected 0 to"),
    (2, "1.5", 2, "number of bodies"),
    (2, "101", 2, "expected 0 to 100"),
    (4, "24", 4, "24 joints; expected 25"),
    (5, "nan 0 0 0 0 0 0 0 0 0 0 2", 5, "a joint at nan"),
    (5, "0 inf 0 0 0 0 0 0 0 0 0 2", 5, "a joint at 0 inf"),
    (5, "0.1 NaN 3.0 0 0 0 0 0 0 0 0 2", 5, "a joint at 0.1 nan 3"),  # Python's max passes over a NaN that is not first
    (5, "0.1 3.0 NaN 0 0 0 0 0 0 0 0 2", 5, "a joint at 0.1 3 nan"),
    (5, "0 0 5000 0 0 0 0 0 0 0 0 2", 5, "5000 metres"),
    (5, "0 0", 5, "expected x y z"),
    (6, "a b c", 6, "expected x y z"),
    (6, "", 6, "expected x y z"),
    (7, "\udcff\udcfe", 7, "is not UTF-8"),
]


@pytest.mark.parametrize("line,new,where,reason", NTU_FAULTS)
def test_faults_of_ntu_files_are_told_with_their_line(line, new, where, reason):
    text = format_ntu(recording(M=1, T=1))
    with pytest.raises(FormatError, match=reason) as error:
        parse_ntu(damage(text, line, new), NAME, "raw/a.skeleton")
    assert error.value.line == where and error.value.path == "raw/a.skeleton"


def test_cut_and_doubled_ntu_files():
    text = format_ntu(recording(M=1, T=3))
    lines = text.splitlines(True)
    for cut in range(1, len(lines)):
        with pytest.raises(FormatError, match="ends|expected|joints") as error:
            parse_ntu("".join(lines[:cut]).encode(), NAME)
        assert cut <= error.value.line <= cut + 2
    with pytest.raises(FormatError, match="more lines after the 3 frames"):
        parse_ntu((text + text).encode(), NAME)
    with pytest.raises(FormatError, match="not an NTU sample name"):
        parse_ntu(text.encode(), "clip")
    with pytest.raises(FormatError, match="no recording is that large"):
        parse_ntu(b"90000\n" + b"0\n" * 89999 + b"100\n" + (b"1\n25\n" + b"0 0 1 0\n" * 25) * 100, NAME)


def test_a_file_beyond_all_bounds_is_not_read(tmp_path):
    path = tmp_path / f"{NAME}.skeleton"
    with open(path, "wb") as file:
        file.truncate(2 << 30)  # one line of two gigabytes, without using the disk
    with pytest.raises(FormatError, match="2147483648 bytes"):
        F.read_ntu(path)


# --- Kinetics, NW-UCLA, SBU --------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), M=st.integers(1, 6), T=st.integers(1, 8), first=st.integers(0, 3))
def test_kinetics_written_and_read_is_the_same(seed, M, T, first):
    video = picture(seed, M, T)
    again = parse_kinetics(format_kinetics(video, "demo", first).encode(), "video", label=206, attributes={"part": 1})
    used = max(1, int(video.present.any(1).sum()))  # slots that anybody fills
    for a, b in ((again.bodies, video.bodies), (again.confidence, video.confidence), (again.present, video.present)):
        assert not a[:, :first].any()
        np.testing.assert_array_equal(a[:used, first:].astype(b.dtype), b[:used])
    assert again.label == 206 and again.attributes == {"part": 1}


def video_json(**changes) -> dict:
    content = json.loads(format_kinetics(picture(M=1, T=2), "demo"))
    content["data"][0]["skeleton"] = [{"pose": [0.5] * 36, "score": [0.9] * 18}]
    return content | changes


KINETICS_FAULTS = [
    (lambda v: v.pop("data"), "a list `data`"),
    (lambda v: v.update(data={}), "a list `data`"),
    (lambda v: v.update(label_index=400), "expected 0 to 399"),
    (lambda v: v.update(label_index=True), "expected 0 to 399"),
    (lambda v: v["data"][0].update(frame_index=-1), "frame_index -1"),
    (lambda v: v["data"][0].update(frame_index=10**7), "expected 0 to 9999"),
    (lambda v: v["data"][0].update(skeleton=[{"pose": [1]}]), "pose and score"),
    (lambda v: v["data"][0]["skeleton"][0].update(pose=[0.5] * 34), "expected \\(36,\\)"),
    (lambda v: v["data"][0]["skeleton"][0].update(score=[None] * 18), "NaN|no regular array"),
    (lambda v: v["data"][0]["skeleton"][0].update(pose=[1e300] * 36), "beyond all bounds"),
    (lambda v: v["data"][0]["skeleton"][0].update(pose=["a"] * 36), "no regular array"),
]


@pytest.mark.parametrize("change,reason", KINETICS_FAULTS)
def test_faults_of_kinetics_files(change, reason):
    content = video_json()
    change(content)
    with pytest.raises(FormatError, match=reason):
        parse_kinetics(json.dumps(content).encode(), "video")


@pytest.mark.filterwarnings("ignore:overflow")
def test_hostile_json():
    for text in (b"[" * 100_000, b'{"data": ' + b"9" * 5000 + b"}", b"\xff", b"", b"null", b"[]", b'"x"'):
        with pytest.raises(FormatError):
            parse_kinetics(text, "video")
        with pytest.raises(FormatError):
            parse_nwucla(text, "a01_s01_e01_v01")
    with pytest.raises(FormatError, match="206 by the label file|206"):
        parse_kinetics(json.dumps(video_json(label_index=3)).encode(), "video", label=206)


def sbu_text(T=3, seed=0) -> str:
    rows = np.random.default_rng(seed).uniform(0, 2, (T, 90))
    return "".join(f"{t}," + ",".join(f"{v:.5g}" for v in row) + "\n" for t, row in enumerate(rows, 180))


def test_an_original_file_of_sbu_is_read_as_it_lies(tmp_path):
    "In folders that say what it is, or in any others; notes beside it are not recordings."
    from stf_repro.custom.answers import find_files
    from stf_repro.custom.draw import read_any
    from stf_repro.custom.poses import read_poses

    path = tmp_path / "s02s07" / "05" / "003" / "skeleton_pos.txt"
    path.parent.mkdir(parents=True)
    path.write_text(sbu_text())
    (tmp_path / "notes.txt").write_text("about these files")
    assert find_files([str(tmp_path)]) == [str(path)]
    expected = parse_sbu(sbu_text().encode(), "s02s07_05_003")
    for (clip,) in (read_poses(path, "sbu15"), read_any(path)):
        assert np.array_equal(clip.bodies, expected.bodies) and clip.label is None and not clip.attributes
    with pytest.raises(FormatError, match=r"no reader for .txt in the layout ntu25; .* skeleton_pos.txt \(sbu15\)"):
        read_poses(path, "ntu25")
    path.write_text("1,2,3\n")
    with pytest.raises(FormatError, match="3 numbers; expected"):
        read_any(path)


def test_sbu_is_the_published_formula():
    text = sbu_text()
    clip = parse_sbu(text.encode(), "s02s07_05_003")
    assert clip.label == 4 and clip.attributes == {"pair": 207, "action": 5, "take": 3}
    for t, line in enumerate(text.splitlines()):
        values = [float(v) for v in line.split(",")][1:]
        for person in range(2):
            for v in range(15):
                x, y, z = values[45 * person + 3 * v : 45 * person + 3 * v + 3]
                expected = [(1280 - 2560 * x) / 1000, (960 - 1920 * y) / 1000, 10000 * z / 7.8125 / 1000]
                np.testing.assert_allclose(clip.bodies[person, t, v], expected, rtol=1e-5, atol=1e-6)  # fp32


@pytest.mark.parametrize(
    "text,name,reason",
    [
        ("", "s01s02_01_001", "no frames"),
        ("1,2,3\n", "s01s02_01_001", "3 numbers"),
        (sbu_text().replace("0.", "x.", 1), "s01s02_01_001", "line 1: expected numbers"),
        (sbu_text() + "\n\n180," + ",".join(["nan"] * 90), "s01s02_01_001", "line 6: NaN"),
        (sbu_text(), "s01s02_09_001", "class from 01 to 08"),
        (sbu_text(), "clip", "not an SBU clip"),
    ],
)
def test_faults_of_sbu_files(text, name, reason):
    with pytest.raises(FormatError, match=reason):
        parse_sbu(text.encode(), name)


# --- pickles and arrays ------------------------------------------------------------------------------------


class Call:
    "Pickles to a call."

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def hostile() -> list:
    import builtins
    import os
    import subprocess

    return [
        Call(os.system, "touch stolen"),
        Call(subprocess.getoutput, "touch stolen"),
        Call(builtins.eval, "open('stolen', 'w')"),
        Call(builtins.exec, "open('stolen', 'w')"),
        Call(getattr, os, "system"),
        Call(np.load, "stolen"),
        Call(bytearray, 10),
        np.array([Call(os.system, "touch stolen"), None], dtype=object),
        np.array(["text"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        {1, 2},
        complex(1, 2),
        Path("stolen"),
    ]


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    refused = 0
    for value in hostile():
        try:
            content = pickle.dumps({"pose": value, "label": []}, protocol)
        except TypeError:
            continue
        (tmp_path / "a.pkl").write_bytes(content)
        if isinstance(value, set) and protocol == 4 or isinstance(value, set) and protocol == 5:
            continue  # a set is an opcode there, and harmless
        with pytest.raises(FormatError, match="not a pickle of arrays"):
            read_pickle(tmp_path / "a.pkl")
        refused += 1
    assert refused >= 11 and not (tmp_path / "stolen").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_honest_pickles_of_every_protocol_are_read(tmp_path, protocol):
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=(3, 2)),
        np.asfortranarray(rng.normal(size=(3, 2))),
        np.arange(4, dtype=">i2"),
        np.float32([[1.5]]),
        np.zeros((0, 3)),
        np.array(True),
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    ]
    (tmp_path / "a.pkl").write_bytes(
        pickle.dumps({"a": arrays, "n": np.float64(0.1), "s": "text", "t": (1, None, True)}, protocol)
    )
    content = read_pickle(tmp_path / "a.pkl")
    for ours, theirs in zip(content["a"], arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert content["n"] == 0.1 and content["s"] == "text" and content["t"] == (1, None, True)


def test_pickles_that_ask_for_too_much(tmp_path):
    path = tmp_path / "a.pkl"
    for content in (
        b"",
        b"\x80\x04",
        pickle.dumps([1] * 100)[:-5],
        b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.",  # bytes of 4 exabytes
        b"\x80\x04" + b"]" * 5000 + b"a" * 4999 + b".",  # nested 5000 deep
        b"\x80\x02P1\n.",
        b"cos\nsystem\n(S'touch stolen'\ntR.",
        b"\x80\x04\x94r\xff\xff\xff\x7f.",
    ):
        path.write_bytes(content)
        with pytest.raises(FormatError):
            read_pickle(path)


def write_jhmdb(folder, clips, splits):
    "clips: (label, pose); splits: for each split the places that train."
    folder.mkdir(exist_ok=True)
    for k, train in enumerate(splits, 1):
        for part, places in (("train", train), ("test", [i for i in range(len(clips)) if i not in train])):
            content = {"pose": [clips[i][1] for i in places], "label": [clips[i][0] for i in places]}
            (folder / f"GT_{part}_{k}.pkl").write_bytes(pickle.dumps(content, 3))
    return folder


def test_jhmdb_clips_are_found_again_in_every_split(tmp_path):
    rng = np.random.default_rng(0)
    clips = [(JHMDB_CLASSES[i % 3], rng.normal(size=(15 + i, 15, 2))) for i in range(6)]
    folder = write_jhmdb(tmp_path / "raw", clips, [[0, 1, 2], [3, 4, 5], [0, 2, 4]])
    recordings = read_jhmdb(folder)
    assert len(recordings) == 6
    for r in recordings:
        i = next(i for i, (label, pose) in enumerate(clips) if pose.shape[0] == r.bodies.shape[1])
        np.testing.assert_array_equal(r.bodies[0], clips[i][1].astype(np.float32))
        assert r.attributes == {
            f"split{k}": int(i not in train) for k, train in enumerate([[0, 1, 2], [3, 4, 5], [0, 2, 4]], 1)
        }
        assert r.label == JHMDB_CLASSES.index(clips[i][0])
    for bad in (
        {"pose": [np.zeros((3, 14, 2))], "label": ["run"]},
        {"pose": [np.full((3, 15, 2), np.nan)], "label": ["run"]},
        {"pose": [], "label": ["run"]},
        {"pose": [np.zeros((3, 15, 2))], "label": ["fly"]},
        [1],
    ):
        (folder / "GT_test_2.pkl").write_bytes(pickle.dumps(bad))
        with pytest.raises(FormatError, match="GT_test_2"):
            read_jhmdb(folder)


def test_pyskl_2d_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    score = rng.random((2, 6, 17)).astype(np.float32)
    r = Recording("clip", rng.random((2, 6, 17, 2)).astype(np.float32), np.ones((2, 6), bool), COCO, 3, {}, score)
    write_pyskl(tmp_path / "a.pkl", [r], {"train": ["clip"], "val": []}, (1080, 1920))
    (again,) = read_pyskl(tmp_path / "a.pkl")
    np.testing.assert_allclose(again.bodies, r.bodies, rtol=1e-6)  # fp32, to pixels and back
    np.testing.assert_array_equal(again.confidence, score)
    assert again.label == 3 and again.attributes == {"split": 0} and again.layout == COCO


def test_faults_of_pyskl_files(tmp_path):
    good = {"frame_dir": NAME, "label": 1, "keypoint": np.zeros((1, 3, 25, 3), np.float32) + 1}
    for change, reason in (
        ({"frame_dir": 3}, "name in `frame_dir`"),
        ({"label": -1}, "label is -1"),
        ({"label": "x"}, "label is 'x'"),
        ({"keypoint": np.zeros((1, 3, 24, 3))}, "expected \\(M, T, V, C\\)"),
        ({"keypoint": np.zeros((1, 0, 25, 3))}, "expected \\(M, T, V, C\\)"),
        ({"keypoint": [1, 2]}, "keypoint is list"),
        ({"keypoint": np.full((1, 3, 25, 3), np.inf)}, "NaN, infinity"),
        ({"keypoint": np.zeros((1, 3, 17, 2))}, "need a keypoint_score"),
        ({"keypoint": np.zeros((1, 3, 17, 2)), "keypoint_score": np.ones((1, 3, 17))}, "img_shape is None"),
        (
            {"keypoint": np.zeros((1, 3, 17, 2)), "keypoint_score": np.ones((1, 3, 17)), "img_shape": (10**400, 5)},
            "img_shape is",
        ),
        ({"layout": "sbu15"}, "expected \\(M, T, V, C\\)"),
    ):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"split": {}, "annotations": [good | change]}))
        with pytest.raises(FormatError, match=reason):
            list(read_pyskl(tmp_path / "a.pkl"))


def test_pyskl_details(tmp_path):
    "A score of 3D joints is not used; a clip that no split names is in no part; a clip there twice is refused."
    entry = {"frame_dir": NAME, "label": 1, "keypoint": np.ones((1, 3, 25, 3)), "keypoint_score": [1, 2]}
    other = entry | {"frame_dir": "S001C002P003R002A014"}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"split": {"xsub_train": [NAME]}, "annotations": [entry, other]}))
    one, two = read_pyskl(tmp_path / "a.pkl")
    assert one.confidence is None and one.attributes["xsub"] == 0 and two.attributes["xsub"] == -1
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"split": {}, "annotations": [entry, entry]}))
    with pytest.raises(FormatError, match="more than once"):
        read_pyskl(tmp_path / "a.pkl")


def test_a_pickle_cannot_change_its_reader(tmp_path):
    "BUILD sets attributes of whatever is on the stack, in an ordinary unpickler."
    names = (
        b"numpy.core.multiarray\nscalar",
        b"numpy.core.multiarray\n_reconstruct",
        b"numpy\ndtype",
        b"numpy\nndarray",
    )
    for name in (*names, b"numpy._core.numeric\n_frombuffer", b"_codecs\nencode"):
        for state in (b"}(U\x08__name__U\x05pwnedub", b"N}(U\x0c__defaults__(K\x01K\x02tu\x86b"):
            (tmp_path / "a.pkl").write_bytes(b"\x80\x02c" + name + b"\n" + state + b"0].")
            with pytest.raises(FormatError, match="not a pickle"):
                read_pickle(tmp_path / "a.pkl")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": np.float64(0.25)}))
    assert read_pickle(tmp_path / "a.pkl") == {"a": 0.25}
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02cnumpy\ndtype\n.")
    with pytest.raises(FormatError, match="it holds a _Allowed"):
        read_pickle(tmp_path / "a.pkl")


class Built(Call):
    "Pickles to a call, and a state for what it returns."

    def __init__(self, function, args, state):
        self.call = function, args, state


@pytest.mark.parametrize("protocol", (2, 5))
def test_arrays_that_numpy_itself_would_build(tmp_path, protocol):
    "With numpy's own functions the first makes addresses of bytes, the next two read beyond them, the rest ask for gigabytes."
    empty, content = (np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b")), b"A" * 8
    kind = lambda name, *state: Built(np.dtype, (name, False, True), (3, "<", *state)) if state else np.dtype(name)
    filled = lambda dtype, shape=(1,): Built(*empty, (1, shape, dtype, False, content))
    for value in (
        filled(kind("O8", None, None, None, -1, -1, 0)),
        filled(kind("f8", (np.dtype("f8"), (10**6,)), None, None, -1, -1, 0), (10**6,)),
        filled(kind("V8", None, ("a",), {"a": (np.dtype("f8"), 10**6)}, 8, 1, 0)),
        filled(kind("f8"), (2**33,)),
        filled(kind("f8"), (-1,)),
        Call(np.ndarray, (2**33,), np.dtype("f8")),
        Call(empty[0], np.ndarray, (2**33,), b"b"),
    ):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps([value], protocol))
        with pytest.raises(FormatError, match="not a pickle of arrays"):
            read_pickle(tmp_path / "a.pkl")


def test_small_files_cannot_ask_for_much(tmp_path):
    "Each would cost gigabytes or minutes if it were believed."
    shared = b"]" + b"".join(b"q%c](h%ch%ce" % (i, i, i) for i in range(40)) + b"."
    for content in (b"\x80\x02]r\x00\x00\x00\x08.", b"\x80\x02" + shared):
        (tmp_path / "a.pkl").write_bytes(content)
        try:
            read_pickle(tmp_path / "a.pkl")
        except FormatError:
            pass
    with pytest.raises(FormatError, match="more lines than"):
        parse_ntu(b"1\n" + b"\n" * 10_000_000, NAME)
    with pytest.raises(FormatError, match="more than"):
        parse_nwucla(b"[]," * 6_000_000, "a01_s01_e01_v01")
    people = [{"pose": [0.5] * 36, "score": [0.5] * 18}] * 100
    with pytest.raises(FormatError, match="100 people in 10000 frames"):
        parse_kinetics(json.dumps({"data": [{"frame_index": 9999, "skeleton": people}]}).encode(), "v")
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(1 << 24))
    (tmp_path / "bomb.npz").rename(tmp_path / "bomb.npy")
    with pytest.raises(FormatError, match="more than 64 times its size"):
        read_array(tmp_path / "bomb.npy", "coco17")


def test_a_member_that_lies_about_its_size_is_not_unpacked(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{NAME}.skeleton", bytes(50 << 20))
    content = path.read_bytes()
    path.write_bytes(content.replace((50 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with pytest.raises(FormatError, match="damaged in the archive"):
        F.read_ntu(path, NAME)


def test_damaged_zips_are_refused(tmp_path):
    "Bits flipped anywhere in an archive, of every way to pack."
    rng, text, refused = random.Random(0), format_ntu(recording(T=2)), 0
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = tmp_path / f"{method}.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr(f"x/{NAME}.skeleton", text)
        content = path.read_bytes()
        for _ in range(250):
            path.write_bytes(mutate(rng, content))
            try:
                assert finite(F.read_ntu(path, NAME))
            except FormatError:
                refused += 1
    assert refused > 300


def test_numbers_that_only_python_reads_are_no_numbers():
    text = format_ntu(recording(M=1, T=1))
    for line, new in (
        (1, "0_1"),
        (3, "x"),
        (4, "2_5"),
        (4, "\u0662\u0665"),
        (5, "0.1_2 0 0 0 0 0 0 0 0 0 0 2"),
        (5, "\u0661 0 0 0 0 0 0 0 0 0 0 2"),
    ):
        if line != 3:  # the body's own line is read by nobody
            with pytest.raises(FormatError):
                parse_ntu(damage(text, line, new), NAME)
    for name in ("S001C001P001R001A000", "S001C001P001R001A121", "S\u0660\u0660\u0661C001P001R001A001"):
        with pytest.raises(FormatError, match="not an NTU sample name"):
            ntu_attributes(name)
    for values in ([["1"] * 3] * 20, [[True] * 3] * 20, [[3e38] * 3] * 20):
        with pytest.raises(FormatError):
            parse_nwucla(json.dumps({"skeletons": [values]}).encode(), "a01_s01_e01_v01")


def test_own_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 17, 2)))
    (one,) = read_array(tmp_path / "a.npy", "coco17")
    assert one.name == "a" and one.bodies.shape == (1, 4, 17, 2) and one.present.all() and one.label is None
    for array, reason in (
        (np.ones((4, 16, 2)), "expected \\(T, V, C\\)"),
        (np.ones((0, 17, 2)), "expected \\(T, V, C\\)"),
        (np.full((4, 17, 2), np.nan), "NaN, infinity .* in frame 0"),
        (np.full((4, 17, 2), 1e300), "beyond all bounds"),
        (np.full((4, 17, 2), "a"), "expected numbers"),
        (np.array([None]), "no .npy or .npz of plain arrays"),
    ):
        np.save(tmp_path / "b.npy", array, allow_pickle=True)
        with pytest.raises(FormatError, match=reason):
            read_array(tmp_path / "b.npy", "coco17")
    with pytest.raises(KeyError, match="no layout 'coco'"):
        read_array(tmp_path / "a.npy", "coco")
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(1 << 24))  # 128 MiB out of 128 kB
    with pytest.raises(FormatError, match="more than 64 times its size"):
        read_array(tmp_path / "bomb.npz", "coco17")


# --- ten thousand damaged files ----------------------------------------------------------------------------


def mutate(rng: random.Random, content: bytes) -> bytes:
    "Flip bits, cut, double or swap lines, drop or repeat a piece."
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        kind, at = rng.randrange(6), rng.randrange(len(data) + 1)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            lines = bytes(data).split(b"\n")
            i = rng.randrange(len(lines))
            lines.insert(i, lines[i])
            data = bytearray(b"\n".join(lines))
        elif kind == 3:
            del data[at : at + rng.randrange(1, 40)]
        elif kind == 4:
            data[at:at] = data[at : at + rng.randrange(1, 40)]
        else:
            data[at:at] = rng.choice(
                (b"nan", b"-", b"1e999", b"\xff", b" ", b"\n", b"\0", b"9" * 30, b"\x0b", b"\xc2\x85", b"_", b".")
            )
    return bytes(data)


def originals(tmp_path) -> dict:
    "A sound file of each format, and its reader of bytes."
    write_jhmdb(tmp_path / "jhmdb", [("run", np.ones((3, 15, 2))), ("sit", np.zeros((2, 15, 2)))], [[0], [1], [0, 1]])
    write_pyskl(tmp_path / "a.pkl", [recording(M=1, T=2)], {"xsub_train": [NAME]})
    np.savez(tmp_path / "a.npz", one=np.ones((2, 17, 2)), labels=np.array([1]))
    np.save(tmp_path / "a.npy", np.ones((2, 17, 2), np.float32))

    def through(path, read):
        def reader(content):
            path.write_bytes(content)
            return read(path)

        return path.read_bytes(), reader

    nwucla = json.dumps({"file_name": "a", "skeletons": np.ones((2, 20, 3)).tolist()}).encode()
    return {
        "ntu": (format_ntu(recording(T=3)).encode(), lambda c: parse_ntu(c, NAME)),
        "kinetics": (format_kinetics(picture(T=2, M=2)).encode(), lambda c: parse_kinetics(c, "v")),
        "nwucla": (nwucla, lambda c: parse_nwucla(c, "a01_s01_e01_v01")),
        "sbu": (sbu_text(2).encode(), lambda c: parse_sbu(c, "s01s02_01_001")),
        "jhmdb": through(tmp_path / "jhmdb" / "GT_train_3.pkl", lambda p: read_jhmdb(p.parent)),
        "pyskl": through(tmp_path / "a.pkl", lambda p: list(read_pyskl(p))),
        "npz": through(tmp_path / "a.npz", lambda p: read_array(p, "coco17")),
        "npy": through(tmp_path / "a.npy", lambda p: read_array(p, "coco17")),
    }


def finite(result) -> bool:
    results = result if isinstance(result, list) else [result]
    return all(np.isfinite(r.bodies).all() and r.bodies.dtype == np.float32 for r in results)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # numpy warns of headers and overflows while it refuses them
def test_ten_thousand_damaged_files_are_read_or_refused(tmp_path):
    rng = random.Random(0)
    refused = dict.fromkeys(formats := originals(tmp_path), 0)
    share = {"ntu": 4000}
    for name, (content, read) in formats.items():
        for _ in range(share.get(name, 860)):
            bad = mutate(rng, content)
            try:
                assert finite(read(bad))
            except FormatError as error:
                assert str(error) and error.reason
                refused[name] += 1
    assert sum(share.get(name, 860) for name in formats) >= 10_000
    assert all(n > 100 for n in refused.values()), refused


def test_damaged_ntu_files_are_the_same_to_both_readers():
    "Wherever the quick reader gives an answer, the plain one gives the same."
    rng, content, answers = random.Random(1), format_ntu(recording(T=2)).encode(), 0
    for _ in range(2000):
        bad = mutate(rng, content)
        try:
            quick = F._scan_ntu(bad, 25)
        except (ValueError, IndexError):
            continue
        assert same(quick, F._walk_ntu("", bad, 25))
        answers += 1
    assert answers > 200
