"""Two processes against one that does their parts in turn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine.launch import ENVIRONMENT, JOB, alone, free_port, together, together_at
from safetensors.torch import load_file


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: t for name, t in load_file(path).items() if "running" not in name and "num_batches" not in name}


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Relative to the largest entry of each tensor."""
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max() / a[k].abs().max()) for k in a)


ONE_STEP = {"epochs": 1, "batch_size": 36, "clip": 1.0, "label_smoothing": 0.1}


def test_two_processes_do_what_one_does_that_accumulates_their_parts(tmp_path: Path) -> None:
    one, two, whole = (tmp_path / f"{name}.safetensors" for name in ("one", "two", "whole"))
    alone({"out": str(one), "samples": 36, "fit": {**ONE_STEP, "accumulate": 2}})
    report = together({"out": str(two), "samples": 36, "fit": ONE_STEP})
    assert largest_difference(weights(one), weights(two)) < 1e-6
    alone({"out": str(whole), "samples": 36, "fit": ONE_STEP})
    assert largest_difference(weights(one), weights(whole)) > 1e-4, "with batch norm a divided batch is another one"
    assert json.loads(report.stdout)["n"] == 36


def test_without_batch_norm_they_equal_the_undivided_batch(tmp_path: Path) -> None:
    # 37 samples: the parts differ in size.
    plain = {"norm": False, "dropout": 0.0, "samples": 37, "fit": {**ONE_STEP, "batch_size": 37}}
    whole, two = tmp_path / "whole.safetensors", tmp_path / "two.safetensors"
    first = alone({**plain, "out": str(whole)})
    second = together({**plain, "out": str(two)})
    assert largest_difference(weights(whole), weights(two)) < 1e-6
    a, b = json.loads(first.stdout), json.loads(second.stdout)
    assert (a["n"], a["top1"]) == (b["n"], b["top1"])
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_two_processes_that_were_killed_go_on_to_the_same_weights(tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight.safetensors", tmp_path / "resumed.safetensors"
    job = {"every": 3, "fit": {"epochs": 2, "ema": 0.9}}
    together({**job, "out": str(straight), "checkpoints": str(tmp_path / "a")})
    assert together({**job, "out": str(resumed), "checkpoints": str(tmp_path / "b"), "kill": 7}, check=False).returncode
    assert not resumed.exists()
    assert [p.name for p in sorted((tmp_path / "b").glob("step-*"))][-1] == "step-00000006.safetensors"
    together({**job, "out": str(resumed), "checkpoints": str(tmp_path / "b")})
    a, b = load_file(straight), load_file(resumed)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_second_process_that_never_comes_ends_with_a_message() -> None:
    missing = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, str(JOB), json.dumps({"out": "unused", "runtime": {"timeout": 2.0}})],
        env={**ENVIRONMENT, **missing, "MASTER_PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("prunus.errors.ProcessError: process 0 of 2 did not meet the others within 2 s")


LAST = """
import torch
from prunus.engine.processes import join
from prunus.engine.runtime import Runtime
processes = join(Runtime(device="cpu"))
held = torch.distributed.group.WORLD
for _ in range(3):
    processes.total(torch.ones(1000))
"""


def test_a_process_that_ends_right_after_a_sum_ends_well(tmp_path: Path) -> None:
    """Without a pause at the end, about every second pair of these has a process that aborts when its work is done."""
    script = tmp_path / "last.py"
    script.write_text(LAST)
    together_at(script, 2)
