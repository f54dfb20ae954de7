"`stf bench --stages`: every stage in small, and what follows from rows."

import json
from pathlib import Path

import pytest
import torch

from stf_repro.bench import card
from stf_repro.bench.card import STAGES, crowd, decisions, make_bed, run_stages, stage_numbers
from stf_repro.training.runs import read_params


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    from conftest import ROOT
    from dvc.utils.hydra import compose_and_dump

    path = tmp_path_factory.mktemp("paper") / "params.yaml"
    compose_and_dump(path, str(ROOT / "conf"), None, "config", "", ["profile=paper"])
    return read_params(path)


@pytest.fixture(scope="module")
def bed(params, tmp_path_factory):
    return make_bed(params, torch.device("cpu"), tmp_path_factory.mktemp("walks"))


@pytest.mark.parametrize("stage", [stage for stage, _ in STAGES.values() if stage is not crowd])
def test_a_stage_finds_its_first_row(stage, bed):
    before = card.order.PIECE["cpu"]
    rows = stage(bed)
    row = json.loads(json.dumps(next(rows)))
    rows.close()
    assert all(value > 0 for name, value in row.items() if name in ("ms", "us", "clips", "kernels", "TFLOP/s"))
    if stage is card.graphs:  # the job is called again in place of a graph
        assert row["recorded"] == 1 and row["loss"][0] == pytest.approx(row["loss"][1], rel=1e-4)
        assert row["weights_apart"] < 1e-3 and row["ordinary_apart"] == 0  # one process, float32: two orders of sums
    assert card.order.PIECE["cpu"] == before and not torch.backends.cudnn.benchmark


def failing(bed):
    "A stage that finds a row and fails."
    yield {"found": 1}
    raise MemoryError("too much")


def sleeping(bed):
    "A stage that does not end."
    yield {"found": 2}
    while True:
        pass


def test_a_stage_that_fails_or_hangs_costs_only_itself(params, tmp_path, monkeypatch):
    monkeypatch.setattr(card, "_CONTEXT", card.multiprocessing.get_context("fork"))  # it takes STAGES along
    monkeypatch.setattr(card, "STAGES", {0: (failing, 60), 1: (sleeping, 5)})
    out = tmp_path / "card.json"
    out.write_text(json.dumps([{"stage": "failing", "old": True}, {"stage": "norms", "us": 3.0}]))
    rows = run_stages(params, torch.device("cpu"), [0, 1], out)
    assert rows == json.loads(Path(out).read_text())
    assert [row.get("found") for row in rows] == [None, 1, None, 2, None] and not any("old" in row for row in rows)
    assert rows[2]["error"] == "MemoryError: too much" and "ended after 5 s" in rows[4]["error"]
    assert [line.split(":")[0] for line in decisions(rows)] == ["failing", "sleeping"]


@pytest.mark.parametrize(("text", "said"), [("3-x", "0-7"), ("8,11", "no stage 11"), ("", "0-7")])
def test_stages_that_there_are_not(text, said):
    with pytest.raises(ValueError, match=said):
        stage_numbers(text)


def test_what_follows_from_rows():
    "Medians of ratios, in the direction that the sentence says."
    rows = [
        {"stage": "steps", "shape": "NTU", "row": "M1", "precision": "tf32", "kind": "k", "fast": fast, "ms": ms}
        for fast, ms in ((True, 50.0), (False, 100.0))
    ]
    rows += [{"stage": "kernels", "precision": "tf32", "kernels_ms": 30.0, "ms": 60.0}]
    rows += [
        {
            "stage": "graphs",
            "precision": "tf32",
            "fast": True,
            "plain_ms": 60.0,
            "ms": 30.0,
            "weights_apart": 1e-6,
            "ordinary_apart": 0.0,
        }
    ]
    rows += [{"stage": "crowd", "processes": n, "clips/s": rate} for n, rate in ((1, 100.0), (2, 170.0))]
    rows += [
        {"stage": "products", "type": "bfloat16", "shapes": [[2, 3], [3, 4]], "way": way, "us": us}
        for way, us in (("as it is", 30.0), ("padded", 15.0))
    ]
    assert decisions(rows[:1]) == []  # half a comparison says nothing
    said = decisions(rows)
    assert [word in line for word, line in zip(("2.00", "50%", "2.00", "1.0e-06", "2.00", "1.70"), said)] == [True] * 6
