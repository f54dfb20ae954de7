"The second study: its statistics by a second path in plain NumPy, and its rows."

import json
import runpy

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stf_repro.evaluation.scores import Scores
from stf_repro.report.tables.arms import STF, Arm
from stf_repro.report.tables.comparisons import Comparison, compare, found_long
from stf_repro.report.tables.study import Row

PLAIN, FULL = Row(Arm()), Row(Arm(method=STF))


def study(seed, folds, seeds, clips):
    "Invented hits of two networks: (fold, seed) -> (clips,) bool, for both; some clips are tested in two folds."
    rng = np.random.default_rng(seed)
    names = {f: np.array([f"clip-{i + 20 * k}" for i in range(clips)]) for k, f in enumerate(folds)}
    hits = [
        {(f, s): rng.random(clips) < p + rng.normal(0, 0.05) for f in folds for s in range(seeds)} for p in (0.7, 0.75)
    ]
    return names, hits


def scores(names, hits):
    wrong = lambda hit: np.eye(3, dtype=np.float32)[np.where(hit, 0, 1)]
    return {place: Scores(wrong(hit), np.zeros(len(hit), int), names[place[0]]) for place, hit in hits.items()}


def by_hand(names, hits):
    "Mean and standard error, with trainings and clips both drawn and folds fixed: sums over loops, no matrices."
    places = sorted(hits[0])
    d = {p: 100.0 * (hits[1][p].astype(float) - hits[0][p].astype(float)) for p in places}
    mean = np.mean([d[p].mean() for p in places])
    folds = sorted({f for f, _ in places})
    N, trainings, freedom, clips, interaction = len(places), 0.0, 0, {}, 0.0
    for f in folds:
        rows = [d[p] for p in places if p[0] == f]
        S, n = len(rows), len(rows[0])
        of_clip = np.mean(rows, 0)
        trainings += sum((r.mean() - of_clip.mean()) ** 2 for r in rows)
        freedom += S - 1
        correction = n / (n - 1)
        for i, name in enumerate(names[f]):
            clips[name] = clips.get(name, 0.0) + S / N * (of_clip[i] - of_clip.mean()) / n * correction**0.5
            left = [r[i] - r.mean() - of_clip[i] + of_clip.mean() for r in rows]
            interaction += (S / N) ** 2 * sum((v / n) ** 2 for v in left) / (S * (S - 1)) * correction
    of_trainings, of_clips = trainings / freedom / N, sum(u**2 for u in clips.values())
    V = max(of_trainings + of_clips - interaction, of_trainings, of_clips)
    return mean, V**0.5, V**2 / (of_trainings**2 / freedom + of_clips**2 / (len(clips) - len(folds)))


def together_by_hand(found):
    "Mean and standard error of several sets, weighted by precision, from (mean, error, freedom) of each."
    weights = [1 / error**2 for _, error, _ in found]
    share = [w / sum(weights) for w in weights]
    meier = 1 + 4 * sum(s * (1 - s) / freedom for s, (_, _, freedom) in zip(share, found))
    return sum(s * mean for s, (mean, _, _) in zip(share, found)), (meier / sum(weights)) ** 0.5


@pytest.mark.parametrize("seed", range(4))
def test_every_figure_by_a_second_path(seed):
    "Means, standard errors, intervals, p and the pooled effect, from hits and loops."
    of = {"a": study(seed, ("a-1", "a-2"), 5, 60), "b": study(10 + seed, ("b-1",), 8, 90)}
    studies = {s: {PLAIN: scores(names, hits[0]), FULL: scores(names, hits[1])} for s, (names, hits) in of.items()}
    table = found_long([compare(studies, Comparison("asked", FULL, PLAIN))]).set_index("set")
    own = {s: by_hand(names, hits) for s, (names, hits) in of.items()}
    for s, (mean, error, freedom) in own.items():
        half = stats.t.ppf(0.975, freedom) * error
        row = table.loc[s]
        assert np.allclose([row["mean"], row.error, row.freedom], [mean, error, freedom])
        assert np.allclose([row.low, row.high], [mean - half, mean + half])
        assert np.isclose(row.p, 2 * stats.t.sf(abs(mean) / error, freedom))
        assert np.isclose(row["first"], 100 * np.mean([h.mean() for h in of[s][1][0].values()]))
    assert np.allclose(table.loc["together", ["mean", "error"]].astype(float), together_by_hand([*own.values()]))


ROWS = {  # comparison of the page -> second and first row, as runs are called without their fold; several are summed
    "STF, tuned alike": (["stf"], ["msg3d"]),
    "STF minus MS-G3D in STF's recipe": (["stf"], ["msg3d-recipe"]),
    "MS-G3D in STF's recipe minus tuned MS-G3D": (["msg3d-recipe"], ["msg3d"]),
    "STF as printed, trained as long": (["poster"], ["msg3d-long"]),
    "STF, lineage, trained as long": (["lineage"], ["msg3d-long"]),
    "STF, tuned alike, bones": (["stf-bone"], ["msg3d-bone"]),
    "STF, tuned alike, joints and bones": (["stf", "stf-bone"], ["msg3d", "msg3d-bone"]),
    "exploration (M2) minus MS-G3D in its recipe": (["M2"], ["msg3d-recipe"]),
    "exploration minus random masks": (["M2"], ["masks"]),
    "random masks minus MS-G3D in its recipe": (["masks"], ["msg3d-recipe"]),
    "divergence (M3 minus M2)": (["M3"], ["M2"]),
    "STF modules, L_Gk (M4 minus M3)": (["M4"], ["M3"]),
    "coherence (STF minus M4)": (["stf"], ["M4"]),
    "no graph, joints": (["convolution"], ["msg3d"]),
    "no graph, joints and motion": (["convolution-motion"], ["msg3d-motion"]),
    "motion beside joints": (["msg3d-motion"], ["msg3d"]),
    "bones beside joints (sum of scores)": (["msg3d", "msg3d-bone"], ["msg3d"]),
    "all clips against three quarters": (["msg3d"], ["msg3d-75"]),
    "bodies turned by up to 17 degrees": (["bodies turned"], ["not turned"]),  # each fold's MS-G3D is one of the two
    **{f"STF, {share} % of the clips": ([f"stf-{share}"], [f"msg3d-recipe-{share}"]) for share in (10, 20, 25)},
    **{f"STF, width {w} (first split)": ([f"stf-width-{w}"], [f"msg3d-recipe-width-{w}"]) for w in (24, 48)},
    "STF, all clips (three seeds)": (["stf"], ["msg3d-recipe"]),
    "STF, width 12 (first split)": (["stf"], ["msg3d-recipe"]),
}


def is_asked(comparison, fold, seed):
    "Some comparisons are of one fold, or of the seeds that all their rows have."
    first, three = "(first split)" in comparison, "(three seeds)" in comparison
    return not (first or three) or (seed < 3 and (fold == "jhmdb-1" or three))


def kept_hits(path):
    "The committed scores, read without the package: set -> rows -> names of each fold, (fold, seed) -> right or wrong."
    with np.load(path) as z:
        scores, turns, epochs = {}, {}, {}
        for i, fact in enumerate(json.loads(z["trainings"].tobytes())):
            config, clips = fact["config"], fact["clips"]
            row = fact["key"][len(config["benchmark"]) + 1 :]
            own = z[f"logits/{i}"].astype(np.float32), z[f"labels/{clips}"], z[f"names/{clips}"]
            place = config["benchmark"], fact["seed"]
            scores.setdefault((config["source"], row), {})[place] = own
            turns[row, place] = config["input"]["turn"]
            epochs.update({(config["source"], place): config["optim"]["epochs"]} if row == "msg3d" else {})

    both = [(row, p, own) for (name, row), of in scores.items() if name == "sbu" for p, own in of.items()]
    both = [(turns[row, p] > 0, p, own) for row, p, own in both if row in ("msg3d", "turned")]
    for which, turned in (("bodies turned", True), ("not turned", False)):
        scores["sbu", which] = {p: own for is_turned, p, own in both if is_turned == turned}

    for (name, row), of in list(scores.items()):  # a tuned MS-G3D of 80 epochs is trained as long as STF as printed
        if row == "msg3d":
            long = {place: own for place, own in of.items() if epochs[name, place] >= 80}
            scores.setdefault((name, "msg3d-long"), {}).update(long)

    def hits(name, rows):
        of = [scores[name, row] for row in rows]
        shared = sorted(set.intersection(*map(set, of)))
        return {p: sum(own[p][0] for own in of).argmax(1) == of[0][p][1] for p in shared}

    names = {}
    for (name, _), own in scores.items():
        names.setdefault(name, {}).update({fold: z[2] for (fold, _), z in own.items()})
    return hits, names


def by_margin(low, high):
    "What an interval says beside half a point on either side of zero."
    inside = "no difference that matters" if -0.5 <= low and high <= 0.5 else "undecided"
    return "gain" if low > 0.5 else "loss" if high < -0.5 else inside


def check_line(line, names, first, second, level):
    "One line of a table of comparisons, from hits; mean, error and freedom are returned."
    places = sorted(set(first) & set(second))
    own = [{p: of[p] for p in places} for of in (first, second)]
    mean, error, freedom = by_hand(names, own)
    half = stats.t.ppf((1 + level) / 2, freedom) * error
    assert line.level == level and line.pairs == len(places)
    assert np.allclose([line.mean, line.error, line.freedom], [mean, error, freedom]), line.comparison
    assert np.allclose([line.low, line.high], [mean - half, mean + half]), line.comparison
    assert np.isclose(line.p, 2 * stats.t.sf(abs(mean) / error, freedom)), line.comparison
    assert line.judged == by_margin(mean - half, mean + half), line.comparison
    tops = [100 * np.mean([of[p].mean() for p in places]) for of in own]
    assert np.allclose([line.first, line.second], tops), line.comparison
    return mean, error, freedom


def test_the_committed_answer_by_a_second_path(root):
    "Every comparison of the page, from the committed scores: mean, error, freedom, interval, both accuracies, all sets."
    folder = root / "results" / "second" / "does_it_help"
    table, (hits, names) = pd.read_csv(folder / "table.csv"), kept_hits(folder / "trainings.npz")
    assert len(table) and set(table.comparison) <= set(ROWS)
    for asked, lines in table.groupby("comparison"):
        found = {}
        for line in lines[lines.set != "together"].itertuples():
            second, first = (
                {place: of for place, of in hits(line.set, rows).items() if is_asked(asked, *place)}
                for rows in ROWS[asked]
            )
            level = 0.975 if asked == "STF, tuned alike" else 0.95
            found[line.set] = check_line(line, names[line.set], first, second, level)
        for line in lines[lines.set == "together"].itertuples():
            assert np.allclose([line.mean, line.error], together_by_hand([*found.values()])), asked


COMPARED = {
    "MS-G3D": "msg3d",
    "ST-GCN": "stgcn",
    "2s-AGCN": "agcn",
    "CTR-GCN": "ctrgcn",
    "DSTA-Net": "dstanet",
    "PA-ResGCN-B19": "paresgcn",
}


PAIRS = {"sbu": 60, "jhmdb": 72, "nwucla": 60}  # of all networks together, as the protocol has them


def test_the_answer_on_any_network_by_a_second_path(root):
    "Each network with its losses beside itself, and all as one: a network's fold is a fold, and its clips are everybody's."
    folder = root / "results" / "networks" / "any_network"
    table, (hits, names) = pd.read_csv(folder / "table.csv"), kept_hits(folder / "trainings.npz")
    assert set(table.comparison) == {"all networks", *COMPARED}
    of_all = {}
    for name, lines in table[table.set != "together"].groupby("set"):
        lines = {line.comparison: line for line in lines.itertuples()}
        pooled, of_fold = ({}, {}), {}
        for title, key in COMPARED.items():
            first, second = (hits(name, [f"{key}-{arm}"]) for arm in ("plain", "losses"))
            of_all.setdefault(title, []).append(check_line(lines[title], names[name], first, second, 0.95))
            for all_of_them, own in zip(pooled, (first, second)):
                all_of_them |= {(f"{key} {fold}", seed): hit for (fold, seed), hit in own.items()}
            of_fold |= {f"{key} {fold}": own for fold, own in names[name].items()}
        assert len(pooled[0]) == PAIRS[name]
        found = check_line(lines["all networks"], of_fold, *pooled, 0.975)
        of_all.setdefault("all networks", []).append(found)
    together = table[table.set == "together"].set_index("comparison")
    assert len(together) == (len(of_all) if table.set.nunique() > 1 else 0)
    for title, line in together.iterrows():
        assert np.allclose([line["mean"], line.error], together_by_hand(of_all[title])), title


def printed_on(path) -> str:
    "What the cells of a page print."
    cells = json.loads(path.read_text())["cells"]
    return "".join("".join(out.get("text", "")) for cell in cells for out in cell.get("outputs", ()))


def test_where_both_arms_have_one_rate_by_a_second_path(root):
    folder = root / "results" / "networks" / "any_network"
    said, (hits, names), rates = printed_on(folder / "any_network.ipynb"), kept_hits(folder / "trainings.npz"), {}
    with np.load(folder / "trainings.npz") as z:
        for fact in json.loads(z["trainings"].tobytes()):
            config = fact["config"]
            key = fact["key"][len(config["benchmark"]) + 1 :]
            rates[key, config["benchmark"]] = config["optim"]["lr"]
    found, titles = [], {"sbu": "SBU Kinect Interaction", "jhmdb": "JHMDB", "nwucla": "Northwestern-UCLA"}
    for name in set(pd.read_csv(folder / "table.csv").set) - {"together"}:
        pooled, of_fold = ({}, {}), {}
        for key in COMPARED.values():
            for fold, own in names[name].items():
                if rates[f"{key}-plain", fold] == rates[f"{key}-losses", fold]:
                    of_fold[f"{key} {fold}"] = own
                    for all_of_them, arm in zip(pooled, ("plain", "losses")):
                        own_hits = hits(name, [f"{key}-{arm}"])
                        all_of_them |= {(f"{key} {f}", seed): hit for (f, seed), hit in own_hits.items() if f == fold}
        found.append(by_hand(of_fold, pooled))
        assert f"{titles[name]}: {found[-1][0]:+.2f} points [" in said
    mean, _ = together_by_hand(found)
    assert len(found) == 1 or f"together: {mean:+.2f} points [" in said


@pytest.fixture(scope="module")
def rows(root):
    "The rows of one fold, from two configurations that the tuning drew."
    import yaml

    tuning = yaml.safe_load((root / "conf" / "profile" / "tuning.yaml").read_text())["runs"]
    write = runpy.run_path(str(root / "docs" / "draw_rows.py"))
    return write["rows"](tuning["sbu-msg3d-03"], tuning["sbu-stf-07"]), tuning


def test_rows_differ_from_the_baseline_in_what_the_protocol_says(rows):
    of, tuning = rows
    recipe = {name: tuning["sbu-msg3d-03"][name] for name in ("optim", "input")}
    for name in ("msg3d", "convolution", "msg3d-75"):
        assert {part: of[name][part] for part in recipe} == recipe, name
    for name in ("poster", "lineage"):  # STF as printed trains long enough
        own = {part: of[name][part] for part in recipe}
        assert recipe["optim"]["epochs"] < own["optim"]["epochs"] == 80, name
        assert own == recipe | {"optim": recipe["optim"] | {"epochs": 80}}, name
    assert of["msg3d-long"]["optim"] == of["poster"]["optim"]
    for name in ("stf", "M2", "M3", "M4", "masks"):
        assert of[name]["optim"] == tuning["sbu-stf-07"]["optim"], name
    assert set(of["poster"]["objective"]["relative_weights"].values()) == {1.0}
    terms = {name: list(of[name]["objective"]["relative_weights"]) for name in ("M2", "masks", "M3", "M4", "stf")}
    assert terms["M2"] == terms["masks"] == ["exploration"] and len(terms["M3"]) + 1 == len(terms["M4"]) == 3
    assert of["masks"]["choices"] == {"mask_gradient": "shuffled"} and len(terms["stf"]) == 4
    for name, modality in (("msg3d-bone", "bone"), ("msg3d-motion", "joint+joint-motion")):
        assert of[name]["input"]["modality"] == modality and of[name]["optim"] == of["msg3d"]["optim"]


def test_what_is_said_beside_the_printed_row_by_a_second_path(root):
    "The section on STF as printed: other baselines, and the correction for all comparisons."
    folder = root / "results" / "second" / "does_it_help"
    said = printed_on(folder / "does_it_help.ipynb")
    hits, names = kept_hits(folder / "trainings.npz")
    table = pd.read_csv(folder / "table.csv")
    asked = table[table.comparison == "STF as printed, trained as long"]
    sets = [name for name in asked.set if name != "together"]
    endings = pd.read_csv(folder / "endings.csv").query("row == 'STF as printed' and train_top1 < 95")
    slow = {*zip(endings.fold, endings.seed)}
    for words, base, left in (
        ("without what had learned less than 95 % of its clips", "msg3d-long", slow),
        ("beside the tuned MS-G3D", "msg3d", set()),
        ("beside MS-G3D in STF's recipe", "msg3d-recipe", set()),
    ):
        found, pairs = [], 0
        for name in sets:
            first, second = (hits(name, [row]) for row in (base, "poster"))
            places = sorted((first.keys() & second.keys()) - left)
            pairs += len(places)
            found.append(by_hand(names[name], [{p: of[p] for p in places} for of in (first, second)]))
        mean, _ = together_by_hand(found)
        line = next(line for line in said.splitlines() if line.startswith(f"- {words}: "))
        assert line.startswith(f"- {words}: {mean:+.2f} [") and line.endswith(f", {pairs} pairs"), (line, mean)
    p = sorted((own.p.iloc[-1], name) for name, own in table.groupby("comparison"))
    first_not = next(i for i, (value, _) in enumerate(p) if value >= 0.05 / (len(p) - i))
    text = f"Corrected for all {len(p)} comparisons (Holm), apart from zero: {'; '.join(n for _, n in p[:first_not])}."
    assert text in (folder / "table.md").read_text()
