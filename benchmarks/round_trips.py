"""Save and export cut networks, and run each file in a fresh process: all bundled networks, ten of torchvision.

    python benchmarks/round_trips.py                   # all, one line each
    python benchmarks/round_trips.py --only resnet20 torchvision/resnet18
    python benchmarks/round_trips.py --formats pt2,onnx

Norms get scales, shifts and statistics of their own first, and the network is cut to half of its MACs. For the file of
`prunus.save` the fresh process builds the dense network with other random weights, loads the file, and runs the same
batch in eval mode: the outputs, and every tensor of the state dict, must be equal to the bit. Exported files are run in
a process that cannot import Prunus, on batches of one and of three, and may differ by 1e-4 of the largest output. Exit
code 1 where one does not hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from options import HERE, names, parser_of
from zoo import lively

TORCHVISION = """
resnet50 vgg16_bn mobilenet_v2 mobilenet_v3_small efficientnet_b0 densenet121 googlenet shufflenet_v2_x1_0
regnet_y_400mf convnext_tiny
""".split()
SIDE = 64
"""Pixels of a side for the networks of torchvision, to save time; the bundled ones have 32."""
SAVED, EXPORTS = "safetensors", ("pt2", "onnx")
ALLOWED = 1e-4
"""Of the largest output, for exported files."""


def every() -> list[str]:
    """Every network of the table."""
    from prunus.models import names as bundled

    return [*bundled(), *(f"torchvision/{name}" for name in TORCHVISION)]


def saved(name: str, folder: Path, formats: Sequence[str]) -> str:
    """Cut one network and write its files, and what it answers; returns what is to be said of it."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    import prunus
    from prunus.models import resolve

    torch.manual_seed(0)
    model = resolve(name)
    lively(model)
    side = SIDE if "/" in name else 32
    x = torch.randn(3, 3, side, side)
    cut = prunus.prune(model, x[:2], "macs=50%,scope=local", check=False)  # global scores close some random networks
    small = cut.model.eval()
    told = f"macs {100 * cut.after.macs / cut.before.macs:.2f} %"
    if SAVED in formats:
        prunus.save(cut, folder / "small.safetensors")
        with torch.no_grad():
            save_file({"x": x, "y": output(small(x))}, folder / "answer.safetensors")
        save_file({k: v.clone() for k, v in small.state_dict().items()}, folder / "state.safetensors")
        size = (folder / "small.safetensors").stat().st_size
        told += f", {size:,} bytes of {cut.before.bytes:,}"
    with torch.no_grad():
        answers = {f"{word}{k}": value.numpy() for k, n in enumerate((1, 3)) for word, value in both(small, x[:n])}
    assert all(value.any() for value in answers.values()), f"{name} answers with zeros, which says nothing"
    np.savez(folder / "answers.npz", **answers)
    for kind in formats:
        if kind != SAVED:
            prunus.export(small, x[:2], folder / f"small.{kind}")
    return told


def both(small: Any, x: Any) -> list[tuple[str, Any]]:
    return [("x", x), ("y", output(small(x)))]


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


def apart(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True)


def checked(name: str, folder: Path, formats: Sequence[str]) -> tuple[list[str], bool]:
    """What is to be said of each file, and whether all hold."""
    said, fine = [], True
    if SAVED in formats:
        done = apart([__file__, "--load", name, str(folder)])
        said.append("identical" if done.returncode == 0 else f"NOT EQUAL {done.stderr.strip()[-300:]}")
        fine &= done.returncode == 0
    exported = [kind for kind in formats if kind != SAVED]
    if exported:
        done = apart([str(HERE / "without_prunus.py"), str(folder)])
        gaps = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
        for kind in exported:
            gap = gaps.get(f"small.{kind}")
            holds = gap is not None and gap <= ALLOWED
            said.append(f"{kind} {gap:.1e}" if gap is not None else f"{kind} FAILS {done.stderr.strip()[-300:]}")
            fine &= holds
    return said, fine


def main(argv: Sequence[str] | None = None) -> int:
    """One line for each network; 0 where all came back."""
    made = parser_of(__doc__)
    made.add_argument("--only", nargs="+", metavar="MODEL")
    made.add_argument("--formats", type=names, default=(SAVED, *EXPORTS), help="safetensors,pt2,onnx")
    made.add_argument("--load", nargs=2, metavar=("MODEL", "FOLDER"), help=argparse.SUPPRESS)
    options = made.parse_args(argv)
    if options.load:
        return 0 if loaded(options.load[0], Path(options.load[1])) else 1
    failed, chosen = 0, options.only or every()
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            told = saved(name, Path(folder), options.formats)
            said, fine = checked(name, Path(folder), options.formats)
            failed += not fine
            print(f"{name:32} {', '.join(said)}  {told}, {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} networks came back")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
