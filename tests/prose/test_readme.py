"Every snippet and command of the README, of CONTRIBUTING and of the pages beside them runs, and every link leads somewhere."

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stf_repro.report.render import folder_of
from stf_repro.training.runs import profile_params

ROOT = Path(__file__).parents[2]
TEXT = {
    name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "docs/reproduce.md", "data/README.md")
}


def blocks(language: str) -> list[str]:
    return [b for text in TEXT.values() for b in re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)]


def test_python_snippets_run_one_after_the_other():
    assert blocks("python")
    code = "import torch; torch.manual_seed(0)\n" + "\n".join(blocks("python"))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert result.returncode == 0, result.stderr
    assert "torch.Size([8, 64, 25])" in result.stdout


COMPOSE = "from pathlib import Path; from dvc.utils.hydra import compose_and_dump as c; c(Path('params.yaml').absolute(), str(Path('conf').absolute()), None, 'config', '', {})"


def rehearse(command: str) -> str:
    "The command without its hour of work: for `dvc exp run`, compose as it does, then list the stages that it would run."
    if not command.startswith("dvc exp run"):
        return re.sub(r"^dvc repro", "dvc repro --dry", command)
    overrides = re.findall(r"-S (\S+)", command)
    return f'python -c "{COMPOSE.format(overrides)}" && dvc stage list --all'


COMMANDS = [line for block in blocks("bash") for line in block.strip().splitlines()]
BY_CI = {"make repro", "make test"}  # too long to nest: .ci/run executes them
ELSEWHERE = ("nbdev_test", "git clone")  # run by `make test`; not reached from here


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in BY_CI and not c.startswith(ELSEWHERE)])
def test_command_runs(command, clone):
    bin_ = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "PYTHONPATH": str(clone),
    }
    result = subprocess.run(
        rehearse(command), shell=True, cwd=clone, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr
    if command.startswith("dvc exp run"):
        assert {word for word in command.split() if "@" in word} <= {
            *result.stdout.split()
        }  # the stages it names are there
    if "profile=sbu" in command:
        assert {"download@sbu", "train@M1", "train@M5", "results@study"} <= set(result.stdout.split())


# training with a tool of one's own

LOOPS = blocks("sh")
STF_SHIM = """#!/bin/sh
echo "$@" >> calls.txt
{act}
"""
SBATCH_SHIM = """#!/bin/sh
for word in "$@"; do case $word in --array=1-*) last=${word#--array=1-};; esac; done  # the last word is what each task does
for i in $(seq $last); do SLURM_ARRAY_TASK_ID=$i sh -c "$word"; done
"""


@pytest.fixture
def loop(project, small_params, tmp_path):
    "Runs a loop of CONTRIBUTING in a small project with a transfer; returns the trainings that it called."
    base = small_params["runs"]["M1"] | {
        "seeds": [0, 1],
        "percent": 50,
        "optim": small_params["runs"]["M1"]["optim"] | {"epochs": 1, "milestones": []},
    }
    small_params |= {
        "runs": {"M1": base | {"group": "main"}},
        "transfers": {"S": base | {"group": "transfer", "init_from": "M1"}},
    }
    (project / "params.yaml").write_text(yaml.safe_dump(small_params))

    def run(text: str, trains: bool) -> list[str]:
        real = f'exec "{sys.executable}" -m stf_repro.cli "$@"'
        shims = {
            "stf": STF_SHIM.format(act=real if trains else f"test $1 = train || {real}"),
            "sbatch": SBATCH_SHIM,
            "dvc": "#!/bin/sh\n",
        }
        for name, content in shims.items():
            (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "bin" / name).write_text(content)
            (tmp_path / "bin" / name).chmod(0o755)
        environment = {
            **os.environ,
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        result = subprocess.run(["sh", "-ec", text], cwd=project, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        return [line for line in (project / "calls.txt").read_text().splitlines() if line.startswith("train")]

    return run


@pytest.mark.slow
def test_one_command_trains_runs_then_transfers(loop, project):
    "Two at a time, on the CPU."
    text = next(block for block in LOOPS if "train --all" in block)
    assert text.count("--jobs 4") == 1
    for asked in (1, 2):
        assert loop(text.replace("--jobs 4", "--jobs 2"), trains=True) == ["train --all --jobs 2"] * asked
        seeds = {
            f"{path.parents[1].name}/{path.parent.name}" for path in project.glob("runs/*/*/*/seed-*/metrics.json")
        }
        assert seeds == {f"{run}/seed-{n}" for run in ("M1", "S") for n in range(2)}


def test_the_array_gives_each_task_its_line(loop):
    calls = loop(next(block for block in LOOPS if "sbatch" in block), trains=False)
    assert (
        calls == [f"train M1 --seed {n}" for n in range(2)] * 2
    )  # nothing was trained, so the second pass finds the same


def test_the_long_commands_are_run_by_ci():
    assert BY_CI <= set(COMMANDS)
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert BY_CI <= set(script)


def is_still_to_be_made(target: str) -> bool:
    "Whether a link leads to a result of a profile none of whose results are in the repository yet."
    folder, profile, result = (*Path(target).parts, "", "", "")[:3]
    known = {path.stem for path in (ROOT / "conf" / "profile").glob("*.yaml")}
    if folder != "results" or (ROOT / folder / profile).exists() or profile not in known:
        return False
    return result in profile_params(ROOT, profile)["results"]


def test_links_and_pictures_exist():
    for name, text in TEXT.items():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            place = os.path.normpath(Path(name).parent / target)
            assert target.startswith("https://") or (ROOT / place).exists() or is_still_to_be_made(place), (
                f"{name} links to {target}"
            )


def test_links_of_notebooks_lead_somewhere():
    "From where a notebook is stored, and, if it is one of results, from where it was executed to."
    made = set()  # or still to be
    for path in (ROOT / "conf" / "profile").glob("*.yaml"):
        params = profile_params(ROOT, path.stem)
        for name in {**params["results"], **params["reports"]}:
            made |= {folder_of(ROOT, params, name) / file for file in (f"{name}.ipynb", "table.md")}
    pages = [*(ROOT / "nbs").glob("*/*.ipynb"), *(ROOT / "results").glob("*/*/*.ipynb")]
    assert len(pages) > 150
    for path in pages:
        for cell in json.loads(path.read_text())["cells"]:
            for target in (
                re.findall(r"\]\(([^)#\s]+)[^)]*\)", "".join(cell["source"])) if cell["cell_type"] == "markdown" else ()
            ):
                place = Path(os.path.normpath(path.parent / target))
                assert target.startswith("https://") or place in made or place.exists(), f"{path} links to {target}"


def test_no_figure_of_a_run_is_repeated():
    "They differ from one kind of processor to the next, and a copy would not follow. Accuracies, steps and p values have decimals."
    pages = [*(ROOT / "nbs" / "results").glob("*.ipynb"), *(ROOT / "nbs" / "reference").glob("5*_report.*.ipynb")]
    prose = {
        p.name: "\n".join(
            "".join(c["source"]) for c in json.loads(p.read_text())["cells"] if c["cell_type"] == "markdown"
        )
        for p in pages
    }
    assert len(prose) > 20
    for name, text in (TEXT | prose).items():
        text = re.sub(r"<!-- (answer|headline).*?end of \1 -->", "", text, flags=re.S)  # written by `stf render`
        text = (
            re.sub(r"```.*?```|`[^`]*`|\[(doi|arXiv):[^]]*\]|https://[^)\s]*", "", text, flags=re.S)
            .replace("Apache-2.0", "")
            .replace("84.80 stays 84.80", "")
        )
        assert not re.search(r"\d\.\d|±\s*\d|\bp\s*[<=]\s*\d", re.sub(r"\b3\.1\d\b", "", text)), name


def test_the_first_screen():
    "What it is, whether it helps, a picture, the table and a command stand before anything else; the page is short."
    text = TEXT["README.md"]
    head = text[: text.index("\n## ")]
    places = [
        head.index(part)
        for part in ("Does STF help?", "![", "<!-- headline", "git clone", "stf focus example", "01_the_idea")
    ]
    own = lambda text: re.sub(
        r"```mermaid.*?```|<!-- (answer|headline).*?end of \1 -->", "", text, flags=re.S
    ).split()  # without what is generated
    assert places == sorted(places) and len(own(text[: text.index("git clone")])) < 150 and len(own(text)) < 980


def test_the_tables_of_the_paper_are_linked():
    for table in ("table1_datasets", "table2_comparison", "table3_transfer", "table4_scarce", "table5_ablation"):
        assert f"](results/synthetic/{table}/table.md)" in TEXT["README.md"]


def test_citation_names_the_paper_first():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    paper = cff["preferred-citation"]
    assert cff["cff-version"] == "1.2.0" and {"title", "authors", "message", "version"} <= set(cff)
    assert [a["family-names"] for a in paper["authors"]] == ["Ke", "Peng", "Lyu"] and paper["year"] == 2022
    assert f'__version__ = "{cff["version"]}"' in (ROOT / "stf_repro" / "__init__.py").read_text()
