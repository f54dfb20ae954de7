"The results: what notebooks write, against data/reference and against each other. Runs are made up here, nothing is trained."

import hashlib
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml

from stf_repro.cli import main
from stf_repro.report.charts import draw_seeds, seed_limits
from stf_repro.evaluation.statistics import Effect
from stf_repro.report.index_page import (
    FOUND,
    TITLES,
    counted,
    finding,
    found_accuracy,
    found_adjacency,
    found_focus,
    front_page,
    state,
)
from stf_repro.report.render import NotebookError, _check, _sources, committed_pages, folder_of, own_parameters, render
from stf_repro.training.runs import ConfigError, profile_params
from stf_repro.report.tables.ablation import ablation, ablation_arms, ablation_long, ablation_table
from stf_repro.report.tables.formatting import NOT_RUN, columns, read_published
from stf_repro.report.tables.comparison import (
    LEGEND,
    comparison,
    comparison_long,
    comparison_published,
    comparison_table,
    with_ours,
)
from stf_repro.report.tables.table_io import latex, provenance
from stf_repro.report.tables.arms import (
    Arm,
    arm,
    counterpart,
    invent,
    is_made,
    needed,
    pairs,
    read_runs,
    same_seeds,
    setting,
)
from stf_repro.report.tables.transfer import scarce, transfer
from stf_repro.report.labels import words

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "xsub60": "synth60-xsub",
    "xview60": "synth60-xview",
    "xsub120": "synth120-xsub",
    "xset120": "synth120-xset",
}  # Kinetics is left out: not run
ARMS = ablation_arms()  # of MS-G3D, by row
PAIR = MSG3D, STF = pairs("msg3d")
OTHER = Arm("convolution")


def write_run(root, table, key, seed, arm, benchmark, modality="joint", percent=None, start=None, n=70, classes=14):
    "A finished run with random scores."
    folder = root / "runs" / "synthetic" / table / key / f"seed-{seed}"
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, *map(ord, key)])
    labels = np.arange(n) % classes
    logits = (rng.normal(size=(n, classes)) + 2 * np.eye(classes)[labels]).astype(np.float32)
    np.savez(folder / "scores.npz", logits=logits, labels=labels, names=np.arange(n).astype(str))
    network = {"name": arm.network, "width": 12, "num_gcn_scales": 3, "num_g3d_scales": 2, "windows": [3]}
    config = {
        "group": table,
        "label": arm.row,
        "method": arm.method,
        "source": benchmark.split("-")[0],
        "benchmark": benchmark,
        "network": network,
        "stf": arm.row in ("M4", "M5"),
        "seed": seed,
        "percent": percent,
        "init_from": start,
    }
    config |= {
        "input": {"recipe": "replay", "frames": 60, "frame_stride": 4, "modality": modality},
        "optim": {"epochs": 8},
    }
    record = {
        "hardware": "a made-up machine",
        "seconds": 2.5,
        "commit": "0" * 40,
        "uncommitted_changes": False,
        "versions": {"torch": "0"},
        "date": "2026-01-02",
    }
    for name, content in (("config", config), ("record", record), ("metrics", {"top1_best": 50.0})):
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def project(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for name in ("data", "conf"):
        shutil.copytree(root / name, folder / name)
    shutil.copytree(root / "nbs" / "results", folder / "nbs" / "results")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(root / name, folder / name)
    for where, benchmark in SETTINGS.items():
        for name, own in (("msg3d", MSG3D), ("stf", STF)):
            for modality in ("joint", "bone"):
                for seed in range(2):
                    write_run(folder, "main", f"{name}-{where}-{modality}", seed, own, benchmark, modality)
    for row in ("M2", "M3"):
        for seed in range(2):
            write_run(folder, "ablation", row, seed, ARMS[row], "synth60-xsub")
    for name, own in (("msg3d", MSG3D), ("stf", STF)):
        write_run(folder, "scarce", f"{name}-p10", 0, own, "synth60-xsub", percent=10)
        write_run(folder, "transfer", f"{name}-transfer", 0, own, "synth120-xsub", start=f"{name}-xsub60-joint")
    return folder


@pytest.fixture(scope="module")
def params(root):
    return yaml.safe_load((root / "params.yaml").read_text())


@pytest.fixture(scope="module")
def rendered(project, params):
    return {
        name: render(project, params, name)
        for name in ("table1_datasets", "table2_comparison", "table3_transfer", "table4_scarce", "table5_ablation")
    }


def read(folder) -> pd.DataFrame:
    return pd.read_csv(folder / "table.csv", dtype=str, keep_default_na=False)


def reference(root, name) -> pd.DataFrame:
    return pd.read_csv(root / "data" / "reference" / f"{name}.csv", dtype=str, keep_default_na=False)


# what was published


def test_published_cells_of_table_2_are_those_of_the_reference(root, rendered):
    csv = read(rendered["table2_comparison"])
    own = csv[csv.kind == "published"].rename(columns={"published_top1": "top1"}).reset_index(drop=True)
    expected = reference(root, "table2_sota")
    pd.testing.assert_frame_equal(own[list(expected)], expected, check_dtype=False)
    assert (csv[csv.kind == "ours"].published_top1 == "").all()


@pytest.mark.parametrize("name, source, keys, columns", [
    ("table3_transfer", "table3_shift", ["method"], ["train_dataset", "tuned_part", "test_dataset", "top1", "delta", "source"]),
    ("table4_scarce", "table4_scarce", ["percent", "method"], ["train_sequences", "dataset", "protocol", "modality", "top1", "gain", "source"]),
    ("table5_ablation", "table5_ablation", ["model"], ["dataset", "protocol", "modality", "top1", "delta", "source"]),
])  # fmt: skip
def test_published_cells_are_those_of_the_reference(root, rendered, name, source, keys, columns):
    own, expected = read(rendered[name]), reference(root, source)
    assert own[keys].values.tolist() == expected[keys].values.tolist()
    for column in columns:
        assert own[f"published_{column}"].tolist() == expected[column].tolist(), column


def test_table_1_is_published_beside_counted(root, rendered):
    own, expected = read(rendered["table1_datasets"]), reference(root, "table1_datasets")
    own = own[own.rows.str.startswith("published")]
    assert (
        own.published_train.tolist() == expected.train_sequences.tolist()
        and own.published_test.tolist() == expected.test_sequences.tolist()
    )
    ntu = own[own.dataset != "Kinetics"]
    assert (ntu.published_train == ntu.counted_train).all() and (ntu.published_test == ntu.counted_test).all()


def test_what_people_read_shows_every_published_figure(root, rendered):
    "The Markdown of Table 2, cell by cell: figure, marks, the seven that were not recovered, and dashes elsewhere."
    published = reference(root, "table2_sota")
    text = (rendered["table2_comparison"] / "table.md").read_text()
    lines = [line for line in text.split("**As published")[1].splitlines() if line.startswith("|")]
    heads, *rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines if not line.startswith("|:")]
    assert heads[2] == "NTU RGB+D 60, cross-subject, joints" and heads[-1] == "Kinetics-Skeleton, joints and bones"
    cells = {(row[0], head): c for row in rows for head, c in zip(heads[2:], row[2:])}
    assert len(rows) == 20 and len(cells) == 300
    for r in published.itertuples():
        found = cells.pop((r.method, words(r.dataset, r.protocol, r.modality)))
        assert found == "?" if not r.top1 else found.split(" ")[0] == r.top1 + r.marker, r
        assert r.source in ("poster", "") or found.endswith(
            {"original-paper": "(p)", "later-citation": "(c)", "inferred": "(i)"}[r.source]
        ), r
    assert (
        set(cells.values()) == {"-"}
        and (published.top1 == "").sum() == text.split("**As published")[1].split(LEGEND)[0].count("?") == 7
    )
    assert LEGEND in text


# ours


def test_not_run_is_said(rendered):
    ours = read(rendered["table2_comparison"])
    ours = ours[ours.kind == "ours"]
    kinetics = ours.stands_for == "Kinetics default"
    assert len(ours) == 30 and (ours[kinetics].state == NOT_RUN).all() and (ours[~kinetics].state == "run").all()
    assert (ours[kinetics].ours_top1 == "").all() and (ours[~kinetics].ours_top1 != "").all()
    table5 = read(rendered["table5_ablation"]).set_index("model")
    assert (
        table5.ours_top1["M4"] == "" and table5.ours_top1["M5"] != "" and table5.step_mean["M5"] == ""
    )  # no row above
    row = next(
        line for line in (rendered["table5_ablation"] / "table.md").read_text().splitlines() if line.startswith("| M4")
    )
    assert row.count(NOT_RUN) == 2  # the accuracy and the step
    assert json.loads((rendered["table5_ablation"] / "made.json").read_text())["missing"] == ["M4"]


def test_ours_is_the_mean_over_seeds(project, rendered):
    table = read(rendered["table5_ablation"]).set_index("model")
    for model, key in (("M1", "main/msg3d-xsub60-joint"), ("M3", "ablation/M3")):
        tops = []
        for path in sorted((project / "runs" / "synthetic" / key).glob("*/scores.npz")):
            z = np.load(path)
            tops.append(100 * np.mean(z["logits"].argmax(1) == z["labels"]))
        assert float(table.ours_top1[model]) == pytest.approx(np.mean(tops)) and float(
            table.ours_spread[model]
        ) == pytest.approx(max(tops) - min(tops))


def top_of(runs: list) -> dict[tuple, float]:
    "Top-1 of each run, counted again."
    return {(r.arm.name, r.seed): 100 * np.mean(r.scores.logits.argmax(1) == r.scores.labels) for r in runs}


def test_a_step_is_paired_with_the_row_above_seed_by_seed(root):
    "M1 has seeds that M2 and M3 have not: all rows are of the two seeds that all have."
    runs = [
        invent(ARMS[row], s, push=push)
        for row, push, seeds in (("M1", 2.0, (0, 1, 2, 3)), ("M2", 2.2, (1, 2, 3)), ("M3", 2.5, (3, 2)))
        for s in seeds
    ]
    top = top_of(runs)
    rows, used = ablation(runs, read_published(root, "table5_ablation"))
    assert rows[0].step is None and rows[3].own is rows[3].step is None
    assert sorted({r.seed for r in used}) == [2, 3] and len(used) == 6
    for row, below, model in ((rows[0], None, "M1"), (rows[1], "M1", "M2"), (rows[2], "M2", "M3")):
        assert row.own.values == pytest.approx([top[model, s] for s in (2, 3)])
        assert below is None or row.step.values == pytest.approx({s: top[model, s] - top[below, s] for s in (2, 3)})
    assert rows[2].gain.values == pytest.approx({s: top["M3", s] - top["M1", s] for s in (2, 3)})
    assert rows[2].step.trainings == pytest.approx(
        abs(np.subtract(*rows[2].step.values.values())) / 2
    )  # two seeds: half their distance


SEEDS = {MSG3D: range(5), STF: range(1, 4)}  # what two arms have; they share 1, 2 and 3


def pages(root) -> dict[str, tuple[list, list]]:
    "The runs that each page uses, of those that it was given: one of its arms has fewer seeds than the others."
    published = lambda name: read_published(root, name)
    whole = lambda *arms, **extra: [invent(own, s, **extra) for own in arms for s in range(5)]
    uneven = lambda **extra: [invent(own, s, **extra) for own in PAIR for s in SEEDS[own]]
    settings = [*whole(*PAIR), *uneven(modality="bone"), *whole(*PAIR, benchmark="synth60-xview")]
    last, full = uneven(benchmark="synth120-xsub"), whole(*PAIR, benchmark="synth120-xsub")
    shares = [*whole(*PAIR), *uneven(percent=10)]
    rows = [*whole(ARMS["M3"], ARMS["M4"]), *uneven()]
    figure = needed(rows, *PAIR, beside=ARMS.values())[1]
    return {
        "comparison": (comparison(settings, published("table2_sota"))[1], settings),
        "transfer": (transfer(last, full, published("table3_shift"))[2], [*last, *full]),
        "scarce": (scarce(shares, published("table4_scarce"))[2], shares),
        "ablation": (ablation(rows, published("table5_ablation"))[1], rows),
        "figures": ([run for own in figure.values() for run in own], rows),
    }


def test_all_rows_of_a_page_have_the_same_seeds(root):
    "Those that all arms share, and all runs of these; the footer says how many, and which."
    for name, (used, given) in pages(root).items():
        facts = lambda runs: sorted(
            (
                r.arm.row,
                r.config["benchmark"],
                r.config["input"]["modality"],
                r.config["percent"] or 100,
                r.seed,
            )
            for r in runs
        )
        assert facts(used) == [f for f in facts(given) if f[-1] in (1, 2, 3)] and {r.seed for r in used} == {1, 2, 3}, (
            name
        )
        assert "- seeds: 3 of each network: 1, 2, 3\n" in provenance(used, "x")


def test_networks_under_one_method_are_told_apart():
    "Whatever their label: that of the method, or one that says the network."
    runs = [*(invent(MSG3D, s) for s in range(3)), *(invent(OTHER, s) for s in range(2))]
    runs += [invent(OTHER, 2, label="M1"), invent(Arm("convolution", "M5"), 0, label="M5")]
    assert (
        [r.seed for r in arm(runs, OTHER, "synth60-xsub")]
        == [0, 1, 2]
        == [r.seed for r in arm(runs, MSG3D, "synth60-xsub")]
    )
    assert len(arm(runs, Arm("convolution", "M5"), "synth60-xsub")) == 1 and arm(runs, STF, "synth60-xsub") == []
    rows, used = ablation(runs, read_published(ROOT, "table5_ablation"))
    assert {r.config["network"]["name"] for r in used} == {"msg3d"} and rows[0].own.seeds == 3
    assert "convolution, width 12" in provenance(runs, "x") and "width 12, 3 and 2 scales" in provenance(runs, "x")


def test_a_label_tells_variants_of_a_method_apart():
    variant = Arm(method="M5", label="gate half open")
    runs = [invent(own, s) for own in (STF, variant) for s in range(2)]
    assert [r.arm for r in arm(runs, STF, "synth60-xsub")] == [STF] * 2
    assert [r.arm for r in arm(runs, variant, "synth60-xsub")] == [variant] * 2 and variant.title == "gate half open"


def test_what_differs_between_left_over_runs_is_named():
    runs = [invent(STF, 0), invent(STF, 1, choices={"stf_gate": "half"}, optim={"epochs": 9})]
    with pytest.raises(ValueError, match="all of STF and differ in optim.epochs, choices.stf_gate, so"):
        arm(runs, STF, "synth60-xsub")
    with pytest.raises(ValueError, match="all of STF and have a seed twice"):
        arm([runs[0], runs[0]], STF, "synth60-xsub")


def test_a_table_takes_any_list_of_arms(root):
    "Three arms of two networks: the others are compared with the first, and what is published stands where it is."
    arms, published = [OTHER, STF, MSG3D], lambda name: read_published(root, name)
    whole = [invent(own, s, push=push) for own, push in zip(arms, (1.5, 2.0, 2.5)) for s in range(3)]
    rows, used = comparison(whole, published("table2_sota"), arms)
    top = top_of(whole)
    assert len(used) == 9 and [*rows[0].own] == arms and [*rows[0].steps] == arms[1:] == [*rows[0].paper]
    assert rows[0].steps[STF].values == pytest.approx({s: top["M5", s] - top["convolution", s] for s in range(3)})
    heads = list(comparison_table(rows))
    for own in arms[1:]:
        assert f"{own.title} minus convolution (± 95 % over trainings and clips)" in heads
    assert heads[2:5] == ["ours: convolution", "ours: STF", "ours: MS-G3D"] and "published: convolution" not in heads
    long = comparison_long(rows, published("table2_sota"))
    ours = long[(long.kind == "ours") & (long.stands_for == "NTU60 xsub") & (long.modality == "J")]
    assert ours.method.tolist() == ["convolution", "STF", "MS-G3D"] and ours.step_mean.tolist()[0] == ""
    for table, name in ((scarce, "table4_scarce"), (lambda runs, *rest: transfer(runs, runs, *rest), "table3_shift")):
        people, machine, used = table(whole, published(name), arms)
        own = machine[machine.ours_top1 != ""]
        assert own.method.tolist()[0] == "convolution" and own.published_top1.tolist()[0] == "" and len(own) == 3
        assert all(own.published_top1[1:] != "") and own.step_mean.tolist()[0] == "" and all(own.step_mean[1:] != "")


def test_unequal_seeds_are_said_and_none_in_common_is_an_error():
    runs = [invent(MSG3D, 0), invent(MSG3D, 1), invent(STF, 1)]
    assert "- seeds: 1 to 2 of a network, not the same of each: 0, 1\n" in provenance(runs, "x")
    assert same_seeds({"a": [], "b": []}) == {"a": [], "b": []}
    with pytest.raises(ValueError, match="no seed in common.*M1-invented has 0; M5-invented has 1"):
        same_seeds({"M1": runs[:1], "M5": runs[2:], "M2": []})


def test_a_sixth_row_stands_beside_the_papers_five(root):
    "M5e: its step is to M5 on the same seeds, nothing of it is published; without its runs the table is the paper's."
    published = read_published(root, "table5_ablation")
    five = [invent(ARMS[row], s, push=2.4) for row in ("M1", "M2", "M3", "M4", "M5") for s in range(5)]
    runs = [*five, *[invent(ARMS["M5e"], s, push=2.6) for s in range(3)]]
    (rows, used), top = ablation(runs, published), top_of(runs)
    assert [r.model for r in rows] == ["M1", "M2", "M3", "M4", "M5", "M5e"] and len(used) == 18
    assert rows[5].step.values == pytest.approx({s: top["M5e", s] - top["M5", s] for s in range(3)})
    assert rows[5].gain.values == pytest.approx({s: top["M5e", s] - top["M1", s] for s in range(3)})
    last = ablation_table(rows, "synth60-xsub").iloc[-1]
    assert last.iloc[0] == "M5e" and [v for head, v in last.items() if head.startswith("published")] == ["", ""]
    long = ablation_long(rows, "synth60-xsub").iloc[-1]
    assert long[["L_e", "L_d", "L_Gk", "L_c"]].all() and all(
        v == "" for head, v in long.items() if head.startswith("published")
    )
    rows, used = ablation(five, published)
    assert [r.model for r in rows] == published.model.tolist() and len(used) == 25


def test_every_interval_says_what_it_is_over(rendered):
    for folder in rendered.values():
        for line in (folder / "table.md").read_text().splitlines():
            for head in line.split("|") if "95 %" in line else ():
                assert "95 %" not in head or re.search("95 % over (seeds|trainings and clips)", head), head


def test_an_axis_is_as_long_as_its_points_not_its_intervals():
    "Two seeds, 4 points apart: their interval is 51 points long, the axis is not, and arrowheads say so."
    points = pd.DataFrame({"row": ["a", "a", "b", "b"], "value": [1.0, 5.0, 2.0, 2.1]})
    fig, ax = plt.subplots()
    draw_seeds(ax, points, ["a", "b", "not run"])
    low, high = ax.get_xlim()
    assert (low, high) == seed_limits(points.value) and low < 0 and 5 < high < 7
    arrows = {
        line.get_marker(): (line.get_xdata()[0], line.get_ydata()[0])
        for line in ax.lines
        if line.get_marker() in ("<", ">")
    }
    assert arrows == {"<": (low, 0), ">": (high, 0)}  # of the first row only
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "|"]
    np.testing.assert_allclose(marks, [(3.0, 0), (2.05, 1)])
    drawn = np.concatenate([c.get_offsets() for c in ax.collections if len(c.get_offsets())])
    assert sorted(drawn[:, 0].tolist()) == [1, 2, 2.1, 5] and [t.get_text() for t in ax.get_yticklabels()] == [
        "a",
        "b",
        "not run",
    ]
    plt.close(fig)


def test_means_stand_among_the_points_of_their_kind():
    "Of several kinds in a row, mean and points have the same height."
    points = pd.DataFrame({"row": ["a"] * 4, "kind": ["one", "one", "two", "two"], "value": [1.0, 2, 3, 4]})
    fig, ax = plt.subplots()
    draw_seeds(ax, points, ["a"], {"one": "#000000", "two": "#0072B2"})
    heights = {round(float(x), 3): float(y) for c in ax.collections for x, y in c.get_offsets()}
    means = {line.get_xdata()[0]: line.get_ydata()[0] for line in ax.lines if line.get_marker() == "|"}
    assert (
        means[1.5] == pytest.approx(heights[1.0]) == pytest.approx(heights[2.0])
        and means[3.5] == pytest.approx(heights[4.0])
        and means[1.5] < means[3.5]
    )
    plt.close(fig)


def test_fused_cells_come_from_summed_scores(project, rendered):
    ours = read(rendered["table2_comparison"])
    own = ours[
        (ours.kind == "ours") & (ours.method == "STF") & (ours.stands_for == "NTU60 xview") & (ours.modality == "J+B")
    ].iloc[0]
    tops = []
    for seed in range(2):
        j, b = (
            np.load(project / "runs" / "synthetic" / "main" / f"stf-xview60-{m}" / f"seed-{seed}" / "scores.npz")
            for m in ("joint", "bone")
        )
        tops.append(100 * np.mean((j["logits"] + b["logits"]).argmax(1) == j["labels"]))
    assert float(own.ours_top1) == pytest.approx(np.mean(tops)) and own.dataset == "synth60-xview"


def test_synthetic_figures_stand_under_no_real_name(rendered):
    "A column that names a real data set is a published one, and one that holds ours names what it was measured on."
    for folder in rendered.values():
        for line in (folder / "table.md").read_text().splitlines():
            if line.startswith("|") and "ours" in line:
                heads = [c.strip() for c in line.strip("|").split("|")]
                real = [h for h in heads if re.search(r"NTU|Kinetics", h)]
                assert all(h.startswith("published") for h in real) and not any(
                    h.startswith("published") and "synth" in h for h in heads
                )
        assert (
            "synthetic: made by this project" in (folder / "table.md").read_text() or folder.name == "table1_datasets"
        )
    wide = (rendered["table2_comparison"] / "table.md").read_text().split("**As published")[1]
    assert not re.search(r"^\| .*ours", wide, flags=re.M)


def test_real_results_do_join_the_papers_layout(project):
    runs = read_runs(project, "synthetic", "main")
    published = read_published(project, "table2_sota")
    wide, rows = comparison_published(published), comparison(runs, published)[0]
    assert with_ours(wide, rows).equals(wide)
    for run in runs:
        run.config["benchmark"] = run.config["benchmark"].replace("synth", "ntu")
    joined = with_ours(wide, comparison(runs, published)[0])
    assert (
        joined.method.tolist()[-2:] == ["MS-G3D, ours", "STF, ours"]
        and joined.iloc[-1]["Kinetics-Skeleton, joints"] == NOT_RUN
        and joined.iloc[-1]["NTU RGB+D 60, cross-subject, joints"] != NOT_RUN
    )
    assert "no real data" not in provenance(runs, "paper")


def test_left_over_runs_are_refused(project):
    runs = read_runs(project, "synthetic", "main")
    next(r for r in runs if r.key == "stf-xsub60-joint").config["optim"]["epochs"] = 99
    with pytest.raises(ValueError, match="of STF and differ in optim.epochs, so they are no repetitions"):
        ablation(runs, read_published(project, "table5_ablation"))
    both = [*read_runs(project, "synthetic", "main"), *read_runs(project, "synthetic", "main")]
    with pytest.raises(ValueError, match="no repetitions"):
        arm(both, MSG3D, "synth60-xsub")
    next(r for r in both if r.key == "stf-xsub60-joint").config["benchmark"] = "ntu60-xsub"
    with pytest.raises(ValueError, match="two data sets"):
        counterpart(both, "NTU60", "xsub")


def test_every_benchmark_has_its_column():
    from stf_repro.data.registry import BENCHMARKS

    assert {setting(b) for b in BENCHMARKS if b.startswith("synth")} == {
        setting(b) for b in ("ntu60-xsub", "ntu60-xview", "ntu120-xsub", "ntu120-xset", "kinetics400")
    }
    assert [b for b in BENCHMARKS if is_made(b) and BENCHMARKS[b].source.startswith(("ntu", "kinetics400"))] == []


SHORT = r"\b(xsub|xview|xset|NTU60|NTU120|gcn\d|g3d\d|mean_gradient|elementwise|J\+B|original-paper|\w+_\w+)\b"  # names of the code, not words


def test_tables_are_read_in_words(rendered):
    for folder in rendered.values():
        text = re.sub(r"`[^`]*`|L_(e|d|Gk|c)\b", "", (folder / "table.md").read_text())
        assert re.search(SHORT, text) is None, (folder.name, re.search(SHORT, text))


def test_every_short_name_has_words(root):
    "Of the modules, forms and protocols that the code knows, and of the published tables."
    from stf_repro.data.registry import BENCHMARKS
    from stf_repro.model.nets.msg3d import MODULES
    from stf_repro.model.options import CHOICES

    for name in (*MODULES, *CHOICES["focus_form"].options, *(key for key in BENCHMARKS if "-" in key)):
        assert not re.search(SHORT, words(name)) and words(name) != name, name
    for table in ("table2_sota", "table4_scarce", "table5_ablation"):
        for r in reference(root, table)[["dataset", "protocol", "modality"]].drop_duplicates().itertuples(index=False):
            assert not re.search(SHORT, words(*r)), r
    assert (
        words("NTU120", "xset", "B") == "NTU RGB+D 120, cross-setup, bones"
        and words("sbu-3") == "SBU Kinect Interaction, fold 3"
        and words("random", "") == "random"
    )


# files


def test_latex_is_escaped_and_has_one_row_a_row(rendered):
    for folder in rendered.values():
        tex = (folder / "table.tex").read_text()
        body = "\n".join(line for line in tex.splitlines() if not line.startswith("%"))
        assert body.count(r"\toprule") == body.count(r"\bottomrule") == body.count(r"\begin{tabular}") >= 1
        assert not re.search(r"(?<!\\)[%_#]", re.sub(r"\\begin\{tabular\}\{l*\}", "", body)) and not re.search(
            r"[±‡†]", body
        )
    odd = pd.DataFrame({"a_b": ["5 % & more"], "c": ["x^2 ± 1"]})
    assert r"a\_b" in latex(odd) and r"5 \% \& more" in latex(odd) and r"$\pm$" in latex(odd)


def digest(folder) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_the_same_input_gives_the_same_bytes(project, params, rendered):
    before = digest(rendered["table5_ablation"])
    assert {
        "table5_ablation.ipynb",
        "table.csv",
        "table.md",
        "table.tex",
        "figure.png",
        "figure.svg",
        "made.json",
        "trainings.npz",
    } == set(before)
    assert digest(render(project, params, "table5_ablation")) == before
    for folder in rendered.values():  # nothing of this machine in what is kept
        for path in folder.iterdir():
            assert str(project).encode() not in path.read_bytes(), path


def test_a_notebook_that_fails_leaves_the_last_result(project, params, rendered, tmp_path):
    before = digest(rendered["table3_transfer"])
    path = project / "nbs" / "results" / "table3_transfer.ipynb"
    good = path.read_text()
    try:
        path.write_text(good.replace("read_published(", "undefined_name("))
        with pytest.raises(NotebookError, match="table3_transfer.failed.ipynb"):
            render(project, params, "table3_transfer")
    finally:
        path.write_text(good)
    results = project / "results" / "synthetic"
    assert (
        digest(rendered["table3_transfer"]) == before
        and (results / "table3_transfer.failed.ipynb").exists()
        and not list(results.glob(".*"))
    )
    (results / "table3_transfer.failed.ipynb").unlink()


# the runner


def notebook(*sources: str, metadata=None) -> str:
    "A notebook; its first cell takes the parameters."
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "execution_count": None, "source": text}
        for i, text in enumerate(("profile = 'x'\nout = '.'", *sources))
    ]
    cells[0]["metadata"] = {"tags": ["parameters"]}
    return json.dumps({"cells": cells, "metadata": metadata or {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def tiny(tmp_path, monkeypatch, capfd):
    "Puts a results notebook into a project of its own, and calls `stf render` there."
    root = tmp_path / "tiny"
    (root / "nbs" / "results").mkdir(parents=True)
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "params.yaml").write_text(
        yaml.safe_dump({"profile": "p", "sources": {"s": {}}, "runs": {"M1": {}}, "results": {"tiny": {}}})
    )

    monkeypatch.chdir(root)

    def call(text: str, **environment: str) -> tuple[int, str]:  # exit code, stderr
        (root / "nbs" / "results" / "tiny.ipynb").write_text(text)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return main(["render", "tiny"]), capfd.readouterr().err

    call.root, call.out = root, root / "results" / "p" / "tiny"
    return call


def test_the_kernel_is_that_of_this_python(tiny, tmp_path):
    "Whatever is called python3 on JUPYTER_PATH, and whatever IPython and Python would run at their start."
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        json.dumps({"argv": ["/bin/false", "{connection_file}"], "display_name": "another", "language": "python"})
    )
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    for path in (startup / "00.py", tmp_path / "start.py"):
        path.write_text("foreign = True")
    places = {
        "JUPYTER_PATH": str(tmp_path / "jupyter"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PYTHONSTARTUP": str(tmp_path / "start.py"),
    }
    code, error = tiny(
        notebook("import sys; open('said', 'w').write(f\"{sys.executable} {'foreign' in globals()}\")"), **places
    )
    assert code == 0, error
    assert (tiny.out / "said").read_text() == f"{sys.executable} False"


def test_a_process_that_dies_in_a_cell_is_one_sentence(tiny):
    assert tiny(notebook("open('good', 'w')"))[0] == 0
    code, error = tiny(notebook("import os; os._exit(9)"))
    assert code == 1 and error.count("\n") == 1
    assert "tiny.ipynb" in error and "died" in error and "memory" in error and "tiny.failed.ipynb" in error
    assert (
        (tiny.out / "good").exists()
        and (tiny.out.parent / "tiny.failed.ipynb").exists()
        and not list(tiny.out.parent.glob(".*"))
    )


def test_a_cell_that_fails_is_one_sentence(tiny):
    code, error = tiny(notebook("raise ValueError('no clips here')"))
    assert code == 1 and error.count("\n") == 1
    assert "tiny.ipynb failed (ValueError: no clips here)" in error
    assert "raise ValueError" in (tiny.out.parent / "tiny.failed.ipynb").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"cells": null}',
        '{"cells": [{}]}',
        '{"worksheets": [], "nbformat": 3}',
        notebook("1").replace('{"cell_type": "code", "id": "c1"', '{"cell_type": "cod", "id": "c1"'),
        notebook("1").replace('"code"', '"raw"'),
    ],
)
def test_a_broken_notebook_is_named(tiny, text):
    code, error = tiny(text)
    assert code == 1 and error.count("\n") == 1 and "nbs/results/tiny.ipynb" in error, error


def test_a_result_that_is_a_link_is_written_through(tiny, tmp_path):
    elsewhere = tmp_path / "disk" / "tiny"
    elsewhere.mkdir(parents=True)
    tiny.out.parent.mkdir(parents=True)
    tiny.out.symlink_to(elsewhere)
    for text in ("one", "two"):
        assert tiny(notebook(f"open('{text}', 'w')"))[0] == 0
    assert tiny.out.is_symlink() and sorted(p.name for p in elsewhere.iterdir()) == ["tiny.ipynb", "two"]
    assert tiny(notebook("1 / 0"))[0] == 1 and (tiny.out / "two").exists()
    assert [p.name for p in elsewhere.parent.iterdir()] == ["tiny"] and not list(tiny.out.parent.glob(".*"))


def test_what_an_older_rendering_left_does_not_stand_in_the_way(tiny, tmp_path):
    "A link, a file or a folder under one of the names that a rendering uses for itself."
    tiny.out.parent.mkdir(parents=True)
    for end in ("part", "old"):
        (tiny.out.parent / f".tiny.{end}").symlink_to(tmp_path)
    assert tiny(notebook("1"))[0] == 0 and tmp_path.exists()
    (tiny.out.parent / ".tiny.old").write_text("a file")
    assert tiny(notebook("2"))[0] == 0 and not list(tiny.out.parent.glob(".*"))


def test_a_rendering_killed_between_its_two_renames_has_lost_nothing(tiny):
    "The last result stands aside then; the next call puts it back before it does anything that can fail."
    assert tiny(notebook("open('good', 'w')"))[0] == 0
    tiny.out.rename(tiny.out.parent / ".tiny.old")
    (tiny.out.parent / ".tiny.part").mkdir()
    assert tiny(notebook("1 / 0"))[0] == 1
    assert (tiny.out / "good").exists() and not list(tiny.out.parent.glob(".*"))


@pytest.mark.parametrize("results, reason", [
    (["a"], "params.yaml is ['a']; expected a mapping"),
    ({"tiny": 3}, "results.tiny in params.yaml is 3"),
    ({"tiny": {"clases": [1]}}, "knows no parameter ['clases']"),
    (None, "has no result 'tiny'; it has: none"),
])  # fmt: skip
def test_results_in_params_are_checked(tiny, results, reason):
    params = yaml.safe_load((tiny.root / "params.yaml").read_text())
    (tiny.root / "params.yaml").write_text(yaml.safe_dump(params | {"results": results}))
    code, error = tiny(notebook("1"))
    assert code == 1 and reason in error and error.count("\n") == 1


FIGURES = [
    "any_network",
    "does_it_help",
    "equal_tuning",
    "explanations",
    "faithfulness",
    "figure_adjacency",
    "figure_classwise",
    "figure_focus",
    "hidden",
    "localisation",
    "mechanism",
    "occlusion",
    "parts",
    "recipe",
    "sensitivity",
    "study",
    "terms",
]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_without_runs_says_which(root, tmp_path, monkeypatch, name):
    "The cells of the notebook, one after the other, in a project where nothing was trained."
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    cells = [
        c
        for c in json.loads((root / "nbs" / "results" / f"{name}.ipynb").read_text())["cells"]
        if c["cell_type"] == "code"
    ]
    names = {}
    with pytest.raises(
        ValueError,
        match="there is no finished run (of|here).*; `stf runs` lists what is still to be trained",
    ):
        for cell in cells:
            exec("".join(cell["source"]), names)


def test_every_notebook_that_needs_runs_is_tested_without(root):
    tables = {*(f"table{n}" for n in range(1, 6)), "reproducibility"}  # these show `not run`
    assert {p.stem for p in (root / "nbs" / "results").glob("*.ipynb") if p.stem.split("_")[0] not in tables} == set(
        FIGURES
    )


def test_unknown_results_are_told_with_the_nearest(project, params):
    with pytest.raises(NotebookError, match="no results notebook 'table5_ablaton'; did you mean 'table5_ablation'"):
        render(project, params, "table5_ablaton")
    with pytest.raises(NotebookError, match="profile 'x' has no result 'localisation'; it has: table5_ablation"):
        render(project, {"profile": "x", "results": {"table5_ablation": None}}, "localisation")


def test_every_profile_gives_its_notebooks_parameters_that_they_know(root):
    names = set()
    for path in sorted((root / "conf" / "profile").glob("*.yaml")):
        profile = profile_params(root, path.stem)
        for name in {**profile["results"], **profile["reports"]}:
            own = own_parameters(root, profile, name)
            _check(root / "nbs" / "results" / f"{name}.ipynb", {"profile": profile["profile"], "out": "."} | own)
            names.add(name)
    drawn = runpy.run_path(str(root / "docs" / "draw_rows.py"))[
        "RESULTS"
    ]  # the profile that is written once the tuning is done
    names |= {*yaml.safe_load(drawn)["results"]}
    assert names == set(TITLES) == {p.stem for p in (root / "nbs" / "results").glob("*.ipynb")}


def test_every_page_of_runs_takes_its_network(root):
    "One, or a list; the names of its maps come from it. The report is about the paper's, the second study about the rows of its protocol, and the explanations are of all networks."
    for path in sorted((root / "nbs" / "results").glob("*.ipynb")):
        if path.stem not in (
            "table1_datasets",
            "reproducibility",
            "equal_tuning",
            "does_it_help",
            "hidden",
            "any_network",
            "explanations",
        ):
            (parameters,) = _sources(path, "parameters")
            assert ('network = "msg3d"' in parameters) != ('networks = ["msg3d"]' in parameters), path
        assert "model.nets" not in path.read_text(), path


def test_no_figure_is_typed_in_a_results_notebook(root):
    "Neither in prose nor in code: accuracies have decimals."
    for path in sorted((root / "nbs" / "results").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "markdown":
                text = "".join(cell["source"]).replace("95 %", "")  # of an interval
                assert not re.search(r"\d\.\d|\d ?%", text), path
            else:
                assert not re.search(r"\b\d\d\.\d", "".join(cell["source"])), path


# the choices and the terms


INVENTED = {  # row of conf/paper/choices.yaml: its seeds
    "M5": (0, 1, 2), "M1": (0,), "no-terms": (0, 1, 2), "exploration": (0, 1, 2), "divergence": (0, 1, 2), "adjacency": (0, 1, 2), "coherence": (0, 1, 2),
    "early": (0, 1, 2), "focus-form-elementwise": (1, 2), "stf-gate-half": (0, 1, 2), "focus-scale-norm": (2,), "distance-squared": (7,),
}  # fmt: skip


def invented(config):
    "A network that nobody trained. All are nearly alike, but where a row is made to differ."
    import torch

    from stf_repro.data.registry import get_benchmark
    from stf_repro.training.loop import build_model

    torch.manual_seed(0)
    model = build_model(config, get_benchmark(config.benchmark)).eval()
    with torch.no_grad():
        for name, module in getattr(model, "stf", {}).items():
            module.gate.fill_(0.5 if config.choices.get("stf_gate") else 0.001)
            module.beta[0].weight.mul_(0.01)
            module.beta[0].bias.fill_(
                -1.0 if config.label == "L_Gk alone" else 3.0
            )  # Q is mostly small, so that -1 is nearer to it
            module.beta[0].bias.add_(0.01 * config.seed)
        for block in model.blocks:
            for unit in (block.gcn, *block.g3d):
                unit.residual.fill_(0.0001)
    return model


@pytest.fixture(scope="module")
def choices(root, made_data, tmp_path_factory):
    "A project of the profile `choices` with invented runs on small data: its folder, its parameters, the clips that are scored."
    import torch
    from dvc.utils.hydra import compose_and_dump

    from stf_repro.data.clip_store import ClipStore
    from stf_repro.model.nets.msg3d import MSG3DConfig
    from stf_repro.training.config import run_configs
    from stf_repro.training.runs import resolve
    from stf_repro.training.runs import read_params
    from stf_repro.training.artifacts import origin, write_results

    folder = tmp_path_factory.mktemp("choices")
    for name in ("data", "conf", "nbs/results"):
        shutil.copytree(root / name, folder / name)
    shutil.copyfile(root / "dvc.yaml", folder / "dvc.yaml")
    for name in ("raw", "clips"):
        shutil.copytree(made_data / name, folder / name)
    compose_and_dump(folder / "params.yaml", str(root / "conf"), None, "config", "", ["profile=choices"])
    params, store = read_params(folder / "params.yaml"), ClipStore.open(folder / "clips" / "synth60")
    scored = [
        i for i, name in enumerate(store.names) if name[8:12] == "P002"
    ]  # people 1 and 2 train, one of two is held out
    labels, names = store.labels[scored].astype(np.int64), np.array([store.names[i] for i in scored])
    rng = np.random.default_rng(0)
    for key, seeds in INVENTED.items():
        any_seed = next(iter(run_configs(resolve("", params, key)).values()))
        for seed in seeds:
            config = any_seed.model_copy(
                update={"seed": seed, "network": MSG3DConfig(width=6, num_gcn_scales=2, num_g3d_scales=2, windows=(3,))}
            )
            model = invented(config)
            scores = {
                "logits": (rng.normal(size=(len(labels), 14)) + 2 * np.eye(14)[labels]).astype(np.float32),
                "labels": labels,
                "names": names,
            }
            history = [{"epoch": 1, "lr": 0.1, "test_top1": 50.0, "test_top5": 50.0, "test_loss": 1.0}]
            weights = {name: value.contiguous() for name, value in model.state_dict().items()}
            record = origin(torch.device("cpu")) | {"seconds": 36.0}
            out = folder / "runs" / "choices" / "choices" / key / f"seed-{seed}"
            out.mkdir(parents=True)
            write_results(out, config, weights, weights, scores, history, record, 9)
    return folder, params, scored


def cells_of(text: str, caption: str) -> list[dict[str, str]]:
    "A table of table.md, as one dictionary a row."
    lines = [line for line in text.split(f"**{caption}")[1].split("\n\n")[1].splitlines()]
    split = lambda line: [c.strip() for c in line.strip().strip("|").split("|")]
    return [dict(zip(split(lines[0]), split(line), strict=True)) for line in lines[2:]]


def tops(folder, key) -> dict[int, float]:
    found = {}
    for path in (folder / "runs" / "choices" / "choices" / key).glob("seed-*/scores.npz"):
        z = np.load(path)
        found[int(path.parent.name[5:])] = 100 * np.mean(z["logits"].argmax(1) == z["labels"])
    return found


@pytest.fixture(scope="module")
def sensitivity(choices):
    folder, params, _ = choices
    return render(folder, params, "sensitivity")


def test_a_choice_is_compared_with_m5_over_shared_seeds(choices, sensitivity):
    "The table against the scores; a row whose seed M5 has not is no row, and one with a single shared seed has no interval."
    folder, _, scored = choices
    text = (sensitivity / "table.md").read_text()
    rows = cells_of(text, "Accuracy on clips held out of the training part, by subject")
    base, changes = tops(folder, "M5"), {}
    for key, label in (
        ("early", "every focus early, element by element (together)"),
        ("focus-form-elementwise", "focus element by element"),
        ("stf-gate-half", "gate half open"),
        ("focus-scale-norm", "focus scaled to norm 1"),
    ):
        own = tops(folder, key)
        changes[label] = np.array([own[s] - base[s] for s in sorted(set(own) & set(base))])
    assert [row["row"] for row in rows] == ["M5", *sorted(changes, key=lambda label: -changes[label].mean())]
    quantile = {2: 12.706, 3: 4.303}  # Student's t, two-sided 95 %
    clear = 0
    for row in rows[1:]:
        values, cell = changes[row["row"]], row["change (± 95 % over seeds)"].split(" ± ")
        assert float(cell[0]) == pytest.approx(values.mean(), abs=0.006) and row["seeds"] == str(
            max(len(values), len(tops(folder, "early")) if "early" in row["row"] else 0)
        )
        if len(values) > 1:
            half = quantile[len(values)] * values.std(ddof=1) / len(values) ** 0.5
            assert float(cell[1]) == pytest.approx(half, abs=0.006)
            clear += abs(values.mean()) > half
        else:
            assert len(cell) == 1
    assert f"**Top-1**: {clear} of 3 intervals exclude zero, and 0.15 would do so by luck alone" in text
    page = (sensitivity / "sensitivity.ipynb").read_text()
    assert (
        f"4 rows are compared with M5, 1 of them combinations. Scored on {len(scored)} clips held out of the training part, by subject."
        in page
    )
    assert f"{sum(map(len, INVENTED.values()))} trainings." in page
    assert "squared distances" not in text


def test_all_networks_are_measured_by_the_same_map(sensitivity):
    "A row that reads Q in another way, and has the weights of M5, has the focus of M5; MS-G3D has no adjacency."
    text = (sensitivity / "table.md").read_text()
    focus = {row["row"]: row for row in cells_of(text, "Focus inside the truth")}
    for label in ("focus element by element", "every focus early, element by element (together)"):
        assert [cell for head, cell in focus[label].items() if "module" in head] == ["+0.00 ± 0.00"] * 4
    csv = read(sensitivity)
    assert set(csv[csv.row == "M1"]["size"]) == {""} and (csv[csv.row == "M5"]["size"] != "").all()
    assert csv[csv.row == "gate half open"].choices.unique().tolist() == ["stf_gate=half"]


def test_an_adjacency_beside_the_residual(sensitivity):
    "G through an open gate is larger than a residual of a ten-thousandth, and G through one that is nearly closed is not."
    page = (sensitivity / "sensitivity.ipynb").read_text()
    assert (
        "What G adds is larger than the learned residual, by an interval over seeds that excludes zero, in 1 of 2 rows: gate half open."
        in page
    )
    rows = {row["row"]: row for row in cells_of((sensitivity / "table.md").read_text(), "The adjacency of the rows")}
    assert list(rows) == ["M5", "gate half open"]
    size = {row: float(cells["G (% of fixed)"].split(" ± ")[0]) for row, cells in rows.items()}
    assert size["gate half open"] == pytest.approx(500 * size["M5"], rel=0.2)


@pytest.mark.slow
def test_a_term_is_said_to_do_what_its_interval_says(choices):
    "beta was put near Q in the networks with L_Gk alone; the other rows have the weights of those without terms."
    folder, params, scored = choices
    out = render(folder, params, "terms")
    text = (out / "table.md").read_text()
    assert re.search(
        r"L_Gk: distance of beta and Q: with this term alone it falls \(-\d+\.\d{3} ± \d+\.\d{3}\); with all terms it is not shown to change \(\+0\.000 ± 0\.000\)",
        text,
    )
    assert "L_c: distance of the last two foci: with this term alone it is not shown to change (+0.000 ± 0.000)" in text
    rows = {
        row["row"]: row
        for row in cells_of(text, "What each term changes, on clips held out of the training part, by subject")
    }
    head = next(h for h in rows["no terms"] if h.startswith("L_Gk"))
    assert list(rows) == ["no terms", "L_e alone", "L_d alone", "L_Gk alone", "L_c alone", "M5"]
    assert (
        rows["L_Gk alone"][head].startswith("**-")
        and rows["L_e alone"][head] == "+0.000 ± 0.000"
        and rows["M5"][head] == "**+0.000 ± 0.000**"
    )
    csv = read(out)
    assert len(csv) == 18 and set(csv.seed) == {"0", "1", "2"}
    for key, label in (("no-terms", "no terms"), ("coherence", "L_c alone")):
        assert csv[csv.row == label].sort_values("seed").top1.astype(float).tolist() == pytest.approx(
            [v for _, v in sorted(tops(folder, key).items())]
        )
    assert {"figure.png", "body.png"} <= {p.name for p in out.iterdir()}
    page = (out / "terms.ipynb").read_text()
    assert (
        f"18 networks; {len(scored)} clips held out of the training part, by subject" in page
        and "every focus early, element by element: not run" not in page
    )


@pytest.mark.slow
def test_a_run_that_was_scored_on_other_clips_is_named(choices):
    folder, params, _ = choices
    path = folder / "runs" / "choices" / "choices" / "early" / "seed-1" / "scores.npz"
    before = path.read_bytes()
    z = dict(np.load(path))
    try:
        np.savez(path, **(z | {"names": z["names"][::-1]}))
        (folder / "runs" / "choices" / "rendered" / "sensitivity.json").unlink(
            missing_ok=True
        )  # render it, whatever is known of it
        with pytest.raises(NotebookError, match="early: scored on other clips than the"):
            render(folder, params, "sensitivity")
    finally:
        path.write_bytes(before)


# front page


def test_front_page_lists_everything_and_links_exist(project, rendered):
    page = (project / "results" / "README.md").read_text()
    assert page == front_page(project)
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert (project / "results" / target).exists() or target.startswith("../nbs/"), target
    assert (
        page.count("made on synthetic data") == 4 and "reproduced" not in page
    )  # Table 1 asks for clips, and there are none
    row = next(line for line in page.splitlines() if line.startswith("| `synthetic` | table5_ablation"))
    assert (
        "1 not run" in row
        and "2026-01-02" in row
        and "a made-up machine" in row
        and "`dvc repro results@table5_ablation`" in row
        and "0" * 12 in row
    )
    assert re.search("No page yet: .*`paper`", page) and "| `paper` |" not in page


def csv_of(e: Effect | None, prefix: str) -> dict[str, str]:
    return {name: str(value) for name, value in columns(prefix, e, Effect).items()}


def ablation_csv(gain: Effect | None) -> pd.DataFrame:
    rows = [
        {"model": "M1", "ours_top1": "80.0"} | csv_of(None, "gain"),
        {"model": "M5", "ours_top1": "82.0"} | csv_of(gain, "gain"),
    ]
    return pd.DataFrame(rows).assign(measured_on="synth60-xsub")


NONE = "no difference between STF and MS-G3D is shown on synth60, cross-subject, joints"


@pytest.mark.parametrize("gain, verdict", [
    (Effect(2.0, 0.5, 9.0, values={0: 1, 1: 2, 2: 3}), "STF is more accurate than MS-G3D on synth60, cross-subject, joints (+2.00 ± 1.13 points, 3 seeds)"),
    (Effect(-2.0, 0.5, 9.0), "STF is less accurate than MS-G3D"),
    (Effect(2.0, 1.0, 9.0), NONE),
    (Effect(2.0, float("nan"), float("nan"), values={0: 2.0}), NONE + " (+2.00 points, 1 seeds)"),  # one seed has no interval
])  # fmt: skip
def test_what_is_said_of_accuracy_is_no_stronger_than_its_interval(gain, verdict):
    assert found_accuracy(ablation_csv(gain)).startswith(verdict)
    assert found_accuracy(ablation_csv(None)) == ""


def test_what_is_said_of_the_settings_is_counted():
    steps = [Effect(2.0, 0.5, 9.0), Effect(-2.0, 0.5, 9.0), Effect(0.5, 0.5, 9.0)]
    rows = pd.DataFrame(
        [{"kind": "ours"} | csv_of(e, "step") for e in (*steps, None)] + [{"kind": "published"} | csv_of(None, "step")]
    ).assign(method="STF")
    other = rows.assign(method="convolution + STF")
    assert FOUND["table2_comparison"](pd.concat([rows, other]), pairs("convolution")).startswith("convolution + STF is")
    assert (
        FOUND["table2_comparison"](pd.concat([rows, other]), PAIR)
        == counted(steps, "settings")
        == "STF is more accurate in 1 of 3 settings, less accurate in 1; its mean is lower in 1"
    )
    assert counted([], "settings") == ""


def localisation_csv(maps: dict[tuple[str, str], list[float]], chance: float = 0.25) -> pd.DataFrame:
    "Energy inside the truth, by map and seed; and rows that do not matter."
    rows = [{"model": model, "seed": str(s), "place": place, "module": module, "form": form, "kind": kind, "measure": measure, "value": str(v + 0.3 * (model != "M5" or kind != "all" or measure != "energy" or place == "output")), "chance": str(chance)}
            for (module, form), values in maps.items() for s, v in enumerate(values) for place in ("input", "output") for model in ("M1", "M5") for kind in ("all", "when") for measure in ("pointing", "energy")]  # fmt: skip
    return pd.DataFrame(rows)


EARLY, LAST = ("gcn1", "elementwise"), ("g3d3", "mean_gradient")


@pytest.mark.parametrize("first, last, said", [
    ([0.60, 0.62, 0.64], [0.28, 0.27, 0.29], ("focus (elementwise) 62 ± 5 %", "above chance (25 %)", "28 ± 2 %, above chance")),
    ([0.60, 0.30, 0.10], [0.28, 0.27, 0.29], ("not shown to differ from chance (", "28 ± 2 %, above chance")),
    ([0.10, 0.11, 0.12], [0.25, 0.26, 0.24], ("below chance (", "25 ± 2 %, not shown to differ from chance")),
    ([0.60], [0.28], ("(elementwise) 60 %", "not shown to differ from chance (", "28 %, not shown to differ from chance")),
])  # fmt: skip
def test_what_is_said_of_the_focus_is_no_stronger_than_its_intervals(first, last, said):
    text = found_focus(localisation_csv({EARLY: first, LAST: last, ("motion", ""): [0.9] * len(first)}))
    for part in said:
        assert text.count(part) == 1, text


@pytest.mark.parametrize(
    "shares, said", [([0.4, 0.5, 0.6], "0.5 ± 0.2 %"), ([20.0, 21.0, 22.0], "21.0 ± 2.5 %"), ([0.5], "0.5 %")]
)
def test_what_is_said_of_the_adjacency_is_its_mean_over_seeds(shares, said):
    rows = [
        {"module": module, "seed": str(s), "G in % of A": str(v + d)}
        for s, v in enumerate(shares)
        for module, d in (("gcn1", -0.1), ("g3d1", 0.1))
    ]
    assert f"the size of G is {said} of the graph" in found_adjacency(pd.DataFrame(rows))


def test_every_page_has_its_finding(root):
    "Those that were made, in words that follow from their tables."
    for profile, name in committed_pages(root):
        assert finding(folder_of(root, profile_params(root, profile), name)), (profile, name)


# in a clone without runs


@pytest.fixture(scope="module")
def clone(root, tmp_path_factory):
    "What git has, and nothing else: no runs, no clips, no raw files."
    folder = tmp_path_factory.mktemp("clone")
    for name in ("conf", "data", "nbs/results", "results"):
        shutil.copytree(root / name, folder / name)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(root / name, folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("profile, name", committed_pages(ROOT))
def test_every_page_renders_again_from_what_is_committed(clone, root, profile, name):
    "The same files, and the same numbers but for last digits."
    params = profile_params(clone, profile)
    before, after = folder_of(root, params, name), render(clone, params, name)
    assert {p.name for p in before.iterdir()} == {p.name for p in after.iterdir()}
    for path in sorted(before.glob("*.csv")):
        pd.testing.assert_frame_equal(pd.read_csv(path), pd.read_csv(after / path.name), rtol=1e-6, atol=1e-9)
    assert (before / "made.json").read_text() == (after / "made.json").read_text()


@pytest.mark.slow
def test_a_page_whose_kept_files_are_gone_or_damaged_is_not_blanked(clone, root):
    "The trainings of Table 5 are taken away, then damaged: the committed table stays as it is."
    folder, params = clone / "results" / "synthetic" / "table5_ablation", profile_params(clone, "synthetic")
    table, whole = (folder / "table.md").read_text(), (folder / "trainings.npz").read_bytes()
    stamp = clone / "runs" / "synthetic" / "rendered" / "table5_ablation.json"
    try:
        for content, reason in ((None, "trainings.npz is not there"), (b"PK", "trainings.npz is damaged")):
            (folder / "trainings.npz").unlink(missing_ok=True)
            if content:
                (folder / "trainings.npz").write_bytes(content)
            stamp.unlink(missing_ok=True)
            with pytest.raises(NotebookError, match=reason):
                render(clone, params, "table5_ablation")
            assert (folder / "table.md").read_text() == table
    finally:
        (folder / "trainings.npz").write_bytes(whole)


@pytest.mark.slow
def test_one_bad_page_costs_no_other(clone, monkeypatch, capsys):
    monkeypatch.chdir(clone)
    path = clone / "results" / "choices" / "terms" / "table.csv"
    whole = path.read_text()
    try:
        path.write_text("")
        assert main(["render", "--all", "--profile", "choices"]) == 1
    finally:
        path.write_text(whole)
    said = capsys.readouterr()
    assert "sensitivity" in said.out and "terms" in said.err and "1 of 2 pages failed" in said.err
    assert main(["render", "--all", "--profile", "nosuch"]) == 1 and "there is no profile" in capsys.readouterr().err


def test_an_unknown_profile_is_told_with_those_that_there_are(root):
    with pytest.raises(ConfigError, match="no profile 'sbuu' in conf/profile; there are: .*sbu"):
        profile_params(root, "sbuu")


@pytest.mark.slow
def test_a_commit_that_git_did_not_say_is_not_called_clean(project, params):
    folder = project / "runs" / "synthetic" / "transfer" / "stf-transfer" / "seed-0"
    record = json.loads((folder / "record.json").read_text())
    known = {"unknown": "unknown", "1" * 40: "1" * 12 + " perhaps with uncommitted changes"}
    try:
        for commit, text in known.items():
            (folder / "record.json").write_text(json.dumps(record | {"commit": commit, "uncommitted_changes": None}))
            out = render(project, params, "table3_transfer")
            made = json.loads((out / "made.json").read_text())
            assert (
                made["uncommitted_changes"] is None
                and f"- commit: 000000000000; {text}\n" in (out / "table.md").read_text()
            )
            row = next(
                line
                for line in (project / "results" / "README.md").read_text().splitlines()
                if line.startswith("| `synthetic` | table3_transfer")
            )
            assert "perhaps with uncommitted changes |" in row
    finally:
        (folder / "record.json").write_text(json.dumps(record))
        render(project, params, "table3_transfer")


def test_the_front_page_needs_no_git(project, params, rendered, monkeypatch):
    path = rendered["table5_ablation"] / "made.json"
    whole = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(whole) | {"dates": []}))
        monkeypatch.setenv("PATH", "")
        assert "| unknown |" in front_page(project)
    finally:
        path.write_text(whole)


def test_states():
    facts = {"made": False, "missing": [], "runs": ["main/a/seed-0"]}
    assert (
        state(None, "table5_ablation", True).startswith("published only")
        and state(None, None, True) == state(None, "table5_ablation", False) == "not run here"
    )
    assert state(facts, None, True) == "reproduced" and state(facts, None, False) == "made on real data"
    assert state(facts | {"missing": ["a"], "runs": []}, None, True) == "not run here"
    assert (
        state(facts | {"made": True, "missing": ["a", "b"]}, "table5_ablation", False)
        == "made on synthetic data; 2 not run"
    )
