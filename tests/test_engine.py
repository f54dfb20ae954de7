"The engine: exact resume, several processes, mixed precision, shares of the clips, new last layers."

import csv
import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import STF as COMMAND
from processes import RESULTS, TRAINING, toy_store
from safetensors.torch import load_file

from stf_repro.cli import main
from stf_repro.data.registry import BENCHMARKS
from stf_repro.model.objective import TERMS, Objective
from stf_repro.model.options import FixedBalance, every
from stf_repro.model.nets.msg3d import MSG3D
from stf_repro.model.stf import with_stf
from stf_repro.skeleton import LAYOUTS
from stf_repro.training.checkpoint import load_checkpoint, save_checkpoint
from stf_repro.training.config import ConfigError, parse, run_configs
from stf_repro.training.distributed import Step, split_batch
from stf_repro.training.loop import Tally, learning_rate, optimise, score_figures
from stf_repro.training.runs import read_params, resolve, start_file, Training
from stf_repro.training.launcher import summarise
from stf_repro.training.trainer import TrainingError, prepare, read_weights, run_epoch, split_clips, take_over, train

SCRIPT = Path(__file__).with_name("processes.py")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]


def run(*command, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run([str(c) for c in command], cwd=cwd, env=ONE_THREAD, capture_output=True, text=True)


def quick(folder: Path, **change):
    "A training of a second, and its clips."
    section = TRAINING | {"objective": {}, "stf": False, "optim": TRAINING["optim"] | {"epochs": 1, "milestones": []}}
    return parse(section | change), toy_store(folder / "clips")


# --- exact resume ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_a_training_ends_with_the_same_bytes(tmp_path):
    "Before optimiser steps, syncs, renames and removals; with accumulation, all terms, both recipes, bf16, two steps a batch and frozen factors."
    result = run(sys.executable, SCRIPT, "kills", tmp_path)
    assert result.returncode == 0 and result.stdout.endswith("equal\n"), result.stdout + result.stderr


@pytest.fixture
def two_seeds(project, small_params) -> Path:
    "A project in which M5 has two seeds."
    small_params["runs"]["M5"] |= {"seeds": [0, 1], "input": {"frames": 60, "frame_stride": 20}, "percent": 50}
    (project / "params.yaml").write_text(yaml.safe_dump(small_params))
    return project


def in_peace(project: Path, key: str, into: Path, seeds=(0,)) -> dict[str, bytes]:
    "The results of a run that nobody disturbs, trained in this process."
    params, threads = read_params(project / "params.yaml"), torch.get_num_threads()
    torch.set_num_threads(1)
    for training, config in run_configs(resolve("", params, key)).items():
        train(config, project / "clips" / "synth60", into / training.folder, "cpu", progress=False)
    torch.set_num_threads(threads)
    return results(into, seeds)


def results(run_folder: Path, seeds=(0,)) -> dict[str, bytes]:
    return {f"{seed}/{name}": (run_folder / f"seed-{seed}" / name).read_bytes() for seed in seeds for name in RESULTS}


def until(condition, seconds: float = 120) -> None:
    "Wait for something that must happen."
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_kill_9_and_sigterm_reach_the_seeds_side_by_side_and_harm_nothing(two_seeds, monkeypatch, capsys):
    out, command = two_seeds / "runs" / "synthetic" / "ablation" / "M5", [*COMMAND, "train", "M5", "--jobs", "2"]
    peaceful = in_peace(two_seeds, "M5", two_seeds / "peaceful", (0, 1))
    for number, sent in ((1, signal.SIGKILL), (2, signal.SIGTERM)):
        process = subprocess.Popen(
            command, cwd=two_seeds, env=ONE_THREAD, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until(
            lambda: (
                len(list(out.glob(f"seed-*/checkpoint-*/epoch-000{number}.json"))) == 2 or process.poll() is not None
            )
        )
        process.send_signal(sent)
        said = process.communicate()[1]
        assert process.returncode == (-9 if sent == signal.SIGKILL else 130)
        assert sent == signal.SIGKILL or said.strip().splitlines()[-1].startswith(
            "stf train: stopped. What was saved stays"
        )
    assert not list(out.glob("seed-*/metrics.json")) and not list(out.glob("**/*.part"))
    again = run(*command, cwd=two_seeds)
    assert again.returncode == 0 and again.stdout.count("goes on after epoch") == 2
    assert results(out, (0, 1)) == peaceful
    monkeypatch.chdir(two_seeds)
    monkeypatch.setattr(
        "stf_repro.training.launcher.side_by_side", None
    )  # all is finished: no process is needed to say so
    assert main(["train", "M5", "--jobs", "2"]) == 0 and capsys.readouterr().out.count("nothing to do") == 2


@pytest.mark.slow
def test_the_first_seed_that_fails_stops_the_others(two_seeds):
    out = two_seeds / "runs" / "synthetic" / "ablation" / "M5"
    out.mkdir(parents=True)
    (out / "seed-1").write_text("a file where a folder should be")
    result = run(*COMMAND, "train", "M5", "--jobs", "2", cwd=two_seeds)
    assert result.returncode == 1 and not (out / "seed-0" / "metrics.json").exists()
    error = result.stderr.strip()
    assert error.startswith("stf train: seed 1: ") and "cannot be written" in error and len(error.splitlines()) == 1


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path):
    for damage in ("short", "changed", "no json", "other json"):
        folder = tmp_path / damage
        folder.mkdir()
        for epoch in (1, 2):
            save_checkpoint(folder, epoch, "a" * 64, {"weight": torch.full((100,), float(epoch))}, {"epoch": epoch})
        tensors, meta = (next(folder.glob(f"*/epoch-0002.{kind}")) for kind in ("safetensors", "json"))
        content = tensors.read_bytes()
        {
            "short": lambda: tensors.write_bytes(content[:-8]),
            "changed": lambda: tensors.write_bytes(content[:-8] + b"\0" * 8),
            "no json": lambda: meta.write_text('{"epoch": 2'),
            "other json": lambda: meta.write_text("[2]"),
        }[damage]()
        epoch, loaded, state = load_checkpoint(folder, "a" * 64)
        assert epoch == 1 == state["epoch"] and torch.equal(loaded["weight"], torch.ones(100))


FULL_DISK = """
set -e
mkdir -p {out}
{mount}
! {train} 2> error.txt
find {out} -name '*.part' > left.txt
ls {out}/checkpoint-*/ > kept.txt
{remount}
{train} > said.txt
cp -r {out} {copy}
"""


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoints_and_more_room_the_same_result(project, tmp_path):
    "On a small tmpfs where the system lets us mount one in a namespace of our own, else under a limit on the size of files."
    out = project / "runs" / "synthetic" / "ablation" / "M1" / "seed-0"
    command = [*COMMAND, "train", "M1"]
    peaceful = in_peace(project, "M1", tmp_path / "peaceful")
    kilobytes = (tmp_path / "peaceful" / "seed-0" / "model.safetensors").stat().st_size // 1024
    words = {"out": out, "copy": tmp_path / "seed-0", "train": " ".join(f"'{c}'" for c in command)}
    namespace = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") and run(*namespace, "mount", "-t", "tmpfs", "none", "/tmp").returncode == 0:
        words |= {
            "mount": f"mount -t tmpfs -o size={7 * kilobytes}k none {out}",
            "remount": f"mount -o remount,size=100m {out}",
        }
    else:
        namespace, words = (
            [],
            words | {"mount": f"ulimit -S -f {2 * kilobytes}", "remount": "ulimit -S -f unlimited; mkdir -p x"},
        )
    (project / "full.sh").write_text(FULL_DISK.format(**words))
    result = run(*namespace, "bash", "full.sh", cwd=project)
    assert result.returncode == 0, result.stdout + result.stderr
    error = (project / "error.txt").read_text().strip().splitlines()
    assert len(error) == 1 and "could not write" in error[0] and "earlier files are intact" in error[0]
    assert (project / "left.txt").read_text() == ""
    if namespace:
        assert (
            "epoch-0002.json" in (project / "kept.txt").read_text()
            and "goes on after epoch 2" in (project / "said.txt").read_text()
        )
    assert results(tmp_path) == peaceful


@pytest.mark.slow
def test_a_checkpoint_of_another_configuration_is_neither_used_nor_harmed(tmp_path, monkeypatch):
    from stf_repro.training import trainer

    config, store = quick(tmp_path, optim=TRAINING["optim"])
    other = config.model_copy(update={"seed": 1})
    save, out = trainer.save_checkpoint, tmp_path / "out"

    def stop(folder, epoch, *args):
        save(folder, epoch, *args)
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        train(config, store, out, "cpu", progress=False)
    before = {path: path.read_bytes() for path in out.rglob("epoch-*")}
    with pytest.raises(KeyboardInterrupt):
        train(other, store, out, "cpu", progress=False)
    assert len(before) == 4 and {path: path.read_bytes() for path in before} == before
    monkeypatch.setattr(trainer, "save_checkpoint", save)
    train(config, store, out, "cpu", progress=False)
    train(config, store, tmp_path / "peaceful", "cpu", progress=False)
    assert all((out / name).read_bytes() == (tmp_path / "peaceful" / name).read_bytes() for name in RESULTS)


# --- several processes ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_gradients_of_two_processes_are_the_mean_of_their_own(tmp_path):
    "Every term, to 1e-6 in float64; and exploration counted on one rank only."
    result = run(*TORCHRUN, SCRIPT, "gradients", tmp_path)
    assert result.returncode == 0 and "mean of the gradients" in result.stdout, result.stdout + result.stderr


@pytest.mark.slow
def test_torchrun_trains_and_all_processes_hold_the_same_network(project, small_params):
    small_params["runs"]["M5"]["optim"] |= {"accumulate": 2, "epochs": 2}
    (project / "params.yaml").write_text(yaml.safe_dump(small_params))
    result = run(*TORCHRUN, SCRIPT, "cli", project, "M5")
    assert result.returncode == 0, result.stdout + result.stderr
    out = project / "runs" / "synthetic" / "ablation" / "M5" / "seed-0"
    assert json.loads((out / "record.json").read_text())["processes"] == 2
    scores = np.load(out / "scores.npz")
    assert (
        100 * (scores["logits"].argmax(1) == scores["labels"]).mean()
        == json.loads((out / "metrics.json").read_text())["top1_last"]
    )
    assert not list(out.glob("checkpoint-*"))


def test_processes_share_passes_before_they_cut_them():
    from stf_repro.training.distributed import Group

    assert [split_batch(32, 2, Group(rank, 2)) for rank in (0, 1)] == [[slice(0, 16)], [slice(16, 32)]]
    with pytest.raises(ValueError, match="32 cannot be cut into 3 equal pieces for 3 processes"):
        split_batch(32, 1, Group(0, 3))


# --- the step -------------------------------------------------------------------------------------------------------


def small_stf() -> tuple[MSG3D, torch.Tensor, torch.Tensor, torch.Tensor]:
    "A network with open gates, and four clips."
    torch.manual_seed(0)
    model = with_stf(MSG3D(5, LAYOUTS["ntu25"], width=12, num_gcn_scales=3, num_g3d_scales=2, windows=(3,)), 8)
    for module in model.stf.values():
        module.gate.data.fill_(0.5)
    return model, torch.randn(4, 3, 8, 25, 2), torch.randint(5, (4,)), torch.ones(4, 2, dtype=torch.bool)


def test_accumulated_gradients_are_the_mean_over_the_passes():
    model, x, labels, present = small_stf()
    model.double()
    x = x.double()
    step = Step(model, Objective({"adjacency": 1.0}, balance=FixedBalance))
    means = {}
    for half in (slice(0, 2), slice(2, 4)):
        model.zero_grad()
        step(x[half], labels[half], present[half], ("adjacency",)).total.backward()
        means = {name: means.get(name, 0) + p.grad / 2 for name, p in model.named_parameters()}
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    optimise(step, still, x, labels, present, ("adjacency",), split_batch(4, 2), Tally("cpu"))
    assert all(torch.allclose(p.grad, means[name], rtol=1e-9, atol=1e-12) for name, p in model.named_parameters())


@pytest.mark.parametrize("term", TERMS)
def test_bf16_gradients_of_each_term_point_where_those_of_fp32_do(term):
    """Second derivatives included. A focus has kinks (ReLU, maximum), which rounding makes the gradient jump over; L_Gk has none to differentiate: 0.99.
    L_d and L_c of what the last block reads are differences of two gradients through all of it, at random weights: they only point the same way."""
    gradients = {}
    for precision in ("fp32", "bf16"):
        model = small_stf()[0]
        x, labels, present = torch.randn(16, 3, 8, 25, 2), torch.randint(5, (16,)), torch.ones(16, 2, dtype=torch.bool)
        step = Step(
            model, Objective({term: 1.0}, balance=FixedBalance, choices={"exploration": {"counted": every}}), precision
        )
        losses = step(x, labels, present, (term,))
        found = torch.autograd.grad(losses.terms[term], list(model.parameters()), allow_unused=True)
        assert all(g is None or g.dtype == torch.float32 for g in found)
        gradients[precision] = torch.cat(
            [torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(model.parameters(), found)]
        )
    one, two = gradients.values()
    assert torch.isfinite(two).all() and one.norm() > 0 and not torch.equal(one, two)
    assert torch.cosine_similarity(one, two, dim=0) > {"adjacency": 0.99, "exploration": 0.8}.get(term, 0.3)


def test_the_schedules_are_those_of_the_released_configurations(root, tmp_path):
    "Epochs, decays, batch, rate and weight decay of NTU 60, NTU 120 and Kinetics."
    from dvc.utils.hydra import compose_and_dump

    compose_and_dump(tmp_path / "params.yaml", str(root / "conf"), None, "config", "", ["profile=paper"])
    params = read_params(tmp_path / "params.yaml")
    expected = {
        "xsub60": (50, [30, 40], 32, 2, 0.05, 5e-4),
        "xset120": (60, [30, 50], 32, 2, 0.05, 5e-4),
        "kinetics": (65, [45, 55], 128, 2, 0.1, 3e-4),
    }
    for protocol, (epochs, milestones, batch, passes, lr, decay) in expected.items():
        config = run_configs(resolve("", params, f"msg3d-{protocol}-joint"))[Training(0)]
        o = config.optim
        assert (o.epochs, list(o.milestones), o.batch_size, o.accumulate, o.lr, o.weight_decay, o.momentum) == (
            epochs,
            milestones,
            batch,
            passes,
            lr,
            decay,
            0.9,
        )
        rates = [round(learning_rate(o, 7 * e, 7) / lr, 9) for e in range(epochs)]
        assert rates == [1.0] * milestones[0] + [0.1] * (milestones[1] - milestones[0]) + [0.01] * (
            epochs - milestones[1]
        )


def test_figures_of_an_evaluation_against_a_count():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 9)).astype(np.float32), rng.integers(9, size=200)
    found = score_figures(torch.tensor(logits), torch.tensor(labels))
    ranks = (logits > logits[np.arange(200), labels][:, None]).sum(1)
    losses = np.log(np.exp(logits.astype(float)).sum(1)) - logits[np.arange(200), labels]
    assert found["test_top1"] == pytest.approx(100 * (ranks == 0).mean()) and found["test_top5"] == pytest.approx(
        100 * (ranks < 5).mean()
    )
    assert found["test_loss"] == pytest.approx(losses.mean())


# --- shares of the clips, new last layers, seeds --------------------------------------------------------------------


def test_a_share_of_the_training_clips(tmp_path):
    config, store = quick(tmp_path, percent=50, seed=3)
    whole = split_clips(config.model_copy(update={"percent": None}), store)
    parts, again, other = (split_clips(config.model_copy(update={"seed": s}), store) for s in (3, 3, 4))
    assert len(parts["train"]) == len(whole["train"]) // 2 and torch.equal(parts["test"], whole["test"])
    assert set(parts["train"].tolist()) < set(whole["train"].tolist())
    assert torch.equal(parts["train"], again["train"]) and not torch.equal(parts["train"], other["train"])
    assert train(config, store, tmp_path / "out", "cpu", progress=False)["train_clips"] == len(parts["train"])
    with pytest.raises(TrainingError, match="too few for batches of 8"):
        split_clips(config.model_copy(update={"percent": 20}), store)


def test_a_new_last_layer_moves_nothing_else_and_fits_its_network(tmp_path):
    config, store = quick(tmp_path)
    train(config, store, tmp_path / "whole", "cpu", progress=False)
    shift = config.model_copy(update={"group": "transfer", "init_from": "whole"})
    train(shift, store, tmp_path / "transfer", "cpu", progress=False, init_from=tmp_path / "whole")
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "transfer"))
    assert {name for name in old if not torch.equal(old[name], new[name])} == {"head.weight", "head.bias"}
    record = json.loads((tmp_path / "transfer" / "record.json").read_text())
    assert (
        record["init_from"]
        == json.loads((tmp_path / "whole" / "record.json").read_text())["files"]["model.safetensors"]
    )
    wide = parse(shift.model_dump() | {"network": shift.network.model_dump() | {"width": 12}})
    with pytest.raises(
        TrainingError, match=r"the network of 'whole' does not fit: blocks\.\S+ has shape \(\d.*in these weights"
    ):
        train(wide, store, tmp_path / "wide", "cpu", progress=False, init_from=tmp_path / "whole")
    (tmp_path / "whole" / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(TrainingError, match="holds no finished training: stf train whole --seed 0"):
        train(shift, store, tmp_path / "transfer", "cpu", progress=False, init_from=tmp_path / "whole")


def test_best_and_last_weights_are_those_of_their_epochs(tmp_path):
    "The kept weights score what the history says."
    config, store = quick(tmp_path, optim=TRAINING["optim"] | {"epochs": 4, "milestones": [], "lr": 0.1})
    job = prepare(config, store, torch.device("cpu"))
    step, seen = Step(job.model, job.objective), []
    from stf_repro.training.trainer import _Progress

    for _ in range(config.optim.epochs):
        run_epoch(job, step, _Progress(False, config, 24))
        seen.append({k: v.clone() for k, v in job.model.state_dict().items()})
    metrics = train(config, store, tmp_path / "out", "cpu", progress=False)
    tops = [row["test_top1"] for row in job.history]
    assert (
        metrics["best_epoch"] == 1 + tops.index(max(tops))
        and metrics["top1_best"] == max(tops)
        and metrics["top1_last"] == tops[-1]
    )
    for name, epoch in (("best", metrics["best_epoch"]), ("model", 4)):
        kept = load_file(tmp_path / "out" / f"{name}.safetensors")
        assert all(torch.equal(kept[k], v) for k, v in seen[epoch - 1].items())


def test_with_hold_out_the_test_part_is_not_read(tmp_path):
    config, store = quick(tmp_path)
    whole = split_clips(config, store)
    apart = split_clips(config.model_copy(update={"hold_out": "clip"}), store)
    assert (
        sorted([*apart["train"].tolist(), *apart["test"].tolist()]) == whole["train"].tolist()
        and len(apart["test"]) == len(whole["train"]) // 3
    )
    with pytest.raises(TrainingError, match="cannot be divided by 'subject'"):  # one subject trains here
        split_clips(config.model_copy(update={"hold_out": "subject"}), store)


@pytest.mark.slow
def test_scoring_now_and_then_changes_no_weight_and_always_scores_the_end(tmp_path):
    often, store = quick(tmp_path, optim=TRAINING["optim"] | {"epochs": 5})
    seldom, _ = quick(tmp_path, optim=TRAINING["optim"] | {"epochs": 5, "score_every": 2})
    metrics = {
        name: train(config, store, tmp_path / name, "cpu", progress=False)
        for name, config in (("often", often), ("seldom", seldom))
    }
    rows = {
        name: list(csv.DictReader((tmp_path / name / "history.tsv").read_text().splitlines(), delimiter="\t"))
        for name in metrics
    }
    assert [row["epoch"] for row in rows["seldom"] if row["test_top1"]] == ["2", "4", "5"]
    assert all(row["test_top1"] in ("", full["test_top1"]) for row, full in zip(rows["seldom"], rows["often"]))
    assert (tmp_path / "seldom" / "model.safetensors").read_bytes() == (
        tmp_path / "often" / "model.safetensors"
    ).read_bytes()  # same machine, same batches
    assert metrics["seldom"]["top1_last"] == metrics["often"]["top1_last"] and metrics["seldom"]["best_epoch"] in (
        2,
        4,
        5,
    )


@pytest.mark.parametrize(
    "kind,change,reason",
    [
        ("runs", {"init_from": "M1"}, "runs.X cannot have `init_from`"),
        ("transfers", {}, "transfers.X needs `init_from`"),
        ("transfers", {"init_from": "M2"}, "transfers.X.init_from: there is no run 'M2'; did you mean 'M1'?"),
        ("transfers", {"init_from": "M1", "seeds": [0, 5]}, "runs.M1 has no seed 5"),
        ("runs", {"seeds": []}, "runs.X.seeds is []"),
        ("runs", {"seed": 1}, "runs.X.seed is unknown; did you mean 'seeds'?"),
        (
            "runs",
            {"benchmark": ["synth60-xsub", "synth60-xsub"]},
            "runs.X.benchmark is ['synth60-xsub', 'synth60-xsub']; expected different names of benchmarks",
        ),
        (
            "runs",
            {"benchmark": ["synth60-xsub", "synth60-xsab"]},
            "unknown benchmark 'synth60-xsab'; did you mean 'synth60-xsub'?",
        ),
        ("runs", {"percent": 101}, "runs.X.percent: Input should be less than or equal to 100"),
        (
            "runs",
            {"optim": {"batch_size": 32, "accumulate": 5}},
            "batch_size 32 cannot be cut into accumulate: 5 equal passes",
        ),
        ("runs", {"optim": {"precision": "fp16"}}, "Input should be 'fp32', 'tf32' or 'bf16'"),
        ("runs", {"choices": {"stf_aplha": "time"}}, "unknown choice 'stf_aplha'; did you mean 'stf_alpha'?"),
        (
            "runs",
            {"choices": {"mask_gradient": "cut"}},
            "the choice 'mask_gradient' has no option 'cut'; it has: attached, detached",
        ),
    ],
)
def test_runs_and_transfers_are_checked(kind, change, reason):
    base = {"group": "t", "label": "M1", "source": "synth60", "benchmark": "synth60-xsub"}
    params = {"profile": "p", "runs": {"M1": base}, "transfers": {}}
    params[kind]["X"] = base | change
    with pytest.raises(ConfigError) as error:
        run_configs(resolve("", params, "X"))
    assert reason in str(error.value)


def test_a_shift_has_the_network_of_its_row_and_no_terms(root):
    params = yaml.safe_load((root / "params.yaml").read_text())
    for key, section in params["transfers"].items():
        for training, config in run_configs(resolve("", params, key)).items():
            base = run_configs(resolve("", params, section["init_from"]))[training]
            assert (
                (config.network, config.stf) == (base.network, base.stf)
                and config.input == base.input
                and not config.objective.relative_weights
            )
            assert len(BENCHMARKS[config.benchmark].classes) > len(BENCHMARKS[base.benchmark].classes)


def test_the_summary_of_a_run_is_the_mean_over_its_seeds(tmp_path):
    folder = tmp_path / "runs" / "p" / "main" / "M1"
    for seed, top in ((0, 50.0), (3, 60.0)):
        (folder / f"seed-{seed}").mkdir(parents=True)
        (folder / f"seed-{seed}" / "metrics.json").write_text(
            json.dumps({"top1_last": top, "best_epoch": 1, "test_clips": 8})
        )
        (folder / f"seed-{seed}" / "history.tsv").write_text(
            f"epoch\tlr\tcoherence\ttest_top1\n1\t0.1\t\t40\n2\t0.1\t0.5\t{top}\n"
        )
    assert summarise(folder, ["seed-0", "seed-3"]) == {"trainings": 2, "top1_last": 55, "test_clips": 8}
    assert json.loads((tmp_path / "runs/p/metrics/main/M1.json").read_text())["top1_last"] == 55
    assert (
        tmp_path / "runs/p/curves/main/M1.tsv"
    ).read_text() == "epoch\tlr\tcoherence\ttest_top1\n1\t0.1\t\t40\n2\t0.1\t0.5\t55\n"


def test_take_over_freezes_all_but_the_last_layer():
    config = parse(TRAINING | {"objective": {}, "init_from": "x"})
    model = small_stf()[0]
    weights = {k: v + 1 for k, v in model.state_dict().items() if not k.startswith("head.")}
    take_over(model, weights, config)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    assert all(torch.equal(model.state_dict()[k], v) for k, v in weights.items())


def test_a_training_goes_on_from_another_or_from_a_network_that_ships(tmp_path):
    "All layers but the last begin where the other ended, and all move; what does not fit is one sentence."
    config, store = quick(tmp_path)
    train(config, store, tmp_path / "first", "cpu", progress=False)
    on = config.model_copy(update={"start": str(tmp_path / "first")})
    hash_, weights = read_weights(on)
    began = prepare(on, store, torch.device("cpu"), weights).model.state_dict()
    first = load_file(tmp_path / "first" / "model.safetensors")
    assert {name for name in first if not torch.equal(began[name], first[name])} == {"head.weight", "head.bias"}
    train(on, store, tmp_path / "second", "cpu", progress=False)
    record = json.loads((tmp_path / "second" / "record.json").read_text())
    assert (
        record["init_from"]
        == hash_
        == hashlib.sha256((tmp_path / "first" / "model.safetensors").read_bytes()).hexdigest()
    )
    moved = load_file(tmp_path / "second" / "model.safetensors")
    learned = [name for name, _ in prepare(on, store, torch.device("cpu")).model.named_parameters()]
    assert all(not torch.equal(moved[name], first[name]) for name in learned if first[name].numel() > 1)
    for start, said in (
        ("synth60-msg3", "did you mean 'synth60-msg3d'"),
        ("synth60-msg3d", "the network of 'synth60-msg3d' does not fit"),  # another width
        (str(tmp_path), "is no folder of a finished training"),
    ):
        wrong = config.model_copy(update={"start": start})
        with pytest.raises(TrainingError, match=re.escape(said)) as error:
            train(wrong, store, tmp_path / "wrong", "cpu", progress=False)
        assert "\n" not in str(error.value)
    (tmp_path / "runs" / "seed-0").mkdir(parents=True)
    for name in ("model.safetensors", "metrics.json"):
        shutil.copy(tmp_path / "first" / name, tmp_path / "runs" / "seed-0")
    assert start_file(str(tmp_path / "runs")) == tmp_path / "runs" / "seed-0" / "model.safetensors"
    shutil.copytree(tmp_path / "runs" / "seed-0", tmp_path / "runs" / "seed-1")
    with pytest.raises(ConfigError, match="holds 2 trainings; name one of them, such as .*seed-0"):
        start_file(str(tmp_path / "runs"))
    with pytest.raises(ConfigError, match="say one of them"):
        parse(TRAINING | {"objective": {}, "init_from": "x", "start": "y"})


@pytest.mark.parametrize("label,said", [(60, "60"), (-1, "no label")])
def test_a_label_that_is_no_class_is_named_before_the_first_epoch(tmp_path, label, said):
    "Also when only the test part has it; nothing is trained, nothing is written."
    config, store = quick(tmp_path)
    test = split_clips(config, store)["test"]
    store.labels = store.labels.copy()
    store.labels[test[0]] = label
    with pytest.raises(TrainingError, match=rf"has \d+ classes.*{store.names[test[0]]} \({said}\)"):
        train(config, store, tmp_path / "out", "cpu", progress=False)
    assert not list((tmp_path / "out").glob("*.json"))


def test_a_store_of_other_bones_does_not_train_a_benchmark(tmp_path):
    config, store = quick(tmp_path)
    store.layout = dataclasses.replace(
        store.layout, bones=store.layout.bones[::-1][:-1] + ((store.layout.bones[0][0], 3),)
    )
    with pytest.raises(TrainingError, match="joints or bones differ"):
        split_clips(config, store)


def test_divergence_with_one_class_ends_before_the_first_epoch(tmp_path, monkeypatch):
    from stf_repro.data.registry import BENCHMARKS

    config, store = quick(tmp_path)
    store.labels = 0 * store.labels
    monkeypatch.setitem(
        BENCHMARKS, config.benchmark, dataclasses.replace(BENCHMARKS[config.benchmark], classes=("all",))
    )
    wanted = config.model_copy(
        update={"objective": config.objective.model_copy(update={"relative_weights": {"divergence": 0.1}})}
    )
    with pytest.raises(TrainingError, match="two best classes.*has 1"):
        train(wanted, store, tmp_path / "out", "cpu", progress=False)
    assert (
        train(config, store, tmp_path / "out", "cpu", progress=False)["top1_last"] == 100
    )  # without the term, one class trains
