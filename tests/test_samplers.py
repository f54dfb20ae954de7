"""Batches against plain loops: which frames each recipe takes, bones and motion."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_repro.data.samplers import RECIPES, MODALITIES, Clips, modality, replay, resize, uniform
from stf_repro.data.clip_store import Clip, write_store
from stf_repro.data.preprocess import centre
from stf_repro.skeleton import LAYOUTS

LENGTHS = [(7, 3), (1, None), (40, 12), (300, 300), (350, 9), (2, 5)]


def make_store(folder, layout, C, seed=0):
    rng = np.random.default_rng(seed)
    clips = []
    for i, lengths in enumerate(LENGTHS):
        bodies = [rng.normal(size=(n, len(layout), C)).astype(np.float32) for n in lengths if n]
        if len(bodies[0]) > 5:
            bodies[0][3] = 0  # a gap
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        clips.append(Clip(f"c{i}", i, {}, bodies, max(n or 0 for n in lengths), q))
    return clips, write_store(folder, clips, "made", layout)


@pytest.fixture(scope="module", params=[("ntu25", 3), ("openpose18", 3), ("jhmdb15", 2)], ids=lambda p: p[0])
def made(request, tmp_path_factory):
    layout, C = LAYOUTS[request.param[0]], request.param[1]
    return make_store(tmp_path_factory.mktemp(layout.name) / "store", layout, C)


def expected(clip, layout, rows) -> np.ndarray:
    "rows: for each body the frames as recorded (T, V, C). Centred and turned, (C, T, V, 2)."
    empty = np.zeros_like(rows[0])
    bodies = np.stack(rows + [empty] * (2 - len(rows)))
    bodies = centre(bodies, layout.centre)
    if layout.name == "ntu25":
        bodies = bodies @ clip.rotation.T
    return bodies.transpose(3, 1, 2, 0)


def check(made, recipe, frames, take):
    clips, store = made
    x, present = RECIPES[recipe](Clips(store), torch.arange(len(clips)), frames)
    assert x.dtype == torch.float32 and x.is_contiguous()
    for n, clip in enumerate(clips):
        ours = expected(clip, store.layout, [np.stack(take(body, frames)) for body in clip.bodies])
        np.testing.assert_allclose(x[n], ours, atol=2e-5)  # fp32, rotations summed in another order
        assert present[n].tolist() == [True, len(clip.bodies) == 2]


@pytest.mark.parametrize("frames", [1, 11, 300])
def test_replay_repeats(made, frames):
    check(made, "replay", frames, lambda body, T: [body[t % len(body)] for t in range(T)])


@pytest.mark.parametrize("frames", [1, 11, 300])
def test_pad_appends_zeros(made, frames):
    check(made, "pad", frames, lambda body, T: [body[t] if t < len(body) else np.zeros_like(body[0]) for t in range(T)])


@pytest.mark.parametrize("frames", [1, 11, 64])
def test_uniform_takes_the_middle_of_each_stretch_of_the_clip(made, frames):
    "The same moments for both bodies; who has left by then is zero."
    clips, store = made
    x, _ = uniform(Clips(store), torch.arange(len(clips)), frames)
    for n, clip in enumerate(clips):
        L = max(map(len, clip.bodies))
        moments = [int((2 * t + 1) * L / (2 * frames)) for t in range(frames)]
        rows = [
            np.stack([body[t] if t < len(body) else np.zeros_like(body[0]) for t in moments]) for body in clip.bodies
        ]
        np.testing.assert_allclose(x[n], expected(clip, store.layout, rows), atol=2e-5)  # fp32


@pytest.mark.parametrize("frames", [1, 11, 64])
def test_resize_interpolates_between_the_frames_of_the_clip(made, frames):
    "Between a joint and nothing, the nearer of the two."
    clips, store = made
    x, _ = resize(Clips(store), torch.arange(len(clips)), frames)
    for n, clip in enumerate(clips):
        L, rows = max(map(len, clip.bodies)), []
        for body in clip.bodies:
            out = []
            for t in range(frames):
                at = t * (L - 1) / max(frames - 1, 1)
                if at > len(body) - 1:
                    out.append(np.zeros_like(body[0]))
                    continue
                a, b, w = body[int(at)], body[min(int(at) + 1, len(body) - 1)], at - int(at)
                gap = (a.sum(-1) == 0) | (b.sum(-1) == 0)
                w = np.where(gap, round(w), w)[:, None]
                out.append(a * (1 - w) + b * w)
            rows.append(np.stack(out))
        np.testing.assert_allclose(x[n], expected(clip, store.layout, rows), atol=2e-5)  # fp32


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), frames=st.integers(1, 50))
def test_random_uniform_frames_lie_one_in_each_stretch(made_ntu, seed, frames):
    clips, store = made_ntu
    index = torch.tensor([4])
    loader = Clips(store)
    marks = torch.arange(len(clips[4].bodies[0])).float()  # write the frame number into a joint
    loader.planes = torch.zeros_like(loader.planes)
    start = store.offsets[4, 0]
    loader.planes[0, start : start + len(marks), 0] = marks + 1
    x, _ = uniform(loader, index, frames, torch.Generator().manual_seed(seed))
    again, _ = uniform(loader, index, frames, torch.Generator().manual_seed(seed))
    assert torch.equal(x, again)
    turned = x[0, :, :, 0, 0].norm(dim=0)  # the rotation keeps the length of the mark
    taken = turned.round().long() - 1
    edges = [len(marks) * t / frames for t in range(frames + 1)]
    assert all(int(a) <= n <= int(np.ceil(b)) for n, a, b in zip(taken.tolist(), edges, edges[1:]))


@pytest.fixture(scope="module")
def made_ntu(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("marked") / "store", LAYOUTS["ntu25"], 3)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31), name=st.sampled_from(sorted(LAYOUTS)), C=st.sampled_from([2, 3]), T=st.integers(1, 6)
)
def test_bones_and_motion_against_loops(seed, name, C, T):
    layout = LAYOUTS[name]
    x = torch.randn(2, C, T, len(layout), 2, generator=torch.Generator().manual_seed(seed))
    bone = torch.zeros_like(x)
    for child, parent in layout.bones:
        bone[:, :, :, child] = x[:, :, :, child] - x[:, :, :, parent]
    for kind in MODALITIES:
        base = bone if kind.startswith("bone") else x
        loop = base.clone()
        if kind.endswith("motion"):
            loop = torch.zeros_like(base)
            for t in range(T - 1):
                loop[:, :, t] = base[:, :, t + 1] - base[:, :, t]
        assert torch.equal(modality(x, layout, kind), loop)
    with pytest.raises(ValueError, match="no modality 'bones'"):
        modality(x, layout, "bones")


def test_bones_of_kinetics_are_those_of_the_original():
    "The pairs of MS-G3D's bone generator: the nose is the root, and its bone is zero."
    pairs = {
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 3),
        (5, 1),
        (6, 5),
        (7, 6),
        (8, 2),
        (9, 8),
        (10, 9),
        (11, 5),
        (12, 11),
        (13, 12),
        (14, 0),
        (15, 0),
        (16, 14),
        (17, 15),
    }
    assert set(LAYOUTS["openpose18"].bones) | {(0, 0)} == pairs


def test_one_body_slot(made_ntu):
    clips, store = made_ntu
    one, _ = replay(Clips(store, bodies=1), torch.arange(len(clips)), 20)
    two, _ = replay(Clips(store, bodies=2), torch.arange(len(clips)), 20)
    assert one.shape[-1] == 1
    torch.testing.assert_close(one[..., 0], two[..., 0], atol=1e-6, rtol=0)  # batches of unequal shape: fp32, metres
