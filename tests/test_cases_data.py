"Data as other people's tools, spreadsheets and habits leave them: cases from public bug reports, and their brothers."

import json
import pickle
import subprocess
import unicodedata

import numpy as np
import pytest
import yaml

from stf_repro.cli import main
from stf_repro.data.clip_store import ClipStore, benchmarks_of
from stf_repro.data.formats import FormatError, Recording
from stf_repro.data.sets.ntu import format_ntu
from stf_repro.custom.dataset import own_data, preprocess_own, read_own
from stf_repro.data.pickles import pyskl_annotations, read_array
from stf_repro.data.text import as_name, load_yaml, plain_name
from stf_repro.custom.poses import (
    KINECT_JOINTS,
    array_poses,
    image_poses,
    make_layout,
    mediapipe_poses,
    read_kinect,
    read_mediapipe,
    read_openpose,
    read_poses,
)
from stf_repro.custom.tables import frame_places
from stf_repro.evaluation.bundled import example_clip
from stf_repro.skeleton import LAYOUTS, Layout
from stf_repro.custom.project import new_project
from stf_repro.training.runs import ConfigError, read_params, resolve, trace

STICK = Layout(
    "stick",
    ("hip", "chest", "head", "left hand", "right hand", "foot"),
    ((0, 1), (2, 1), (3, 1), (4, 1), (5, 0)),
    root=1,
)
BODY = np.array([[0, 0, 0], [0, 0.5, 0], [0, 0.8, 0], [0.4, 0.4, 0], [-0.4, 0.4, 0], [0, -0.6, 0]])
SPIN = np.linspace(0.9, 1.1, 20)[:, None, None]


def stick(i: int = 0, T: int = 20) -> np.ndarray:  # (T, 6, 3)
    "A clip of the stick figure, each i a little different."
    joints = np.tile(BODY, (T, 1, 1)) + 0.01 * (i + 1)
    joints[:, 4, 1] += 0.3 * np.sin(np.arange(T) / 2 + i)
    return joints


@pytest.fixture(scope="module")
def kick() -> np.ndarray:  # (T, 25, 3)
    return example_clip().recording.bodies[0].astype(np.float64)


# 1, 27: shapes


@pytest.mark.parametrize("V,layout", [(25, "ntu25"), (17, "coco17"), (20, "kinect20")])
@pytest.mark.parametrize("C,M", [(3, 2), (3, 1), (2, 1), (2, 2)])
def test_an_array_in_the_order_of_the_field_says_how_to_turn_it(tmp_path, V, layout, C, M):
    "(C, T, V, M), alone, stacked, and in a file; after turning, it is read."
    array = np.random.default_rng(0).uniform(0.1, 0.9, (C, 12, V, M))
    array[..., 1:] = 0  # nobody second
    for given in (
        lambda: array_poses("a", array, layout),
        lambda: own_data(tmp_path / "own", [array] * 4, ["a", "b"] * 2, layout),
    ):
        with pytest.raises(ValueError, match=r"looks like \(C, T, V, M\).*transpose\(3, 1, 2, 0\)"):
            given()
    with pytest.raises(ValueError, match=r"looks like \(N, C, T, V, M\).*transpose\(0, 4, 2, 3, 1\)"):
        own_data(tmp_path / "own", np.stack([array] * 4), ["a", "b"] * 2, layout)
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(FormatError, match=r"a.npy.*\(C, T, V, M\)"):
        read_array(tmp_path / "a.npy", layout)
    turned = array_poses("a", array.transpose(3, 1, 2, 0), layout)
    assert turned.present.tolist() == [[True] * 12, [False] * 12][:M]


def test_what_msg3d_export_writes_is_not_three_bodies(tmp_path):
    "The files of `stf export X msg3d`, as they are."
    from stf_repro.data.exports import export_msg3d

    store = own_data(tmp_path / "sticks", [stick(i) for i in range(8)], ["a", "b"] * 4, STICK, split=2)
    export_msg3d(store, benchmarks_of(store)["sticks-1"], tmp_path / "out", 20, progress=False)
    joints = np.load(tmp_path / "out" / "train_data_joint.npy")
    with pytest.raises(ValueError, match=r"\(N, C, T, V, M\)"):
        own_data(tmp_path / "again", joints, ["a", "b"] * 2, STICK, split=2)
    assert len(own_data(tmp_path / "again", joints.transpose(0, 4, 2, 3, 1), ["a", "b"] * 2, STICK, split=2)) == 4


def test_frames_before_bodies_are_told():
    with pytest.raises(FormatError, match=r"30 bodies.*\(T, M, V, C\), frames first, array.swapaxes\(0, 1\)"):
        array_poses("a", np.ones((30, 2, 25, 3)), "ntu25")


def test_two_bodies_in_the_plane_are_read_as_such():
    r = array_poses("a", np.random.default_rng(0).uniform(0.1, 0.9, (2, 9, 15, 2)), "jhmdb15")
    assert r.bodies.shape == (2, 9, 15, 2) and r.present.all()


@pytest.mark.parametrize(
    "shape,hint",
    [
        ((30, 75), "75 = 25 x 3.*reshape(30, 25, 3)"),
        ((30, 50), "25 x 2.*reshape(30, 25, 2)"),
        ((30, 150), "2 x 25 x 3.*reshape(30, 2, 25, 3).swapaxes(0, 1)"),
        ((4, 30, 75), "reshape(4, 30, 25, 3)"),
    ],
)
def test_flat_arrays_are_told_their_axes(shape, hint):
    with pytest.raises(FormatError, match=hint.replace("(", r"\(").replace(")", r"\)")):
        array_poses("a", np.ones(shape), "ntu25")


# 2, 3, 19: tables


def columns(joints=KINECT_JOINTS, axes="XYZ") -> list[str]:
    return [f"{joint}_{axis}" for joint in joints for axis in axes]


def table(rows, head=None, mark=",") -> str:
    return "\n".join(mark.join(map(str, row)) for row in ([head] if head else []) + [list(row) for row in rows])


@pytest.mark.parametrize("first,index", [(0, None), (1, None), (0, ""), (0, "Unnamed: 0"), (0, "index")])
def test_a_header_that_counts_is_no_frame(tmp_path, kick, first, index):
    "As pandas writes an array, with and without its numbers of rows."
    flat = kick.reshape(len(kick), -1)
    rows = flat if index is None else [[t, *row] for t, row in enumerate(flat)]
    head = [*range(first, flat.shape[1] + first)]
    (tmp_path / "k.csv").write_text(table(rows, head if index is None else [index, *head]))
    np.testing.assert_allclose(read_kinect(tmp_path / "k.csv").bodies[0], kick, atol=1e-6)


def test_a_first_column_that_counts_is_no_coordinate(tmp_path, kick):
    (tmp_path / "k.csv").write_text(table([[t, *row] for t, row in enumerate(kick.reshape(len(kick), -1))]))
    np.testing.assert_allclose(read_kinect(tmp_path / "k.csv").bodies[0], kick, atol=1e-6)


@pytest.mark.parametrize("V,C,layout", [(33, 3, "mediapipe33"), (33, 4, "mediapipe33"), (25, 4, "ntu25")])
def test_a_counting_header_of_any_width_is_no_frame(tmp_path, V, C, layout):
    values = np.random.default_rng(0).uniform(-0.9, 0.9, (5, V, C))
    (tmp_path / "k.csv").write_text(table(values.reshape(5, -1), range(V * C)))
    assert read_poses(tmp_path / "k.csv", layout)[0].bodies.shape == (1, 5, V, 3)


def long_rows(bodies: np.ndarray, numbers) -> list[list]:
    "frame, body, joint, x, y, z."
    return [
        [n, f"id {m}", name, *bodies[m, t, v]]
        for t, n in enumerate(numbers)
        for m in range(len(bodies))
        for v, name in enumerate(KINECT_JOINTS)
    ]


@pytest.fixture
def pair(kick) -> np.ndarray:  # (2, 6, 25, 3)
    return np.stack([kick[:6], kick[:6] + [1, 0, 0]]).round(5)


def test_a_second_body_in_a_long_table_is_a_body(tmp_path, pair):
    (tmp_path / "k.csv").write_text(table(long_rows(pair, range(6)), ["frame", "TrackingId", "joint", "x", "y", "z"]))
    np.testing.assert_allclose(read_kinect(tmp_path / "k.csv").bodies, pair, atol=1e-6)
    (tmp_path / "k.csv").write_text(table(long_rows(pair, range(6)), ["frame", "what", "joint", "x", "y", "z"]))
    with pytest.raises(
        FormatError, match="line 27: the same frame, body and joint as in line 2; several bodies need a column `body`"
    ):
        read_kinect(tmp_path / "k.csv")


@pytest.mark.parametrize("moment", ["frame", "time"])
def test_a_second_body_in_a_wide_table_is_a_body(tmp_path, pair, moment):
    rows = [
        [t / (1 if moment == "frame" else 30), m, *pair[m, t].ravel()]
        for t in range(6)
        for m in range(2)
        if (m, t) != (1, 3)
    ]
    rows.append([7, "", *[""] * 75])  # nobody is seen
    (tmp_path / "k.csv").write_text(table(rows, [moment, "person_id", *columns()]))
    r = read_kinect(tmp_path / "k.csv")
    gap = [False] * (1 + (moment == "frame"))
    assert r.present.tolist() == [[True] * 6 + gap, [True] * 3 + [False] + [True] * 2 + gap]
    np.testing.assert_allclose(r.bodies[0, :6], pair[0], atol=1e-6)
    for head, said in (
        ([moment, "what"], "the same frame and body as in line 2"),
        (["what", "person_id"], "no column `frame` or `time`"),
    ):
        (tmp_path / "k.csv").write_text(table(rows, [*head, *columns()]))
        with pytest.raises(FormatError, match=said):
            read_kinect(tmp_path / "k.csv")


@pytest.mark.parametrize(
    "numbers,present",
    [
        ([1, 2, 5], [1, 1, 0, 0, 1]),
        ([10, 9, 11], [1, 1, 1]),
        ([0, 3, 12, 6, 15], [1, 1, 1, 0, 1, 1]),
        ([1, 3, 7], [1, 0, 1, 0, 0, 0, 1]),
        ([7], [1]),
    ],
)
@pytest.mark.parametrize("wide", [True, False])
def test_numbers_of_frames_are_their_places(tmp_path, kick, numbers, present, wide):
    "Gaps, any order, numbers that sort otherwise as text, and a step."
    order = np.argsort(numbers)
    rows, head = (
        ([[n, *kick[t].ravel()] for t, n in enumerate(numbers)], ["Frame", *columns()])
        if wide
        else (long_rows(kick[None], numbers), ["frame", "body", "joint", "x", "y", "z"])
    )
    (tmp_path / "k.csv").write_text(table(rows, head))
    r = read_kinect(tmp_path / "k.csv")
    assert r.present[0].tolist() == list(map(bool, present))
    np.testing.assert_allclose(r.bodies[0][r.present[0]], kick[order], atol=1e-6)


def test_times_are_put_in_order(tmp_path, kick):
    (tmp_path / "k.csv").write_text(
        table([[t, *kick[i].ravel()] for i, t in enumerate((9.5, 10.25, 1e-3))], ["time", *columns()])
    )
    np.testing.assert_allclose(read_kinect(tmp_path / "k.csv").bodies[0], kick[[2, 0, 1]], atol=1e-6)


@pytest.mark.parametrize("text", [
    lambda rows: table(rows, columns(), ";").replace(".", ","),
    lambda rows: "sep=;\n" + table(rows, columns(), ";"),
    lambda rows: table(rows, None, ";").replace(".", ","),
    lambda rows: table(rows, columns(), "\t"),
    lambda rows: table(rows, None, " "),
    lambda rows: "# recorded at home\n" + table(rows),
    lambda rows: table([[*row, ""] for row in rows]),
])  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_tables_are_read_as_spreadsheets_save_them(tmp_path, kick, text, encoding):
    (tmp_path / "k.csv").write_bytes(text(kick[:5].reshape(5, -1)).encode(encoding))
    np.testing.assert_allclose(read_kinect(tmp_path / "k.csv").bodies[0], kick[:5], atol=1e-6)


@pytest.mark.parametrize("word", ["", "NaN", "NA", "null", "None", "#N/A"])
def test_a_word_for_nothing_is_a_joint_that_was_not_seen(tmp_path, kick, word):
    rows = kick[:3].reshape(3, -1).tolist()
    rows[0][:3] = [word] * 3  # also in a first row without names above it
    (tmp_path / "k.csv").write_text(table(rows))
    assert (read_kinect(tmp_path / "k.csv").bodies[0] != 0).any(-1).sum(1).tolist() == [24, 25, 25]


def test_a_table_that_contradicts_itself_is_named(tmp_path, kick):
    head, row = columns(), kick[0].ravel().tolist()
    for text, said in (
        (table([[*row, 1]], [*head, "SpineBase_X"]), "'SpineBase_X' is there twice"),
        (
            table([[*row, 1]], [*head, "SpineBase_X.1"]),
            "'SpineBase_X.1' is there twice",
        ),  # as pandas calls the second of two
        (table([[0.5, *row]], ["frame", *head]), "the frame is '0.5'; expected a whole number"),
        (table([], head), "without rows of numbers"),
        (
            table([[0, v, 1, 2, 3] for v in range(1, 25)], ["frame", "joint", "x", "y", "z"]),
            "numbered from 1 to 24; expected 0 to 24 or 1 to 25",
        ),
        ("PK\0\0", "holds zero bytes"),
        (table([[0, *row], [10**7, *row]], ["frame", *head]), "expected those of one recording"),
    ):
        (tmp_path / "k.csv").write_text(text)
        with pytest.raises(FormatError, match=said):
            read_kinect(tmp_path / "k.csv")


def test_places_of_frames():
    assert (
        frame_places("a", [5]) == ({5: 0}, 1)
        and frame_places("a", [4, 8]) == ({4: 0, 8: 4}, 5)
        and frame_places("a", [4, 8, 16])[1] == 13
        and frame_places("a", [4, 8, 12, 20, 24]) == ({4: 0, 8: 1, 12: 2, 20: 4, 24: 5}, 6)
    )


def test_limits_belong_to_a_format(tmp_path, kick, monkeypatch):
    "With the limits of data sets at a kilobyte, a table, a JSON and a .skeleton of one's own are read as before."
    from stf_repro.data import formats

    monkeypatch.setattr(formats.read_bytes, "__defaults__", (1000,))
    (tmp_path / "k.csv").write_text(table(kick.reshape(len(kick), -1)))
    (tmp_path / "k.json").write_text(json.dumps(kick.tolist()))
    (tmp_path / "k.skeleton").write_text(
        format_ntu(Recording("k", kick[None].astype(np.float32), np.ones((1, len(kick)), bool), LAYOUTS["ntu25"]))
    )
    for name in ("k.csv", "k.json", "k.skeleton"):
        np.testing.assert_allclose(read_poses(tmp_path / name, "ntu25")[0].bodies[0], kick, atol=1e-6)
    with pytest.raises(FormatError, match="no recording"):
        formats.read_bytes(tmp_path / "k.csv")


# columns that are called otherwise


FRAMES = (
    "frame_idx",
    "Frame_Nr",
    "frm",
    "image",
    "t",
    "timestep",
    "Time (s)",
    "idx",
    "n",
    "sec",
    "ms",
    "step",
    "index",
    "timestamp_us",
    "cnt",
)


@pytest.mark.parametrize("name", FRAMES)
def test_frames_go_by_many_names(tmp_path, pair, name):
    "Shuffled, and with two rows a time."
    rows = [[t, f"id {m}", *pair[m, t].ravel()] for t in (3, 0, 5, 1, 4, 2) for m in range(2)]
    (tmp_path / "k.csv").write_text(table(rows, [name, "who", *columns()]))
    np.testing.assert_allclose(read_kinect(tmp_path / "k.csv").bodies, pair, atol=1e-6)
    (tmp_path / "k.csv").write_text(table([[t, *row] for t, _, *row in rows[::2]], [name, *columns()]))
    np.testing.assert_allclose(read_kinect(tmp_path / "k.csv").bodies, pair[:1], atol=1e-6)


def test_names_of_images_are_numbers_of_frames(tmp_path, kick):
    (tmp_path / "k.csv").write_text(
        table([[f"a/f{t}.jpg", *kick[t].ravel()] for t in (10, 9, 12)], ["image", *columns()])
    )
    r = read_kinect(tmp_path / "k.csv")
    assert r.present[0].tolist() == [True, True, False, True]
    np.testing.assert_allclose(r.bodies[0, 0], kick[9], atol=1e-6)


def test_columns_that_say_nothing_are_named(tmp_path, kick, recwarn):
    write = lambda name, values: (tmp_path / "k.csv").write_text(
        table([[value, *kick[t].ravel()] for t, value in enumerate(values)], [name, *columns()])
    )
    for name, values in (("tick", [2, 0, 1]), ("who knows", [0, 0, 1])):
        write(name, values)
        with pytest.raises(
            FormatError,
            match=f"the column '{name}' holds whole numbers that repeat or fall; .* call it frame or body, else drop it",
        ):
            read_kinect(tmp_path / "k.csv")
    for name, values in (
        ("label", [1, 1, 1]),
        ("tick", [0, 1, 5]),
        ("SpineBase_State", [2, 1, 2]),
        ("x25", [3, 1, 2]),
        ("speed", [0.5, 0.2, 0.1]),
    ):
        write(name, values)
        with pytest.warns(UserWarning, match=f"left aside {name}, which is no coordinate"):
            np.testing.assert_allclose(read_kinect(tmp_path / "k.csv").bodies[0], kick[:3], atol=1e-6)
    recwarn.clear()
    for name, values in (
        ("", [0, 1, 2]),
        ("Unnamed: 0", [0, 1, 2]),
        ("index", [0, 1, 2]),
        ("elapsed", [0.1, 0.2, 0.3]),
    ):
        write(name, values)
        np.testing.assert_allclose(read_kinect(tmp_path / "k.csv").bodies[0], kick[:3], atol=1e-6)
    assert not recwarn.list


@pytest.mark.parametrize("word", ["prob", "scores", "confidence", "likelihood"])
def test_scores_go_by_many_names(tmp_path, word):
    joints = LAYOUTS["coco17"].joints
    head = [f"{joint.replace(' ', '_')}_{axis}" for joint in joints for axis in ("x", "y", word)]
    (tmp_path / "k.csv").write_text(table([[0.2, 0.4, 0.6] * 17] * 3, head))
    assert read_poses(tmp_path / "k.csv", "coco17")[0].confidence == pytest.approx(0.6)


def test_a_comma_in_a_label_stays(tmp_path):
    for name in ("a", "b", "1,5"):
        np.save(tmp_path / f"{name}.npy", stick())
    (tmp_path / "labels.csv").write_text("file;label;subject\na.npy;1,5;1,20\nb.npy;1.5;1.20\n1,5.npy;2;1,20\n")
    own = read_own(tmp_path, STICK)
    assert own.labels == ["1,5", "1.5", "2"] and own.attributes == {"subject": ["1,20", "1.20", "1,20"]}


# 4, 18: MediaPipe


@pytest.fixture
def world() -> np.ndarray:  # (5, 33, 4)
    return np.random.default_rng(1).uniform([-0.9, -0.9, -0.9, 0.1], 0.9, (5, 33, 4)).round(4)


@pytest.fixture
def picture() -> np.ndarray:  # (5, 33, 4)
    return np.random.default_rng(2).uniform([0.1, 0.1, -0.5, 0.1], [0.9, 0.9, 0.5, 1], (5, 33, 4)).round(4)


def points(values) -> list:
    return [[dict(zip(("x", "y", "z", "visibility"), point)) for point in frame] for frame in values.tolist()]


@pytest.mark.parametrize(
    "a,b",
    [
        ("pose_world_landmarks", "pose_landmarks"),
        ("poseWorldLandmarks", "poseLandmarks"),
        ("worldLandmarks", "landmarks"),
    ],
)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda frame: frame,
        lambda frame: [frame],
        lambda frame: {"landmark": frame},
        lambda frame: [{"landmarks": frame}],
    ],
)
def test_world_landmarks_are_preferred_in_every_spelling(tmp_path, world, picture, a, b, wrap):
    (tmp_path / "a.json").write_text(
        json.dumps([{b: wrap(p), a: wrap(w)} for w, p in zip(points(world), points(picture))])
    )
    np.testing.assert_allclose(
        read_poses(tmp_path / "a.json", "mediapipe33")[0].bodies[0], world[..., :3] * [-1, -1, 1], atol=1e-6
    )
    (image,) = read_poses(tmp_path / "a.json", "mediapipe33-image")
    assert image.layout.name == "mediapipe33-image"
    np.testing.assert_allclose(image.bodies[0], picture[..., :2], atol=1e-6)
    np.testing.assert_allclose(image.confidence[0], picture[..., 3], atol=1e-6)


def test_several_people_and_missing_frames_of_mediapipe(tmp_path, world):
    one, two = points(world)[:2]
    (tmp_path / "a.json").write_text(
        json.dumps(
            [
                {"frame": 3, "worldLandmarks": [one, two]},
                {"frame": 5, "worldLandmarks": [two]},
                {"frame": 6, "worldLandmarks": []},
            ]
        )
    )
    assert read_mediapipe(tmp_path / "a.json").present.tolist() == [
        [True, False, True, False],
        [True, False, False, False],
    ]


def test_one_key_is_read_in_all_frames(tmp_path, world, picture):
    frames = [{"landmarks": p, "worldLandmarks": w} for w, p in zip(points(world), points(picture))]
    del frames[2]["worldLandmarks"], frames[4]["worldLandmarks"]
    (tmp_path / "a.json").write_text(json.dumps(frames))
    r = read_mediapipe(tmp_path / "a.json")
    assert r.present.tolist() == [[True, True, False, True, False]]
    np.testing.assert_allclose(r.bodies[0, 3], world[3, :, :3] * [-1, -1, 1], atol=1e-6)


def test_landmarks_and_frames_are_put_in_order(tmp_path, world):
    frames = [
        {"timestamp": t / 30, "worldLandmarks": [point | {"id": v} for v, point in enumerate(frame)][::-1]}
        for t, frame in enumerate(points(world))
    ]
    write = lambda content: (tmp_path / "a.json").write_text(json.dumps(content))
    write([frames[t] for t in (3, 0, 4, 1, 2)])
    np.testing.assert_allclose(read_mediapipe(tmp_path / "a.json").bodies[0], world[..., :3] * [-1, -1, 1], atol=1e-6)
    for content, said in (
        ([frames[0], frames[0]], "a time is there twice"),
        ([frames[1], frames[0], None], "not in the order of their times or numbers, and some have none"),
        (
            [frames[0] | {"worldLandmarks": [point | {"id": 0} for point in frames[0]["worldLandmarks"]]}],
            "landmarks carry the numbers 0, 0, 0",
        ),
    ):
        write(content)
        with pytest.raises(FormatError, match=said):
            read_mediapipe(tmp_path / "a.json")


def test_the_hips_tell_metres_from_an_image(world, picture):
    low = picture.copy()
    low[:, 25:, 1] += 0.9  # the legs are outside of the picture
    one = world.copy()
    one[3] = picture[3]
    for landmarks in (low, one):
        with pytest.raises(FormatError, match="as landmarks in an image do"):
            mediapipe_poses("a", landmarks)
    around = world.copy()
    around[:, [23, 24], :2] = [[-0.1, 0.01], [0.1, -0.01]]
    assert mediapipe_poses("a", around).present.all()
    with pytest.raises(FormatError, match="the middle of the hips is at 0 in every frame, as in world landmarks"):
        mediapipe_poses("a", around, image=True)


def test_landmarks_of_an_image_are_not_taken_for_metres(tmp_path, picture):
    np.save(tmp_path / "a.npy", picture)
    (tmp_path / "a.csv").write_text(table(picture.reshape(5, -1)))
    (tmp_path / "a.json").write_text(json.dumps({"frames": [{"landmarks": frame} for frame in points(picture)]}))
    (tmp_path / "b.json").write_text(json.dumps([{"pose_landmarks": frame} for frame in points(picture)]))
    for name in ("a.npy", "a.csv", "a.json"):
        with pytest.raises(FormatError, match="as landmarks in an image do.*'mediapipe33-image'"):
            read_poses(tmp_path / name, "mediapipe33")
        (image,) = read_poses(tmp_path / name, "mediapipe33-image")
        np.testing.assert_allclose(image.bodies[0], picture[..., :2], atol=1e-6)
    with pytest.raises(FormatError, match="none under pose_world_landmarks"):
        read_poses(tmp_path / "b.json", "mediapipe33")
    with pytest.raises(FormatError, match="2 numbers per joint"):
        array_poses("a", picture[..., :2], "mediapipe33")
    pixels = mediapipe_poses("a", picture * [640, 480, 640, 1], True, (480, 640))
    np.testing.assert_allclose(pixels.bodies[0], picture[..., :2], atol=1e-6)
    np.testing.assert_allclose(mediapipe_poses("a", picture[..., :3], True).confidence, 1)  # z is no visibility


def test_a_project_of_landmarks_in_an_image(tmp_path, picture):
    folder = new_project(tmp_path / "gym", "mediapipe33-image", 8)
    for i in range(8):
        (folder / "raw" / "gym" / "ab"[i % 2]).mkdir(exist_ok=True)
        np.save(folder / "raw" / "gym" / "ab"[i % 2] / f"{i}.npy", picture * (1 - i / 100))
    with pytest.warns(UserWarning):  # noise is no body
        store = preprocess_own("gym", {"layout": "mediapipe33-image", "split": 2}, folder)
    assert store.confidence and store.layout == LAYOUTS["mediapipe33-image"]


# 5, 22: scores and sizes of images


@pytest.mark.parametrize("third", [-0.4, 1.5, 7.0, 97.0, np.nan])
def test_a_third_number_that_is_no_score_is_named(third):
    keypoints = np.full((4, 17, 3), 0.5)
    keypoints[1, 3, 2] = third
    for read in (image_poses, array_poses):
        with pytest.raises(FormatError, match="a score from 0 to 1|NaN"):
            read("a", keypoints, "coco17")


def test_a_score_a_little_above_one_is_one():
    keypoints = np.full((4, 17, 3), 0.5)
    keypoints[..., 2] = 1.04
    assert (image_poses("a", keypoints, "coco17").confidence == 1).all()


def test_a_joint_at_minus_one_or_behind_a_mask_was_not_seen():
    keypoints = np.full((4, 17, 3), 0.5)
    keypoints[0, 3] = -1, -1, -1
    keypoints[1, 3, :2] = -1
    for r in (
        image_poses("a", keypoints, "coco17"),
        array_poses("a", keypoints[1:, :, :2], "coco17"),
        array_poses("a", keypoints[1:, :15, :2], "jhmdb15"),
    ):
        assert not r.bodies[0, 0, 3].any() and r.bodies[0, 0, 4].any()
    masked = np.ma.masked_array(np.full((4, 17, 3), 0.5), keypoints == -1)
    for r in (image_poses("a", masked, "coco17"), array_poses("a", masked, "coco17")):
        assert not r.bodies[0, :2, 3].any() and r.confidence[0, :2, 3].tolist() == [0, 0] and r.bodies[0, :, 4].all()
    hidden = np.ma.masked_greater(stick(), 0.75)  # heads
    assert not array_poses("a", hidden, STICK).bodies[0, :, 2].any()


@pytest.mark.parametrize(
    "shape",
    [(480, 640, 3), [640], ["480", "640"], (-480, 640), (480.5, 640), (0, 640), (True, 640), "480x640", 640, {}],
)
def test_a_size_that_is_none_is_one_sentence(tmp_path, shape):
    pixels = np.full((4, 17, 3), 0.5)
    for read in (
        lambda: image_poses("a", pixels, "coco17", shape),
        lambda: own_data(tmp_path / "own", [pixels] * 4, ["a", "b"] * 2, "coco17", image_shape=shape),
    ):
        with pytest.raises(ValueError, match="image_shape is .*; expected height and width in pixels"):
            read()


def test_height_and_width_the_wrong_way_round():
    pixels = np.random.default_rng(0).uniform([0, 0], [1900, 1000], (9, 17, 2))
    assert array_poses("a", pixels, "coco17", (1080, 1920)).bodies.max() < 1
    with pytest.raises(
        FormatError, match=r"the image is said to be 1080 wide; image_shape is height, then width: is it \(1080, 1920\)"
    ):
        array_poses("a", pixels, "coco17", (1920, 1080))
    array_poses("a", pixels + [300, 0], "coco17", (1080, 1920))  # a little outside


def test_a_layout_of_your_own_in_pixels(tmp_path):
    "With the size of the image its joints are poses in an image; a layout in metres says that it does not use it."
    pixels = np.concatenate([320 + 100 * stick()[..., :2], np.full((20, 6, 1), 0.7)], -1)
    r = array_poses("a", pixels, STICK, (480, 640))
    assert r.confidence[0, 0, 0] == np.float32(0.7)
    np.testing.assert_allclose(r.bodies[0], pixels[..., :2] / [640, 480], atol=1e-6)
    clips = [example_clip().recording.bodies[0]] * 4
    with pytest.warns(UserWarning, match="image_shape is not used"):
        own_data(tmp_path / "own", clips, ["a", "b"] * 2, "ntu25", image_shape=(480, 640), split=2)


# 10: pyskl's numbered splits


@pytest.mark.parametrize("split,parts", [
    ({"train1": ["a"], "test1": ["b"], "train2": ["b"], "test2": ["a"]}, {"split1": (0, 1), "split2": (1, 0)}),
    ({"train_1": ["a"], "val_1": ["b"]}, {"split1": (0, 1)}),
    ({"train": ["a"], "test": ["b"]}, {"split": (0, 1)}),
    ({"train_split1": ["a"], "test_split1": ["b"], "train_split2": ["b"]}, {"split1": (0, 1), "split2": (-1, 0)}),
    ({"Train1": ["a"], "Test1": ["b"]}, {"split1": (0, 1)}),
    ({"1train": ["a"], "1test": ["b"]}, {"split1": (0, 1)}),
    ({"training": ["a"], "validation": ["b"]}, {"split": (0, 1)}),
    ({"train_interval": ["a"], "xsubTest": ["b"]}, {"interval": (0, -1), "xsub": (-1, 1)}),
    ({"xset_trainval": ["a"], "xset_test": ["b"]}, {"xset": (0, 1)}),
    ({"xsub_train": ["a"], "xsub_val": ["b"], "xview_train2": ["b"], "xview_test2": ["a"]}, {"xsub": (0, 1), "xview2": (1, 0)}),
])  # fmt: skip
def test_numbered_splits_are_protocols(tmp_path, split, parts):
    entries = [{"frame_dir": name, "label": 0, "keypoint": np.ones((1, 3, 25, 3), np.float32)} for name in "ab"]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"split": split, "annotations": entries}))
    _, found = pyskl_annotations(tmp_path / "a.pkl")
    assert {key: (found["a"][key], found["b"][key]) for key in found["a"]} == parts
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"split": {"train1": ["a"], "test1": ["a"]}, "annotations": entries}))
    with pytest.raises(FormatError, match="both in the training and in the test part of 'split1'"):
        pyskl_annotations(tmp_path / "a.pkl")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"split": {"fold1": ["a"]}, "annotations": entries}))
    with pytest.raises(FormatError, match="the list 'fold1' in `split` says neither train nor val nor test"):
        pyskl_annotations(tmp_path / "a.pkl")


# 14, 15: names


def test_words_of_yaml_stay_words():
    text = "[yes, No, on, 010, 08, 12:30, 2024-01-02, 1_000, 0x10]"
    assert load_yaml(text) == text.strip("[]").split(", ")
    assert load_yaml("[1, -2, 0.5, 1e-3, true, null, ~]") == [1, -2, 0.5, 0.001, True, None, None]
    assert load_yaml("a: &x {b: 1}\nc: {<<: *x, d: 2}") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}
    with pytest.raises(yaml.YAMLError, match="'a' is there more than once"):
        load_yaml("{a: 1, a: 2}")


@pytest.mark.parametrize(
    "classes,names", [("[yes, no]", ("yes", "no")), ("[1, 2]", ("1", "2")), ("[off, 010]", ("off", "010"))]
)
def test_classes_of_params_are_names(tmp_path, classes, names):
    folder = tmp_path / "raw" / "sticks"
    for i in range(8):
        (folder / names[i % 2]).mkdir(parents=True, exist_ok=True)
        np.save(folder / names[i % 2] / f"{i}.npy", stick(i))
    (tmp_path / "stick.yaml").write_text(
        yaml.safe_dump({"joints": list(STICK.joints), "bones": [list(b) for b in STICK.bones], "root": 1})
    )
    store = preprocess_own("sticks", load_yaml(f"{{layout: stick.yaml, split: 2, classes: {classes}}}"), tmp_path)
    assert benchmarks_of(store)["sticks-1"].classes == names


@pytest.mark.parametrize("given,said", [
    ({"classes": [True, False]}, "a class is True; expected text: write it in quotes"),
    ({"classes": ["a", None]}, "a class is None"),
    ({"classes": ["a", "a "]}, "expected different names"),
    ({"classes": "ab"}, "expected a list of names"),
    ({"split": {"subject": [True]}}, "a value of 'subject' is True"),
    ({"split": {"subject": None}}, "the split by 'subject' is None; expected a list"),
    ({"split": ["clip-0000", 3]}, "the split names '3', and no clip has that name"),
    ({"split": [["clip-0000"]]}, "a clip of the split is"),
    ({"labels": ["a", " "] * 4}, "labels: that of clip 1 is empty"),
    ({"labels": np.ma.masked_equal([0, 1] * 4, 1)}, "labels: the value of clip 1 is masked"),
    ({"names": ["a", "b"] * 4}, "2 different names for 8 clips"),
    ({"names": 3}, "3 different names|1 different names"),
    ({"attributes": {1: ["p", "q"] * 4}}, "expected a dictionary by name"),
    ({"seed": [1]}, "seed is .1.; expected a whole number"),
    ({"layout": {"joints": 3}}, "no layout"),
])  # fmt: skip
def test_names_that_cannot_be_meant_are_one_sentence(tmp_path, given, said):
    with pytest.raises(ValueError, match=said) as error:
        own_data(
            **{
                "folder": tmp_path / "own",
                "clips": [stick(i) for i in range(8)],
                "labels": ["a", "b"] * 4,
                "layout": STICK,
                "attributes": {"subject": ["1", "2"] * 4},
                "split": 2,
            }
            | given
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values,wanted",
    [
        (["001", "002"] * 4, "002"),
        (["001", "002"] * 4, 2),
        ([1, 2] * 4, "2"),
        ([7, 10] * 4, 10),
        (["no", "yes"] * 4, "yes"),
        (["Rene\u0301", "ben"] * 4, "Ren\u00e9"),
    ],
)
def test_a_split_finds_its_people(tmp_path, values, wanted):
    clips = {f"{i}": stick(i) for i in range(8)}
    store = own_data(
        tmp_path / "own", clips, ["a", "a", "b", "b"] * 2, STICK, {"subject": values}, {"subject": [wanted]}
    )
    (b,) = benchmarks_of(store).values()
    position = 0 if "Ren" in str(wanted) else 1
    assert b.indices(store, "test").tolist() == list(range(position, 8, 2))


@pytest.mark.parametrize(
    "folders",
    [("1", "2", "3"), ("0", "1", "2"), ("2", "9", "10"), ("01", "02", "03"), ("0", "2"), ("0", "9", "10"), ("-1", "1")],
)
def test_folders_called_by_numbers_are_classes(tmp_path, folders):
    for i, name in enumerate(folders * 3):
        (tmp_path / "raw" / name).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "raw" / name / f"{i}.npy", stick(i))
    own = read_own(tmp_path / "raw", STICK)
    store = own_data(tmp_path / "own", own.clips, own.labels, STICK, own.attributes, split=2)
    assert benchmarks_of(store)["own-1"].classes == folders


def test_labels_that_look_alike_are_one_class(tmp_path):
    apart = unicodedata.normalize("NFD", "caf\u00e9")
    labels = ["wave", "wave ", " caf\u00e9", apart] * 2
    store = own_data(tmp_path / "own", [stick(i) for i in range(8)], labels, STICK, split=2)
    assert (
        benchmarks_of(store)["own-1"].classes == ("caf\u00e9", "wave")
        and plain_name(apart) == "caf\u00e9"
        and as_name("a", 7) == "7"
    )
    with pytest.warns(UserWarning, match="'Wave' and 'wave' differ in capitals only"):
        own_data(tmp_path / "own", [stick(i) for i in range(8)], ["wave", "Wave", "bow", "bow"] * 2, STICK, split=2)


def test_keys_of_params_are_text(tmp_path):
    params = {"profile": "p", "sources": {"synth60": {}}, "runs": {}}
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(params).replace("runs: {}", "runs: {7: {group: g, source: synth60}, no: {group: g}}")
    )
    assert list(read_params(tmp_path / "params.yaml")["runs"]) == ["7", "no"]
    (tmp_path / "params.yaml").write_text("{profile: p, sources: {true: {}}, runs: {a: {}}}")
    with pytest.raises(ConfigError, match="the key of an entry is True; expected text"):
        read_params(tmp_path / "params.yaml")


def test_numbers_of_a_layout_file_are_not_octal(tmp_path):
    (tmp_path / "l.yaml").write_text("joints: [hip, no, 010]\nbones: [[hip, no], [no, 010]]\nroot: no\n")
    assert read_poses.__globals__["read_layout_file"](tmp_path / "l.yaml").joints == ("hip", "no", "010")


# 16, 17: files whose names collide, and labels.csv


def frame_of(people: list[np.ndarray]) -> str:
    return json.dumps({"version": 1.3, "people": [{"pose_keypoints_2d": np.ravel(p).tolist()} for p in people]})


def openpose(folder, name: str, frames=(0, 1, 2), V: int = 25):
    folder.mkdir(parents=True, exist_ok=True)
    for t in frames:
        (folder / name.format(t)).write_text(frame_of([np.full((V, 3), 0.5)]))
    return folder


def test_folders_with_dots_are_two_clips(tmp_path):
    for label in ("wave", "bow"):
        for name in ("P01.cam0", "P01.cam1", "2024.01.02"):
            openpose(tmp_path / label / f"{name}", "video_{:012d}_keypoints.json")
    assert sorted(r.name for r in read_own(tmp_path, "body25").clips if "wave" in r.name) == [
        "wave/2024.01.02",
        "wave/P01.cam0",
        "wave/P01.cam1",
    ]


def test_files_of_one_stem_keep_their_endings(tmp_path):
    (tmp_path / "wave").mkdir()
    np.save(tmp_path / "wave" / "a.npy", stick())
    (tmp_path / "wave" / "a.json").write_text(json.dumps(stick(1).tolist()))
    np.save(tmp_path / "wave" / "b.c.npy", stick(2))
    assert [r.name for r in read_own(tmp_path, STICK).clips] == ["wave/a.json", "wave/a.npy", "wave/b.c"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("mark,head", [(";", "File;Label"), ("\t", "file\tLABEL"), (",", "file , label")])
def test_labels_are_read_as_spreadsheets_save_them(tmp_path, encoding, mark, head, recwarn):
    for name in ("caf\u00e9", "b"):
        np.save(tmp_path / f"{unicodedata.normalize('NFD', name)}.npy", stick())
    text = "\r\n".join([head, mark.join(["caf\u00e9.npy", "h\u00f6ren"]), mark.join(["b.npy", "wave "]), mark, ""])
    (tmp_path / "Labels.csv").write_bytes(text.encode(encoding))
    own = read_own(tmp_path, STICK)
    assert own.labels == ["h\u00f6ren", "wave"] and own.clips[0].name == "caf\u00e9"
    assert [str(w.message).count("Windows") for w in recwarn.list] == [1] * (encoding == "cp1252")


def test_paths_of_labels_are_found_or_named(tmp_path):
    (tmp_path / "wave").mkdir()
    np.save(tmp_path / "wave" / "a.npy", stick())
    for text, said in (
        ("file,label\nwave\\a.npy,wave\n./wave/a.npy,bow\n", "line 3: wave/a.npy is listed twice"),
        ("file,label\nwave/a,wave\n", "wave/a is not there; did you mean wave/a.npy"),
        ("file,label\n/etc/passwd,wave\n", "/etc/passwd is not there"),
        ("file,label\n,wave\n", "a cell is missing: no file"),
        ("file,label\nwave/a.npy\n", "a cell is missing: no label"),
        ("file,label\nwave/a.npy,wave,more\n", "3 cells, and 2 in the first row"),
        ("file,label,\nwave/a.npy,wave,more\n", "a column has no name"),
        ("file,label,label\nwave/a.npy,wave,more\n", "a column has no name of its own"),
        ("\n", "columns file and label"),
    ):
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(FormatError, match=said.replace("\\", "/")):
            read_own(tmp_path, STICK)
    (tmp_path / "labels.csv").write_text('file,label\nwave\\a.npy,"a, b"\n')
    assert read_own(tmp_path, STICK).labels == ["a, b"]


def test_frames_of_openpose_go_by_any_name_with_a_number(tmp_path):
    "Pose2Sim's, a single one without a number, and what only looks like one."
    assert read_openpose(openpose(tmp_path / "cam01", "cam01.{:04d}.json", (31, 32, 34), 26)).present[0].tolist() == [
        True,
        True,
        False,
        True,
    ]
    assert read_openpose(openpose(tmp_path / "one", "squat_keypoints.json", (0,))).bodies.shape == (1, 1, 25, 2)
    with pytest.raises(FormatError, match="are both frame 1"):
        read_openpose(openpose(openpose(tmp_path / "two", "a_{}_keypoints.json"), "b_{}_keypoints.json", (1,)))
    openpose(tmp_path / "bare", "a_keypoints.json", (0,))
    with pytest.raises(FormatError, match="a_keypoints.json has no number"):
        read_openpose(openpose(tmp_path / "bare", "b_keypoints.json", (0,)))
    with pytest.raises(FormatError, match="one frame of OpenPose; give the folder"):
        read_poses(tmp_path / "one" / "squat_keypoints.json", "body25")
    (tmp_path / "own" / "squat").mkdir(parents=True)
    (tmp_path / "own" / "squat" / "squat_keypoints.json").write_text(json.dumps(stick().tolist()))
    assert [r.name for r in read_own(tmp_path / "own", STICK).clips] == ["squat/squat_keypoints"]
    openpose(tmp_path / "halpe" / "squat" / "clip", "f{:02d}.json", V=26)
    assert [r.name for r in read_own(tmp_path / "halpe", "halpe26").clips] == ["squat/clip"]


# 23: other estimators


@pytest.mark.parametrize(
    "V,layout", [(17, "coco17"), (26, "halpe26"), (4, make_layout("four", list("abcd"), [(0, 1), (1, 2), (2, 3)]))]
)
def test_results_of_estimators_are_read(tmp_path, V, layout):
    "AlphaPose, COCO's results and annotations, MMPose: the same two people, lost in frame 3, named by a number."
    rng = np.random.default_rng(0)
    xys = {
        (t, who): np.concatenate([rng.uniform(0, [640, 480], (V, 2)), rng.uniform(0.3, 1, (V, 1))], 1)
        for t, who in ((1, 8), (2, 8), (2, 3), (4, 8))
    }
    flat = [
        {"image_id": f"frame_{t}.jpg", "category_id": 1, "keypoints": k.ravel().tolist(), "score": 2.9, "idx": [who]}
        for (t, who), k in xys.items()
    ]
    coco = [{"image_id": t, "keypoints": k.ravel().tolist(), "track_id": who} for (t, who), k in xys.items()]
    frames = [
        {
            "frame_id": t,
            "instances": [
                {"keypoints": k[:, :2].tolist(), "keypoint_scores": k[:, 2].tolist(), "instance_id": who}
                for (s, who), k in xys.items()
                if s == t
            ],
        }
        for t in (1, 2, 3, 4)
    ]
    for content in (flat, coco, frames, {"meta_info": {}, "instance_info": frames}):
        (tmp_path / "a.json").write_text(json.dumps(content))
        (r,) = read_poses(tmp_path / "a.json", layout, (480, 640))
        assert r.name == "a" and r.present.tolist() == [[True, True, False, True], [False, True, False, False]]
        np.testing.assert_allclose(r.bodies[1, 1], xys[2, 3][:, :2] / [640, 480], atol=1e-6)
        np.testing.assert_allclose(r.confidence[0, 3], xys[4, 8][:, 2], atol=1e-6)
    notes = {"images": [{"id": 900 + t, "file_name": f"v_{t}.png", "height": 480, "width": 640} for t in (1, 2, 4)]}
    notes["annotations"] = [
        {
            "image_id": 900 + t,
            "keypoints": np.concatenate([k[:, :2], np.full((V, 1), 2)], 1).ravel().tolist(),
            "track_id": who,
        }
        for (t, who), k in xys.items()
    ]
    (tmp_path / "a.json").write_text(json.dumps(notes))
    if layout in ("coco17", "halpe26"):
        (r,) = read_poses(tmp_path / "a.json", layout)  # the file knows the size of its images
        np.testing.assert_allclose(r.bodies[1, 1], xys[2, 3][:, :2] / [640, 480], atol=1e-6)
        assert (r.confidence[r.present] == 1).all()


@pytest.mark.parametrize("content,said", [
    ([{"image_id": "1.jpg", "keypoints": [1, 2, 0.5] * 16}], "the number of joints per person is 16; expected 17"),
    ([{"image_id": "1.jpg", "keypoints": [1, 2]}], "expected `keypoints` with x, y, score"),
    ([{"image_id": "a.jpg", "keypoints": [1, 2, 0.5] * 17}, {"image_id": "b.jpg", "keypoints": [1, 2, 0.5] * 17}], "expected a number in each name"),
    ([{"image_id": 1, "keypoints": [1, 2, 0.5] * 17, "idx": 1}] * 2, "one person is there twice in a frame"),
    ([{"instances": 3}], "expected `instances`"),
    ([{"frame_id": [1], "instances": []}], "its frame_id is .1.; expected a whole number"),
    ([{"image_id": {}, "keypoints": [1, 2, 0.5] * 17}], "expected detections with `image_id`"),
    ([{"frame_id": 1, "instances": [{"keypoints": [[1, 2]], "keypoint_scores": [{}]}]}], "expected `keypoints` with x, y, score"),
    ({"annotations": [], "images": 3}, "nobody was found"),
    ([{"frame_id": 0, "instances": []}], "nobody was found"),
    ({"a": 1}, "expected what AlphaPose, MMPose"),
    ([1, 2], "expected what AlphaPose, MMPose"),
    ([[1, "b"]], "no regular array of numbers"),
    ([{"frame_id": 0, "instances": [{"keypoints": [[0.1, 0.2, 0.3]] * 17}]}], "of three numbers without `keypoint_scores`: the third may be a depth"),
    ([{"frame_id": 0, "instances": [{"keypoints": [0.1, 0.2, 0.3] * 17, "keypoint_scores": [0.5] * 17}]}], "expected `keypoints` with x, y, score"),
])  # fmt: skip
def test_results_that_cannot_be_read_are_one_sentence(tmp_path, content, said):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(FormatError, match=said):
        read_poses(tmp_path / "a.json", "coco17")


def detections(*of) -> list[dict]:
    "frame, x of all joints, and what else is said."
    return [{"image_id": frame, "keypoints": [x, 0.5, 0.9] * 17} | rest for frame, x, rest in of]


def test_one_detection_without_a_track_leaves_the_others_theirs(tmp_path):
    found = detections(
        (0, 0.1, {"idx": 1}), (0, 0.6, {"idx": 2}), (1, 0.6, {"idx": 2}), (1, 0.9, {}), (1, 0.1, {"idx": 1})
    )
    (tmp_path / "a.json").write_text(json.dumps(found))
    bodies = read_poses(tmp_path / "a.json", "coco17")[0].bodies[..., 0, 0]
    np.testing.assert_allclose(bodies, [[0.1, 0.1], [0.6, 0.6], [0, 0.9]], atol=1e-6)


@pytest.mark.parametrize(
    "person,categories", [(1, None), (7, [{"id": 1, "name": "ball"}, {"id": 7, "name": "person"}])]
)
def test_other_things_are_no_people(tmp_path, person, categories):
    found = detections(
        (0, 0.6, {"category_id": 8}), (0, 0.1, {"category_id": person}), (1, 0.1, {"category_id": person})
    )
    (tmp_path / "a.json").write_text(
        json.dumps({"annotations": found, "categories": categories} if categories else found)
    )
    with pytest.warns(
        UserWarning, match=rf"left out 1 of 3 detections, whose category_id is not that of a person \({person}\)"
    ):
        np.testing.assert_allclose(
            read_poses(tmp_path / "a.json", "coco17")[0].bodies[..., 0, 0], [[0.1, 0.1]], atol=1e-6
        )


@pytest.mark.parametrize(
    "names,present",
    [(("0.5.jpg", "1.0.jpg", "0.25.jpg"), [1, 1, 1]), (("v_1.0012.jpg", "v_1.0014.jpg", "v_1.0011.jpg"), [1, 1, 0, 1])],
)
def test_images_called_by_times_are_in_their_order(tmp_path, names, present):
    (tmp_path / "a.json").write_text(
        json.dumps(detections(*((name, x, {}) for name, x in zip(names, (0.2, 0.3, 0.1)))))
    )
    (r,) = read_poses(tmp_path / "a.json", "coco17")
    assert r.present[0].tolist() == list(map(bool, present))
    np.testing.assert_allclose(r.bodies[0, r.present[0], 0, 0], [0.1, 0.2, 0.3], atol=1e-6)


def test_scores_of_a_file_above_one_are_said(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"image_id": 1, "keypoints": [0.5, 0.5, 6.5] * 17}]))
    with pytest.warns(UserWarning, match="scores run up to 6.5"):
        assert (read_poses(tmp_path / "a.json", "coco17")[0].confidence == 1).all()


def test_tables_and_lists_of_any_layout(tmp_path):
    "x, y, z, or x, y, or x, y and a score; named, or in a row."
    clip = stick()
    (tmp_path / "a.csv").write_text(
        table(clip.reshape(20, -1), [f"{joint.replace(' ', '_')}_{axis}" for joint in STICK.joints for axis in "xyz"])
    )
    (tmp_path / "b.csv").write_text(table(clip.reshape(20, -1)))
    (tmp_path / "c.json").write_text(json.dumps({"skeletons": clip.tolist()}))
    (tmp_path / "h.tsv").write_text(table(clip.reshape(20, -1), mark="\t"))
    for name in ("a.csv", "b.csv", "c.json", "h.tsv"):
        np.testing.assert_allclose(read_poses(tmp_path / name, STICK)[0].bodies[0], clip, atol=1e-6)
    (tmp_path / "d.csv").write_text(table(clip[..., :2].reshape(20, -1)))
    np.testing.assert_allclose(read_poses(tmp_path / "d.csv", STICK)[0].bodies[0], clip[..., :2], atol=1e-6)
    coco = np.concatenate([np.random.default_rng(0).uniform(0.1, 0.9, (5, 17, 2)), np.full((5, 17, 1), 0.25)], -1)
    (tmp_path / "e.csv").write_text(table(coco.reshape(5, -1)))
    (tmp_path / "f.csv").write_text(
        table(
            coco.reshape(5, -1),
            [f"{joint}_{axis}" for joint in LAYOUTS["coco17"].joints for axis in ("x", "y", "score")],
        )
    )
    for name in ("e.csv", "f.csv"):
        (r,) = read_poses(tmp_path / name, "coco17")
        np.testing.assert_allclose(np.concatenate([r.bodies[0], r.confidence[0][..., None]], -1), coco, atol=1e-6)
    (tmp_path / "g.csv").write_text(table(coco[..., :2].reshape(5, -1)))
    assert (read_poses(tmp_path / "g.csv", "coco17")[0].confidence == 1).all()


def test_a_score_that_may_be_lost_is_said(tmp_path):
    joints = np.random.default_rng(0).uniform(0.1, 0.9, (5, 6, 3))
    with pytest.warns(UserWarning, match="if it is a score, give image_shape"):
        assert array_poses("a", joints, STICK).bodies.shape[3] == 3
    assert array_poses("a", joints, STICK, (1, 1)).confidence is not None
    (tmp_path / "a.csv").write_text(
        table(
            joints.reshape(5, -1),
            [f"{joint.replace(' ', '_')}_{axis}" for joint in STICK.joints for axis in ("x", "y", "score")],
        )
    )
    with pytest.warns(UserWarning, match="a.csv: its scores are left out; to keep them, give image_shape"):
        assert read_poses(tmp_path / "a.csv", STICK)[0].bodies.shape[3] == 2
    np.testing.assert_allclose(
        read_poses(tmp_path / "a.csv", STICK, (1, 1))[0].confidence[0], joints[..., 2], atol=1e-6
    )


def test_joints_that_are_called_by_numbers_have_names(tmp_path):
    layout, clip = make_layout("digits", ["1", "2", "3", "0"], [(0, 1), (1, 2), (2, 3)]), stick()[:, :4]
    (tmp_path / "a.csv").write_text(table(clip.reshape(20, -1), columns(layout.joints, "xyz")))
    (tmp_path / "b.csv").write_text(
        table(
            [[t, name, *clip[t, v]] for t in range(20) for v, name in enumerate(layout.joints)],
            ["frame", "joint", "x", "y", "z"],
        )
    )
    for name in ("a.csv", "b.csv"):
        np.testing.assert_allclose(read_poses(tmp_path / name, layout)[0].bodies[0], clip, atol=1e-6)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("part", [0, 0.1])
@pytest.mark.parametrize("index", [False, True])
def test_a_header_that_counts_joints_is_no_frame(tmp_path, kick, first, part, index):
    rows = [[t, *row] if index else row for t, row in enumerate(kick.reshape(len(kick), -1))]
    head = [*([""] if index else []), *(round(first + v + part * c, 1) for v in range(25) for c in range(3))]
    (tmp_path / "k.csv").write_text(table(rows, head))
    np.testing.assert_allclose(read_kinect(tmp_path / "k.csv").bodies[0], kick, atol=1e-6)
    (tmp_path / "k.csv").write_text(table([*rows, head, *rows], head))
    with pytest.raises(FormatError, match="the header of line 1 is there again: these are two tables"):
        read_kinect(tmp_path / "k.csv")


# 26: one edit


def test_runs_follow_the_split_of_their_clips(tmp_path):
    folder = new_project(tmp_path / "gym", "coco17")
    params = read_params(folder / "params.yaml")
    folds = lambda: [training.fold for training in resolve("", params, "stf").trainings]
    assert folds() == [f"gym-{k}" for k in range(1, 6)]
    params["sources"]["gym"]["split"] = 3
    assert folds() == ["gym-1", "gym-2", "gym-3"]
    for split in (-1, 0, None, True):  # the clips will say that it is none
        params["sources"]["gym"]["split"] = split
        assert folds() == [None]
    params["sources"]["gym"]["split"] = {"subject": ["anna"]}
    assert folds() == [None] and resolve("", params, "stf").section["benchmark"] == "gym"
    assert trace(folder, params, "stf")[("benchmark",)] == ("gym", "sources", "params.yaml")
    params["base"]["benchmark"] = ["gym-1", "gym-2"]  # as older projects have it
    with pytest.raises(ConfigError, match="runs.stf.benchmark names 'gym-1'.* leave `benchmark` out"):
        resolve("", params, "stf")


@pytest.mark.slow
def test_a_split_by_people_is_one_edit_on_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "stick.yaml").write_text(
        yaml.safe_dump({"joints": list(STICK.joints), "bones": [list(b) for b in STICK.bones], "root": 1})
    )
    folder = new_project(tmp_path / "gym", str(tmp_path / "stick.yaml"), 12)
    for i in range(12):
        place = folder / "raw" / "gym" / ("yes", "no")[i % 2] / ("001", "002", "010")[i // 2 % 3]
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{i}.npy", stick(i))
    text = (folder / "params.yaml").read_text()
    assert yaml.safe_load(text)["sources"]["gym"] == {"layout": "layout.yaml"}  # five folds, unless a split is given
    text = text.replace("# split: {subject: [anna, ben]}", "split: {subject: [010]}\n    classes: [yes, no]")
    (folder / "params.yaml").write_text(text)
    monkeypatch.chdir(folder)
    assert main(["preprocess", "gym"]) == 0 and main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "12 clips (yes 6, no 6)" in out and "stf --seed 0" in out
    assert main(["show", "stf"]) == 0 and "sources in params.yaml" in capsys.readouterr().out
    (b,) = benchmarks_of(store := ClipStore.open("clips/gym")).values()
    assert {store.names[i].split("/")[1] for i in b.indices(store, "test")} == {"010"}


# weak


def test_a_clone_with_autocrlf_is_unmodified(clone, tmp_path):
    git = lambda *args, at=clone: (
        subprocess.run(["git", *args], cwd=at, check=True, capture_output=True, text=True).stdout
    )
    git("-c", "core.autocrlf=true", "clone", "-q", str(clone), str(tmp_path / "windows"))
    assert git("-c", "core.autocrlf=true", "status", "--short", at=tmp_path / "windows") == ""
    for file in sorted((clone / "data").rglob("*.*")):
        assert not file.is_file() or file.read_bytes() == (tmp_path / "windows" / file.relative_to(clone)).read_bytes()
