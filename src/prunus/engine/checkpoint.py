"""Checkpoints of a training: written atomically, checksummed, a few kept, and safe to load.

One file a checkpoint, `step-00000042.safetensors`: tensors and, in the header, the rest as JSON and a digest of
everything. A file that was torn or altered is noticed by the digest, and the one before is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunus.engine.tree import pack, unpack
from prunus.errors import CheckpointError, StorageError

__all__ = ["Checkpoints", "digest", "found", "newest", "place", "read", "write"]

_FORMAT = "prunus-checkpoint-1"
_NAME = re.compile(r"step-(\d{8})\.safetensors")


@dataclass(frozen=True)
class Checkpoints:
    """Where a training leaves its state, and how often.

    folder is made if it is not there. every: optimizer steps between two; an epoch's end always has one. keep: how many
    stay, at least 2, so that a damaged one has one before it. resume: go on from the newest good one.
    """

    folder: Path
    every: int = 0
    keep: int = 3
    resume: bool = True

    def __post_init__(self) -> None:
        if self.every < 0 or self.keep < 2:
            raise CheckpointError(f"every={self.every} must be at least 0 and keep={self.keep} at least 2")


def write(folder: Path, step: int, state: Any) -> Path:
    """Write `state` (see `tree.pack`) for `step`. The name appears only when the whole file is on the disk.

    Raises StorageError where the folder cannot be written or the disk is full; earlier files are left as they are.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    text = json.dumps(pack(state, tensors), allow_nan=True)
    # Copies, since safetensors refuses tensors that share memory.
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {"format": _FORMAT, "step": str(step), "state": text, "sha256": digest(_head(step, text), tensors)}
    path = folder / f"step-{step:08d}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place(path, save(tensors, header))
    except OSError as error:
        raise StorageError(
            f"the checkpoint of step {step} could not be written to {str(folder)!r}: {error.strerror or error}; "
            "earlier checkpoints are untouched, so free some space or give another folder, and resume"
        ) from error
    return path


def read(path: Path) -> tuple[int, Any]:
    """The step and the state of one file. Raises CheckpointError for a torn, altered, empty or foreign one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} is torn or no checkpoint: {error}") from error
    if header.get("format") != _FORMAT:
        raise CheckpointError(f"{str(path)!r} is no training checkpoint of this version ({_FORMAT})")
    try:
        step, text, noted = int(header["step"]), header["state"], header["sha256"]
        if noted != digest(_head(step, text), tensors):
            raise CheckpointError(f"{str(path)!r} is damaged: its content does not have the digest that was written")
        return step, unpack(json.loads(text), tensors)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged: {error}") from error


def found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def newest(folder: Path) -> tuple[Path, int, Any] | None:
    """The newest good checkpoint: its file, step and state. A bad one is named in a warning and passed over.

    Raises CheckpointError where there are some and none is good.
    """
    paths, bad = found(folder), []
    for path in paths:
        try:
            step, state = read(path)
        except CheckpointError as error:
            bad.append(error)
            continue
        for passed in bad:
            warnings.warn(f"{passed}; going on from {path.name}", stacklevel=2)
        return path, step, state
    if bad:
        raise CheckpointError(f"no checkpoint in {str(folder)!r} can be used: {'; '.join(map(str, bad))}")
    return None


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep`, and what a killed process left half written."""
    for path in found(folder)[keep:]:
        path.unlink(missing_ok=True)
    for path in folder.glob(".step-*.part"):
        path.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove all checkpoints."""
    prune(folder, 0)


def place(path: Path, content: bytes) -> None:
    """Write a file; its name appears when all of it is on the disk. Raises OSError, and what was there stays."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def digest(head: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a text, and of names, dtypes, shapes and bytes of tensors in the memory of the CPU."""
    found = hashlib.sha256(head.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _head(step: int, text: str) -> str:
    return f"{_FORMAT} {step} {text}"


def _sync(folder: Path) -> None:
    """Make the new name itself lasting, where the system has folders that can be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
