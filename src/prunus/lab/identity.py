"""What a stage depends on, as plain data: the network, the data, the arithmetic. The keys of stages are made of it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from prunus.engine.runtime import Runtime
from prunus.errors import InputError
from prunus.lab.recipe import Model, Source
from prunus.lab.stages import differing, digest, digest_of_file
from prunus.userfile import imported, is_file_name

__all__ = ["arithmetic", "by_content", "of_data", "of_model"]

SMALL = 4 << 30
"""Bytes up to which the files of a data set are read whole for its identity."""


def of_model(model: Model) -> dict[str, Any]:
    """The network and the weights that it starts from, by content and not by place."""
    return {
        "name": by_content(model.name),
        "classes": model.classes,
        "stem": model.stem,
        "weights": None if model.weights is None else _weights(Path(model.weights)),
    }


def of_data(source: Source) -> dict[str, Any]:
    """The data by content, and how it is prepared and divided. Workers change nothing and do not count."""
    prepared = {name: value for name, value in differing(source).items() if name not in ("path", "workers")}
    return {"content": _content(source.path), **prepared}


def arithmetic(runtime: Runtime) -> dict[str, Any]:
    """What of the runtime changes results by more than the machine does."""
    return {name: getattr(runtime, name) for name in ("precision", "channels_last", "compile", "sync_bn")}


def _content(name: str) -> str:
    """A digest of what a data set's files hold; above SMALL bytes, of their names and sizes."""
    from prunus.engine.data import BUNDLED, known_folder
    from prunus.engine.listing import files_below

    if name == BUNDLED:
        with resources.as_file(resources.files("prunus").joinpath("assets", "digits.npz")) as path:
            return digest_of_file(path)
    if is_file_name(name):
        return by_content(name)
    path = Path(name).expanduser()
    place = path if path.exists() else known_folder(name)
    if place is None:
        return f"hub:{name}"
    if place.is_file():
        return digest_of_file(place)
    files = sorted(path for path in files_below(place) if path.is_file())
    sizes = {path.relative_to(place).as_posix(): path.stat().st_size for path in files}
    if sum(sizes.values()) > SMALL:
        return digest(sizes)
    return digest({path.relative_to(place).as_posix(): digest_of_file(path) for path in files})


def _weights(path: Path) -> str:
    """The digest of a checkpoint."""
    if not path.is_file():
        raise InputError(f"model.weights: there is no file {str(path)!r}")
    return digest_of_file(path)


def by_content(name: str) -> str:
    """`path/file.py:factory` by what the file holds, with the files beside it that it imports; another name is
    itself."""
    if not is_file_name(name):
        return name
    file, _, factory = name.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        return name
    own = {file.relative_to(path.parent).as_posix(): digest_of_file(file) for file in imported(path)}
    return f"{digest(own) if len(own) > 1 else digest_of_file(path)}:{factory}"
