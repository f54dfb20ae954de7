"Logs of other tools: they see every epoch once, and change nothing."

import json

import numpy as np
import pytest
import yaml
from test_own import CLIPS, LABELS, STICK

from stf_repro.cli import main
from stf_repro.custom.dataset import own_data
from stf_repro.custom.project import suggest, train_own
from stf_repro.training import logs, trainer
from stf_repro.training.config import ConfigError

EPOCHS = 4


class Told:
    "A log in memory: what it is told, by training."

    needs, all = (), {}

    def __init__(self, folder, first):
        self.rows = self.all.setdefault(folder, {})
        for number in [n for n in self.rows if n >= first]:
            del self.rows[number]

    def epoch(self, number, values):
        self.rows[number] = values

    def close(self):
        self.rows["closed"] = True
        del self.rows["closed"]


@pytest.fixture
def own(tmp_path):
    "A store of two folds, and a recipe of a few epochs."
    store = own_data(tmp_path / "sticks", CLIPS, LABELS, STICK, split=2)
    return store, suggest(store, stf=False, epochs=EPOCHS, network="convolution")


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setitem(logs.LOGS, "told", Told)
    monkeypatch.setattr(Told, "all", {})
    return Told.all


def history(folder) -> list[dict]:
    head, *rows = (line.split("\t") for line in (folder / "history.tsv").read_text().splitlines())
    return [{name: float(value) for name, value in zip(head, row) if value} for row in rows]


def stopped_after(monkeypatch, epochs: int) -> None:
    "A training that is killed once so many epochs are in its log, before the last of them is saved."
    save = trainer.save_checkpoint

    def dying(out, epoch, *rest):
        if epoch == epochs:
            monkeypatch.setattr(trainer, "save_checkpoint", save)
            raise KeyboardInterrupt
        save(out, epoch, *rest)

    monkeypatch.setattr(trainer, "save_checkpoint", dying)


def test_a_log_sees_each_epoch_once_and_changes_nothing(tmp_path, monkeypatch, told, own):
    store, config = own
    train = lambda place, **more: train_own(store, tmp_path / place, config, device="cpu", progress=False, **more)
    plain = train("plain")
    stopped_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train("seen", log=["told"])
    (before,) = told.values()
    assert list(before) == [1, 2, 3]
    assert train("seen", log=["told"]) == plain  # goes on, and in the same log
    for place in plain:
        rows = history(tmp_path / "seen" / place)
        seen = told[tmp_path / "seen" / "logs" / place]
        assert list(seen) == [1, 2, 3, 4] and rows == history(tmp_path / "plain" / place)
        for row, number in zip(rows, seen):
            assert seen[number] == pytest.approx({k: v for k, v in row.items() if k != "epoch"}, rel=1e-5)
        names = [name for name in json.loads((tmp_path / "plain" / place / "record.json").read_text())["files"]]
        for name in set(names) - {"scores.npz"}:  # a zip, which knows the time
            assert (tmp_path / "plain" / place / name).read_bytes() == (tmp_path / "seen" / place / name).read_bytes()
    told.clear()
    assert train("plain", log=["told"]) == plain and told == {}  # was trained before: a log is no reason to do it again


@pytest.mark.parametrize("name", ["tensorboard", "dvclive"])
def test_the_tools_themselves(tmp_path, monkeypatch, own, name):
    store, config = own
    train = lambda: train_own(store, tmp_path / "run", config, device="cpu", progress=False, log=[name])
    stopped_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train()
    train()
    for place in ("sticks-1/seed-0", "sticks-2/seed-0"):
        folder = tmp_path / "run" / "logs" / place / name
        if name == "tensorboard":
            from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

            found = EventAccumulator(str(folder)).Reload()
            steps = [(event.step, event.value) for event in found.Scalars("cross_entropy")]
        else:
            table = (folder / "plots" / "metrics" / "cross_entropy.tsv").read_text().splitlines()[1:]
            steps = [(int(row.split("\t")[0]), float(row.split("\t")[1])) for row in table]
        rows = history(tmp_path / "run" / place)
        assert [step for step, _ in steps] == [1, 2, 3, 4]
        assert np.allclose([value for _, value in steps], [row["cross_entropy"] for row in rows], rtol=1e-4)


def test_a_log_is_a_line_of_the_configuration_or_of_the_command(project, small_params, monkeypatch, capsys, told):
    monkeypatch.chdir(project)
    run = next(iter(small_params["runs"]))
    assert main(["train", run, "--device", "cpu", "--log", "tolt"]) == 1
    assert (
        capsys.readouterr().err
        == "stf train: unknown log 'tolt'; did you mean 'told'? Known: tensorboard, dvclive, told\n"
    )
    params = yaml.safe_load((project / "params.yaml").read_text())
    (project / "params.yaml").write_text(yaml.safe_dump(params | {"log": "told"}, sort_keys=False))
    assert main(["train", run, "--device", "cpu"]) == 1 and "expected a list" in capsys.readouterr().err
    (project / "params.yaml").write_text(yaml.safe_dump(params | {"log": ["told"]}, sort_keys=False))
    assert main(["train", run, "--device", "cpu"]) == 0
    assert told and all(folder.is_relative_to(project / "runs") and "logs" in folder.parts for folder in told)


def test_a_missing_package_is_a_sentence(monkeypatch):
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: None)
    for name in ("tensorboard", "dvclive"):
        with pytest.raises(ConfigError, match=f"pip install {name}$"):
            logs.check_logs([name])
