"""Batches of a part of a data set: in which order, divided how, augmented how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from prunus.engine.augment import normalise
from prunus.engine.changes import Changes, uniforms
from prunus.engine.config import Augment
from prunus.engine.split import Split
from prunus.engine.stream import DRAWS, Crops, Stream, StreamReader
from prunus.errors import DataError

__all__ = ["Batches", "batches"]

Span = tuple[int, int]
"""Positions a … b-1 of an epoch."""


def batches(
    part: Split | Stream,
    *,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    shuffle: bool = False,
    seed: int = 0,
    augment: Augment | None = None,
    classes: int = 0,
    drop_last: bool = False,
    shares: tuple[int, int, int] | None = None,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
    workers: int | None = None,
) -> Batches:
    """Batches (x float32 normalised, y int64) on `device`. The images of a `Split` are moved there once, all of them.

    augment: None to measure; a streamed image is then cut to its centre. Order and augmentation depend on (seed, epoch,
    position in the epoch) alone, not on the size and division of the batches; `set_epoch(e)` chooses the epoch, and
    iterating again without it gives the same batches again. With mixup or cutmix y is float (N, classes).

    shares: (first, count, of): batches are divided into `of` parts as `torch.tensor_split` does it, of which this feed
    has those from `first` on, `count` of them. It then gives lists of `count` micro-batches, and leaves out a smaller
    last batch that has not two samples for each part. drop_last: leave out any smaller last batch.

    classes: 0 takes them from the labels. workers: processes that decode a `Stream`; None: as it says itself.
    """
    if batch_size < 1:
        raise DataError(f"batch_size={batch_size} must be at least 1")
    if shares is not None:
        first, count, of = shares
        if not (first >= 0 and count >= 1 and first + count <= of <= batch_size):
            raise DataError(f"shares={shares} must be (first, count, of) with first + count <= of <= {batch_size}")
    return Batches(
        part,
        batch_size,
        mean,
        std,
        shuffle=shuffle,
        seed=seed,
        augment=augment,
        classes=classes,
        drop_last=drop_last,
        shares=shares,
        device=torch.device(device),
        layout=torch.channels_last if channels_last else torch.contiguous_format,
        workers=workers,
    )


class Batches:
    """What `batches` returns. Re-iterable, with a length in steps."""

    def __init__(
        self,
        part: Split | Stream,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        shuffle: bool,
        seed: int,
        augment: Augment | None,
        classes: int,
        drop_last: bool,
        shares: tuple[int, int, int] | None,
        device: torch.device,
        layout: torch.memory_format,
        workers: int | None,
    ) -> None:
        self.part, self.batch_size, self.shuffle, self.seed = part, batch_size, shuffle, seed
        self.augment, self.drop_last, self.shares, self.device, self.layout = augment, drop_last, shares, device, layout
        self.classes = classes or (1 + int(part.labels.max()) if len(part) else 0)
        self.mean, self.std = (torch.tensor(tuple(v), dtype=torch.float32, device=device) for v in (mean, std))
        self.reader = StreamReader(part, device, workers) if isinstance(part, Stream) else _Held(part, device)
        self.epoch = 0
        self._start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next iteration."""
        self.epoch = epoch

    def start_at(self, step: int) -> None:
        """The next iteration, and that one only, begins at this step of the epoch; what it gives is the same."""
        if not 0 <= step <= len(self):
            raise DataError(f"there is no step {step} in an epoch of {len(self)}")
        self._start = step

    def total(self, step: int) -> int:
        """Samples of a step, over all shares."""
        return min(self.batch_size, len(self.part) - step * self.batch_size)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.part), self.batch_size)
        least = 1 if self.shares is None else 2 * self.shares[2]
        return whole + (rest >= least and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        start, self._start = self._start, 0
        n, steps = len(self.part), range(start, len(self))
        seed, epoch = self.seed, self.epoch
        order = torch.randperm(n, generator=uniforms(seed, epoch, 0)) if self.shuffle else torch.arange(n)
        changes = crops = None
        if self.augment is not None:
            batched = self.augment
            if isinstance(self.part, Stream):
                batched = replace(self.augment, flip=False)
                draws = torch.rand(n, DRAWS, generator=uniforms(seed, epoch, 7))
                crops = Crops(draws, self.augment.scale, self.augment.flip)
            changes = Changes(batched, n, seed, epoch, self.device)
        spans = [self._spans(step) for step in steps]
        given = self.reader.read(order, [span for own in spans for span in own], crops)
        for step, own in zip(steps, spans, strict=True):
            parts = [self._finished(*next(given), changes, span, step) for span in own]
            if self.shares is not None:
                yield parts
            elif len(parts[0][1]):  # every image of it may have been skipped
                yield parts[0]
        next(given, None)  # lets the reader come to its end

    def _spans(self, step: int) -> list[Span]:
        """The positions of each of this feed's parts of a step."""
        a, b = step * self.batch_size, step * self.batch_size + self.total(step)
        first, count, of = self.shares or (0, 1, 1)
        small, larger = divmod(b - a, of)
        bounds = [a + k * small + min(k, larger) for k in range(first, first + count + 1)]
        return list(pairwise(bounds))

    def _finished(self, x: Tensor, y: Tensor, changes: Changes | None, span: Span, step: int) -> tuple[Tensor, Tensor]:
        at = slice(*span)
        if changes is not None:
            x = changes.pixels(x, at)
        x = normalise(x.contiguous(memory_format=self.layout), self.mean, self.std)
        if changes is not None:
            x, y = changes.mixed(changes.blanked(x, at), y, self.classes, step)
        return x.contiguous(memory_format=self.layout), y


class _Held:
    """Images in memory, on the device."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self.images, self.labels = split.images.to(device), split.labels.to(device)

    def read(self, order: Tensor, spans: Sequence[Span], crops: Crops | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 and labels of each span."""
        order = order.to(self.images.device)
        for a, b in spans:
            yield self.images[order[a:b]], self.labels[order[a:b]]
