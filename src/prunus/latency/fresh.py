"""A pair of exported networks, timed in fresh processes.

What memory a process happens to get moves the latency of a small network by some points, and no number of turns within
one process shows it. So a cut that is accepted is measured in several, one after another, each with sessions of its
own; the spread of their medians is what one more process is to be held against.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ..child import command, environment
from ..errors import InputError
from ..progress import bar
from .pairs import Sample
from .runners import arrays_of

if TYPE_CHECKING:
    from .machine import Machine

NETWORKS = ("dense.onnx", "pruned.onnx")
EXAMPLE, SETTINGS, TURNS = "example.npz", "settings.json", "turns.npy"


def in_fresh_processes(machine: Machine, dense: nn.Module, pruned: nn.Module, example: Any) -> list[Sample]:
    """One sample of a pair for each of `machine.processes`. Raises InputError where a process does not come to its end.

    machine: with a runtime of files."""
    from ..exporting import export

    told = {f.name: getattr(machine, f.name) for f in fields(machine) if f.name != "clock"}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name, net in zip(NETWORKS, (dense, pruned), strict=True):
            export(net, example, folder / name, dynamic=False)
        np.savez(folder / EXAMPLE, *arrays_of(example))
        (folder / SETTINGS).write_text(json.dumps(told), "utf-8")
        found = []
        with bar(f"timing in fresh processes on {machine.runtime}", machine.processes, wanted=True) as shown:
            for _ in range(machine.processes):
                found.append(_one(folder))
                shown.advance()
    return found


def _one(folder: Path) -> Sample:
    (folder / TURNS).unlink(missing_ok=True)
    words = command("latency.timer", str(folder))
    ended = subprocess.run(words, capture_output=True, text=True, env=environment(), encoding="utf-8", errors="replace")
    if ended.returncode:
        raised = re.findall(r"^[\w.]+: .*", ended.stderr, re.MULTILINE) or ["it said nothing"]
        raise InputError(f"a process that was to time the networks ended with {ended.returncode}: {raised[-1]}")
    return Sample(np.load(folder / TURNS, allow_pickle=False))
