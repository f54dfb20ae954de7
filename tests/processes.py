"""What test_engine.py runs in processes of its own: python processes.py WHAT FOLDER. Also makes the toy data that they train on."""

import copy
import hashlib
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch

from stf_repro.data.clip_store import Clip, ClipStore, write_store
from stf_repro.model.objective import TERMS, Objective
from stf_repro.model.options import FixedBalance, every, together
from stf_repro.model.nets.msg3d import MSG3D
from stf_repro.model.stf import with_stf
from stf_repro.skeleton import LAYOUTS
from stf_repro.training import trainer
from stf_repro.training.config import parse
from stf_repro.training.distributed import Step, distribute, join_group

RELATIVE_WEIGHTS = {"exploration": 0.1, "divergence": 0.1, "adjacency": 0.1, "coherence": 0.1}
TRAINING = {
    "group": "t",
    "label": "M5",
    "source": "synth60",
    "benchmark": "synth60-xsub",
    "stf": True,
    "network": {"width": 6, "num_gcn_scales": 2, "num_g3d_scales": 2, "windows": [3]},
    "input": {"frames": 12, "frame_stride": 3},
    "objective": {"relative_weights": RELATIVE_WEIGHTS, "warmup": 0.3},
    "optim": {"epochs": 3, "batch_size": 8, "accumulate": 2, "lr": 0.02, "milestones": [2]},
}
RESULTS = ("model.safetensors", "best.safetensors", "scores.npz", "history.tsv", "metrics.json", "config.json")


def toy_store(folder: Path, n: int = 32) -> ClipStore:
    "Random walks of 25 joints; two classes drift in different directions."
    rng, clips = np.random.default_rng(0), []
    for i in range(n):
        drift = np.linspace(0, 1, 12)[:, None, None] * (1 if i % 2 else -1) * np.array([1.0, 0, 0])
        body = (rng.normal(size=(1, 25, 3)) + 0.1 * rng.normal(size=(12, 25, 3)) + drift).astype(np.float32)
        clips.append(
            Clip(
                f"clip{i:02d}",
                i % 2,
                {"setup": 1, "camera": 1, "subject": 1 if i < n * 3 // 4 else 3},
                [body],
                12,
                np.eye(3),
            )
        )
    return write_store(folder, clips, "synth60", LAYOUTS["ntu25"])


def train(config, store, out) -> dict:
    return trainer.train(config, store, out, "cpu", progress=False)


def in_child(do) -> int:
    "Run a function in a fork of this process; its exit code."
    child = os.fork()
    if child == 0:
        code = 70
        try:
            do()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Events:
    "Counts optimiser steps and all that touches files; ends the process, as kill -9 would, before the n-th."

    def __init__(self, deadly: int = -1):
        self.n, self.deadly = 0, deadly
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "unlink"), (os, "mkdir"), (torch.optim.SGD, "step")):
            setattr(owner, name, self.watched(getattr(owner, name)))

    def watched(self, do):
        def called(*args, **kwargs):
            self.n += 1
            if self.n == self.deadly:
                os._exit(9)
            return do(*args, **kwargs)

        return called


def kills(folder: Path) -> None:
    "Kill at random events, resume, be killed again; the results equal those of a training in peace."
    import torch._dynamo  # noqa: F401  the first optimiser would import it, in every child anew

    store, rng = toy_store(folder / "clips"), random.Random(0)
    changes = ({}, {"precision": "bf16", "accumulate": 1, "recipe": "adamw", "lr": 0.005})
    for number, change in enumerate(changes):
        section = TRAINING | {"optim": TRAINING["optim"] | change, "seed": number}
        config = parse(section | ({"choices": {"separation": "steps", "balance": "frozen"}} if number else {}))
        peaceful, count = folder / f"peaceful{number}", folder / f"events{number}"

        def in_peace():
            events = Events()
            train(config, store, peaceful)
            count.write_text(str(events.n))

        assert in_child(in_peace) == 0
        total, bytes_ = int(count.read_text()), {name: (peaceful / name).read_bytes() for name in RESULTS}
        for trial in range(2):
            out, deaths = folder / f"killed{number}-{trial}", [rng.randint(1, total), rng.randint(1, total // 2)]
            codes = [in_child(lambda: (Events(n), train(config, store, out))) for n in deaths]
            assert codes[0] == 9, (codes, deaths, total)
            assert in_child(lambda: train(config, store, out)) == 0
            for name, known in bytes_.items():
                assert (out / name).read_bytes() == known, (number, trial, deaths, total, name)
            assert sorted(p.name for p in out.iterdir()) == sorted([*RESULTS, "record.json"]), sorted(out.iterdir())
    print("equal")


def gradients(folder: Path) -> None:
    "Two processes: gradients against the mean of each one's own, term by term, in float64."
    group = join_group(torch.device("cpu"))
    torch.manual_seed(0)
    model = with_stf(MSG3D(5, LAYOUTS["ntu25"], width=6, num_gcn_scales=2, num_g3d_scales=2, windows=(3,)), 8).double()
    for module in model.stf.values():  # at its start the gate is zero, and hides what is behind it
        module.gate.data.fill_(0.5)
    x, labels, present = (
        torch.randn(8, 3, 8, 25, 2, dtype=torch.float64),
        torch.randint(5, (8,)),
        torch.ones(8, 2, dtype=torch.bool),
    )
    halves = (slice(0, 4), slice(4, 8))

    def own(half, names, shares):
        twin = copy.deepcopy(model)
        Step(twin, Objective(shares, balance=FixedBalance, choices={"exploration": {"counted": every}}))(
            x[half], labels[half], present[half], names
        ).total.backward()
        return {
            name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in twin.named_parameters()
        }  # beta has one from L_Gk alone

    for names in (*((term,) for term in TERMS), TERMS):
        shares = {name: 1.0 for name in names}
        one, two = own(halves[0], names, shares), own(halves[1], names, shares)
        twin = copy.deepcopy(model)
        step = distribute(
            Step(twin, Objective(shares, balance=FixedBalance, choices={"exploration": {"counted": every}})), group
        )
        half = halves[group.rank]
        step(x[half], labels[half], present[half], names).total.backward()
        largest = 0.0
        for name, p in twin.named_parameters():
            expected = (one[name] + two[name]) / 2
            largest = max(largest, ((torch.zeros_like(p) if p.grad is None else p.grad) - expected).abs().max().item())
        differs = max((one[name] - two[name]).abs().max().item() for name in one)
        assert largest < 1e-6 < 1e-4 < differs, (names, largest, differs)
    counted_on_one(group, model, x, labels, present, halves[group.rank])
    if group.rank == 0:
        print("mean of the gradients")


def counted_on_one(group, model, x, labels, present, half) -> None:
    "Exploration counts where the prediction is right: here on rank 0 only. Nobody waits for ever, and all take the same factors and step."
    model = copy.deepcopy(model)
    predicted = model.run(x[half], present[half]).logits.argmax(1)
    ours = predicted if group.rank == 0 else (predicted + 1) % 5
    objective = Objective({"exploration": 0.1, "coherence": 0.1}, schedule=together, warmup=0)
    step = distribute(Step(model, objective), group)
    optimiser = torch.optim.SGD(step.parameters(), lr=0.01)
    for _ in range(2):
        losses = step(x[half], ours, present[half], ("exploration", "coherence"))
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        for name, factor in losses.factors.items():
            assert len(set(group.gather(factor, "cpu"))) == 1, name
    weight = sum(p.detach().sum() for p in model.parameters()).item()
    assert len(set(group.gather(weight, "cpu"))) == 1
    try:  # and a NaN on one rank is met on both
        step(x[half] * (float("nan") if group.rank else 1), ours, present[half], ("cross_entropy",))
        raise AssertionError("a NaN went unseen")
    except FloatingPointError:
        pass


def cli(folder: Path) -> None:
    "`stf train RUN` in this process, one of several; then compare the networks."
    from stf_repro.cli import main

    original = trainer._finish

    def watched(job, *args):
        state = b"".join(v.numpy().tobytes() for v in job.model.state_dict().values())
        digest = int(hashlib.sha256(state).hexdigest()[:12], 16)
        assert len(set(job.group.gather(digest, "cpu"))) == 1, "the processes hold different networks"
        return original(job, *args)

    trainer._finish = watched
    os.chdir(folder)
    sys.exit(main(["train", sys.argv[3]]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"kills": kills, "gradients": gradients, "cli": cli}[sys.argv[1]](Path(sys.argv[2]))
