"""Encoded images -> one uint8 tensor. EXIF rotation is not applied."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prunus.errors import DataError

__all__ = ["Item", "Resize", "check_resize", "decode", "resized"]

Item = bytes | Path | None
"""One encoded image, its file, or None where the source has a hole."""

Resize = int | tuple[int, int]
"""S: shorter side to S, then the centre S x S. (R, S): shorter side to R, then the centre S x S."""

_CHUNK = 256
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""PIL is told, because asking its forty other readers takes as long as decoding a small image."""
_WORTH_A_THREAD = 8192
"""Bytes. Below that, threads waiting for the interpreter lock cost more than they decode."""


def decode(items: Sequence[Item], where: Callable[[int], str], resize: Resize | None = None) -> Tensor:
    """Decode to uint8 (N, C, H, W): C is 1 if every image is grey, else 3.

    `where(i)` names item i in the error of an image that does not decode or differs in size. Raises DataError.
    """
    if not items:
        return torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    channels = 1 if all(_is_grey(item) for item in items) else 3
    first = _one(items[0], channels, where, 0, resize)
    _check_memory(len(items) * first.numel(), len(items), tuple(first.shape))
    out = torch.empty(len(items), *first.shape, dtype=torch.uint8)

    def fill(start: int) -> None:
        for i in range(start, min(start + _CHUNK, len(items))):
            image = _one(items[i], channels, where, i, resize)
            if image.shape != first.shape:
                raise DataError(
                    f"{where(i)} is {_size(image)} and {where(0)} is {_size(first)}; pass resize= to make them equal"
                )
            out[i] = image

    encoded = sum(item.stat().st_size if isinstance(item, Path) else len(item or b"") for item in items[:_CHUNK])
    small = encoded < _WORTH_A_THREAD * len(items[:_CHUNK])
    with ThreadPoolExecutor(1 if small else min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(fill, range(0, len(items), _CHUNK)):
            pass
    return out


def check_resize(resize: Resize | None) -> None:
    """Refuse what is neither S nor (R, S) with 1 <= S <= R."""
    sides = (resize, resize) if isinstance(resize, int) else resize
    if sides is not None and not (len(sides) == 2 and 1 <= sides[1] <= sides[0]):
        raise DataError(f"resize={resize!r} must be S (resize and centre crop) or (R, S) with 1 <= S <= R")


def resized(images: Tensor, resize: Resize) -> Tensor:
    """uint8 (N, C, H, W) -> (N, C, S, S): antialiased bilinear, then the centre, with torchvision's rounding."""
    side, out = (resize, resize) if isinstance(resize, int) else resize
    h, w = images.shape[2:]
    short = min(h, w)
    size = (side if h == short else int(side * h / short), side if w == short else int(side * w / short))
    if size != (h, w):
        chunks = [F.interpolate(x, size, mode="bilinear", antialias=True) for x in torch.split(images, _CHUNK)]
        images = torch.cat(chunks)
    top, left = round((size[0] - out) / 2), round((size[1] - out) / 2)
    return images[:, :, top : top + out, left : left + out].contiguous()


def _one(item: Item, channels: int, where: Callable[[int], str], i: int, resize: Resize | None) -> Tensor:
    if item is None:
        raise DataError(f"{where(i)} holds no image")
    try:
        encoded = item.read_bytes() if isinstance(item, Path) else item
        image = _decoded(encoded, channels)
    except Exception as error:  # decoders raise whatever they like
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{where(i)} is not an image that can be decoded: {reason}") from error
    return image if resize is None else resized(image[None], resize)[0]


def _decoded(encoded: bytes, channels: int) -> Tensor:
    from PIL import Image

    mode = "L" if channels == 1 else "RGB"
    with Image.open(io.BytesIO(encoded), formats=_FORMATS) as picture:
        if picture.mode.startswith("I"):  # 16 bits a pixel, which PIL's own conversion would clip
            array = np.repeat((np.array(picture) >> 8).astype(np.uint8)[:, :, None], channels, axis=2)
        else:
            array = np.array(picture if picture.mode == mode else picture.convert(mode))
    return torch.from_numpy(array.reshape(*array.shape[:2], channels)).permute(2, 0, 1)


def _is_grey(item: Item) -> bool:
    from PIL import Image

    try:
        with Image.open(item if isinstance(item, Path) else io.BytesIO(item or b""), formats=_FORMATS) as picture:
            return picture.mode in ("1", "L") or picture.mode.startswith("I")
    except OSError:
        return False  # decoding will name it


def _check_memory(needed: int, count: int, shape: tuple[int, ...]) -> None:
    try:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return
    if needed > 0.8 * have:
        raise DataError(
            f"{count} images of {shape} need {needed / 1e9:.1f} GB and this machine has {have / 1e9:.1f} GB; "
            "use a smaller resize, or loaders from path/file.py:factory"
        )


def _size(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]} (width x height)"
