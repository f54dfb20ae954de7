"""Fetching: hashes, mirrors, and a local server that drops the connection."""

import hashlib
import http.server
import re
import threading
import zipfile

import pytest

from stf_repro.data.registry import SOURCES, get_source
from stf_repro.data.sources import HashError, RawFile, Source, content_sha256, download, fetch, file_sha256

FILES = {f"all_sqe/a01_s01_e{i:02d}_v01.json": bytes([i]) * 40_000 for i in range(5)}


def write_zip(path, files, prefix="", method=zipfile.ZIP_STORED):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return path


def tiny_source(url=None, **hashes):
    file = RawFile("all_sqe.zip", url, "data/NW-UCLA/", "all_sqe/*.json", **hashes)
    return Source("nwucla", "kinect20", "nwucla", (file,), "", "made for a test")


@pytest.fixture
def content_hash():
    lines = "".join(f"{hashlib.sha256(FILES[name]).hexdigest()}  {name}\n" for name in sorted(FILES))
    return hashlib.sha256(lines.encode()).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    "Serves one file; cuts the first `drops` answers in the middle. `change` is what it serves from then on."

    def __init__(self, content, drops=0, ranges=True, status=None, busy=0, change=None, headers=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.drops, self.ranges, self.status, self.busy = content, drops, ranges, status, busy
        self.change, self.headers, self.asked = change, headers or {}, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/archive.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        version = f'"{hashlib.md5(server.content).hexdigest()}"'
        partial = wanted and server.ranges and self.headers.get("If-Range") == version
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if partial else 0
        if server.busy:
            server.busy -= 1
            self.send_error(503)
            return
        if server.status:
            self.send_error(server.status)
            return
        if partial and start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if partial else 200)
        headers = {"Content-Length": str(len(body)), "ETag": version}
        if partial:
            headers["Content-Range"] = f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
        for name, value in (headers | server.headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if server.drops:
            server.drops -= 1
            body = body[: len(body) // 2]
            server.content = server.change or server.content
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr("stf_repro.data.sources.time.sleep", lambda seconds: None)
    monkeypatch.delenv("STF_MIRROR", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    servers = []

    def start(content, **options):
        servers.append(Server(content, **options))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def repository(tmp_path):
    "The archive of a repository as a code host packs it: one top folder, and files we do not want."
    files = {f"ctrgcn-9985073/data/NW-UCLA/{name}": content for name, content in FILES.items()}
    files |= {"ctrgcn-9985073/main.py": b"no", "ctrgcn-9985073/data/NW-UCLA/other/all_sqe/x.json": b"no"}
    return write_zip(tmp_path / "served" / "repository.zip", files).read_bytes()


def test_download_resumes_after_a_dropped_connection(serve, tmp_path, repository):
    server = serve(repository, drops=1)
    path = download(server.url, tmp_path / "file.zip", progress=False)
    assert path.read_bytes() == repository
    assert server.asked == [None, f"bytes={len(repository) // 2}-"]
    assert not (tmp_path / "file.zip.part").exists()


def test_download_goes_on_from_an_earlier_run(serve, tmp_path, repository):
    server = serve(repository)
    version = f'"{hashlib.md5(repository).hexdigest()}"'
    for name, have in (("file.zip", 1000), ("whole.zip", len(repository))):
        (tmp_path / f"{name}.part").write_bytes(repository[:have])
        (tmp_path / f"{name}.part.version").write_text(version)
        assert download(server.url, tmp_path / name, progress=False).read_bytes() == repository
    assert server.asked == ["bytes=1000-", f"bytes={len(repository)}-"]
    assert sorted(path.name for path in tmp_path.glob("*.zip*")) == ["file.zip", "whole.zip"]


def test_two_versions_of_a_file_are_never_mixed(serve, tmp_path):
    old, new = bytes(100_000), bytes(range(256)) * 500
    server = serve(old, drops=1, change=new)
    assert download(server.url, tmp_path / "a.pkl", progress=False).read_bytes() == new
    (tmp_path / "b.pkl.part").write_bytes(
        old
    )  # longer or other than what the server has now, and no word of which version
    assert download(server.url, tmp_path / "b.pkl", progress=False).read_bytes() == new
    (tmp_path / "c.pkl.part").write_bytes(old + new)
    (tmp_path / "c.pkl.part.version").write_text(f'"{hashlib.md5(new).hexdigest()}"')
    assert download(server.url, tmp_path / "c.pkl", progress=False).read_bytes() == new


@pytest.mark.parametrize(
    "headers,reason",
    [
        ({"Content-Type": "text/html; charset=utf-8"}, "a web page instead of the file"),
        ({"Content-Length": None}, "does not say how long"),
    ],
)
def test_what_is_no_sure_answer_is_refused_at_once(serve, tmp_path, headers, reason):
    server = serve(b"x" * 1000, headers=headers)
    with pytest.raises(ConnectionError, match=reason):
        download(server.url, tmp_path / "a.pkl", progress=False)
    assert len(server.asked) == 1 and not (tmp_path / "a.pkl").exists()


def test_an_answer_that_starts_elsewhere_is_not_appended(serve, tmp_path):
    server = serve(b"abc" * 1000, drops=1, headers={"Content-Range": "bytes 7-2999/3000"})
    with pytest.raises(ConnectionError, match="asked for bytes from 1500 on"):
        download(server.url, tmp_path / "a.pkl", progress=False)


def test_a_busy_server_is_asked_again(serve, tmp_path):
    server = serve(b"x" * 1000, busy=3)
    assert download(server.url, tmp_path / "a.pkl", progress=False).stat().st_size == 1000
    assert len(server.asked) == 4


def test_download_begins_anew_where_the_server_knows_no_ranges(serve, tmp_path, repository):
    server = serve(repository, drops=1, ranges=False)
    assert download(server.url, tmp_path / "file.zip", progress=False).read_bytes() == repository
    assert len(server.asked) == 2


def test_download_gives_up_with_advice(serve, tmp_path):
    server = serve(b"")
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match="five tries.*file.zip.part; run again.*STF_MIRROR"):
        download(url, tmp_path / "file.zip", progress=False)


def test_an_http_error_is_told_at_once(serve, tmp_path):
    server = serve(b"x", status=404)
    with pytest.raises(ConnectionError, match="the server answers 404 Not Found"):
        download(server.url, tmp_path / "file.zip", progress=False)
    assert len(server.asked) == 1


def test_fetch_takes_one_folder_of_the_repository(serve, tmp_path, repository, content_hash):
    server = serve(repository, drops=1)
    source = tiny_source(server.url, sha256="0" * 64, content_sha256=content_hash)
    into = fetch(source, tmp_path / "raw", progress=False)
    assert [path.name for path in into.iterdir()] == ["all_sqe.zip"]
    with zipfile.ZipFile(into / "all_sqe.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == FILES
    first = (into / "all_sqe.zip").read_bytes()
    asked = len(server.asked)
    fetch(source, into, progress=False)  # it is there: the server is not asked again
    assert len(server.asked) == asked
    assert (fetch(source, tmp_path / "again", progress=False) / "all_sqe.zip").read_bytes() == first


def test_a_wrong_download_is_removed(serve, tmp_path, repository, content_hash):
    source = tiny_source(serve(repository).url, content_sha256="1" * 64)
    with pytest.raises(HashError, match=f"expected SHA-256 of the content {'1' * 64}, found {content_hash}.*removed"):
        fetch(source, tmp_path / "raw", progress=False)
    assert not list((tmp_path / "raw").iterdir())


def test_a_page_instead_of_an_archive_is_removed(serve, tmp_path):
    source = tiny_source(serve(b"<html>gone</html>").url, content_sha256="1" * 64)
    with pytest.raises(HashError, match="17 bytes that are no sound zip"):
        fetch(source, tmp_path / "raw", progress=False)
    assert not list((tmp_path / "raw").iterdir())


def test_a_member_that_leaves_its_folder_is_refused(serve, tmp_path):
    evil = write_zip(tmp_path / "evil.zip", {"top/data/NW-UCLA/all_sqe/../../../x.json": b"x"}).read_bytes()
    with pytest.raises(HashError, match="would leave its folder"):
        fetch(tiny_source(serve(evil).url, content_sha256="1" * 64), tmp_path / "raw", progress=False)


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_the_mirror_comes_first(tmp_path, monkeypatch, content_hash, by):
    path = write_zip(tmp_path / "mirror" / "nwucla" / "all_sqe.zip", FILES)
    monkeypatch.delenv("STF_MIRROR", raising=False)
    if by == "environment":
        monkeypatch.setenv("STF_MIRROR", str(tmp_path / "mirror"))
    mirror = tmp_path / "mirror" if by == "argument" else None
    for name, hashes in (
        ("file", {"sha256": file_sha256(path)}),
        ("content", {"sha256": "0" * 64, "content_sha256": content_hash}),
    ):
        source = tiny_source("http://127.0.0.1:1/never", **hashes)
        into = fetch(source, tmp_path / name, mirror, progress=False)
        assert (into / "all_sqe.zip").read_bytes() == path.read_bytes()


def test_a_wrong_mirror_is_told_with_both_hashes(tmp_path):
    path = write_zip(tmp_path / "mirror" / "nwucla" / "all_sqe.zip", FILES)
    source = tiny_source(sha256="2" * 64)
    with pytest.raises(HashError, match=f"expected SHA-256 {'2' * 64}, found {file_sha256(path)}"):
        fetch(source, tmp_path / "raw", tmp_path / "mirror", progress=False)
    assert path.exists() and not list((tmp_path / "raw").iterdir())
    with pytest.raises(NotADirectoryError, match="STF_MIRROR"):
        fetch(source, tmp_path / "raw", tmp_path / "nowhere", progress=False)


def test_a_wrong_file_of_the_user_is_left_alone(tmp_path):
    path = write_zip(tmp_path / "raw" / "all_sqe.zip", FILES)
    with pytest.raises(HashError, match="Remove it and run again"):
        fetch(get_source("nwucla"), path.parent, progress=False)
    assert path.exists()


def test_content_hash_does_not_depend_on_the_packing(tmp_path, content_hash):
    stored = write_zip(tmp_path / "a.zip", FILES)
    packed = write_zip(tmp_path / "b.zip", dict(reversed(FILES.items())), method=zipfile.ZIP_DEFLATED)
    assert file_sha256(stored) != file_sha256(packed)
    assert content_sha256(stored) == content_sha256(packed) == content_hash


def test_licensed_data_is_told_with_page_and_place(tmp_path, monkeypatch):
    monkeypatch.delenv("STF_MIRROR", raising=False)
    first, second = (file.name for file in SOURCES["ntu120"].files)
    with pytest.raises(
        FileNotFoundError, match=f"Missing in .*raw: {first}, {second}.*rose1.ntu.edu.sg.*without unpacking"
    ):
        fetch(get_source("ntu120"), tmp_path / "raw")
    write_zip(tmp_path / "raw" / first, {"a": b"a"})
    with pytest.raises(FileNotFoundError, match=f"raw: {second}"):
        fetch(get_source("ntu120"), tmp_path / "raw")
    (tmp_path / "raw" / second).touch()
    with pytest.raises(HashError, match=f"{second} is no zip archive"):
        fetch(get_source("ntu120"), tmp_path / "raw")
    write_zip(tmp_path / "raw" / second, {"a": b"a"})
    assert fetch(get_source("ntu120"), tmp_path / "raw") == tmp_path / "raw"


def test_unpacked_archives_do_as_well(tmp_path, monkeypatch):
    monkeypatch.delenv("STF_MIRROR", raising=False)
    (tmp_path / "raw" / "nturgb+d_skeletons").mkdir(parents=True)
    (tmp_path / "raw" / "nturgb+d_skeletons" / "S001C001P001R001A001.skeleton").touch()
    assert fetch(get_source("ntu60"), tmp_path / "raw") == tmp_path / "raw"


def test_an_unknown_hash_is_recorded_on_the_first_download(tmp_path):
    "A later download of the same name has to agree; what is wrong is not kept."
    mirror = tmp_path / "mirror" / "ntu60-pyskl"
    mirror.mkdir(parents=True)
    source = get_source("ntu60-pyskl")
    file = mirror / source.files[0].name
    file.write_bytes(b"the first")
    into = fetch(source, tmp_path / "raw", tmp_path / "mirror", progress=False)
    noted = (into / f"{file.name}.sha256").read_text()
    assert noted == f"{hashlib.sha256(b'the first').hexdigest()}  {file.name}\n"  # as sha256sum -c reads it
    fetch(source, into, tmp_path / "mirror", progress=False)
    (into / file.name).unlink()
    file.write_bytes(b"another")
    with pytest.raises(HashError, match="expected SHA-256 .*removed"):
        fetch(source, into, tmp_path / "mirror", progress=False)
    assert not (into / file.name).exists()
    (into / file.name).write_bytes(b"damaged later")
    with pytest.raises(HashError, match=f"Remove it and {file.name}.sha256 and run again"):
        fetch(source, into, tmp_path / "mirror", progress=False)


def test_single_files_are_fetched_and_resumed(serve, tmp_path):
    "An address that is the file itself, such as those of JHMDB."
    content = bytes(range(256)) * 1000
    server = serve(content, drops=1)
    source = Source(
        "jhmdb", "jhmdb15", "jhmdb", (RawFile("a.pkl", server.url, sha256=hashlib.sha256(content).hexdigest()),), "", ""
    )
    assert (fetch(source, tmp_path / "raw", progress=False) / "a.pkl").read_bytes() == content
    assert server.asked == [None, f"bytes={len(content) // 2}-"]
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["a.pkl"]


def test_made_data_is_not_fetched(tmp_path):
    with pytest.raises(ValueError, match="stf download synth60"):
        fetch(get_source("synth60"), tmp_path / "raw")


def test_unknown_source_names_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'nwucla'"):
        get_source("nw-ucla")


def test_pinned_values():
    fetched = [(s.key, f) for s in SOURCES.values() for f in s.files if f.url]
    assert {key for key, _ in fetched} == {
        "nwucla",
        "sbu",
        "jhmdb",
        "ntu60-pyskl",
        "ntu120-pyskl",
        "ntu60-hrnet",
        "ntu120-hrnet",
    }
    for key, file in fetched:
        assert file.url.startswith("https://")
        if "openmmlab" not in file.url:  # all others are pinned to a commit, and by hash
            assert re.search(r"/[0-9a-f]{40}\b", file.url) and len(file.sha256) == 64, key
            assert bool(file.inside) == bool(file.content_sha256)
