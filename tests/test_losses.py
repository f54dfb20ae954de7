"Focus and losses against brute force, finite differences and properties."

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_repro.model.focus import class_score, focus, module_foci, normalise, pooled_focus, stretch, top_scores
from stf_repro.model.losses import TERMS, LossChoices, Objective, coherence, divergence, exploration, frozen_statistics, masked
from stf_repro.model.msg3d import MSG3D, MultiScaleGraphConv, Output, WindowGraphConv
from stf_repro.model.stf import STF, Alpha, ModuleChoices
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


def test_chained_foci_equal_separate_ones_and_keep_their_graph_where_asked():
    model = network().train()
    out = model.run(batch())
    score, maps = out.logits[:, 1], list(out.maps.values())
    separate = [focus(score, [X])[0] for X in maps]
    for graph, cut in ((0, 2), (1, 2), (2, 2), (2, 0), (6, 2)):
        for i, (q, expected) in enumerate(zip(module_foci(score, maps, graph, cut), separate)):
            torch.testing.assert_close(q, expected)
            assert q.requires_grad == (i >= 6 - graph)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(0, 2**31))
def test_closed_form_of_a_pooled_map(N, M, T, seed):
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(N * M, 5, T, 4, generator=g, dtype=torch.float64, requires_grad=True)
    W = torch.randn(3, 5, generator=g, dtype=torch.float64)
    logits = X.mean((2, 3)).view(N, M, 5).mean(1) @ W.T
    classes = logits.argmax(1)
    torch.testing.assert_close(pooled_focus(W, classes, X), focus(class_score(logits, classes), [X])[0])


def slopes(value, params, g):
    """The derivative along a random direction: by autograd, and by central differences.
    A kink between the two ends (a ReLU, a maximum) spoils one difference, a wrong derivative spoils all: of three, the best counts."""
    grads = torch.autograd.grad(value(), params, allow_unused=True)
    directions = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in params]
    exact = sum((d * gr).sum() for d, gr in zip(directions, grads) if gr is not None).item()
    start, differences = [p.data.clone() for p in params], []
    for h in (1e-7, 1e-8, 2e-9):
        ends = []
        for sign in (1, -1):
            for p, s, d in zip(params, start, directions):
                p.data.copy_(s + sign * h * d)
            ends.append(value().item())
        differences.append((ends[0] - ends[1]) / (2 * h))
    for p, s in zip(params, start):
        p.data.copy_(s)
    return exact, min(differences, key=lambda d: abs(d - exact)), grads


def opened(persons=1):
    "A network whose adjacencies act, and whose terms are all plain functions of the weights."
    model = network(persons=persons, choices=ModuleChoices(detach_input=False)).train()
    for m in model.stf.values():
        torch.nn.init.constant_(m.gate, 5.0)
    return model


ALL = {t: 0.1 for t in TERMS}
DIFFERENTIABLE = [  # every option but the two that cut the gradient on purpose
    {},
    *({"score": v} for v in ("log_probability", "probability")),
    {"of": "truth"},
    {"bodies": "mean"},
    {"extent": "clip", "scale": "none"},
    *({"scale": v} for v in ("none", "minmax", "norm", "sigmoid")),
    *({"mask_scale": v} for v in ("norm", "sigmoid")),
    {"resample": "nearest"},
    *({"mask": v} for v in ("last_two", "all")),
    *({"survival": v} for v in ("logit", "log")),
    {"masked_statistics": "updated"},
    *({"distance": v} for v in ("squared", "mean_square")),
    {"bound": "hinge", "margin": 20.0},
    {"bound": "ambiguous", "margin": 0.9},
    {"focus_statistics": "running"},
]


@pytest.mark.parametrize("options", DIFFERENTIABLE, ids=lambda o: "-".join(map(str, o.values())) or "defaults")
def test_gradient_of_the_total_equals_central_differences(options):
    "Float64, batch norm in training mode, gates open, two bodies: along a random direction in the space of all weights."
    model, present = opened(persons=2), torch.tensor([[True, True], [True, False], [True, True]])
    x = batch() * present[:, None, None, None, :]
    labels = model.run(x).logits.argmax(1).detach()
    labels[0] = (labels[0] + 1) % 4
    choices = LossChoices(**options, detach_target=False)

    def value():
        # fixed factors: the running means of a balance would move between two evaluations
        return Objective(ALL, balance="fixed", choices=choices)(model, x, labels, present, TERMS).total

    with frozen_statistics(model):  # so would those of batch norm, which choice C21 reads
        exact, difference, grads = slopes(value, list(model.parameters()), torch.Generator().manual_seed(2))
    assert sum(g is not None for g in grads) > 100
    assert difference == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("term", ["exploration", "divergence", "coherence"])
def test_gradient_of_each_term_equals_central_differences(term):
    model, x, present = opened(), batch(persons=1), torch.ones(3, 1, dtype=torch.bool)
    labels = model.run(x).logits.argmax(1).detach()
    value = lambda: Objective({term: 0.1})(model, x, labels, present, (term,)).terms[term]
    exact, difference, _ = slopes(value, list(model.parameters()), torch.Generator().manual_seed(2))
    assert difference == pytest.approx(exact, rel=1e-5)


def test_a_detached_mask_and_a_detached_target_are_constants():
    "Their gradients are those of the same expressions with the focus computed once and for all."
    model, x, present = opened(), batch(persons=1), torch.ones(3, 1, dtype=torch.bool)
    labels, params = model.run(x).logits.argmax(1).detach(), list(model.parameters())
    out = model.run(x)
    foci = focus(out.logits.max(1).values, list(out.maps.values()))
    Q = {name: normalise(q.detach()) for name, q in zip(out.maps, foci)}
    by_hand = exploration(model.run(masked(x, Q["g3d3"])).logits, labels, torch.ones(3, dtype=torch.bool))
    ours = Objective({"exploration": 0.1}, choices=LossChoices(detach_mask=True))(model, x, labels, present, ("exploration",))
    g = torch.Generator().manual_seed(3)
    for a, b in zip(torch.autograd.grad(by_hand, params, allow_unused=True), torch.autograd.grad(ours.terms["exploration"], params, allow_unused=True)):
        torch.testing.assert_close(a, b)
    constant = lambda: torch.stack([(stretch(Q[n], b.shape[1]) - b).flatten(1).norm(dim=1).mean() for n, b in model.run(x).beta.items()]).mean()
    ours = Objective({"adjacency": 0.1})(model, x, labels, present, ("adjacency",)).terms["adjacency"]
    exact, difference, grads = slopes(constant, params, g)
    assert difference == pytest.approx(exact, rel=1e-5)
    for a, b in zip(torch.autograd.grad(ours, params, allow_unused=True), grads):
        torch.testing.assert_close(a, b)


def test_the_adjacency_term_teaches_beta_alone():
    "Detached from Q and from the features; and its values are those of the term that is not."
    model, x, present, labels = network(persons=1).train(), batch(persons=1), torch.ones(3, 1, dtype=torch.bool), torch.arange(3)
    free = opened()
    free.load_state_dict(model.state_dict())
    values = [Objective({"adjacency": 0.1})(m, x, labels, present, ("adjacency",)).terms["adjacency"] for m in (model, free)]
    assert values[0].item() == values[1].item()
    values[0].backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()} == {n for n, _ in model.named_parameters() if ".beta." in n}


OTHERS = [o for o in DIFFERENTIABLE if o not in ({}, {"scale": "minmax"}, {"bound": "ambiguous", "margin": 0.9})]
OTHERS += [{"detach_target": False}, {"detach_mask": True}, {"bound": "ambiguous", "margin": 0.02}]


@pytest.mark.parametrize("options", OTHERS, ids=lambda o: "-".join(map(str, o.values())))
def test_every_option_changes_a_value_or_a_gradient(options):
    "An option that changes nothing is not built. (Least and largest: a focus that is zero somewhere has both alike; see below.)"
    present, results = torch.tensor([[True, True], [True, False], [True, True]]), []
    for choices in (LossChoices(), LossChoices(**options)):
        model = opened(persons=2)
        x = batch() * present[:, None, None, None, :]
        labels = (model.run(x).logits.argmax(1).detach() + torch.tensor([1, 0, 0])) % 4
        losses = Objective(ALL, balance="fixed", choices=choices)(model, x, labels, present, TERMS)
        losses.total.backward()
        results.append((losses.total.item(), torch.cat([p.grad.flatten() for p in model.parameters()]), model.data_norm.running_mean.clone()))
    same = [torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-9) for a, b in zip(*results)]
    assert not all(same)


def test_scales_of_a_focus():
    Q = torch.rand(3, 4, 5, dtype=torch.float64) + 0.1
    least, most = (f(Q.flatten(1), 1)[:, None, None] for f in (torch.amin, torch.amax))
    torch.testing.assert_close(normalise(Q, "minmax"), (Q - least) / (most - least))
    torch.testing.assert_close(normalise(Q, "norm").flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(normalise(Q, "sigmoid"), 1 / (1 + (-Q).exp()))
    for how in ("maximum", "minmax", "norm"):
        assert normalise(torch.zeros(1, 4, 5), how).abs().max() == 0


def test_a_loss_choice_that_does_not_exist_is_refused():
    with pytest.raises(TypeError):
        LossChoices(scales="norm")


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


REST = ("divergence", "adjacency", "coherence")


@pytest.mark.parametrize(
    "separation,plans",
    [
        ("batches", {(0, 0, 0.6): (("exploration",),), (1, 0, 0.6): (REST,)}),
        ("epochs", {(1, 0, 0.6): (("exploration",),), (0, 1, 0.6): (REST,)}),
        ("phases", {(1, 1, 0.6): (("exploration",),), (0, 0, 0.8): (REST,)}),
        ("steps", {(0, 0, 0.6): (("exploration",), REST)}),
        ("none", {(0, 0, 0.6): (TERMS,)}),
    ],
)
def test_exploration_is_separated_from_the_rest(separation, plans):
    objective = Objective(ALL, warmup=0.5, separation=separation)
    assert objective.plan(0, 0, 0.4) == ((),)
    for place, plan in plans.items():
        assert objective.plan(*place) == plan
    assert Objective({}, warmup=0.0, separation=separation).plan(0, 0, 0.5) == ((),)
    named = {t for s in range(4) for names in objective.plan(s, s, 0.5 + s / 8) for t in names}
    assert named == set(TERMS)  # no term is forgotten


def sized(objective, **sizes):
    return objective._factors({k: torch.tensor(v) for k, v in sizes.items()}, {})


def test_balance_gives_each_term_its_share_and_is_capped():
    objective = Objective({"coherence": 0.2}, cap=3.0)
    for _ in range(300):
        factor = sized(objective, cross_entropy=2.0, coherence=5.0)["coherence"]
    assert factor * 5.0 == pytest.approx(0.2 * 2.0)
    for _ in range(300):
        factor = sized(objective, cross_entropy=2.0, coherence=1e-9)["coherence"]
    assert factor == 3.0


def test_frozen_and_fixed_factors_do_not_follow_the_terms():
    frozen, fixed = (Objective({"coherence": 0.2}, balance=b) for b in ("frozen", "fixed"))
    for objective, expected in ((frozen, 0.2 * 2 / 5), (fixed, 0.2)):
        first = sized(objective, cross_entropy=2.0, coherence=5.0)["coherence"]
        later = sized(objective, cross_entropy=0.1, coherence=9.0)["coherence"]
        assert first == later == pytest.approx(expected)
    again = Objective({"coherence": 0.2}, balance="frozen")
    again.restore(frozen.state())
    assert sized(again, cross_entropy=1.0, coherence=1.0)["coherence"] == pytest.approx(0.08)


def test_balance_over_two_processes_is_that_of_all_clips():
    "What `reduce` adds up is sums and counts, so a process without a right prediction does not count."
    other = {"cross_entropy": (4.0, 1.0), "exploration": (0.3, 2.0)}  # the second process: size, count
    objective = Objective({"exploration": 0.5}, cap=100.0)
    objective.reduce = lambda table: table + torch.tensor([[s * c for s, c in other.values()], [c for _, c in other.values()]])
    terms = {"cross_entropy": torch.tensor(2.0), "exploration": torch.tensor(0.0)}
    factors = objective._factors(terms, {"exploration": torch.tensor(0)})
    assert objective.means == pytest.approx({"cross_entropy": 3.0, "exploration": 0.3}) and factors["exploration"] == pytest.approx(0.5 * 3.0 / 0.3)
    objective.reduce = lambda table: table + float("nan")
    with pytest.raises(FloatingPointError, match="cross_entropy, exploration"):  # every process hears of it
        objective._factors(terms, {})


def test_the_masked_pass_leaves_no_trace_in_batch_norm():
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with frozen_statistics(model):
        model(batch())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_msg3d_cannot_have_the_adjacency_term():
    x, present = batch(), torch.ones(3, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="STF"):
        Objective({"adjacency": 0.1}, warmup=0.0)(network(MSG3D), x, torch.tensor([0, 1, 2]), present, ("adjacency",))


def test_nan_names_the_term():
    x = batch()
    x[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="cross_entropy"):
        Objective()(network(), x, torch.tensor([0, 1, 2]), torch.ones(3, 2, dtype=torch.bool))


def test_a_batch_without_a_right_prediction_leaves_the_balance_alone():
    model, x, present = network(), batch(), torch.ones(3, 2, dtype=torch.bool)
    predicted = model.run(x).logits.argmax(1)
    objective = Objective({"exploration": 0.1})
    losses = objective(model, x, (predicted + 1) % 4, present, ("exploration",))
    assert losses.terms["exploration"] == 0 and "exploration" not in objective.means and losses.total == losses.terms["cross_entropy"]
    assert objective(model, x, model.run(x).logits.argmax(1), present, ("exploration",)).terms["exploration"] > 0


def test_a_foreign_network_that_does_not_fold_bodies():
    "The losses need a run(x) with logits and maps, nothing else."
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
    objective = Objective({"exploration": 0.1, "divergence": 0.1, "coherence": 0.1})
    losses = objective(model, x, labels, present, ("exploration", "divergence", "coherence"))
    losses.total.backward()
    assert set(losses.terms) == {"cross_entropy", "exploration", "divergence", "coherence"}
    assert all(p.grad.isfinite().all() for p in model.parameters())


MODULES = [{"map": "input"}, {"map": "block"}, {"modules": "windows"}, {"beta": "relu"}, {"beta": "bottleneck"}, {"alpha": "mean"}, {"alpha": "gram"}]
MODULES += [{"activation": "softmax"}, {"activation": "none"}, {"entry": "multiply"}, {"entry": "replace_residual"}, {"entry": "replace_both"}]
MODULES += [{"g3d": "none"}, {"g3d": "window"}, {"g3d": "window", "modules": "windows"}]


@pytest.mark.parametrize("options", MODULES, ids=lambda o: "-".join(o.values()))
def test_every_choice_of_modules_trains_with_exact_gradients_and_starts_where_it_says(options):
    two = {**SIZE, "windows": (3, 5)} if options.get("modules") == "windows" else SIZE
    torch.manual_seed(0)
    model = STF(4, LAYOUTS["ntu25"], frames=8, num_persons=1, choices=ModuleChoices(**options, detach_input=False), **two).double().train()
    x, present = batch(persons=1), torch.ones(3, 1, dtype=torch.bool)
    plain = MSG3D(4, LAYOUTS["ntu25"], num_persons=1, **two).double().train()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("stf.")}
    if options.get("entry") == "replace_residual":
        state = {k: torch.zeros_like(v) if k.endswith("residual") else v for k, v in state.items()}
    plain.load_state_dict(state)
    start = torch.allclose(model.run(x).logits, plain.run(x).logits, atol=1e-10)
    assert start == (options.get("entry") != "replace_both")
    for m in model.stf.values():
        torch.nn.init.constant_(m.gate, 1.0)
    labels = model.run(x).logits.argmax(1).detach()
    value = lambda: Objective(ALL, balance="fixed", choices=LossChoices(detach_target=False))(model, x, labels, present, TERMS).total
    exact, difference, grads = slopes(value, [p for p in model.parameters() if p.requires_grad], torch.Generator().manual_seed(4))
    assert difference == pytest.approx(exact, rel=1e-5)
    assert len(model.run(x).maps) == 6 and {g.shape[0] for g in model.run(x).adjacency.values()} == {3}


@pytest.mark.parametrize("entry", ["add", "replace_residual", "multiply", "replace_both"])
def test_matrices_enter_as_a_loop_over_nodes_says(entry):
    "Both units, every entry (choice C12), a matrix a body: against sums over nodes."
    torch.manual_seed(0)
    V, K, T = 15, 2, 4
    layout, x = LAYOUTS["sbu15"], torch.randn(2, 3, T, V, dtype=torch.float64)
    for unit, w in ((MultiScaleGraphConv(layout, 3, 6, K), 1), (WindowGraphConv(layout, 3, 6, 6, 3, 1, K), 3)):
        unit = unit.double().eval()
        unit.fast, unit.entry = False, entry
        torch.nn.init.normal_(unit.residual)
        G = torch.randn(2, K, V, V, dtype=torch.float64)
        padded = torch.nn.functional.pad(x, (0, 0, w // 2, w // 2))
        nodes = [(s, v) for s in range(w) for v in range(V)]
        sums = torch.zeros(2, K, 3, T, w * V, dtype=torch.float64)
        for b in range(2):
            for k in range(K):
                A, R = unit.adjacency[k], unit.residual[k]
                for i, (_, v) in enumerate(nodes):
                    for j, (s, u) in enumerate(nodes):
                        g = G[b, k, v, u]
                        a = {"add": A[i, j] + R[i, j] + g, "replace_residual": A[i, j] + g, "multiply": A[i, j] * (1 + g) + R[i, j], "replace_both": g}[entry]
                        sums[b, k, :, :, i] += a * padded[b, :, s : s + T, u]
        out = unit.norm(unit.mix(sums.flatten(1, 2))).relu()
        if w > 1:
            out = unit.collapse_norm(unit.collapse(out.unflatten(3, (w, V))).squeeze(3))
        torch.testing.assert_close(unit(x, G), out)


def test_alphas_against_their_formulas():
    focus_volume, V, K, T = torch.rand(2, 6, 15), 15, 3, 6
    time, mean, gram = (Alpha(T, V, K, ModuleChoices(alpha=a, activation="none")) for a in ("time", "mean", "gram"))
    W, b = time.read.weight.view(K, V, T), time.read.bias.view(K, V, 1)
    torch.testing.assert_close(time(focus_volume) * V, torch.einsum("kvt,ntu->nkvu", W, focus_volume) + b)
    torch.testing.assert_close(mean(focus_volume) * V, mean.read(focus_volume.mean(1)).view(2, K, V, V))
    expected = torch.einsum("ntv,ntu->nvu", focus_volume, focus_volume)[:, None] / T * gram.scale + gram.shift
    torch.testing.assert_close(gram(focus_volume) * V, expected)
    rows = Alpha(T, V, K, ModuleChoices(activation="softmax"))(focus_volume).sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))


def test_masking_the_true_evidence_lowers_exploration_and_masking_the_rest_does_not(tmp_path):
    """Walking and running on the spot, a network that tells them apart, and the known truth as focus. (Not waving left and right:
    which hand is masked would tell which one waved.)"""
    from stf_repro.data.made.actions import SyntheticConfig
    from stf_repro.data.made.files import make_synthetic, read_truth
    from stf_repro.data.formats import read_ntu

    make_synthetic(tmp_path, SyntheticConfig(seed=0, subjects=12))
    truth, clips = read_truth(tmp_path / "truth.jsonl"), []
    for path in sorted(tmp_path.glob("*A005.skeleton")) + sorted(tmp_path.glob("*A006.skeleton")):
        recording = read_ntu(path)
        if len(recording.bodies) == 1 and len(recording.bodies[0]) >= 40:
            clips.append((recording.bodies[0][:40:2] - recording.bodies[0][:1, 1:2], truth[path.stem][0][:40:2], int(path.stem[-3:]) - 5))
    x = torch.stack([torch.as_tensor(c, dtype=torch.float32).permute(2, 0, 1).unsqueeze(-1) for c, _, _ in clips])  # (N, 3, 20, 25, 1)
    mask, labels = torch.stack([torch.as_tensor(m, dtype=torch.float32) for _, m, _ in clips]), torch.tensor([c for _, _, c in clips])
    torch.manual_seed(0)
    model = MSG3D(2, LAYOUTS["ntu25"], 1, **SIZE)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(25):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimiser.step()
    right = model(x).argmax(1) == labels
    assert right.float().mean() > 0.95
    free = (~mask.bool().any(0).any(0)).nonzero().flatten()  # joints that never matter
    others = torch.zeros_like(mask)
    others[:, :, free] = mask.amax(2, keepdim=True)  # in the same frames
    with frozen_statistics(model):
        survives = lambda q: exploration(model(masked(x, q)), labels, right).item()
        whole, without_evidence, without_others = survives(torch.zeros_like(mask)), survives(mask), survives(others)
    assert whole > 0.9
    assert without_evidence < without_others - 0.2


@pytest.mark.parametrize("options", [{"entry": "replace_residual"}, {"entry": "replace_both", "g3d": "none"}, {"modules": "windows"}], ids=str)
def test_every_parameter_that_learns_is_reached_and_every_map_fits(options):
    "A parameter that nothing depends on would stop a distributed training; maps of two blocks differ in length."
    model = network(persons=1, choices=ModuleChoices(**options)).train()
    x, present, labels = batch(persons=1), torch.ones(3, 1, dtype=torch.bool), torch.arange(3)
    Objective(ALL)(model, x, labels, present, TERMS).total.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
