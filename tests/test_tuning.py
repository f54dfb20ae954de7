"The configurations of the second protocol: drawn once, alike for both sides."

import runpy

import pandas as pd
import pytest
import torch
import yaml

from stf_repro.data.registry import get_benchmark
from stf_repro.training.config import run_configs
from stf_repro.training.loop import build_model
from stf_repro.training.runs import profile_params, resolve


@pytest.fixture(scope="module")
def drawn(root):
    return runpy.run_path(str(root / "docs" / "draw_tuning.py"))


def test_the_profile_is_what_was_drawn(root, drawn):
    "Nobody has edited a configuration by hand."
    assert (root / "conf" / "profile" / "tuning.yaml").read_text() == drawn["profile"]()


def test_both_sides_have_as_many_and_differ_in_what_is_stfs(root, drawn):
    runs = yaml.safe_load(drawn["profile"]())["runs"]
    for name in drawn["SETS"]:
        for i in range(drawn["NUMBER"]):
            plain, stf = runs.pop(f"{name}-msg3d-{i:02d}"), runs.pop(f"{name}-stf-{i:02d}")
            assert plain["optim"] == stf["optim"] and plain["input"] == stf["input"]
            assert set(stf) - set(plain) == {"objective", "reading", "choices"}
    assert not runs


def test_every_configuration_is_one(root, drawn):
    "Each training validates, and scores training clips only."
    params = yaml.safe_load(drawn["profile"]()) | yaml.safe_load((root / "conf" / "methods.yaml").read_text())
    seen = 0
    for key in params["runs"]:
        for config in run_configs(resolve(root, params, key)).values():
            assert config.hold_out and config.stf == ("stf" in key)
            seen += 1
    assert seen == 24 * (5 + 3 + 1)


@pytest.fixture(scope="module")
def networks(root):
    return runpy.run_path(str(root / "docs" / "draw_networks.py"))


def test_the_profiles_that_follow_the_tuning_are_what_is_written(root, networks):
    rows = runpy.run_path(str(root / "docs" / "draw_rows.py"))["profile"]()
    for name, text in (("networks", networks["written"]()), ("second", rows)):
        assert (root / "conf" / "profile" / f"{name}.yaml").read_text() == text, name


def test_both_arms_of_a_network_differ_in_the_losses_alone(root, drawn, networks):
    "Before rates are known there are no rows; then every arm has the rate that was chosen for it."
    tuning = yaml.safe_load(drawn["profile"]())["runs"]
    of_fold = lambda name, fold: pd.DataFrame({"set": name, "fold": fold, "side": ["msg3d", "stf"], "number": [9, 5]})
    read = lambda *given: yaml.safe_load(networks["profile"](*given))["runs"]
    table = of_fold("nwucla", "nwucla")
    assert {run["group"] for run in read(table, tuning).values()} == {"rates"}
    assert len(read(table, tuning)) == 6 * 2 * 2 and read(of_fold("sbu", "sbu-1"), tuning) is None  # one fold of five
    sides = [f"{n}-{arm}" for n in networks["COMPARED"] for arm in networks["ARMS"]]
    place = {"set": "nwucla", "fold": "nwucla", "seed": 0, "loss": 1.0, "train_loss": 0.1}
    lines = [
        place | {"side": side, "number": i, "top1": 50 + 10 * (i == k % 2)}
        for k, side in enumerate(sides)
        for i in (0, 1)
    ]
    rates = pd.DataFrame(lines)
    assert {run["group"] for run in read(table, tuning, rates[:-1]).values()} == {"rates"}  # one rate is missing
    runs = read(table, tuning, rates)
    rows = {key: run for key, run in runs.items() if run["group"] == "rows"}
    assert len(rows) == 12
    for k, side in enumerate(sides):
        row = rows[f"nwucla-{side}"]
        assert row["optim"]["lr"] == networks["RATES"][k % 2]
        plain = rows[f"nwucla-{side.rsplit('-', 1)[0]}-plain"]
        same = lambda run: {name: v for name, v in run.items() if name not in ("objective", "label", "optim")}
        assert same(row) == same(plain) and ("objective" in row) == side.endswith("losses")
        assert row["optim"] | {"lr": 0} == plain["optim"] | {"lr": 0}
        if "objective" in row:
            chosen = tuning["nwucla-stf-05"]["objective"]
            assert row["objective"]["warmup"] == chosen["warmup"]
            assert row["optim"]["label_smoothing"] == tuning["nwucla-stf-05"]["optim"]["label_smoothing"]
            assert set(row["objective"]["relative_weights"]) == {"exploration", "divergence", "coherence"}
            assert set(row["objective"]["relative_weights"].values()) == {chosen["relative_weights"]["exploration"]}


def test_every_network_of_the_comparison_is_about_as_large(root):
    "Within a fifth of MS-G3D's weights."
    params, weights = profile_params(root, "networks"), {}
    for key, run in params["runs"].items():
        if key.startswith("sbu-1-") and key.endswith("-plain-0"):
            config = next(iter(run_configs(resolve(root, params, key)).values()))
            with torch.device("meta"):
                network = build_model(config, get_benchmark(config.benchmark))
            weights[config.network.name] = sum(p.numel() for p in network.parameters())
    assert len(weights) == 6
    assert all(0.8 * weights["msg3d"] < n < 1.2 * weights["msg3d"] for n in weights.values()), weights
