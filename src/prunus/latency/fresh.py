"""A pair of exported networks, timed in fresh processes, one after another.

A machine has phases of seconds or minutes in which a network of a few milliseconds is some points slower against
another, and turns that follow one another at once do not show it. So a cut that is accepted is measured in several
processes, each with sessions of its own, over a minute or so; the spread of their medians is what one more process is
to be held against.
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
from .pairs import Sample, quiet_among
from .runners import arrays_of

if TYPE_CHECKING:
    from .machine import Machine

NETWORKS = ("dense.onnx", "pruned.onnx")
ENOUGH = 3
"""Quiet processes that tell how much one more may differ."""
EXAMPLE, SETTINGS, TURNS = "example.npz", "settings.json", "turns.npy"


def in_fresh_processes(machine: Machine, dense: nn.Module, pruned: nn.Module, example: Any) -> list[Sample]:
    """The quiet turns of a pair in each of `machine.processes` that found the machine quiet. Up to twice as many are
    started; where fewer than ENOUGH of these did, all of them count. Raises InputError where a process does not come to
    its end.

    machine: with a runtime of files."""
    from ..exporting import export

    told = {f.name: getattr(machine, f.name) for f in fields(machine) if f.name != "clock"}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name, net in zip(NETWORKS, (dense, pruned), strict=True):
            export(net, example, folder / name, dynamic=False)
        np.savez(folder / EXAMPLE, *arrays_of(example))
        (folder / SETTINGS).write_text(json.dumps(told), "utf-8")
        found: list[Sample] = []
        calm: list[Sample] = []
        with bar(f"timing in fresh processes on {machine.runtime}", machine.processes) as shown:
            while len(calm) < machine.processes and len(found) < 2 * machine.processes:
                found.append(_one(folder))
                calm = quiet_among(found)
                shown.advance()
    return calm if len(calm) >= min(ENOUGH, machine.processes) else found


def _one(folder: Path) -> Sample:
    (folder / TURNS).unlink(missing_ok=True)
    words = command("latency.timer", str(folder))
    ended = subprocess.run(words, capture_output=True, text=True, env=environment(), encoding="utf-8", errors="replace")
    if ended.returncode:
        raised = re.findall(r"^[\w.]+: .*", ended.stderr, re.MULTILINE) or ["it said nothing"]
        raise InputError(f"a process that was to time the networks ended with {ended.returncode}: {raised[-1]}")
    return Sample(np.load(folder / TURNS, allow_pickle=False))
