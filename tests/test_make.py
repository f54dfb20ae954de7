"The Makefile finds an interpreter that fits, and says so when there is none."

import os
import subprocess
import sys

import pytest


def make(root, path, *arguments):
    "`make python` with only these programs on PATH."
    return subprocess.run(
        ["make", "-s", "python", *arguments], cwd=root, env={"PATH": str(path)}, capture_output=True, text=True
    )


@pytest.fixture
def programs(tmp_path):
    "A folder of programs: make's own tools, and a python3 that is too old."
    for tool in ("make", "sh", "mkdir", "touch"):
        found = next(p for d in os.environ["PATH"].split(":") if os.access(p := f"{d}/{tool}", os.X_OK))
        (tmp_path / tool).symlink_to(os.path.realpath(found) if tool != "sh" else found)
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    return tmp_path


def test_a_newer_or_older_python3_is_passed_over(root, programs):
    wanted = programs / "python3.12"
    wanted.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    wanted.chmod(0o755)
    assert make(root, programs).stdout.strip() == str(wanted)


def test_without_a_fitting_one_make_says_what_to_do(root, programs):
    for more in ((), ("PYTHON=python3",)):
        result = make(root, programs, *more)
        assert (
            result.returncode != 0
            and "Python 3.11 to 3.14" in result.stderr
            and "make PYTHON=/path/to/python3.12" in result.stderr
        )


def test_the_range_is_the_same_everywhere(root):
    "pyproject.toml, the classifiers, the Makefile, CI and the README."
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    classifiers = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if "Python :: 3." in c]
    assert project["requires-python"] == ">=3.11" and classifiers == ["3.11", "3.12", "3.13", "3.14"]
    assert "(3, 11) <= sys.version_info[:2] <= (3, 14)" in (root / "Makefile").read_text()
    assert all(f'"{version}"' in (root / ".github" / "workflows" / "ci.yml").read_text() for version in classifiers)
    assert "Python 3.11 to 3.14" in (root / "README.md").read_text()


def test_every_matrix_of_ci_has_all_versions(root):
    import yaml

    jobs = yaml.safe_load((root / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    matrices = {name: job["strategy"]["matrix"]["python"] for name, job in jobs.items() if "strategy" in job}
    assert set(matrices) == {"test", "macos"} and all(
        versions == ["3.11", "3.12", "3.13", "3.14"] for versions in matrices.values()
    )


def test_hooks_and_images_call_what_is_there(root):
    "The hooks before a commit are tools of the environment; the images and the devcontainer make it with `make env`."
    import json
    import tomllib

    import yaml

    hooks = [
        hook
        for repo in yaml.safe_load((root / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repo["hooks"]
    ]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    assert tools == {"nbdev_clean", "nbdev_export", "ruff"} and all(hook["language"] == "system" for hook in hooks)
    dev = " ".join(tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"])
    assert "nbdev" in dev and "ruff" in dev and "pre-commit" in dev
    for name in ("Dockerfile", "Dockerfile.cuda"):
        text = (root / "containers" / name).read_text()
        copied = [word for line in text.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]]
        assert (
            "RUN make env" in text
            and all((root / word).exists() for word in copied)
            and {"constraints.txt", "pyproject.toml", "Makefile"} <= set(copied)
        )
    devcontainer = json.loads((root / ".devcontainer" / "devcontainer.json").read_text())
    assert (root / ".devcontainer" / devcontainer["build"]["dockerfile"]).exists() and "make env" in devcontainer[
        "postCreateCommand"
    ]


def test_reports_of_faults_ask_for_the_doctor(root):
    import yaml

    form = yaml.safe_load((root / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    asked = [field["attributes"]["label"] for field in form["body"] if field.get("validations", {}).get("required")]
    assert any("stf doctor" in label for label in asked)
