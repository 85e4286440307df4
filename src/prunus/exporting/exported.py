"""export() in four steps: copy, write, run what was written, move it to its place."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from ..asked import check_example, the_model
from ..errors import ExportError, InputError, PrunusError, StorageError, UnknownName
from ..methods.sparsity import Thinned
from ..result import Loaded, Pruned
from ..state import plain_table, same_draws
from .given import Given, short, tensors
from .int8 import Int8, Quantized
from .onnx import OPSET, write_onnx, write_openvino
from .origin import Build, Origin, origin
from .parity import LIMIT, Parity, parity
from .program import Run, write_pt2
from .pyfile import check_place, write_python
from .quantizing import quantized

Network = nn.Module | Pruned | Loaded | Thinned
Written = tuple[tuple[Path, ...], Run]

FORMATS: Mapping[str, str] = MappingProxyType({"pt2": ".pt2", "onnx": ".onnx", "openvino": ".xml", "python": ".py"})
"""Each format and the suffix of its file."""


@dataclass(frozen=True)
class Exported:
    """What was written: `files`, the first of them `path`, with their size in `bytes`, and how near it is to the eager
    network. `batch` is None where any batch size goes, else why only that of the example does. `dense_bytes` is the
    size of the dense network, exported the same way in float, where it was asked for. `int8`, where it was asked for,
    says what it cost; `bytes` is then that of the int8 file, and `parity` that of the float export it was made from."""

    path: Path
    format: str
    files: tuple[Path, ...]
    bytes: int
    parity: Parity
    batch: str | None = None
    dense_bytes: int | None = None
    opset: int | None = None
    int8: Quantized | None = None

    def __str__(self) -> str:
        kind = self.format if self.int8 is None else f"{self.format}, int8"
        lines = [f"{kind}: {', '.join(map(str, self.files))} ({self.bytes:,} bytes)", *self._sizes()]
        if self.opset is not None:
            lines.append(f"opset {self.opset}")
        if self.int8 is None:
            lines.append(str(self.parity))
        else:
            lines += [f"before int8, {self.parity}", *str(self.int8).splitlines()]
        lines.append("batch: any" if self.batch is None else f"batch: the example's only ({self.batch})")
        return "\n".join(lines)

    def _sizes(self) -> list[str]:
        """The bytes of dense, float and int8, of those that there are."""
        middle = [] if self.int8 is None else [self.int8.float_bytes]
        sizes = [*([] if self.dense_bytes is None else [self.dense_bytes]), *middle, self.bytes]
        if len(sizes) == 1:
            return []
        share, how = 100 * self.bytes / sizes[0], ", exported the same way" if self.int8 is None else ""
        words = ["dense"] * (self.dense_bytes is not None) + ["float", "int8"]
        how = how or f": {', '.join(words)}"
        return [f"bytes: {' -> '.join(f'{size:,}' for size in sizes)} ({share:.2f} %){how}"]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "path": str(self.path),
            "format": self.format,
            "files": [str(file) for file in self.files],
            "bytes": self.bytes,
            "dense_bytes": self.dense_bytes,
            "opset": self.opset,
            "batch": self.batch,
            "parity": {**vars(self.parity), "batches": list(self.parity.batches)},
            "int8": None if self.int8 is None else self.int8.to_json(),
        }


def export(
    model: Network,
    example: Any,
    path: str | Path,
    *,
    format: str | None = None,
    dense: nn.Module | bool = False,
    build: Build | None = None,
    dynamic: bool = True,
    opset: int = OPSET,
    limit: float = LIMIT,
    int8: Int8 | Iterable[Any] | None = None,
) -> Exported:
    """Write a network as a file that runs without Prunus, and check what the file computes before it is there.

    model: a module, or what `prune` or `load` returned; a copy of it is exported, in eval mode, on the CPU.
    example: a tensor, a tuple of positional inputs or a dict of keyword inputs. Its first axis counts samples: the file
    takes any number of them, unless the network does not or `dynamic=False`, which the result says.
    path: its suffix names the format, or `format` does: .pt2 (torch.export), .onnx, .xml (OpenVINO IR), .py.
    dense: the network before it was cut, or True for the one that a `Pruned` came from: its bytes, exported likewise.
    build: for .py, how the whole network is made: a function or class at the top of a module, functools.partial of one,
    'path/file.py:factory' or 'package.module:factory'. Without it the network's class is called without arguments.
    opset: of ONNX. limit: the largest difference from the eager network, relative to the output's largest value.
    int8: batches to calibrate on, or `Int8` with settings, for .onnx and .pt2. The float export is made and checked as
    ever; the file then holds its int8 form, whose agreement with the float network is measured.

    Raises ExportError (format, stage, difference), with nothing written; InputError; MissingExtra; StorageError.
    """
    net, example = the_model(unpacked(model)), plain_table(example)
    check_example(example)
    kind, target = form(path, format)
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 < limit < float("inf"):
        raise InputError(f"limit={limit!r}: it must be a number above 0")
    if isinstance(opset, bool) or not isinstance(opset, int) or opset < 18:
        raise InputError(f"opset={opset!r}: it must be a whole number of at least 18")
    whole = dense_of(model) if dense is True else None if dense is False else the_model(dense)
    goal = None if int8 is None else Int8.of(int8)
    if goal is not None:
        goal.check(kind, net)
    made_by = origin(build, net) if kind == "python" else None
    if made_by is not None:
        check_place(target, made_by)
    writer = writer_of(kind, opset, made_by)
    with same_draws(net), workplace(target) as place:
        given = Given.of(net, example, dynamic)
        want_dynamic = given.dynamic and kind != "python"
        try:
            files, found = attempt(given, kind, writer, place / target.name, limit)
        except ExportError as error:
            if not want_dynamic:
                raise
            given = given.static(str(error))  # a network may be written for one batch size, and then say so
            cleared(place)
            files, found = attempt(given, kind, writer, place / target.name, limit)
        rounded = None
        if goal is not None:
            (place / "int8").mkdir()
            rounded = quantized(given, kind, files, place / "int8" / target.name, goal)
            files = (place / "int8" / target.name,)
        size = sum(file.stat().st_size for file in files)
        before = None if whole is None else size_of(whole, given, kind, writer, place / "dense" / target.name)
        moved = placed(files, target, place / "before")
    why = None if given.dynamic else given.note
    return Exported(target, kind, moved, size, found, why, before, opset if kind == "onnx" else None, rounded)


def attempt(
    given: Given, kind: str, writer: Callable[[Given, Path], Written], path: Path, limit: float
) -> tuple[tuple[Path, ...], Parity]:
    """Write, run and compare. Raises ExportError, StorageError."""
    files, run = written(given, kind, writer, path)
    examples, eager = given.examples(), given.reference()
    want = [eager(example) for example in examples]
    try:
        got = run(examples)
    except ExportError:
        raise
    except Exception as error:  # whatever a runtime raises
        raise ExportError(f"{kind}, running the file: {short(error)}") from error
    sizes = [next((t.shape[0] for t in tensors(e) if t.dim()), 1) for e in examples] if given.samples else []
    return files, parity(kind, want, got, sizes, limit)


def written(given: Given, kind: str, writer: Callable[[Given, Path], Written], path: Path) -> Written:
    """The files of one network. Raises ExportError, StorageError."""
    try:
        path.parent.mkdir(exist_ok=True)
        return writer(given, path)
    except PrunusError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write {path.name}: {error.strerror or error}") from error
    except Exception as error:  # of what a network consists of
        raise ExportError(f"{kind}, writing the file: {short(error)}") from error


def writer_of(kind: str, opset: int, made_by: Origin | None) -> Callable[[Given, Path], Written]:
    """What writes this format."""
    if kind == "pt2":
        return write_pt2
    if made_by is not None:
        return lambda given, path: write_python(given, path, made_by)
    write = write_onnx if kind == "onnx" else write_openvino
    return lambda given, path: write(given, path, opset)


def form(path: str | Path, format: str | None) -> tuple[str, Path]:
    """The format, and the path with its suffix. Raises InputError, UnknownName."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"path is text or a pathlib.Path, not {type(path).__name__}")
    target = Path(path)
    if "\0" in target.name:
        raise InputError(f"path={str(path)!r} names no file")
    if format is not None and format not in FORMATS:
        raise UnknownName.of("format", str(format), FORMATS)
    by_suffix = {suffix: kind for kind, suffix in FORMATS.items()}
    if format is None:
        if target.suffix not in by_suffix:
            known = ", ".join(f"{suffix} ({kind})" for kind, suffix in FORMATS.items())
            raise InputError(f"{str(path)!r} names no format; use one of the suffixes {known}, or say format=")
        return by_suffix[target.suffix], target
    if not target.suffix:
        return format, target.with_suffix(FORMATS[format])
    if target.suffix != FORMATS[format]:
        raise InputError(f"the format {format} is written to a file {FORMATS[format]}, not {target.name!r}")
    return format, target


def unpacked(model: Network) -> nn.Module:
    return model.model if isinstance(model, (Pruned, Loaded, Thinned)) else model


def dense_of(model: Network) -> nn.Module:
    """The network that was pruned. Raises InputError where it is not known any more."""
    found = model.source() if isinstance(model, Pruned) and model.source is not None else None
    if found is None:
        raise InputError("dense=True: the network that was pruned is gone, or was never known; pass it as dense=")
    return found


def size_of(whole: nn.Module, given: Given, kind: str, writer: Callable[[Given, Path], Written], path: Path) -> int:
    """Bytes of the dense network, exported the same way."""
    twin = Given.of(whole, given.example, given.dynamic)
    files, _ = written(twin if given.dynamic else twin.static(given.note), kind, writer, path)
    return sum(file.stat().st_size for file in files)


def placed(files: Iterable[Path], target: Path, aside: Path) -> tuple[Path, ...]:
    """Move files to their places, over what was there; where one cannot be moved, what was there before comes back.
    aside: a folder for that."""
    moved: list[tuple[Path, Path | None]] = []
    for file in files:
        goal = target.with_name(file.name)
        try:
            moved.append((goal, kept(goal, aside)))
            file.replace(goal)
        except OSError as error:
            for place, before in reversed(moved):
                with contextlib.suppress(OSError):
                    place.unlink() if before is None else before.replace(place)
            raise StorageError(f"cannot write {goal}: {error.strerror}; what was there is untouched") from error
    return tuple(goal for goal, _ in moved)


def kept(file: Path, aside: Path) -> Path | None:
    """A second name for a file, or a copy where the disk has one name a file; None where there is no file."""
    if not file.is_file():
        return None
    aside.mkdir(exist_ok=True)
    twin = aside / file.name
    try:
        twin.hardlink_to(file)
    except OSError:
        shutil.copy2(file, twin)
    return twin


@contextlib.contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """A folder beside the target, so that nothing is at the target before it was checked."""
    try:
        folder = tempfile.mkdtemp(prefix=".export-", dir=target.parent)
    except OSError as error:
        kind = InputError if isinstance(error, (FileNotFoundError, NotADirectoryError)) else StorageError
        raise kind(f"cannot write to the folder {str(target.parent)!r}: {error.strerror}") from error
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def cleared(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
