"Focus and losses against brute force, finite differences and properties."

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_repro.model.focus import focus, normalise, stretch, top_scores
from stf_repro.model.losses import TERMS, Objective, coherence, divergence, frozen_statistics
from stf_repro.model.msg3d import MSG3D
from stf_repro.model.stf import STF
from stf_repro.skeleton import LAYOUTS

SIZE = dict(width=6, num_gcn_scales=2, num_g3d_scales=2, windows=(3,))


def network(kind=STF, persons=2, **more):
    torch.manual_seed(0)
    extra = {"frames": 8} if kind is STF else {}
    return kind(4, LAYOUTS["ntu25"], num_persons=persons, **extra, **SIZE, **more).double()


def batch(n=3, persons=2):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 8, 25, persons, generator=g, dtype=torch.float64)


def test_focus_is_the_double_loop_of_its_definition():
    model = network().eval()
    out = model.run(batch())
    scores, classes = top_scores(out.logits)
    for name, Q in zip(out.maps, focus(scores[1], list(out.maps.values()))):
        X = out.maps[name]
        B, C, T, V = X.shape
        for b in range(B):
            g = torch.autograd.grad(out.logits[b // 2, classes[b // 2, 1]], X, retain_graph=True)[0][b]
            raw = torch.zeros(T, V, dtype=X.dtype)
            for c in range(C):
                raw += sum(g[c, t, v] for t in range(T) for v in range(V)) / (T * V) * X[b, c]
            torch.testing.assert_close(Q[b], raw.clamp(min=0))


def test_asking_for_several_maps_changes_none():
    out = network().eval().run(batch())
    maps = list(out.maps.values())
    together = focus(out.logits[:, 0], maps)
    for X, Q in zip(maps, together):
        torch.testing.assert_close(focus(out.logits[:, 0], [X])[0], Q)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_stretching_keeps_the_range_and_constants(T, frames, seed):
    Q = torch.rand(2, T, 5, generator=torch.Generator().manual_seed(seed))
    out = stretch(Q, frames)
    assert out.shape == (2, frames, 5) and out.min() >= Q.min() - 1e-6 and out.max() <= Q.max() + 1e-6
    assert torch.allclose(stretch(torch.full((1, T, 5), 0.3), frames), torch.tensor(0.3))
    assert (normalise(Q) <= 1).all() and torch.allclose(normalise(Q).amax((1, 2)), torch.ones(2))


@pytest.mark.parametrize("term", ["exploration", "divergence", "coherence", "total"])
def test_gradient_equals_central_differences(term):
    "Float64, batch norm in training mode, gates open: along a random direction in the space of all weights."
    model = network(persons=1).train()
    for m in model.stf.values():
        torch.nn.init.constant_(m.gate, 5.0)
    x, present = batch(persons=1), torch.ones(3, 1, dtype=torch.bool)
    labels = model.run(x).logits.argmax(1).detach()
    shares = {t: 0.1 for t in ("exploration", "divergence", "coherence")} if term == "total" else {term: 0.1}

    def value():
        # fixed factors: the running means of a balance would move between two evaluations
        objective = Objective(shares, warmup=0.0, separate=False)
        objective._factor = lambda name, v: 1.0
        losses = objective(model, x, labels, present, 0, 1.0)
        return losses.total if term == "total" else losses.terms[term]

    params = [p for n, p in model.named_parameters()]
    grads = torch.autograd.grad(value(), params, allow_unused=True)
    assert sum(g is not None for g in grads) > 100
    g = torch.Generator().manual_seed(2)
    directions = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in params]
    slope = sum((d * gr).sum() for d, gr in zip(directions, grads) if gr is not None).item()
    h, ends = 1e-7, []
    for sign in (1, -1):
        for p, d in zip(params, directions):
            p.data += sign * h * d
        ends.append(value().item())
        for p, d in zip(params, directions):
            p.data -= sign * h * d
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(slope, rel=1e-5)


def test_stf_starts_as_msg3d():
    stf = network().eval()
    plain = network(MSG3D).eval()
    plain.load_state_dict({k: v for k, v in stf.state_dict().items() if not k.startswith("stf.")})
    assert torch.equal(stf(batch()), plain(batch()))


def test_absent_bodies_do_not_count():
    a, b = torch.rand(4, 3, 5), torch.rand(4, 3, 5)
    here = torch.tensor([True, False, True, False])
    b2 = b.clone()
    b2[1] += 100
    assert coherence(a, b, here) == coherence(a, b2, here) and divergence(a, b, here) == -coherence(a, b, here)
    assert coherence(a, b, torch.zeros(4, dtype=torch.bool)) == 0


def test_distance_of_equal_foci_has_a_finite_gradient():
    a = torch.rand(2, 3, 5, requires_grad=True)
    coherence(a, a.detach().clone(), torch.ones(2, dtype=torch.bool)).backward()
    assert torch.isfinite(a.grad).all()


def test_exploration_is_separated_from_the_rest():
    objective = Objective({t: 0.1 for t in TERMS}, warmup=0.5)
    assert objective.active(0, 0.4) == []
    assert objective.active(0, 0.6) == ["exploration"] and objective.active(1, 0.6) == ["divergence", "adjacency", "coherence"]
    together = Objective({t: 0.1 for t in TERMS}, warmup=0.0, separate=False)
    assert together.active(0, 0.0) == list(TERMS)


def test_balance_gives_each_term_its_share_and_is_capped():
    objective = Objective({"coherence": 0.2}, cap=3.0)
    for _ in range(300):
        objective._factor("cross_entropy", torch.tensor(2.0))
        factor = objective._factor("coherence", torch.tensor(5.0))
    assert factor * 5.0 == pytest.approx(0.2 * 2.0)
    for _ in range(300):
        factor = objective._factor("coherence", torch.tensor(1e-9))
    assert factor == 3.0


def test_the_masked_pass_leaves_no_trace_in_batch_norm():
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with frozen_statistics(model):
        model(batch())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_msg3d_cannot_have_the_adjacency_term():
    x, present = batch(), torch.ones(3, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="STF"):
        Objective({"adjacency": 0.1}, warmup=0.0)(network(MSG3D), x, torch.tensor([0, 1, 2]), present, 1, 1.0)


def test_nan_names_the_term():
    x = batch()
    x[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="cross_entropy"):
        Objective()(network(), x, torch.tensor([0, 1, 2]), torch.ones(3, 2, dtype=torch.bool), 0, 0.0)


def test_a_batch_without_a_right_prediction_leaves_the_balance_alone():
    model, x, present = network(), batch(), torch.ones(3, 2, dtype=torch.bool)
    predicted = model.run(x).logits.argmax(1)
    objective = Objective({"exploration": 0.1}, warmup=0.0)
    losses = objective(model, x, (predicted + 1) % 4, present, 0, 1.0)
    assert "exploration" not in losses.terms and "exploration" not in objective.means
    assert "exploration" in objective(model, x, model.run(x).logits.argmax(1), present, 2, 1.0).terms


def test_a_foreign_network_that_does_not_fold_bodies():
    "The losses need a run(x) with logits and maps, nothing else."
    from stf_repro.model.msg3d import Output

    class Foreign(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = torch.nn.Conv2d(6, 8, 1), torch.nn.Conv2d(8, 8, 1), torch.nn.Linear(8, 4)
            self.norm = torch.nn.BatchNorm2d(8, track_running_stats=False)

        def run(self, x):  # bodies are channels here
            N, C, T, V, M = x.shape
            a = self.norm(self.a(x.permute(0, 1, 4, 2, 3).reshape(N, C * M, T, V)))
            b = self.b(a.relu())
            return Output(self.head(b.relu().mean((2, 3))), {"a": a, "b": b})

    torch.manual_seed(0)
    model, x, present = Foreign().double(), batch(), torch.ones(3, 2, dtype=torch.bool)
    labels = model.run(x).logits.argmax(1)
    losses = Objective({"exploration": 0.1, "divergence": 0.1, "coherence": 0.1}, warmup=0.0, separate=False)(model, x, labels, present, 0, 1.0)
    losses.total.backward()
    assert set(losses.terms) == {"cross_entropy", "exploration", "divergence", "coherence"}
    assert all(p.grad.isfinite().all() for p in model.parameters())
