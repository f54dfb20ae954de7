"""Archives of the size and structure of full NTU RGB+D, filled with made movement.

They exercise what must work at full size. NTU RGB+D 120 is 113,945 files with more than eight million frames. Whether
preprocessing keeps its memory flat, whether a loader keeps up and how long an epoch takes can only be seen at that
size, and the data are licensed: not everybody who works on the code may have them. The archives made here look the
same from outside, from the sample names that the project ships: same names, same folders, same lines, same number of
frames.

They are stand-ins. No result on them is a result on NTU RGB+D, and every archive says so in its comment. The whole,
made once on two cores that had other work to do as well: 113,945 clips with 26.3 GB of text became archives of 12.7
GB in ten minutes, with 230 MB of memory at most for all three processes together.

- Which clips: each name has a number between 0 and 1 that depends only on the seed, and a share holds the names below
  it. So shares are nested, and the stand-in of NTU 60 is the first archive of that of NTU 120.
- How long: the lengths of the real clips are not known here. A log-normal distribution is assumed, cut at 20 and 300
  frames, whose mean of 71 makes about eight million frames. The three cameras see one performance.
- What moves: a class is a few oscillations of the limbs. Two people face each other where NTU's classes have two. One
  clip in 25 has a "body" that is none, in one out of 20 a body is lost for some frames.
- The text: Python would format 200 million lines in most of an hour. So numbers are looked up in tables of ready
  digits, as words of four bytes; bytes that are not needed are zero, and one pass at the end drops them.
- The archives: each process compresses its clips, and the one that writes appends the finished pieces, for which
  `zipfile` has no call.
- The folder: the official archives have the same names, so it is written to only if it is new, or if all that is in
  it is a stand-in.
"""

import json
import math
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stf_repro.data.benchmarks import Benchmark
from stf_repro.data.registry import BENCHMARKS
from stf_repro.data.io import end_with_parent, is_companion, new_folder
from stf_repro.data.sets.ntu import ntu_attributes
from stf_repro.data.sources import Source
from stf_repro.data.synthetic.body import body, draw_person, generator, idle, turning


@dataclass(frozen=True)
class StandinConfig:
    "What a stand-in is like."

    seed: int = 0
    share: float = 1.0  # of the names

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")


def share_of(
    names: list[str],  # of NTU samples
    config: StandinConfig = StandinConfig(),
) -> list[str]:  # some of them, in order
    "The names that a share holds."
    bar = config.share * 2**32
    return [name for name in sorted(names) if zlib.crc32(f"{config.seed}/{name}".encode()) < bar]


def draw_length(rng: np.random.Generator) -> int:
    "Number of frames of a performance."
    return int(np.clip(round(float(rng.lognormal(math.log(64.3), 0.45))), 20, 300))


_LIMBS = (  # how far a joint swings with its limb
    {5: 0.45, 6: 0.9, 7: 1.0, 21: 1.1, 22: 1.05},  # left arm
    {9: 0.45, 10: 0.9, 11: 1.0, 23: 1.1, 24: 1.05},
    {13: 0.6, 14: 0.9, 15: 1.0},  # left leg
    {17: 0.6, 18: 0.9, 19: 1.0},
    {1: 0.3, 20: 0.6, 2: 0.8, 3: 1.0, 4: 0.6, 5: 0.6, 6: 0.6, 7: 0.6, 8: 0.6, 9: 0.6, 10: 0.6, 11: 0.6}
    | {21: 0.6, 22: 0.6, 23: 0.6, 24: 0.6},  # trunk, and what hangs on it
)
_TWO_PERSON = frozenset((*range(50, 61), *range(106, 121)))  # actions of NTU with two people


@lru_cache(maxsize=256)
def class_moves(
    action: int,  # A of the sample name
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:  # (2 people, 3 waves, 75) metres; (3,) cycles a second
    "The oscillations that make a class."
    rng = generator(seed, 21, action)
    swing = np.zeros((2, 3, 25, 3))
    for person in swing:
        for wave in person:
            limb = int(rng.integers(len(_LIMBS)))
            reach = (0.3, 0.3, 0.2, 0.2, 0.12)[limb] * rng.uniform(0.5, 1)
            direction = rng.standard_normal(3)
            direction *= reach / np.linalg.norm(direction)
            for joint, part in _LIMBS[limb].items():
                wave[joint] += part * direction
    return swing.reshape(2, 3, 75), rng.uniform(0.25, 1.6, 3)


@lru_cache(maxsize=8)
def _standing(seed: int) -> np.ndarray:
    "A person who stands at the origin and looks along -z: (25, 3)."
    rng = generator(seed, 22)
    person = draw_person(rng, 1.72)
    return body(person, idle(rng, 1, person))[0]


_ANGLE = {1: 0.0, 2: math.pi / 4, 3: -math.pi / 4}  # of the three cameras


def _performers(rng: np.random.Generator, at: dict[str, int], T: int, seed: int) -> np.ndarray:
    "What happens in the room: (M, T, 25, 3)."
    M = 2 if at["action"] in _TWO_PERSON else 1
    swing, hertz = class_moves(at["action"], seed)
    tempo, size, tall = (
        rng.uniform(0.85, 1.15),
        rng.uniform(0.75, 1.25),
        0.88 + 0.24 * (at["subject"] * 0.618 % 1),
    )
    seconds, phase = np.arange(T) / 30, rng.uniform(0, 2 * np.pi, (M, 1, 3))
    waves = (
        np.sin(2 * np.pi * tempo * hertz * seconds[:, None] + phase)
        * np.sin(np.pi * np.arange(1, T + 1) / (T + 1))[:, None]
    )
    people = size * (waves @ swing[:M]).reshape(M, T, 25, 3) + tall * _standing(seed)
    towards = _ANGLE[2 if at["replication"] == 1 else 3] + rng.uniform(-0.3, 0.3)
    apart = 0.45 if M == 2 else 0.0
    for m in range(M):
        R = turning(1, np.array([towards + (np.pi / 2 - np.pi * m) * (M == 2)]))[0]
        people[m] = (people[m] + [0, 0, apart]) @ R.T
    return people + np.array([rng.uniform(-0.3, 0.3), 0, rng.uniform(-0.3, 0.3)])


def standin_bodies(
    name: str,  # of an NTU sample
    config: StandinConfig = StandinConfig(),
) -> tuple[np.ndarray, np.ndarray]:  # (M, T, 25, 3) metres in the camera's coordinates, (M, T) bool
    "The bodies of a clip, in the order in which the file lists them."
    at = ntu_attributes(name)
    rng = generator(config.seed, 23, at["setup"], at["subject"], at["replication"], at["action"])
    T = draw_length(rng)
    people = _performers(rng, at, T, config.seed)
    rng = generator(config.seed, 24, at["setup"], at["subject"], at["replication"], at["action"], at["camera"])
    R = turning(1, np.array([-_ANGLE[at["camera"]]]))[0]
    away, high = 2.5 + 0.2 * (at["setup"] * 7 % 9), 0.9 + 0.1 * (at["setup"] * 5 % 8)
    bodies = people @ R.T + [0, -high, away] + 0.004 * rng.standard_normal(people.shape)
    present = np.ones((len(bodies), T), bool)
    lost, ghost, first = rng.random(3) < (0.05, 0.04, 0.5)
    if lost:
        start = int(rng.integers(0, T - 6))
        present[rng.integers(len(bodies)), start : start + int(rng.integers(1, 7))] = False
    if ghost:
        shape = _standing(config.seed) * [1, 0.4, 1] + [rng.choice([-1.0, 1.0]), -high, away + 0.6]
        start = int(rng.integers(0, T - 5))
        seen = (np.arange(T) >= start) & (np.arange(T) < start + int(rng.integers(5, T)))
        extra = (shape + 0.01 * rng.standard_normal((1, T, 25, 3)), seen[None])
        pairs = (extra, (bodies, present)) if first else ((bodies, present), extra)
        bodies, present = (np.concatenate(x) for x in zip(*pairs))
    return bodies, present


def _words(texts: list[str]) -> np.ndarray:
    "Texts of at most four bytes as numbers of four bytes."
    return np.array([text.encode() for text in texts], "S4").view(np.uint32)


@lru_cache(maxsize=1)
def _tables() -> dict[str, np.ndarray]:
    "Ready digits."
    return {
        "whole": _words([f"{n}." for n in range(100)] + [f"-{n}." for n in range(100)]),
        "four": _words([f"{n:04d}" for n in range(10_000)]),
        "three": _words([f"{n:03d} " for n in range(1000)]),
        "pixel": _words([str(n) for n in range(2000)]),
        "point": _words([f".{n:03d}" for n in range(1000)]),
        "one": _words([f"{n} " for n in range(10)]),
        "end": _words([f"{n}\r\n" for n in range(3)]),
    }


def _write_metres(out: np.ndarray, values: np.ndarray) -> None:
    "Numbers (..., n) between -100 and 100, with seven decimals, into words (..., 3 n)."
    tables, units = _tables(), np.round(np.abs(values) * 1e7).astype(np.uint32)
    whole = units // 10_000_000
    rest = units - whole * 10_000_000
    high = rest // 1000
    out[..., 0::3] = tables["whole"].take(whole + 100 * (values < 0))
    out[..., 1::3] = tables["four"].take(high)
    out[..., 2::3] = tables["three"].take(rest - high * 1000)


def _write_pixels(out: np.ndarray, values: np.ndarray) -> None:
    "Numbers (..., n) from 0 to 1999, with four decimals, into words (..., 3 n)."
    tables, units = _tables(), np.round(values * 1e4).astype(np.uint32)
    whole = units // 10_000
    rest = units - whole * 10_000
    high = rest // 10
    out[..., 0::3] = tables["pixel"].take(whole)
    out[..., 1::3] = tables["point"].take(high)
    out[..., 2::3] = tables["one"].take(rest - high * 10)


_ENDS = (3, 15, 19, 21, 22, 23, 24)  # joints without orientation
_LINE = 34  # words of four bytes that a line takes


def _pixels(bodies: np.ndarray) -> np.ndarray:
    "Where depth and colour camera see joints (..., 3): x, y, x, y."
    x, y, z = np.moveaxis(bodies, -1, 0)
    right, down = x / z, -y / z
    seen = np.stack([256 + 365 * right, 208 + 365 * down, 975 + 1060 * right, 535 + 1060 * down], -1)
    return np.clip(seen, 0, [511, 423, 1919, 1079])


def _orientations(bodies: np.ndarray) -> np.ndarray:
    "Unit quaternions for joints (M, T, 25, 3): they follow how far a joint is from where it began."
    base = np.cos(np.arange(100).reshape(25, 4) * 2.4)  # some direction for each joint
    q = np.repeat((base / np.linalg.norm(base, axis=1, keepdims=True))[None, None], bodies.shape[1], 1)  # (1, T, 25, 4)
    q = np.repeat(q, len(bodies), 0)
    q[..., 1:] += 0.6 * (bodies - bodies[:, :1])
    return q / np.sqrt((q * q).sum(-1, keepdims=True))


def format_standin(
    bodies: np.ndarray,  # (M, T, 25, 3) metres, before the camera
    present: np.ndarray,  # (M, T) bool
    first_id: int = 72057594037931101,  # body identity of the first; the others count on
) -> bytes:
    "The text of a `.skeleton` file with all fields, and with the line ends of the official files."
    if not ((np.abs(bodies) < 99).all() and (bodies[..., 2] > 0).all()):  # also catches NaN
        raise ValueError("bodies must lie before the camera, less than 99 metres away in each direction")
    M, T = present.shape
    out = np.zeros((T, 1 + 26 * M, _LINE), np.uint32)
    counts = [f"{n}\r\n" for n in present.sum(0)]
    counts[0] = f"{T}\r\n{counts[0]}"
    heads = out[:, 0].view(f"S{4 * _LINE}")
    heads[:, 0] = [text.encode() for text in counts]
    for m in range(M):
        lean = np.round(0.3 * (bodies[m, :, 20, [0, 2]] - bodies[m, :, 0, [0, 2]]), 8)  # (2, T)
        head = out[:, 1 + 26 * m].view(f"S{4 * _LINE}")
        head[:, 0] = [
            f"{first_id + 7 * m} 0 1 1 1 1 0 {x:.7f} {y:.7f} 2\r\n25\r\n".encode() for x, y in lean.T.tolist()
        ]
    lines = out[:, 1:].reshape(T, M, 26, _LINE)[:, :, 1:]  # (T, M, 25, words), a view
    places = np.ascontiguousarray(bodies.swapaxes(0, 1))  # (T, M, 25, 3)
    _write_metres(lines[..., :9], places)
    _write_pixels(lines[..., 9:21], _pixels(places))
    _write_metres(lines[..., 21:33], _orientations(bodies).swapaxes(0, 1))
    lines[:, :, _ENDS, 21:33] = 0
    lines[:, :, _ENDS, 21:33:3] = _tables()["one"][0]
    lines[..., 33] = _tables()["end"][2]
    lines[:, :, (7, 11, 21, 22, 23, 24), 33] = _tables()["end"][1]  # hands: inferred
    for m, t in np.argwhere(~present):
        out[t, 1 + 26 * m : 27 + 26 * m] = 0
    return out.tobytes().translate(None, b"\0")


STAND_IN = b"STAND-IN, made by stf_repro: this is not NTU RGB+D, and no result on it is a result on NTU RGB+D."
ARCHIVES = (  # name, folder inside, set-ups
    ("nturgbd_skeletons_s001_to_s017.zip", "nturgb+d_skeletons", range(1, 18)),
    ("nturgbd_skeletons_s018_to_s032.zip", "nturgb+d_skeletons120", range(18, 33)),
)


def _pack(task: tuple[list[str], StandinConfig]) -> list[tuple[int, int, bytes]]:
    "Checksum, size and compressed text of some clips."
    names, config = task
    packed = []
    for name in names:
        text = format_standin(*standin_bodies(name, config), 72057594037931101 + zlib.crc32(name.encode()) % 100_000)
        squeeze = zlib.compressobj(1, zlib.DEFLATED, -15)
        packed.append((zlib.crc32(text), len(text), squeeze.compress(text) + squeeze.flush()))
    return packed


def _append(archive: zipfile.ZipFile, name: str, crc: int, size: int, raw: bytes) -> None:
    "Append a compressed file to an archive that is open for writing."
    info = zipfile.ZipInfo(name)  # dated 1980, so that the same clips give the same bytes
    info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
    info.CRC, info.file_size, info.compress_size = crc, size, len(raw)
    info.header_offset = archive.fp.tell()
    archive.fp.write(info.FileHeader(zip64=False))
    archive.fp.write(raw)
    archive.filelist.append(info)
    archive.NameToInfo[name] = info
    archive.start_dir = archive.fp.tell()


def _in_order(tasks: list, workers: int) -> Iterator[list[tuple[int, int, bytes]]]:
    "Results of `_pack`, in the order of the tasks; only a few are under way."
    if workers == 1:
        yield from map(_pack, tasks)
        return
    with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
        waiting: deque = deque()
        for task in tasks:
            waiting.append(pool.submit(_pack, task))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _stand_in_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    "A new archive that says what it is."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = STAND_IN
        yield archive


_MARK = "standin.json"


def _refuse_foreign(folder: Path) -> None:
    "Raise if a folder holds anything but a stand-in."
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (path.name == _MARK and path.is_file()) or is_companion(path.name):
            continue
        ours = path.name in [name for name, *_ in ARCHIVES] and path.is_file() and path.stat().st_size > len(STAND_IN)
        if ours:
            with open(path, "rb") as file:
                file.seek(-len(STAND_IN), 2)
                ours = file.read() == STAND_IN
        if not ours:
            raise FileExistsError(f"{path} is no stand-in and is left as it is: choose another folder for the stand-in")


def _plan(names: list[str], config: StandinConfig) -> list[tuple[str, str, list[str]]]:
    "Archive, folder inside, and names of clips."
    if len(set(names)) < len(names):
        raise ValueError(f"{len(names) - len(set(names))} sample names stand more than once in the list")
    kept, plan = share_of(names, config), []
    setups = [ntu_attributes(name)["setup"] for name in kept]
    outside = [name for name, setup in zip(kept, setups) if not 1 <= setup <= 32]
    if outside or not kept:
        found = (
            f"{outside[0]} has a set-up beyond 32"
            if outside
            else f"a share of {config.share} of {len(names)} names is empty"
        )
        raise ValueError(f"expected names of NTU samples, S001... to S032...; {found}")
    for archive, inside, numbers in ARCHIVES:
        clips = [name for name, setup in zip(kept, setups) if setup in numbers]
        plan += [(archive, inside, clips)] if clips else []
    return plan


def make_standin(
    folder,  # where the archives go; an earlier stand-in there is replaced, anything else refused
    names: list[str],  # of NTU samples, e.g. from `ntu_samples`
    config: StandinConfig = StandinConfig(),
    progress: bool = True,  # show a bar
    workers: int | None = None,  # processes; None: one
) -> int:  # number of clips
    "Make a stand-in of NTU RGB+D. An interrupted call leaves nothing under the final name."
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; expected a number of processes from 1 up")
    folder, plan = Path(folder), _plan(names, config)
    _refuse_foreign(folder)
    with (
        new_folder(folder, _MARK) as part,
        tqdm(disable=None if progress else True, unit="clip", total=sum(len(c) for *_, c in plan)) as bar,
    ):
        for archive_name, inside, clips in plan:
            blocks = [clips[i : i + 32] for i in range(0, len(clips), 32)]
            with _stand_in_zip(part / archive_name) as archive:
                for block, packed in zip(blocks, _in_order([(b, config) for b in blocks], workers or 1)):
                    for name, piece in zip(block, packed):
                        _append(archive, f"{inside}/{name}.skeleton", *piece)
                    bar.update(len(block))
        mark = {
            "what": STAND_IN.decode(),
            "config": asdict(config),
            "clips": {name: len(clips) for name, _, clips in plan},
        }
        (part / _MARK).write_text(json.dumps(mark, indent=1) + "\n")
        _refuse_foreign(folder)
    return sum(len(clips) for *_, clips in plan)


def mock_source(
    n: int,  # 60 or 120
) -> Source:
    "A stand-in as a source that `preprocess` reads: no name is known of which a file must be there."
    setups = frozenset(range(1, 18 if n == 60 else 33))
    return Source(f"standin{n}", "ntu25", "ntu", (), "", "made by tests/mock_ntu.py", setups=setups)


def mock_benchmarks(
    n: int,  # 60 or 120
) -> list[Benchmark]:
    "The two protocols of NTU, on its stand-in."
    real = [b for b in BENCHMARKS.values() if b.source == f"ntu{n}"]
    return [replace(b, key=b.key.replace("ntu", "standin"), source=f"standin{n}", other_sources=()) for b in real]
