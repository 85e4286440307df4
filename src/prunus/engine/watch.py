"""Watchers of a training: lines for people, JSON lines for programs, experiment trackers by name.

A watcher has `epoch(done, epochs)`, called after each epoch in the first process. `start(past)`, where it has one, is
called before the first, with the epochs that a resumed training has behind it; `close()`, where it has one, at the end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from prunus.engine.history import Epoch, Silent, showing
from prunus.engine.processes import One
from prunus.engine.state import State
from prunus.errors import InputError, StorageError, UnknownName

__all__ = ["TRACKERS", "JsonLines", "Lines", "Trackers", "Watcher", "watched"]

TRACKERS = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
"""Names, and the packages that they need."""


class Watcher(Protocol):
    """Told of every epoch."""

    def epoch(self, done: Epoch, epochs: int) -> None: ...


class Seen:
    """What `fit` tells: the bar and the watchers, in the first process."""

    def __init__(self, bar: Silent, watchers: Sequence[Watcher]) -> None:
        self.bar, self.watchers = bar, watchers

    def step(self) -> None:
        """One step is done."""
        self.bar.step()

    def epoch(self, done: Epoch, epochs: int) -> None:
        """One epoch is done."""
        self.bar.epoch(done, epochs)
        for watcher in self.watchers:
            watcher.epoch(done, epochs)


@contextmanager
def watched(
    progress: bool, watchers: Sequence[Watcher], processes: One, length: int | None, epochs: int, state: State
) -> Iterator[Seen]:
    """Open the bar and the watchers, and close them at the end."""
    first = processes.rank == 0
    mine = watchers if first else ()
    for watcher in mine:
        if hasattr(watcher, "start"):
            watcher.start(state.done)
    total = length * epochs if length else None
    try:
        with showing("training", progress and first, total, state.before + state.step) as bar:
            yield Seen(bar, mine)
    finally:
        for watcher in mine:
            if hasattr(watcher, "close"):
                watcher.close()


class Lines:
    """One line an epoch on a stream, by default stderr, with the time that is left."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream, self.seconds = stream, [0.0]

    def start(self, past: Sequence[Epoch]) -> None:
        """The pace so far."""
        self.seconds = [epoch.seconds for epoch in past]

    def epoch(self, done: Epoch, epochs: int) -> None:
        """Print it."""
        self.seconds.append(done.seconds)
        known = [s for s in self.seconds if s]
        left = sum(known) / max(1, len(known)) * (epochs - done.epoch)
        text = f"epoch {done.epoch}/{epochs}  {done}" + (f"  {duration(left)} left" if done.epoch < epochs else "")
        print(text, file=self.stream or sys.stderr, flush=True)


class JsonLines:
    """One JSON object an epoch in a file. A resumed training goes on after the epochs that it keeps."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, past: Sequence[Epoch]) -> None:
        """Leave exactly the past epochs in the file."""
        self._write("w", past)

    def epoch(self, done: Epoch, epochs: int) -> None:
        """Add it."""
        self._write("a", [done])

    def _write(self, mode: str, epochs: Sequence[Epoch]) -> None:
        try:
            with self.path.open(mode, encoding="utf-8") as file:
                file.writelines(json.dumps(epoch.as_dict()) + "\n" for epoch in epochs)
        except OSError as error:
            raise StorageError(f"cannot write {str(self.path)!r}: {error.strerror or error}") from error


class Trackers:
    """TensorBoard, MLflow or W&B through Accelerate's trackers.

    names: of TRACKERS. folder: where local ones write. config: settings to show, plain numbers and words. Raises
    UnknownName, and InputError with the package to install.
    """

    def __init__(self, names: Sequence[str], folder: Path, project: str, config: Mapping[str, Any]) -> None:
        from importlib.util import find_spec

        for name in names:
            if name not in TRACKERS:
                raise UnknownName.of("tracker", name, TRACKERS)
            if find_spec(TRACKERS[name]) is None:
                raise InputError(f"tracker {name!r} needs a package: pip install {TRACKERS[name]}")
        self.names, self.folder, self.project, self.config = tuple(names), folder, project, flat(config)
        self.accelerator: Any = None

    def start(self, past: Sequence[Epoch]) -> None:
        """Open them."""
        from accelerate import Accelerator

        self.accelerator = Accelerator(log_with=list(self.names), project_dir=str(self.folder))
        self.accelerator.init_trackers(self.project, config=self.config)

    def epoch(self, done: Epoch, epochs: int) -> None:
        """Log its numbers."""
        numbers = {k: v for k, v in flat(done.as_dict()).items() if isinstance(v, int | float) and k != "epoch"}
        self.accelerator.log(numbers, step=done.epoch)

    def close(self) -> None:
        """Flush and end."""
        if self.accelerator is not None:
            self.accelerator.end_training()


def flat(settings: Any, prefix: str = "") -> dict[str, int | float | str | bool]:
    """Nested settings as dotted names with plain values."""
    found: dict[str, int | float | str | bool] = {}
    if is_dataclass(settings) and not isinstance(settings, type):
        settings = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) or (is_dataclass(value) and not isinstance(value, type)):
            found.update(flat(value, f"{name}."))
        else:
            found[name] = value if isinstance(value, int | float | str | bool) else str(value)
    return found


def duration(seconds: float) -> str:
    """`1 h 05 min`, `3 min 20 s` or `12 s`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"
