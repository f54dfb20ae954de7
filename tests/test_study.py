"The study on real data: its tables are those of the committed scores, and its statistics are those of scipy and of a calculation by hand."

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stf_repro.evaluation.scores import Scores
from stf_repro.report.tables.cells import read_published, with_half
from stf_repro.report.tables.study import Row, by_class, collect, effect, published_steps, read_study, said, study_effects, study_long, with_fused, write_study
from stf_repro.report.tables.runs import Run

ROOT = Path(__file__).parents[1]
STUDIES = sorted(path.parents[1].name for path in ROOT.glob("results/*/study/scores.npz"))


@pytest.mark.parametrize("profile", STUDIES)
def test_the_tables_of_a_study_are_made_of_its_committed_scores(root, profile):
    folder = root / "results" / profile / "study"
    rows = with_fused(read_study(folder / "scores.npz"))
    pd.testing.assert_frame_equal(study_long(rows), pd.read_csv(folder / "table.csv"), check_dtype=False)
    kept = pd.read_csv(folder / "effects.csv")
    for (row, e), line in zip(study_effects(rows).items(), kept.itertuples(), strict=True):
        assert (row.label, row.modality, row.percent, len(e.values)) == (line.label, line.modality, line.percent, line.pairs)
        assert np.allclose([e.mean, e.half], [line.mean, line.half]) and said(e) == line.said
    first, second = rows[Row("M1")], rows[Row("M5")]
    places = sorted(set(first) & set(second))
    hits = np.array([[100 * (s[p].logits.argmax(1) == s[p].labels).mean() for s in (first, second)] for p in places])  # without our own `correct`
    test = stats.ttest_rel(hits[:, 1], hits[:, 0])
    low, high = test.confidence_interval()
    e = study_effects(rows)[Row("M5")]
    assert np.allclose([e.mean - e.half, e.mean + e.half], [low, high], atol=0.2)  # a tie counts as wrong with us
    assert len(places) == len(hits) and {seed for _, seed in places} == set(range(max(s for _, s in places) + 1))  # no seed is left out


def scores(hits, names=None) -> Scores:
    "Scores of two classes: class 0 is right, and named where `hits`."
    logits = np.where(np.array(hits)[:, None], [[1.0, 0.0]], [[0.0, 1.0]]).astype(np.float32)
    return Scores(logits, np.zeros(len(hits), int), np.array(names or [str(i) for i in range(len(hits))]))


def test_an_effect_is_paired_by_fold_and_seed():
    first = {("a", 0): scores([1, 0, 0, 0]), ("a", 1): scores([1, 1, 0, 0]), ("b", 0): scores([0, 0], ["x", "y"])}
    second = {("a", 0): scores([1, 1, 0, 0]), ("a", 1): scores([1, 1, 1, 1]), ("b", 0): scores([1, 0], ["x", "y"]), ("b", 7): scores([1, 1], ["x", "y"])}
    e = effect(first, second)
    assert e.values == {("a", 0): 25.0, ("a", 1): 50.0, ("b", 0): 50.0} and np.isclose(e.mean, 125 / 3)
    assert np.isclose(e.half, stats.t.ppf(0.975, 2) * np.std([25, 50, 50], ddof=1) / 3**0.5)
    assert np.isclose(e.beyond(e.mean), 0.5) and e.beyond(0) > 0.9 > 0.1 > e.beyond(100)
    assert effect(first, {("c", 0): scores([1])}) is None and said(None) == "not run"
    with pytest.raises(ValueError, match="other clips"):
        effect(first, {("a", 0): scores([1, 1, 0, 0], list("wxyz"))})


def test_both_intervals_must_leave_out_zero():
    one_clip = {("a", s): scores([1, 0, 0, 0, 0, 0, 0, 0]) for s in range(3)}  # the same single clip in all seeds: sure over seeds, not over clips
    e = effect({place: scores([0] * 8) for place in one_clip}, one_clip)
    assert e.half == 0 and e.clips_low == 0 and not e.shown
    every = {("a", s): scores([1] * 8) for s in range(3)}
    assert effect({place: scores([0] * 8) for place in every}, every).shown


def test_scores_are_kept_in_half_precision_without_changing_what_is_named(tmp_path):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 30, (500, 10)).astype(np.float32)
    logits[:, 1] = logits[:, 0] + 1e-3  # close at a large value, where half precision is coarse
    kept = {Row("M1"): {("sbu-1", 0): Scores(logits, rng.integers(10, size=500), np.arange(500).astype(str))}}
    write_study(tmp_path / "scores.npz", kept)
    again = read_study(tmp_path / "scores.npz")[Row("M1")]["sbu-1", 0]
    assert (again.logits.argmax(1) == logits.argmax(1)).all()
    write_study(tmp_path / "again.npz", read_study(tmp_path / "scores.npz"))
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "scores.npz").read_bytes()  # the same bytes each time


def test_a_training_that_is_there_twice_is_named(tmp_path):
    config = {"label": "M1", "input": {"modality": "joint"}, "benchmark": "sbu-1", "percent": None}
    run = Run("M1", 0, tmp_path / "M1", config, {}, {}, scores([1]))
    with pytest.raises(ValueError, match="a second training of M1 on sbu-1 with seed 0"):
        collect([run, run], needed=())
    with pytest.raises(ValueError, match="no finished run of M5; `stf runs`"):
        collect([run])


def test_class_gains_and_published_steps(root):
    first = {("a", s): scores([1, 0, 0, 1]) for s in range(2)}
    second = {("a", s): scores([1, 1, 0, 1]) for s in range(2)}
    (line,) = by_class(first, second).itertuples()
    assert (line.label, line.clips, line.first, line.second, line.change, line.half) == (0, 4, 50, 75, 25, 0)
    assert published_steps(read_published(root, "table5_ablation")) == {"M2": 0.56, "M3": 1.15, "M4": 1.88, "M5": 2.57}


def test_the_page_of_the_second_round_shows_what_its_scores_say(root):
    "The appendix is not executed by the tests, so its stored table is compared with the committed scores."
    page = json.loads((root / "nbs/appendix/again.ipynb").read_text())
    shown = "".join(text for cell in page["cells"] for out in cell.get("outputs", []) for text in out.get("data", {}).get("text/markdown", []))
    lines = {tuple(word.strip() for word in line.strip("|").split("|")) for line in shown.splitlines()}
    again = with_fused(read_study(root / "nbs/appendix/measured/nwucla-again.npz"))
    first = with_fused(read_study(root / "results/nwucla/study/scores.npz"))
    for when, rows in (("first", {row: first[row] for row in again}), ("again", again)):
        for row, e in study_effects(rows).items():
            assert (str(row), when, with_half(e.mean, e.half, "+.2f"), f"{e.clips_low:+z.2f} to {e.clips_high:+z.2f}", "yes" if e.shown else "") in lines
