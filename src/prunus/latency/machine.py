"""What tells times: this machine, or in a test something that computes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ..errors import InputError, UnknownName
from ..progress import bar
from . import cache
from .fresh import in_fresh_processes
from .measure import hardware, versions
from .onelayer import one_layer, one_pass
from .pairs import LEAST, Call, Sample, interleaved, quiet
from .runners import FILES, RUNNERS, needed
from .settings import Setting
from .tables import Lookup, Point

__all__ = ["Machine", "Source", "machine", "timed"]

WARM, BLOCK, TURNS = 3, 1e-3, 7
"""Of one layer: calls before it is timed, seconds that a turn lasts at least, and turns, of which the fastest counts:
what else runs on a machine only ever adds."""
CALLING = "relu of 1"
ENTRIES = 1 << 18
"""Numbers of the tensor on which passing over one is timed: 1 MiB."""
PASSING = f"relu of {ENTRIES}"


class Source(Protocol):
    """Times of layers and of networks on one runtime."""

    @property
    def runtime(self) -> str: ...

    @property
    def threads(self) -> int: ...

    @property
    def device(self) -> str: ...

    def conditions(self) -> dict[str, Any]:
        """All that times depend on beside the layer, as JSON has it."""
        ...

    def layer(self, setting: Setting, inner: int, outer: int) -> float:
        """Seconds of one layer."""
        ...

    def relu(self, entries: int) -> float:
        """Seconds of one ReLU of so many numbers."""
        ...

    def call(self, model: nn.Module, example: Any) -> Call:
        """A network, ready to be timed."""
        ...

    def pair(self, dense: Call, pruned: Call) -> Sample:
        """Seconds of both, in quiet turns: (turns, 2)."""
        ...

    def pairs(self, dense: nn.Module, pruned: nn.Module, example: Any) -> list[Sample]:
        """The same in several fresh processes; none where the runtime has no files to give them."""
        ...


@dataclass(frozen=True)
class Machine:
    """This machine. seconds and turns: of a pair of networks at most; a pair is finished sooner where the 95 % interval
    of its ratio is within `within` of its median to both sides, and takes up to `patience` times as long where it is
    not within `coarse`: the machine is busy then. processes: fresh ones in which an accepted cut is timed again; up to
    twice as many are started where some find the machine busy."""

    runtime: str
    threads: int
    device: str = "cpu"
    seconds: float = 10.0
    within: float = 0.007
    turns: int = 200
    coarse: float = 0.02
    patience: float = 4.0
    processes: int = 5
    clock: Callable[[], float] = field(default=time.perf_counter, repr=False)

    def conditions(self) -> dict[str, Any]:
        """Hardware, threads, runtime, versions."""
        found = versions([self.runtime])
        place = torch.device(self.device)
        how = {"runtime": self.runtime, "threads": self.threads, "device": self.device, "hardware": hardware(place)}
        return {**how, "versions": found}

    def layer(self, setting: Setting, inner: int, outer: int) -> float:
        """The fastest of several turns."""
        return self._fastest(one_layer(self.runtime, setting, inner, outer, self.threads, self.device))

    def relu(self, entries: int) -> float:
        """The fastest of several turns."""
        return self._fastest(one_pass(self.runtime, entries, self.threads, self.device))

    def call(self, model: nn.Module, example: Any) -> Call:
        """As `bench` runs it."""
        return RUNNERS[self.runtime][0](model, example, self.threads)

    def pair(self, dense: Call, pruned: Call) -> Sample:
        """Turns until the ratio is known well, or the time is over; of these the quiet ones."""
        start, part = self.clock(), self.seconds / 10
        found = interleaved([dense, pruned], seconds=part, warm=part / 4, sync=self._sync(), clock=self.clock)
        while True:
            calm = quiet(found)
            ratio = calm.ratio(1, 0)
            off = max(ratio.high - ratio.median, ratio.median - ratio.low) / ratio.median
            spent = max((self.clock() - start) / self.seconds, len(found.seconds) / self.turns)
            known = off <= self.within and len(calm.seconds) >= LEAST  # of few turns an interval says little
            if known or spent >= (self.patience if off > self.coarse else 1.0):
                return calm
            more = interleaved([dense, pruned], seconds=part, warm=0.0, least=3, sync=self._sync(), clock=self.clock)
            found = Sample(np.concatenate([found.seconds, more.seconds]))

    def pairs(self, dense: nn.Module, pruned: nn.Module, example: Any) -> list[Sample]:
        """Of runtimes of files. Raises InputError where a process fails."""
        if self.runtime not in FILES or not self.processes:
            return []
        return in_fresh_processes(self, dense, pruned, example)

    def _sync(self) -> Call | None:
        return torch.cuda.synchronize if torch.device(self.device).type == "cuda" else None

    def _fastest(self, call: Call) -> float:
        wait = self._sync() or (lambda: None)
        with torch.no_grad():
            start = self.clock()
            for _ in range(WARM):
                call()
            wait()
            times = max(1, int(np.ceil(BLOCK * WARM / max(self.clock() - start, 1e-9))))
            found = []
            for _ in range(TURNS):
                start = self.clock()
                for _ in range(times):
                    call()
                wait()
                found.append((self.clock() - start) / times)
        return max(min(found), 1e-9)


def machine(runtime: str, model: nn.Module) -> Machine:
    """This machine with this runtime, as many threads as torch uses, on the model's device.

    Raises UnknownName, and InputError for a runtime that is not installed or does not run there."""
    if runtime not in RUNNERS:
        raise UnknownName.of("runtime for on=", runtime, RUNNERS)
    place = next((str(p.device) for p in model.parameters()), "cpu")
    if runtime in FILES:
        for package in (runtime, "onnx", "onnxscript"):
            needed(package)
        if place != "cpu":
            raise InputError(f"on={runtime}: it is timed on the CPU here, and the model is on {place}")
    return Machine(runtime, torch.get_num_threads(), place)


@dataclass(frozen=True, eq=False)
class Timed:
    """Layer timings: looked up by `layer`. calling: seconds of a call of next to nothing; entry: of passing over one
    number more. points: how many layer timings there are, fresh: how many of all no cache had."""

    layer: Lookup
    calling: float
    entry: float
    points: int
    fresh: int
    notes: tuple[str, ...] = ()


def timed(source: Source, wanted: Mapping[Setting, list[Point]]) -> Timed:
    """Every wanted point, from the cache or else measured, and then written there, also where this is interrupted.

    Of a runtime of files, what a call costs by itself is taken off: a network pays it once."""
    conditions = source.conditions()
    path = cache.file_of(conditions)
    known, note = cache.read(path, conditions)
    notes = [] if note is None else [note]
    fresh = 0
    missing = [(s, i, o) for s, points in wanted.items() for i, o in points if f"{i},{o}" not in known.get(str(s), {})]
    try:
        for name, entries in ((CALLING, 1), (PASSING, ENTRIES)):
            if "" not in known.setdefault(name, {}):
                known[name][""] = source.relu(entries)
                fresh += 1
        with bar(f"timing layers on {source.runtime}", len(missing), wanted=bool(missing)) as shown:
            for setting, inner, outer in missing:
                seconds = source.layer(setting, inner, outer)
                known.setdefault(str(setting), {})[f"{inner},{outer}"] = seconds
                fresh += 1
                shown.advance()
    finally:
        if fresh and (note := cache.write(path, conditions, known)) is not None:
            notes.append(note)
    calling, passing = known[CALLING][""], known[PASSING][""]
    once = calling if source.runtime in FILES else 0.0

    def layer(setting: Setting, inner: int, outer: int) -> float:
        whole = known[str(setting)][f"{inner},{outer}"]
        return max(whole - once, 0.05 * whole)

    entry = max(0.0, passing - calling) / ENTRIES
    return Timed(layer, calling, entry, sum(map(len, wanted.values())), fresh, tuple(notes))
