"""One safetensors file with tensors and plain data: written atomically, checksummed, and read without trust.

The tensors bear the names of the state dict, so that any reader of safetensors takes them. The metadata of the header
has one entry, `prunus`: JSON with the format, the content (plan, masks, description) and a SHA-256 of the content and
of names, dtypes, shapes and bytes of all tensors. The digest finds damage. It is no signature: who writes a file on
purpose can also write its digest, so everything in it is checked as if there were none.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine.checkpoint import digest, place
from ..errors import CheckpointError, InputError, StorageError

__all__ = ["Saved", "content_of", "read", "the_path", "write"]

FORMAT = "prunus-saved-1"
ENTRY = "prunus"
LONGEST = 100_000_000
"""Bytes of a header; safetensors reads no longer one."""


class ForeignFileError(CheckpointError):
    """A file that Prunus did not write."""


@dataclass(frozen=True)
class Saved:
    """What a file holds: tensors by name, and plain data."""

    tensors: Mapping[str, Tensor]
    content: Mapping[str, Any]


def write(path: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """Write a file; the name appears only when all of it is on the disk.

    Raises CheckpointError for tensors that safetensors cannot hold, StorageError where the file cannot be written.
    """
    from safetensors.torch import save

    for name, tensor in tensors.items():
        check_plain(name, tensor)
    # Copies, since safetensors refuses tensors that share memory; a tied one is stored under each of its names.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    told = {"format": FORMAT, "sha256": digest(head(content), own), "content": dict(content)}
    text = canonical(told)
    if len(text) > LONGEST // 2:  # quotes are escaped in it, and the tensors' names are beside it
        raise CheckpointError(f"{len(text):,} bytes of plan and masks are too many for the header of a file")
    try:
        made = save(own, {ENTRY: text})
    except Exception as error:  # a dtype that it does not know, in one of several kinds of error
        raise CheckpointError(f"safetensors cannot hold these tensors: {first_line(error)}") from error
    try:
        place(path, made)
    except OSError as error:
        raise StorageError(
            f"{str(path)!r} could not be written: {error.strerror or error}; a file that was there is untouched"
        ) from error


def the_path(path: object) -> Path:
    """Raises InputError for what names no file."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"path is text or a pathlib.Path, not {type(path).__name__}")
    found = Path(path)
    if not found.name or "\0" in str(found):
        raise InputError(f"path={str(path)!r} names no file")
    return found


def read(path: Path) -> Saved:
    """All of a file, in memory of its own. Raises CheckpointError, naming what is wrong."""
    told, tensors = opened(path, with_tensors=True)
    content = told["content"]
    try:
        fits = told.get("sha256") == digest(head(content), tensors)
    except RecursionError:  # as deep as could just be read
        fits = False
    if not fits:
        raise CheckpointError(f"{path} is damaged: its content does not have the digest that was written")
    return Saved(tensors, content)


def content_of(path: Path) -> Mapping[str, Any] | None:
    """The plain data alone, without the digest being checked; None for a file that Prunus did not write.

    Raises CheckpointError for one that it did, where the header is damaged or of another version.
    """
    try:
        return dict(opened(path, with_tensors=False)[0]["content"])
    except ForeignFileError:
        return None


def opened(path: Path, *, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The entry of Prunus, and the tensors. safetensors checks dtypes, shapes and offsets against the file's size."""
    from safetensors import safe_open

    check_head(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(ENTRY)
            names = list(file.keys()) if with_tensors else []
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except Exception as error:  # readers raise nearly anything on damaged bytes
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from error
    if text is None:
        raise ForeignFileError(f"{path} was not written by prunus.save: its header names no plan")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, numbers or nesting without end
        raise CheckpointError(f"{path} is damaged: its header is no JSON: {first_line(error)}") from error
    if not isinstance(told, dict) or not isinstance(told.get("content"), dict):
        raise CheckpointError(f"{path} is damaged: its header does not say what it holds")
    if told.get("format") != FORMAT:
        raise CheckpointError(f"{path} is of format {str(told.get('format'))[:40]!r}; this version reads {FORMAT!r}")
    return told, tensors


def check_head(path: Path) -> None:
    """A file begins as safetensors does: 8 bytes for the length of a header that lies within it, and its brace."""
    try:
        if path.is_dir():
            raise ForeignFileError(f"{path} is a folder; give the file that prunus.save wrote")
        if not path.exists():
            raise ForeignFileError(f"there is no file {path}")
        if not path.is_file():
            raise ForeignFileError(f"{path} is not a file")
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ForeignFileError(f"{path} cannot be read: {error.strerror}") from error
    if not size:
        raise ForeignFileError(f"{path} is empty")
    length = struct.unpack("<Q", start[:8])[0] if len(start) == 9 else None
    if start[8:] == b"{" and length is not None and length <= LONGEST:
        if length > size - 8:
            raise CheckpointError(f"{path} is cut short: a header of {length:,} bytes in a file of {size:,}")
        return
    if start.startswith(b"PK"):
        raise ForeignFileError(f"{path} is a zip archive, such as torch.save writes; give a file of prunus.save")
    if start.startswith(b"\x80"):
        raise ForeignFileError(f"{path} is a pickle, which is not read since it could run code; use prunus.save")
    raise ForeignFileError(f"{path} ({size:,} bytes) is no safetensors file, or damaged at its beginning")


def check_plain(name: str, tensor: Tensor) -> None:
    """Bytes in memory, which is what a file holds."""
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    if tensor.is_meta:
        raise CheckpointError(f"{name} is on the meta device and has no values to save")
    if tensor.layout != torch.strided or tensor.is_quantized or is_traceable_wrapper_subclass(tensor):
        kind = type(tensor).__name__ if tensor.layout == torch.strided else str(tensor.layout).removeprefix("torch.")
        raise CheckpointError(f"{name} is no plain tensor ({kind}), and safetensors holds no other")


def head(content: Mapping[str, Any]) -> str:
    """What the digest covers beside the tensors."""
    return f"{FORMAT} {canonical(content)}"


def canonical(content: Any) -> str:
    """The one text of plain data."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
