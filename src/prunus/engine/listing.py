"""From a list of encoded images to the parts of a `Data`: decoded into memory, or left in their files to stream."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from prunus.engine.decode import Item, Resize, decode, is_grey, memory, picture
from prunus.engine.split import Data, Split, stratified
from prunus.engine.stream import Stream, skipped_line
from prunus.errors import DataError
from prunus.folders import folders_below

__all__ = ["HELD_OUT", "Listing", "Reading", "assembled", "counted", "files_below", "join", "read"]

HELD_OUT = 0.2
"""The share of each class that becomes the test part where the source names no parts (seed 0)."""

_JUDGED = 64

_MANY = 1000
"""Classes that may be more than the images."""


@dataclass(frozen=True)
class Reading:
    """How a source is read: see `data.load`."""

    resize: Resize | None = None
    only: str | None = None
    stream: bool = False
    workers: int | None = None
    skip_bad: bool = False

    def streams(self, count: int, first: Callable[[], Item]) -> bool:
        """Whether so many images stay in their files: asked for, or needing more than a quarter of the memory."""
        have = memory()
        if self.stream or have is None or not count:
            return self.stream
        try:
            pixels = _decoded_shape([first()], self.resize, False)
        except DataError:
            return False  # it will be named
        return 4 * count * pixels[0] * pixels[1] * pixels[2] > have


@dataclass(frozen=True, eq=False)
class Listing:
    """The samples of one part, before decoding. `where(i)` names sample i for error messages."""

    items: Sequence[Item]
    labels: Sequence[int]
    where: Callable[[int], str]


class Chained(Sequence[Item]):
    """Sequences laid end to end, without reading what is in them."""

    def __init__(self, pieces: Sequence[Sequence[Item]]) -> None:
        self.pieces = pieces
        self.starts = list(accumulate((len(piece) for piece in pieces), initial=0))

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, i: Any) -> Any:
        which = bisect_right(self.starts, i) - 1
        return self.pieces[which][i - self.starts[which]]


def files_below(root: Path) -> Iterator[Path]:
    """Every file in a folder's tree, through links too, in order. Hidden files and folders, and what macOS adds to
    archives, are left out."""
    for place, names in folders_below(root, is_hidden):
        yield from (place / name for name in names if not is_hidden(name))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's data."""
    return name.startswith(".") or name == "__MACOSX"


def counted(name: str, labels: Sequence[Sequence[int]]) -> int:
    """How many classes labels without names speak of: one more than the largest. labels: of each part.

    Warns where they do not begin at 0. Raises DataError where they are no numbering of classes.
    """
    ranges = [(min(part), max(part)) for part in labels if len(part)]
    if not ranges:
        return 0
    low, high, n = min(a for a, _ in ranges), max(b for _, b in ranges), sum(map(len, labels))
    if high >= max(_MANY, n):
        raise DataError(f"{name} has labels up to {high} for {n} images; number the classes 0, 1, 2, …")
    if low > 0:
        warnings.warn(
            f"{name}: the smallest label is {low}; classes count from 0, so the network gets {high + 1} of them",
            stacklevel=2,
        )
    return high + 1


def join(listings: Sequence[Listing]) -> Listing:
    """Several listings laid end to end."""
    starts = list(accumulate((len(listing.items) for listing in listings), initial=0))

    def where(i: int) -> str:
        which = bisect_right(starts, i) - 1
        return listings[which].where(i - starts[which])

    pieces = [listing.items for listing in listings]
    flat = all(isinstance(piece, list) for piece in pieces)
    items = [item for piece in pieces for item in piece] if flat else Chained(pieces)
    return Listing(items, [label for listing in listings for label in listing.labels], where)


def read(
    name: str, parts: dict[str, Listing], class_names: tuple[str, ...], reading: Reading, streams: bool | None = None
) -> Data:
    """Decode the parts ("train" and "test", or one "all" that is divided here), or let them stream.

    streams: None: as `reading` says. Raises DataError.
    """
    classes = len(class_names) or counted(name, [part.labels for part in parts.values()])
    for part in parts.values():
        for i, label in enumerate(part.labels):
            if not 0 <= label < classes:
                raise DataError(f"{part.where(i)} has label {label}, outside 0..{classes - 1}")
    only = reading.only
    wanted = {key: part for key, part in parts.items() if only is None or key in (only, "all")}
    joined = join(list(wanted.values()))
    count = len(joined.items)
    if streams or (streams is None and reading.streams(count, lambda: joined.items[0])):
        return assembled(name, _streams(wanted, joined, reading), classes, class_names, only)
    bad: list[int] | None = [] if reading.skip_bad else None
    images = decode(joined.items, joined.where, reading.resize, bad)  # together: all parts get one size and colour
    left_out = set(bad or ())
    splits, at, first = {}, 0, 0
    for key, part in wanted.items():
        labels = [label for i, label in enumerate(part.labels, start=first) if i not in left_out]
        splits[key] = Split(images[at : at + len(labels)], torch.tensor(labels, dtype=torch.int64))
        at, first = at + len(labels), first + len(part.labels)
    skipped = tuple(joined.where(i) for i in bad or ())
    if skipped:
        warnings.warn(f"{name}: {skipped_line(skipped)}", stacklevel=2)
    return replace(assembled(name, splits, classes, class_names, only), skipped=skipped)


def assembled(
    name: str, parts: Mapping[str, Split | Stream], classes: int, class_names: tuple[str, ...], only: str | None
) -> Data:
    """A Data with empty mean and std. A part "all" is divided 80:20 per class. Raises DataError."""
    if "all" in parts:
        rest, held = stratified(parts["all"].labels, HELD_OUT)
        parts = {"train": parts["all"].subset(rest), "test": parts["all"].subset(held)}
    shapes = {key: _shape(part) for key, part in parts.items() if len(part)}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{name} has {' and '.join(f'{key} images of {shape}' for key, shape in shapes.items())}")
    channels = next(iter(shapes.values()), (3,))[0]
    train, test = (
        parts[key] if key in parts and only in (None, key) else Split.empty(channels) for key in ("train", "test")
    )
    return Data(train, test, classes, (), (), name, class_names, None if only else parts.get("validation"))


def _shape(part: Split | Stream) -> tuple[int, ...]:
    """(C, H, W)."""
    return part.shape if isinstance(part, Stream) else tuple(part.images.shape[1:])


def _streams(parts: dict[str, Listing], joined: Listing, reading: Reading) -> dict[str, Stream]:
    """Their colour is judged by some of the images, evenly spread; a coloured one among grey ones becomes grey."""
    n = len(joined.items)
    some = [joined.items[i] for i in range(0, n, max(n // _JUDGED, 1))]
    try:
        shape = _decoded_shape(some, reading.resize, reading.skip_bad)
    except DataError as error:
        raise DataError(f"{joined.where(0)} {error}") from error
    skipped: list[str] = []
    return {
        key: Stream(
            part.items,
            torch.tensor(part.labels, dtype=torch.int64),
            part.where,
            shape,
            reading.resize,
            reading.workers,
            reading.skip_bad,
            skipped=skipped,
        )
        for key, part in parts.items()
    }


def _decoded_shape(items: Sequence[Item], resize: Resize | None, skip_bad: bool) -> tuple[int, int, int]:
    """(C, H, W) of the first, after `resize`. Raises DataError where it does not decode."""
    channels = 1 if all(is_grey(item, skip_bad) for item in items) else 3
    if resize is not None:
        side = resize if isinstance(resize, int) else resize[1]
        return channels, side, side
    for item in items if skip_bad else items[:1]:
        try:
            height, width = picture(item, channels).shape[1:]
            return channels, height, width
        except DataError:
            if not skip_bad:
                raise
    raise DataError("and others are not images that can be decoded")
