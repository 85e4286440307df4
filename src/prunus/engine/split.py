"""Images held in memory: `Split`; the parts that make a `Data`; and the seeded ways to divide one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from prunus.engine.augment import normalise
from prunus.engine.stream import Stream
from prunus.errors import DataError

__all__ = ["Data", "Split", "channel_stats", "count_labels", "holdout", "stratified", "with_validation"]


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 (N, C, H, W) and labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(f"images must be uint8 (N, C, H, W), not {_describe(self.images)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(f"labels must be int64 ({len(self.images)},), not {_describe(self.labels)}")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self)} images {tuple(self.images.shape[1:])})"

    def subset(self, index: Tensor) -> Split:
        """The samples of `index` (int64), in that order."""
        return Split(self.images[index], self.labels[index])

    @classmethod
    def empty(cls, channels: int = 3) -> Split:
        """What stands for a split that the data does not have."""
        return cls(torch.empty(0, channels, 0, 0, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class Data:
    """A data set by name. A part that the source lacks is a `Split` of length 0.

    The parts are splits in memory, streams of files, or the user's own loaders (any iterable of batches), which
    normalise themselves; then `mean` and `std` are empty and `classes` is 0 where the loaders do not say.

    skipped: names of the images that do not decode and were left out, because that was asked for; a `Stream` has its
    own list. Raises DataError for a label outside 0..classes-1.
    """

    train: Split | Stream | Iterable[Any]
    test: Split | Stream | Iterable[Any]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    class_names: tuple[str, ...] = field(default=(), repr=False)
    validation: Split | Stream | Iterable[Any] | None = None
    skipped: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.classes:
            for name in ("train", "test", "validation"):
                part = getattr(self, name)
                if isinstance(part, Split | Stream):
                    _check_labels(f"{self.name}: {name}", part.labels, self.classes)

    def part(self, name: Literal["train", "test", "validation"]) -> Split | Stream | Iterable[Any]:
        """The part of that name. Raises DataError where the source has none."""
        found = getattr(self, name)
        if found is None or (isinstance(found, Split | Stream) and not len(found)):
            hint = "; put one beside train, such as a folder test" if name == "test" else ""
            raise DataError(f"{self.name} has no {name} part{hint}")
        given: Split | Stream | Iterable[Any] = found
        return given

    def example(self, n: int = 1) -> Tensor:
        """The first `n` inputs, float (n, C, H, W), normalised: what to trace a model with."""
        for part in (self.test, self.train):
            if not isinstance(part, Split | Stream):
                first = next(iter(part), None)
                if first is not None:
                    return _first_inputs(first, n, self.name)
            elif len(part):
                images = part.images[:n] if isinstance(part, Split) else part.images(torch.arange(min(n, len(part))))
                return normalise(images, self.mean, self.std)
        raise DataError(f"{self.name} has no images")


def channel_stats(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation per channel of uint8 images, in units of 0..1.

    Exact up to float64 rounding: both come from the 256-bin histogram. A constant channel gets deviation 1.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for c in range(images.shape[1]):
        share = torch.bincount(images[:, c].reshape(-1), minlength=256).to(torch.float64)
        share /= share.sum()
        mean = (share * levels).sum()
        deviation = (share * (levels - mean) ** 2).sum().sqrt()
        means.append(float(mean))
        deviations.append(float(deviation) or 1.0)
    return tuple(means), tuple(deviations)


def stratified(labels: Tensor, fraction: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices (rest, held): `held` has `round(fraction * count)` of each class, at least one where there are two.

    Both ascend. The draw uses numpy's frozen legacy stream, so a seed means the same split in every version.
    """
    random = np.random.RandomState(seed)
    values = labels.numpy()
    held = np.zeros(len(values), dtype=bool)
    for label in np.unique(values):
        members = np.flatnonzero(values == label)
        count = max(round(fraction * len(members)), int(len(members) > 1))
        held[random.permutation(members)[:count]] = True
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


def holdout(split: Split, fraction: float, seed: int = 0) -> tuple[Split, Split]:
    """(rest, held), each class held out at the same fraction."""
    rest, held = stratified(split.labels, fraction, seed)
    return split.subset(rest), split.subset(held)


def with_validation(data: Data, fraction: float, seed: int = 0) -> Data:
    """The data with a validation part: the same fraction of each class of the train part, taken out of it.

    A part that there was is replaced. Raises DataError for the user's own loaders, and where no image would be left.
    """
    if not 0 < fraction < 1:
        raise DataError(f"validation={fraction} must be a fraction above 0 and below 1")
    if not isinstance(data.train, Split | Stream):
        raise DataError(f"{data.name} gives loaders; a validation part of them must come from the same factory")
    rest, held = stratified(data.train.labels, fraction, seed)
    if not len(rest) or not len(held):
        raise DataError(f"{data.name} has too few images ({len(data.train)}) for a validation part of {fraction:g}")
    return replace(data, train=data.train.subset(rest), validation=data.train.subset(held))


def count_labels(part: Split | Stream, classes: int = 0) -> tuple[int, ...]:
    """How many samples each class has, in the order of the classes."""
    return tuple(torch.bincount(part.labels, minlength=classes).tolist())


def _first_inputs(batch: Any, n: int, name: str) -> Tensor:
    """What comes first in a batch (x, …) of the user's own."""
    try:
        x: Tensor = batch[0][:n]
    except (KeyError, IndexError, TypeError):
        x = batch
    if isinstance(x, Tensor) or (isinstance(x, list | tuple) and x and all(isinstance(part, Tensor) for part in x)):
        return x
    raise DataError(f"{name} gives batches of type {type(batch).__name__}; needed: (x, …) with tensors, inputs first")


def _check_labels(where: str, labels: Tensor, classes: int) -> None:
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        i = int(wrong.nonzero()[0])
        raise DataError(f"{where}[{i}] has label {int(labels[i])}, outside 0..{classes - 1}")


def _describe(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
