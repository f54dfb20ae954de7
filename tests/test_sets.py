"Data sets: what each must say of itself, and that a new one is one file and one line."

import os
import shutil
import subprocess
import sys

import pytest

from stf_repro.data.registry import BENCHMARKS, SETS, SOURCES
from stf_repro.data.sets.contract import Archive, Files
from stf_repro.skeleton import LAYOUTS


@pytest.mark.parametrize("key", SETS)
def test_what_a_data_set_says_fits_together(key):
    "Each source can be read, each benchmark has clips of its layout, and no two share a name."
    for source in SETS[key].sources:
        assert isinstance(SETS[source.format].reader, Files | Archive) and source.layout in LAYOUTS
    for benchmark in SETS[key].benchmarks:
        for name in (benchmark.source, *benchmark.other_sources):
            assert LAYOUTS[SOURCES[name].layout] == benchmark.layout and benchmark.rule.train and benchmark.rule.test
        assert len(set(benchmark.classes)) == len(benchmark.classes) > 1
    assert len(SOURCES) == sum(len(s.sources) for s in SETS.values())
    assert len(BENCHMARKS) == sum(len(s.benchmarks) for s in SETS.values())


NEW = '''"""Three numbers a joint, a line a frame: made up for a test."""
from pathlib import Path

import numpy as np

from ..benchmarks import Benchmark, Rule
from ..formats import FormatError, Recording, read_lines
from ..sources import Source
from ...skeleton import LAYOUTS
from .contract import DataSet, Files


def parse(text, item):
    kind, person = item.name.split("_")
    rows = [line.split() for line in read_lines(item, text)]
    if any(len(row) != 45 for row in rows):
        raise FormatError(item, 1, "expected 45 numbers a line")
    body = np.array(rows, np.float32).reshape(1, -1, 15, 3)
    seen = np.ones(body.shape[:2], bool)
    return Recording(item.name, body, seen, LAYOUTS["sbu15"], ("bow", "wave").index(kind), {"person": int(person)})


RULE = Rule("person", frozenset({0, 1}), frozenset({2}))
DANCE = DataSet(
    "dance",
    (Source("dance", "sbu15", "dance", (), "", "made for a test"),),
    (Benchmark("dance", "dance", LAYOUTS["sbu15"], ("bow", "wave"), 1, RULE),),
    Files(".pose", lambda path: Path(path).stem, parse),
)
'''
USE = """
from pathlib import Path
import numpy as np
from stf_repro.data.clip_store import ClipStore
from stf_repro.data.preprocess import BadFilesError, preprocess
from stf_repro.data.registry import get_benchmark
from stf_repro.training.config import parse
from stf_repro.training.fingerprint import code_hash

rng = np.random.default_rng(0)
for kind in ("bow", "wave"):
    for person in range(3):
        Path("raw", kind).mkdir(parents=True, exist_ok=True)
        np.savetxt(Path("raw", kind, f"{kind}_{person}.POSE"), rng.normal(size=(6, 45)))
assert preprocess("dance", "raw", "clips", progress=False)["clips"] == 6
store = ClipStore.open("clips")
assert [len(get_benchmark("dance").indices(store, part)) for part in ("train", "test")] == [4, 2]
Path("raw", "bow_9.pose").write_text("1 2 3")
try:
    preprocess("dance", "raw", "clips", progress=False)
    raise SystemExit("the bad file was not told")
except BadFilesError as error:
    assert "bow_9.pose, line 1: expected 45 numbers a line" in str(error), error
"""
HASH = """
from stf_repro.training.config import parse
from stf_repro.training.fingerprint import code_hash
print(code_hash(parse({"group": "t", "label": "M", "source": "sbu", "benchmark": "sbu-1"})))
"""


@pytest.mark.slow
def test_a_new_data_set_is_a_file_and_a_line_and_retrains_nothing(root, tmp_path):
    "Listed, read, split; a bad file of it is told with its line."
    shutil.copytree(root / "stf_repro", tmp_path / "stf_repro", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}

    def run(code: str) -> str:
        call = [sys.executable, "-c", code]
        result = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert result.returncode == 0, result.stderr
        return result.stdout

    before = run(HASH)
    (tmp_path / "stf_repro" / "data" / "sets" / "dance.py").write_text(NEW)
    table = tmp_path / "stf_repro" / "data" / "registry.py"
    text = table.read_text().replace("from .sets.jhmdb", "from .sets.dance import DANCE\nfrom .sets.jhmdb", 1)
    table.write_text(text.replace("(NTU, PYSKL,", "(DANCE, NTU, PYSKL,", 1))
    run(USE)
    assert run(HASH) == before
