"""What a run folder tells of a run before, during and after it, beside the network and run.json.

recipe.toml        the recipe as it was resolved, of this seed alone
environment.json   versions, hardware, git state
state.json         pending, running, failed or stopped (at which stage, and why), or done
log.txt            what was told, each line with its time
networks/          what each stage left, where it is not model.safetensors; the same files as in the stages' folders
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from prunus.errors import InputError, StorageError
from prunus.lab.environment import environment, without_places_in
from prunus.lab.explain import toml
from prunus.lab.stages import MARK, Busy

__all__ = ["ENVIRONMENT", "LOG", "NETWORKS", "RECIPE", "STATE", "Journal", "reason"]

RECIPE, ENVIRONMENT, STATE, LOG, NETWORKS = "recipe.toml", "environment.json", "state.json", "log.txt", "networks"


class Journal:
    """Of one run folder. writes: whether this process is the one that does. stage: where the run is now."""

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder, self.writes, self.stage, self.begun = folder, writes, "begin", False

    def begin(self, settings: Mapping[str, Any]) -> None:
        """The run starts, or starts again: what it is, and that it is not done."""
        self.begun = True
        if self.writes:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot write to the folder {str(self.folder)!r}: {error.strerror}") from error
            self.describe(settings)
            self._state({"status": "running"})

    def describe(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Write the recipe and the environment; returns the names of the files."""
        self._write(RECIPE, toml(settings))
        self._write(ENVIRONMENT, json.dumps(environment(), indent=2) + "\n")
        return RECIPE, ENVIRONMENT

    def failed(self, error: BaseException) -> None:
        """The run ended at the stage where it is. Where another process works in its folder, that one speaks for it;
        and a finished run that this one was to replace is still that."""
        if self.writes and not isinstance(error, Busy) and (self.begun or not (self.folder / MARK).exists()):
            with suppress(StorageError):  # the error itself is the news
                self._state({"status": "failed", "stage": self.stage, "error": without_places_in(reason(error))})

    def announce(self, settings: Mapping[str, Any]) -> None:
        """The run is to come: what it is. A folder in which something was begun is left as it is."""
        if self.writes and not (self.folder / STATE).exists():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot write to the folder {str(self.folder)!r}: {error.strerror}") from error
            self._write(RECIPE, toml(settings))
            self._state({"status": "pending"})

    def stopped(self, why: str) -> None:
        """The run was given up on purpose at the stage where it is."""
        if self.writes:
            self._state({"status": "stopped", "stage": self.stage, "error": why})

    def done(self) -> None:
        """The run is whole."""
        if self.writes:
            self._state({"status": "done"})

    def line(self, text: str) -> None:
        """Keep a line that was told."""
        if self.writes and self.folder.is_dir():
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            text = text.replace(str(self.folder), self.folder.name)
            with suppress(OSError), (self.folder / LOG).open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"{now} {without_places_in(' '.join(text.split()))}\n")

    def keep(self, networks: Iterable[tuple[str, Path]]) -> list[str]:
        """The network of each stage, by link where the disk has them; returns the names of the files."""
        shutil.rmtree(self.folder / NETWORKS, ignore_errors=True)
        names = []
        for name, source in networks:
            own = self.folder / NETWORKS / f"{name}.safetensors"
            own.parent.mkdir(exist_ok=True)
            try:
                os.link(source, own)  # a file of weights is replaced, never written into, so both stay what they are
            except OSError:
                shutil.copyfile(source, own)
            names.append(own.relative_to(self.folder).as_posix())
        return names

    def _state(self, content: Mapping[str, Any]) -> None:
        self._write(STATE, json.dumps({"format": "prunus-state-1", **content}, indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        """Beside and then renamed, so that no reader sees half of it."""
        part = self.folder / f".{name}.part"
        try:
            part.write_text(text, encoding="utf-8", errors="replace")
            part.replace(self.folder / name)
        except OSError as error:
            raise StorageError(f"cannot write {str(self.folder / name)!r}: {error.strerror or error}") from error


def reason(error: BaseException) -> str:
    """One line: the message, and for what was not raised on purpose its kind."""
    from prunus.errors import PrunusError

    text = " ".join(str(error).split())
    return text if isinstance(error, PrunusError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
