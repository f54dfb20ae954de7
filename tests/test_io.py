"Folders: links, other disks, other operating systems, and processes that die between two renames."

import ast
import multiprocessing
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stf_repro.data import io as folders
from stf_repro.data.clip_store import Clip, ClipStore, StoreError, StoreWriter, write_store
from stf_repro.data.io import is_companion, new_folder, project_root, real, remove, walk
from stf_repro.data.formats import Recording
from stf_repro.data.sets.ntu import format_ntu, ntu_attributes
from stf_repro.data.synthetic.actions import SyntheticConfig
from stf_repro.data.synthetic.files import make_synthetic
from stf_repro.data.preprocess import list_recordings, preprocess
from stf_repro.data.registry import SOURCES, get_source
from stf_repro.data.sources import fetch
from stf_repro.skeleton import LAYOUTS

NTU = LAYOUTS["ntu25"]
SMALL = SyntheticConfig(subjects=1, shortest=20, longest=20)


def text(name: str) -> str:
    body = np.random.default_rng(0).normal(size=(1, 3, 25, 3)).astype(np.float32)
    return format_ntu(Recording(name, body, np.ones((1, 3), bool), NTU, 0, ntu_attributes(name)))


def clips(n: int, value: float = 1.0) -> list[Clip]:
    return [Clip(f"c{i}", 0, {}, [np.full((2, 25, 3), value, np.float32)], 2, np.eye(3)) for i in range(n)]


# --- listing -------------------------------------------------------------------------------------------


def test_a_data_set_behind_links_is_listed_once_and_without_companions(tmp_path):
    "As `ln -s /data/nturgb+d_skeletons raw/ntu60/`; a link back to the top is no endless loop."
    disk, raw = tmp_path / "disk" / "nturgb+d_skeletons", tmp_path / "raw"
    disk.mkdir(parents=True)
    raw.mkdir()
    names = [f"S001C00{c}P001R001A001" for c in (1, 2, 3)]
    for name in names:
        (disk / f"{name}.skeleton").write_text(text(name))
        (disk / f"._{name}.skeleton").write_bytes(b"\0\5\x16\7")  # AppleDouble
    (disk / ".DS_Store").touch()
    (disk / "Thumbs.db").touch()
    (disk / "__MACOSX").mkdir()
    (disk / "__MACOSX" / f"{names[0]}.skeleton").touch()
    (raw / "data").symlink_to(disk)
    (raw / "again").symlink_to(disk)
    (disk / "up").symlink_to(raw)
    assert [item.name for item in list_recordings(SOURCES["synth60"], raw)] == names
    (tmp_path / "link").symlink_to(raw)
    assert preprocess("synth60", tmp_path / "link", tmp_path / "out", progress=False)["clips"] == 3


def test_a_link_into_nothing_is_said(tmp_path):
    (tmp_path / "raw").symlink_to(tmp_path / "not mounted")
    with pytest.raises(FileNotFoundError, match="raw is a link to .*not mounted, which is not there"):
        list_recordings(SOURCES["synth60"], tmp_path / "raw")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").symlink_to(tmp_path / "not mounted")
    with pytest.raises(FileNotFoundError, match="data is a link to .*not mounted, which is not there"):
        list_recordings(SOURCES["synth60"], tmp_path / "other")


def test_a_folder_that_may_not_be_read_is_not_an_empty_one(tmp_path, monkeypatch):
    (tmp_path / "raw" / "secret").mkdir(parents=True)
    scan = os.scandir

    def closed(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError):
        list(walk(tmp_path / "raw"))


def test_names_in_any_case_loose_and_in_a_zip_of_another_system(tmp_path):
    names = [f"S001C00{c}P001R001A001" for c in (1, 2, 3)]
    (tmp_path / "raw" / "deep").mkdir(parents=True)
    (tmp_path / "raw" / f"{names[0].lower()}.SKELETON").write_text(text(names[0]))
    with zipfile.ZipFile(tmp_path / "raw" / "deep" / "NTU.ZIP", "w") as archive:
        archive.writestr(f"ntu\\{names[1]}.Skeleton", text(names[1]))
        archive.writestr(f"ntu/{names[2]}.skeleton", text(names[2]))
        archive.writestr(f"__MACOSX/ntu/._{names[2]}.skeleton", b"\0")
        archive.writestr("ntu/.DS_Store", b"\0")
    (tmp_path / "raw" / "._NTU.zip").write_bytes(b"\0\5\x16\7")
    preprocess("synth60", tmp_path / "raw", tmp_path / "out", progress=False)
    store = ClipStore.open(tmp_path / "out")
    assert store.names == names and store.attributes(0) == ntu_attributes(names[0])


def test_archives_that_somebody_brought_may_lie_behind_a_link(tmp_path, monkeypatch):
    monkeypatch.delenv("STF_MIRROR", raising=False)
    for key, name in (("ntu60", "NTURGBD_skeletons_s001_to_s017.ZIP"), ("kinetics", "Kinetics_Train_Label.JSON")):
        (tmp_path / "disk" / key).mkdir(parents=True)
        if name.endswith("ZIP"):
            with zipfile.ZipFile(tmp_path / "disk" / key / name, "w") as archive:
                archive.writestr("a", "b")
        else:
            (tmp_path / "disk" / key / name).write_text("{}")
        (tmp_path / key).mkdir()
        with pytest.raises(FileNotFoundError, match="not for free download"):
            fetch(get_source(key), tmp_path / key)
        (tmp_path / key / "data").symlink_to(tmp_path / "disk" / key)
        assert fetch(get_source(key), tmp_path / key) == tmp_path / key


def test_a_download_goes_through_the_link(tmp_path):
    "A file on another disk that is not there yet, and a raw folder that is not there yet."
    source, mirror = SOURCES["ntu60-pyskl"], tmp_path / "mirror" / "ntu60-pyskl"
    mirror.mkdir(parents=True)
    name = source.files[0].name
    (mirror / name).write_bytes(b"content")
    (tmp_path / "disk").mkdir()
    (tmp_path / "raw").symlink_to(tmp_path / "disk" / "raw")
    (tmp_path / "disk" / "raw").mkdir()
    (tmp_path / "raw" / name).symlink_to(tmp_path / "disk" / "big.pkl")
    fetch(source, tmp_path / "raw", tmp_path / "mirror", progress=False)
    assert (tmp_path / "raw").is_symlink() and (tmp_path / "raw" / name).is_symlink()
    assert (tmp_path / "disk" / "big.pkl").read_bytes() == b"content"


@pytest.mark.parametrize(
    "name", ["._S001.skeleton", ".DS_Store", "Thumbs.db", "THUMBS.DB", "__MACOSX", "@eaDir", ".git"]
)
def test_companions(name):
    assert is_companion(name) and not is_companion("S001.skeleton") and not is_companion("-aBc_.json")


# --- writing -------------------------------------------------------------------------------------------


def make_set(folder):
    return make_synthetic(folder, SMALL, progress=False)


def make_store(folder):
    return len(write_store(folder, clips(2), "made", NTU))


@pytest.mark.parametrize("make", [make_set, make_store])
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_on_another_disk_is_written_through_its_link(tmp_path, make, there):
    "Twice, with what a killed call has left; nothing blocks, and nothing is left but the set and the lock of a store."
    disk, link = tmp_path / "disk" / "set", tmp_path / "link"
    disk.parent.mkdir()
    if there:
        disk.mkdir()
    link.symlink_to(disk)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").touch()
    for kind in range(3):
        for stale in (".set.old", ".set.part", "set.part"):
            path = disk.parent / stale
            if kind == 0:
                path.symlink_to(tmp_path / "elsewhere")
            elif kind == 1:
                path.write_text("a file")
        if kind == 0:
            (tmp_path / ".link.old").symlink_to(tmp_path / "elsewhere")
        if make is not make_store:
            remove(disk.parent / "set.part")
        elif kind < 2:
            remove(disk.parent / ".set.part")
        assert make(link) > 0
        assert link.is_symlink() and disk.is_dir() and not disk.is_symlink()
        assert {p.name for p in disk.parent.iterdir()} <= {"set", ".set.lock"}
    assert (tmp_path / "elsewhere" / "mine").exists()
    if make is make_store:
        ClipStore.open(link).check()


def test_a_killed_replacement_is_undone(tmp_path):
    "Killed between the two renames: only the old store is left, under its other name. The next writer puts it back, and fails."
    write_store(tmp_path / "s", clips(2), "made", NTU)
    os.replace(tmp_path / "s", tmp_path / ".s.old")
    with pytest.raises(ValueError, match="no clips"):
        write_store(tmp_path / "s", [], "made", NTU)
    assert len(ClipStore.open(tmp_path / "s")) == 2 and not (tmp_path / ".s.old").exists()


@pytest.mark.parametrize("fault", ["rename", "open"])
def test_a_writer_that_fails_at_the_very_end_costs_nobody_the_older_store(tmp_path, monkeypatch, fault):
    write_store(tmp_path / "s", clips(2), "made", NTU)
    replace, opened = os.replace, ClipStore.open.__func__

    def full(source, target):
        if str(source).endswith(".part") and str(target).endswith("/s"):
            raise OSError(18, "Invalid cross-device link")
        return replace(source, target)

    def bad(cls, path):
        if str(path).endswith(".part"):
            raise StoreError("damaged")
        return opened(cls, path)

    with monkeypatch.context() as patch, pytest.raises((OSError, StoreError)):
        patch.setattr(folders.os, "replace", full) if fault == "rename" else patch.setattr(
            ClipStore, "open", classmethod(bad)
        )
        write_store(tmp_path / "s", clips(5, 2.0), "made", NTU)
    store = ClipStore.open(tmp_path / "s")
    store.check()
    assert len(store) == 2 and store.frames[0, 0, 0] == 1
    assert len(write_store(tmp_path / "s", clips(5, 2.0), "made", NTU)) == 5


@pytest.mark.parametrize("make", [make_set, make_store])
def test_the_root_of_a_disk_is_written_inside(tmp_path, monkeypatch, make):
    "It cannot be renamed, and beside it lies another file system."
    disk = tmp_path / "disk"
    (disk / "lost+found").mkdir(parents=True)
    (tmp_path / "link").symlink_to(disk)
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(disk))
    for _ in range(2):
        assert make(tmp_path / "link") > 0
        assert {p.name for p in tmp_path.iterdir()} == {"disk", "link"}
        assert not [p.name for p in disk.iterdir() if "part" in p.name or "old" in p.name]
    assert (disk / "lost+found").is_dir() and (make is make_set or len(ClipStore.open(disk)) == 2)


def test_what_is_no_store_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    (tmp_path / "letter").write_text("dear")
    for name in ("photos", "letter"):
        with pytest.raises(FileExistsError, match=f"{name} exists and is no clip store"):
            write_store(tmp_path / name, clips(1), "made", NTU)
        with (
            pytest.raises(FileExistsError, match=f"{name} exists and is no synthetic data set"),
            new_folder(tmp_path / name),
        ):
            pass
    assert (tmp_path / "photos" / "holiday.jpg").exists() and (tmp_path / "letter").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".DS_Store").touch()
    assert len(write_store(tmp_path / "empty", clips(1), "made", NTU)) == 1


def test_two_links_to_one_store_share_its_lock(tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / "store")
    with StoreWriter(tmp_path / "a", "made", NTU), pytest.raises(StoreError, match="another process"):
        StoreWriter(tmp_path / "b", "made", NTU)


def test_real(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "not there yet")
    assert real(tmp_path / "link") == tmp_path / "not there yet" and real("relative/path").parts == ("relative", "path")


def test_project_root(tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert project_root() == tmp_path.resolve()
    (tmp_path / "dvc.yaml").unlink()
    if not any((Path(folder) / "dvc.yaml").exists() for folder in tmp_path.parents):
        with pytest.raises(FileNotFoundError, match="no dvc.yaml"):
            project_root()


WORKERS = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from stf_repro.data.io import end_with_parent

if __name__ == "__main__":
    with ProcessPoolExecutor(2, multiprocessing.get_context(sys.argv[1]), initializer=end_with_parent) as pool:
        print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
        time.sleep(100)
"""


@pytest.mark.parametrize("method", [m for m in ("fork", "forkserver") if m in multiprocessing.get_all_start_methods()])
def test_workers_end_with_the_process_that_began_them(tmp_path, method):
    "Which cannot tell them, for it is killed; without the initializer they wait for work for ever."
    (tmp_path / "run.py").write_text(WORKERS)
    process = subprocess.Popen([sys.executable, str(tmp_path / "run.py"), method], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    process.kill()
    process.wait()

    def runs(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        state = Path(f"/proc/{pid}/stat")  # a zombie has ended, though nobody has taken note
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"

    end = time.monotonic() + 60
    while workers and any(map(runs, workers)):
        assert time.monotonic() < end, "the workers go on"
        time.sleep(0.02)
    process.stdout.close()
    assert workers


def test_every_pool_has_workers_that_end_with_it(root):
    calls = []
    for path in (root / "stf_repro").rglob("*.py"):
        calls += [
            (path.name, {k.arg: ast.unparse(k.value) for k in n.keywords})
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and ast.unparse(n.func).endswith("ProcessPoolExecutor")
        ]
    assert len(calls) >= 2 and all(options.get("initializer") == "end_with_parent" for _, options in calls), calls
