"""`prunus export`, and what is said about files that were exported already."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prunus.engine.augment import normalise
from prunus.engine.data import load
from prunus.lab import folder

Ask = Callable[..., Any]
Refused = Callable[..., str]


@pytest.fixture
def run(ask: Ask, file: str, tmp_path: Path) -> str:
    """The folder of a pruned network of the user's."""
    out = str(tmp_path / "run")
    ask("prune", f"{file}:small", "--input", "1,8,8", "--target", "macs=50%", "--out", out)
    return out


def test_a_run_becomes_a_program(run: str, ask: Ask, tmp_path: Path) -> None:
    answer = ask("export", "--from", run, "--out", str(tmp_path / "net.pt2"), "--dense")
    assert answer["format"] == "pt2" and answer["batch"] is None and answer["opset"] is None
    assert answer["bytes"] == (tmp_path / "net.pt2").stat().st_size < answer["dense_bytes"]
    assert answer["parity"]["relative"] <= 1e-4 == answer["parity"]["limit"] and answer["parity"]["inputs"] == 4
    eager, x = folder.rebuild(*folder.read(Path(run))).eval(), torch.randn(7, 1, 8, 8)
    assert torch.allclose(torch.export.load(tmp_path / "net.pt2").module()(x), eager(x), rtol=1e-5, atol=1e-6)


def test_a_run_becomes_a_module(run: str, ask: Ask, tmp_path: Path) -> None:
    answer = ask("export", "--from", run, "--format", "python", "--out", str(tmp_path / "net"))
    assert answer["files"] == [str(tmp_path / "net.py"), str(tmp_path / "net_weights.pt")]
    assert "from nets import small as full" in (tmp_path / "net.py").read_text("utf-8")


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnxruntime")
def test_int8_is_measured_and_noted_in_the_run(run: str, ask: Ask, tmp_path: Path) -> None:
    words = ("--int8", "--data", "digits", "--calibrate", "64", "--measure", "100", "--floor", "0")
    answer = ask("export", "--from", run, "--out", str(tmp_path / "net.onnx"), "--dense", *words)
    told = answer["int8"]
    assert (told["calibrated"], told["measured"], told["held_out"], told["floor"]) == (64, 100, True, 0.0)
    assert 0 <= told["agreement"] <= 1 and told["float_bytes"] < answer["dense_bytes"]
    data = load("digits")
    model = folder.rebuild(*folder.read(Path(run))).eval()
    with torch.no_grad():
        said = model(normalise(data.test.images[:100], data.mean, data.std)).argmax(1)
    assert told["top1"][0] == float((said == data.test.labels[:100]).sum())
    assert answer["noted"] == str(Path(run) / "exports.jsonl")
    (line,) = map(json.loads, Path(answer["noted"]).read_text("utf-8").splitlines())
    assert line["int8"] == told and line["data"] == "digits" and line["versions"]["torch"]
    rows = ask("report", run, "--stages")["rows"]
    assert [row["top-1"] for row in rows if row["stage"] == "int8 (onnx)"] == [told["top1"][1]]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["resnet20", "--input", "3,8,8", "--out", "n.onnx", "--calibrate", "8"], ["--calibrate", "--int8"]),
        (["resnet20", "--input", "3,8,8", "--out", "n.onnx", "--data", "digits"], ["--data", "--int8"]),
        (["resnet20", "--input", "3,8,8", "--out", "n.onnx", "--int8"], ["no data", "--data"]),
        (["resnet20", "--out", "n.py", "--int8", "--data", "digits"], ["int8", "python", ".onnx"]),
        (["resnet20", "--input", "3,8,8"], ["--out FILE"]),
        (["resnet20", "--input", "3,8,8", "--out", "net.onx"], ["net.onx", ".onnx"]),
        (["resnet20", "--input", "3,8,8", "--out", "net", "--format", "onx"], ["'onx'", "did you mean 'onnx'"]),
        (["--from", "no/such/run", "--out", "net.pt2"], ["no/such/run"]),
        (["resnet20", "--out", "net.pt2"], ["--input"]),
    ],
)
def test_what_is_refused(words: list[str], parts: list[str], refused: Refused) -> None:
    line = refused("export", *words)
    assert [part for part in parts if part not in line] == [], line


@pytest.mark.parametrize(
    "words",
    [
        ["prune", "nets/net.onnx"],
        ["prune", "nets/net.onnx", "--target", "macs=50%"],
        ["cost", "nets/net.onnx", "--input", "3,8,8"],
    ],
)
def test_an_onnx_file_is_pruned_where_it_came_from(words: list[str], refused: Refused) -> None:
    line = refused(*words)
    for part in ("'nets/net.onnx' is an ONNX file", "prunus prune path/file.py:factory", "--out net.onnx"):
        assert part in line, line
