"The configurations of the second protocol: drawn once, alike for both sides."

import runpy

import pytest
import yaml

from stf_repro.training.config import run_configs
from stf_repro.training.runs import resolve


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
