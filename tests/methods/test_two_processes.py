"""The rest of the contract: two processes that share a batch train the weights that one trains, with every method."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine.launch import ENVIRONMENT
from methods.attached import TRAINED, trained

Weights = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    out = tmp_path_factory.mktemp("two") / "out.pt"
    program = str(Path(__file__).with_name("attached.py"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, program, str(out)], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found: Weights = torch.load(out, weights_only=True)
    return found


@pytest.mark.parametrize("name", TRAINED)
def test_two_processes_train_what_one_trains(name: str, two: Weights) -> None:
    one = trained(name, 0, 1)
    assert one.keys() == two[name].keys()
    for key, tensor in one.items():
        torch.testing.assert_close(two[name][key], tensor, rtol=1e-4, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")
