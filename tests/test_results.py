"The results: what notebooks write, against data/reference and against each other. Runs are made up here, nothing is trained."

import hashlib
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from stf_repro.report.front import TITLES, front_page, state
from stf_repro.report.notebooks import NotebookError, _check, own_parameters, render
from stf_repro.report.tables import LEGEND, NOT_RUN, ablation, arm, comparison, comparison_published, counterpart, is_made, latex, provenance, read_published, read_runs, setting, with_ours

SETTINGS = {"xsub60": "synth60-xsub", "xview60": "synth60-xview", "xsub120": "synth120-xsub", "xset120": "synth120-xset"}  # Kinetics is left out: not run


def write_run(root, table, key, seed, label, benchmark, modality="joint", percent=None, start=None, n=70, classes=14):
    "A finished run with random scores."
    folder = root / "runs" / "synthetic" / table / key / f"seed-{seed}"
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, *map(ord, key)])
    labels = np.arange(n) % classes
    logits = (rng.normal(size=(n, classes)) + 2 * np.eye(classes)[labels]).astype(np.float32)
    np.savez(folder / "scores.npz", logits=logits, labels=labels, names=np.arange(n).astype(str))
    model = {"name": "stf" if label in ("M4", "M5") else "msg3d", "width": 12, "num_gcn_scales": 3, "num_g3d_scales": 2, "windows": [3]}
    config = {"table": table, "label": label, "source": benchmark.split("-")[0], "benchmark": benchmark, "model": model, "seed": seed, "percent": percent, "start": start}
    config |= {"input": {"recipe": "replay", "frames": 60, "every": 4, "modality": modality}, "optim": {"epochs": 8}}
    record = {"hardware": "a made-up machine", "seconds": 2.5, "commit": "0" * 40, "uncommitted_changes": False, "versions": {"torch": "0"}, "date": "2026-01-02"}
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
        for name, label in (("msg3d", "M1"), ("stf", "M5")):
            for modality in ("joint", "bone"):
                for seed in range(2):
                    write_run(folder, "main", f"{name}-{where}-{modality}", seed, label, benchmark, modality)
    for label in ("M2", "M3"):
        for seed in range(2):
            write_run(folder, "ablation", label, seed, label, "synth60-xsub")
    for name, label in (("msg3d", "M1"), ("stf", "M5")):
        write_run(folder, "scarce", f"{name}-p10", 0, label, "synth60-xsub", percent=10)
        write_run(folder, "shift", f"{name}-shift", 0, label, "synth120-xsub", start=f"{name}-xsub60-joint")
    return folder


@pytest.fixture(scope="module")
def params(root):
    return yaml.safe_load((root / "params.yaml").read_text())


@pytest.fixture(scope="module")
def rendered(project, params):
    return {name: render(project, params, name) for name in ("table1_datasets", "table2_comparison", "table3_shift", "table4_scarce", "table5_ablation")}


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
    ("table3_shift", "table3_shift", ["method"], ["train_dataset", "tuned_part", "test_dataset", "top1", "delta", "source"]),
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
    assert own.published_train.tolist() == expected.train_sequences.tolist() and own.published_test.tolist() == expected.test_sequences.tolist()
    ntu = own[own.dataset != "Kinetics"]
    assert (ntu.published_train == ntu.counted_train).all() and (ntu.published_test == ntu.counted_test).all()


def test_what_people_read_shows_every_published_figure(root, rendered):
    "The Markdown of Table 2, cell by cell: figure, marks, the seven that were not recovered, and dashes elsewhere."
    published = reference(root, "table2_sota")
    text = (rendered["table2_comparison"] / "table.md").read_text()
    lines = [line for line in text.split("**As published")[1].splitlines() if line.startswith("|")]
    heads, *rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines if not line.startswith("|:")]
    cells = {(row[0], head): c for row in rows for head, c in zip(heads[2:], row[2:])}
    assert len(rows) == 20 and len(cells) == 300
    for r in published.itertuples():
        found = cells.pop((r.method, f"{r.dataset} {r.protocol} {r.modality}".replace(" default", "")))
        assert found == "?" if not r.top1 else found.split(" ")[0] == r.top1 + r.marker, r
        assert r.source in ("poster", "") or found.endswith({"original-paper": "(p)", "later-citation": "(c)", "inferred": "(i)"}[r.source]), r
    assert set(cells.values()) == {"-"} and (published.top1 == "").sum() == text.split("**As published")[1].split(LEGEND)[0].count("?") == 7
    assert LEGEND in text


# ours


def test_not_run_is_said(rendered):
    ours = read(rendered["table2_comparison"])
    ours = ours[ours.kind == "ours"]
    kinetics = ours.stands_for == "Kinetics default"
    assert len(ours) == 30 and (ours[kinetics].state == NOT_RUN).all() and (ours[~kinetics].state == "run").all()
    assert (ours[kinetics].ours_top1 == "").all() and (ours[~kinetics].ours_top1 != "").all()
    table5 = read(rendered["table5_ablation"]).set_index("model")
    assert table5.ours_top1["M4"] == "" and table5.ours_top1["M5"] != "" and table5.step_gain["M5"] == ""  # no row above
    row = next(line for line in (rendered["table5_ablation"] / "table.md").read_text().splitlines() if line.startswith("| M4"))
    assert row.count(NOT_RUN) == 2
    assert json.loads((rendered["table5_ablation"] / "made.json").read_text())["missing"] == ["M4"]


def test_ours_is_the_mean_over_seeds(project, rendered):
    table = read(rendered["table5_ablation"]).set_index("model")
    for model, key in (("M1", "main/msg3d-xsub60-joint"), ("M3", "ablation/M3")):
        tops = []
        for path in sorted((project / "runs" / "synthetic" / key).glob("*/scores.npz")):
            z = np.load(path)
            tops.append(100 * np.mean(z["logits"].argmax(1) == z["labels"]))
        assert float(table.ours_top1[model]) == pytest.approx(np.mean(tops)) and float(table.ours_spread[model]) == pytest.approx(max(tops) - min(tops))


def test_fused_cells_come_from_summed_scores(project, rendered):
    ours = read(rendered["table2_comparison"])
    own = ours[(ours.kind == "ours") & (ours.method == "STF") & (ours.stands_for == "NTU60 xview") & (ours.modality == "J+B")].iloc[0]
    tops = []
    for seed in range(2):
        j, b = (np.load(project / "runs" / "synthetic" / "main" / f"stf-xview60-{m}" / f"seed-{seed}" / "scores.npz") for m in ("joint", "bone"))
        tops.append(100 * np.mean((j["logits"] + b["logits"]).argmax(1) == j["labels"]))
    assert float(own.ours_top1) == pytest.approx(np.mean(tops)) and own.dataset == "synth60-xview"


def test_synthetic_figures_stand_under_no_real_name(rendered):
    "A column that names a real data set is a published one, and one that holds ours names what it was measured on."
    for folder in rendered.values():
        for line in (folder / "table.md").read_text().splitlines():
            if line.startswith("|") and "ours" in line:
                heads = [c.strip() for c in line.strip("|").split("|")]
                real = [h for h in heads if re.search(r"NTU|Kinetics", h)]
                assert all(h.startswith("published") for h in real) and not any(h.startswith("published") and "synth" in h for h in heads)
        assert "synthetic: made by this project" in (folder / "table.md").read_text() or folder.name == "table1_datasets"
    wide = (rendered["table2_comparison"] / "table.md").read_text().split("**As published")[1]
    assert not re.search(r"^\| .*ours", wide, flags=re.M)


def test_real_results_do_join_the_papers_layout(project):
    runs = read_runs(project, "synthetic", "main")
    published = read_published(project, "table2_sota")
    wide, rows = comparison_published(published), comparison(runs, published)
    assert with_ours(wide, rows).equals(wide)
    for run in runs:
        run.config["benchmark"] = run.config["benchmark"].replace("synth", "ntu")
    joined = with_ours(wide, comparison(runs, published))
    assert joined.method.tolist()[-2:] == ["MS-G3D, ours", "STF, ours"] and joined.iloc[-1]["Kinetics J"] == NOT_RUN and joined.iloc[-1]["NTU60 xsub J"] != NOT_RUN
    assert "no real data" not in provenance(runs, "paper")


def test_left_over_runs_are_refused(project):
    runs = read_runs(project, "synthetic", "main")
    next(r for r in runs if r.key == "stf-xsub60-joint").config["optim"]["epochs"] = 99
    with pytest.raises(ValueError, match="no repetitions"):
        ablation(runs, read_published(project, "table5_ablation"))
    both = [*read_runs(project, "synthetic", "main"), *read_runs(project, "synthetic", "main")]
    with pytest.raises(ValueError, match="no repetitions"):
        arm(both, "M1", "synth60-xsub")
    next(r for r in both if r.key == "stf-xsub60-joint").config["benchmark"] = "ntu60-xsub"
    with pytest.raises(ValueError, match="two data sets"):
        counterpart(both, "NTU60", "xsub")


def test_every_benchmark_has_its_column():
    from stf_repro.data.benchmarks import BENCHMARKS

    assert {setting(b) for b in BENCHMARKS if b.startswith("synth")} == {setting(b) for b in ("ntu60-xsub", "ntu60-xview", "ntu120-xsub", "ntu120-xset", "kinetics400")}
    assert [b for b in BENCHMARKS if is_made(b) and BENCHMARKS[b].source.startswith(("ntu", "kinetics400"))] == []


# files


def test_latex_is_escaped_and_has_one_row_a_row(rendered):
    for folder in rendered.values():
        tex = (folder / "table.tex").read_text()
        body = "\n".join(line for line in tex.splitlines() if not line.startswith("%"))
        assert body.count(r"\toprule") == body.count(r"\bottomrule") == body.count(r"\begin{tabular}") >= 1
        assert not re.search(r"(?<!\\)[%_#]", re.sub(r"\\begin\{tabular\}\{l*\}", "", body)) and not re.search(r"[±‡†]", body)
    odd = pd.DataFrame({"a_b": ["5 % & more"], "c": ["x^2 ± 1"]})
    assert r"a\_b" in latex(odd) and r"5 \% \& more" in latex(odd) and r"$\pm$" in latex(odd)


def digest(folder) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_the_same_input_gives_the_same_bytes(project, params, rendered):
    before = digest(rendered["table5_ablation"])
    assert {"table5_ablation.ipynb", "table.csv", "table.md", "table.tex", "figure.png", "figure.svg", "made.json"} == set(before)
    assert digest(render(project, params, "table5_ablation")) == before
    for folder in rendered.values():  # nothing of this machine in what is kept
        for path in folder.iterdir():
            assert str(project).encode() not in path.read_bytes(), path


def test_a_notebook_that_fails_leaves_the_last_result(project, params, rendered, tmp_path):
    before = digest(rendered["table3_shift"])
    path = project / "nbs" / "results" / "table3_shift.ipynb"
    good = path.read_text()
    try:
        path.write_text(good.replace("read_published(root,", "undefined_name(root,"))
        with pytest.raises(NotebookError, match="table3_shift.failed.ipynb"):
            render(project, params, "table3_shift")
    finally:
        path.write_text(good)
    results = project / "results" / "synthetic"
    assert digest(rendered["table3_shift"]) == before and (results / "table3_shift.failed.ipynb").exists() and not list(results.glob(".*"))
    (results / "table3_shift.failed.ipynb").unlink()


def test_unknown_results_are_told_with_the_nearest(project, params):
    with pytest.raises(NotebookError, match="no results notebook 'table5_ablaton'; did you mean 'table5_ablation'"):
        render(project, params, "table5_ablaton")
    with pytest.raises(NotebookError, match="profile 'x' has no result 'localisation'; it has: table5_ablation"):
        render(project, {"profile": "x", "results": {"ablation": {"table5_ablation": None}, "truth": None}}, "localisation")


def test_every_profile_gives_its_notebooks_parameters_that_they_know(root):
    names = set()
    for path in sorted((root / "conf" / "profile").glob("*.yaml")):
        profile = yaml.safe_load(path.read_text())
        for name in [n for group in profile["results"].values() for n in group or {}]:
            own = own_parameters(root, profile, name)
            _check(root / "nbs" / "results" / f"{name}.ipynb", {"profile": profile["profile"], "out": "."} | own)
            names.add(name)
    assert names == set(TITLES) == {p.stem for p in (root / "nbs" / "results").glob("*.ipynb")}


def test_no_figure_is_typed_in_a_results_notebook(root):
    "Neither in prose nor in code: accuracies have decimals."
    for path in sorted((root / "nbs" / "results").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "markdown":
                text = "".join(cell["source"]).replace("95 %", "")  # of an interval
                assert not re.search(r"\d\.\d|\d ?%", text), path
            else:
                assert not re.search(r"\b\d\d\.\d", "".join(cell["source"])), path


# front page


def test_front_page_lists_everything_and_links_exist(project, rendered):
    page = (project / "results" / "README.md").read_text()
    assert page == front_page(project)
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert (project / "results" / target).exists(), target
    assert page.count("made on synthetic data") == 4 and "reproduced" not in page  # Table 1 asks for clips, and there are none
    row = next(line for line in page.splitlines() if line.startswith("| [table5_ablation]"))
    assert "1 not run" in row and "2026-01-02" in row and "a made-up machine" in row and "`dvc repro results_ablation@table5_ablation`" in row and "0" * 12 in row
    paper = page.split("## Profile `paper`")[1].split("## Profile")[0]
    assert paper.count("published only, not run here") == 5 and "profile=paper results_main@table2_comparison" in paper


def test_states():
    facts = {"made": False, "missing": [], "runs": ["main/a/seed-0"]}
    assert state(None, "table5_ablation", True).startswith("published only") and state(None, None, True) == state(None, "table5_ablation", False) == "not run here"
    assert state(facts, None, True) == "reproduced" and state(facts, None, False) == "made on real data"
    assert state(facts | {"missing": ["a"], "runs": []}, None, True) == "not run here"
    assert state(facts | {"made": True, "missing": ["a", "b"]}, "table5_ablation", False) == "made on synthetic data; 2 not run"
