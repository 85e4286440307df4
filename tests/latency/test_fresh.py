"""Pairs of networks in fresh processes, on ONNX Runtime."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import prunus.api
from prunus.errors import InputError
from prunus.latency import Sample, fresh
from prunus.latency.machine import Machine, machine

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)


def convolutions(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4),
    ).eval()  # fmt: skip


NET = convolutions(4)


def test_each_process_tells_of_the_pair() -> None:
    x = torch.randn(2, 3, 32, 32)
    timing = Machine("onnxruntime", 1, seconds=0.3, processes=2)
    wide, narrow = convolutions(96), convolutions(24)
    before = copy.deepcopy(wide.state_dict())
    samples = timing.pairs(wide, narrow, x)
    assert len(samples) == 2 and all(sample.seconds.shape[1] == 2 for sample in samples)
    assert not (samples[0].seconds[:3] == samples[1].seconds[:3]).any()
    assert all(0.02 < sample.ratio(1, 0).median < 0.7 for sample in samples)
    assert all(torch.equal(before[name], value) for name, value in wide.state_dict().items())


def test_runtimes_without_files_have_none() -> None:
    assert Machine("eager", 1).pairs(convolutions(4), convolutions(4), torch.zeros(1, 3, 8, 8)) == []


def test_a_process_that_fails_says_why() -> None:
    broken = Machine("onnxruntime", "one", processes=1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"that was to time the networks ended with 1: TypeError: "):
        broken.pairs(convolutions(4), convolutions(4), torch.zeros(1, 3, 8, 8))


def test_a_target_is_measured_in_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path))
    quick = {"seconds": 0.5, "processes": 2}
    monkeypatch.setattr(prunus.api, "machine", lambda runtime, net: replace(machine(runtime, net), **quick))
    small = prunus.prune(convolutions(64), torch.randn(1, 3, 24, 24), "latency=70%,on=onnxruntime")
    found = small.latency
    assert found is not None and found.processes == 2 and found.to_json()["processes"] == 2
    assert found.measured.low <= found.measured.median <= found.measured.high


@pytest.mark.parametrize(
    ("more", "started", "kept"),
    [([0, 0, 0, 0], 3, 3), ([2, 0, 2, 0, 0], 5, 3), ([0, 2, 2, 2, 2, 2], 6, 6), ([0, 2, 0, 2, 2, 2], 6, 6)],
)
def test_busy_processes_are_made_up_for(
    more: list[int], started: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Milliseconds that each adds to every call, how many are started of three wanted, and how many count."""
    left = list(more)
    wide = np.tile([5e-3, 3e-3], (20, 1))
    monkeypatch.setattr(fresh, "_one", lambda folder: Sample(wide + 1e-3 * left.pop(0)))
    found = fresh.in_fresh_processes(Machine("onnxruntime", 1, processes=3), NET, NET, torch.zeros(1, 3, 8, 8))
    assert (len(more) - len(left), len(found)) == (started, kept)
