"""A small model of the user's own, and calls of the command line that read the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunus.cli import main

SOURCE = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )

def slow():  # whose time is that of its layers, not of their calls
    return nn.Sequential(nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 4, 3))

def single():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def not_finite():
    model = small()
    model[0].weight.data[3, 0, 1, 1] = float("nan")
    return model

def wants_two():
    class Two(nn.Module):
        def forward(self, a, b):
            return a + b
    return Two()

def broken():
    raise RuntimeError("no such thing")

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The path of a Python file with factories of models: small (0.09 M macs on digits), single, not_finite, …"""
    path = tmp_path / "nets.py"
    path.write_text(SOURCE, encoding="utf-8")
    return str(path)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run `prunus WORDS --json`; expects exit code 0 and nothing on stderr; returns the object."""

    def call(*words: str) -> Any:
        code = main([*words, "--json"])
        captured = capsys.readouterr()
        assert (code, captured.err) == (0, "")
        return json.loads(captured.out)

    return call


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `prunus WORDS`; expects exit code 2, no stdout and one line on stderr; returns the line."""

    def call(*words: str) -> str:
        code = main(list(words))
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1, captured.err
        assert (code, captured.out) == (2, ""), captured.err
        assert "Traceback" not in captured.err and len(captured.err) < 700
        return captured.err.strip()

    return call
