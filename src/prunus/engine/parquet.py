"""Image data sets as tables: a local folder of Hugging Face parquet files, or an id on the Hugging Face hub.

The image and the label column are found by the features stored in the file, else by their Arrow types.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from prunus.engine.decode import Item
from prunus.engine.listing import Listing, Reading, files_below, join, read
from prunus.engine.sources import TEST_NAMES, TRAIN_NAMES, parts_of
from prunus.engine.split import Data
from prunus.errors import DataError

__all__ = ["hub", "parquet_folder"]

_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "y")
_IMAGE_NAMES = ("image", "img", "images", "picture", "x")


@dataclass(frozen=True, eq=False)
class _Piece:
    """Rows from one file or split. holder: where they are mapped into memory, from row `start` of it on."""

    place: str
    table: Any
    holder: Any = None
    start: int = 0


class Rows(Sequence[Item]):
    """The images of a memory-mapped table, read when asked for. It travels to other processes by its file's name."""

    def __init__(self, holder: Any, column: str, root: Path, start: int, count: int) -> None:
        self.holder, self.column, self.root, self.start, self.rows = holder, column, root, start, count

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < self.rows:
            raise IndexError(i)
        found = self.holder.column(self.column)[self.start + i].as_py()
        if not isinstance(found, dict):
            return found
        encoded, path = found.get("bytes"), found.get("path")
        return encoded if encoded is not None else (self.root / path if path else None)


def parquet_folder(root: Path, reading: Reading) -> Data:
    """All *.parquet below `root`; the part is read from the path: train-00000-of-00001.parquet, test/0000.parquet.

    Where several kinds of test part exist, the order is test, validation, dev; the second is the validation part. Files
    that name no part are divided 80:20 per class. To stream, the files are first written once in Arrow's format into
    the cache of `datasets`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups: dict[str, list[Path]] = {}
    for file in sorted(file for file in files_below(root) if file.suffix == ".parquet"):
        groups.setdefault(_part_word(file.relative_to(root)), []).append(file)
    named = _parts(groups)
    if "all" not in named and (others := groups.get("")):
        warnings.warn(f"{root}: {others[0].name} names no part, such as train or test, and is left out", stacklevel=2)
    pieces: dict[str, list[_Piece]] = {}
    columns: tuple[str, str] | None = None
    rows: dict[Path, int] = {}
    for files in named.values():
        for file in files:
            with _readable(file), pq.ParquetFile(file) as opened:
                schema = opened.schema_arrow
                rows[file] = opened.metadata.num_rows
            columns = columns or _columns(schema, str(file))
            missing = sorted(set(columns) - set(schema.names))
            if missing:
                raise DataError(f"{file} lacks the column {missing[0]!r}; it has {', '.join(schema.names)}")
    if columns is None:
        raise DataError(f"{root} has no parquet files")
    wanted = {key: files for key, files in named.items() if reading.only is None or key in (reading.only, "all")}
    decoded = [file for files in wanted.values() for file in files if rows[file]]

    def first() -> Item:
        with _readable(decoded[0]), pq.ParquetFile(decoded[0]) as opened:
            batch = next(opened.iter_batches(batch_size=1, columns=[columns[0]]))
            return _items(pa.Table.from_batches([batch]), columns[0], root)[0]

    streams = reading.streams(sum(rows[file] for file in decoded), first)
    for key, files in named.items():
        if streams and key in wanted:
            pieces[key] = _mapped(files, columns, rows)
            continue
        pieces[key] = []
        for file in files:
            with _readable(file):
                table = pq.read_table(file, columns=list(columns if key in wanted else columns[1:]))
            pieces[key].append(_Piece(str(file), table))
    return _from_pieces(str(root), pieces, columns, root, reading, streams)


def hub(name: str, reading: Reading) -> Data:
    """A data set on the Hugging Face hub, by id, through `datasets` and its cache. Its code is never run."""
    datasets = _datasets()
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # the library raises many kinds: offline, missing, gated, malformed
        reason = str(error).splitlines()[0] if str(error) else ""
        raise DataError(
            f"no folder {name!r} here, and the hub did not give a data set of that id: {type(error).__name__}: {reason}"
        ) from error
    pieces = {
        key: [_Piece(f"{name} {split}", found[split].with_format("arrow")[:], found[split].data) for split in splits]
        for key, splits in _parts({_part_word(Path(key)): [key] for key in found}).items()
    }
    first = next((piece.table for found in pieces.values() for piece in found), None)
    if first is None:
        raise DataError(f"{name} has no rows")
    columns = _columns(first.schema, name)
    wanted = [p for key, found in pieces.items() if reading.only in (None, key) or key == "all" for p in found]
    count = sum(len(piece.table) for piece in wanted)
    streams = reading.streams(
        count, lambda: next(_items(p.table[:1], columns[0], Path("."))[0] for p in wanted if len(p.table))
    )
    return _from_pieces(name, pieces, columns, Path("."), reading, streams)


def _mapped(files: list[Path], columns: tuple[str, str], rows: dict[Path, int]) -> list[_Piece]:
    dataset = _datasets().Dataset.from_parquet([str(file) for file in files], columns=list(columns))
    table, starts = dataset.with_format("arrow")[:], accumulate((rows[file] for file in files), initial=0)
    return [
        _Piece(str(file), table[start : start + rows[file]], dataset.data, start)
        for file, start in zip(files, starts, strict=False)
    ]


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error


def _datasets() -> Any:
    """The library. Where the hub's name does not resolve it is imported in its offline mode, in which it looks into its
    cache at once instead of trying for half a minute."""
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    if "huggingface_hub" in sys.modules or "HF_HUB_OFFLINE" in os.environ or getproxies() or _resolves(host):
        return importlib.import_module("datasets")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        return importlib.import_module("datasets")
    finally:
        del os.environ["HF_HUB_OFFLINE"]


def _resolves(host: str | None) -> bool:
    try:
        return bool(socket.getaddrinfo(host, 443))
    except OSError:
        return False


def _parts(groups: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Which groups of files are train, test and validation; {"all": …} where none is named."""
    return parts_of({name: files for name, files in groups.items() if files}) or {
        "all": [file for files in groups.values() for file in files]
    }


def _part_word(path: Path) -> str:
    words = re.split(r"[\\/_.\-]+", str(path).lower())
    return next((word for word in words if word in TRAIN_NAMES + TEST_NAMES), "")


def _features(schema: Any) -> dict[str, Any]:
    stored = (schema.metadata or {}).get(b"huggingface")
    if not stored:
        return {}
    try:
        features: dict[str, Any] = json.loads(stored)["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features


def _columns(schema: Any, where: str) -> tuple[str, str]:
    """The names of the image and of the label column."""
    import pyarrow as pa

    features = _features(schema)
    images = [key for key, feature in features.items() if _kind(feature) == "Image" and key in schema.names]
    labels = [key for key, feature in features.items() if _kind(feature) == "ClassLabel" and key in schema.names]
    if not images:
        images = [f.name for f in schema if _is_encoded(f.type)]
    if not labels:
        usual = [f.name for f in schema if pa.types.is_integer(f.type) or pa.types.is_string(f.type)]
        others = [f.name for f in schema if _is_label(f.type)]
        labels = [name for name in others if name in _LABEL_NAMES] or usual or others
    return _choose("image", images, _IMAGE_NAMES, schema, where), _choose("label", labels, _LABEL_NAMES, schema, where)


def _kind(feature: Any) -> str:
    return str(feature.get("_type", "")) if isinstance(feature, dict) else ""


def _is_label(kind: Any) -> bool:
    """Whether a column holds whole numbers, truth values or words, plain or by a dictionary as pandas has them."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(holds(kind) for holds in (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, _is_long_text))


def _is_long_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_encoded(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _choose(what: str, found: list[str], preferred: tuple[str, ...], schema: Any, where: str) -> str:
    ranked = [name for name in preferred if name in found] or (found if len(found) == 1 else [])
    if ranked:
        return ranked[0]
    shown = ", ".join(f"{f.name}: {f.type}" for f in schema)
    hint = {"image": "images, encoded as bytes", "label": "whole numbers or words"}[what]
    if found:
        raise DataError(f"{where} has several possible {what} columns; name one {preferred[0]!r}; its columns: {shown}")
    raise DataError(f"{where} has no {what} columns; its columns: {shown}; needed: one of {hint}")


def _from_pieces(
    name: str,
    pieces: dict[str, list[_Piece]],
    columns: tuple[str, str],
    root: Path,
    reading: Reading,
    streams: bool,
) -> Data:
    image, label = columns
    named = {_names(piece.table, label): piece.place for found in pieces.values() for piece in found}
    named.pop((), None)  # files that name no classes go along with those that do
    if len(named) > 1:
        (names, here), (others, there) = list(named.items())[:2]
        raise DataError(f"{here} and {there} number the classes otherwise: {_shown(names)} and {_shown(others)}")
    class_names = next(iter(named), ())
    labels = {key: [_labels(piece.table, label, piece.place) for piece in found] for key, found in pieces.items()}
    kinds = {type(column[0]): place for column, place in _with_places(labels, pieces)}
    if str in kinds and len(kinds) > 1:
        (one, here), (other, there) = ((kind.__name__, place) for kind, place in list(kinds.items())[:2])
        raise DataError(f"{here} has labels of type {one}, and {there} of type {other}; all must be numbers, or words")
    if str in kinds:
        class_names = tuple(sorted({word for found in labels.values() for column in found for word in column}))
        number = {word: i for i, word in enumerate(class_names)}
        labels = {key: [[number[word] for word in column] for column in found] for key, found in labels.items()}

    def items(key: str, piece: _Piece) -> Sequence[Item]:
        if reading.only not in (None, key) and key != "all":
            return [None] * len(piece.table)
        if streams:
            return Rows(piece.holder, image, root, piece.start, len(piece.table))
        return _items(piece.table, image, root)

    parts = {
        key: join(
            [
                Listing(items(key, piece), column, _rows(piece.place))
                for piece, column in zip(found, labels[key], strict=True)
            ]
        )
        for key, found in pieces.items()
    }
    return read(name, parts, class_names, reading, streams)


def _with_places(labels: dict[str, list[list[Any]]], pieces: dict[str, list[_Piece]]) -> Iterator[tuple[Any, str]]:
    """The label columns that hold some, each with where it stands."""
    for key, found in pieces.items():
        yield from ((column, piece.place) for column, piece in zip(labels[key], found, strict=True) if column)


def _names(table: Any, label: str) -> tuple[str, ...]:
    """The classes that the features name, in the order of their numbers."""
    feature = _features(table.schema).get(label)
    return tuple(feature.get("names") or ()) if isinstance(feature, dict) else ()


def _shown(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _rows(place: str) -> Callable[[int], str]:
    return lambda i: f"{place} row {i}"


def _labels(table: Any, column: str, place: str) -> list[Any]:
    if table[column].null_count:
        raise DataError(f"{place} has {table[column].null_count} rows without a {column}")
    values: list[Any] = table[column].to_pylist()
    return values


def _items(table: Any, column: str, root: Path) -> list[Item]:
    import pyarrow as pa

    items: list[Item] = []
    for chunk in table[column].chunks:
        if not pa.types.is_struct(chunk.type):
            items += chunk.to_pylist()
            continue
        encoded = chunk.field("bytes").to_pylist()
        paths = chunk.field("path").to_pylist() if chunk.type.get_field_index("path") >= 0 else [None] * len(encoded)
        items += [e if e is not None else (root / p if p else None) for e, p in zip(encoded, paths, strict=True)]
    return items
