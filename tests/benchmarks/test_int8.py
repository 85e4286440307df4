"""benchmarks/int8.py: its table by hand, and a tiny run that is not repeated."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunus.models import resolve

ROWS = ("dense", "pruned", "dense, int8", "pruned, int8")


def record(seed: int, top1: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "target": "macs=50%",
        "macs": 499,
        "dense_macs": 1000,
        "settings": {"formats": ["onnx"]},
        "top1": {"onnx": {row: top1 - k for k, row in enumerate(ROWS)}},
        "agreement": {"onnx": {"dense": 0.99, "pruned": 0.5}},
        "bytes": {"onnx": dict(zip(ROWS, (1000, 600, 300, 200), strict=True))},
        "ms": dict.fromkeys(ROWS, 0.5),
        "ratio": {"pruned": [0.7, 0.6, 0.8], "dense, int8": [0.5, 0.4, 0.6], "pruned, int8": [0.3, 0.2, 0.4]},
    }


def test_the_table_by_hand() -> None:
    """90 and 92 in the first row: 91 with a deviation of √2."""
    from int8 import table

    targets = ["macs=50%", "macs=50%,round=8"]
    dense, _, _, last, missing = table([record(0, 90.0), record(1, 92.0)], targets).splitlines()[2:]
    assert missing == "| macs=50%,round=8 | | | | | | | | |"
    assert dense == "| macs=50%, 49.90 % | .onnx | dense | 91.00 ± 1.41 % |  | 1,000 | 100.0 % | 0.500 |  |"
    assert last.startswith(
        "| macs=50%, 49.90 % | .onnx | pruned, int8 | 88.00 ± 1.41 % | 50.00 ± 0.00 % | 200 | 20.0 % | 0.500 | 0.300 ["
    )


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnxruntime")
def test_it_runs_and_a_second_start_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from int8 import main

    torch.manual_seed(0)
    torch.save({"state_dict": resolve("resnet20", 10).state_dict()}, tmp_path / "net.th")
    draw, shape = np.random.default_rng(0), (3, 8, 8)
    images = {part: draw.integers(0, 256, (48, *shape), dtype=np.uint8) for part in ("train", "test")}
    labels = np.arange(48) % 10
    parts = {"x_train": images["train"], "y_train": labels, "x_test": images["test"], "y_test": labels}
    np.savez(tmp_path / "data.npz", **parts)
    results = tmp_path / "results.jsonl"
    words = ["--weights", str(tmp_path / "net.th"), "--data", str(tmp_path / "data.npz"), "--results", str(results)]
    words += "--repair-images 16 --repair statistics --calibrate 16 --seconds 0.05 --targets macs=50%".split()
    assert main(words) == 0
    (line,) = results.read_text("utf-8").splitlines()
    found = json.loads(line)
    assert found["images"] == 48 and found["proof"] is True and found["macs"] <= 0.5 * found["dense_macs"]
    assert set(found["top1"]["onnx"]) == set(ROWS) and set(found["ratio"]) == {*ROWS[1:], "noise"}
    assert found["bytes"]["onnx"]["pruned, int8"] < found["bytes"]["onnx"]["dense, int8"]
    capsys.readouterr()
    page = tmp_path / "page.md"
    page.write_text("<!-- int8: begin -->\n<!-- int8: end -->\n")
    assert main(words) == 0 and main([*words, "--report", "--page", str(page)]) == 0
    assert results.read_text("utf-8").splitlines() == [line]
    text = page.read_text()
    assert (
        "--targets macs=50% --repair statistics --repair-images 16 --calibrate 16 --seconds 0.05" in text
        and str(tmp_path) not in text
    )


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--formats", "pt2"], "onnx,pt2"),
        (["--weights", "none.th"], "none.th"),
        (["--report", "--epochs", "9"], "no records"),
    ],
)
def test_wrong_input_is_a_line(words: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from int8 import main

    assert main([*words, "--results", str(tmp_path / "none.jsonl")]) == 2
    err = capsys.readouterr().err
    assert part in err and err.count("\n") == 1
