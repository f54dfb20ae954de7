"Pictures for a paper: sizes, endings, tempo, captions, maps, curves; and what `stf draw` notices without a network."

import csv
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageSequence

from stf_repro.cli import main
from stf_repro.custom.inference import Window, look, open_network, read_for
from stf_repro.custom.answers import draw_track
from stf_repro.custom.focus_files import draw_look, draw_map
from stf_repro.custom.pictures import save_moving, tempo
from stf_repro.custom.posture import posture, postures
from stf_repro.custom.words import shortest_half
from stf_repro.evaluation.bundled import example_clip


@pytest.fixture(scope="module")
def kick():
    return example_clip().recording


@pytest.fixture(scope="module")
def found():
    net = open_network()
    return net, look(net, read_for(net, example_clip().path)[0])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def durations(path) -> list[int]:
    with Image.open(path) as film:
        return [picture.info["duration"] for picture in ImageSequence.Iterator(film)]


def test_a_size_is_kept_and_letters_stay_letters(here, capsys):
    for command in (["focus", "example"], ["focus", "example", "--map"], ["draw", "example"]):
        assert main([*command, "-o", "a.png", "--size", "3.3x2", "--dpi", "100"]) == 0
        with Image.open("a.png") as picture:
            assert picture.size == (330, 200)
    assert main(["focus", "example", "-o", "a.pdf"]) == main(["focus", "example", "-o", "a.svg"]) == 0
    first = (here / "a.svg").read_bytes(), (here / "a.pdf").read_bytes()
    assert first[0].startswith(b"<?xml") and first[1].startswith(b"%PDF") and b"/FontFile2" in first[1]
    assert main(["focus", "example", "-o", "a.pdf"]) == main(["focus", "example", "-o", "a.svg"]) == 0
    assert first == ((here / "a.svg").read_bytes(), (here / "a.pdf").read_bytes())
    for size in ("3", "0x2", "axb", "3x99"):
        with pytest.raises(SystemExit):
            main(["focus", "example", "-o", "a.png", "--size", size])
        assert "inches such as 7x2.5" in capsys.readouterr().err


def test_an_animation_runs_in_the_tempo_of_the_recording(here, capsys):
    "A clip of 40 frames, of which every sixth is read."
    assert main(["focus", "example", "-o", "a.gif", "--rate", "24"]) == 0
    assert "in the tempo of the recording" in capsys.readouterr().out and durations("a.gif") == [250] * 7
    assert main(["focus", "example", "-o", "a.gif"]) == 0
    assert "tempo is not that of the recording" in capsys.readouterr().out
    assert sum(tempo([0, 5, 9], 10)) == pytest.approx(0.5 + 0.4 + 0.4)
    pictures = [np.full((4, 4, 3), 8 * k, np.uint8) for k in range(31)]
    save_moving("b.gif", pictures, tempo(range(31), 30))
    assert abs(sum(durations("b.gif")) - 1000 * 31 / 30) < 10  # rounded as a sum


FFMPEG = """#!{python}
import sys
films = sys.stdin.buffer.read()
open("said.txt", "w").write(" ".join(sys.argv[1:]) + " bytes=" + str(len(films)))
if {code}: sys.exit("no such codec")
open(sys.argv[-1], "wb").write(b"film")
"""


def test_an_mp4_is_made_by_ffmpeg_or_a_gif_is_named(here, capsys, monkeypatch):
    import sys

    monkeypatch.setenv("PATH", str(here))
    for command in (["focus", "example", "-o", "a.mp4"], ["draw", "example", "-o", "a.mp4"]):
        assert main(command) == 1
        assert "ffmpeg, which makes MP4, is not installed; write a.gif instead" in capsys.readouterr().err
    for code in (0, 1):
        (here / "ffmpeg").write_text(FFMPEG.format(python=sys.executable, code=code))
        os.chmod(here / "ffmpeg", 0o755)
        assert main(["focus", "example", "-o", "a.mp4", "--rate", "24", "--size", "1.01x1.5", "--dpi", "100"]) == code
        said = (here / "said.txt").read_text()
        assert "-s 100x150 -r 24" in said and f"bytes={42 * 100 * 150 * 3}" in said  # 7 pictures, each for 6 frames
        assert (here / "a.mp4").read_bytes() == b"film" and not list(here.glob(".*.part"))
    assert "ffmpeg could not write" in capsys.readouterr().err


def test_the_caption_names_what_the_table_says(here, capsys):
    assert main(["focus", "example", "-o", "a.csv"]) == main(["focus", "example", "-o", "a.png"]) == 0
    sums: dict[str, float] = {}
    for row in csv.DictReader((here / "a.csv").open()):
        sums[row["joint"]] = sums.get(row["joint"], 0) + float(row["Q"])
    best = max(sums, key=sums.get)
    out = capsys.readouterr().out
    assert f"Most of it lies on {best} ({100 * sums[best] / sum(sums.values()):.0f} %)" in out and "'kick'" in out
    assert shortest_half(np.array([1.0, 0, 3, 3, 1])) == (2, 3)


def test_a_strip_takes_the_frames_that_are_asked_for_and_the_strongest(found):
    net, seen = found
    peak = seen.frames[int(seen.Q.sum((0, 2)).argmax())]
    numbers = lambda fig: [int(re.search(r"\d+", ax.texts[0].get_text())[0]) for ax in fig.axes if ax.texts]
    for count in (1, 3, 4):
        shown = numbers(draw_look(net, seen, count))
        assert len(shown) == count and peak in shown and shown == sorted(shown)
    assert peak in numbers(draw_look(net, seen, size=(3.3, 1.6)))


def test_a_map_has_a_row_with_a_name_for_each_joint(found, here, capsys):
    net, seen = found
    ax = draw_map(net, seen, 24).axes[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert sorted(names) == sorted(net.layout.joints) and ax.get_xlabel() == "seconds"
    shown = ax.collections[0].get_array().reshape(25, -1)
    at = [net.layout.joints.index(name) for name in names]
    np.testing.assert_allclose(shown, seen.Q[0][:, at].T)
    assert main(["focus", "example", "-o", "a.gif", "--map"]) == 1
    assert "a map is a picture that stands still" in capsys.readouterr().err


def test_a_curve_shows_the_classes_over_time(here, kick, capsys):
    np.save("long.npy", np.concatenate([kick.bodies[0], kick.bodies[0]]))
    assert main(["predict", "long.npy", "--window", "20", "-o", "t.png", "--rate", "30", "--size", "4x2"]) == 0
    assert "7 windows of 20 frames over 80 frames" in capsys.readouterr().out and (here / "t.png").stat().st_size > 5000
    assert main(["predict", "long.npy", "-o", "t.png"]) == 1 and "wants `--window N`" in capsys.readouterr().err
    windows = [Window(0, 9, [("a", 0.75), ("b", 0.25)]), Window(5, 14, []), Window(10, 19, [("b", 1.0)])]
    fig = draw_track(windows)
    lines = {line.get_label(): line.get_ydata() for line in fig.axes[0].lines}
    np.testing.assert_array_equal(lines["b"], [25, np.nan, 100])
    with pytest.raises(ValueError, match="nobody is seen"):
        draw_track([Window(0, 9, [])])


# without a network


def other(layout) -> list[int]:
    "The joint on the other side."
    swap = {"left": "right", "right": "left"}
    return [layout.joints.index(" ".join(swap.get(w, w) for w in name.split())) for name in layout.joints]


def test_draw_says_what_seems_wrong(here, kick, capsys):
    side = other(kick.layout)
    part = lambda *words: [side[v] if any(w in name for w in words) else v for v, name in enumerate(kick.layout.joints)]
    ways = {
        "": kick.bodies,
        "its head is below its feet": kick.bodies * np.float32([1, -1, 1]),
        "its left is on its right": kick.bodies * np.float32([-1, 1, 1]),
        "its left hip is below its right shoulder": kick.bodies[:, :, part("hip", "knee", "ankle", "foot")],
        "its left elbow is nearer to its right shoulder": kick.bodies[:, :, part("elbow")],
        "its left ankle is nearer to its right knee": kick.bodies[:, :, part("ankle", "foot")],
    }
    for k, (said, bodies) in enumerate(ways.items()):
        np.save(f"{k}.npy", bodies)
        assert main(["draw", f"{k}.npy", "--layout", "ntu25", "--frames", "3"]) == 0
        err = capsys.readouterr().err
        assert (said in err) if said else not err, (said, err)
        assert (here / f"{k}.png").stat().st_size > 3000


def test_many_clips_are_one_sentence_and_a_few_odd_ones_none(kick):
    down = replace(kick, bodies=kick.bodies * np.float32([1, -1, 1]))
    assert postures([kick] * 20) == [] == postures([*[kick] * 19, down])
    assert postures([*[kick] * 5, *[down] * 15])[0].startswith("in 15 of 20 clips: its head is below")


@pytest.mark.parametrize("lying", [0.8, 1.0])
def test_somebody_who_lies_in_some_frames_of_an_image_is_no_fault(lying):
    "In an image, a body on its side is told from exchanged axes only if it is so all the time."
    joints = np.array([[0, 1], [1, 1], [2, 1.0]])
    from stf_repro.custom.poses import array_poses
    from stf_repro.skeleton import Layout

    layout = Layout("stick", ("head", "hip", "foot"), ((0, 1), (2, 1)), root=1)
    upright = joints[:, ::-1]
    frames = np.stack([joints if t < 20 * lying else upright for t in range(20)])
    said = posture(array_poses("a", 0.1 + frames, layout))
    assert bool(said) == (lying == 1.0)
