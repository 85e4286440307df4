"""Data by name, and batches of it: `load` and `batches`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from prunus.engine import parquet, sources
from prunus.engine.decode import Resize, check_resize, resized
from prunus.engine.feed import Batches, batches
from prunus.engine.listing import Reading, files_below
from prunus.engine.split import Data, Split, channel_stats, holdout, with_validation
from prunus.engine.stream import Stream
from prunus.errors import DataError, UnknownName, nearest

__all__ = ["Batches", "Data", "Split", "Stream", "batches", "holdout", "load", "with_validation"]

BUNDLED = "digits"
_SAMPLE = 1024
"""Images of a stream on which mean and standard deviation are computed."""

HUB_IDS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
"""Bare names that are looked for on the hub when no local folder has them."""


def load(
    name: str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: Resize | None = None,
    only: Literal["train", "test"] | None = None,
    validation: float = 0.0,
    stream: bool = False,
    workers: int | None = None,
    skip_bad: bool = False,
) -> Data:
    """Read a data set into memory as uint8; one that would need more than a quarter of it streams from its files.

    `name` is, in this order: `digits` (bundled) · `path/file.py:factory` · a `.npz` · a folder of Hugging Face parquet
    files or of images · a bare name below $PRUNUS_DATA, ./data or ../shared/data · `cifar10`, `cifar100` or any
    `owner/name` on the Hugging Face hub. A source with one unnamed part is divided 80:20 per class, always alike.

    mean, std: per channel, in units of 0..1; one number serves all channels. Left out, they are computed on the train
    part (of a stream: on some of it). resize: S or (R, S), see `decode.Resize`; needed where images differ in size.
    only: decode just this part (needs mean and std unless it is "train"). validation: this fraction of each class is
    taken out of the train part, always alike. stream: do not read into memory, however small the set. workers:
    processes that decode a stream (None: one a core). skip_bad: leave out images that do not decode, with a warning
    that counts them. Raises DataError or UnknownName.
    """
    check_resize(resize)
    if workers is not None and workers < 0:
        raise DataError(f"workers={workers} must be at least 0")
    if mean is None or std is None:
        only = None if only == "test" else only
    data = _read(name, Reading(resize, only, stream, workers, skip_bad))
    if validation:
        data = with_validation(data, validation)
    if not isinstance(data.train, Split | Stream) or not isinstance(data.test, Split | Stream):
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
            known = channel_stats(_pixels(data.train))
        else:
            raise DataError(f"{name} has no train part to compute mean and std from; pass mean= and std=")
        mean, std = mean or known[0], std or known[1]
    part = data.train if len(data.train) else data.test
    channels = part.shape[0] if isinstance(part, Stream) else part.images.shape[1]
    data = replace(data, name=name, mean=_per_channel("mean", mean, channels), std=_per_channel("std", std, channels))
    if min(data.std) <= 0:
        raise DataError(f"std must be above 0, not {data.std}")
    return data


def _pixels(part: Split | Stream) -> Tensor:
    """Those that mean and standard deviation are computed on: all, or the images of a fixed sample of a stream."""
    if isinstance(part, Split):
        return part.images
    some = np.random.RandomState(0).permutation(len(part))[:_SAMPLE]
    return part.images(torch.from_numpy(np.sort(some)))


def _read(name: str, reading: Reading) -> Data:
    if not name.strip():
        raise DataError("the data has no name; give digits, a folder, a .npz, path/file.py:factory, or a hub id")
    path = Path(name).expanduser()
    here = name == BUNDLED or path.suffix == ".npz" or re.search(r"\.py:\w+$", name) is not None
    if here and (reading.stream or reading.skip_bad):
        raise DataError(f"{name} is not read from files of images; leave out stream and skip_bad")
    if name == BUNDLED:
        return _resize(sources.digits(reading.only), reading.resize)
    if path.suffix == ".npz":
        return _resize(sources.npz(path, reading.only), reading.resize)
    if here:
        return _resize(sources.factory(name), reading.resize)
    folder = path if path.exists() else known_folder(name)
    if folder is not None:
        if not folder.is_dir():
            raise DataError(f"{name} is neither a folder, a .npz nor path/file.py:factory")
        tables = any(file.suffix == ".parquet" for file in files_below(folder))
        return (parquet.parquet_folder if tables else sources.image_folder)(folder, reading)
    if len(path.parts) > 1 and path.parent.is_dir():
        close = nearest(path.name, (entry.name for entry in path.parent.iterdir()))
        raise DataError(f"{name} does not exist" + (f"; did you mean {path.parent / close}?" if close else ""))
    if name in HUB_IDS or re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        return parquet.hub(HUB_IDS.get(name, name), reading)
    if re.fullmatch(r"[\w-]+", name):
        names = (BUNDLED, *HUB_IDS)
        close = nearest(name, names)
        raise UnknownName(
            f"unknown data {name!r}{f'; did you mean {close!r}?' if close else ''} (allowed: {', '.join(names)}, "
            "a folder, a .npz, path/file.py:factory, or owner/name on the hub)"
        )
    raise DataError(f"{name} does not exist")


def known_folder(name: str) -> Path | None:
    if not re.fullmatch(r"[\w-]+", name):
        return None
    given = os.environ.get("PRUNUS_DATA")
    roots = ([Path(given).expanduser()] if given else []) + [Path("data"), Path("../shared/data")]
    return next((root / name for root in roots if (root / name).is_dir()), None)


def _resize(data: Data, resize: Resize | None) -> Data:
    if resize is None:
        return data
    parts: dict[str, Any] = {
        key: Split(resized(part.images, resize).contiguous(), part.labels)
        if isinstance(part, Split) and len(part)
        else part
        for key, part in (("train", data.train), ("test", data.test), ("validation", data.validation))
    }
    return replace(data, **parts)


def _per_channel(what: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise DataError(f"{what} has {len(values)} numbers; the images have {channels} channels")
    if not all(abs(v) < math.inf for v in values):
        raise DataError(f"{what}={tuple(values)} must be finite numbers")
    if what == "mean" and max(values) > 1:
        raise DataError(f"mean={tuple(values)} is in units of 0..1, where white is 1: divide mean and std by 255")
    return tuple(float(v) for v in values) * (channels if len(values) == 1 else 1)
