"Focus and losses against brute force, finite differences and properties."

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stf_repro.model.focus import class_score, foci, focus, normalise, stretch, top_scores
from stf_repro.model.losses import coherence, divergence, exploration, frozen_statistics, masked, mean, norm
from stf_repro.model.contract import Output, add
from stf_repro.model.nets.msg3d import MSG3D, MultiScaleGraphConv, WindowGraphConv
from stf_repro.model.objective import TERMS, FocusReading, Objective, alternate, exploration_mask, size_table
from stf_repro.model.stf import with_stf
from stf_repro.model.options import (
    CHOICES,
    FallingBalance,
    FixedBalance,
    FrozenBalance,
    GramAlpha,
    MeanAlpha,
    TimeAlpha,
    RunningBalance,
    WindowBalance,
    alone,
    arguments,
    attached,
    elementwise,
    epochs,
    heard_with_gradient,
    hinged,
    multiply,
    phases,
    raw,
    replace_residual,
    row_softmax,
    steps,
    together,
    unit_norm,
)
from stf_repro.skeleton import LAYOUTS

SIZE = dict(width=6, num_gcn_scales=2, num_g3d_scales=2, windows=(3,))


def network(kind=with_stf, persons=2, **more):
    torch.manual_seed(0)
    model = MSG3D(4, LAYOUTS["ntu25"], num_persons=persons, **SIZE)
    return (with_stf(model, 8, **more) if kind is with_stf else model).double()


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


def test_foci_equal_separate_ones_and_keep_their_graph_where_asked():
    model = network().train()
    out = model.run(batch())
    score, maps = out.logits[:, 1], list(out.maps.values())
    separate = [focus(score, [X])[0] for X in maps]
    for learned in ((), ("g3d3",), ("gcn3", "g3d3"), ("gcn1",), tuple(out.maps)):
        for (name, q), expected in zip(foci(score, out.maps, learned).items(), separate):
            torch.testing.assert_close(q, expected)
            assert q.requires_grad == (name in learned)


def test_a_focus_without_a_graph_says_what_to_do():
    "Under no_grad, in inference mode, with frozen weights; and it works where the message says."
    model, x = network().eval(), batch()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            out = model.run(x)
        with pytest.raises(ValueError, match="outside torch.no_grad"):
            focus(out.logits[:, 0], list(out.maps.values()))
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"x.requires_grad_\(\)"):
        foci(model.run(x).logits[:, 0], model.run(x).maps)
    out = model.run(x.requires_grad_())
    assert all(q.isfinite().all() for q in foci(out.logits[:, 0], out.maps).values())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(0, 2**31))
def test_closed_form_of_a_pooled_map(N, M, T, seed):
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(N * M, 5, T, 4, generator=g, dtype=torch.float64, requires_grad=True)
    W = torch.randn(3, 5, generator=g, dtype=torch.float64)
    logits = X.mean((2, 3)).view(N, M, 5).mean(1) @ W.T
    classes = logits.argmax(1)
    w = W[classes].repeat_interleave(M, 0) / (T * 4 * M)
    closed = torch.einsum("bc,bctv->btv", w, X).relu()
    torch.testing.assert_close(closed, focus(class_score(logits, classes), [X])[0])


def slopes(value, params, g, steps=(1e-7, 1e-8, 2e-9)):
    """The derivative along a random direction: by autograd, and by central differences.
    A kink between the two ends (a ReLU, a maximum) spoils one difference, a wrong derivative spoils all: of three, the best counts."""
    grads = torch.autograd.grad(value(), params, allow_unused=True)
    directions = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in params]
    exact = sum((d * gr).sum() for d, gr in zip(directions, grads) if gr is not None).item()
    start, differences = [p.data.clone() for p in params], []
    for h in steps:
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
    model = network(persons=persons, taught_on=attached, hears=heard_with_gradient).train()
    for m in model.stf.values():
        torch.nn.init.constant_(m.gate, 5.0)
    return model


ALL = {t: 0.1 for t in TERMS}
LEARNED = {"target_gradient": "attached"}  # all terms are then plain functions of the weights


def objective_of(choices: dict[str, str], **more) -> Objective:
    "The objective that reads the open points in this way."
    taken = arguments(choices)
    taken.pop("stf", None)
    reading, own = FocusReading(**taken.pop("focus", {})), taken.pop("objective", {})
    return Objective(**{"relative_weights": ALL, "reading": reading, "choices": taken, **own, **more})


CUT = {
    ("mask_gradient", "detached"),
    ("mask_gradient", "shuffled"),
    ("focus_weights", "first_order"),
    ("coherence_leader", "later"),
}  # options that cut a gradient on purpose

# every option that is not the default and acts on one step, but those that cut a gradient on purpose
DIFFERENTIABLE = [{}] + [
    {name: option}
    for name, choice in CHOICES.items()
    for option in list(choice.options)[1:]
    if not name.startswith("stf_")
    and (name, option) not in CUT | {("target_gradient", "attached")}
    and name not in ("separation", "balance")
]


@pytest.mark.parametrize("options", DIFFERENTIABLE, ids=lambda o: "-".join(map("-".join, o.items())) or "defaults")
def test_gradient_of_the_total_equals_central_differences(options):
    "Float64, batch norm in training mode, gates open, two bodies: along a random direction in the space of all weights."
    model, present = opened(persons=2), torch.tensor([[True, True], [True, False], [True, True]])
    x = batch() * present[:, None, None, None, :]
    labels = model.run(x).logits.argmax(1).detach()
    labels[0] = (labels[0] + 1) % 4

    def value():
        # fixed factors: the running means of a balance would move between two evaluations
        return objective_of(options | LEARNED, balance=FixedBalance)(
            model, x, labels, present, ("cross_entropy", *TERMS)
        ).total

    with frozen_statistics(model):
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
    by_hand = exploration(model.run(masked(x, Q["g3d3"].unsqueeze(1))).logits, labels, torch.ones(3, dtype=torch.bool))
    ours = Objective({"exploration": 0.1}, choices={"exploration": {"mask": torch.Tensor.detach}})(
        model, x, labels, present, ("exploration",)
    )
    g = torch.Generator().manual_seed(3)
    for a, b in zip(
        torch.autograd.grad(by_hand, params, allow_unused=True),
        torch.autograd.grad(ours.terms["exploration"], params, allow_unused=True),
    ):
        torch.testing.assert_close(a, b)
    constant = lambda: torch.stack(
        [(stretch(Q[n], b.shape[1]) - b).flatten(1).norm(dim=1).mean() for n, b in model.run(x).beta.items()]
    ).mean()
    ours = Objective({"adjacency": 0.1})(model, x, labels, present, ("adjacency",)).terms["adjacency"]
    exact, difference, grads = slopes(constant, params, g)
    assert difference == pytest.approx(exact, rel=1e-5)
    for a, b in zip(torch.autograd.grad(ours, params, allow_unused=True), grads):
        torch.testing.assert_close(a, b)


def test_the_adjacency_term_teaches_beta_alone():
    "Detached from Q and from the features; and its values are those of the term that is not."
    model, x, present, labels = (
        network(persons=1, hears=heard_with_gradient).train(),
        batch(persons=1),
        torch.ones(3, 1, dtype=torch.bool),
        torch.arange(3),
    )
    free = opened()
    free.load_state_dict(model.state_dict())
    values = [
        Objective({"adjacency": 0.1})(m, x, labels, present, ("adjacency",)).terms["adjacency"] for m in (model, free)
    ]
    assert values[0].item() == values[1].item()
    values[0].backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()} == {
        n for n, _ in model.named_parameters() if ".beta." in n
    }


OTHERS = [o for o in DIFFERENTIABLE if o] + [LEARNED, *({name: option} for name, option in sorted(CUT))]


@pytest.mark.parametrize("options", OTHERS, ids=lambda o: "-".join(map("-".join, o.items())))
def test_every_option_changes_a_value_or_a_gradient(options):
    "An option that changes nothing is not built."
    present, results = torch.tensor([[True, True], [True, False], [True, True]]), []
    for choices in ({}, options):
        model = opened(persons=2)
        x = batch() * present[:, None, None, None, :]
        labels = (model.run(x).logits.argmax(1).detach() + torch.tensor([1, 0, 0])) % 4
        losses = objective_of(choices, balance=FixedBalance)(model, x, labels, present, ("cross_entropy", *TERMS))
        losses.total.backward()
        results.append((losses.total.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    same = [torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-9) for a, b in zip(*results)]
    assert not all(same)


def test_scales_and_forms_of_a_focus():
    Q = torch.rand(3, 4, 5, dtype=torch.float64) + 0.1
    torch.testing.assert_close(normalise(Q).amax((1, 2)), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(unit_norm(Q).flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64))
    for scale in (normalise, unit_norm, raw):
        assert scale(torch.zeros(1, 4, 5)).abs().max() == 0
    g, X = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    by_hand = torch.stack([sum(g[b, c] * X[b, c] for c in range(3)).clamp(min=0) for b in range(2)])
    torch.testing.assert_close(elementwise(g, X), by_hand)


def test_a_hinge_asks_for_a_quarter_of_the_largest_distance_and_no_more():
    near, far = torch.full((1, 4, 9), 0.1), torch.ones(1, 4, 9)
    nothing = torch.zeros(1, 4, 9)
    torch.testing.assert_close(hinged(near, nothing), norm(near, nothing))
    assert hinged(far, nothing).item() == 1.5  # a quarter of the root of 36


def test_a_choice_that_does_not_exist_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'focus_scale'"):
        arguments({"focus_scales": "norm"})
    with pytest.raises(ValueError, match="no option 'nrom'; it has: maximum, norm, none"):
        arguments({"focus_scale": "nrom"})


def test_choices_do_not_overwrite_each_other():
    "All pairs: both are in what is handed on, or the pair is refused."
    options = [(name, option) for name, choice in CHOICES.items() for option in choice.options]
    refused = set()
    for (a, x), (b, y) in itertools.combinations(options, 2):
        if a == b:
            continue
        try:
            both = arguments({a: x, b: y})
        except ValueError as error:
            assert a in str(error) and b in str(error)
            refused.add((a, b))
            continue
        for name, option in ((a, x), (b, y)):
            if option != next(iter(CHOICES[name].options)):
                assert all(
                    both[who][argument] is CHOICES[name].options[option] for who, argument in CHOICES[name].takers
                ), (a, x, b, y)
    assert refused == {("distance", "divergence_bound")}


def test_the_choices_are_those_of_the_page_and_begins_with_the_defaults(root):
    "CHOICES.md names each choice and each option under its heading; the first option is what the core takes by itself."
    import dataclasses
    import inspect

    parts = (root / "CHOICES.md").read_text().split("\n### ")[1:]
    rows = {part.partition(":")[0]: part.partition("\n## ")[0] for part in parts}
    takers = {**TERMS, "objective": Objective, "focus": FocusReading}
    for name, choice in CHOICES.items():
        assert f"`{name}`" in rows[choice.row], name
        assert all(f"`{option}`" in rows[choice.row] for option in choice.options), name
        first = next(iter(choice.options.values()))
        for who, argument in choice.takers:
            if who == "stf":
                from stf_repro.model.stf import STFModule

                default = inspect.signature(with_stf if argument == "join" else STFModule).parameters[argument].default
            elif dataclasses.is_dataclass(takers[who]):
                default = next(f.default for f in dataclasses.fields(takers[who]) if f.name == argument)
            else:
                default = {
                    **inspect.signature(takers[who]).parameters,
                    **inspect.signature(exploration_mask).parameters,
                }[argument].default
            if callable(default) and default.__name__ == "<lambda>":  # the same function, in one line
                stub = type(
                    "P",
                    (),
                    {
                        "right": torch.tensor([True]),
                        "maps": torch.ones(1),
                        "modules": ["a", "b"],
                        "mean_focus": lambda self, names: torch.tensor([float("ab".index(n)) for n in names]),
                    },
                )()
                probe = stub if argument in ("counted", "place", "evidence") else torch.randn(2, 3)
                assert torch.equal(default(probe), first(probe)), name
            else:
                assert default == first, name


def test_a_term_of_ones_own_is_a_function_and_a_row(monkeypatch, root):
    "Written on the fly, with a share in a configuration: a step trains with it, and derivatives reach the weights."
    from stf_repro.data.registry import get_benchmark
    from stf_repro.training.config import parse
    from stf_repro.training.loop import build_model, build_objective

    def concise(forward):
        Q, bodies = forward.focus(forward.modules[-1]), forward.bodies()
        return mean(Q.mean((1, 2)), bodies), bodies.sum()

    section = {"group": "t", "label": "own", "source": "synth60", "benchmark": "synth60-xsub", "input": {"frames": 16}}
    section |= {
        "network": {"width": 6, "num_gcn_scales": 2, "num_g3d_scales": 2, "windows": [3]},
        "objective": {"relative_weights": {"concise": 0.5}, "warmup": 0.0},
    }
    with pytest.raises(ValueError, match="concise"):
        parse(section)
    monkeypatch.setitem(TERMS, "concise", concise)
    config = parse(section)
    torch.manual_seed(0)
    model, objective = build_model(config, get_benchmark(config.benchmark)), build_objective(config)
    x, present = torch.randn(4, 3, 16, 25, 2), torch.ones(4, 2, dtype=torch.bool)
    values, optimiser = [], torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(12):
        (names,) = objective.plan(2 * step + 1, 0, 0.5)
        losses = objective(model, x, torch.arange(4), present, names)
        optimiser.zero_grad()
        losses.terms["concise"].backward()
        optimiser.step()
        values.append(losses.terms["concise"].item())
    assert names == ("cross_entropy", "concise") and losses.factors["concise"] > 0
    assert values[-1] < values[0]


def test_stf_with_shut_gates_is_msg3d():
    stf = network().eval()
    for m in stf.stf.values():
        torch.nn.init.zeros_(m.gate)
    plain = network(MSG3D).eval()
    plain.load_state_dict({k: v for k, v in stf.state_dict().items() if not k.startswith("stf.")})
    torch.testing.assert_close(
        stf(batch()), plain(batch())
    )  # float64: a matrix per body is another product than one for all


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


# L_Gk moves beta alone, and acts in the last step on any batch
FIRST, REST = ("cross_entropy", "exploration"), ("cross_entropy", "divergence", "coherence", "adjacency")


@pytest.mark.parametrize(
    "schedule,plans",
    [
        (alternate, {(0, 0, 0.6): ((*FIRST, "adjacency"),), (1, 0, 0.6): (REST,)}),
        (alone, {(0, 0, 0.6): (("exploration", "adjacency"),), (1, 0, 0.6): (REST,)}),
        (epochs, {(1, 0, 0.6): ((*FIRST, "adjacency"),), (0, 1, 0.6): (REST,)}),
        (phases, {(1, 1, 0.6): ((*FIRST, "adjacency"),), (0, 0, 0.8): (REST,)}),
        (steps, {(0, 0, 0.6): (FIRST, REST)}),
        (together, {(0, 0, 0.6): (("cross_entropy", "exploration", "divergence", "coherence", "adjacency"),)}),
    ],
)
def test_exploration_is_separated_from_the_rest(schedule, plans):
    objective = Objective(ALL, warmup=0.5, schedule=schedule)
    assert objective.plan(0, 0, 0.4) == (("cross_entropy",),)
    for place, plan in plans.items():
        assert objective.plan(*place) == plan
    assert Objective({}, warmup=0.0, schedule=schedule).plan(0, 0, 0.5) == (("cross_entropy",),)
    named = {t for s in range(4) for names in objective.plan(s, s, 0.5 + s / 8) for t in names}
    assert named == {"cross_entropy", *TERMS}
    seldom = Objective(ALL, warmup=0.0, schedule=schedule, teach_every=3)
    assert ["adjacency" in seldom.plan(step, 0, 0.5)[-1] for step in range(6)] == [
        False,
        False,
        True,
    ] * 2  # no term is forgotten


def note(objective, found):
    "What a step notes of its terms."
    objective.note(tuple(found), size_table(found))


def sized(objective, **sizes):
    "The factors after a step with terms of these sizes."
    note(objective, {k: (torch.tensor(v), torch.tensor(1)) for k, v in sizes.items()})
    objective.settle()
    return {k: objective.balanced.factor(k) for k in sizes}


def test_balance_gives_each_term_its_share_and_is_capped():
    objective = Objective({"coherence": 0.2}, cap=3.0, balance=RunningBalance)
    for _ in range(300):
        factor = sized(objective, cross_entropy=2.0, coherence=5.0)["coherence"]
    assert factor * 5.0 == pytest.approx(0.2 * 2.0)
    for _ in range(300):
        factor = sized(objective, cross_entropy=2.0, coherence=1e-9)["coherence"]
    assert factor == 3.0


def test_frozen_and_fixed_factors_do_not_follow_the_terms():
    frozen, fixed = (Objective({"coherence": 0.2}, balance=b) for b in (FrozenBalance, FixedBalance))
    for objective, expected in ((frozen, 0.2 * 2 / 5), (fixed, 0.2)):
        first = sized(objective, cross_entropy=2.0, coherence=5.0)["coherence"]
        later = sized(objective, cross_entropy=0.1, coherence=9.0)["coherence"]
        assert first == later == pytest.approx(expected)
    again = Objective({"coherence": 0.2}, balance=FrozenBalance)
    again.restore(frozen.state())
    assert sized(again, cross_entropy=1.0, coherence=1.0)["coherence"] == pytest.approx(0.08)


@pytest.mark.parametrize("balance", [FrozenBalance, WindowBalance, RunningBalance, FallingBalance])
@pytest.mark.parametrize("stopped", [5, 30])
def test_factors_go_on_from_a_checkpoint(balance, stopped):
    "A fresh objective that takes over the state gives the same factors as one that was not stopped."
    make = lambda: Objective({"coherence": 0.2}, balance=balance)
    whole, first, seen, again = make(), make(), [], []
    for step in range(60):
        sizes = dict(cross_entropy=2.0 + step / 9, coherence=5.0 if step < 40 else 1.0)
        seen.append(sized(whole, **sizes)["coherence"])
        if step == stopped:
            state, first = first.state(), make()
            first.restore(state)
        again.append(sized(first, **sizes)["coherence"])
    assert again == seen
    if balance is WindowBalance:
        assert len(set(seen[WindowBalance.window :])) == 1 < len(set(seen))
    if balance is FallingBalance:
        running = Objective({"coherence": 0.2}, balance=RunningBalance)
        assert (
            seen == sorted(seen, reverse=True)
            and sized(running, cross_entropy=2.0, coherence=1.0)["coherence"] > seen[-1]
        )


def test_balance_over_two_processes_is_that_of_all_clips():
    "What `reduce` adds up is sums and counts, so a process without a right prediction does not count."
    other = {"cross_entropy": (4.0, 1.0), "exploration": (0.3, 2.0)}  # the second process: size, count
    objective = Objective({"exploration": 0.5}, cap=100.0)
    objective.reduce = lambda table: (
        table + torch.tensor([[s * c for s, c in other.values()], [c for _, c in other.values()]])
    )
    found = {"cross_entropy": (torch.tensor(2.0), torch.tensor(1)), "exploration": (torch.tensor(0.0), torch.tensor(0))}
    note(objective, found)
    objective.settle()
    assert objective.balanced.means == pytest.approx({"cross_entropy": 3.0, "exploration": 0.3})
    assert objective.balanced.factor("exploration") == pytest.approx(0.5 * 3.0 / 0.3)
    objective.reduce = lambda table: table + float("nan")
    with pytest.raises(FloatingPointError, match="cross_entropy, exploration"):  # every process hears of it
        note(objective, found)
        objective.settle()


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


def test_one_class_has_nothing_to_diverge_from():
    "And a network with one class trains on all other terms."
    torch.manual_seed(0)
    model = with_stf(MSG3D(1, LAYOUTS["ntu25"], 1, **SIZE), 8).double()
    x, present, labels = batch(persons=1), torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match="one class: leave the term out"):
        Objective(ALL)(model, x, labels, present, ("divergence",))
    losses = Objective(ALL)(model, x, labels, present, ("exploration", "adjacency", "coherence"))
    losses.total.backward()
    assert losses.total.isfinite()


@pytest.mark.parametrize("bad", [-1, 4, 60])
def test_a_label_that_is_no_class_is_named(bad):
    with pytest.raises(ValueError, match=rf"1 of 3 labels are no classes.*{bad}: 4 classes are counted from 0 to 3"):
        Objective()(network(), batch(), torch.tensor([0, bad, 2]), torch.ones(3, 2, dtype=torch.bool))


def test_nan_names_the_term():
    x = batch()
    x[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="cross_entropy"):
        Objective()(network(), x, torch.tensor([0, 1, 2]), torch.ones(3, 2, dtype=torch.bool))


def test_a_batch_without_a_right_prediction_leaves_the_balance_alone():
    model, x, present = network(), batch(), torch.ones(3, 2, dtype=torch.bool)
    predicted = model.run(x).logits.argmax(1)
    objective = Objective({"exploration": 0.1})
    losses = objective(model, x, (predicted + 1) % 4, present, ("cross_entropy", "exploration"))
    assert (
        losses.terms["exploration"] == 0
        and "exploration" not in objective.balanced.means
        and losses.total == losses.terms["cross_entropy"]
    )
    assert objective(model, x, model.run(x).logits.argmax(1), present, ("exploration",)).terms["exploration"] > 0


def test_a_foreign_network_that_does_not_fold_bodies():
    "The losses need a run(x, present) with logits and maps, nothing else."

    class Foreign(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = torch.nn.Conv2d(6, 8, 1), torch.nn.Conv2d(8, 8, 1), torch.nn.Linear(8, 4)
            self.norm = torch.nn.BatchNorm2d(8, track_running_stats=False)

        def run(self, x, present=None):  # bodies are channels here
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


MODULES = [
    {name: option}
    for name, choice in CHOICES.items()
    if name.startswith("stf_")
    for option in list(choice.options)[1:]
    if name not in ("stf_taught_on", "stf_heard", "stf_gate")
]


@pytest.mark.parametrize("options", MODULES, ids=lambda o: "-".join(map("-".join, o.items())))
def test_every_choice_of_modules_trains_with_exact_gradients_and_starts_where_it_says(options):
    torch.manual_seed(0)
    model = (
        with_stf(
            MSG3D(4, LAYOUTS["ntu25"], num_persons=1, **SIZE),
            frames=8,
            **{"taught_on": attached, "hears": heard_with_gradient, **arguments(options)["stf"]},
        )
        .double()
        .train()
    )
    x, present = batch(persons=1), torch.ones(3, 1, dtype=torch.bool)
    plain = MSG3D(4, LAYOUTS["ntu25"], num_persons=1, **SIZE).double().train()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("stf.")}
    if options.get("stf_join") == "replace_residual":
        state = {k: torch.zeros_like(v) if k.endswith("residual") else v for k, v in state.items()}
    plain.load_state_dict(state)
    for m in model.stf.values():
        torch.nn.init.zeros_(m.gate)
    torch.testing.assert_close(model.run(x).logits, plain.run(x).logits, atol=1e-10, rtol=1e-7)  # the gate is shut
    for m in model.stf.values():
        torch.nn.init.constant_(m.gate, 1.0)
    labels = model.run(x).logits.argmax(1).detach()
    value = lambda: (
        objective_of(LEARNED, balance=FixedBalance)(model, x, labels, present, ("cross_entropy", *TERMS)).total
    )
    exact, difference, grads = slopes(value, list(model.parameters()), torch.Generator().manual_seed(4))
    assert difference == pytest.approx(exact, rel=1e-5)
    assert len(model.run(x).maps) == 6 and {g.shape[0] for g in model.run(x).G.values()} == {3}
    assert all(g is not None for g in grads)  # a parameter that nothing depends on would stop a distributed training


@pytest.mark.parametrize("join", [add, replace_residual, multiply])
def test_matrices_enter_as_a_loop_over_nodes_says(join):
    "Both units, every way for G to enter, a matrix per body: against sums over nodes."
    torch.manual_seed(0)
    V, K, T = 15, 2, 4
    layout, x = LAYOUTS["sbu15"], torch.randn(2, 3, T, V, dtype=torch.float64)
    for unit, w in ((MultiScaleGraphConv(layout, 3, 6, K), 1), (WindowGraphConv(layout, 3, 6, 6, 3, 1, K), 3)):
        unit = unit.double().eval()
        unit.join = join
        torch.nn.init.normal_(unit.residual)
        G = torch.randn(2, K, V, V, dtype=torch.float64)
        padded = torch.nn.functional.pad(x, (0, 0, w // 2, w // 2))
        nodes = [(s, v) for s in range(w) for v in range(V)]
        sums = torch.zeros(2, K, 3, T, w * V, dtype=torch.float64)
        for b in range(2):
            for k in range(K):
                A, R = unit.A[k], unit.residual[k]
                for i, (_, v) in enumerate(nodes):
                    for j, (s, u) in enumerate(nodes):
                        g = G[b, k, v, u]
                        a = {
                            add: A[i, j] + R[i, j] + g,
                            replace_residual: A[i, j] + g,
                            multiply: A[i, j] * (1 + g) + R[i, j],
                        }[join]
                        sums[b, k, :, :, i] += a * padded[b, :, s : s + T, u]
        out = unit.norm(unit.mix(sums.flatten(1, 2))).relu()
        if w > 1:
            out = unit.collapse_norm(unit.collapse(out.unflatten(3, (w, V))).squeeze(3))
        torch.testing.assert_close(unit(x, G), out)


def test_alphas_against_their_formulas():
    focus_volume, V, K, T = torch.rand(2, 6, 15), 15, 3, 6
    time, mean_, gram = (kind(T, V, K) for kind in (TimeAlpha, MeanAlpha, GramAlpha))
    W, b = time.read.weight.view(K, V, T), time.read.bias.view(K, V, 1)
    torch.testing.assert_close(time(focus_volume), torch.einsum("kvt,ntu->nkvu", W, focus_volume) + b)
    torch.testing.assert_close(mean_(focus_volume), mean_.read(focus_volume.mean(1)).view(2, K, V, V))
    expected = torch.einsum("ntv,ntu->nvu", focus_volume, focus_volume)[:, None] / T * gram.scale + gram.shift
    torch.testing.assert_close(gram(focus_volume), expected)
    rows = row_softmax(time(focus_volume)).sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))


@pytest.mark.slow
def test_masking_the_true_evidence_lowers_exploration_and_masking_the_rest_does_not(tmp_path):
    """Walking and running on the spot, a network that tells them apart, and the known truth as focus. (Not waving left and right:
    which hand is masked would tell which one waved.)"""
    from stf_repro.data.synthetic.actions import SyntheticConfig
    from stf_repro.data.synthetic.files import make_synthetic, read_truth
    from stf_repro.data.sets.ntu import read_ntu

    make_synthetic(tmp_path, SyntheticConfig(seed=0, subjects=12))
    truth, clips = read_truth(tmp_path / "truth.jsonl"), []
    for path in sorted(tmp_path.glob("*A005.skeleton")) + sorted(tmp_path.glob("*A006.skeleton")):
        recording = read_ntu(path)
        if len(recording.bodies) == 1 and len(recording.bodies[0]) >= 40:
            clips.append(
                (
                    recording.bodies[0][:40:2] - recording.bodies[0][:1, 1:2],
                    truth[path.stem][0][:40:2],
                    int(path.stem[-3:]) - 5,
                )
            )
    x = torch.stack(
        [torch.as_tensor(c, dtype=torch.float32).permute(2, 0, 1).unsqueeze(-1) for c, _, _ in clips]
    )  # (N, 3, 20, 25, 1)
    mask, labels = (
        torch.stack([torch.as_tensor(m, dtype=torch.float32) for _, m, _ in clips]),
        torch.tensor([c for _, _, c in clips]),
    )
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
        survives = lambda q: exploration(model(masked(x, q.unsqueeze(1))), labels, right).item()
        whole, without_evidence, without_others = survives(torch.zeros_like(mask)), survives(mask), survives(others)
    assert whole > 0.9
    assert without_evidence < without_others - 0.2


@pytest.mark.parametrize(
    "hand_out,message",
    [
        (lambda self, h: torch.zeros(1), "must return Output.*returned Tensor"),
        (
            lambda self, h: Output(self.head(h.mean((2, 3))), {}),
            "divergence: a term needs feature maps, and Toy hands out none",
        ),
        (
            lambda self, h: Output(self.head(h.mean((2, 3))), {"one": h.permute(0, 1, 3, 2).contiguous()}),
            "the very tensor",
        ),
    ],
)
def test_a_network_of_ones_own_is_told_what_to_hand_out(hand_out, message):
    class Toy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

        def run(self, x, present=None):
            return hand_out(self, self.layer(x[..., 0]))

    x, labels, present = torch.randn(2, 3, 5, 6, 1), torch.tensor([0, 1]), torch.ones(2, 1, dtype=torch.bool)
    with pytest.raises((TypeError, ValueError), match=message):
        Objective({"divergence": 0.1})(Toy(), x, labels, present, ("divergence",))
    with pytest.raises(TypeError, match="Linear has no `run`"):
        Objective({"divergence": 0.1})(nn.Linear(2, 2), x, labels, present, ("divergence",))
