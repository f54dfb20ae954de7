"The Makefile finds an interpreter that fits, and says so when there is none."

import os
import subprocess
import sys

import pytest


def make(root, path, *arguments):
    "`make python` with only these programs on PATH."
    return subprocess.run(["make", "-s", "python", *arguments], cwd=root, env={"PATH": str(path)}, capture_output=True, text=True)


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
        assert result.returncode != 0 and "Python 3.11 to 3.14" in result.stderr and "make PYTHON=/path/to/python3.12" in result.stderr


def test_the_range_is_the_same_everywhere(root):
    "pyproject.toml, the classifiers, the Makefile, CI and the README."
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    classifiers = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if "Python :: 3." in c]
    assert project["requires-python"] == ">=3.11" and classifiers == ["3.11", "3.12", "3.13", "3.14"]
    assert "(3, 11) <= sys.version_info[:2] <= (3, 14)" in (root / "Makefile").read_text()
    assert all(f'"{version}"' in (root / ".github" / "workflows" / "ci.yml").read_text() for version in classifiers)
    assert "Python 3.11 to 3.14" in (root / "README.md").read_text()
