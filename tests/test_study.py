"The study on real data: its tables are those of the committed scores, and its statistics those of a calculation by hand."

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stf_repro.evaluation.scores import Scores
from stf_repro.evaluation.statistics import effect, odds, pool
from stf_repro.report.index_page import MARKS, answer, caveat, headline, second_study
from stf_repro.report.page import open_page, read_trainings, write_trainings
from stf_repro.report.tables.formatting import read_published, with_half
from stf_repro.report.tables.arms import Arm, Finished, pairs
from stf_repro.report.tables.study import (
    Row,
    against,
    by_class,
    collect,
    published_steps,
    said,
    study_long,
    study_table,
    with_fused,
)

ROOT = Path(__file__).parents[1]
MSG3D, STF = map(Row, pairs("msg3d"))
STUDIES = sorted(path.parents[1].name for path in ROOT.glob("results/*/study/trainings.npz"))


def rows_of(profile):
    return with_fused(collect(read_trainings(ROOT / "results" / profile / "study" / "trainings.npz")))


@pytest.mark.parametrize("profile", STUDIES)
def test_the_tables_of_a_study_are_made_of_its_committed_scores(root, profile):
    folder, rows = root / "results" / profile / "study", rows_of(profile)
    pd.testing.assert_frame_equal(study_long(rows), pd.read_csv(folder / "table.csv"), check_dtype=False)
    kept, ratios = pd.read_csv(folder / "effects.csv"), against(rows, odds)
    for (row, e), line in zip(against(rows).items(), kept.itertuples(), strict=True):
        assert (row.label, row.modality, row.percent, len(e.values)) == (
            line.label,
            line.modality,
            line.percent,
            line.pairs,
        )
        assert (
            np.allclose(
                [e.mean, e.half, e.p, ratios[row].mean, ratios[row].half],
                [line.mean, line.half, line.p, line.odds_mean, line.odds_half],
            )
            and said(e) == line.said
        )
    places = sorted(set(rows[MSG3D]) & set(rows[STF]))
    assert {seed for _, seed in places} == set(range(max(s for _, s in places) + 1))  # no seed is left out


@pytest.mark.parametrize("profile", STUDIES)
def test_the_interval_of_stf_by_a_second_path(profile):
    "Without our own functions: one long table, group means of pandas, weights written out."
    rows = rows_of(profile)
    long = pd.DataFrame(
        [
            {"fold": fold, "seed": seed, "clip": name, "d": 100.0 * (int(b) - int(a))}
            for fold, seed in sorted(set(rows[MSG3D]) & set(rows[STF]))
            for one, two in [(rows[MSG3D][fold, seed], rows[STF][fold, seed])]
            for name, a, b in zip(one.names, one.logits.argmax(1) == one.labels, two.logits.argmax(1) == two.labels)
        ]
    )
    each, N = long.groupby(["fold", "seed"]).d.mean(), long.groupby(["fold", "seed"]).ngroups
    seeds, clips = long.groupby("fold").seed.nunique(), long.groupby("fold").clip.nunique()
    of_fold, of_clip = long.groupby("fold").d.mean(), long.groupby(["fold", "clip"]).d.mean()
    squares = ((each - of_fold.reindex(each.index.get_level_values("fold")).to_numpy()) ** 2).sum() / (N - len(seeds))
    weight = (seeds / N / clips).reindex(of_clip.index.get_level_values("fold")).to_numpy()
    unbiased = (clips / (clips - 1)).reindex(of_clip.index.get_level_values("fold")).to_numpy() ** 0.5
    u = (
        (weight * unbiased * (of_clip - of_fold.reindex(of_clip.index.get_level_values("fold")).to_numpy()))
        .groupby(level="clip")
        .sum()
    )
    joined = (
        long.join(each.rename("s"), on=["fold", "seed"])
        .join(of_clip.rename("c"), on=["fold", "clip"])
        .join(of_fold.rename("m"), on="fold")
    )
    rest = ((joined.d - joined.s - joined.c + joined.m) ** 2).sum() / ((seeds - 1) * (clips - 1)).sum()
    trainings, of_clips = squares / N, (u**2).sum()
    V = max(trainings + of_clips - rest * ((seeds / N) ** 2 / (seeds * clips)).sum(), trainings, of_clips)
    half = stats.t.ppf(0.975, V**2 / (trainings**2 / (N - len(seeds)) + of_clips**2 / (len(u) - len(seeds)))) * V**0.5
    e = against(rows)[STF]
    assert (e.mean, e.half) == pytest.approx((each.mean(), half), abs=0.02)  # a tie counts as wrong with us


def scores(hits, names=None) -> Scores:
    "Scores of two classes: class 0 is right, and named where `hits`."
    logits = np.where(np.array(hits)[:, None], [[1.0, 0.0]], [[0.0, 1.0]]).astype(np.float32)
    return Scores(logits, np.zeros(len(hits), int), np.array(names or [str(i) for i in range(len(hits))]))


def run_of(folder, arm, hits, seed=0) -> Finished:
    "A run on the first fold of SBU."
    config = {"network": {"name": arm.network}, "method": arm.method, "label": arm.row}
    config |= {"input": {"modality": "joint"}, "benchmark": "sbu-1", "percent": None}
    return Finished(arm.row, seed, folder / arm.name, config, {}, {}, scores(hits))


def test_an_effect_is_paired_by_fold_and_seed():
    first = {("a", 0): scores([1, 0, 0, 0]), ("a", 1): scores([1, 1, 0, 0]), ("b", 0): scores([0, 0], ["x", "y"])}
    second = {
        ("a", 0): scores([1, 1, 0, 0]),
        ("a", 1): scores([1, 1, 1, 1]),
        ("b", 0): scores([1, 0], ["x", "y"]),
        ("b", 7): scores([1, 1], ["x", "y"]),
    }
    e = effect(first, second)
    assert e.values == {("a", 0): 25.0, ("a", 1): 50.0, ("b", 0): 50.0} and np.isclose(e.mean, 125 / 3)
    assert np.isclose(e.trainings, np.std([25, 50], ddof=1) / 3**0.5)  # folds are fixed: the spread within them
    assert np.isclose(e.beyond(e.mean), 0.5) and e.beyond(-100) > 0.9 > 0.1 > e.beyond(200)
    assert effect(first, {("c", 0): scores([1])}) is None and said(None) == "not run"
    with pytest.raises(ValueError, match="other clips"):
        effect(first, {("a", 0): scores([1, 1, 0, 0], list("wxyz"))})


def test_luck_of_the_clips_counts():
    one_clip = {
        ("a", s): scores([1, 0, 0, 0, 0, 0, 0, 0]) for s in range(3)
    }  # the same single clip in all seeds: sure over seeds, not over clips
    e = effect({place: scores([0] * 8) for place in one_clip}, one_clip)
    assert e.trainings == 0 and e.low < 0 and not e.shown
    every = {("a", s): scores([1] * 8) for s in range(3)}  # where nothing varies, nothing is known of the error
    assert np.isnan(effect({place: scores([0] * 8) for place in every}, every).half) and effect(every, every).p == 1
    few = {(fold, s): scores([1], [fold]) for fold in "ab" for s in range(3)}  # one clip per fold
    assert np.isnan(effect({place: scores([0], [place[0]]) for place in few}, few).half)


def test_scores_are_kept_in_half_precision_without_changing_what_is_named(tmp_path):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 30, (500, 10)).astype(np.float32)
    logits[:, 1] = logits[:, 0] + 1e-3  # close at a large value, where half precision is coarse
    config = {"group": "study", "label": "M1", "benchmark": "sbu-1"}
    write_trainings(
        tmp_path / "trainings.npz",
        [
            Finished(
                "M1",
                0,
                tmp_path / "seed-0",
                config,
                {},
                {},
                Scores(logits, rng.integers(10, size=500), np.arange(500).astype(str)),
            )
        ],
    )
    (again,) = read_trainings(tmp_path / "trainings.npz")
    assert (again.scores.logits.argmax(1) == logits.argmax(1)).all()
    write_trainings(tmp_path / "again.npz", [again])
    assert (tmp_path / "again.npz").read_bytes() == (
        tmp_path / "trainings.npz"
    ).read_bytes()  # the same bytes each time


def test_a_page_prefers_runs_that_are_there(tmp_path):
    kept = tmp_path / "results" / "p" / "study"
    kept.mkdir(parents=True)
    run = Finished("M1", 0, tmp_path / "seed-0", {"group": "study"}, {}, {}, scores([1, 0]))
    write_trainings(kept / "trainings.npz", [run])
    page = open_page("p", "study", "study", out=tmp_path, root=tmp_path)
    assert not page.fresh and [r.key for r in page.runs] == ["M1"]
    folder = tmp_path / "runs" / "p" / "study" / "M5" / "seed-3"
    folder.mkdir(parents=True)
    np.savez(
        folder / "scores.npz", logits=np.eye(2, dtype=np.float32), labels=np.zeros(2, int), names=np.array(["a", "b"])
    )
    for name, value in (("config", {"group": "study", "seed": 3, "benchmark": "x"}), ("record", {}), ("metrics", {})):
        (folder / f"{name}.json").write_text(json.dumps(value))
    page = open_page("p", "study", "study", out=tmp_path, root=tmp_path)
    assert page.fresh and [(r.key, r.seed) for r in page.runs] == [("M5", 3)]
    with pytest.raises(FileNotFoundError, match="terms.csv is not there"):
        open_page("p", "study", "nothing", out=tmp_path, root=tmp_path).table("terms.csv", lambda: None)


def test_a_training_that_is_there_twice_is_named(tmp_path):
    run = run_of(tmp_path, MSG3D.arm, [1])
    with pytest.raises(ValueError, match="a second training of M1 on sbu-1 with seed 0"):
        collect([run, run], needed=())
    with pytest.raises(ValueError, match="no finished run of STF; `stf runs`"):
        collect([run])


def test_a_study_has_any_arms_and_any_base(tmp_path):
    "Two networks under one method are two rows, and the difference of all is taken to the base that is named."
    other, full = Arm("convolution"), Arm("convolution", "M5")
    hits = {MSG3D.arm: [1, 0, 0, 0], other: [1, 1, 0, 0], full: [1, 1, 1, 0]}
    rows = collect([run_of(tmp_path, own, right, s) for own, right in hits.items() for s in range(2)], [other, full])
    assert [str(row) for row in rows] == ["M1", "convolution", "convolution M5"]
    found = against(rows, base=other)
    assert {row.arm: e.mean for row, e in found.items()} == {MSG3D.arm: -25, full: 25}
    assert list(study_table(rows, {}, base=other).row) == ["MS-G3D", "convolution", "convolution + STF"]
    assert "to convolution is shown" in said(found[Row(full)], other)


def test_class_gains_and_published_steps(root):
    first = {("a", s): scores([1, 0, 0, 1]) for s in range(2)}
    second = {("a", s): scores([1, 1, 0, 1]) for s in range(2)}
    (line,) = by_class(first, second).itertuples()
    assert (line.label, line.clips, line.first, line.second, line.change) == (0, 4, 50, 75, 25) and line.half > 25
    assert published_steps(read_published(root, "table5_ablation")) == {"M2": 0.56, "M3": 1.15, "M4": 1.88, "M5": 2.57}


def test_the_headline_is_that_of_the_studies(root):
    "Recomputed from the scores; the same table stands in both pages."
    table = headline(root)
    for text, row in (
        ("joints", STF),
        ("bones", STF._replace(modality="bone")),
        ("joints and bones", STF._replace(modality="joint and bone")),
    ):
        effects = [against(rows_of(s))[row] for s in STUDIES]
        (line,) = [line for line in table.splitlines() if line.startswith(f"| STF minus MS-G3D, {text} |")]
        for e in (*effects, pool(effects)[0]):
            assert (
                with_half(e.mean, e.half, "+.2f") in line
                and (f"**{with_half(e.mean, e.half, '+.2f')}**" in line) == e.shown
            )
    tuned = {e.set: e for e in second_study(root).query("comparison == 'STF, tuned alike'").itertuples()}
    (line,) = [line for line in table.splitlines() if line.startswith("| tuned alike: STF minus MS-G3D")]
    cells = [cell.strip() for cell in line.split("|")[2:-2]]
    for where, cell in zip([*STUDIES, "together"], cells, strict=True):
        e = tuned.get(where)
        half = e and (float(e.high) - float(e.low)) / 2  # the interval is symmetric, of 97.5 %
        assert cell.strip("*") == (with_half(float(e.mean), half, "+.2f") if e else "")
        assert cell.startswith("**") == bool(e and abs(float(e.mean)) > half)
    readme, page = (root / "README.md").read_text(), (root / "results" / "README.md").read_text()
    for name, content in (("answer", answer(root)), ("headline", f"{table}\n{caveat(root)}")):
        assert readme.split(MARKS[name][0])[1].split(MARKS[name][1])[0].strip() == content.strip()
    assert page.count(table) == page.count(caveat(root)) == 1
    assert page.startswith(f"# Results\n\n{answer(root)}")


def test_the_answer_knows_whether_the_printed_reading_was_scored(root, tmp_path):
    for name in ("data", "conf"):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / "results").mkdir()
    for folder in {*(root / "results").iterdir()} - {root / "results" / "second"}:
        (tmp_path / "results" / folder.name).symlink_to(folder)
    says = "has not been scored on real test clips yet"
    assert says in answer(tmp_path)
    second = tmp_path / "results" / "second" / "does_it_help"
    second.mkdir(parents=True)
    assert "Both sides tuned alike" not in answer(tmp_path)
    for comparison, still in (("STF, tuned alike", True), ("STF as printed, trained as long", False)):
        (second / "table.csv").write_text(f'comparison,set,mean,error,freedom\n"{comparison}",sbu,1,0.2,30\n')
        assert (says in answer(tmp_path)) == still
        tuned = "joints: +1.00 points [+0.53, +1.47] (97.5 %) on SBU Kinect Interaction, interim: gain."
        assert (tuned in answer(tmp_path)) == still  # the interval is of 97.5 %: there are two primary figures
        assert answer(tmp_path).startswith(
            f"**Does STF help? {'Yes, on small sets' if still else 'No gain is shown'} so far"
        )
    assert "trained as long: +1.00 ± 0.41 points (95 %) on SBU Kinect Interaction so far" in answer(tmp_path)
    assert "the paper reports +2.57 for joints" in answer(tmp_path)


def test_the_page_of_the_second_round_shows_what_its_scores_say(root):
    "The experiments are not executed by the tests, so their stored table is compared with the committed scores."
    page = json.loads((root / "nbs/experiments/again.ipynb").read_text())
    shown = "".join(
        text
        for cell in page["cells"]
        for out in cell.get("outputs", [])
        for text in out.get("data", {}).get("text/markdown", [])
    )
    lines = {tuple(word.strip() for word in line.strip("|").split("|")) for line in shown.splitlines()}
    again = with_fused(collect(read_trainings(root / "nbs/experiments/measured/nwucla-again.npz"), ()))
    first = {row: rows_of("nwucla")[row] for row in again}
    for when, rows in (("first", first), ("again", again)):
        for row, e in against(rows).items():
            assert (str(row), when, with_half(e.mean, e.half, "+.2f"), "yes" if e.shown else "") in lines
