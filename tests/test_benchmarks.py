"""Protocols: the counts of the paper's Table 1, and what the rules say of single samples."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from stf_repro.data.benchmarks import (
    BENCHMARKS,
    NTU_CLASSES,
    Benchmark,
    Rule,
    count_parts,
    get_benchmark,
    missing_ntu,
    ntu_samples,
)
from stf_repro.data.formats import NWUCLA_ACTIONS, ntu_attributes
from stf_repro.data.synthetic import ACTIONS
from stf_repro.skeleton import LAYOUTS

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module")
def attributes():
    return [ntu_attributes(name) for name in ntu_samples(DATA / "ntu")]


def table1():
    with open(DATA / "reference" / "table1_datasets.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["dataset"].startswith("NTU")]


@pytest.mark.parametrize("row", table1(), ids=lambda row: f"{row['dataset']}-{row['protocol']}")
def test_counts_equal_the_published_table(row, attributes):
    benchmark = get_benchmark(f"{row['dataset']}-{row['protocol']}".lower())
    assert count_parts(benchmark, attributes) == (int(row["train_sequences"]), int(row["test_sequences"]))
    assert len(benchmark.classes) == int(row["classes"]) and len(LAYOUTS[benchmark.layout]) == int(
        row["keypoints"]
    )
    if row["train_groups"]:
        assert len(benchmark.rule.train) == int(row["train_groups"])
        assert len(benchmark.rule.test) == int(row["test_groups"])


def test_training_groups_are_those_of_the_shipped_facts():
    "Two people may have as many samples as each other, so the counts alone do not pin the lists."
    text = (DATA / "ntu" / "README.md").read_text()
    first = re.search(r"NTU 60 x-sub: training subjects ([\d ]+)\.", text)[1]
    more = re.search(r"NTU 120 x-sub: training subjects those and ([\d ]+)\.", text)[1]
    first, more = ({int(n) for n in part.split()} for part in (first, more))
    assert BENCHMARKS["ntu60-xsub"].rule.train == first
    assert BENCHMARKS["ntu120-xsub"].rule.train == first | more


def test_missing_lists():
    assert len(missing_ntu(DATA / "ntu")) == 535
    assert sum(ntu_attributes(name)["setup"] <= 17 for name in missing_ntu(DATA / "ntu")) == 302


def test_every_sample_of_a_protocol_has_one_part(attributes):
    first = [a for a in attributes if a["setup"] <= 17]
    for key in ("ntu120-xsub", "ntu120-xset"):
        assert sum(count_parts(BENCHMARKS[key], attributes)) == len(attributes)
    for key in ("ntu60-xsub", "ntu60-xview"):
        assert sum(count_parts(BENCHMARKS[key], attributes)) == len(first)


def test_ntu60_leaves_out_the_later_setups():
    late = {"setup": 18, "camera": 1, "subject": 1, "replication": 1, "action": 61}
    assert BENCHMARKS["ntu60-xsub"].split(late) is None and BENCHMARKS["ntu120-xsub"].split(late) == "train"


def test_nwucla_cameras():
    parts = [BENCHMARKS["nwucla"].split({"camera": camera}) for camera in (1, 2, 3, 4)]
    assert parts == ["train", "train", "test", None]


def test_class_names():
    with open(DATA / "ntu" / "class_names.tsv") as file:
        assert [line.rstrip("\n").split("\t")[1] for line in file][1:] == list(NTU_CLASSES)
    assert len(BENCHMARKS["nwucla"].classes) == len(NWUCLA_ACTIONS)
    assert BENCHMARKS["synth60-xsub"].classes == ACTIONS[:14] and BENCHMARKS["synth120-xsub"].classes == ACTIONS
    for benchmark in BENCHMARKS.values():
        assert len(set(benchmark.classes)) == len(benchmark.classes) and benchmark.layout in LAYOUTS


def test_unknown_key_names_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'ntu120-xset'"):
        get_benchmark("ntu120_xset")


def test_a_sample_without_the_attribute_is_an_error():
    with pytest.raises(KeyError, match="ntu60-xsub splits by 'subject'.*camera"):
        BENCHMARKS["ntu60-xsub"].split({"camera": 1, "setup": 1})


def test_a_value_cannot_train_and_test():
    with pytest.raises(ValueError, match="subject .2. would both"):
        Rule("subject", frozenset({1, 2}), frozenset({2, 3}))


def test_indices_are_the_places_of_a_part():
    class Store(list):
        def attributes(self, i):
            return {"subject": self[i]}

    mine = Benchmark("mine", "mine", "ntu25", ("a",), 1, Rule("subject", frozenset({1}), frozenset({2})))
    store = Store([1, 2, 3, 1, 2])
    np.testing.assert_array_equal(mine.indices(store, "train"), [0, 3])
    np.testing.assert_array_equal(mine.indices(store, "test"), [1, 4])
    with pytest.raises(ValueError, match="'val'"):
        mine.indices(store, "val")
