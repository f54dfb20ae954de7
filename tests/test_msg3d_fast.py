"The fast path of MS-G3D: the reference path's function, its derivatives and theirs, and what it refuses."

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stf_repro.model.fast import norm, order
from stf_repro.model.fast.passes import (
    Shared,
    accelerate,
    export_program,
    graph_unit,
    is_fast,
    temporal_unit,
    window_unit,
)
from stf_repro.model.focus import focus, top_scores
from stf_repro.model.nets.msg3d import MSG3D, MultiScaleGraphConv, MultiScaleTemporalConv, WindowGraphConv
from stf_repro.model.objective import Objective
from stf_repro.model.stf import with_stf
from stf_repro.model.options import every, multiply
from stf_repro.model.weights import export_msg3d_weights, load_msg3d_weights
from stf_repro.skeleton import LAYOUTS, Layout
from stf_repro.bench.measure import operations

STICK = Layout("stick", ("a", "b", "c"), ((1, 0), (2, 1)), 0)
# float64 throughout: what is left is rounding, amplified by the batch norms of some sixty layers
CLOSE = dict(rtol=1e-7, atol=1e-9)


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def stir(model: nn.Module) -> nn.Module:
    "No weight at its special starting value: opened gates, residual matrices and running statistics that matter."
    model = model.double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "residual" in name or "gate" in name or p.ndim == 1:
                p.add_(0.2 * torch.randn_like(p))
        for name, b in model.named_buffers():
            if "running_mean" in name:
                b.normal_(0, 0.3)
            if "running_var" in name:
                b.uniform_(0.5, 2)
    return model


def both(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    "The model on the fast path, and a copy on the reference path."
    other = copy.deepcopy(model)
    return accelerate(model), other


def assert_same_gradients(a: nn.Module, b: nn.Module) -> None:
    for (name, p), q in zip(a.named_parameters(), b.parameters()):
        assert (p.grad is None) == (q.grad is None), name  # SGD decays only parameters with a gradient, be it zero
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-8, msg=lambda text: f"{name}: {text}")


def network(kind, layout: str, frames: int, bodies: int, **more) -> nn.Module:
    size = {"width": 6, "num_gcn_scales": 4, "num_g3d_scales": 3, "windows": (3, 5)}
    model = MSG3D(4, LAYOUTS[layout], bodies, **size | {k: v for k, v in more.items() if k in size})
    return stir(
        with_stf(model, frames, **{k: v for k, v in more.items() if k not in size}) if kind is with_stf else model
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bodies", [1, 2, 3])
@pytest.mark.parametrize("layout,frames", [("ntu25", 8), ("ntu25", 13), ("openpose18", 9), ("openpose18", 2)])
@pytest.mark.parametrize("kind", [MSG3D, with_stf])
def test_both_paths_are_one_function(kind, layout, frames, bodies, training):
    quick, slow = both(network(kind, layout, frames, bodies).train(training))
    x = torch.randn(2, 3, frames, len(LAYOUTS[layout]), bodies)
    a, b = quick.run(x), slow.run(x)
    torch.testing.assert_close(a.logits, b.logits, **CLOSE)
    assert list(a.maps) == list(b.maps)
    for name in a.maps:
        torch.testing.assert_close(a.maps[name], b.maps[name], **CLOSE)
    for out in (a, b):
        (F.cross_entropy(out.logits, torch.tensor([0, 3])) + out.maps["g3d2"].square().mean()).backward()
    assert_same_gradients(quick, slow)
    for (name, p), q in zip(quick.named_buffers(), slow.buffers()):
        torch.testing.assert_close(p, q, **CLOSE, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("width,windows", [(12, (3,)), (48, (3, 5, 7)), (6, (1,))])
def test_other_sizes(width, windows):
    "Wide branches keep their four convolutions; a window of one frame is no window."
    quick, slow = both(network(MSG3D, "ntu25", 6, 1, width=width, windows=windows).train())
    x = torch.randn(2, 3, 6, 25, 1)
    for model in (quick, slow):
        F.cross_entropy(model(x), torch.tensor([1, 2])).backward()
    torch.testing.assert_close(quick(x), slow(x), **CLOSE)
    assert_same_gradients(quick, slow)


UNITS = {
    "graph": lambda: MultiScaleGraphConv(STICK, 4, 6, 2),
    "graph, aggregate first": lambda: MultiScaleGraphConv(STICK, 1, 6, 2),
    "window": lambda: WindowGraphConv(STICK, 4, 4, 2, window=3, stride=2, num_scales=2),
    "window, aggregate first": lambda: WindowGraphConv(STICK, 1, 8, 2, window=3, stride=1, num_scales=2),
    "time": lambda: MultiScaleTemporalConv(2, 6),
    "time, stride": lambda: MultiScaleTemporalConv(2, 6, stride=2),
    "time, five a branch": lambda: MultiScaleTemporalConv(1, 30),
}


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("unit", UNITS)
def test_first_and_second_derivatives(unit, quick):
    "Against differences, in training: with respect to the input, the sample's own adjacency, and every parameter."
    module = stir(UNITS[unit]()).train()
    graph = not unit.startswith("time")
    C = module.mix.in_channels // 2 if graph else module.branches[0][0].in_channels
    x = torch.randn(2, C, 3, 3, requires_grad=True)
    G = [torch.randn(2, 2, 3, 3, requires_grad=True)] if graph else []
    # a bias before a batch norm has a zero derivative: rounding is all that differences would show
    names = [n for n, _ in module.named_parameters() if not n.endswith("bias") or "norm" in n]
    if unit == "time, five a branch":
        names = names[:4]  # the rest would take minutes
    weights = [dict(module.named_parameters())[n] for n in names]

    class Quick(nn.Module):
        "The unit's weights, in the cheaper order."

        def __init__(self):
            super().__init__()
            self.unit = module

        def forward(self, x, *G):
            take = {
                MultiScaleGraphConv: graph_unit,
                WindowGraphConv: window_unit,
                MultiScaleTemporalConv: temporal_unit,
            }[type(module)]
            return order.outer(take(module, order.inner(x), *G, Shared(norm.Bodies(len(x)), norm.Averages())))

    def f(x, *rest):
        state = dict(zip(names, rest[len(G) :]))
        if quick:
            return torch.func.functional_call(Quick(), {f"unit.{k}": v for k, v in state.items()}, (x, *rest[: len(G)]))
        return torch.func.functional_call(module, state, (x, *rest[: len(G)]))

    arguments = (x, *G, *(w.detach().clone().requires_grad_() for w in weights))
    assert torch.autograd.gradcheck(f, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, arguments, fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("count", [None, [1.0, 3.0]])
@pytest.mark.parametrize("own", [True, False])
def test_derivatives_of_the_operations(own, count):
    "The hand-written backward passes, every entry, and the plain sums that stand in when they are differentiated again."
    leaf = lambda *shape: torch.randn(*shape, requires_grad=True)
    x, weight, A = leaf(2, 5, 2, 2), leaf(2, 2, 2), leaf(3, 6, 4)
    G = leaf(2, 2, 4) if own else None
    for stride in (1, 2):
        f = lambda x, w, A, G: order.GraphConv.apply(x, w, A, G, stride)
        assert torch.autograd.gradcheck(f, (x, weight, A, G)) and torch.autograd.gradgradcheck(f, (x, weight, A, G))
    count = None if count is None else torch.tensor(count) / 4  # the part of all bodies
    z, gamma, beta, last = leaf(3, 2, 2, 2, 2), leaf(2), leaf(2), leaf(3, 2, 2)
    none = torch.zeros(2)
    f = lambda z, g, b, w: norm.Collapse.apply(z, g, b, w, none, count, 1e-5)[0]
    assert torch.autograd.gradcheck(f, (z, gamma, beta, last)) and torch.autograd.gradgradcheck(
        f, (z, gamma, beta, last)
    )
    add = leaf(3, 2, 2, 2, 2) if own else None
    f = lambda z, g, b, a: norm.BatchNorm.apply(z, g, b, a, none, count, 1e-5, True)[0]
    assert torch.autograd.gradcheck(f, (z, gamma, beta, add)) and torch.autograd.gradgradcheck(f, (z, gamma, beta, add))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2), st.integers(1, 2), st.integers(1, 3), st.booleans(), st.integers(1, 200))
def test_pieces_do_not_show(frames, half, stride, bodies, own, piece):
    "However finely time is cut, values and derivatives are those of the plain sums."
    torch.manual_seed(frames)
    w = 2 * half + 1
    x = F.pad(torch.randn(3, frames, bodies, 2), (0, 0, 0, 0, half, half)).requires_grad_()
    weight, A = torch.randn(2, 2, 4, requires_grad=True), torch.randn(w, 3 * w, 6, requires_grad=True)
    inputs = [x, weight, A] + ([torch.randn(bodies, 3, 6, requires_grad=True)] if own else [])
    G = inputs[3] if own else None
    before = order.PIECE["cpu"]
    try:
        order.PIECE["cpu"] = piece
        out = order.GraphConv.apply(x, weight, A, G, stride)
        g = torch.randn_like(out)
        ours = torch.autograd.grad(out, inputs, g)
    finally:
        order.PIECE["cpu"] = before
    for way in (order.mix_first, order.aggregate_first):
        plain = way(x, weight, A, G, stride)
        torch.testing.assert_close(out, plain)
        torch.testing.assert_close(ours, torch.autograd.grad(plain, inputs, g))


def one_person_clips(frames=10):
    "Five clips: two people, one, one, nobody, one (listed second)."
    x = torch.randn(5, 3, frames, 25, 2)
    present = torch.tensor([[1, 1], [1, 0], [1, 0], [0, 0], [0, 1]], dtype=torch.bool)
    return x * present[:, None, None, None], present


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [MSG3D, with_stf])
def test_empty_bodies_are_computed_once(kind, training):
    quick, slow = both(network(kind, "ntu25", 10, 2).train(training))
    x, present = one_person_clips()
    out, full = quick.run(x, present), slow.run(x)
    assert len(out.maps["gcn1"]) == 7 and len(full.maps["gcn1"]) == 10  # five people, and an empty body in each place
    torch.testing.assert_close(out.logits, full.logits, **CLOSE)
    for name in full.maps:
        torch.testing.assert_close(out.maps[name][out.rows], full.maps[name], **CLOSE)
        a, b = (o.by_clip(o.maps[name].square().sum(1)) for o in (out, full))
        assert a.shape[:2] == (5, 2)
        torch.testing.assert_close(a, b, **CLOSE)
    assert out.counted(present).sum() == full.counted(present).sum() == present.sum()
    for logits in (out.logits, full.logits):
        F.cross_entropy(logits, torch.arange(5) % 4).backward()
    assert_same_gradients(quick, slow)
    for (name, p), q in zip(quick.named_buffers(), slow.buffers()):
        torch.testing.assert_close(p, q, **CLOSE, msg=lambda text: f"{name}: {text}")
    with torch.no_grad():
        torch.testing.assert_close(quick(x), slow(x), **CLOSE)


@pytest.mark.parametrize("step", [0, 1])
def test_whole_objective_with_empty_bodies(step):
    "All terms of STF, with a second derivative: equal values, factors and gradients on both paths."
    quick, slow = both(network(with_stf, "ntu25", 10, 2).train())
    x, present = one_person_clips()
    results = []
    for model in (quick, slow):
        objective = Objective(
            {"exploration": 0.1, "divergence": 0.1, "adjacency": 0.1, "coherence": 0.1},
            warmup=0.0,
            choices={"exploration": {"counted": every}},
        )
        (names,) = objective.plan(step, 0, 1.0)
        losses = objective(model, x, torch.arange(5) % 4, present, names)
        losses.total.backward()
        results.append(losses)
    assert set(results[0].terms) == set(results[1].terms) > {"cross_entropy"}
    for name, value in results[1].terms.items():
        torch.testing.assert_close(results[0].terms[name], value, **CLOSE)
    assert_same_gradients(quick, slow)


def test_second_derivative_through_early_maps():
    "A loss on the focus of the first block goes through the second derivative of every unit, and of STF's adjacency."
    quick, slow = both(network(with_stf, "ntu25", 8, 1).train())
    x = torch.randn(2, 3, 8, 25, 1)
    for model in (quick, slow):
        out = model.run(x)
        scores, _ = top_scores(out.logits)
        Q = focus(scores[0], [out.maps["gcn1"], out.maps["g3d1"]], create_graph=True)
        (F.cross_entropy(out.logits, torch.tensor([0, 1])) + 1e3 * (Q[0] - Q[1]).square().sum()).backward()
    assert_same_gradients(quick, slow)


def test_an_absent_body_that_is_not_empty_keeps_its_row():
    quick, slow = both(network(MSG3D, "ntu25", 6, 2).eval())
    x = torch.randn(2, 3, 6, 25, 2)
    out = quick.run(x, torch.zeros(2, 2, dtype=torch.bool))
    assert len(out.maps["gcn1"]) == 4
    torch.testing.assert_close(out.logits, slow(x), **CLOSE)


def test_every_body_keeps_its_own_derivative_of_the_input():
    quick, slow = both(network(MSG3D, "ntu25", 6, 2).eval())
    (x, present), slopes = one_person_clips(6), []
    x.requires_grad_()
    for model in (quick, slow):
        slopes.append(torch.autograd.grad(model(x).square().sum(), x)[0].permute(0, 4, 1, 2, 3))  # (N, M, C, T, V)
    torch.testing.assert_close(slopes[0][present], slopes[1][present], **CLOSE)
    # an empty body stands still: max-pooling then has ties, and any of the tied frames may get the slope
    a, b = (s[~present].abs().sum((1, 2, 3)) for s in slopes)
    assert (a > 0).all() and len(a.unique()) == len(a) and (a / b - 1).abs().max() < 1


@pytest.mark.parametrize("kind", [MSG3D, with_stf])
def test_wrong_input_is_told_what_was_expected(kind):
    model = network(kind, "openpose18", 8, 2)
    good = torch.randn(2, 3, 8, 18, 2)
    model(good)
    wrong = [good[..., 0], good[:, :2], good[:, :, :, :17], good[..., :1], good[:0], good[:, :, :0]]
    for network_ in both(model):
        for x in wrong:
            with pytest.raises(ValueError, match=r"\(N, 3, T, 18, 2\).*18 joints of layout 'openpose18'"):
                network_(x)


def test_accelerating_leaves_the_network_as_it_is_and_shares_its_weights():
    model = network(with_stf, "ntu25", 8, 2)
    before, state = dict(vars(model)), list(model.state_dict())
    quick = accelerate(model)
    assert type(model) is MSG3D and vars(model) == before and list(model.state_dict()) == state
    assert quick.model is model and list(map(id, quick.parameters())) == list(map(id, model.parameters()))
    assert is_fast(quick) and not is_fast(model) and accelerate(quick) is quick and is_fast(copy.deepcopy(quick))


def test_what_the_cheaper_order_does_not_compute_stays_on_the_reference_path():
    "Statistics over several processes, another way for G to enter: better slower than other numbers."
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(network(MSG3D, "ntu25", 8, 1))
    assert not is_fast(accelerate(synced)) and not is_fast(accelerate(network(with_stf, "ntu25", 8, 1, join=multiply)))


def test_weights_go_to_the_original_and_back():
    model = network(MSG3D, "ntu25", 8, 2)
    there = export_msg3d_weights(model)
    twin = network(MSG3D, "ntu25", 8, 2)
    load_msg3d_weights(twin, there)
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(KeyError, match="stf"):
        export_msg3d_weights(network(with_stf, "ntu25", 8, 2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MSG3D, with_stf])
def test_the_exported_program_agrees(kind):
    model = network(kind, "openpose18", 9, 2, windows=(3,)).float().train()
    program = export_program(accelerate(model), torch.randn(2, 3, 9, 18, 2, dtype=torch.float32))
    assert model.training
    x = torch.randn(3, 3, 9, 18, 2, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(
            program.module()(x), model.eval()(x), rtol=1e-3, atol=1e-5
        )  # fp32, two orders of summation
    with pytest.raises(ValueError, match="at least 2"):
        export_program(model, x[:1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter warns about packages it could also use
@pytest.mark.parametrize("kind", [MSG3D, with_stf])
def test_onnx_agrees(kind, tmp_path):
    import onnxruntime

    model = network(kind, "ntu25", 9, 2, windows=(3,)).float().eval()
    program = export_program(model, torch.randn(2, 3, 9, 25, 2, dtype=torch.float32))
    torch.onnx.export(program, dynamo=True, verbose=False).save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    x = torch.randn(3, 3, 9, 25, 2, dtype=torch.float32)
    logits = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(
            torch.as_tensor(logits), model(x), rtol=1e-3, atol=1e-5
        )  # fp32, another order of summation


@pytest.mark.parametrize("training", [True, False])
def test_reduced_precision(training):
    "Under autocast both paths stay as near to float64 as bfloat16 allows, and derivatives exist."
    model = network(MSG3D, "ntu25", 8, 2).float().train(training)
    x = torch.randn(4, 3, 8, 25, 2, dtype=torch.float32)
    off = {}
    for path, model in zip((True, False), both(model)):
        exact = copy.deepcopy(model).double()(x.double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(x)
            F.cross_entropy(logits.float(), torch.arange(4)).backward()
        off[path] = (logits.double() - exact).abs().max().item() / exact.abs().max().item()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert off[True] < max(0.1, 1.5 * off[False])  # 8 bits a number: about 0.4 % a layer


def test_a_focus_pays_for_no_weight():
    "The gradient for the first maps costs about one forward pass, not the two of a whole backward pass."
    model = accelerate(MSG3D(5, LAYOUTS["ntu25"], width=12, num_gcn_scales=4, num_g3d_scales=3)).double().train()
    x = torch.randn(2, 3, 20, 25, 2, dtype=torch.float64)
    out = model.run(x)
    maps, weights = [out.maps["gcn1"], out.maps["g3d1"]], list(model.parameters())
    alone = operations(lambda: torch.autograd.grad(out.logits.sum(), maps, retain_graph=True))
    whole = operations(lambda: torch.autograd.grad(out.logits.sum(), [*maps, *weights], retain_graph=True))
    with torch.no_grad():
        forward = operations(lambda: model.run(x))
    assert alone < 0.6 * whole and alone < 1.3 * forward
    found = torch.autograd.grad(out.logits.sum(), maps, retain_graph=True)
    expected = torch.autograd.grad(out.logits.sum(), [*maps, *weights], retain_graph=True)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)
