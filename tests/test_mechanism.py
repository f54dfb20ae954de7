"What the parts of a trained network do: each measure against a case whose answer is known."

import pytest
import torch
from test_losses import batch, network

from stf_repro.evaluation.mechanism import (
    agreement,
    correlation,
    fitted_afterwards,
    gradient_sizes,
    largest_tenth,
    mask_effect,
    mechanism_text,
    shuffled,
)
from stf_repro.model.focus import stretch
from stf_repro.model.nets.msg3d import MSG3D
from stf_repro.model.objective import TERMS, Objective, ForwardPass

HERE = torch.ones(3, 1, dtype=torch.bool)


def test_a_shuffled_mask_has_the_same_values_body_by_body():
    Q = torch.rand(2, 2, 4, 5)
    mixed = shuffled(Q, torch.Generator().manual_seed(0))
    assert torch.equal(mixed.flatten(2).sort(2).values, Q.flatten(2).sort(2).values) and not torch.equal(mixed, Q)


def test_the_effect_of_a_mask_is_that_of_masking_by_hand():
    model, x, generator = network(MSG3D, persons=1).eval(), batch(persons=1), torch.Generator().manual_seed(0)
    forward = ForwardPass(model, x, torch.arange(3), HERE)
    found = mask_effect(forward, Objective(), generator)
    Q = stretch(forward.focus("g3d3").detach(), x.shape[2])
    left = model(x - (Q * 1.0)[:, None, ..., None] * x).softmax(1).gather(1, forward.classes[:, :1])[:, 0]
    torch.testing.assert_close(found["masked"], left.detach())
    torch.testing.assert_close(found["covered"], Q.mean((1, 2)))
    torch.testing.assert_close(found["whole"], forward.out.logits.softmax(1).amax(1).detach())


def test_a_tenth_is_hidden_where_the_mask_is_largest():
    Q, there = torch.rand(2, 2, 4, 5), torch.tensor([[1.0, 1.0], [1.0, 0.0]])[..., None, None]
    hidden = largest_tenth(Q, there).bool()
    assert hidden.sum((1, 2, 3)).tolist() == [4, 2] and not hidden[1, 1].any()
    assert all(Q[i][hidden[i]].min() > (Q[i] * there[i])[~hidden[i]].max() for i in (0, 1))


def test_absent_bodies_do_not_count_in_what_a_mask_covers():
    model, present = network(MSG3D, persons=2).eval(), torch.tensor([[True, True], [True, False], [True, True]])
    x = batch() * present[:, None, None, None, :]
    forward = ForwardPass(model, x, torch.arange(3), present)
    Q = forward.out.by_clip(stretch(forward.focus("g3d3").detach(), x.shape[2]))
    torch.testing.assert_close(mask_effect(forward, Objective(), torch.Generator())["covered"][1], Q[1, 0].mean())


@pytest.mark.slow
def test_a_beta_that_is_fitted_afterwards_finds_what_can_be_known():
    "A focus that is a function of one channel is found, one of noise is not; and the network stays as it is."
    model = network(persons=1).float().eval()
    before = {name: p.clone() for name, p in model.named_parameters()}
    g = torch.Generator().manual_seed(0)
    X = {name: torch.randn(96, m.beta[1].in_channels, 4, 25, generator=g) for name, m in model.stf.items()}
    taught = {
        name: (x, (2 * x[:, 0]).sigmoid() if name.startswith("gcn") else torch.rand(96, 4, 25, generator=g))
        for name, x in X.items()
    }
    found = agreement(fitted_afterwards(model, taught), taught)
    assert all(found[f"gcn{i}"] > 0.9 and abs(found[f"g3d{i}"]) < 0.3 for i in (1, 2, 3))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.slow
def test_another_form_may_be_fitted_to_the_same_network():
    "What two frames apart say together, one layer on one frame cannot know."
    model, g = network(persons=1).float().eval(), torch.Generator().manual_seed(0)
    X = {name: torch.randn(96, m.beta[1].in_channels, 6, 25, generator=g) for name, m in model.stf.items()}
    taught = {name: (x, (3 * torch.roll(x[:, 0], 1, 1)).sigmoid()) for name, x in X.items()}
    wide = lambda C: torch.nn.Sequential(torch.nn.Conv2d(C, 1, (3, 1), padding=(1, 0)), torch.nn.Sigmoid())
    own, wider = (agreement(fitted_afterwards(model, taught, form=form), taught) for form in (None, wide))
    assert all(abs(own[name]) < 0.3 and wider[name] > 0.7 for name in taught)


def test_sizes_of_gradients_are_those_of_autograd():
    model, x, labels = network(persons=1).eval(), batch(persons=1), torch.arange(3)
    sizes = gradient_sizes(model, x, labels, HERE)
    losses = Objective(dict.fromkeys(TERMS, 0.1))(model, x, labels, HERE, ("cross_entropy", "divergence"))
    norm = lambda value: torch.cat(
        [
            g.flatten()
            for g in torch.autograd.grad(value, list(model.parameters()), retain_graph=True, allow_unused=True)
            if g is not None
        ]
    ).norm()
    assert sizes["divergence"]["second"] == pytest.approx(
        (norm(losses.terms["divergence"]) / norm(losses.terms["cross_entropy"])).item(), rel=1e-6
    )
    assert sizes["adjacency"]["cosine"] == pytest.approx(1.0)  # no derivative of a derivative in it
    assert 0 < sizes["divergence"]["first"] != sizes["divergence"]["second"]


def test_a_text_has_a_row_for_each_quantity():
    text = mechanism_text(
        [{("beta", "gcn1"): 0.25, ("top1", "whole"): 90.0}, {("beta", "gcn1"): 0.75, ("top1", "whole"): 92.0}]
    )
    assert "0.5   0.25 to 0.75" in text and "91   90 to 92" in text


def test_correlation_does_not_see_scale_and_shift():
    Q = torch.rand(3, 4, 5)
    torch.testing.assert_close(correlation(Q, 0.1 * Q + 7), torch.ones(3), atol=1e-3, rtol=0)


def test_a_network_without_maps_is_told_in_a_sentence(monkeypatch):
    from stf_repro.evaluation import mechanism as module
    from stf_repro.model.nets.convolution import TemporalConvNet
    from stf_repro.skeleton import LAYOUTS

    monkeypatch.setattr(
        module, "_batch", lambda clips, part, config: (torch.randn(2, 3, 8, 25, 1), torch.arange(2), HERE[:2])
    )
    with pytest.raises(ValueError, match="TemporalConvNet hands out no feature maps"):
        module.mechanism(TemporalConvNet(4, LAYOUTS["ntu25"], 1).eval(), None, torch.arange(2), torch.arange(2), None)
