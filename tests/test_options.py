"An option that would do nothing is refused, and a place that is not there is said before the work."

import pytest

from stf_repro.cli import main

IDLE = {  # command -> the option that it has no use for
    "predict example --size 3x3": "--size",
    "predict example --rate 30": "--rate",
    "predict example -o a.csv --json": "--json",
    "predict example -o a.csv --dpi 200": "--dpi",
    "predict example --window 30 -o c.png --top 4": "--top",
    "focus example -o f.csv --size 3x3": "--size",
    "focus example -o f.csv --frames 3": "--frames",
    "focus example -o f.gif --frames 3": "--frames",
    "focus example --map --frames 3": "--frames",
    "focus example --first 3": "--first",
    "draw example --first 3": "--first",
    "draw example -o d.gif --frames 3": "--frames",
    "draw example -o d.png --rate 30": "--rate",
    "export synth60-stf -o x.pt2 --no-focus --module g3d1": "--module",
    "export synth60 pyskl x.pkl --module g3d1": "--module",
    "export synth60 pyskl x.pkl --no-focus": "--no-focus",
    "evaluate one other --pairs 3": "--pairs",
}
IN_THE_PROJECT = {
    "render table5_ablation --jobs 2": "--jobs",
    "render table5_ablation --all": "table5_ablation",
    "bench --stages 1 --minutes 3": "--minutes",
    "bench --stages 7-0": "--stages",
    "--profile sbu bench": "--profile",
}


def refused(command, capsys) -> str:
    "What standard error says, in one sentence."
    assert main(command.split()) != 0
    (said,) = capsys.readouterr().err.strip().splitlines()
    return said


@pytest.mark.parametrize("command", IDLE)
def test_an_option_that_would_do_nothing_is_refused(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert IDLE[command] in refused(command, capsys) and not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", IN_THE_PROJECT)
def test_in_a_project_too(command, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert IN_THE_PROJECT[command] in refused(command, capsys)


@pytest.mark.parametrize(
    "command",
    [
        "focus example -o nowhere/a.png",
        "draw example -o nowhere/a.png",
        "predict example -o nowhere/a.csv",
        "export synth60-stf -o nowhere/a.pt2",
        "pose film.mp4 -o nowhere/poses.json",
    ],
)
def test_a_place_that_is_not_there_is_said_before_the_work(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert f"there is no folder {tmp_path / 'nowhere'}" in refused(command, capsys)


def test_doctor_answers_for_the_profile_that_is_named(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    main(["--profile", "sbu", "doctor"])
    said = capsys.readouterr().out
    assert "profile sbu" in said and "`stf train" not in said
    assert main(["--profile", "nosuch", "doctor"]) != 0 and "no profile 'nosuch'" in capsys.readouterr().err


def test_a_run_whose_name_is_misspelt_is_named(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert "'stf-xsub60-joint', a run of this project" in refused("predict example --network stf-xsub60-jont", capsys)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"base": {"network": ["a"]}}, "network is ['a']; expected a name"),
        ({"methods": {"M5": 3}}, "methods.M5 in params.yaml is 3"),
    ],
)
def test_a_value_of_another_kind_is_named(root, change, said):
    from stf_repro.training.runs import ConfigError, read_params, resolve

    params = read_params(root / "params.yaml")
    for kind, own in change.items():
        params[kind] = params[kind] | own
    with pytest.raises(ConfigError) as error:
        resolve(root, params, "stf-xsub60-joint")
    assert said in str(error.value)


def test_a_transfer_that_begins_with_a_list_is_named(root):
    from stf_repro.training.runs import ConfigError, read_params, resolve

    params = read_params(root / "params.yaml")
    key = next(iter(params["transfers"]))
    params["transfers"][key]["init_from"] = ["a"]
    with pytest.raises(ConfigError, match="there is no run"):
        resolve(root, params, key)
