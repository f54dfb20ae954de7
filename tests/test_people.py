"What people ask: about a file of theirs, a network, a finished run, this machine; and the formats that their poses have."

import contextlib
import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageSequence
from safetensors.torch import save_file

from stf_repro.cli import main, parser
from stf_repro.training.runs import resolve
from stf_repro.data.formats import FormatError
from stf_repro.custom.poses import (
    KINECT_JOINTS,
    MEDIAPIPE_JOINTS,
    image_poses,
    mediapipe_poses,
    read_kinect,
    read_layout_file,
    read_mediapipe,
    read_openpose,
    read_poses,
)
from stf_repro.evaluation.bundled import SYNTHETIC, example_clip, load_pretrained
from stf_repro.skeleton import LAYOUTS, Layout
from stf_repro.training.config import run_configs

NOTE = "was trained on synthetic data"

EVERY = load_pretrained("synth60-stf").config.input.frame_stride  # of the default network: which frames it reads


@pytest.fixture(scope="module")
def kick():
    return example_clip()


@pytest.fixture
def here(tmp_path, monkeypatch):
    "An empty folder, no project, as the current one."
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_folder(folder, name="synth60-stf"):
    "The folder of a finished training, made of a network that ships with the package."
    net = load_pretrained(name)
    folder.mkdir(parents=True)
    save_file(
        {key: value.contiguous() for key, value in net.network.state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(net.card["config"]))
    (folder / "metrics.json").write_text("{}")
    return folder


# predict


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_file_gets_the_probabilities_of_the_network(here, kick, capsys, name):
    "Computed here from the example's own batch; whatever the file is called, and as an array."
    net = load_pretrained(name)
    with torch.no_grad():
        p = net.network(kick.batch(net.config.input)[0]).softmax(1)[0]
    order = p.argsort(descending=True)[:5].tolist()
    (here / "my clip.skeleton").write_bytes(kick.path.read_bytes())
    np.save(here / "mine.npy", kick.recording.bodies[0])
    np.savez(here / "more.npz", first=kick.recording.bodies, labels=np.array([3]))
    files = ["my clip.skeleton", "mine.npy", "more.npz"]
    assert main(["predict", *files, "--top", "5", "--json", "--network", name]) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert said["network"] == name and said["synthetic"] is True and NOTE in err and len(err.splitlines()) == 1
    assert [clip["file"] for clip in said["clips"]] == files and {clip["frames"] for clip in said["clips"]} == {
        kick.recording.bodies.shape[1]
    }
    for clip in said["clips"]:
        assert [c["class"] for c in clip["classes"]] == [net.classes[k] for k in order]
        assert np.allclose([c["probability"] for c in clip["classes"]], p[order], atol=1e-4)


def test_the_text_names_the_file_and_as_many_classes_as_wanted(here, kick, capsys):
    assert main(["predict", str(kick.path), "--top", "2"]) == 0
    out, err = capsys.readouterr()
    head, *rows = out.splitlines()
    assert (
        str(kick.path) in head and "1 body" in head and len(rows) == 2 and rows[0].split()[0] == "kick" and NOTE in err
    )


def test_the_clip_of_the_package_has_a_name(here, kick, capsys):
    "It works in any folder; a file of that name comes first."
    asked = {}
    for file in ("example", str(kick.path)):
        assert main(["predict", file, "--json"]) == 0
        asked[file] = json.loads(capsys.readouterr().out)["clips"][0]["classes"]
    assert asked["example"] == asked[str(kick.path)]
    assert main(["focus", "example", "-o", "f.csv"]) == 0 and (here / "f.csv").stat().st_size > 1000
    (here / "example").write_text("nothing of the kind")
    assert main(["predict", "example"]) == 1 and "example" in capsys.readouterr().err


def test_a_network_of_your_own_is_named_by_its_folder(here, kick, capsys):
    folder = run_folder(here / "runs" / "mine" / "seed-0")
    assert main(["predict", str(kick.path), "--json"]) == 0
    shipped = json.loads(capsys.readouterr().out)["clips"]
    for name in (folder, folder.parent):  # and by that of the run, if it was trained once
        assert main(["predict", str(kick.path), "--json", "--network", str(name)]) == 0
        assert json.loads(capsys.readouterr().out)["clips"] == shipped
    run_folder(here / "runs" / "mine" / "seed-1")
    assert main(["predict", str(kick.path), "--network", str(folder.parent)]) == 1
    assert "holds 2 trainings; name one of them, such as" in capsys.readouterr().err


def test_a_network_of_real_recordings_is_not_called_synthetic():
    from dataclasses import replace

    from stf_repro.custom.inference import is_synthetic

    net = load_pretrained("synth60-stf")
    assert is_synthetic(net) and not is_synthetic(replace(net, config=net.config.model_copy(update={"source": "sbu"})))


def write(folder, name: str, content):
    "A file of bytes, text or an array."
    path = folder / name
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def test_clips_of_one_name_in_several_folders_are_several_clips(here, capsys):
    clip = example_clip().recording.bodies
    for folder in ("a", "b"):
        (here / folder).mkdir()
        np.save(here / folder / "1.npy", clip)
    assert main(["predict", "a", "b"]) == 0
    out = capsys.readouterr().out
    assert out.count("kick") == 2 and all(f"{folder}/1.npy (" in out for folder in ("a", "b"))


@pytest.mark.parametrize("params", [None, "[1", "sources: {}"])
def test_a_folder_of_another_dvc_project_is_any_folder(here, capsys, params):
    (here / "dvc.yaml").write_text("stages: {}\n")
    if params:
        (here / "params.yaml").write_text(params)
    assert main(["predict", "example"]) == 0 and "kick" in capsys.readouterr().out
    assert main(["predict", "example", "--network", "nothing"]) == 1 and "no network" in capsys.readouterr().err


def test_a_project_knows_its_images_and_its_runs(here, capsys):
    "A size that is given otherwise is said; a run that is not trained says how to."
    from types import SimpleNamespace

    from stf_repro.commands.files import open_named, size_of_images
    from stf_repro.custom.project import new_project

    text = (new_project("gym", "coco17") / "params.yaml").read_text()
    Path("gym/params.yaml").write_text(text.replace("# image_shape: [480, 640]", "image_shape: [480, 640]"))
    net = SimpleNamespace(config=SimpleNamespace(source="gym"))
    with contextlib.chdir("gym"):
        for given, wanted, said in ((None, (480, 640), ""), ((640, 480), (640, 480), "--image-size 480x640, and the")):
            assert size_of_images(SimpleNamespace(command="predict", image_size=given), net) == wanted
            assert said in capsys.readouterr().err
        with pytest.raises(ValueError, match="holds no finished training: `stf train stf` trains it"):
            open_named("stf")


def test_of_several_bodies_it_is_said_which_are_read(here, capsys):
    clip = example_clip().recording.bodies
    np.save(here / "three.npy", np.concatenate([clip[:1], clip[:1] + 1, clip[:1] + 2]))
    assert main(["predict", "three.npy"]) == 0
    assert "3 bodies, and this network reads 2: of several it takes those that move most" in capsys.readouterr().err
    assert main(["predict", "three.npy", "--person", "1,3"]) == 0
    assert "this network reads" not in capsys.readouterr().err
    assert main(["predict", "three.npy", "--person", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"][0]["bodies"] == 1
    assert main(["focus", "three.npy", "--person", "2", "-o", "two.csv"]) == 0
    assert main(["draw", "three.npy", "--person", "4"]) == 1
    assert "has no body 4: it holds 3" in capsys.readouterr().err


@pytest.mark.parametrize("name,content,reason", [
    ("a.npy", np.ones((60, 17, 3)), "17 joints are those of coco17"),
    ("a.npy", np.ones((60, 21, 3)), "no layout here has 21 joints"),
    ("a.npy", np.ones((9, 60, 25, 3)), "for a stack of clips (N, T, V, C) save each as an array of its own"),
    ("a.npy", np.ones((9, 3, 60, 25, 2)), "five axes are a stack of clips"),
    ("a.npy", np.ones((3, 60, 25)), "the axis of 25 is number 3: move the joints to the last but one"),
    ("a.npy", np.ones((60, 25, 2)), "has 2 values per joint; this network reads 3: x, y, z"),
    ("a.npy", np.zeros((60, 25, 3)), "nobody is there"),
    ("a.npy", np.full((60, 25, 3), np.nan), "NaN"),
    ("a.npy", b"no array", "a.npy: not an array written by np.save"),
    ("a.skeleton", "3\nmany\n", "line 2: expected the number of bodies"),
    ("a.bvh", "", "no reader for .bvh in the layout ntu25; known: .npy"),
    ("a.json", "{}", "expected nested lists of numbers (T, V, C)"),
    ("a.csv", "x,y\n1,2\n", "no column for x of joint 0 (SpineBase)"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_sentence(here, capsys, name, content, reason):
    write(here, name, content)
    for command in (["predict", name], ["focus", name, "-o", "f.csv"]):
        assert main(command) == 1
        out, err = capsys.readouterr()
        assert (
            reason in err and name in err and len(err.splitlines()) == 1 and not out and not (here / "f.csv").exists()
        )


@pytest.mark.parametrize("argv,reason", [
    (["predict", "nothing.npy"], "nothing.npy: No such file"),
    (["predict", "CLIP", "--network", "stf"], "did you mean 'sbu-stf'"),
    (["predict", "CLIP", "--network", "."], "holds no finished training"),
    (["focus", "CLIP", "-o", "f.avi"], "cannot write f.avi: expected a name that ends with .png, .svg, .pdf, .gif, .mp4, .csv"),
    (["focus", "CLIP", "-o", "f.png", "--module", "gcn9"], "no module 'gcn9'; did you mean"),
    (["focus", "CLIP", "-o", "f.png", "--form", "element"], "did you mean 'elementwise'"),
    (["focus", "CLIP", "-o", "f.png", "--class", "kik"], "no class 'kik'; did you mean 'kick'"),
    (["focus", "CLIP", "-o", "there/is/none.png"], "there/is/none.png"),
    (["evaluate", "."], "holds no finished training"),
    (["evaluate", "M1"], "no dvc.yaml"),
])  # fmt: skip
def test_a_wrong_word_is_one_sentence(here, kick, capsys, argv, reason):
    assert main([str(kick.path) if word == "CLIP" else word for word in argv]) == 1
    err = capsys.readouterr().err
    assert reason in err and len(err.splitlines()) == 1


# focus


@pytest.mark.parametrize("options,module,form,name", [
    ([], "gcn1", "elementwise", "kick"),
    (["--class", "punch"], "gcn1", "elementwise", "punch"),
    (["--module", "g3d3", "--form", "mean_gradient"], "g3d3", "mean_gradient", "kick"),
])  # fmt: skip
def test_the_table_holds_the_focus(here, kick, capsys, options, module, form, name):
    "Against the definition: gradient of the score times features, summed over channels, positive part."
    net = load_pretrained("synth60-stf")
    out = net.network.run(*kick.batch(net.config.input))
    X = out.maps[module]
    gradient = torch.autograd.grad(out.logits[0, net.classes.index(name)], X)[0]
    weight = gradient if form == "elementwise" else gradient.mean((2, 3), keepdim=True)
    Q = torch.relu((weight * X).sum(1))[:1]  # (1, T', V) of the person
    Q = torch.nn.functional.interpolate(Q.transpose(1, 2), size=net.config.input.length, mode="linear").transpose(1, 2)[
        0
    ]
    assert main(["focus", str(kick.path), "-o", "f.csv", *options]) == 0
    said = capsys.readouterr()
    assert all(word in said.out for word in (module, form.replace("_", " "), name, "f.csv")) and NOTE in said.err
    rows = list(csv.DictReader((here / "f.csv").open()))
    frames = list(range(0, kick.recording.bodies.shape[1], EVERY))
    assert list(rows[0]) == ["frame", "joint", "body", "Q"] and [int(r["frame"]) for r in rows[::25]] == frames
    assert [r["joint"] for r in rows[:25]] == list(net.layout.joints) and {r["body"] for r in rows} == {"0"}
    table = np.array([float(r["Q"]) for r in rows]).reshape(len(frames), 25)
    assert np.allclose(table, (Q / Q.max())[: len(frames)].detach(), atol=1e-4) and "zero everywhere" not in said.out


def test_a_focus_that_is_empty_is_said_to_be(here, kick, capsys, monkeypatch):
    from stf_repro.custom import inference as ask

    monkeypatch.setitem(ask.FORMS, "mean_gradient", lambda gradient, X: 0 * X.sum(1))
    assert (
        main(
            ["focus", str(kick.path), "-o", "f.csv", "--module", "g3d3", "--form", "mean_gradient", "--class", "punch"]
        )
        == 0
    )
    assert "zero everywhere: nothing in this module speaks for 'punch'" in capsys.readouterr().out


def test_the_pictures_show_every_frame_that_is_read(here, kick):
    for name in ("f.gif", "f.PNG"):
        assert main(["focus", str(kick.path), "-o", name]) == 0
    with Image.open("f.gif") as film, Image.open("f.PNG") as strip:
        assert (
            film.n_frames == len(range(0, kick.recording.bodies.shape[1], EVERY))
            and strip.format == "PNG"
            and strip.width > 3 * strip.height
        )
        body = np.asarray(strip.convert("RGB")).astype(int)
    red = (body[..., 0] - body[..., 2] > 150).sum()
    assert red > 50  # the strongest joints


def pictures_of(path) -> list[np.ndarray]:
    "The pictures of a GIF, in grey: (height, width)."
    with Image.open(path) as film:
        return [np.asarray(picture.convert("L"), int) for picture in ImageSequence.Iterator(film)]


def test_each_picture_of_the_animation_has_its_number_and_one_colour_key(here, kick):
    "The key, from pale to dark, is the same to the pixel in all of them, and so is all but the body and the number."
    assert (
        main(["focus", str(kick.path), "-o", "f.gif"]) == 0
        and main(["focus", str(kick.path), "-o", "s.gif", "--rate", "30"]) == 0
    )
    pictures, seconds = pictures_of("f.gif"), pictures_of("s.gif")
    bottom = [picture[-40:] for picture in pictures]
    assert all((other == bottom[0]).all() for other in bottom)
    dark = [row for row in bottom[0] if (row < 200).sum() > 30]  # rows of the key
    along = np.median([row[45:125] for row in dark], 0)
    assert (along[:15].mean() > along[30:50].mean() + 20) and (
        along[30:50].mean() > along[-15:].mean() + 40
    )  # as the eye sees it in grey, too
    number = lambda pictures: [picture[-58:-42].tobytes() for picture in pictures]
    assert len(set(number(pictures))) == len(set(number(seconds))) == len(pictures) and not set(number(pictures)) & set(
        number(seconds)
    )
    title = [picture[:35] for picture in pictures]
    assert all((other == title[0]).all() for other in title) and (here / "f.gif").stat().st_size < 40_000


def test_seconds_are_shown_where_the_rate_is_known(here, kick, capsys):
    from stf_repro.custom.inference import look, open_network, read_for
    from stf_repro.custom.focus_files import draw_look

    found = look(net := open_network(), read_for(net, kick.path)[0])
    numbers = lambda fig: [
        ax.texts[0].get_text() for ax in fig.axes if ax.texts and ax.texts[0].get_text()[-1] in "0123456789)"
    ]
    assert numbers(draw_look(net, found)) == [f"frame {t}" for t in range(0, 41, 6)]
    assert numbers(draw_look(net, found, rate=24)) == [f"{t} ({t / 24:.2f} s)" for t in range(0, 41, 6)]
    assert main(["focus", "example", "-o", "f.csv", "--rate", "24"]) == 0
    assert {(row["frame"], row["seconds"]) for row in csv.DictReader((here / "f.csv").open())} >= {
        ("0", "0.000"),
        ("36", "1.500"),
    }
    for wrong in ("0", "-3", "nan", "thirty"):
        with pytest.raises(SystemExit):
            main(["focus", "example", "-o", "f.csv", "--rate", wrong])
        assert "frames per second such as 30" in capsys.readouterr().err


def test_the_focus_of_several_clips_asks_for_one(here, kick, capsys):
    np.savez("two.npz", a=kick.recording.bodies, b=kick.recording.bodies)
    assert main(["focus", "two.npz", "-o", "f.png"]) == 1
    assert "two.npz holds 2 clips (a, b" in capsys.readouterr().err


@pytest.mark.parametrize("recipe,frames,every,length,expected", [
    ("replay", 60, 5, 12, [0, 5, 10]), ("pad", 8, 2, 100, [0, 2, 4, 6]), ("uniform", 4, 1, 8, [1, 3, 5, 7]), ("resize", 3, 1, 9, [0, 4, 8]), ("resample", 5, 2, 5, [0, 2, 4]),
])  # fmt: skip
def test_frames_are_numbered_as_in_the_recording(recipe, frames, every, length, expected):
    from stf_repro.custom.inference import frames_read
    from stf_repro.training.config import InputConfig

    assert frames_read(InputConfig(recipe=recipe, frames=frames, frame_stride=every), length) == expected


# evaluate


def scores(folder, wrong: dict[int, int], benchmark="synth60-xsub", clips=range(28)):
    "A finished training whose network names clip i as class i mod 14, but for the wrong ones: clip -> class."
    folder.mkdir(parents=True)
    clips = np.array(list(clips))
    said = np.array([wrong.get(int(i), int(i) % 14) for i in clips])
    np.savez(
        folder / "scores.npz", logits=np.eye(14, dtype=np.float32)[said], labels=clips % 14, names=clips.astype(str)
    )
    (folder / "config.json").write_text(json.dumps({"benchmark": benchmark}))
    (folder / "metrics.json").write_text("{}")


def wilson(p: float, n: int) -> tuple[float, float]:
    "From the textbook."
    z = 1.959963984540054
    middle, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)),
    )
    return 100 * (middle - half), 100 * (middle + half)


def test_a_run_is_summed_up_over_its_trainings(here, capsys):
    scores(here / "run" / "seed-0", {0: 2, 14: 2, 3: 4})  # both waves with the right hand are a punch; a kick is a walk
    scores(here / "run" / "seed-1", {2: 0})  # a punch is a wave
    assert main(["evaluate", "run", "--pairs", "1"]) == 0
    out = capsys.readouterr().out
    low, high = wilson(26 / 28, 28)  # 25 and 27 of 28
    assert (
        f"top-1  {100 * 26 / 28:.1f} %, over clips {low:.1f} to {high:.1f} (Wilson" in out
        and "seed-0 89.3, seed-1 96.4" in out
    )
    assert re.search(r"^  wave right hand +50\.0 +2$", out, re.M) and re.search(r"^  punch +75\.0 +2$", out, re.M)
    after = out.split("most confused pairs")[1].splitlines()
    assert after[1:] == [f"  {100 * 3 / 8:5.1f}     4  wave right hand - punch"]
    assert main(["evaluate", "run/seed-0"]) == 0
    assert f"top-1  {100 * 25 / 28:.1f} %" in capsys.readouterr().out


def test_folds_count_all_their_clips(here, capsys):
    scores(here / "run" / "synth60-xsub" / "seed-0", {0: 2}, clips=range(14))
    scores(here / "run" / "synth60-xview" / "seed-0", {}, "synth60-xview", clips=range(14, 28))
    assert main(["evaluate", "run"]) == 0
    out = capsys.readouterr().out
    low, high = wilson(27 / 28, 28)
    assert "synth60-xsub, synth60-xview: 2 trainings, 28 test clips" in out and f"{low:.1f} to {high:.1f}" in out
    scores(here / "run" / "other" / "seed-0", {})
    assert main(["evaluate", "run"]) == 1
    assert "several runs" in capsys.readouterr().err


def test_a_run_of_the_profile_is_named_by_its_key(here, capsys, small_params):
    (here / "dvc.yaml").write_text("stages: {}\n")
    (here / "params.yaml").write_text(yaml.safe_dump(small_params))
    scores(here / "runs" / "synthetic" / "ablation" / "M1" / "seed-0", {})
    assert main(["evaluate", "M1"]) == 0
    assert "top-1  100.0 %" in capsys.readouterr().out
    assert main(["evaluate", "M2"]) == 1
    assert "no run 'M2'; did you mean" in capsys.readouterr().err
    (here / "runs" / "synthetic" / "ablation" / "M1" / "seed-0" / "scores.npz").write_bytes(b"torn")
    assert main(["evaluate", "M1"]) == 1
    assert "is damaged" in capsys.readouterr().err


# doctor


def doctor(capsys) -> tuple[int, dict[str, str]]:
    "The exit code, and the lines by what they speak of."
    code = main(["doctor"])
    return code, dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())


def test_the_doctor_looks_at_a_project(here, capsys, small_params):
    code, said = doctor(capsys)
    assert code == 1 and "no dvc.yaml" in said["missing project"]
    (here / "dvc.yaml").write_text("stages: {}\n")
    (here / "params.yaml").write_text(yaml.safe_dump(small_params))
    code, said = doctor(capsys)
    assert (
        code == 0
        and "0 of 2 finished (0 of 2 trainings)" in said["open    runs"]
        and "`stf train M1`" in said["open    to train"]
    )
    assert (
        "made by `stf download synth60`" in said["open    source synth60"] and "dvc repro" in said["ok      can be run"]
    )
    old = here / "runs" / "synthetic" / "ablation" / "M1" / "seed-0"
    old.mkdir(parents=True)
    (old / "metrics.json").write_text("{}")
    (old / "config.json").write_text(json.dumps(small_params["runs"]["M1"] | {"source": "synth120"}))
    assert "1 more are there, trained with other parameters" in doctor(capsys)[1]["open    runs"]
    for name in ("raw/synth60/a.skeleton", "clips/synth60/store.json"):
        (here / name).parent.mkdir(parents=True)
        (here / name).touch()
    assert doctor(capsys)[1]["ok      source synth60"] == "raw files yes, clips yes"
    small_params["sources"]["ntu60"] = None
    (here / "params.yaml").write_text(yaml.safe_dump(small_params))
    code, said = doctor(capsys)
    assert (
        code == 1
        and "rose1.ntu.edu.sg" in said["missing source ntu60"]
        and "not the profile synthetic: source ntu60" in said["missing can be run"]
    )
    (here / "params.yaml").write_text("profile: [")
    assert main(["doctor"]) == 1 and "is not YAML" in capsys.readouterr().err


def test_the_doctor_names_what_the_machine_lacks(here, capsys, small_params, monkeypatch):
    from stf_repro import doctor as room

    (here / "dvc.yaml").write_text("stages: {train: {cmd: stf train M1}}\n")
    (here / "params.yaml").write_text(yaml.safe_dump(small_params))
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 3e8}))
    monkeypatch.setattr(room, "_version", lambda name: None if name in ("dvc", "scipy") else "1.0")
    code, said = doctor(capsys)
    assert (
        code == 1
        and said["missing packages"].startswith("scipy not installed")
        and said["missing pipeline"].startswith("dvc not installed")
    )
    assert "0.3 GB free" in said["missing disk"] and "packages, pipeline, disk" in said["missing can be run"]


@pytest.mark.parametrize("argv", [["doctor"], ["--help"], ["predict", "--help"]])
def test_these_answer_without_pytorch(argv):
    code = f"import sys; from stf_repro.cli import main\ntry: main({argv!r})\nexcept SystemExit: pass\nprint([n for n in ('torch', 'matplotlib', 'pandas') if n in sys.modules], file=sys.stderr)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.splitlines()[-1]
        == "[]"
    )


def test_help_is_grouped_and_every_command_has_an_example(capsys):
    commands = next(action for action in parser()._actions if action.dest == "command").choices
    text = parser().format_help()
    groups = {
        re.match(r"\w+", part)[0]: re.findall(r"^  (\w+) ", part, re.M)
        for part in text.split("\n\n")
        if re.match(r"(own|pipeline|look|check)\b", part)
    }
    assert groups == {
        "own": ["new"],
        "pipeline": ["download", "preprocess", "train", "render", "export"],
        "look": ["pose", "predict", "focus", "draw", "evaluate", "mechanism"],
        "check": ["doctor", "bench", "networks", "runs", "show"],
    }
    assert sorted(sum(groups.values(), [])) == sorted(commands)
    assert all(f"Example: stf {name}" in " ".join(p.format_help().split()) for name, p in commands.items())


def test_show_without_a_run_shows_the_example_and_what_else_there_is(tmp_path, small_params, monkeypatch, capsys):
    "Anywhere; in a project also its runs, none of which need be trained."
    monkeypatch.chdir(tmp_path)
    assert main(["show", "example"]) == 0
    example = capsys.readouterr().out
    frames = example_clip().recording.bodies.shape[1]
    assert (
        f"'kick', {frames} frames, 1 body, 25 joints (ntu25)" in example.splitlines()[0]
        and example.count("says kick, 9") == len(SYNTHETIC)
        and "`stf focus example -o" in example
    )
    assert main(["show"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(example) and said.out.splitlines()[-1].startswith("No project here") and not said.err
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    small_params["runs"]["M5"]["seeds"] = [0, 4]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small_params))
    folder, config = tmp_path / "runs/synthetic/ablation/M5/seed-4", run_configs(resolve("", small_params, "M5"), 4)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(next(iter(config.values())).model_dump(mode="json")))
    (folder / "metrics.json").write_text("{}")
    assert main(["show"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(example) and [line.split() for line in shown.splitlines()[-2:]] == [
        ["M1", "M1", "0", "of", "1", "trained"],
        ["M5", "M5", "1", "of", "2", "trained"],
    ]


# poses as people have them


def test_bones_are_those_that_the_tools_draw():
    "From OpenPose's BODY_25 pairs and MediaPipe's POSE_CONNECTIONS: a tree needs four more of the latter, and cannot have all."
    pairs = lambda numbers: {frozenset(pair) for pair in numbers}
    body25 = [
        (1, 8),
        (1, 2),
        (1, 5),
        (2, 3),
        (3, 4),
        (5, 6),
        (6, 7),
        (8, 9),
        (9, 10),
        (10, 11),
        (8, 12),
        (12, 13),
        (13, 14),
        (1, 0),
        (0, 15),
        (15, 17),
        (0, 16),
        (16, 18),
        (14, 19),
        (19, 20),
        (14, 21),
        (11, 22),
        (22, 23),
        (11, 24),
    ]
    assert pairs(LAYOUTS["body25"].bones) == pairs(body25)
    mediapipe = [
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 7),
        (0, 4),
        (4, 5),
        (5, 6),
        (6, 8),
        (9, 10),
        (11, 12),
        (11, 13),
        (13, 15),
        (15, 17),
        (15, 19),
        (15, 21),
        (17, 19),
        (12, 14),
        (14, 16),
        (16, 18),
        (16, 20),
        (16, 22),
        (18, 20),
    ]
    mediapipe += [
        (11, 23),
        (12, 24),
        (23, 24),
        (23, 25),
        (24, 26),
        (25, 27),
        (26, 28),
        (27, 29),
        (28, 30),
        (29, 31),
        (30, 32),
        (27, 31),
        (28, 32),
    ]
    own = pairs(LAYOUTS["mediapipe33"].bones)
    assert own - pairs(mediapipe) == pairs([(0, 9), (0, 10), (0, 11), (0, 12)])


@pytest.mark.parametrize("layout", ["body25", "halpe26", "mediapipe33", "coco17", "openpose18"])
def test_left_and_right_are_mirror_images(layout):
    joints = LAYOUTS[layout].joints
    other = {name: name.replace("left", "LEFT").replace("right", "left").replace("LEFT", "right") for name in joints}
    bones = {frozenset((joints[a], joints[b])) for a, b in LAYOUTS[layout].bones}
    assert set(other.values()) == set(joints) and {frozenset(other[name] for name in bone) for bone in bones} == bones


def test_both_lists_of_names_say_what_the_layout_says():
    for names, layout in ((KINECT_JOINTS, "ntu25"), (MEDIAPIPE_JOINTS, "mediapipe33")):
        side = lambda name: next((s for s in ("left", "right") if s in name.lower()), "")
        assert [side(a) for a in names] == [side(b) for b in LAYOUTS[layout].joints]


@pytest.fixture
def landmarks():
    "Five frames of 33 landmarks around the middle of the hips, with visibility; nobody in the fourth."
    values = np.random.default_rng(1).uniform([-0.9, -0.9, -0.9, 0.1], 0.9, (5, 33, 4)).round(4)
    values[3] = 0
    return values


def as_json(values, wrap=lambda frame: frame):
    return json.dumps(
        [
            wrap([dict(zip(("x", "y", "z", "visibility"), point)) for point in frame] if np.any(frame) else None)
            for frame in values.tolist()
        ]
    )


def as_wide(values, column, names, extra=True):
    head = [column(name, axis) for name in names for axis in ("x", "y", "z", "v")[: values.shape[2]]]
    rows = [
        [t / 30, *(["" if not frame.any() else v for v in frame.ravel().tolist()])] for t, frame in enumerate(values)
    ]
    lines = [["time", *head], *rows] if extra else [row[1:] for row in rows]
    return "\n".join(",".join(map(str, row)) for row in lines)


def as_long(values, names):
    rows = [
        f"{t};{name};{';'.join(map(str, p))}"
        for t, frame in enumerate(values.tolist())
        for name, p in zip(names, frame)
    ]
    return "\n".join(["frame;landmark;x;y;z;visibility", *rows])


@pytest.mark.parametrize("name,text", [
    ("a.json", lambda v: as_json(v)),
    ("a.json", lambda v: json.dumps({"frames": json.loads(as_json(v, lambda frame: {"pose_world_landmarks": frame, "pose_landmarks": None}))})),
    ("a.csv", lambda v: as_wide(v, lambda n, a: f"{a}{n}", range(33))),
    ("a.csv", lambda v: as_wide(v, lambda n, a: f"{a}{n}", range(1, 34))),
    ("a.csv", lambda v: as_wide(v, lambda n, a: f"{n.upper()}.{a}", MEDIAPIPE_JOINTS)),
    ("a.csv", lambda v: as_wide(v, lambda n, a: "", range(33), extra=False)),
    ("a.csv", lambda v: as_long(v, range(33))),
    ("a.csv", lambda v: as_long(v, MEDIAPIPE_JOINTS)),
])  # fmt: skip
def test_landmarks_of_mediapipe_are_the_same_in_every_form(tmp_path, landmarks, name, text):
    (tmp_path / name).write_text(text(landmarks))
    recording = read_mediapipe(tmp_path / name)
    assert recording.name == "a" and recording.layout.name == "mediapipe33" and recording.confidence is None
    assert recording.present.tolist() == [[True, True, True, False, True]]
    assert np.allclose(recording.bodies[0], landmarks[..., :3] * [-1, -1, 1], atol=1e-6)
    (again,) = read_poses(tmp_path / name, "mediapipe33")
    assert (again.bodies == recording.bodies).all()


def test_landmarks_in_the_image_keep_their_visibility(tmp_path, landmarks):
    landmarks = abs(landmarks)
    np.save(tmp_path / "a.npy", np.stack([landmarks, landmarks]))  # two people
    recording = read_mediapipe(tmp_path / "a.npy", image=True)
    assert recording.layout.name == "mediapipe33-image"
    assert (
        recording.bodies.shape == (2, 5, 33, 2)
        and np.allclose(recording.bodies[1], landmarks[..., :2])
        and np.allclose(recording.confidence[0], landmarks[..., 3])
    )


@pytest.mark.parametrize("content,reason", [
    ("[[1, 2]]", "expected 33 landmarks of one person, found 2"),
    (json.dumps([[{"x": 1, "y": "2"}] * 33]), "expected a landmark"),
    (json.dumps([{"hands": []}]), "none under pose_world_landmarks"),
    ("{}", "expected a list of frames"),
    ("[", "no JSON"),
])  # fmt: skip
def test_json_that_holds_no_landmarks_is_named(tmp_path, content, reason):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(FormatError, match=re.escape(reason)):
        read_mediapipe(tmp_path / "a.json")


@pytest.mark.parametrize("column", [lambda n, a: f"{n}_{a.upper()}", lambda n, a: f"{n}.{a}", None])
def test_a_table_of_a_kinect_is_the_recording_that_it_was_made_of(here, kick, capsys, column):
    xyz = kick.recording.bodies[0].astype(np.float64)
    (here / "k.csv").write_text(
        "\ufeff" + as_wide(xyz, column, KINECT_JOINTS)
        if column
        else as_wide(xyz, lambda n, a: "", KINECT_JOINTS, extra=False)
    )
    recording = read_kinect(here / "k.csv")
    assert recording.layout == kick.recording.layout and (recording.bodies == kick.recording.bodies[:1]).all()
    assert main(["predict", "k.csv", "--top", "1"]) == 0 and "kick" in capsys.readouterr().out


def test_millimetres_are_noticed(tmp_path, kick):
    (tmp_path / "k.csv").write_text(as_wide(1000 * kick.recording.bodies[0], lambda n, a: f"{n}_{a}", KINECT_JOINTS))
    with pytest.raises(FormatError, match="expected metres"):
        read_kinect(tmp_path / "k.csv")


@pytest.mark.parametrize("text,reason", [
    ("1,2\n1\n", "row 2 has 1 cells, the first one 2"),
    ("", "an empty table"),
    ("1,2,4\n", "3 columns without names; expected 75"),
    ("frame,joint,x,y,z\n0,Tail,1,2,3\n", "line 2: there is no joint 'Tail'"),
    ("frame,joint,x,y,z\n0,Head,1,2,far\n", "line 2: expected a number, found 'far'"),
])  # fmt: skip
def test_a_table_that_holds_no_body_is_named(tmp_path, text, reason):
    (tmp_path / "k.csv").write_text(text)
    with pytest.raises(FormatError, match=re.escape(reason)):
        read_kinect(tmp_path / "k.csv")


def openpose(folder, people: dict[int, list]):
    folder.mkdir()
    for t, there in people.items():
        (folder / f"video_{t:012d}_keypoints.json").write_text(
            json.dumps({"people": [{"pose_keypoints_2d": np.ravel(p).tolist()} for p in there]})
        )
    return folder


@pytest.mark.parametrize("V,layout", [(25, "body25"), (18, "openpose18")])
def test_a_folder_of_openpose_is_one_recording(tmp_path, V, layout):
    p = np.random.default_rng(2).uniform(0.1, 0.9, (3, V, 3))
    pixels = p * [1280, 720, 1]
    folder = openpose(tmp_path / "clip", {7: [pixels[0]], 8: [], 10: [pixels[1], pixels[2]]})
    recording = read_openpose(folder, image_shape=(720, 1280))
    assert (
        recording.layout.name == layout
        and recording.name == "clip"
        and recording.present.tolist() == [[True, False, False, True], [False, False, False, True]]
    )
    assert np.allclose(recording.bodies[0, 0], p[0, :, :2], atol=1e-6) and np.allclose(
        recording.confidence[1, 3], p[2, :, 2]
    )
    with pytest.raises(FormatError, match="give the image's height and width"):
        read_openpose(folder)
    with pytest.raises(FormatError, match=f"{V} joints of the layout {layout}; expected 17, coco17"):
        read_poses(folder, "coco17", (720, 1280))


@pytest.mark.parametrize("people,reason", [
    ({}, "no \\*_keypoints.json"), ({0: []}, "nobody was found"), ({0: [[1, 2, 3]]}, "expected 75 numbers"), ({0: [np.ones(75)], 1: [np.ones(54)]}, "people with 18 and 25 joints"),
])  # fmt: skip
def test_a_folder_that_openpose_did_not_write_is_named(tmp_path, people, reason):
    with pytest.raises(FormatError, match=reason):
        read_openpose(openpose(tmp_path / "clip", people))


def test_a_joint_without_a_score_is_not_there():
    keypoints = np.full((2, 17, 3), 0.5)
    keypoints[0, 3, 2] = 0
    recording = image_poses("a", keypoints, "coco17")
    assert (
        recording.bodies[0, 0, 3].tolist() == [0, 0]
        and recording.bodies[0, 1, 3].tolist() == [0.5, 0.5]
        and recording.present.all()
    )
    with pytest.raises(FormatError, match="expected \\(T, V, 3\\)"):
        image_poses("a", keypoints[..., :2], "coco17")
    with pytest.raises(FormatError, match="expected \\(T, 33, C\\)"):
        mediapipe_poses("a", keypoints)


STICK = {"joints": ["hip", "chest", "head", "hand"], "bones": [["hip", "chest"], ["head", "chest"], ["hand", "chest"]]}


def layout_of(folder, **changed) -> Layout:
    (folder / "stick.yaml").write_text(yaml.safe_dump({**STICK, **changed}))
    return read_layout_file(folder / "stick.yaml")


def test_a_layout_of_your_own_is_a_list_of_bones(tmp_path, kick):
    "Hung on any root; and an array of it is read."
    wanted = Layout("stick", tuple(STICK["joints"]), ((1, 0), (2, 1), (3, 1)), 0)
    assert layout_of(tmp_path) == wanted
    assert layout_of(tmp_path, root="head", centre="hip", name="mine") == Layout(
        "mine", tuple(STICK["joints"]), ((1, 2), (0, 1), (3, 1)), 2, 0
    )
    np.save(tmp_path / "a.npy", np.ones((6, 4, 3)))
    assert read_poses(tmp_path / "a.npy", wanted)[0].layout == wanted


@pytest.mark.parametrize("changed,reason", [
    ({"bones": [["hip", "chst"]]}, "a bone names 'chst', which is no joint; the joints are hip, chest, head, hand"),
    ({"bones": STICK["bones"][:2]}, "no tree: no bones lead from hip to hand"),
    ({"bones": [*STICK["bones"], ["hand", "head"]]}, "hand and head are joined in another way already, so this bone closes a circle"),
    ({"bones": [*STICK["bones"], ["hip", "hip"]]}, "closes a circle"),
    ({"bones": [["hip", "chest", "head"]]}, "must be a list of pairs"),
    ({"bones": 3}, "must be a list of pairs"),
    ({"root": "tail"}, "root names 'tail'"),
    ({"joints": ["hip", "hip"]}, "different names"),
    ({"joint": []}, "expected `joints`"),
])  # fmt: skip
def test_bones_that_make_no_layout_are_one_sentence(tmp_path, changed, reason):
    with pytest.raises(FormatError, match=re.escape(reason)) as error:
        layout_of(tmp_path, **changed)
    assert "stick.yaml" in str(error.value) and "\n" not in str(error.value)
