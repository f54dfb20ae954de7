"What a wheel holds, without building one: the files that the package reads, and one version everywhere."

import re
import tomllib

import pytest


@pytest.fixture(scope="module")
def pyproject(root):
    return tomllib.loads((root / "pyproject.toml").read_text())


def shipped(root, pyproject) -> set[str]:
    "Files beside the modules that setuptools takes, from the root."
    data = pyproject["tool"]["setuptools"]["package-data"]
    folders = {package: root / package.replace(".", "/") for package in data}
    return {
        path.relative_to(root).as_posix()
        for package, patterns in data.items()
        for pattern in patterns
        for path in folders[package].glob(pattern)
        if path.is_file()
    }


def test_the_package_data_are_what_the_package_reads(root, pyproject, monkeypatch):
    "Every file that the networks, the clip, the terms and the class names are read from; and nothing in the package is left behind."
    import safetensors.torch

    from stf_repro.data import class_names as names
    from stf_repro.evaluation import bundled as pretrained

    files = shipped(root, pyproject)
    beside = [
        path
        for path in (root / "stf_repro").rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    ]
    assert {path.relative_to(root).as_posix() for path in beside} == files
    read, text = set(), pretrained.Path.read_text
    monkeypatch.setattr(pretrained.Path, "read_text", lambda path, *a, **k: (read.add(path), text(path, *a, **k))[1])
    monkeypatch.setattr(
        pretrained, "load_file", lambda path, *a, **k: (read.add(path), safetensors.torch.load_file(path, *a, **k))[1]
    )
    for name in pretrained.SHIPPED:
        pretrained.load_pretrained(name)
    example = pretrained.example_clip()
    example.truth(pretrained.load_pretrained("synth60-stf").config.input)
    names.class_names("ntu")
    read.add(example.path)
    used = {path.resolve().relative_to(root.resolve()).as_posix() for path in read if "stf_repro" in path.parts}
    assert len(used) >= 7 and used <= files


def test_the_package_says_that_it_is_typed(root, pyproject):
    assert "stf_repro/py.typed" in shipped(root, pyproject)


def test_every_folder_of_modules_is_a_package(root, pyproject):
    "setuptools finds a folder by its __init__.py."
    folders = {path.parent for path in (root / "stf_repro").rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)
    assert pyproject["tool"]["setuptools"]["packages"]["find"]["include"] == ["stf_repro*"]


def test_there_is_one_version(root, pyproject):
    "nbdev writes that of settings.ini into the package, and the package is where a wheel has it from."
    version = re.search(r"^version = (.+)$", (root / "settings.ini").read_text(), flags=re.MULTILINE)[1]
    assert f'__version__ = "{version}"' in (root / "stf_repro" / "__init__.py").read_text()
    assert pyproject["project"]["dynamic"] == ["version"] and "stf_repro.__version__" in str(
        pyproject["tool"]["setuptools"]["dynamic"]
    )
    assert f"\n## {version} " in (root / "CHANGELOG.md").read_text()


def test_settings_of_nbdev_agree(root, pyproject):
    "nbdev 2.4 reads settings.ini, nbdev 3 reads pyproject.toml."
    import configparser

    old = configparser.ConfigParser()
    old.read(root / "settings.ini")
    new = pyproject["tool"]["nbdev"]
    assert {key: old["DEFAULT"][key] for key in ("nbs_path", "lib_path", "tst_flags")} == {
        key: new[key] for key in ("nbs_path", "lib_path", "tst_flags")
    }
    assert old["DEFAULT"]["allowed_cell_metadata_keys"].split() == new["allowed_cell_metadata_keys"]
    assert set(pyproject["project"]["optional-dependencies"]) == {"dev", "explain", "export", "log", "site", "video"}
