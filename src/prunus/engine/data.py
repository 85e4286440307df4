"""Data by name, and batches of it: `load` and `batches`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from prunus.engine import parquet, sources
from prunus.engine.augment import crop as cropped
from prunus.engine.augment import flip as flipped
from prunus.engine.augment import normalise
from prunus.engine.decode import Resize, check_resize, resized
from prunus.engine.split import Data, Split, channel_stats, holdout
from prunus.errors import DataError, UnknownName, nearest

__all__ = ["Batches", "Data", "Split", "batches", "holdout", "load"]

BUNDLED = "digits"
HUB_IDS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
"""Bare names that are looked for on the hub when no local folder has them."""


def load(
    name: str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: Resize | None = None,
    only: Literal["train", "test"] | None = None,
) -> Data:
    """Read a data set into memory as uint8.

    `name` is, in this order: `digits` (bundled) · `path/file.py:factory` · a `.npz` · a folder of Hugging Face parquet
    files or of images · a bare name below $PRUNUS_DATA, ./data or ../shared/data · `cifar10`, `cifar100` or any
    `owner/name` on the Hugging Face hub. A source with one unnamed part is divided 80:20 per class, always alike.

    mean, std: per channel, in units of 0..1; one number serves all channels. Left out, they are computed on the train
    part. resize: S or (R, S), see `decode.Resize`; needed where images differ in size. only: decode just this part
    (needs mean and std unless it is "train"). Raises DataError or UnknownName.
    """
    check_resize(resize)
    if mean is None or std is None:
        only = None if only == "test" else only
    data = _read(name, resize, only)
    if not isinstance(data.train, Split) or not isinstance(data.test, Split):
        if (mean, std, resize) != (None, None, None):
            raise DataError(
                f"{name} gives loaders, which resize and normalise themselves; leave out mean, std and resize"
            )
        return data
    if not len(data.train) and not len(data.test):
        raise DataError(f"{name} has no {only or 'train or test'} part")
    if mean is None or std is None:
        if data.mean and data.std:
            known = data.mean, data.std
        elif len(data.train):
            known = channel_stats(data.train.images)
        else:
            raise DataError(f"{name} has no train part to compute mean and std from; pass mean= and std=")
        mean, std = mean or known[0], std or known[1]
    channels = (data.train if len(data.train) else data.test).images.shape[1]
    data = replace(data, name=name, mean=_per_channel("mean", mean, channels), std=_per_channel("std", std, channels))
    if min(data.std) <= 0:
        raise DataError(f"std must be above 0, not {data.std}")
    return data


def batches(
    split: Split,
    *,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    shuffle: bool = False,
    seed: int = 0,
    crop: int = 0,
    flip: bool = False,
    drop_last: bool = False,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
) -> Batches:
    """Batches (x float32 normalised, y int64) of a split, on `device`, to which the whole split is moved once.

    crop: zeros of padding on each side for a random crop back to the old size (0: none). flip: mirror half of the
    images. Order and augmentation depend on (seed, epoch, position in the epoch) alone, not on the batch size;
    `set_epoch(e)` chooses the epoch. Iterating again without it gives the same batches again.
    """
    if batch_size < 1 or crop < 0:
        raise DataError(f"batch_size={batch_size} must be at least 1 and crop={crop} at least 0")
    return Batches(
        Split(split.images.to(device), split.labels.to(device)),
        batch_size,
        tuple(mean),
        tuple(std),
        shuffle,
        seed,
        crop,
        flip,
        drop_last,
        torch.channels_last if channels_last else torch.contiguous_format,
    )


class Batches:
    """What `batches` returns. Re-iterable, with a length."""

    def __init__(
        self,
        split: Split,
        batch_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        shuffle: bool,
        seed: int,
        crop: int,
        flip: bool,
        drop_last: bool,
        layout: torch.memory_format,
    ) -> None:
        self.split, self.batch_size, self.mean, self.std = split, batch_size, mean, std
        self.shuffle, self.seed, self.crop, self.flip = shuffle, seed, crop, flip
        self.drop_last, self.layout = drop_last, layout
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n, device = len(self.split), self.split.images.device
        order = torch.randperm(n, generator=self._random(0)) if self.shuffle else torch.arange(n)
        shifts = torch.randint(0, 2 * self.crop + 1, (2, n), generator=self._random(1)) if self.crop else None
        mirror = torch.rand(n, generator=self._random(2)) < 0.5 if self.flip else None
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            at = slice(start, start + self.batch_size)
            index = order[at].to(device)
            x = self.split.images[index]
            if shifts is not None:
                top, left = shifts[:, at].to(device)
                x = cropped(x, top, left, self.crop)
            if mirror is not None:
                x = flipped(x, mirror[at].to(device))
            yield normalise(x, self.mean, self.std).contiguous(memory_format=self.layout), self.split.labels[index]

    def _random(self, stream: int) -> torch.Generator:
        """A generator of its own for order (0), crops (1) and flips (2), mixed from seed and epoch."""
        mixed = np.random.SeedSequence([self.seed, self.epoch, stream]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(mixed) >> 1)


def _read(name: str, resize: Resize | None, only: str | None) -> Data:
    path = Path(name).expanduser()
    if name == BUNDLED:
        return _resize(sources.digits(only), resize)
    if re.search(r"\.py:\w+$", name):
        return _resize(sources.factory(name), resize)
    if path.suffix == ".npz":
        return _resize(sources.npz(path, only), resize)
    folder = path if path.exists() else _known_folder(name)
    if folder is not None:
        if not folder.is_dir():
            raise DataError(f"{name} is neither a folder, a .npz nor path/file.py:factory")
        tables = next(folder.rglob("*.parquet"), None) is not None
        return (parquet.parquet_folder if tables else sources.image_folder)(folder, resize, only)
    if len(path.parts) > 1 and path.parent.is_dir():
        close = nearest(path.name, (entry.name for entry in path.parent.iterdir()))
        raise DataError(f"{name} does not exist" + (f"; did you mean {path.parent / close}?" if close else ""))
    if name in HUB_IDS or re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        return parquet.hub(HUB_IDS.get(name, name), resize, only)
    if re.fullmatch(r"[\w-]+", name):
        names = (BUNDLED, *HUB_IDS)
        close = nearest(name, names)
        raise UnknownName(
            f"unknown data {name!r}{f'; did you mean {close!r}?' if close else ''} (allowed: {', '.join(names)}, "
            "a folder, a .npz, path/file.py:factory, or owner/name on the hub)"
        )
    raise DataError(f"{name} does not exist")


def _known_folder(name: str) -> Path | None:
    if not re.fullmatch(r"[\w-]+", name):
        return None
    given = os.environ.get("PRUNUS_DATA")
    roots = ([Path(given).expanduser()] if given else []) + [Path("data"), Path("../shared/data")]
    return next((root / name for root in roots if (root / name).is_dir()), None)


def _resize(data: Data, resize: Resize | None) -> Data:
    if resize is None:
        return data
    parts: dict[str, Any] = {
        key: Split(resized(part.images, resize), part.labels) if isinstance(part, Split) and len(part) else part
        for key, part in (("train", data.train), ("test", data.test))
    }
    return replace(data, **parts)


def _per_channel(what: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise DataError(f"{what} has {len(values)} numbers; the images have {channels} channels")
    return tuple(float(v) for v in values) * (channels if len(values) == 1 else 1)
