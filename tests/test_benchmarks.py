"""Protocols: the counts of the paper's Table 1, and what the rules say of single samples."""

import csv
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_repro.data.benchmarks import Benchmark, Rule, count_parts, held_out, subset
from stf_repro.data.registry import BENCHMARKS, get_benchmark
from stf_repro.data.sets.ntu import NTU_CLASSES, missing_ntu, ntu_samples
from stf_repro.data.sets.ntu import ntu_attributes
from stf_repro.data.sets.nwucla import NWUCLA_ACTIONS
from stf_repro.data.synthetic.actions import ACTIONS
from stf_repro.data.class_names import class_names
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
    assert len(benchmark.classes) == int(row["classes"]) and len(benchmark.layout) == int(row["keypoints"])
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
        assert (
            len(set(benchmark.classes)) == len(benchmark.classes) and benchmark.layout == LAYOUTS[benchmark.layout.name]
        )


def test_class_names_are_files_of_the_package():
    sizes = {"ntu": 120, "kinetics": 400, "nwucla": 10, "sbu": 8, "jhmdb": 14, "synthetic": 24}
    assert {key: len(class_names(key)) for key in sizes} == sizes
    for key in sizes:
        assert all(name == name.strip() != "" for name in class_names(key))
    with pytest.raises(KeyError, match="no class names of 'ucla'; known: jhmdb, kinetics, ntu, nwucla, sbu, synthetic"):
        class_names("ucla")
    packaged = tomllib.loads((DATA.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert packaged["stf_repro.data"] == ["classes/*.txt"]


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

    mine = Benchmark("mine", "mine", LAYOUTS["ntu25"], ("a",), 1, Rule("subject", frozenset({1}), frozenset({2})))
    store = Store([1, 2, 3, 1, 2])
    np.testing.assert_array_equal(mine.indices(store, "train"), [0, 3])
    np.testing.assert_array_equal(mine.indices(store, "test"), [1, 4])
    with pytest.raises(ValueError, match="'val'"):
        mine.indices(store, "val")


# --- shares of the training clips --------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    percent=st.sampled_from([5, 10, 20, 25, 33.3, 50, 100]),
    seed=st.integers(0, 1000),
    nested=st.booleans(),
    stratified=st.booleans(),
)
def test_shares_have_their_size_and_order(sizes, percent, seed, nested, stratified):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    chosen = subset(labels, percent, seed, nested, stratified)
    assert len(chosen) == round(len(labels) * percent / 100) == len(set(chosen.tolist()))
    assert (np.diff(chosen) > 0).all() and (subset(labels, percent, seed, nested, stratified) == chosen).all()
    if nested:
        assert set(subset(labels, percent / 2, seed, True, stratified)) <= set(chosen)
    if stratified:  # rounding a share gives half a clip, the fixed total a little more
        counts = np.bincount(labels[chosen], minlength=len(sizes))
        assert (np.abs(counts - np.array(sizes) * len(chosen) / len(labels)) < 2).all()


def test_shares_differ_by_seed_and_are_uniform():
    labels = np.zeros(200, int)
    hits = sum(np.isin(np.arange(200), subset(labels, 10, seed)) for seed in range(400))
    assert abs(hits.mean() - 40) < 1e-9 and 20 < hits.min() and hits.max() < 65  # binomial, 6 standard deviations is 36
    assert not set(subset(labels, 10, 0)) <= set(subset(labels, 20, 0))  # not nested unless asked
    for percent in (0, -1, 101, float("nan")):
        with pytest.raises(ValueError, match="more than 0 and at most 100"):
            subset(labels, percent)


# --- the other data sets -----------------------------------------------------------------------------------


def test_folds_and_splits_cover_each_pair_once():
    folds = [BENCHMARKS[f"sbu-{k}"].rule for k in range(1, 6)]
    pairs = sorted(pair for rule in folds for pair in rule.test)
    assert len(pairs) == len(set(pairs)) == 21  # as many pairs of actors as the data set has
    for rule in folds:
        assert sorted(rule.train | rule.test) == pairs
    for k in (1, 2, 3):
        place = {"split1": 0, "split2": 0, "split3": 0} | {f"split{k}": 1}
        assert [BENCHMARKS[f"jhmdb-{n}"].split(place) for n in (1, 2, 3)] == [
            "test" if n == k else "train" for n in (1, 2, 3)
        ]


def test_nothing_made_is_called_ntu():
    assert all("ntu" not in b.key for b in BENCHMARKS.values() if b.source.startswith("synth"))


class People:
    "Clips by (class, subject)."

    def __init__(self, rows):
        self.rows, self.labels = rows, [label for label, _ in rows]

    def attributes(self, i):
        return {"subject": self.rows[i][1]} if self.rows[i][1] else {}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 7)), min_size=2, max_size=60), st.data())
def test_what_is_held_out_is_apart_and_about_a_third(rows, data):
    store = People(rows)
    places = np.array(sorted(data.draw(st.sets(st.integers(0, len(rows) - 1), min_size=1))))
    people = sorted({rows[i][1] for i in places})
    if len(people) > 1:
        kept, apart = held_out(store, places, "subject")
        assert sorted([*kept, *apart]) == places.tolist() and len(kept) and len(apart)
        held = {rows[i][1] for i in apart}
        assert (
            not held & {rows[i][1] for i in kept}
            and held == set(people[-len(held) :])
            and len(held) == -(-len(people) // 3)
        )
    kept, apart = held_out(store, places, "clip")
    assert sorted([*kept, *apart]) == places.tolist()
    for label in range(4):
        assert sum(rows[i][0] == label for i in apart) == sum(rows[i][0] == label for i in places) // 3


def test_what_cannot_be_held_out_is_said():
    for rows, by in (([(0, 1), (1, 1)], "subject"), ([(0, 1), (1, 2)], "camera"), ([(0, 1), (1, 0)], "subject")):
        with pytest.raises(ValueError, match=f"cannot be divided by {by!r}.*take clip"):
            held_out(People(rows), np.arange(2), by)
