"""Save cut networks and load each in a fresh process that has only the constructor: all bundled, ten of torchvision.

    python benchmarks/round_trips.py                   # all, one line each
    python benchmarks/round_trips.py --only resnet20 torchvision/resnet18

Norms get scales, shifts and statistics of their own first, and the network is cut to half of its MACs. The fresh
process builds the dense network with other random weights, loads the file, and runs the same batch in eval mode. The
outputs, and every tensor of the state dict, must be equal to the bit. Exit code 1 where one is not.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from options import parser_of
from zoo import lively

TORCHVISION = """
resnet50 vgg16_bn mobilenet_v2 mobilenet_v3_small efficientnet_b0 densenet121 googlenet shufflenet_v2_x1_0
regnet_y_400mf convnext_tiny
""".split()
SIDE = 64
"""Pixels of a side for the networks of torchvision, to save time; the bundled ones have 32."""


def names() -> list[str]:
    """Every network of the table."""
    from prunus.models import names as bundled

    return [*bundled(), *(f"torchvision/{name}" for name in TORCHVISION)]


def saved(name: str, folder: Path) -> str:
    """Cut and save one network, and what it answers; returns what is to be said of it."""
    import torch
    from safetensors.torch import save_file

    import prunus
    from prunus.models import resolve

    torch.manual_seed(0)
    model = resolve(name)
    lively(model)
    side = SIDE if "/" in name else 32
    x = torch.randn(2, 3, side, side)
    cut = prunus.prune(model, x, "macs=50%", check=False)
    prunus.save(cut, folder / "small.safetensors")
    with torch.no_grad():
        save_file({"x": x, "y": output(cut.model.eval()(x))}, folder / "answer.safetensors")
    save_file({k: v.clone() for k, v in cut.model.state_dict().items()}, folder / "state.safetensors")
    size = (folder / "small.safetensors").stat().st_size
    return f"macs {100 * cut.after.macs / cut.before.macs:.2f} %, {size:,} bytes of {cut.before.bytes:,}"


def loaded(name: str, folder: Path) -> bool:
    """Load it in this process, and compare."""
    import torch
    from safetensors.torch import load_file

    import prunus
    from prunus.models import resolve

    torch.manual_seed(1)
    small = prunus.load(folder / "small.safetensors", resolve(name)).model.eval()
    told, state = load_file(folder / "answer.safetensors"), load_file(folder / "state.safetensors")
    own = small.state_dict()
    with torch.no_grad():
        same = torch.equal(output(small(told["x"])), told["y"])
    return same and own.keys() == state.keys() and all(torch.equal(own[k], state[k]) for k in own)


def output(found: Any) -> Any:
    """The logits where there is more, such as auxiliary heads."""
    return found[0] if isinstance(found, tuple) else found


def main(argv: Sequence[str] | None = None) -> int:
    """One line for each network; 0 where all came back."""
    made = parser_of(__doc__)
    made.add_argument("--only", nargs="+", metavar="MODEL")
    made.add_argument("--load", nargs=2, metavar=("MODEL", "FOLDER"), help=argparse.SUPPRESS)
    options = made.parse_args(argv)
    if options.load:
        return 0 if loaded(options.load[0], Path(options.load[1])) else 1
    failed = 0
    for name in options.only or names():
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            told = saved(name, Path(folder))
            done = subprocess.run([sys.executable, __file__, "--load", name, folder], capture_output=True, text=True)
            failed += done.returncode != 0
            said = "identical" if done.returncode == 0 else f"NOT EQUAL {done.stderr.strip()[-300:]}"
            print(f"{name:32} {said}  {told}, {time.perf_counter() - start:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
