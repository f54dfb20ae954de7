"Nothing depends on the last bits of a sum: not on the number of threads, the batch size or the kind of processor."

import ast
import json
import re
import subprocess
import sys

import pytest

# where a network is scored, or trained, and something is asserted about it
NUMERIC = [
    "201_model.focus",
    "204_model.stf",
    "203_model.objective",
    "308_training.loop",
    "310_training.trainer",
    "402_evaluation.localisation",
]
NUMERIC += [
    "404_evaluation.faithfulness",
    "406_evaluation.adjacency",
    "407_evaluation.mechanism",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMERIC)
def test_a_notebook_holds_with_other_kernels(root, name):
    result = subprocess.run(
        [sys.executable, root / "tests" / "other_kernels.py", next((root / "nbs").glob(f"*/{name}.ipynb"))],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_other_kernels_are_noticed(root):
    "The check itself: scoring eight clips and the same eight among others differs in bits, in the same batch it does not."
    code = (
        f"import sys; sys.path.insert(0, {str(root / 'tests')!r})\n"
        + """
import torch
from other_kernels import OtherKernels
torch.manual_seed(0)
net, x = torch.nn.Linear(30, 30), torch.randn(64, 30)
with OtherKernels(), torch.no_grad():
    print(torch.equal(net(x)[:8], net(x[:8])), torch.equal(net(x), net(x)), torch.allclose(net(x)[:8], net(x[:8]), rtol=1e-5, atol=1e-6))
"""
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == [
        "False",
        "True",
        "True",
    ]


def test_bits_are_compared_with_a_reason(root):
    "In a notebook an exact comparison says why it may be one: data that are moved and not computed, the same machine and batch."
    exact, bare = re.compile(r"torch\.equal\(|array_equal\(|assert_array_equal\(|read_bytes\(\) =="), []
    for path in sorted(
        [
            *(root / "nbs" / "reference").glob("*.ipynb"),
            *(root / "nbs" / "networks").glob("*.ipynb"),
            *(root / "nbs" / "experiments").glob("*.ipynb"),
        ]
    ):
        for i, cell in enumerate(json.loads(path.read_text())["cells"]):
            if cell["cell_type"] == "code":
                lines = "".join(cell["source"]).splitlines()
                for node in ast.parse("\n".join(lines)).body:
                    text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
                    if exact.search(text) and not re.search(r"\s# \S", text):
                        bare.append(f"{path.name}[{i}] {text.splitlines()[0]}")
    assert bare == []
