"""Readers of data that needs no table format: the bundled digits, .npz, folders of images, a factory in a file.

Each gives a `Data` with empty mean and std, which `data.load` fills in. `only` keeps one part, "train" or "test".
"""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.engine.decode import Item, Resize, decode
from prunus.engine.split import Data, Split, holdout
from prunus.errors import DataError, InputError, UnknownName

__all__ = [
    "HELD_OUT",
    "TEST_NAMES",
    "TRAIN_NAMES",
    "Listing",
    "digits",
    "factory",
    "image_folder",
    "join",
    "npz",
    "read",
]

HELD_OUT = 0.2
"""The share of each class that becomes the test part where the source names no parts (seed 0)."""

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "validation", "valid", "val", "dev", "eval")
"""In the order of preference."""

Array = np.ndarray[Any, Any]

_IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"))
_NPZ_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)


@dataclass(frozen=True, eq=False)
class Listing:
    """The samples of one part, before decoding. `where(i)` names sample i for error messages."""

    items: Sequence[Item]
    labels: Sequence[int]
    where: Callable[[int], str]


def join(listings: Sequence[Listing]) -> Listing:
    """Several listings laid end to end."""
    starts = list(accumulate((len(listing.items) for listing in listings), initial=0))

    def where(i: int) -> str:
        which = bisect_right(starts, i) - 1
        return listings[which].where(i - starts[which])

    items = [item for listing in listings for item in listing.items]
    return Listing(items, [label for listing in listings for label in listing.labels], where)


def read(
    name: str, parts: dict[str, Listing], class_names: tuple[str, ...], resize: Resize | None, only: str | None
) -> Data:
    """Decode the parts ("train" and "test", or one "all" that is divided here) into a Data. Raises DataError."""
    classes = len(class_names) or 1 + max((max(part.labels, default=-1) for part in parts.values()), default=-1)
    for part in parts.values():
        for i, label in enumerate(part.labels):
            if not 0 <= label < classes:
                raise DataError(f"{part.where(i)} has label {label}, outside 0..{classes - 1}")
    wanted = {key: part for key, part in parts.items() if only is None or key in (only, "all")}
    joined = join(list(wanted.values()))
    images = decode(joined.items, joined.where, resize)  # together, so that all parts get one size and colour
    pieces = torch.split(images, [len(part.items) for part in wanted.values()])
    splits = {
        key: Split(piece, torch.tensor(part.labels, dtype=torch.int64))
        for (key, part), piece in zip(wanted.items(), pieces, strict=True)
    }
    return _data(name, splits, classes, class_names, only)


def digits(only: str | None = None) -> Data:
    """The bundled 8x8 handwritten digits; values 0..16 are stretched to 0..255. See assets/digits.txt."""
    with resources.files("prunus").joinpath("assets", "digits.npz").open("rb") as file, np.load(file) as arrays:
        values, labels = arrays["images"], arrays["labels"]
    images = torch.from_numpy(np.rint(values * (255 / 16)).astype(np.uint8))[:, None]
    whole = Split(images, torch.from_numpy(labels.astype(np.int64)))
    return _data("digits", {"all": whole}, 10, tuple("0123456789"), only)


def npz(path: Path, only: str | None = None) -> Data:
    """x_train, y_train, x_test, y_test (or train_images, …), or images and labels, which are divided 80:20 per class.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, uint8 or floats in 0..1 (rounded to uint8).
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable .npz: {error}") from error
    keys = next((keys for keys in _NPZ_KEYS if set(keys) <= set(arrays)), None)
    if keys:
        found = {"train": (keys[0], keys[1]), "test": (keys[2], keys[3])}
    elif {"images", "labels"} <= set(arrays):
        found = {"all": ("images", "labels")}
    else:
        shown = ", ".join(sorted(arrays)) or "no arrays"
        raise DataError(f"{path} has {shown}; needed: x_train, y_train, x_test, y_test, or images, labels")
    splits = {}
    for key, (x, y) in found.items():
        splits[key] = _as_split(arrays[x], arrays[y], f"{path}:{x}", f"{path}:{y}")
    classes = 1 + max(int(split.labels.max()) for split in splits.values() if len(split))
    return _data(str(path), splits, classes, (), only)


def image_folder(root: Path, resize: Resize | None, only: str | None) -> Data:
    """train/CLASS/*.png with test/ (or validation/, val/ …), or CLASS/*.png alone, which is divided 80:20 per class."""
    named = {child.name.lower(): child for child in sorted(root.iterdir()) if child.is_dir()}
    folders = {}
    for key, names in (("train", TRAIN_NAMES), ("test", TEST_NAMES)):
        present = [named[name] for name in names if name in named]
        if present:
            folders[key] = present[0]
    if not folders:
        folders = {"all": root}
    listed = {key: _class_files(folder) for key, folder in folders.items()}
    known = listed.get("train") or listed.get("test") or listed.get("all") or {}
    class_names = tuple(sorted(known))
    if not class_names:
        raise DataError(f"{root} has no parquet files and no CLASS/*.png below it or below its train/ and test/")
    parts = {}
    for key, found in listed.items():
        strange = sorted(set(found) - set(class_names))
        if strange:
            raise DataError(f"{folders[key]} has the class {strange[0]!r}, which {root}'s training images do not have")
        files = [file for label in class_names for file in found.get(label, ())]
        labels = [number for number, label in enumerate(class_names) for _ in found.get(label, ())]
        parts[key] = Listing(files, labels, [str(file) for file in files].__getitem__)
    return read(str(root), parts, class_names, resize, only)


def factory(spec: str) -> Data:
    """`path/file.py:name`: runs the file, calls `name()`. It returns a Data, or the pair (train, test).

    Each of the pair is a Split, a pair of arrays (images, labels), or an iterable of batches, such as a DataLoader.
    """
    file, _, attribute = spec.rpartition(":")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise DataError(f"{spec}: there is no file {file}")
    made = _called(path, attribute, spec)
    if isinstance(made, Data):
        return made
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise DataError(f"{spec} must return a Data or the pair (train, test), not {type(made).__name__}")
    train, test = (_as_part(part, spec) for part in made)
    labels = [part.labels for part in (train, test) if isinstance(part, Split) and len(part)]
    classes = 1 + max((int(x.max()) for x in labels), default=-1)
    names = tuple(getattr(getattr(made[0], "dataset", None), "classes", ()))
    return Data(train, test, len(names) or classes, (), (), spec, names)


def _called(path: Path, attribute: str, spec: str) -> Any:
    module_spec = importlib.util.spec_from_file_location(f"prunus_user_data_{path.stem}_{abs(hash(path)):x}", path)
    assert module_spec is not None and module_spec.loader is not None, path  # a .py file always has a loader
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and worker processes look the module up by name
    sys.path.insert(0, str(path.parent))  # the file may import what lies beside it
    try:
        module_spec.loader.exec_module(module)
        make = getattr(module, attribute, None)
        if not callable(make):
            own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise UnknownName.of(f"factory in {path.name}", attribute, own)
        return make()
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(f"{spec} raised {type(error).__name__}: {reason}") from error
    finally:
        sys.path.remove(str(path.parent))


def _data(name: str, splits: dict[str, Split], classes: int, class_names: tuple[str, ...], only: str | None) -> Data:
    if "all" in splits:
        splits = dict(zip(("train", "test"), holdout(splits["all"], HELD_OUT), strict=True))
    shapes = {key: tuple(split.images.shape[1:]) for key, split in splits.items() if len(split)}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{name} has train images of {shapes['train']} and test images of {shapes['test']}")
    channels = next(iter(shapes.values()), (3,))[0]
    train, test = (
        splits[key] if key in splits and only in (None, key) else Split.empty(channels) for key in ("train", "test")
    )
    return Data(train, test, classes, (), (), name, class_names)


def _class_files(folder: Path) -> dict[str, list[Path]]:
    return {
        child.name: files
        for child in sorted(folder.iterdir())
        if child.is_dir()
        and (files := sorted(f for f in child.rglob("*") if f.suffix.lower() in _IMAGE_SUFFIXES and f.is_file()))
    }


def _as_part(part: Any, spec: str) -> Any:
    arrays = isinstance(part, tuple | list) and len(part) == 2 and all(hasattr(x, "shape") for x in part)
    if arrays:
        images, labels = (x.numpy() if isinstance(x, Tensor) else x for x in part)
        return _as_split(images, labels, spec, spec)
    if isinstance(part, Split) or hasattr(part, "__iter__"):
        return part
    raise DataError(
        f"{spec} gave {type(part).__name__} for a part; allowed: Split, (images, labels), iterable of batches"
    )


def _as_split(images: Array, labels: Array, images_from: str, labels_from: str) -> Split:
    x, y = _as_images(images, images_from), _as_labels(labels, labels_from)
    if len(x) != len(y):
        raise DataError(f"{images_from} has {len(x)} images and {labels_from} has {len(y)} labels")
    return Split(x, y)


def _as_images(x: Array, where: str) -> Tensor:
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise DataError(f"{where} has shape {x.shape}; needed: (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3")
    if x.dtype.kind == "f":
        if not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
            raise DataError(f"{where} holds floats outside 0..1; save it as uint8, or scale it")
        x = np.rint(x * 255)
    elif x.dtype.kind not in "iu" or (x.size and (x.min() < 0 or x.max() > 255)):
        raise DataError(f"{where} must hold uint8 or floats in 0..1, not {x.dtype}")
    return torch.from_numpy(np.ascontiguousarray(x.astype(np.uint8)))


def _as_labels(y: Array, where: str) -> Tensor:
    flat = y.reshape(-1) if y.ndim == 2 and y.shape[1] == 1 else y
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        raise DataError(f"{where} must be whole numbers of shape (N,), not {y.dtype} {y.shape}")
    if flat.size and flat.min() < 0:
        raise DataError(f"{where}[{int(flat.argmin())}] has label {flat.min()}, below 0")
    return torch.from_numpy(flat.astype(np.int64))
