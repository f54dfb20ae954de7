"The command line as one meets it: its version, its help, a slip of the pen, lists for a pipe."

import re
import subprocess
import sys
import tomllib

import pytest

import stf_repro
from stf_repro.cli import main


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"stf_repro {stf_repro.__version__}\n"


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == "" and all(f"  {name} " in said.err for name in ("new", "train", "predict", "doctor"))


@pytest.mark.parametrize(
    "argv, said",
    [
        (["trian", "M2"], "'trian' is not known; did you mean 'train'?"),
        (["xyz"], "'xyz' is not known; `stf --help` lists all"),
        (["export", "synth60", "pysk", "out"], "'pysk' is not known; did you mean 'pyskl'?"),
        (["export", "synth60", "xyz", "out"], "'xyz' is not known, only "),
    ],
)
def test_a_slip_of_the_pen_gets_the_nearest_word(capsys, argv, said):
    with pytest.raises(SystemExit) as end:
        main(argv)
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and "choose from" not in error


def test_the_usage_of_a_command_names_that_command(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert capsys.readouterr().out.startswith("usage: stf train [-h]")


def test_runs_are_counted_where_no_pipe_reads(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert main(["runs", "--all"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert said.err == f"stf runs: {len(lines)} of {len(lines)} trainings\n"
    assert all(re.fullmatch(r"\S+( --fold \S+)? --seed \d+", line) for line in lines)


def test_the_list_of_runs_is_aligned(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert main(["show"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" trained")]
    assert len(rows) > 30 and len(set(map(len, rows))) == 1


def test_the_wheel_leaves_the_index_of_the_notebooks_behind(root):
    "Without building one: what setuptools would take from this tree."
    ask = """
from setuptools import Distribution
from setup import WithoutIndex
build = WithoutIndex(Distribution({"packages": ["stf_repro"], "script_name": "setup.py"}))
build.ensure_finalized()
print(*(name for _, name, _ in build.find_package_modules("stf_repro", "stf_repro")))
"""
    names = subprocess.run([sys.executable, "-c", ask], cwd=root, capture_output=True, text=True, check=True).stdout
    assert {"__init__", "cli", "skeleton"} <= set(names.split()) and "_modidx" not in names


def test_addresses_are_those_that_the_settings_give(root):
    import configparser

    settings = configparser.ConfigParser()
    settings.read(root / "settings.ini")
    urls = tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]
    assert all(url.startswith(settings["DEFAULT"]["git_url"]) for url in urls.values())
