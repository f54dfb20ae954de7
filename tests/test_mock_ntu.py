"Stand-ins of full NTU RGB+D: the official structure, readable files, nested shares, and nobody's own archive touched."

import dataclasses
import itertools
import json
import zipfile

import mock_ntu as sta
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_repro.data.sets.ntu import ntu_samples
from stf_repro.data.clip_store import ClipStore
from stf_repro.data.formats import FormatError
from stf_repro.data.sets.ntu import parse_ntu
from stf_repro.data.preprocess import preprocess
from stf_repro.data.samplers import Clips, replay

SMALL = sta.StandinConfig(share=0.0012)


@pytest.fixture(scope="module")
def names(root):
    return ntu_samples(root / "data" / "ntu")


@pytest.fixture(scope="module")
def made(names, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "standin"
    return folder, sta.make_standin(folder, names, SMALL, progress=False, workers=2)


def members(folder):
    "Text of each clip, and the archive and folder it lies in."
    found = {}
    for path in sorted(folder.glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None and archive.comment == sta.STAND_IN
            for name in archive.namelist():
                inside, _, clip = name.rpartition("/")
                found[clip.removesuffix(".skeleton")] = (path.name, inside, archive.read(name))
    return found


def test_archives_are_laid_out_as_the_official_ones(made, names):
    folder, count = made
    found = members(folder)
    assert list(found) == sta.share_of(names, SMALL) and len(found) == count > 80
    for name, (archive, inside, _) in found.items():
        first = int(name[1:4]) <= 17
        assert archive == f"nturgbd_skeletons_s{'001_to_s017' if first else '018_to_s032'}.zip"
        assert inside == ("nturgb+d_skeletons" if first else "nturgb+d_skeletons120")
    assert {p.name for p in folder.iterdir()} == {a for a, *_ in found.values()} | {"standin.json"}
    mark = json.loads((folder / "standin.json").read_text())
    assert "not NTU RGB+D" in mark["what"] and mark["config"] == dataclasses.asdict(SMALL)
    assert sum(mark["clips"].values()) == count


def test_files_read_back(made):
    folder, _ = made
    for name, (_, _, text) in members(folder).items():
        bodies, present = sta.standin_bodies(name, SMALL)
        recording = parse_ntu(text, name)
        assert recording.bodies.shape[1] == present.shape[1] and 20 <= present.shape[1] <= 300
        assert (recording.present.sum(0) == present.sum(0)).all()
        for t, there in enumerate(present.T):
            gap = recording.bodies[: there.sum(), t] - bodies[there, t]
            assert np.abs(gap).max(initial=0) < 1e-6  # float32 of some metres


def test_every_line_has_its_fields():
    name = "S020C001P050R001A110"
    bodies, present = sta.standin_bodies(name)
    text = sta.format_standin(bodies, present).decode()
    assert text.endswith("\r\n") and text.count("\n") == text.count("\r\n") and "\0" not in text
    lines, at = text.split("\r\n")[:-1], 1
    assert int(lines[0]) == len(present.T)
    for t in range(len(present.T)):
        count, at = int(lines[at]), at + 1
        assert count == present[:, t].sum()
        for _ in range(count):
            assert len(lines[at].split(" ")) == 10 and lines[at].startswith("72057594037") and lines[at + 1] == "25"
            joints = np.array([line.split(" ") for line in lines[at + 2 : at + 27]], float)
            assert joints.shape == (25, 12)
            assert (0 <= joints[:, 3:7]).all() and (joints[:, 3:7] <= [511, 423, 1919, 1079]).all()
            size = np.linalg.norm(joints[:, 7:11], axis=1)
            assert ((size == 0) | (np.abs(size - 1) < 1e-6)).all() and (size == 0).sum() == 7
            assert set(joints[:, 11]) <= {0, 1, 2}
            at += 27
    assert at == len(lines)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-98.9, 98.9), min_size=1, max_size=30),
    st.lists(st.floats(0, 1999.4), min_size=1, max_size=30),
)
def test_digits_are_those_of_python(metres, pixels):
    "Against Python's own formatting of the same rounded numbers."
    for values, write, digits in ((metres, sta._write_metres, 7), (pixels, sta._write_pixels, 4)):
        out = np.zeros(3 * len(values), np.uint32)
        write(out, np.array(values))
        texts = out.tobytes().translate(None, b"\0").decode().split(" ")[:-1]
        assert [len(text.partition(".")[2]) for text in texts] == [digits] * len(values)
        # half a unit of the last digit, and the rounding of a double
        assert np.abs(np.array(texts, float) - values).max() <= 0.5 * 10.0**-digits + 1e-12


def test_two_person_classes_have_two_bodies(names):
    counts = {1: [], 2: []}
    for name in names[::400]:
        two = 50 <= int(name[17:]) <= 60 or 106 <= int(name[17:]) <= 120
        counts[1 + two].append(len(sta.standin_bodies(name)[0]))
    for expected, found in counts.items():
        assert set(found) <= {expected, expected + 1} and np.mean(np.array(found) == expected) > 0.85
    assert any(n == 2 for n in counts[1])  # now and then a body that is none


def test_faults_and_lengths(names):
    some = names[::300]
    clips = [sta.standin_bodies(name) for name in some]
    lengths = np.array([len(present.T) for _, present in clips])
    assert abs(lengths.mean() - 71) < 5  # standard error of 380 clips: 1.7
    assert 0.02 < np.mean([not present.all() for _, present in clips]) < 0.2
    views = [len(sta.standin_bodies(f"S001C00{c}P001R001A007")[1].T) for c in (1, 2, 3)]
    assert len(set(views)) == 1  # one performance


def test_the_views_of_a_performance_agree():
    "Without noise, cameras differ by a turn: heights and distances between joints are the same."
    a, b = (sta.standin_bodies(f"S002C00{c}P003R001A012")[0] for c in (1, 3))
    people = [x[[m for m in range(len(x)) if np.ptp(x[m, :, 7, 0]) > 0.05]] for x in (a, b)]
    assert np.abs(people[0][:1, :, :, 1] - people[1][:1, :, :, 1]).max() < 0.05  # noise of 4 mm, twice, in the extreme
    assert np.abs(people[0][:1, :, :, 0] - people[1][:1, :, :, 0]).max() > 0.1


def test_shares_are_nested_and_of_the_right_size(names):
    shares = [set(sta.share_of(names, sta.StandinConfig(share=s))) for s in (0.01, 0.1, 0.5, 1.0)]
    assert all(a < b for a, b in itertools.pairwise(shares)) and shares[-1] == set(names)
    for s, kept in zip((0.01, 0.1, 0.5), shares):
        n = len(names) * s
        assert abs(len(kept) - n) < 5 * (n * (1 - s)) ** 0.5  # five standard deviations
    assert sta.share_of(names[::-1], SMALL) == sta.share_of(names, SMALL)
    assert sta.share_of(names, dataclasses.replace(SMALL, seed=1)) != sta.share_of(names, SMALL)
    first = [n for n in names if int(n[1:4]) <= 17]
    assert set(sta.share_of(first, SMALL)) == set(sta.share_of(names, SMALL)) & set(first)


def test_same_bytes_for_any_number_of_workers(made, names, tmp_path):
    folder, _ = made
    sta.make_standin(tmp_path / "one", names, SMALL, progress=False)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()
    other = dataclasses.replace(SMALL, seed=1)
    name = sta.share_of(names, SMALL)[0]
    assert (
        sta.standin_bodies(name, other)[0].shape != sta.standin_bodies(name, SMALL)[0].shape
        or (sta.standin_bodies(name, other)[0] != sta.standin_bodies(name, SMALL)[0]).any()
    )


def test_a_licensed_archive_is_never_touched(names, tmp_path):
    few = names[:3]
    for case, mine in (("no mark", False), ("with mark", True)):
        folder = tmp_path / case
        if mine:  # a stand-in into which somebody has put the real thing
            sta.make_standin(folder, few, progress=False)
        else:
            folder.mkdir()
        own = folder / sta.ARCHIVES[0][0]
        with zipfile.ZipFile(own, "w") as archive:
            archive.writestr("nturgb+d_skeletons/S001C001P001R001A001.skeleton", "licensed")
        before = own.read_bytes()
        with pytest.raises(FileExistsError, match="no stand-in"):
            sta.make_standin(folder, few, progress=False)
        assert own.read_bytes() == before
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="notes.txt"):
        sta.make_standin(folder, few, progress=False)
    assert (folder / "notes.txt").read_text() == "keep"


def test_an_archive_that_comes_while_we_work_is_kept(names, tmp_path, monkeypatch):
    folder, pack = tmp_path / "standin", sta._pack

    def slow(task):
        folder.mkdir(exist_ok=True)
        (folder / sta.ARCHIVES[0][0]).write_bytes(b"PK licensed")
        return pack(task)

    monkeypatch.setattr(sta, "_pack", slow)
    with pytest.raises(FileExistsError):
        sta.make_standin(folder, names[:3], progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["standin"]
    assert (folder / sta.ARCHIVES[0][0]).read_bytes() == b"PK licensed"


def test_a_stand_in_is_replaced_and_an_interruption_leaves_the_old_one(names, tmp_path, monkeypatch):
    folder = tmp_path / "standin"
    sta.make_standin(folder, names[:3], progress=False)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert sta.make_standin(folder, names[:5], progress=False) == 5
    sta.make_standin(folder, names[:3], progress=False)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before

    def interrupted(task):
        raise KeyboardInterrupt

    monkeypatch.setattr(sta, "_pack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sta.make_standin(folder, names[:5], progress=False)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["standin"]


def test_bad_input_is_refused(names, tmp_path):
    for share in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share"):
            sta.StandinConfig(share=share)
    for bad, error in (
        (["S001"], FormatError), (["S033C001P001R001A001"], ValueError), ([], ValueError), (names[:1] * 2, ValueError)
    ):  # fmt: skip
        with pytest.raises(error):
            sta.make_standin(tmp_path / "x", bad, progress=False)
    assert list(tmp_path.iterdir()) == []
    bodies, present = sta.standin_bodies(names[0])
    for shift in ([0, 0, -10], [120, 0, 0], [float("nan"), 0, 0]):
        with pytest.raises(ValueError, match="camera"):
            sta.format_standin(bodies + shift, present)


def test_a_stand_in_goes_from_its_archives_to_a_batch(made, tmp_path):
    "Preprocessed, and split by the protocols of NTU 60 and 120; of the archives of NTU 120, NTU 60 reads the first."
    folder, count = made
    for n in (60, 120):
        source, benchmarks = sta.mock_source(n), sta.mock_benchmarks(n)
        clips = preprocess(source, folder, tmp_path / source.key, workers=1, progress=False)["clips"]
        store = ClipStore.open(tmp_path / source.key)
        assert store.source == source.key and clips == (count if n == 120 else sum(x < "S018" for x in members(folder)))
        for benchmark in benchmarks:
            parts = [benchmark.indices(store, part) for part in ("train", "test")]
            assert all(len(part) for part in parts) and not set(parts[0]) & set(parts[1])
            assert benchmark.source == source.key and store.labels.max() < len(benchmark.classes) == n
        assert len(benchmarks) == 2
    x, _ = replay(Clips(store), torch.arange(8), 50)
    assert x.shape == (8, 3, 50, 25, 2) and torch.isfinite(x).all() and x.any()
