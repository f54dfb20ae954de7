"The readings: where Q is taken, with which weights, and what that does to the terms."

import pytest
import torch
from test_losses import ALL, batch, network, opened, slopes
from torch.nn.functional import cross_entropy

from stf_repro.model.fast.passes import accelerate
from stf_repro.model.focus import focus, gradients, normalise
from stf_repro.model.losses import frozen_statistics
from stf_repro.model.nets.msg3d import MODULES, MSG3D
from stf_repro.model.objective import TERMS, FocusReading, Objective, ForwardPass
from stf_repro.model.readings import READINGS, read_as
from stf_repro.model.options import CHOICES, FixedBalance, arguments, fixed_gradients, soft_threshold

HERE = torch.ones(3, 1, dtype=torch.bool)


def objective_of(reading: str, **more) -> Objective:
    "The objective of a reading, with fixed factors."
    taken = arguments(read_as(reading, {"target_gradient": "attached", "coherence_leader": "both"}))
    taken.pop("stf", None)
    taken.pop("objective", None)
    return Objective(ALL, reading=FocusReading(**taken.pop("focus", {}) | more), choices=taken, balance=FixedBalance)


def recorded():
    "A `derive` that computes the weights of the focus once, and afterwards hands out the same numbers."
    known: list = []

    def derive(score, features, create_graph=False):
        if derive.calls == len(known):
            known.append([g.detach() for g in gradients(score, features, False)])
        derive.calls += 1
        return known[derive.calls - 1]

    derive.calls = 0
    return derive


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("term", TERMS)
def test_gradients_of_every_reading_equal_central_differences(reading, order, term):
    "Float64, batch norm in training mode. To first order the weights of the focus are numbers: in the differences, too."
    model, x = opened(), batch(persons=1)
    labels, derive = model.run(x).logits.argmax(1).detach(), gradients if order == "second" else recorded()
    objective = objective_of(reading, derive=derive)

    def value():
        derive.calls = 0
        return objective(model, x, labels, HERE, (term,)).terms[term]

    with frozen_statistics(model):
        exact, difference, _ = slopes(value, list(model.parameters()), torch.Generator().manual_seed(3))
        assert difference == pytest.approx(exact, rel=2e-5, abs=1e-12)
        if order == "first":  # the option computes the same gradient
            ours = objective_of(reading, derive=fixed_gradients)(model, x, labels, HERE, (term,)).terms[term]
            expected = torch.autograd.grad(value(), list(model.parameters()), allow_unused=True)
            for a, b in zip(torch.autograd.grad(ours, list(model.parameters()), allow_unused=True), expected):
                assert (a is None) == (b is None) and (a is None or torch.allclose(a, b, rtol=1e-9, atol=1e-15))


def test_beta_and_Q_of_a_module_lie_on_one_tensor():
    "What beta reads is the very map whose focus it predicts, with its frames, in the default."
    model, seen = network(persons=1).eval(), {}
    for name, module in model.stf.items():
        module.register_forward_pre_hook(lambda module, args, name=name: seen.__setitem__(name, args[0]))
    out = model.run(batch(persons=1))
    assert all(seen[name] is out.maps[name] for name in MODULES)
    assert all(
        out.beta[name].shape == normalise(Q).shape
        for name, Q in zip(MODULES, focus(out.logits[:, 0], list(out.maps.values())))
    )


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
@pytest.mark.parametrize("kind", ["msg3d", "stf"])
def test_the_pathways_of_a_block_share_values_and_not_gradients(fast, kind):
    "Their foci differ, and their gradients add up to that of the block's input."
    model = (opened() if kind == "stf" else network(MSG3D, persons=1)).eval()
    out = (accelerate(model) if fast else model).run(batch(persons=1), HERE)
    score = out.logits.amax(1).sum()
    for i in (1, 2, 3):
        a, b, whole = torch.autograd.grad(
            score, [out.maps[f"gcn{i}"], out.maps[f"g3d{i}"], out.places["block"][f"gcn{i}"]], retain_graph=True
        )
        assert torch.equal(out.maps[f"gcn{i}"], out.maps[f"g3d{i}"]) and a.any() and b.any()
        torch.testing.assert_close(a + b, whole)
        Q = focus(score, [out.maps[f"gcn{i}"], out.maps[f"g3d{i}"]])
        assert not torch.allclose(*map(normalise, Q))


def test_to_first_order_the_last_block_gets_no_gradient_from_coherence_and_divergence():
    "At the input its map is made before the last block, which enters through the weights alone. At the output it is not so."
    model, x = opened(), batch(persons=1)
    labels = model.run(x).logits.argmax(1).detach()
    behind = [p for name, p in model.named_parameters() if name.startswith(("blocks.2.", "head."))]
    for place, nothing in (("input", True), ("output", False)):
        taken = arguments({"focus_place": place, "focus_weights": "first_order"})["focus"]
        losses = Objective(ALL, reading=FocusReading(**taken))(model, x, labels, HERE, ("divergence", "coherence"))
        for term in ("divergence", "coherence"):
            grads = torch.autograd.grad(losses.terms[term], behind, retain_graph=True, allow_unused=True)
            assert all(g is None or not g.any() for g in grads) == nothing, (place, term)
    second = Objective(ALL)(model, x, labels, HERE, ("divergence",)).terms["divergence"]
    assert any(g is not None and g.any() for g in torch.autograd.grad(second, behind, allow_unused=True))


def test_the_places_hold_what_they_say():
    "Against hooks on the layers: the result of the graph convolution, the end of each pathway, the last map."
    model, seen = network(MSG3D, persons=1).eval(), {}
    for i, block in enumerate(model.blocks, 1):
        for name, layer in (
            (f"graph/gcn{i}", block.gcn),
            (f"output/gcn{i}", block.gcn_tcn),
            (f"output/g3d{i}", block.g3d[0]),
            (f"last/{i}", block.tcn),
        ):
            layer.register_forward_hook(lambda layer, args, out, name=name: seen.__setitem__(name, out))
    out = model.run(batch(persons=1))
    for i in (1, 2, 3):
        torch.testing.assert_close(out.places["graph"][f"gcn{i}"], seen[f"graph/gcn{i}"])
        torch.testing.assert_close(out.places["output"][f"gcn{i}"], seen[f"output/gcn{i}"])
        torch.testing.assert_close(out.places["output"][f"g3d{i}"], seen[f"output/g3d{i}"])
    torch.testing.assert_close(out.places["last"]["last"], seen["last/3"])


def test_a_soft_threshold_is_that_of_the_paper():
    "sigmoid(omega (Q - sigma)) of a Q between 0 and 1, body by body."
    Q = torch.rand(2, 2, 4, 5, dtype=torch.float64) + 3
    T = soft_threshold(Q, omega=7.0, sigma=0.4)
    flat = Q[1, 0]
    expected = 1 / (1 + torch.exp(-7 * ((flat - flat.min()) / (flat.max() - flat.min()) - 0.4)))
    torch.testing.assert_close(T[1, 0], expected)
    assert soft_threshold(torch.zeros(1, 1, 2, 3)).isfinite().all()


def test_exploration_alone_leaves_the_cross_entropy_out_of_the_total():
    model, x = opened(), batch(persons=1)
    labels = model.run(x).logits.argmax(1).detach()
    objective = Objective(
        {t: s for t, s in ALL.items() if t != "adjacency"},
        warmup=0.0,
        schedule=CHOICES["separation"].options["alone"],
        balance=FixedBalance,
    )
    (names,) = objective.plan(0, 0, 0.5)
    losses = objective(model, x, labels, HERE, names)
    assert names == ("exploration",) and losses.factors["cross_entropy"] == 0
    torch.testing.assert_close(losses.total, 0.1 * losses.terms["exploration"])
    torch.testing.assert_close(
        losses.terms["cross_entropy"], cross_entropy(losses.logits, labels)
    )  # measured all the same


def test_a_reading_is_a_word_of_a_configuration_and_single_choices_overrule_it():
    assert read_as("poster-input") == {}
    assert read_as("early", {"focus_form": "mean_gradient"})["focus_form"] == "mean_gradient"
    with pytest.raises(ValueError, match="nothing to add up"):
        Objective(ALL)(opened(), batch(persons=1), torch.arange(3), HERE, ())
    with pytest.raises(ValueError, match="unknown reading 'lineaged'; did you mean 'lineage'?"):
        read_as("lineaged")
    with pytest.raises(ValueError, match="hands out no maps there"):
        forward = ForwardPass(
            Bare(),
            torch.zeros(2, 3, 4, 5, 1),
            torch.zeros(2).long(),
            torch.ones(2, 1, dtype=torch.bool),
            FocusReading(**arguments(read_as("lineage"))["focus"]),
        )
        forward.focus("only")


class Bare(torch.nn.Module):
    "A network of somebody else's, with one map and no places."

    def run(self, x, present=None):
        from stf_repro.model.contract import Output

        X = x.flatten(3).requires_grad_()
        return Output(X.mean((2, 3)), {"only": X})


def test_a_step_of_every_reading_is_the_same_on_both_paths():
    "One step of all terms, of every reading, on the plain and on the fast path: the same numbers."
    for reading in READINGS:
        found = []
        for wrap in (lambda m: m, accelerate):
            model, x = opened(persons=1), batch(persons=1)
            labels = model.run(x).logits.argmax(1).detach()
            with frozen_statistics(model):
                losses = objective_of(reading)(wrap(model), x, labels, HERE, ("cross_entropy", *TERMS))
            losses.total.backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        torch.testing.assert_close(*found, rtol=1e-6, atol=1e-9)
