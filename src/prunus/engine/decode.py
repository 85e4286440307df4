"""Encoded images -> one uint8 tensor. EXIF rotation is not applied."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prunus.errors import DataError

__all__ = ["Item", "Resize", "alone", "check_resize", "decode", "in_words", "is_grey", "memory", "picture", "resized"]

Item = bytes | Path | None
"""One encoded image, its file, or None where the source has a hole."""

Resize = int | tuple[int, int]
"""S: shorter side to S, then the centre S x S. (R, S): shorter side to R, then the centre S x S."""

_CHUNK = 256
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""PIL is told, because asking its forty other readers takes as long as decoding a small image."""
_WORTH_A_THREAD = 8192
"""Bytes. Below that, threads waiting for the interpreter lock cost more than they decode."""


def decode(
    items: Sequence[Item], where: Callable[[int], str], resize: Resize | None = None, bad: list[int] | None = None
) -> Tensor:
    """Decode to uint8 (N, C, H, W): C is 1 if every image is grey, else 3.

    `where(i)` names item i in the error of an image that does not decode or differs in size. bad: leave out what does
    not decode, and add its index here, in order. Raises DataError.
    """
    kept = torch.ones(len(items), dtype=torch.bool)
    channels = 1 if all(is_grey(item, bad is not None) for item in items) else 3

    def one(i: int) -> Tensor | None:
        try:
            image = picture(items[i], channels)
        except DataError as error:
            if bad is None:
                raise DataError(f"{where(i)} {error}") from error
            kept[i] = False
            return None
        return image if resize is None else resized(alone(image), resize)[0]

    found = next(((i, image) for i in range(len(items)) if (image := one(i)) is not None), None)
    if found is None:
        if bad is not None:
            bad += range(len(items))
        return torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    lead, first = found
    _check_memory(len(items) * first.numel(), len(items), tuple(first.shape))
    out = torch.empty(len(items), *first.shape, dtype=torch.uint8)

    def fill(start: int) -> None:
        for i in range(start, min(start + _CHUNK, len(items))):
            image = one(i)
            if image is None:
                continue
            if image.shape != first.shape:
                raise DataError(
                    f"{where(i)} is {in_words(image)} and {where(lead)} is {in_words(first)}; "
                    "pass resize= to make them equal"
                )
            out[i] = image

    encoded = sum(map(_bytes, items[:_CHUNK]))
    small = encoded < _WORTH_A_THREAD * len(items[:_CHUNK])
    with ThreadPoolExecutor(1 if small else min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(fill, range(0, len(items), _CHUNK)):
            pass
    if bad is None or kept.all():
        return out
    bad += (~kept).nonzero()[:, 0].tolist()
    return out[kept]


def check_resize(resize: Resize | None) -> None:
    """Refuse what is neither S nor (R, S) with 1 <= S <= R."""
    sides = (resize, resize) if isinstance(resize, int) else resize
    if sides is not None and not (len(sides) == 2 and 1 <= sides[1] <= sides[0]):
        raise DataError(f"resize={resize!r} must be S (resize and centre crop) or (R, S) with 1 <= S <= R")


def resized(images: Tensor, resize: Resize) -> Tensor:
    """uint8 (N, C, H, W) -> (N, C, S, S): antialiased bilinear, then the centre, with torchvision's rounding.

    The result may be a view."""
    side, out = (resize, resize) if isinstance(resize, int) else resize
    h, w = images.shape[2:]
    short = min(h, w)
    size = (side if h == short else int(side * h / short), side if w == short else int(side * w / short))
    if size != (h, w):
        chunks = [F.interpolate(x, size, mode="bilinear", antialias=True) for x in torch.split(images, _CHUNK)]
        images = torch.cat(chunks)
    top, left = round((size[0] - out) / 2), round((size[1] - out) / 2)
    return images[:, :, top : top + out, left : left + out]


def alone(image: Tensor) -> Tensor:
    """(C, H, W) as a batch of one. Taken by its rows, so that torch sees where the channels lie; image[None] hides it
    from interpolation, which is slower then."""
    return image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)


def picture(item: Item, channels: int) -> Tensor:
    """One image, uint8 (channels, H, W). Raises DataError with what is wrong with it, to be put after its name."""
    if item is None:
        raise DataError("holds no image")
    if not _bytes(item):
        raise DataError("is not an image that can be decoded: it is empty, or leads nowhere")
    try:
        return _decoded(item.read_bytes() if isinstance(item, Path) else item, channels)
    except Exception as error:  # decoders raise whatever they like
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"is not an image that can be decoded: {reason}") from error


def _bytes(item: Item) -> int:
    """How large an encoded image is; 0 where there is none."""
    try:
        return item.stat().st_size if isinstance(item, Path) else len(item or b"")
    except OSError:
        return 0


def is_grey(item: Item, unreadable: bool = False) -> bool:
    """Whether an image has one channel; `unreadable` is the answer for what is none."""
    from PIL import Image

    try:
        with Image.open(item if isinstance(item, Path) else io.BytesIO(item or b""), formats=_FORMATS) as opened:
            return opened.mode in ("1", "L") or opened.mode.startswith("I")
    except Exception:  # decoding will name it
        return unreadable


def memory() -> int | None:
    """Bytes of memory of this machine, or of the share of it that this process may use; None where it is not known."""
    try:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    try:
        return min(have, int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    except (OSError, ValueError):  # no control group, or "max"
        return have


def in_words(image: Tensor) -> str:
    """The size of an image (C, H, W)."""
    return f"{image.shape[2]}x{image.shape[1]} (width x height)"


def _decoded(encoded: bytes, channels: int) -> Tensor:
    jpeg = _torchvisions_jpeg() if encoded[:3] == b"\xff\xd8\xff" else None
    if jpeg is not None:
        try:
            image: Tensor = jpeg(torch.frombuffer(bytearray(encoded), dtype=torch.uint8), 1 if channels == 1 else 3)
            return image
        except RuntimeError:  # PIL reads some more kinds, and says better what is wrong
            pass
    from PIL import Image

    wanted = "L" if channels == 1 else "RGB"
    with Image.open(io.BytesIO(encoded), formats=_FORMATS) as opened:
        if opened.mode.startswith("I"):  # 16 bits a pixel, which PIL's own conversion would clip
            array = np.repeat((np.array(opened) >> 8).astype(np.uint8)[:, :, None], channels, axis=2)
        else:
            array = np.array(opened if opened.mode == wanted else opened.convert(wanted))
    return torch.from_numpy(array.reshape(*array.shape[:2], channels)).permute(2, 0, 1)


@cache
def _torchvisions_jpeg() -> Any:
    """The operator below torchvision's decode_jpeg: PIL's numbers in two thirds of the time.

    The function itself is deprecated; where the operator is gone, PIL does it.
    """
    try:
        import torchvision  # noqa: F401  (loads it)

        return torch.ops.image.decode_jpeg
    except (ImportError, AttributeError):
        return None


def _check_memory(needed: int, count: int, shape: tuple[int, ...]) -> None:
    have = memory()
    if have is not None and needed > 0.8 * have:
        raise DataError(
            f"{count} images of {shape} need {needed / 1e9:.1f} GB and this machine has {have / 1e9:.1f} GB; "
            "use a smaller resize, or stream=True"
        )
