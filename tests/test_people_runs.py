"One run against another, two added up, a card, a confusion matrix; and a folder of files as a table."

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stf_repro.cli import main
from stf_repro.custom.figures import confusion_csv, draw_confusion
from stf_repro.evaluation.bundled import example_clip, load_pretrained
from stf_repro.evaluation.run_summary import find_trained
from stf_repro.evaluation.scores import read_scores
from stf_repro.evaluation.statistics import effect


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


CLIPS = np.arange(140)


def training(folder, seed: int, strength: float, clips=CLIPS) -> None:
    "A finished training whose scores lean to the truth by so much."
    folder = folder / f"seed-{seed}"
    folder.mkdir(parents=True)
    noise = np.random.default_rng([seed, int(10 * strength)]).normal(size=(len(clips), 14)).astype(np.float32)
    logits = noise + strength * np.eye(14, dtype=np.float32)[clips % 14]
    np.savez(folder / "scores.npz", logits=logits, labels=clips % 14, names=clips.astype(str))
    (folder / "config.json").write_text(json.dumps({"benchmark": "synth60-xsub"}))
    (folder / "metrics.json").write_text("{}")


def test_two_runs_are_compared_clip_by_clip_and_seed_by_seed(here, capsys):
    for seed in range(3):
        training(here / "a", seed, 2.0)
        training(here / "b", seed + 1, 4.0)  # 1 and 2 are shared
    assert main(["evaluate", "a", "b"]) == 0
    out = capsys.readouterr().out
    arms = [{s: read_scores(here / name / f"seed-{s}" / "scores.npz") for s in (1, 2)} for name in "ab"]
    e = effect(*arms)
    assert f"{e.mean:+.1f} points (mean of 2 shared trainings, 140 clips)" in out
    assert f"trainings and clips: {e.low:+.1f} to {e.high:+.1f}" in out and "synth60-xsub seed 2:" in out
    assert main(["evaluate", "a/seed-0", "b/seed-3"]) == 0  # one of each is a pair
    out = capsys.readouterr().out
    assert "over clips alone" in out and "the second is better" in out and "train more seeds" in out
    assert main(["evaluate", "a/seed-0", "b"]) == 1
    assert "no fold and seed in common" in capsys.readouterr().err
    training(here / "c", 1, 2.0, CLIPS[:70])
    assert main(["evaluate", "a", "c"]) == 1 and "other clips (140 and 70)" in capsys.readouterr().err
    assert main(["evaluate", "a", "--fuse"]) == 1 and "adds the scores of two runs" in capsys.readouterr().err


def test_the_sum_of_two_runs_is_that_of_their_scores(here, capsys):
    for seed in range(2):
        training(here / "joint", seed, 2.0)
        training(here / "bone", seed, 2.2)
    assert main(["evaluate", "joint", "bone", "--fuse", "--pairs", "1"]) == 0
    out = capsys.readouterr().out.split("both together")[1]
    top1 = []
    for seed in range(2):
        a, b = (read_scores(here / name / f"seed-{seed}" / "scores.npz") for name in ("joint", "bone"))
        top1.append(100 * ((a.logits + b.logits).argmax(1) == a.labels).mean())
    assert f"top-1  {np.mean(top1):.1f} %" in out and "what the sum adds to the better one" in out


def test_the_confusion_matrix_has_names_and_white_zeros(here):
    training(here / "a", 0, 1.5)
    found = find_trained(here / "a")
    table = pd.read_csv(io.StringIO(confusion_csv(found)), index_col=0)
    scores = found[0].scores
    assert list(table.columns) == list(table.index) == list(found[0].benchmark.classes)
    for label, said in ((0, 0), (3, 5), (7, 7)):
        assert table.iloc[label, said] == ((scores.labels == label) & (scores.logits.argmax(1) == said)).sum()
    fig = draw_confusion(found)
    image = fig.axes[0].images[0]
    shown = image.cmap(image.norm(image.get_array()))  # (14, 14, RGBA)
    white = (shown[..., :3] == 1).all(-1)
    np.testing.assert_array_equal(white, table.to_numpy() == 0)


def finished(folder):
    "A finished training of the shipped network, with the clip of the package as its only test clip."
    from safetensors.torch import save_file

    net = load_pretrained("synth60-stf")
    training(folder, 0, 2.5)
    folder = folder / "seed-0"
    save_file({k: v.contiguous() for k, v in net.network.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(net.card["config"]))
    (folder / "metrics.json").write_text(json.dumps({"train_clips": 420}))
    return net


def test_a_card_says_what_a_run_is_and_what_it_is_not_good_for(here, capsys):
    net = finished(here / "mine")
    assert main(["evaluate", "mine", "--card"]) == 0
    assert "card.md: complete" in capsys.readouterr().out
    card = (here / "mine" / "card.md").read_text()
    for part in ("Data", "Split", "Recipe", "Accuracy", "Where it looks", "What it is not good for"):
        assert f"\n## {part}\n" in card
    assert "420 training clips" in card and "by `subject`" in card and "Real recordings" in card
    assert "the clips are not here" in card and f"{net.config.optim.epochs} epochs" in card
    with Image.open(here / "mine" / "confusion.png") as picture:
        assert picture.width > 300
    assert main(["evaluate", "mine", "-o", "elsewhere"]) == 0 and (here / "elsewhere" / "confusion.csv").exists()
    assert main(["evaluate", "mine"]) == 0  # the card is no training


def test_a_card_looks_at_the_test_clips_of_its_project(here, capsys):
    from stf_repro.data.clip_store import write_store
    from stf_repro.data.preprocess import clip_of

    finished(here / "runs" / "mine")
    (here / "dvc.yaml").write_text("stages: {}\n")
    (here / "params.yaml").write_text("profile: p\nruns: {}\n")
    kick = example_clip().recording
    write_store(here / "clips" / "synth60", [clip_of(kick)], "synth60", kick.layout)
    assert main(["evaluate", "runs/mine", "--card"]) == 0, capsys.readouterr().err
    card = (here / "runs" / "mine" / "card.md").read_text()
    test = load_pretrained("synth60-stf").benchmark.split(kick.attributes) == "test"
    assert ("Most weight: right knee" in card) if test else ("Not measured" in card)


def test_a_bad_file_of_a_folder_costs_only_itself(here, capsys):
    kick = example_clip()
    (here / "clips" / "b").mkdir(parents=True)
    np.save(here / "clips" / "a.npy", kick.recording.bodies[0])
    (here / "clips" / "b" / "kick.skeleton").write_bytes(kick.path.read_bytes())
    (here / "clips" / "torn.npy").write_bytes(b"no array")
    np.save(here / "clips" / "z.npy", np.zeros((5, 7, 3)))  # seven joints
    (here / "clips" / "notes.txt").write_text("not a recording")
    assert main(["predict", "clips", "-o", "out.csv", "--top", "2"]) == 1
    assert "2 clips of 2 files; 2 of 4 could not be read" in capsys.readouterr().out
    rows = list(csv.DictReader((here / "out.csv").open()))
    assert [row["file"] for row in rows] == ["clips/a.npy", "clips/b/kick.skeleton", "clips/torn.npy", "clips/z.npy"]
    assert [bool(row["error"]) for row in rows] == [False, False, True, True] and "V = 25" in rows[3]["error"]
    good = rows[0]
    assert (good["class"], good["frames"], good["first_frame"], good["last_frame"]) == ("kick", "40", "0", "39")
    assert float(good["probability"]) > float(good["probability_2"]) > 0
    assert main(["predict", "clips", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert len(said["clips"]) == 2 and [bad["file"] for bad in said["unread"]] == ["clips/torn.npy", "clips/z.npy"]
    assert main(["predict", "clips/b", "-o", "w.csv", "--window", "20"]) == 0
    assert [row["first_frame"] for row in csv.DictReader((here / "w.csv").open())] == ["0", "10", "20"]
    assert main(["predict", "clips", "-o", "s.csv", "--window", "20", "--rate", "10"]) == 1
    *timed, torn, _ = csv.DictReader((here / "s.csv").open())
    spans = [(row["start_seconds"], row["end_seconds"]) for row in timed]
    assert spans[:3] == [("0.00", "2.00"), ("1.00", "3.00"), ("2.00", "4.00")]
    assert torn["start_seconds"] == "" and "error" in torn and torn["error"]


def test_a_folder_without_recordings_is_one_sentence(here, capsys):
    (here / "empty").mkdir()
    assert main(["predict", "empty", "-o", "out.csv"]) == 1
    assert "empty holds no recordings" in capsys.readouterr().err and not (here / "out.csv").exists()
    assert main(["predict", "example", "-o", "out.xlsx"]) == 1 and "ends with .csv" in capsys.readouterr().err
