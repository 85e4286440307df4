"""Readers of data that needs no table format: the bundled digits, .npz, folders of images, a factory in a file.

Each gives a `Data` with empty mean and std, which `data.load` fills in. `only` keeps one part, "train" or "test".
"""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from prunus.engine.listing import Listing, Reading, assembled, counted, files_below, is_hidden, read
from prunus.engine.split import Data, Split
from prunus.engine.stream import Stream
from prunus.errors import DataError, InputError
from prunus.userfile import beside, module_of, named

__all__ = ["TEST_NAMES", "TRAIN_NAMES", "digits", "factory", "image_folder", "npz", "parts_of"]

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "validation", "valid", "val", "dev", "eval")
"""In the order of preference."""

T = TypeVar("T")
Array = np.ndarray[Any, Any]

_IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"))
_NPZ_KEYS = (
    ("x_train", "y_train", "x_test", "y_test", "x_val", "y_val"),
    ("train_images", "train_labels", "test_images", "test_labels", "val_images", "val_labels"),
)


def digits(only: str | None = None) -> Data:
    """The bundled 8x8 handwritten digits; values 0..16 are stretched to 0..255. See assets/digits.txt."""
    with resources.files("prunus").joinpath("assets", "digits.npz").open("rb") as file, np.load(file) as arrays:
        values, labels = arrays["images"], arrays["labels"]
    images = torch.from_numpy(np.rint(values * (255 / 16)).astype(np.uint8))[:, None]
    whole = Split(images, torch.from_numpy(labels.astype(np.int64)))
    return assembled("digits", {"all": whole}, 10, tuple("0123456789"), only)


def npz(path: Path, only: str | None = None) -> Data:
    """x_train, y_train, x_test, y_test (or train_images, …), or images and labels, which are divided 80:20 per class.
    x_val, y_val (val_images, …) are the validation part.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, uint8 or floats in 0..1 (rounded to uint8).
    """
    try:
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            arrays = {key: file[key] for key in getattr(file, "files", ())}  # an .npy has none
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable .npz: {error}") from error
    keys = next((keys for keys in _NPZ_KEYS if set(keys[:4]) <= set(arrays)), None)
    if keys:
        found = {"train": (keys[0], keys[1]), "test": (keys[2], keys[3])}
        if {keys[4], keys[5]} <= set(arrays):
            found["validation"] = (keys[4], keys[5])
    elif {"images", "labels"} <= set(arrays):
        found = {"all": ("images", "labels")}
    else:
        shown = ", ".join(sorted(arrays)) or "no arrays"
        raise DataError(f"{path} has {shown}; needed: x_train, y_train, x_test, y_test, or images, labels")
    splits = {}
    for key, (x, y) in found.items():
        splits[key] = _as_split(arrays[x], arrays[y], f"{path}:{x}", f"{path}:{y}")
    classes = counted(str(path), [split.labels.tolist() for split in splits.values()])
    return assembled(str(path), splits, classes, (), only)


def image_folder(root: Path, reading: Reading) -> Data:
    """train/CLASS/*.png with test/ (or validation/, val/ …), or CLASS/*.png alone, which is divided 80:20 per class.
    Beside test/, validation/ is the validation part."""
    folders = parts_of({child.name.lower(): child for child in sorted(root.iterdir()) if child.is_dir()})
    folders = folders or {"all": root}
    listed = {key: _class_files(folder) for key, folder in folders.items()}
    leading = next((key for key in ("train", "test", "all") if listed.get(key)), None)
    if "all" not in listed and not listed.get("train"):
        _refuse_beside(root, folders)
    if leading is None:
        raise DataError(f"{root} has no parquet files and no CLASS/*.png below it or below its train/ and test/")
    class_names = tuple(sorted(listed[leading]))
    _refuse_one_too_high(folders[leading], listed[leading])
    empty = sorted(child.name for child in _classes_in(folders[leading]) if child.name not in class_names)
    if empty:
        warnings.warn(f"{folders[leading]}: no images in {', '.join(empty)}: no class of that name", stacklevel=2)
    parts = {}
    for key, found in listed.items():
        strange = sorted(set(found) - set(class_names))
        if strange:
            raise DataError(f"{folders[key]} has the class {strange[0]!r}, which {root}'s training images do not have")
        files = [file for label in class_names for file in found.get(label, ())]
        labels = [number for number, label in enumerate(class_names) for _ in found.get(label, ())]
        parts[key] = Listing(files, labels, lambda i, files=files: str(files[i]))  # type: ignore[misc]
    return read(str(root), parts, class_names, reading)


def parts_of(groups: Mapping[str, T]) -> dict[str, T]:
    """Which of what is named so are "train", "test" and, where there is another beside those, "validation"."""
    train, test = ([name for name in names if name in groups] for names in (TRAIN_NAMES, TEST_NAMES))
    chosen = {"train": train[:1], "test": test[:1], "validation": test[1:2] if train else []}
    return {key: groups[names[0]] for key, names in chosen.items() if names}


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
    classes = counted(spec, [part.labels.tolist() for part in (train, test) if isinstance(part, Split | Stream)])
    names = tuple(getattr(getattr(made[0], "dataset", None), "classes", ()))
    return Data(train, test, len(names) or classes, (), (), spec, names)


def _called(path: Path, attribute: str, spec: str) -> Any:
    try:
        with beside(path):
            make = named(module_of(path), attribute, "factory")
            if not callable(make):
                raise DataError(f"{spec} is a {type(make).__name__}; it must be a function that returns the data")
            return make()
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(f"{spec} raised {type(error).__name__}: {reason}") from error


def _classes_in(folder: Path) -> list[Path]:
    return [child for child in sorted(folder.iterdir()) if child.is_dir() and not is_hidden(child.name)]


def _refuse_beside(root: Path, folders: Mapping[str, Path]) -> None:
    """Raises DataError where folders of images lie beside those that are named like parts and have no train part."""
    others = [
        child.name
        for child in _classes_in(root)
        if child not in folders.values() and any(f.suffix.lower() in _IMAGE_SUFFIXES for f in files_below(child))
    ]
    if others:
        parts = " and ".join(f"{folder.name}/" for folder in folders.values())
        raise DataError(
            f"{root} has {parts}, named as a part of the data, and images in {', '.join(others[:3])} beside it: put "
            "the classes below train/, or rename the class that is called like a part"
        )


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """The images of each class that has some; links that lead nowhere too, so that they are named as what they are."""
    return {
        child.name: files
        for child in _classes_in(folder)
        if (files := sorted(file for file in files_below(child) if file.suffix.lower() in _IMAGE_SUFFIXES))
    }


def _refuse_one_too_high(folder: Path, found: dict[str, list[Path]]) -> None:
    """Raises DataError where all images are of one class and lie in several folders of it: those are the classes."""
    (name, files), *others = found.items()
    below = {file.relative_to(folder / name).parts[0] for file in files}
    if not others and len(below) > 1 and not any((folder / name / part).is_file() for part in below):
        shown = ", ".join(sorted(below)[:3]) + (", …" if len(below) > 3 else "")
        raise DataError(f"{folder} holds one class, {name!r}, with the folders {shown}; give {folder / name}")


def _as_part(part: Any, spec: str) -> Any:
    arrays = isinstance(part, tuple | list) and len(part) == 2 and all(hasattr(x, "shape") for x in part)
    if arrays:
        images, labels = (x.numpy() if isinstance(x, Tensor) else x for x in part)
        return _as_split(images, labels, spec, spec)
    again = hasattr(part, "__iter__") and not hasattr(part, "__next__") and not isinstance(part, str | bytes | dict)
    if isinstance(part, Split | Stream) or again:
        return part
    raise DataError(
        f"{spec} gave {type(part).__name__} for a part; allowed: Split, (images, labels), or batches that can be gone "
        "through again and again, such as a list or a DataLoader"
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
        odd = ~np.isfinite(x)
        if odd.any():
            at = tuple(int(i) for i in np.argwhere(odd)[0])
            raise DataError(f"{where}[{at[0]}] holds {x[at]}; {int(odd.sum())} of its numbers are not finite")
        if x.size and (x.min() < 0 or x.max() > 1):
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
