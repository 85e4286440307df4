"""The int8 rows of a report: means over seeds, the last export of a run, lines that no one should trust."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from runfolders import made

import prunus
from prunus.errors import StorageError
from prunus.lab.exports import noted


def line(kind: str, top1: Any, agreement: Any = 0.9, size: int = 200) -> str:
    return json.dumps({"format": kind, "bytes": size, "int8": {"top1": top1, "agreement": agreement}}) + "\n"


def test_a_row_for_each_format_over_the_seeds(tmp_path: Path) -> None:
    """84 and 86: mean 85, deviation √2. The first line of seed 0 is outdone by its second; a float export is none."""
    folders = [made(tmp_path, "a", seed) for seed in (0, 1)]
    told = json.dumps({"format": "pt2", "bytes": 9, "int8": None}) + "\n"
    (folders[0] / "exports.jsonl").write_text(line("onnx", [90, 10]) + told + line("onnx", [90, 84.0]))
    (folders[1] / "exports.jsonl").write_text(line("onnx", [90, 86.0], 0.7, 300) + line("pt2", None, None))
    found = {row["stage"]: row for row in prunus.report(tmp_path, stages=True).rows}
    row = found["int8 (onnx)"]
    assert (row["run"], row["status"], row["top-1"], row["n"], row["best"]) == ("a", "done", 85.0, 2, 86.0)
    assert row["sd"] == pytest.approx(2**0.5) and row["macs"] == found["fine-tuned"]["macs"] == 500
    assert row["agreement %"] == pytest.approx(80.0) and row["file bytes"] == 250.0
    assert found["int8 (pt2)"]["top-1"] is None and found["int8 (pt2)"]["file bytes"] == 200.0
    assert [row["stage"] for row in prunus.report(tmp_path, stages=True).rows][-2:] == ["int8 (onnx)", "int8 (pt2)"]


@pytest.mark.parametrize(
    "text", ["{", '{"format": 3, "int8": {"top1": [1, 2]}}', '{"format": "onnx", "int8": []}', "7"]
)
def test_lines_that_say_nothing_make_no_row(text: str, tmp_path: Path) -> None:
    (made(tmp_path, "a", 0) / "exports.jsonl").write_text(text + "\n")
    assert not [row for row in prunus.report(tmp_path, stages=True).rows if "int8" in str(row["stage"])]


def test_what_is_noted_and_where(tmp_path: Path) -> None:
    done = cast(Any, SimpleNamespace(path="net.onnx", to_json=lambda: {"format": "onnx"}))
    folder = made(tmp_path, "a", 0)
    for source in (folder, folder / "model.safetensors"):
        assert noted(source, done, "digits") == folder / "exports.jsonl"
    first, second = map(json.loads, (folder / "exports.jsonl").read_text().splitlines())
    assert first == second and (first["format"], first["data"]) == ("onnx", "digits")
    assert noted(tmp_path / "small.safetensors", done, "digits") is None
    (folder / "exports.jsonl").unlink()
    (folder / "exports.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"^net.onnx is written, and cannot be noted in .*exports.jsonl"):
        noted(folder, done, "digits")
