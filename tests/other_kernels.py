"""Execute a notebook as on a different processor, whose kernels add up in another order for every shape.

PyTorch promises the same bits for the same operation on the same shapes, and nothing more: a clip scored alone and the
same clip in a batch may differ in the last bits, and on many processors they do. Here every matrix product and
convolution is moved by up to one rounding step, by a pattern that depends on the shape of the result. What relies on
last bits across batch sizes, threads or processors then fails, on any machine.
"""

import os
import sys
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

SUMS = {
    F.linear, F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d, torch.einsum,
    torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.mm, torch.Tensor.bmm,
}  # fmt: skip


class OtherKernels(TorchFunctionMode):
    "Sums that round in another way for every shape."

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function not in SUMS or not result.is_floating_point():
            return result
        seed = zlib.crc32(repr(tuple(result.shape)).encode())
        signs = torch.rand(result.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) - 0.5
        return result * (1 + 2 * torch.finfo(result.dtype).eps * signs.to(result))


def execute(path: Path) -> list[str]:
    "Errors of a notebook, cell by cell."
    from execnb.nbio import read_nb
    from execnb.shell import CaptureShell

    os.environ["IN_TEST"] = "1"
    os.chdir(path.parent)
    notebook = read_nb(path)
    with OtherKernels():
        CaptureShell(path.parent).run_all(notebook, exc_stop=False)
    return [
        f"cell {i}: {o['ename']}: {o['evalue'][:300]}"
        for i, c in enumerate(notebook.cells)
        for o in c.get("outputs") or []
        if o["output_type"] == "error"
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = execute(Path(sys.argv[1]).absolute())
    print("\n".join(found) or "holds")
    sys.exit(bool(found))
