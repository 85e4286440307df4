"""What a method that trains towards a budget leaves of it, epoch by epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from prunus.engine.history import Epoch
from prunus.errors import StorageError

__all__ = ["SHARES", "Shares"]

SHARES = "shares.jsonl"


class Leaves(Protocol):
    """A hook that knows the share of each budgeted cost that its channels leave, such as {"macs": 0.61}."""

    def left(self) -> Mapping[str, float]: ...


class Shares:
    """A watcher: one JSON object an epoch. A resumed training goes on after the epochs that it keeps."""

    def __init__(self, path: Path, hook: Leaves) -> None:
        self.path, self.hook = path, hook

    def start(self, past: Sequence[Epoch]) -> None:
        """Keep the lines of past epochs."""
        kept: list[str] = []
        with suppress(OSError):
            kept = self.path.read_text(encoding="utf-8").splitlines()[: len(past)]
        self._write("w", kept)

    def epoch(self, done: Epoch, epochs: int) -> None:
        """Add one."""
        self._write("a", [json.dumps({"epoch": done.epoch, **self.hook.left()})])

    def _write(self, mode: str, lines: Sequence[str]) -> None:
        try:
            with self.path.open(mode, encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
        except OSError as error:
            raise StorageError(f"cannot write {str(self.path)!r}: {error.strerror or error}") from error
