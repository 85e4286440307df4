"""The folder of a stage: what it depends on gives its name, and a marker that is written last says that it is whole.

ROOT/stages/baseline-1f0c9a6b2e44/
    model.safetensors, plan.json, run.json      as `folder.write` leaves them, so that `--from` takes the folder
    metrics.jsonl                               one line an epoch, where the stage trains
    checkpoints/                                while it is at work
    done.json                                   key, digests of the files, seconds, versions, hardware
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from prunus.errors import InputError, PrunusError, StorageError
from prunus.lab.environment import hardware, versions

__all__ = [
    "CHECKPOINTS",
    "FORMAT",
    "Busy",
    "Place",
    "claimed",
    "clear",
    "conditions",
    "differing",
    "digest",
    "digest_of_file",
    "finish",
    "forget",
    "in_turn",
    "mark",
    "state",
]

FORMAT = "prunus-stage-1"
"""Part of every key: what an earlier version left is then not taken for what this one would make."""

MARK, CHECKPOINTS = "done.json", "checkpoints"

WAIT = 0.3
"""Seconds between two looks at a folder that another process works in."""

T = TypeVar("T")

State = Literal["done", "begun", "absent", "damaged"]


class Busy(PrunusError):
    """Another process works in the folder."""


@dataclass(frozen=True)
class Place:
    """Where a stage works: its name, the key of all that it depends on, its folder."""

    name: str
    key: str
    folder: Path

    @classmethod
    def below(cls, root: Path, name: str, content: Any) -> Place:
        """The place of a stage that depends on `content`, plain data."""
        key = digest([FORMAT, name, content])
        return cls(name, key, root / "stages" / f"{name}-{key[:12]}")


def digest(content: Any) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def differing(settings: Any) -> Any:
    """The settings that are not at their defaults, as plain data: a key then outlives new settings."""
    if is_dataclass(settings) and not isinstance(settings, type):
        pairs = ((part, getattr(settings, part.name)) for part in fields(settings))
        return {
            part.name: differing(value)
            for part, value in pairs
            if value != (part.default_factory() if callable(part.default_factory) else part.default)
        }
    if isinstance(settings, Mapping):
        return {str(key): differing(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [differing(value) for value in settings]
    return settings


def state(place: Place) -> tuple[State, str]:
    """What the folder holds, and for a damaged one what is wrong."""
    if not place.folder.is_dir():
        return "absent", ""
    file = place.folder / MARK
    if not file.exists():
        return "begun", ""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["key"] != place.key:
            return "damaged", f"{MARK} has another key"
        for name, wanted in found["files"].items():
            if not (place.folder / name).is_file():
                return "damaged", f"{name} is missing"
            if digest_of_file(place.folder / name) != wanted:
                return "damaged", f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return "damaged", f"{MARK} cannot be read: {' '.join(str(error).split())}"
    return "done", ""


def mark(place: Place) -> dict[str, Any]:
    """What the marker of a finished stage says."""
    found: dict[str, Any] = json.loads((place.folder / MARK).read_text(encoding="utf-8"))
    return found


def finish(place: Place, about: Mapping[str, Any], names: Iterable[str] | None = None) -> None:
    """Write the marker: the stage is whole. Its checkpoints go, since nothing will resume it.

    names: the files that belong to it; None for all that there are.
    """
    shutil.rmtree(place.folder / CHECKPOINTS, ignore_errors=True)
    if names is None:
        names = (path.relative_to(place.folder).as_posix() for path in place.folder.rglob("*") if path.is_file())
    files = {name: digest_of_file(place.folder / name) for name in sorted(names) if name != MARK}
    content = {"format": FORMAT, "stage": place.name, "key": place.key, **about, "files": files}
    part = place.folder / f".{MARK}.part"
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(place.folder / MARK)
    except OSError as error:
        raise StorageError(f"cannot write {str(place.folder / MARK)!r}: {error.strerror or error}") from error


def clear(place: Place) -> None:
    """Take the folder of a stage away with all that is in it, so that it starts anew."""
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True, exist_ok=True)


def forget(place: Place) -> None:
    """Take away the marker and the files that it lists, and nothing else: for a folder that others may use too."""
    try:
        listed = [place.folder / name for name in mark(place)["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        listed = []
    for path in (place.folder / MARK, *listed):
        if path.resolve().is_relative_to(place.folder.resolve()):
            path.unlink(missing_ok=True)


@contextmanager
def claimed(place: Place) -> Iterator[None]:
    """The folder is this process's alone. Raises Busy where another works in it, StorageError, InputError."""
    lock = place.folder.parent / f".{place.folder.name}.lock"
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"cannot write to the folder {str(place.folder)!r}: {error.strerror}") from error
    try:
        if not _locked(handle):
            raise Busy(f"another run is at work on {place.name} in {str(place.folder)!r}; wait for it")
        yield
    except OSError as error:
        raise StorageError(
            f"{place.name}: {error.strerror or error}; what was written so far is in {str(place.folder)!r}"
        ) from error
    finally:
        os.close(handle)  # which gives the lock back


def in_turn(work: Callable[[], T], patient: bool) -> T:
    """Do the work. Where it ends in `Busy` and this process is patient, do it again until the other one is done."""
    while True:
        try:
            return work()
        except Busy:
            if not patient:
                raise
        time.sleep(WAIT)


def conditions(start: float) -> dict[str, Any]:
    """What a claim needs beside it: seconds since `start` (of perf_counter), versions, hardware."""
    return {"seconds": time.perf_counter() - start, "versions": versions(), "hardware": hardware()}


def _locked(handle: int) -> bool:
    """Take the lock of an open file, where the system has such locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network drive without locks
        return True
    return True
