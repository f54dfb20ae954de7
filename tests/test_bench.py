"`stf bench`: what it measures, what it leaves out, and the arithmetic of the cost."

import json

import pytest
import torch

from stf_repro.bench.tables import summary
from stf_repro.bench import measure as page
from stf_repro.bench.measure import bench, bound, clip_counts, cost, operations, rates
from stf_repro.training.runs import read_params
from stf_repro.training.precision import arithmetic, in_precision


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    from conftest import ROOT
    from dvc.utils.hydra import compose_and_dump

    path = tmp_path_factory.mktemp("paper") / "params.yaml"
    compose_and_dump(path, str(ROOT / "conf"), None, "config", "", ["profile=paper"])
    return read_params(path)


def few(configs, sizes, gpu):
    "Three measurements in place of all."
    yield "operations", "NTU", "M5", 2, "fp32"
    yield "steps", "NTU", "M5", 8, "fp32"
    yield "parts", "Kinetics", "M1", 2, "bf16"


@pytest.mark.slow
def test_a_short_bench_measures_what_it_says(root, params, monkeypatch):
    monkeypatch.setattr(page, "_jobs", few)
    found = json.loads(json.dumps(bench(root, params, torch.device("cpu"), repeats=1)))
    assert found["reduced"] and found["left_out"] == []
    assert {row["path"] for row in found["parity"]} == {"fast", "reference"}
    assert all(row["logits"] < 1e-4 for row in found["parity"] if row["precision"] == "fp32")
    assert [row["kind"] for row in found["operations"]] == ["cross-entropy", "exploration", "other terms"]
    assert [row["kind"] for row in found["steps"]] == ["cross-entropy", "exploration", "other terms", "scoring"]
    assert all(row["seconds"] > 0 for row in found["steps"])
    assert set(found["parts"][0]) >= {"loader", "forward", "focus and terms", "backward", "optimiser"}
    text = summary(found, params, clip_counts(root))
    assert "NOT the paper's" in text and "hours" not in text  # a tiny network says nothing of the paper's cost


@pytest.mark.slow
def test_out_of_time_means_left_out_and_said_so(root, params, monkeypatch):
    monkeypatch.setattr(page, "_jobs", few)
    found = bench(root, params, torch.device("cpu"), minutes=0)
    assert [job["what"] for job in found["left_out"]] == ["operations", "steps", "parts"]
    assert found["operations"] == found["steps"] == found["parts"] == []


def test_operations_of_a_product():
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    assert operations(lambda: a @ b) == 2 * 3 * 4 * 5
    assert operations(lambda: torch.zeros(3, 5).addmm_(a, b)) == 2 * 3 * 4 * 5
    c = torch.randn(2, 3, 4)
    assert operations(lambda: torch.zeros(2, 3, 5).baddbmm_(c, torch.randn(2, 4, 5))) == 2 * 2 * 3 * 4 * 5


def test_hours_are_epochs_times_clips_times_seconds(root, params):
    counts = clip_counts(root)
    assert counts["ntu60-xsub"] == {
        "train": 40091,
        "test": 16487,
    }  # of 56578 usable samples, as MS-G3D's code counts them
    seconds = {
        (shape, row, kind): value
        for shape in ("NTU", "Kinetics")
        for row in ("M1", "M5")
        for kind, value in (("cross-entropy", 0.01), ("exploration", 0.03), ("other terms", 0.02), ("scoring", 0.001))
    }
    hours = {row["run"]: row["hours"] for row in cost(params, counts, seconds)}
    assert len(hours) == 31
    assert hours["msg3d-xsub60-joint"] == pytest.approx(50 * (40091 * 0.01 + 16487 * 0.001) / 3600)
    warm = 0.4  # the part of a training on cross-entropy alone, as `stf show stf-xsub60-joint` says in that profile
    assert hours["stf-xsub60-joint"] == pytest.approx(
        50 * (40091 * (warm * 0.01 + (1 - warm) * 0.025) + 16487 * 0.001) / 3600
    )
    assert hours["msg3d-p10"] == pytest.approx(50 * (4009.1 * 0.01 + 16487 * 0.001) / 3600)
    assert hours["msg3d-transfer"] == pytest.approx(60 * (63026 + 50919) * 0.001 / 3600)  # only the last layer learns


def test_the_measured_card_is_complete(root, params):
    "The file that the page on GPUs reads: parity in fp32, every kind of step at the runs' own pass, and a bound below what was measured."
    for path in sorted(root.joinpath("nbs", "benchmarks", "measured").glob("*.json")):
        found = json.loads(path.read_text())
        assert not found["reduced"] and all(
            row["logits"] < 1e-4 for row in found["parity"] if row["precision"] == "fp32"
        )
        for precision in ("fp32", "tf32", "bf16"):
            measured, least = rates(found, precision, params), bound(found, found["ceilings"][precision], params)
            assert len(measured) == 12 and all(least[key] < value for key, value in measured.items())


def test_precisions_differ_only_where_they_say():
    "Half: passes round, logits and the weights' gradients come out as float32. A context leaves the switches as they were."
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with pytest.raises(RuntimeError), arithmetic("tf32"):
        raise RuntimeError
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
    from stf_repro.model.fast.passes import accelerate
    from stf_repro.model.nets.msg3d import MSG3D
    from stf_repro.skeleton import LAYOUTS

    torch.manual_seed(0)
    model = accelerate(MSG3D(5, LAYOUTS["ntu25"], width=6, num_gcn_scales=2, num_g3d_scales=2)).train()
    x = torch.randn(2, 3, 12, 25, 2)
    assert in_precision(model, "fp32") is model and in_precision(model, "tf32") is model
    full, half = model.run(x), in_precision(model, "bf16").run(x)
    assert half.logits.dtype == torch.float32 and all(m.dtype == torch.float32 for m in half.maps.values())
    error = ((half.logits - full.logits).norm() / full.logits.norm()).item()
    assert 1e-5 < error < 0.05  # rounded, and not by more than seven bits allow
    half.logits.sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())
