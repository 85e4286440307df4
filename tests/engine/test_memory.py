"""Memory that a training on the CPU frees stays with the process until the training ends."""

import os
import subprocess
import sys

import pytest
import torch
from engine.training import PLAIN, one_batch, small

from prunus.engine import memory
from prunus.engine.loop import fit
from prunus.engine.runtime import Runtime

BLOCKS = """
import resource, sys, torch
from prunus.engine.memory import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(10_000_000) for _ in range(4)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

with freed_memory_kept(torch.device(sys.argv[1])):
    for _ in range(4):
        faults()
    again, inside = faults(), resident()
print(again, inside - resident())
"""
PAGES = 4 * 10_000_000 * 4 // os.sysconf("SC_PAGESIZE") if hasattr(os, "sysconf") else 0

linux = pytest.mark.skipif(memory.allocator() is None, reason="not Linux with glibc, or its allocator is set")


def blocks(device: str, **environment: str) -> tuple[int, int]:
    """Page faults of four blocks of 40 MB each, like others that were freed before, and pages given back at the end."""
    plain = {name: value for name, value in os.environ.items() if name not in memory.SET}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS, device], env=plain | environment, capture_output=True, text=True, check=True
    )
    again, back = map(int, done.stdout.split())
    return again, back


@linux
def test_blocks_that_were_freed_are_used_again_and_given_back_at_the_end():
    again, back = blocks("cpu")
    assert again < PAGES // 10 and back > PAGES // 2


@linux
@pytest.mark.parametrize(
    ("device", "environment"), [("meta", {}), ("cpu", {"MALLOC_TRIM_THRESHOLD_": "131072"})], ids=["gpu", "set"]
)
def test_other_devices_and_settings_of_the_user_are_left_alone(device, environment):
    assert blocks(device, **environment)[1] < PAGES // 10


def test_a_training_runs_inside_and_an_error_ends_it(monkeypatch):
    calls = []

    class Libc:
        def mallopt(self, parameter, value):
            calls.append((parameter, value))

        def malloc_trim(self, pad):
            calls.append(("trim", pad))

    class Stop:
        def after_step(self):
            assert calls == [(memory.MMAP_THRESHOLD, memory.NEVER), (memory.TRIM_THRESHOLD, memory.NEVER)]
            raise KeyboardInterrupt

    monkeypatch.setattr(memory, "allocator", Libc)
    with pytest.raises(KeyboardInterrupt):
        fit(small(), one_batch(), PLAIN, hooks=[Stop()], runtime=Runtime(device="cpu"))
    assert calls[2:] == [
        (memory.MMAP_THRESHOLD, memory.LARGEST),
        (memory.TRIM_THRESHOLD, 2 * memory.LARGEST),
        ("trim", 0),
    ]


def test_nothing_is_done_where_the_allocator_is_unknown(monkeypatch):
    monkeypatch.setattr(memory, "allocator", lambda: None)
    with memory.freed_memory_kept(torch.device("cpu")):
        pass
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.allocator() is None
