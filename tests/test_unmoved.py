"A room may be rebuilt, the functions may not move: logits, terms and six steps of every network and method, in float64."

from pathlib import Path

import numpy as np
import pytest
import torch

from stf_repro.model.nets.convolution import TemporalConvNet
from stf_repro.model.nets.msg3d import MSG3D
from stf_repro.model.objective import FocusReading, Objective
from stf_repro.model.readings import READINGS, read_as
from stf_repro.model.stf import with_stf
from stf_repro.model.options import arguments
from stf_repro.skeleton import LAYOUTS
from stf_repro.training.config import OptimConfig
from stf_repro.training.loop import make_optimiser

FILE = Path(__file__).parent / "fixtures" / "unmoved.npz"
RELATIVE_WEIGHTS = {  # the rows of Table 5
    "plain": {},
    "M2": {"exploration": 0.1},
    "M3": {"exploration": 0.1, "divergence": 0.1},
    "M4": {"exploration": 0.1, "divergence": 0.1, "adjacency": 1.0},
    "M5": {"exploration": 0.1, "divergence": 0.1, "adjacency": 1.0, "coherence": 0.1},
}
CASES = [("convolution", "plain", "poster-input")]
CASES += [("msg3d", method, "poster-input") for method in ("plain", "M2", "M3")]
CASES += [("msg3d+stf", "M4", "poster-input"), *(("msg3d+stf", "M5", reading) for reading in READINGS)]
FRAMES, LAYOUT = 12, LAYOUTS["ntu25"]


def build(network: str, parts: dict):
    "The network, small, with weights from torch's generator."
    if network == "convolution":
        return TemporalConvNet(5, LAYOUT)
    size = dict(width=6, num_gcn_scales=3, num_g3d_scales=2, windows=(3,))
    model = MSG3D(5, LAYOUT, **size)
    return with_stf(model, FRAMES, **parts) if network == "msg3d+stf" else model


def batch() -> tuple[torch.Tensor, ...]:
    "Six clips of two bodies, one of which is missing in two of them."
    generator = np.random.default_rng(5)
    x = torch.as_tensor(generator.normal(size=(6, 3, FRAMES, 25, 2)).cumsum(2) / 4)
    present = torch.tensor([[True, True]] * 4 + [[True, False]] * 2)
    return x * present[:, None, None, None], torch.tensor([0, 1, 2, 3, 4, 0]), present


def story(network: str, method: str, reading: str) -> dict[str, np.ndarray]:
    "What can be seen from outside."
    taken = arguments(read_as(reading))
    parts, focus, own = (taken.pop(name, {}) for name in ("stf", "focus", "objective"))
    torch.manual_seed(3)
    model = build(network, parts).double()
    objective = Objective(RELATIVE_WEIGHTS[method], warmup=0.0, reading=FocusReading(**focus), choices=taken, **own)
    optimiser = make_optimiser(list(model.parameters()), OptimConfig(recipe="adamw", lr=0.003))
    (x, labels, present), steps = batch(), []
    before = model.train().run(x, present).logits
    for step in range(6):
        for names in objective.plan(step, 0, step / 6):
            optimiser.zero_grad()
            losses = objective(model, x, labels, present, names)
            losses.total.backward()
            optimiser.step()
            steps.append([losses.total.item(), *(losses.terms[name].item() for name in sorted(losses.terms))])
    after = model.eval().run(x, present).logits
    return {"before": before.detach().numpy(), "steps": np.concatenate(steps), "after": after.detach().numpy()}


@pytest.mark.parametrize("case", CASES, ids="/".join)
def test_no_function_has_moved(case):
    "Against numbers written before the house was rebuilt. Rounding differs from processor to processor."
    with np.load(FILE) as expected:
        for name, value in story(*case).items():
            np.testing.assert_allclose(
                value, expected["/".join((*case, name))], rtol=1e-7, atol=1e-9, err_msg=f"{case}: {name}"
            )


if __name__ == "__main__":  # writes the numbers anew; do so only to add a case
    np.savez_compressed(
        FILE, **{"/".join((*case, name)): value for case in CASES for name, value in story(*case).items()}
    )
