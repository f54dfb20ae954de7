"What the results are computed with, against brute force and closed forms."

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from PIL import Image
from scipy import stats

from stf_repro.data.samplers import Clips, replay
from stf_repro.data.clip_store import ClipStore
from stf_repro.data.sets.ntu import read_ntu
from stf_repro.data.synthetic.actions import SyntheticConfig
from stf_repro.data.synthetic.files import make_synthetic, read_truth
from stf_repro.data.preprocess import preprocess
from stf_repro.evaluation.adjacency import between_share, class_adjacency
from stf_repro.evaluation.faithfulness import ORDERS, area, curves, faithfulness, keep_first, ranks
from stf_repro.evaluation.localisation import (
    FORMS,
    KIND,
    MEASURES,
    THRESHOLD,
    by_kind,
    clip_focus,
    clip_truth,
    lay_truth,
    localisation,
    localisation_by_map,
    maps_of,
    measure,
    motion,
)
from stf_repro.evaluation.scores import Scores, class_accuracy, confusion, correct, fuse, same_clips, top_k
from stf_repro.evaluation.statistics import (
    Effect,
    class_gains,
    crossed,
    effect,
    pool,
    seed_interval,
    summary,
    wilson,
)
from stf_repro.model.contract import Output
from stf_repro.model.nets.msg3d import MSG3D
from stf_repro.model.stf import with_stf
from stf_repro.model.options import CHOICES
from stf_repro.report.plots import PALETTE, draw_clip, draw_volume, small_png
from stf_repro.skeleton import LAYOUTS
from stf_repro.training.config import InputConfig


def scores(seed, n=60, classes=5, push=1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return Scores(rng.normal(size=(n, classes)) + push * np.eye(classes)[labels], labels, np.arange(n).astype(str))


# scores


def test_correct_is_top_1_and_its_class_mean_is_the_accuracy():
    own = scores(0)
    tied = replace(own, logits=np.round(own.logits))  # whole numbers: many ties
    for s in (own, tied):
        assert 100 * correct(s).mean() == pytest.approx(top_k(s.logits, s.labels))
        weights = np.bincount(s.labels) / len(s.labels)
        assert class_accuracy(s) @ weights == pytest.approx(top_k(s.logits, s.labels))


def test_a_class_without_clips_has_no_accuracy():
    own = scores(0)
    kept = own.labels != 3
    assert np.isnan(class_accuracy(Scores(own.logits[kept], own.labels[kept], own.names[kept]))).tolist() == [
        False
    ] * 3 + [True, False]


def test_confusion_by_counting():
    own = scores(1)
    counts = [[0] * 5 for _ in range(5)]
    for logits, label in zip(own.logits.tolist(), own.labels.tolist()):
        counts[label][max(range(5), key=lambda c: logits[c])] += 1
    assert confusion(own).tolist() == counts
    assert 100 * np.trace(confusion(own)) / 60 == pytest.approx(top_k(own.logits, own.labels))


def test_fusion_is_the_sum_and_refuses_other_clips():
    a, b = scores(0), scores(1)
    np.testing.assert_array_equal(fuse(a, b).logits, a.logits + b.logits)
    order = np.random.default_rng(0).permutation(60)
    for other in (
        replace(b, names=b.names[order]),
        replace(b, labels=b.labels[::-1]),
        Scores(b.logits[:9], b.labels[:9], b.names[:9]),
    ):
        with pytest.raises(ValueError, match="other clips"):
            fuse(a, other)
    with pytest.raises(ValueError, match="classes"):
        fuse(a, replace(b, logits=b.logits[:, :4]))


# statistics


def test_seed_interval_with_the_factors_of_a_textbook():
    "Student's t at 0.975: 12.706 with one degree of freedom, 4.303 with two, 2.776 with four."
    for values, mean, half in (
        ([80.0, 82], 81, 12.706 * 1),
        ([1, 2, 3], 2, 4.303 / math.sqrt(3)),
        ([0, 0, 0, 0, 10], 2, 2.776 * math.sqrt(20) / math.sqrt(5)),
    ):
        assert seed_interval(values) == (pytest.approx(mean), pytest.approx(half, rel=1e-3))
    assert seed_interval([5.0])[0] == 5 and all(map(math.isnan, (seed_interval([5.0])[1], *seed_interval([]))))
    assert seed_interval([7, 7, 7]) == pytest.approx((7, 0))


def test_wilson_by_its_formula():
    for right, n in ((200, 250), (0, 18), (18, 18), (1, 1)):
        p, z = right / n, 1.959964
        middle, half = (
            (p + z**2 / (2 * n)) / (1 + z**2 / n),
            z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n),
        )
        assert wilson(100 * p, n) == pytest.approx((100 * (middle - half), 100 * (middle + half)), abs=1e-4)


def test_summary_by_hand():
    arm = {s: scores(s) for s in range(3)}
    tops = [top_k(s.logits, s.labels) for s in arm.values()]
    own = summary(arm)
    assert (
        own.top1 == pytest.approx(np.mean(tops)) and own.spread == max(tops) - min(tops) and own.values == tuple(tops)
    )
    assert own.seeds_half == pytest.approx(4.303 * np.std(tops, ddof=1) / math.sqrt(3), rel=1e-3)
    assert (
        (own.clips_low, own.clips_high) == wilson(own.top1, 60)
        and (own.seeds, own.clips) == (3, 60)
        and summary({}) is None
    )


def shifted(right, seed, n=100):
    "Scores of a network that is right on the first `right` of n clips."
    logits = np.where(np.arange(n) < right, 1.0, -1.0)[:, None] * [[1, 0]]
    return Scores(logits, np.zeros(n, int), np.arange(n).astype(str))


def test_an_effect_is_paired_seed_by_seed():
    "Seeds that lie 20 points apart, and a second network that gains 2, 3 and 4 points on each: by hand."
    first = {0: shifted(60, 0), 1: shifted(70, 1), 2: shifted(80, 2)}
    second = {2: shifted(84, 2), 0: shifted(62, 0), 1: shifted(73, 1), 9: shifted(10, 9)}
    step = effect(first, second)
    assert step.values == pytest.approx({0: 2, 1: 3, 2: 4}) and step.mean == pytest.approx(3)
    assert step.trainings == pytest.approx(1 / math.sqrt(3))  # of the differences; unpaired it would be tens of points
    back = effect(second, first)
    assert (
        back.mean == pytest.approx(-3)
        and back.half == pytest.approx(step.half)
        and back.p == pytest.approx(step.p)
        and back.side == -step.side
    )
    assert math.isnan(effect({0: first[0]}, second).half) and not effect({0: first[0]}, second).shown


def test_an_effect_by_the_mean_squares_of_a_two_way_table():
    "One fold: rows are trainings, columns clips, each cell 100, 0 or -100."
    rng = np.random.default_rng(0)
    names = np.arange(40).astype(str)
    first, second = (
        {
            s: Scores(np.where(rng.random(40) < p, 1.0, -1.0)[:, None] * [[1, 0]], np.zeros(40, int), names)
            for s in range(5)
        }
        for p in (0.6, 0.7)
    )
    d = 100 * np.stack([correct(second[s]).astype(float) - correct(first[s]) for s in range(5)])
    rows, columns = 40 * d.mean(1).var(ddof=1), 5 * d.mean(0).var(ddof=1)
    rest = ((d - d.mean(1, keepdims=True) - d.mean(0) + d.mean()) ** 2).sum() / (4 * 39)
    e = effect(first, second)
    assert e.error**2 * 200 == pytest.approx(max(rows + columns - rest, rows, columns))
    assert (e.trainings**2 * 200, e.clips**2 * 200) == pytest.approx((rows, columns))
    parts = (rows / 200) ** 2 / 4 + (columns / 200) ** 2 / 39
    assert e.half == pytest.approx(stats.t.ppf(0.975, e.error**4 / parts) * e.error)


def test_a_clip_that_two_folds_test_stays_together():
    "The same difference on the same clips in both folds is one observation per clip, not two."
    rng = np.random.default_rng(1)
    right = {s: rng.random((2, 50)) < [[0.5], [0.8]] for s in range(6)}
    of = lambda k, names: {
        (fold, s): Scores(np.where(r[k], 1.0, -1.0)[:, None] * [[1, 0]], np.zeros(50, int), names[fold])
        for s, r in right.items()
        for fold in "ab"
    }
    same, other = ({"a": np.arange(50).astype(str), "b": np.arange(shift, 50 + shift).astype(str)} for shift in (0, 50))
    together, apart = (effect(of(0, names), of(1, names)) for names in (same, other))
    assert together.mean == pytest.approx(apart.mean) and together.trainings == pytest.approx(apart.trainings)
    assert together.clips == pytest.approx(math.sqrt(2) * apart.clips, rel=0.02) and together.half > apart.half


def test_folds_are_fixed():
    "Two folds on which networks differ by 0 and by 40 points: the distance of the folds is no uncertainty."
    rng, of = np.random.default_rng(2), {}
    for fold, better in (("a", 0.0), ("b", 0.4)):
        for s in range(8):
            names = np.array([f"{fold}{i}" for i in range(80)])
            of[fold, s] = [
                Scores(np.where(rng.random(80) < p, 1.0, -1.0)[:, None] * [[1, 0]], np.zeros(80, int), names)
                for p in (0.5, 0.5 + better)
            ]
    e = effect({place: own[0] for place, own in of.items()}, {place: own[1] for place, own in of.items()})
    assert e.half < 6 < seed_interval(list(e.values.values()))[1]


def test_a_difference_that_all_seeds_share_by_chance_is_not_shown():
    "One clip of a hundred, in each of three seeds: the spread over seeds is zero, that over clips is not."
    step = effect({s: shifted(60, s) for s in range(3)}, {s: shifted(61, s) for s in range(3)})
    assert step.trainings == pytest.approx(0, abs=1e-9) and step.clips == pytest.approx(1, rel=0.01) and not step.shown


@pytest.mark.parametrize("clips, seeds, folds, shared", [(176, 10, 3, 369), (56, 5, 5, 0), (252, 5, 1, 0)])
def test_the_interval_holds_the_truth_as_often_as_it_says(clips, seeds, folds, shared):
    "Two equally good networks, whose trainings and clips differ: 95 % of the intervals hold zero, give or take three standard errors."
    rng, held, chance = np.random.default_rng(4), [], lambda score: 1 / (1 + np.exp(-score))
    for _ in range(300):
        pool, differences, names = shared or folds * clips, {}, {}
        hard, own = rng.normal(0, 2, pool), rng.normal(0, 0.6, (2, pool))
        for f in range(folds):
            names[str(f)] = i = (
                rng.choice(pool, clips, replace=False) if shared else np.arange(f * clips, (f + 1) * clips)
            )
            a, b = (
                rng.random((seeds, clips)) < chance(1.5 + rng.normal(0, 0.3, (seeds, 1)) + hard[i] + own[k, i])
                for k in (0, 1)
            )
            differences |= {(str(f), s): row for s, row in enumerate(b.astype(float) - a)}
        e = crossed(differences, names)
        held.append(e.low <= 0 <= e.high)
    assert abs(np.mean(held) - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 300)


def test_power_equivalence_and_pooling_by_hand():
    e = Effect(0.5, 0.5, 1e9)
    assert e.half == pytest.approx(0.98, abs=1e-3) and e.detectable() == pytest.approx(0.5 * (1.96 + 0.8416), abs=1e-3)
    assert (
        e.beyond(0.5) == pytest.approx(0.5)
        and e.p == pytest.approx(0.3173, abs=1e-4)
        and e.smaller(1.33)
        and not e.smaller(1.31)
    )
    fixed, drawn = pool([Effect(1.0, 1.0, 1e9), Effect(2.0, 0.5, 1e9)])
    assert (fixed.mean, fixed.error) == pytest.approx(((1 + 4 * 2) / 5, 5**-0.5))
    assert pool([Effect(1.0, 1.0, 5.0)] * 2)[0].error == pytest.approx(
        ((1 + 4 * 2 * 0.25 / 5) / 2) ** 0.5
    )  # Meier's factor
    assert math.isnan(pool([Effect(1.0, 0.0, 5.0), Effect(1.0, 1.0, 5.0)])[0].p) and math.isnan(
        Effect(0.0, math.nan, math.nan).p
    )
    assert drawn.half >= fixed.half and drawn.freedom == 1
    assert Effect(0.0, 0.0, 4.0).p == 1 and Effect(1.0, 0.0, 4.0).shown and not Effect(0.0, 0.0, 4.0).shown


def test_an_effect_uses_shared_seeds_and_same_clips_only():
    first, second = {0: scores(0), 1: scores(1)}, {1: scores(1, push=2.0), 2: scores(2)}
    assert list(effect(first, second).values) == [1] and effect(first, {5: scores(5)}) is None
    with pytest.raises(ValueError, match="other clips"):
        effect(first, {0: replace(scores(0), names=np.array(["x"] * 60))})
    same_clips(first[0], second[2])


def test_intervals_over_seeds_hold_what_they_promise():
    "Paired differences with their own spread: 95 % of the intervals hold the truth, give or take three standard errors."
    rng = np.random.default_rng(3)
    intervals = [seed_interval(rng.normal(1.5, 2.0, 3)) for _ in range(4000)]
    covered = np.mean([abs(mean - 1.5) <= half for mean, half in intervals])
    assert abs(covered - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 4000)


def test_class_gains_add_up_to_the_gain():
    first, second = ({s: scores(s, push=p) for s in range(3)} for p in (1.0, 1.4))
    gains, step = class_gains(first, second), effect(first, second)
    changes = [g.change for g in gains]
    assert sorted(g.label for g in gains) == list(range(5)) and [c.mean for c in changes] == sorted(
        (c.mean for c in changes), reverse=True
    )
    np.testing.assert_allclose(
        np.mean([[*c.values.values()] for c in changes], 0), [*step.values.values()]
    )  # classes of equal size, seed by seed
    assert all(g.change.mean == pytest.approx(g.second - g.first) for g in gains)


# localisation


def by_hand(Q, truth, present):
    "The measures of one clip, place by place."
    places = [(m, t, v) for m in range(Q.shape[0]) for t in range(Q.shape[1]) for v in range(Q.shape[2]) if present[m]]
    G = {p for p in places if truth[p]}
    where = {p for p in places if any(truth[p[0], t, p[2]] for t in range(Q.shape[1]))}
    when = {p for p in places if any(truth[p[0], p[1], v] for v in range(Q.shape[2]))}
    total = sum(Q[p] for p in places)
    share = lambda mask: sum(Q[p] for p in mask) / total
    peak = max(places, key=lambda p: Q[p])
    S = {p for p in places if Q[p] >= THRESHOLD * Q[peak]}
    first = set(sorted(places, key=lambda p: -Q[p])[: len(G)])
    values = float(peak in G), share(G), share(where), share(when), len(S & G) / len(S | G), len(first & G) / len(G)
    a, s = len(G) / len(places), len(S) / len(places)
    return values, (a, a, len(where) / len(places), len(when) / len(places), a * s / (a + s - a * s), a)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_measures_place_by_place(seed):
    g = torch.Generator().manual_seed(seed)
    truth, present = (
        torch.rand(3, 2, 4, 5, generator=g) < 0.3,
        torch.tensor([[True, True], [True, False], [True, True]]),
    )
    truth[:, 0, 0, 0] = True
    Q = torch.rand(3, 2, 4, 5, generator=g) * present[..., None, None]
    values, chance = measure(Q, truth, present)
    for n in range(3):
        expected = by_hand(Q[n].numpy().astype(float), truth[n].numpy(), present[n].numpy())
        for found, wanted in zip((values, chance), expected):
            np.testing.assert_allclose([float(found[m][n]) for m in MEASURES], wanted, rtol=1e-5)


def test_extremes_of_the_measures():
    truth, present = torch.zeros(1, 1, 4, 6, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    truth[0, 0, 1:3, 2:4] = True
    for Q, expected in ((truth.float(), 1), ((~truth).float(), 0), (torch.zeros(1, 1, 4, 6), 0)):
        values, _ = measure(Q, truth, present)
        assert all(values[m] == expected for m in ("pointing", "energy", "iou", "budget"))
    flat, chance = measure(torch.ones(1, 1, 4, 6), truth, present)
    assert (
        chance["energy"] == pytest.approx(4 / 24)
        and chance["energy_where"] == pytest.approx(2 / 6)
        and chance["energy_when"] == pytest.approx(0.5)
    )
    assert all(
        flat[m] == pytest.approx(float(chance[m])) for m in ("energy", "energy_where", "energy_when", "iou", "budget")
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    make_synthetic(folder / "raw", SyntheticConfig(subjects=2, dropout=0.6, spurious=0.5), progress=False)
    preprocess("synth60", folder / "raw", folder / "clips", workers=1, progress=False)
    return folder / "raw", ClipStore.open(folder / "clips")


def test_truth_follows_each_frame_into_the_input(made):
    "Each frame of a clip is searched in its recording; the truth there must be the truth laid on the input."
    raw, store = made
    config = InputConfig(frames=90, frame_stride=3)
    names, truth = list(store.names), read_truth(raw / "truth.jsonl")
    laid = lay_truth(clip_truth(raw, names), config).numpy()
    places = list(range(0, len(names), 7))
    assert any(store.lengths[i, 1] for i in places) and laid[places].any()
    for i in places:
        recording = read_ntu(raw / f"{names[i]}.skeleton")
        frames = {
            body[t].tobytes(): (m, t)
            for m, body in enumerate(recording.bodies)
            for t in range(body.shape[0])
            if body[t].any()
        }
        for m in range(2):
            length = store.lengths[i, m]
            for at, t in enumerate(range(0, 90, 3)):
                seen = store.frames[store.offsets[i, m] + t % length] if length else np.zeros(0)
                expected = truth[names[i]][frames[seen.tobytes()]] if seen.any() else np.zeros(25, bool)
                np.testing.assert_array_equal(laid[i, m, at], expected)


def test_truth_lies_on_seen_bodies_only(made):
    raw, store = made
    laid = lay_truth(clip_truth(raw, list(store.names)), InputConfig(frames=60))
    x, present = replay(Clips(store), torch.arange(len(store)), 60)
    assert not laid[~present].any() and laid.any((1, 2, 3)).float().mean() > 0.9
    assert set(KIND) == set(range(24)) and set(KIND.values()) == {"where", "when", "both"}
    with pytest.raises(ValueError, match="replay"):
        lay_truth([[np.zeros((3, 25), bool)]], InputConfig(recipe="resample"))


class Tiny(torch.nn.Module):
    "Two maps of one channel a coordinate; the logit of class 1 reads the second map at joint 3 in frame 2, that of class 0 is nothing."

    layout, num_persons = LAYOUTS["ntu25"], 2

    def run(self, x, present=None):
        first = x.permute(0, 4, 1, 2, 3).flatten(0, 1)  # (N*M, C, T, V)
        second = 2 * first[:, :, ::2]  # half as many frames
        logit = (second[:, :, 1, 3] * torch.tensor([1.0, -1, 0])).sum(1).view(len(x), -1).sum(1)
        return Output(torch.stack([torch.zeros(len(x)), logit], 1), {"gcn1": first, "g3d1": second})


@pytest.fixture
def tiny(made):
    return Tiny(), Clips(made[1]), torch.arange(len(made[1])), InputConfig(frames=60, frame_stride=4)


def test_maps_of_a_network_that_can_be_read(tiny):
    "The gradient is known: at one joint and frame, (2, -2, 0) in the first map and (1, -1, 0) in the second."
    model, clips, places, config = tiny
    present, maps = maps_of(model, clips, places, config, torch.Generator().manual_seed(0))
    x = replay(clips, places, 60)[0][:, :, ::4]  # (N, C, T, V, M)
    T, named = x.shape[2], (model.run(x).logits[:, 1] > 0)  # class 1 is the predicted one
    assert (
        named.any()
        and not named.all()
        and set(maps)
        == {(m, f) for m in ("gcn1", "g3d1") for f in FORMS}
        | {("input", "elementwise"), ("motion", ""), ("random", "")}
    )
    here = (2 * (x[:, 0, 2, 3] - x[:, 1, 2, 3])).relu() * present  # (N, M)
    for name in (("gcn1", "elementwise"), ("input", "elementwise")):
        expected = torch.zeros(maps[name].shape)
        expected[:, :, 2, 3] = here * named[:, None]
        torch.testing.assert_close(maps[name], expected)
    spread = (2 * (x[:, 0] - x[:, 1]) / (T * x.shape[3])).relu().permute(0, 3, 1, 2)  # (N, M, T, V)
    torch.testing.assert_close(
        maps["gcn1", "mean_gradient"], spread * named[:, None, None, None] * present[..., None, None]
    )
    joints = maps["g3d1", "elementwise"].sum(2) > 0
    assert joints[..., 3].any() and not joints[..., :3].any() and not joints[..., 4:].any()
    torch.testing.assert_close(maps["motion", ""], motion(x) * present[..., None, None])
    assert all(Q.shape == (len(x), 2, T, 25) and (Q >= 0).all() and not Q[~present].any() for Q in maps.values())


def test_localisation_by_map_counts_hits_by_hand(tiny, made):
    "The place that the network reads is the only one its input map points at: a hit where the truth holds it."
    model, clips, places, config = tiny
    truth = lay_truth(clip_truth(made[0], list(made[1].names)), config)
    x, present = replay(clips, places, 60)
    x = x[:, :, ::4]
    reads = (x[:, 0, 2, 3] - x[:, 1, 2, 3]) * present  # (N, M)
    named = reads.sum(1) > 0
    where = reads.argmax(1)
    hits = [bool(n and truth[i, m, 2, 3]) for i, (n, m) in enumerate(zip(named.tolist(), where.tolist()))]
    found = localisation_by_map(model, clips, places, config, truth)
    kinds = [KIND[int(label)] for label in clips.labels]
    for kind in ("all", "where", "when", "both"):
        own = [hit for hit, k in zip(hits, kinds) if kind in ("all", k)]
        assert found["input", "elementwise"][kind]["pointing"][0] == pytest.approx(np.mean(own))
        inside = [
            float((t & p[:, None, None]).sum() / (p.sum() * t[0].numel()))
            for t, p, k in zip(truth, present, kinds)
            if kind in ("all", k)
        ]
        assert found["random", ""][kind]["energy"][1] == pytest.approx(np.mean(inside))
        assert found["random", ""][kind]["energy"][0] == pytest.approx(np.mean(inside), abs=0.02)
    assert any(hits) and not all(hits)


def test_one_module_and_form_is_a_row_of_all(made):
    "`localisation` with a module and a form, of a real network, against the pass that takes all at once."
    torch.manual_seed(0)
    model, config = (
        MSG3D(14, LAYOUTS["ntu25"], width=6, num_gcn_scales=2, num_g3d_scales=2, windows=(3,)).eval(),
        InputConfig(frames=60, frame_stride=4),
    )
    clips, places = Clips(made[1]), torch.arange(0, len(made[1]), 3)
    truth = lay_truth(clip_truth(made[0], [made[1].names[i] for i in places.tolist()]), config)
    table = localisation_by_map(model, clips, places, config, truth)
    assert [p.requires_grad for p in model.parameters()] == [True] * len(list(model.parameters()))
    for module, form in (("gcn1", "elementwise"), ("g3d2", "mean_gradient"), ("g3d3", "elementwise")):
        own = localisation(model, clips, places, config, truth, module=module, form=FORMS[form])
        for m in MEASURES:
            assert own["all"][m] == pytest.approx(
                table[module, form]["all"][m], abs=0.02
            )  # a tie of two classes may go either way
    with pytest.raises(ValueError, match="no module 'gcn4'; the network has, first to last: gcn1, g3d1"):
        clip_focus(model, clips, places, config, module="gcn4")


def test_means_by_kind_do_not_depend_on_batches():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(24)
    whole = tuple({m: torch.rand(24, generator=g) for m in MEASURES} for _ in range(2))
    parts = [tuple({m: v[a:b] for m, v in side.items()} for side in whole) for a, b in ((0, 10), (10, 24))]
    found = by_kind(parts, labels)
    for kind in ("where", "when", "both"):
        own = [i for i in range(24) if KIND[i] == kind]
        assert found[kind]["iou"] == pytest.approx(tuple(float(side["iou"][own].mean()) for side in whole))
    assert found["all"]["energy"][0] == pytest.approx(float(whole[0]["energy"].mean()))


@pytest.fixture
def figure():
    fig = plt.figure()
    yield fig
    plt.close(fig)


def test_rings_mark_the_truth_and_nothing_else(figure):
    "Each ring of a film strip stands at a joint of the truth, in its frame, of a body that is seen."
    g = np.random.default_rng(0)
    bodies, truth = g.normal(size=(2, 3, 25, 2)), g.random((2, 3, 25)) < 0.2
    bodies[1, 2] = 0  # a body that is not there has no rings
    axes = draw_clip(figure, bodies, LAYOUTS["ntu25"], range(3), focus=np.zeros((2, 3, 25)), truth=truth)
    for t, ax in enumerate(axes):
        rings = [c for c in ax.collections if isinstance(c, PathCollection) and not len(c.get_facecolors())]
        drawn = np.concatenate([c.get_offsets() for c in rings])
        expected = np.concatenate([bodies[m, t][truth[m, t]] for m in range(2) if bodies[m, t].any()])
        np.testing.assert_allclose(drawn, expected)
    plain = draw_clip([figure.add_subplot()], bodies, LAYOUTS["ntu25"], [0], focus=np.zeros((2, 3, 25)))[0]
    assert len(plain.collections) == 4  # bones and joints of two bodies


@pytest.mark.parametrize("seed", range(3))
def test_the_outline_of_a_sheet_parts_truth_from_the_rest(figure, seed):
    truth = np.random.default_rng(seed).random((6, 25)) < 0.4
    sheet = draw_volume(figure, np.zeros((6, 25)), LAYOUTS["ntu25"], frame_stride=4, truth=truth)
    drawn = {tuple(map(tuple, line)) for line in sheet.collections[0].get_segments()}
    names = [label.get_text() for label in sheet.get_yticklabels()]  # each row has its own joint's name
    truth = truth[:, [LAYOUTS["ntu25"].joints.index(name) for name in names]]
    holds = lambda t, v: 0 <= t < 6 and 0 <= v < 25 and truth[t, v]
    upright = {
        ((4.0 * t, v - 0.5), (4.0 * t, v + 0.5)) for t in range(7) for v in range(25) if holds(t - 1, v) != holds(t, v)
    }
    level = {
        ((4.0 * t, v - 0.5), (4.0 * t + 4, v - 0.5))
        for t in range(6)
        for v in range(26)
        if holds(t, v - 1) != holds(t, v)
    }
    assert drawn == upright | level


# faithfulness


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_ranks_are_an_order_by_value(seed):
    g = torch.Generator().manual_seed(seed)
    value = torch.randint(0, 4, (3, 2, 4, 5), generator=g).float()  # many ties
    present = torch.tensor([[True, True], [True, False], [False, True]])
    rank = ranks(value, present, g)
    for n in range(3):
        assert sorted(rank[n].flatten().tolist()) == list(range(40))
        there = present[n][:, None, None].expand(2, 4, 5)
        ordered = value[n][there][rank[n][there].argsort()]
        assert (ordered[1:] <= ordered[:-1]).all() and rank[n][there].max() == there.sum() - 1


def test_deletion_and_insertion_share_the_clip():
    g = torch.Generator().manual_seed(0)
    x, present = torch.randn(2, 3, 4, 5, 2, generator=g), torch.tensor([[True, True], [True, False]])
    rank = ranks(torch.rand(2, 2, 4, 5, generator=g), present, g)
    for count in (torch.tensor([0, 0]), torch.tensor([7, 3]), torch.tensor([40, 40])):
        removed, kept = (keep_first(x, rank, count, insert) for insert in (False, True))
        assert torch.equal(removed + kept, x)
        gone = (removed == 0).all(1).flatten(1).sum(1)
        assert gone.tolist() == count.tolist()


class Linear(torch.nn.Module):
    "The logit of class 1 is a weighted sum of everything; of class 0 nothing."

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        return torch.stack([torch.zeros(len(x)), (self.weight * x).flatten(1).sum(1)], 1)


def test_curves_of_a_linear_network_by_hand():
    g = torch.Generator().manual_seed(1)
    x, present = torch.rand(1, 2, 3, 4, 1, generator=g), torch.ones(1, 1, dtype=torch.bool)
    weight = torch.rand(2, 3, 4, 1, generator=g)
    share = (weight * x[0]).sum(0).permute(2, 0, 1)[None]  # (1, 1, 3, 4): what each place adds
    rank = ranks(share, present, g)
    found = curves(Linear(weight), x, present, torch.ones(1, dtype=torch.long), {"true": rank}, 12)["true"][
        :, 0
    ]  # (2, 13)
    ordered = share.flatten().sort(descending=True).values
    for i in range(13):
        torch.testing.assert_close(found[1][i], ordered[:i].sum().sigmoid())
        torch.testing.assert_close(found[0][i], ordered[i:].sum().sigmoid())
    for _ in range(5):  # no other order has a smaller area of deletion, or a larger one of insertion
        other = ranks(torch.rand(1, 1, 3, 4, generator=g), present, g)
        deletion, insertion = curves(Linear(weight), x, present, torch.ones(1, dtype=torch.long), {"other": other}, 12)[
            "other"
        ]
        assert area(deletion) >= area(found[0]) and area(insertion) <= area(found[1])


def test_faithfulness_is_the_mean_over_all_clips_whatever_the_batch(made):
    "Clip by clip and all at once; the random order is left out, it depends on what was drawn before."
    torch.manual_seed(0)
    model = MSG3D(14, LAYOUTS["ntu25"], width=6, num_gcn_scales=2, num_g3d_scales=2, windows=(3,)).eval()
    clips, config, indices = Clips(made[1]), InputConfig(frames=60, frame_stride=10), torch.tensor([0, 5, 9, 40])
    whole = faithfulness(model, clips, indices, config, steps=3)
    single = [faithfulness(model, clips, indices[[i]], config, steps=3) for i in range(4)]
    assert set(whole) == {(test, order) for test in ("deletion", "insertion") for order in ORDERS}
    for key in (k for k in whole if k[1] == "motion"):
        torch.testing.assert_close(
            whole[key], torch.stack([one[key] for one in single]).mean(0), atol=1e-4, rtol=0
        )  # fp32, other sums
    batched = faithfulness(model, clips, indices, config, steps=3, batch_size=2)
    torch.testing.assert_close(whole["deletion", "motion"], batched["deletion", "motion"], atol=1e-4, rtol=0)
    assert all(c.shape == (4,) for c in whole.values())


def test_motion_is_the_way_to_the_next_frame():
    x = torch.zeros(1, 3, 4, 2, 1)
    x[0, 0, :, 1, 0] = torch.tensor([0.0, 3, 3, 4])
    x[0, 1, 1:, 1, 0] = 4.0
    assert motion(x)[0, 0, :, 1].tolist() == [5, 0, 1, 1] and not motion(x)[0, 0, :, 0].any()


# adjacency


def test_share_between_classes_is_that_of_an_analysis_of_variance():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 50)
    values = rng.normal(size=(50, 7)) + labels[:, None]
    grand = values.mean(0)
    between = sum((labels == c).sum() * ((values[labels == c].mean(0) - grand) ** 2).sum() for c in range(4))
    within = sum(((values[labels == c] - values[labels == c].mean(0)) ** 2).sum() for c in range(4))
    assert (
        between_share(values, labels) == pytest.approx(between / (between + within))
        and between_share(np.ones((5, 2)), labels[:5]) == 0
    )


@pytest.mark.parametrize("join", ["add", "multiply", "replace_residual"])
def test_sizes_are_of_the_matrices_that_the_convolution_multiplies_with(join):
    "Row by row and clip by clip, written out: all frame pairs of two windows, and what G adds however it enters."
    torch.manual_seed(0)
    V, windows, entered = len(LAYOUTS["ntu25"]), (3, 5), CHOICES["stf_join"].options[join]
    model = with_stf(
        MSG3D(2, LAYOUTS["ntu25"], width=6, num_gcn_scales=2, num_g3d_scales=2, windows=windows),
        frames=8,
        gate=0.7,
        join=entered,
    ).eval()
    for unit in [model.blocks[1].gcn, *model.blocks[1].g3d]:
        torch.nn.init.normal_(unit.residual)
    x = torch.randn(3, 3, 8, V, 2)
    here = {
        "lengths": torch.full((3, 2), 8),
        "device": "cpu",
        "take": lambda self, i, t: None,
        "place": lambda self, bodies, i, there: (x[i], torch.ones(len(i), 2, dtype=torch.bool)),
    }
    clips = type("Three", (), {"labels": torch.tensor([0, 1, 1]), "layout": LAYOUTS["ntu25"]} | here)()
    found = class_adjacency(model, clips, torch.arange(3), InputConfig(frames=8), 2, batch_size=2)
    with torch.no_grad():
        G = {name: own[::2].double().numpy() for name, own in model.run(x).G.items()}  # of the main bodies
    absolute = lambda matrices: sum(np.abs(row).sum() for scale in matrices for row in scale) / matrices.shape[1]
    for module, units in (("gcn2", [(1, model.blocks[1].gcn)]), ("g3d2", list(zip(windows, model.blocks[1].g3d)))):
        sizes = []
        for w, unit in units:
            A, R = unit.A.double().numpy(), unit.residual.detach().double().numpy()
            added = {"add": lambda g: g, "replace_residual": lambda g: g, "multiply": lambda g: A * g}[join]
            whole = [np.stack([np.block([[k] * w] * w) for k in g]) for g in G[module]]
            fixed = A if join == "replace_residual" else A + R
            sizes.append(
                [
                    np.mean([absolute(added(g)) for g in whole]),
                    np.mean([absolute(added(g - np.mean(whole, 0))) for g in whole]),
                    absolute(fixed),
                    absolute(R),
                ]
            )
        m = found[module]
        np.testing.assert_allclose([m.size, m.deviation, m.fixed, m.residual], np.mean(sizes, 0), rtol=1e-4)
        assert m.size > m.deviation > 0


def untrained_run(folder: Path, seed: int = 0) -> Path:
    "What a training of a tiny network would leave, with random weights."
    from safetensors.torch import save_file

    from stf_repro.data.registry import get_benchmark
    from stf_repro.training.config import parse
    from stf_repro.training.loop import build_model

    section = {
        "group": "t",
        "label": "M1",
        "source": "synth60",
        "benchmark": "synth60-xsub",
        "input": {"frames": 16},
        "seed": seed,
    }
    config = parse(section | {"network": {"width": 6, "num_gcn_scales": 2, "num_g3d_scales": 2, "windows": [3]}})
    (run := folder / "M1" / f"seed-{seed}").mkdir(parents=True)
    (run / "metrics.json").write_text("{}")
    (run / "config.json").write_text(config.model_dump_json())
    torch.manual_seed(seed)
    save_file(build_model(config, get_benchmark(config.benchmark)).state_dict(), run / "model.safetensors")
    return run


def test_networks_looked_at_side_by_side_say_what_each_says_alone(tmp_path):
    from stf_repro.evaluation.localisation import load_run, of_each

    runs, threads = [untrained_run(tmp_path, seed) for seed in range(4)], torch.get_num_threads()
    x = torch.randn(2, 3, 16, 25, 2, generator=torch.Generator().manual_seed(0))
    looks = []

    def look(model, config):
        looks.append(torch.get_num_threads())
        return config.seed, model(x).detach()

    for (seed, said), run in zip(of_each(runs, look), runs, strict=True):
        torch.testing.assert_close(said, load_run(run).network(x).detach())
        assert run.name == f"seed-{seed}"
    assert set(looks) == {1} and torch.get_num_threads() == threads
    with pytest.raises(ZeroDivisionError):
        of_each(runs, lambda model, config: 1 / (config.seed - 2))
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("file,content,said", [
    ("model.safetensors", b"junk", "is damaged"),
    ("model.safetensors", None, "is damaged"),
    ("config.json", b"{", "is damaged"),
    ("config.json", None, "is damaged"),
])  # fmt: skip
def test_a_damaged_run_is_one_sentence(tmp_path, file, content, said):
    from safetensors.torch import save_file

    from stf_repro.evaluation.localisation import load_run
    from stf_repro.training.config import parse

    run = untrained_run(tmp_path)
    config = parse(json.loads((run / "config.json").read_text()))
    net = load_run(run)
    model, again = net.network, net.config
    assert again == config
    model.run(torch.randn(2, 3, 16, 25, 2)).logits.sum().backward()  # every weight can be differentiated
    (run / file).unlink() if content is None else (run / file).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        load_run(run)
    save_file({"other": torch.zeros(1)}, run / "model.safetensors")
    (run / "config.json").write_text(config.model_dump_json())
    with pytest.raises(ValueError, match="another version"):
        load_run(run)


def test_a_small_picture_keeps_the_colours_of_a_focus():
    "A thin bar of them beside many lines in the colours of limbs: each pixel of the bar as it was drawn has a near colour in the file."
    fig = plt.figure(figsize=(3, 3), dpi=90)
    for i in range(200):
        fig.add_artist(
            plt.Line2D(
                [0.1, 0.9],
                [0.2 + 0.003 * i, 0.9 - 0.003 * i],
                color=PALETTE[("vermilion", "blue", "grey")[i % 3]],
                lw=0.4,
            )
        )
    bar = fig.add_axes([0.2, 0.05, 0.6, 0.05])
    bar.imshow(np.linspace(0, 1, 256)[None], cmap="YlOrRd", aspect="auto", interpolation="nearest")
    bar.set_axis_off()
    fig.canvas.draw()
    box, height = bar.get_window_extent(), fig.canvas.get_width_height()[1]
    drawn = np.asarray(fig.canvas.buffer_rgba())[
        height - int(box.y0) - 2, int(box.x0) + 2 : int(box.x1) - 2, :3
    ].astype(int)
    whole = np.asarray(Image.open(io.BytesIO(small_png(fig))).convert("RGB")).astype(int)
    plt.close(fig)
    found = np.unique(whole.reshape(-1, 3), axis=0)
    worst = max(abs(found - colour).max(1).min() for colour in drawn)
    assert len(drawn) > 100 and worst <= 12
    assert (whole[0, 0] == 255).all()  # the ground is white
