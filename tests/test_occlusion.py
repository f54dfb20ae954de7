"Clips with something missing, and how much of the accuracy is left."

import numpy as np
import pandas as pd
import pytest
import torch
from processes import toy_store

from stf_repro.data.samplers import Clips
from stf_repro.evaluation.occlusion import conditions, hide_frames, hide_joints, hits_when_changed, shake
from stf_repro.skeleton import LAYOUTS, limbs
from stf_repro.training.config import InputConfig
from stf_repro.training.loop import make_batch

NTU = LAYOUTS["ntu25"]


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_limb_is_gone_and_nothing_else():
    x, leg = torch.randn(2, 3, 8, 25, 2), limbs(NTU)["left leg"]
    y = hide_joints(x, draw(), leg)
    rest = [v for v in range(25) if v not in leg]
    assert not y[:, :, :, leg].any() and torch.equal(y[:, :, :, rest], x[:, :, :, rest]) and x[:, :, :, leg].all()


@pytest.mark.parametrize("share,gone", [(0.25, 3), (0.5, 6), (1.0, 12)])
def test_a_run_of_frames_is_gone(share, gone):
    "As long as asked, at a place of each clip's own, the same for all joints and bodies."
    x = torch.randn(50, 3, 12, 25, 2)
    empty = (hide_frames(x, draw(), share) == 0).all(4).all(3).all(1)  # (N, T)
    assert (empty.sum(1) == gone).all()
    starts = empty.int().argmax(1)
    assert all(empty[i, s : s + gone].all() for i, s in enumerate(starts.tolist()))
    assert share == 1 or len(set(starts.tolist())) == 12 - gone + 1


def test_noise_is_as_large_as_asked_and_leaves_absent_bodies_empty():
    x = 3 * torch.randn(4, 3, 50, 25, 2)
    x[..., 1] = 0
    noise = shake(x, draw(), 0.1) - x
    assert not noise[..., 1].any()
    assert (noise[..., 0].std((1, 2, 3)) / x.std((1, 2, 3, 4))).tolist() == pytest.approx([0.1] * 4, rel=0.05)


class LeftArm(torch.nn.Module):
    "Says class 1 where the left arm is in positive x in the mean."

    def forward(self, x):
        score = x[:, 0, :, limbs(NTU)["left arm"]].mean((1, 2, 3))
        return torch.stack([-score, score], 1)


def test_a_network_that_reads_one_arm_loses_all_without_it(tmp_path):
    clips = Clips(toy_store(tmp_path / "clips"))
    every, config = torch.arange(len(clips)), InputConfig(frames=12)
    changes = conditions(NTU)
    clips.labels = LeftArm()(make_batch(clips, every, config)[0]).argmax(1)  # it is always right, on whole clips
    hits = hits_when_changed(LeftArm(), clips, every, config, changes, batch_size=8)
    said = {name: hit.float().mean().item() for name, hit in hits.items()}
    assert list(said)[0] == "whole clips" and said["without right leg"] == said["whole clips"] == 1
    assert said["without left arm"] == (clips.labels == 0).float().mean() < 1  # a tie is the first class
    again = hits_when_changed(LeftArm(), clips, every, config, changes, batch_size=8)
    assert all(torch.equal(hits[name], again[name]) for name in changes)  # networks see the same gaps


def test_the_committed_table_follows_from_the_committed_hits(root):
    "By plain NumPy."
    folder = root / "results" / "synthetic" / "occlusion"
    table, kept = pd.read_csv(folder / "table.csv"), np.load(folder / "hits.npz")
    n = len(kept["names"])
    for row in table.itertuples():
        means = {}
        for key in kept.files:
            if key.count("/") == 2 and key.endswith(f"/{row.condition}"):
                means.setdefault(key.split("/")[0], []).append(100 * np.unpackbits(kept[key], count=n).mean())
        plain, stf = (np.mean(means[name]) for name in ("MS-G3D", "STF"))
        assert [row.msg3d, row.stf, row.gain_mean] == pytest.approx([plain, stf, stf - plain])
