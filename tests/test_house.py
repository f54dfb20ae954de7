"The house as built: rooms, imports, notebooks, profiles."

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

# a room may import from rooms of lower rank, and from its own
RANK = {"skeleton": 0, "data": 1, "model": 1, "training": 2, "evaluation": 3, "report": 4, "custom": 5, "bench": 5}
RANK |= {"doctor": 6, "commands": 7, "cli": 8}
HEAVY = {"nbdev", "dvc", "papermill", "matplotlib", "seaborn", "scipy", "IPython", "jupyterlab"}


def imports(path, package) -> set[str]:
    "Modules of the package that a file imports, as dotted names below it."
    found = set()
    parts = path.relative_to(package).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = ["stf_repro", *parts][: -node.level] if node.level else []
            name = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names = [name] if name != "stf_repro" else [f"{name}.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        found |= {n.removeprefix("stf_repro.") for n in names if n.startswith("stf_repro.")}
    return found


def graph(root) -> dict[str, set[str]]:
    package = root / "stf_repro"
    modules = [p for p in sorted(package.rglob("*.py")) if not p.name.startswith("_")]
    return {".".join(p.relative_to(package).with_suffix("").parts): imports(p, package) for p in modules}


def test_no_import_runs_up(root):
    arrows = [(a, b) for a, targets in graph(root).items() for b in targets]
    assert len(arrows) > 30
    up = [(a, b) for a, b in arrows if RANK[a.split(".")[0]] < RANK[b.split(".")[0]]]
    rooms = [tuple(module.split(".")[0] for module in arrow) for arrow in arrows]
    level = [arrow for arrow, (a, b) in zip(arrows, rooms) if a != b and RANK[a] == RANK[b]]
    assert up == [] and level == []


def test_no_import_runs_in_a_circle(root):
    arrows = graph(root)

    def below(module, seen):
        assert module not in seen, f"circle: {' -> '.join([*seen, module])}"
        for target in arrows.get(module, ()):
            below(target, [*seen, module])

    for module in arrows:
        below(module, [])


def test_the_synthetic_room_is_a_room_of_its_own(root):
    "Editing a synthetic movement must not touch what real data go through."
    inside = lambda module: module.startswith("data.synthetic")
    up = [
        (a, b)
        for a, targets in graph(root).items()
        for b in targets
        if inside(b) and a.startswith("data.") and not inside(a)
    ]
    assert up == [] and any(map(inside, graph(root)))


def test_importing_the_package_is_light():
    "Nothing of notebooks, pipelines or plots comes with what one needs to train and to predict."
    code = "import sys, stf_repro; bare = set(sys.modules); import stf_repro.training.trainer, stf_repro.cli; print(' '.join(bare), '|', ' '.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    bare, full = (set(part.split()) for part in out.split("|"))
    assert not bare & {"torch", "numpy", "pandas", *HEAVY} and not full & HEAVY
    assert "torch" in full


def notebooks(root, *folders):
    return sorted(
        path
        for folder in folders or ("reference", "networks", "experiments")
        for path in root.joinpath("nbs", folder).glob("*.ipynb")
    )


def test_results_notebooks_have_one_parameters_cell_and_no_outputs(root):
    assert len(notebooks(root, "results")) >= 2
    for path in notebooks(root, "results"):
        notebook = json.loads(path.read_text())
        code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
        assert sum("parameters" in c["metadata"].get("tags", []) for c in code) == 1, path
        assert not any(c["outputs"] for c in code), f"{path} is stored with outputs"
        assert notebook["metadata"]["kernelspec"]["name"] == "python3"


def test_each_page_has_a_number_of_its_own_in_the_hundred_of_its_room(root):
    rooms: dict[str, set[str]] = {}
    numbers = [path.name.split("_")[0] for path in notebooks(root, "reference")]
    assert len(set(numbers)) == len(numbers)
    for path in notebooks(root, "reference"):
        number, module = path.stem.split("_", 1)
        first = "".join(json.loads(path.read_text())["cells"][0]["source"])
        assert first.strip() == f"#| default_exp {module}", path
        rooms.setdefault(number[0], set()).add(module.split(".")[0])
    assert all(len(inside) == 1 for hundred, inside in rooms.items() if hundred != "8"), rooms  # 8: the doors


def test_no_notebook_holds_noise(root):
    executed = sorted((root / "results").glob("*/*/*.ipynb"))
    assert len(executed) >= 13
    for path in [*executed, *notebooks(root)]:
        for cell in json.loads(path.read_text())["cells"]:
            for output in cell.get("outputs", []):
                assert output.get("name") != "stderr" and output["output_type"] != "error", path


def test_the_map_of_the_notebooks_is_that_of_their_titles(root):
    "nbs/README.md; `python docs/map.py` writes it."
    import runpy

    assert (root / "nbs" / "README.md").read_text() == runpy.run_path(str(root / "docs" / "map.py"))["written"]()


def test_notebooks_were_executed_and_hide_nothing(root):
    for path in notebooks(root):
        source = path.read_text()
        code = [c for c in json.loads(source)["cells"] if c["cell_type"] == "code"]
        assert any(c["outputs"] for c in code), f"{path} was never executed"
        assert "eval: false" not in source and "skip_exec" not in source


def test_committed_parameters_are_the_composed_default(root, tmp_path):
    from dvc.utils.hydra import compose_and_dump

    compose_and_dump(tmp_path / "params.yaml", str(root / "conf"), None, "config", "", [])
    assert yaml.safe_load((tmp_path / "params.yaml").read_text()) == yaml.safe_load(
        (root / "params.yaml").read_text()
    ), "run `make params`"


PROFILES = sorted(path.stem for path in (Path(__file__).parents[1] / "conf" / "profile").glob("*.yaml"))
FULL = ("paper", "sbu-full", "jhmdb-full", "nwucla-full")  # at the published size
STUDIED = ("synthetic", "choices", "sbu", "jhmdb", "nwucla", *FULL)  # with every row of Table 5


@pytest.mark.parametrize("profile", PROFILES)
def test_every_run_of_every_profile_is_valid(root, tmp_path, profile):
    from dvc.utils.hydra import compose_and_dump

    from stf_repro.training.config import run_configs
    from stf_repro.training.runs import resolve
    from stf_repro.training.runs import read_params

    compose_and_dump(tmp_path / "params.yaml", str(root / "conf"), None, "config", "", [f"profile={profile}"])
    params = read_params(tmp_path / "params.yaml")
    assert params["profile"] == profile
    runs = {key: run_configs(resolve("", params, key)) for key in (*params["runs"], *params["transfers"])}
    configs = [config for seeds in runs.values() for config in seeds.values()]
    assert all(c.source in params["sources"] for c in configs)
    width = 96 if profile in FULL else 18 if profile == "networks" else 12
    widths = {c.network.width for c in configs if c.network.name in ("msg3d", "convolution")}
    assert widths == ({12, 24, 48} if profile == "second" else {width})
    if profile == "search":  # for a recipe, with MS-G3D alone and on training clips alone
        assert all(
            c.network.name == "msg3d" and not c.stf and not c.objective.relative_weights and c.hold_out for c in configs
        )
    elif profile == "why":  # one thing at a time, on training clips alone, with the recipe of the study
        assert {"M1", "M5"} < {c.label for c in configs} and all(
            c.hold_out and (c.optim.lr, c.optim.epochs) == (0.02, 20) for c in configs
        )
    elif profile in STUDIED:
        assert {"M1", "M2", "M3", "M4", "M5"} <= {c.label for c in configs}
    if profile in ("synthetic", "paper"):  # the runs that all tables of the paper need, and a row of ours
        wanted = yaml.safe_load((root / "conf" / "paper" / "runs.yaml").read_text())
        assert {*wanted["runs"], *wanted["transfers"]} <= set(runs) and (profile == "synthetic") == ("M5e" in runs)
    assert all(c.init_from in runs for c in configs if c.init_from)
    named = {*params["results"], *params.get("reports", {})}
    assert all((root / "nbs" / "results" / f"{name}.ipynb").exists() for name in named)


# options that are measured on other pages: nbs/experiments/dose.ipynb (places, sizes, rules), the default modules in results/*/mechanism, a control in
# conf/profile/second.yaml
ELSEWHERE = {
    ("focus_place", "input"), ("focus_place", "graph"), ("focus_place", "block"), ("focus_weights", "first_order"), ("mask_modules", "last_map"),
    ("mask_shape", "soft_threshold"), ("coherence_modules", "last_windows"), ("coherence_modules", "last_frame_graphs"), ("coherence_leader", "later"),
    ("separation", "alone"), ("balance", "window"), ("balance", "falling"), ("stf_squash", "centred"), ("stf_heard", "detached"), ("stf_gate", "open"),
    ("mask_gradient", "shuffled"),
}  # fmt: skip


def test_every_option_has_a_row_that_takes_it_and_changes_nothing_else(root):
    "conf/paper/choices.yaml against the table of choices: the baseline, and each option that poster-output does not take, once."
    from stf_repro.model.readings import READINGS
    from stf_repro.model.options import CHOICES, check_choices

    rows = yaml.safe_load((root / "conf" / "paper" / "choices.yaml").read_text())["runs"]
    plain = {"group", "source", "protocol", "method", "label", "choices", "seeds"}
    baseline, single = rows["M5"], {}
    taken_anyway = {name: next(iter(choice.options)) for name, choice in CHOICES.items()} | READINGS["poster-output"]
    for key, row in rows.items():
        if taken := row.get("choices"):
            assert set(row) <= plain and all(
                row[k] == baseline[k] for k in ("group", "source", "protocol", "method")
            ), key
            check_choices(taken)
            assert all(option != taken_anyway[name] for name, option in taken.items()), f"{key} takes a default"
            if len(taken) == 1:
                single.setdefault(next(iter(taken.items())), []).append(key)
    wanted = [
        (name, option)
        for name, choice in CHOICES.items()
        for option in choice.options
        if option != taken_anyway[name] and (name, option) not in ELSEWHERE
    ]
    assert {option: single.get(option) for option in wanted if len(single.get(option, ())) != 1} == {} and set(
        single
    ) == set(wanted)
    labels = [row.get("label", row["method"]) for row in rows.values()]
    assert len(set(labels)) == len(labels)
    dose = (root / "nbs" / "experiments" / "dose.ipynb").read_text() + (root / "docs" / "draw_rows.py").read_text()
    named = {pair for bundle in READINGS.values() for pair in bundle.items()}
    assert all(option in dose or (name, option) in named for name, option in ELSEWHERE if not name.startswith("stf_"))


def test_terms_are_added_as_in_table_5(root):
    "The rows of conf/methods.yaml against the published table; those of ours against the row that they change."
    import csv

    from stf_repro.report.tables.ablation import OURS

    columns = {"l_e": "exploration", "l_d": "divergence", "l_gk": "adjacency", "l_c": "coherence"}
    rows = list(csv.DictReader((root / "data" / "reference" / "table5_ablation.csv").open()))
    known = yaml.safe_load((root / "conf" / "methods.yaml").read_text())["methods"]
    assert [row["model"] for row in rows] == ["M1", "M2", "M3", "M4", "M5"] and list(known) == [
        "plain",
        *(row["model"] for row in rows[1:]),
        *OURS,
    ]
    for row in rows:
        terms = known["plain" if row["model"] == "M1" else row["model"]]
        assert terms["label"] == row["model"]
        assert set(terms["objective"]["relative_weights"]) == {
            name for column, name in columns.items() if row[column] == "1"
        }
        assert terms.get("stf", False) == (row["l_gk"] == "1")
    for label, (base, _) in OURS.items():
        reading = known[label].pop("reading")
        assert known[label] == known[base] | {"label": label} and reading != "poster-input"


def test_exact_versions_fit_the_ranges(root):
    "constraints.txt, the one place of versions, against the ranges of pyproject.toml."
    import tomllib

    from packaging.requirements import Requirement

    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines)
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), text


KNOWS = {  # what each module of the core may know of the others
    "contract": set(), "blocks": {"contract"}, "adaptive": {"contract", "blocks"}, "networks": {"contract", "nets"},
    "focus": set(), "any_layer": {"focus"}, "stf": {"contract"}, "losses": {"focus"}, "objective": {"losses", "focus", "contract"}, "weights": {"contract", "nets.msg3d"},
    "fast.order": set(), "fast.norm": {"fast.order"}, "fast.passes": {"fast.order", "fast.norm", "contract", "blocks", "nets.msg3d"},
    "options": {"contract", "nets.msg3d", "focus", "stf", "losses", "objective"}, "readings": {"options"},
}  # fmt: skip


def test_the_model_room_is_the_table_of_the_design(root):
    found = {
        name.removeprefix("model."): {t.removeprefix("model.") for t in targets if t.startswith("model.")}
        for name, targets in graph(root).items()
        if name.startswith("model.")
    }
    networks = {
        name: {"contract", "blocks", "adaptive"} for name in found if name.startswith("nets.")
    }  # each knows the contract and what all share, and no other
    knows = KNOWS | networks | {"networks": {"contract", *networks}}
    assert set(found) == set(knows)
    assert {name: known - knows[name] for name, known in found.items() if known - knows[name]} == {}


@pytest.mark.parametrize("name", ["contract", "focus", "stf", "losses"])
def test_the_core_has_no_flags(root, name):
    "No choice by a string: an alternative is another function."
    tree = ast.parse((root / "stf_repro" / "model" / f"{name}.py").read_text())
    text = lambda node: isinstance(node, ast.Constant) and isinstance(node.value, str)
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.Name) and node.id == "Literal")
        assert not (isinstance(node, ast.Compare) and any(map(text, [node.left, *node.comparators])))
    for node in tree.body:  # and no method is given to a class from outside
        targets = node.targets if isinstance(node, ast.Assign) else []
        assert not any(isinstance(t, ast.Attribute) for target in targets for t in ast.walk(target))


# a page whose parts cannot run one by one: it sums up the folder of a run
WHOLE = {"409_evaluation.run_summary"}


def test_a_page_runs_something_within_three_definitions(root):
    "Define, run, define, run: a reader of the reference sees code at work before it has grown long."
    late = set()
    for path in sorted((root / "nbs" / "reference").glob("*.ipynb")):
        defined = 0
        for cell in json.loads(path.read_text())["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "code" and text.startswith("#| export"):
                defined += bool(re.search(r"^(def|class) |^[A-Z_]+\s*[:=]", text, flags=re.M))
            elif cell["cell_type"] == "code" and not text.startswith("#|"):
                break
        late |= {path.stem} if defined > 3 else set()
    assert late == WHOLE
