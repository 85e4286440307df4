"""Images held in memory: `Split`, the two of them that make a `Data`, and the seeded ways to divide one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.engine.augment import normalise
from prunus.errors import DataError

__all__ = ["Data", "Split", "channel_stats", "holdout", "stratified"]


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

    `train` and `test` are splits in memory, or the user's own loaders (any iterable of batches), which normalise
    themselves; then `mean` and `std` are empty and `classes` is 0 where the loaders do not say.
    """

    train: Split | Iterable[Any]
    test: Split | Iterable[Any]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    class_names: tuple[str, ...] = field(default=(), repr=False)

    def example(self, n: int = 1) -> Tensor:
        """The first `n` inputs, float (n, C, H, W), normalised: what to trace a model with."""
        for part in (self.test, self.train):
            if not isinstance(part, Split):
                first = next(iter(part), None)
                if first is not None:
                    x: Tensor = first[0][:n]
                    return x
            elif len(part):
                return normalise(part.images[:n], self.mean, self.std)
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


def _describe(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
