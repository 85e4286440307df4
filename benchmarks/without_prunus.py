"""Run exported networks as somebody would who has no Prunus: this file imports nothing of the repository.

    python benchmarks/without_prunus.py FOLDER

FOLDER holds answers.npz, with x0, x1, … and y0, y1, …, and files of the network that gave these answers. Prints as JSON
how far each file is from them, relative to the largest value.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[Any], Any]


def pt2(file: Path) -> Run:
    import torch

    module = torch.export.load(file).module()

    def run(x: Any) -> Any:
        with torch.no_grad():
            return first(module(torch.from_numpy(x))).numpy()

    return run


def onnx(file: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def first(found: Any) -> Any:
    return found[0] if isinstance(found, (tuple, list)) else found


READERS: dict[str, Callable[[Path], Run]] = {".pt2": pt2, ".onnx": onnx}


def main(argv: Sequence[str] | None = None) -> int:
    """Compare every file of the folder."""
    (folder,) = map(Path, sys.argv[1:] if argv is None else argv)
    sys.modules["prunus"] = None  # type: ignore[assignment]  # an import of it fails now
    told = np.load(folder / "answers.npz")
    found = {}
    for file in sorted(folder.iterdir()):
        if file.suffix in READERS:
            run = READERS[file.suffix](file)
            gaps = []
            for k in range(len(told) // 2):
                x, y = told[f"x{k}"], told[f"y{k}"]
                answer = run(x)
                gaps.append(float(np.abs(answer - y).max() / np.abs(y).max()) if answer.shape == y.shape else np.inf)
            found[file.name] = max(gaps)
    assert "prunus" not in {name for name, module in sys.modules.items() if module is not None}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
