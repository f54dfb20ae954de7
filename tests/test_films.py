"Skeletons and focus on films: drawn on arrays, and through the command line on a film that the test makes."

import builtins
import json
from types import SimpleNamespace

import numpy as np
import pytest

from stf_repro.cli import main
from stf_repro.custom.film import check_film, open_film, read_frames, write_film
from stf_repro.custom.inference import Look
from stf_repro.custom.overlay import in_pixels, overlay, read_in_image, spread_focus
from stf_repro.custom.poses import image_poses
from stf_repro.data.preprocess import clip_of
from stf_repro.data.formats import FormatError
from stf_repro.skeleton import LAYOUTS

HEIGHT, WIDTH = 120, 160
STICK = np.array(
    [[20, 20], [22, 18], [18, 18], [24, 19], [16, 19], [28, 35], [12, 35], [31, 50], [9, 50], [32, 65], [8, 65]]
    + [[25, 65], [15, 65], [26, 85], [14, 85], [27, 105], [13, 105]]
)


def people(
    frames: int = 12,
) -> np.ndarray:  # (2, T, 17, 3) pixels and score: one walks, the other is there now and then
    walk = STICK + 5 * np.arange(frames)[:, None, None] * [1, 0]
    points = np.stack([walk, np.broadcast_to(STICK + [110, 5], walk.shape)])
    scores = np.ones((2, frames, 17, 1))
    scores[1, [3, 4]] = 0
    return np.concatenate([points, scores], -1) * scores


def pictures(points: np.ndarray) -> list[np.ndarray]:
    "Frames in which a green square stands where each joint is."
    frames = [np.full((HEIGHT, WIDTH, 3), 128, np.uint8) for _ in range(points.shape[1])]
    for t, frame in enumerate(frames):
        for x, y, score in points[:, t].reshape(-1, 3).astype(int):
            if score:
                frame[y - 1 : y + 2, x - 1 : x + 2] = [0, 255, 0]
    return frames


def openpose(folder, points):
    for t in range(points.shape[1]):
        there = [{"pose_keypoints_2d": body.ravel().tolist()} for body in points[:, t] if body.any()]
        (folder / f"film_{t:012d}_keypoints.json").write_text(json.dumps({"people": there}))
    return folder


def coco(path, points):
    rows = [
        {"image_id": f"{t}.jpg", "category_id": 1, "keypoints": points[m, t].ravel().tolist(), "score": 1, "idx": m}
        for t in range(points.shape[1])
        for m in range(2)
        if points[m, t].any()
    ]
    path.write_text(json.dumps(rows))
    return path


def mediapipe(path, points):
    "The first of the 33 landmarks are those of COCO; the rest lie on its nose."
    frames = []
    for t in range(points.shape[1]):
        there = [body[[*range(17), *[0] * 16]] / [WIDTH, HEIGHT, 1] for body in points[:, t] if body.any()]
        listed = [[{"x": x, "y": y, "z": 0.1, "visibility": v} for x, y, v in body] for body in there]
        frames.append({"frame": t, "pose_landmarks": listed})
    path.write_text(json.dumps({"frames": frames}))
    return path


@pytest.mark.parametrize("write, name", [(openpose, ""), (coco, "poses.json"), (mediapipe, "poses.json")])
def test_every_reader_puts_joints_where_they_were_found(tmp_path, write, name):
    points = people()
    found = read_in_image(write(tmp_path / name if name else tmp_path, points), (HEIGHT, WIDTH))
    xy, seen = in_pixels(found, (HEIGHT, WIDTH))
    assert np.allclose(xy[:, :, :17][seen[:, :, :17]], points[..., :2][points[..., 2] > 0], atol=0.01)  # float32
    assert not seen[1, [3, 4]].any() and seen.any(2).sum() == 22


def test_each_joint_is_covered_in_each_frame():
    points = people()
    frames = pictures(points)
    drawn = list(overlay(frames, image_poses("walk", points, "coco17", (HEIGHT, WIDTH))))
    for t, frame in enumerate(drawn):
        for x, y, score in points[:, t].reshape(-1, 3).astype(int):
            assert not score or frame[y, x].tolist() != [0, 255, 0]
    changed = [(a != b).any(-1)[:, 105:].any() for a, b in zip(frames, drawn)]
    assert changed == [t not in (3, 4) for t in range(12)]  # who is not there is not drawn


def test_frames_before_and_after_the_poses_stay_as_they_are():
    points = people(5)
    frames = [np.full((HEIGHT, WIDTH, 3), 128, np.uint8)] * 8
    drawn = list(overlay(frames, image_poses("walk", points, "coco17", (HEIGHT, WIDTH)), first=2))
    assert [bool((frame != 128).any()) for frame in drawn] == [False] * 2 + [True] * 5 + [False]


def test_the_focus_goes_to_the_person_whom_a_slot_was_made_of():
    points = people()
    points[0, :, :, 2] *= 0.5  # so the second, though away twice, is the first of the clip
    recording = image_poses("two", points, "coco17", (HEIGHT, WIDTH))
    first = clip_of(recording).bodies[0]
    assert np.allclose(first[0, 0, :2], recording.bodies[1, 0, 0] * [1, -1] + [-0.5, 0.5])
    Q = np.zeros((2, 6, 17))
    Q[0, :, 9], Q[1, :, 5] = 1, 0.5
    found = Look("two", np.zeros((3, 6, 17, 2)), Q, [0, 2, 4, 6, 8, 10], "wave", "wave", "gcn1", "elementwise")
    focus = spread_focus(found, recording)
    assert (focus[1, [0, 1, 2, 5, 11], 9] == 1).all() and (focus[0, :, 5] == 0.5).all() and not focus[0, :, 9].any()
    assert np.isnan(focus[1, [3, 4]]).all()
    short = Look("two", found.x[:, :3], Q[:, :3], [0, 1, 2], "wave", "wave", "gcn1", "elementwise")
    assert np.isnan(spread_focus(short, recording)[:, 3:]).all()  # what was not read is not known


def test_one_person_of_three_keeps_the_focus_of_its_own():
    points = np.concatenate([people(), people()[:1] + [0, 8, 0]])
    points[1] = 0  # a slot that stays empty
    recording = image_poses("three", points, "coco17", (HEIGHT, WIDTH))
    Q = np.zeros((2, 12, 17))
    Q[0, :, 3], Q[1, :, 4] = 1, 1
    look = Look("three", np.zeros((3, 12, 17, 2)), Q, list(range(12)), "wave", "wave", "gcn1", "elementwise")
    focus = spread_focus(look, recording)
    assert (focus[0, :, 3] == 1).all() and (focus[2, :, 4] == 1).all() and np.isnan(focus[1]).all()


def test_what_is_no_pose_in_a_picture_says_so(tmp_path):
    np.save(tmp_path / "space.npy", np.random.default_rng(0).normal(size=(5, 25, 3)))
    with pytest.raises(ValueError, match="no poses in a picture|score"):
        read_in_image(tmp_path / "space.npy", (HEIGHT, WIDTH))
    with pytest.raises((FormatError, OSError)):
        read_in_image(tmp_path / "nothing.json", (HEIGHT, WIDTH))


def test_films_without_pyav_say_what_to_install(tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in ("av", "mediapipe"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.chdir(tmp_path)
    path = coco(tmp_path / "poses.json", people())
    assert main(["draw", str(path), "--film", "film.mp4", "-o", "out.mp4"]) == 1
    assert "pip install 'stf_repro[video]'" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["poses.json"]


def turn(path) -> None:
    "Note in an MP4 that its pictures are to be turned to the right by a quarter, as a phone does."
    matrix = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30], ">i4").tobytes()
    content = path.read_bytes()
    at = content.index(b"tkhd") + 44
    path.write_bytes(content[:at] + matrix + content[at + 36 :])


@pytest.mark.parametrize("turned", [False, True])
def test_poses_are_drawn_on_a_film(tmp_path, monkeypatch, capsys, turned):
    monkeypatch.chdir(tmp_path)
    points, film = people(), tmp_path / "film.mp4"
    write_film(film, pictures(points), 25)
    if turned:
        turn(film)
        x, y, score = np.moveaxis(points, -1, 0)
        points = np.stack([np.where(score > 0, HEIGHT - 1 - y, 0), x, score], -1)
    path = coco(tmp_path / "poses.json", points)
    assert main(["draw", str(path), "--film", "film.mp4", "-o", "out.mp4"]) == 0
    said = capsys.readouterr()
    assert "out.mp4: 12 frames, 2 bodies" in said.out and "--first" not in said.err
    before, after = list(read_frames(film)), list(read_frames("out.mp4"))
    assert after[0].shape == ((WIDTH, HEIGHT, 3) if turned else (HEIGHT, WIDTH, 3)) and open_film("out.mp4").rate == 25
    there = [(t, int(x), int(y)) for t in range(12) for x, y, score in points[:, t].reshape(-1, 3) if score]
    green = lambda frames: np.mean([frames[t][y, x, 1] > frames[t][y, x, ::2].max() + 60.0 for t, x, y in there])
    assert green(before) > 0.9 and green(after) < 0.1  # squares at the joints, covered; films are lossy


def test_a_film_is_whole_or_not_there(tmp_path):
    def broken():
        yield np.zeros((8, 8, 3), np.uint8)
        raise OSError("no more")

    (tmp_path / "out.mp4").write_text("the old one")
    with pytest.raises(OSError):
        write_film(tmp_path / "out.mp4", broken(), 25)
    with pytest.raises(ValueError, match="no frames"):
        write_film(tmp_path / "out.mp4", [], 25)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["the old one"]
    for name, reason in (("out.avi", "as .mp4"), ("film.mp4", "another name")):
        with pytest.raises(ValueError, match=reason):
            check_film(tmp_path / name, tmp_path / "film.mp4")


def test_a_network_in_metres_has_no_place_in_a_film(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_film("film.mp4", pictures(people()), 25)
    path = coco(tmp_path / "poses.json", people())
    assert main(["focus", str(path), "--film", "film.mp4", "-o", "out.mp4"]) == 1
    assert "has no place" in (said := capsys.readouterr().err) or "have no place" in said
    assert main(["draw", str(path), "--film", "film.mp4", "--size", "3x2"]) == 1
    assert "--size is not for a film" in capsys.readouterr().err


def test_the_focus_of_a_network_is_drawn_on_a_film(tmp_path, monkeypatch, capsys):
    "With a stand-in for the network and its focus: what is tested is the way from the film to the film."
    from stf_repro.commands import films
    from stf_repro.custom import inference

    monkeypatch.chdir(tmp_path)
    write_film("film.mp4", pictures(people()), 25)
    path = coco(tmp_path / "poses.json", people())
    Q = np.ones((2, 12, 17))
    seen = Look("two", np.ones((3, 12, 17, 2)), Q, list(range(12)), "wave", "wave", "gcn1", "elementwise")
    monkeypatch.setattr(inference, "open_network", lambda name: SimpleNamespace(layout=LAYOUTS["coco17"]))
    monkeypatch.setattr(inference, "look", lambda *args: seen)
    for name in ("seems_wrong", "is_left_out", "it_has_seen"):
        monkeypatch.setattr(films, f"say_what_{name}", lambda *args: None)
    assert main(["focus", str(path), "--film", "film.mp4", "-o", "out.mp4", "--class", "wave", "--first", "2"]) == 0
    said = capsys.readouterr()
    assert "12 frames, 2 bodies; focus by module gcn1" in said.out and "--first N" in said.err
    before, after = list(read_frames("film.mp4")), list(read_frames("out.mp4"))
    changed = [np.abs(a.astype(int) - b)[:100].max() > 60 for a, b in zip(before, after)]  # above the key
    assert changed == [False] * 2 + [True] * 10


def test_a_model_that_is_not_there_says_where_to_get_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_film("film.mp4", pictures(people()), 25)
    assert main(["pose", "film.mp4", "--model", "full.task"]) == 1
    assert "ai.google.dev" in capsys.readouterr().err and not (tmp_path / "poses.json").exists()
