"""The folder of one run: what a reader needs to rebuild the network.

model.safetensors   current weights; in its header the plan and the description, so that it can leave the folder
plan.json           the cut from the named network at full size; absent where nothing was cut
run.json            the description below, and the results
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from prunus.errors import CheckpointError, InputError, ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunus.engine.data import Data
    from prunus.plan import Plan

__all__ = [
    "Description",
    "adopt",
    "build",
    "check_classes",
    "classes_for",
    "plan_in",
    "read",
    "ready",
    "rebuild",
    "stem_for",
    "write",
]

_FORMAT = "prunus-run-1"
_RUN, _PLAN, _WEIGHTS = "run.json", "plan.json", "model.safetensors"


@dataclass(frozen=True)
class Description:
    """Which network this is and how its input is prepared. Saved with the weights, never guessed from a file name."""

    model: str
    classes: int | None = None
    input: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | tuple[int, int] | None = None
    stem: int | None = None
    """Input channels, where the first convolution was replaced to take another number than the named model's."""
    class_names: tuple[str, ...] | None = None
    """In the order of the network's outputs, where the data that it was trained on names them."""


def ready(path: str) -> Path:
    """The folder at `path`, made if it is not there. Called before long work, so that it is not lost at the end."""
    folder = Path(path)
    if not path.strip():
        raise InputError("the name of the folder to write to is empty; give one, or . for this folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to the folder {path!r}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write to the folder {path!r}: permission denied")
    return folder


def write(
    folder: Path, model: nn.Module, plan: Plan | None, description: Description, results: Mapping[str, object]
) -> None:
    """Write the run into `folder`, which is there."""
    from prunus.files.network import write_network

    (folder / _PLAN).unlink(missing_ok=True)
    if plan is not None:
        plan.save(folder / _PLAN)
    write_network(folder / _WEIGHTS, model, plan, description=asdict(description))
    _describe(folder, description, results)


def adopt(folder: Path, source: Path, results: Mapping[str, object]) -> None:
    """Write into `folder` the network of the run in `source`, with other results."""
    description, _, weights = read(source)
    shutil.copyfile(weights, folder / _WEIGHTS)
    (folder / _PLAN).unlink(missing_ok=True)
    if (source / _PLAN).exists():
        shutil.copyfile(source / _PLAN, folder / _PLAN)
    _describe(folder, description, results)


def read(path: Path) -> tuple[Description, Plan | None, Path]:
    """The description, the plan and the file of weights of the run at `path`: its folder, or its model.safetensors,
    wherever that lies."""
    from prunus.plan import Plan

    folder = path.parent if path.name == _WEIGHTS else path
    file = folder / _RUN
    if not file.is_file() and path.is_file():
        return _alone(path)
    if not file.is_file():
        what = "has no run.json" if folder.is_dir() else "does not exist"
        raise CheckpointError(f"{str(path)!r} {what}; give a folder that --out wrote, or MODEL and --weights")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise CheckpointError(f"{str(file)!r} is of format {content['format']!r}; this version reads {_FORMAT!r}")
        description = _description(content["description"])
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{str(file)!r} is damaged: {error}") from error
    plan = folder / _PLAN
    return description, Plan.load(plan) if plan.exists() else None, folder / _WEIGHTS


def plan_in(path: Path) -> Plan | None:
    """The plan that a file of weights bears; None for the weights of a network that was not cut, and for other files.

    Raises PlanError for what should be a plan and is none.
    """
    from prunus.files.file import content_of
    from prunus.files.network import plan_of

    return plan_of(content_of(path) or {})


def _alone(path: Path) -> tuple[Description, Plan | None, Path]:
    """What a file says without its folder. It may name a network that Prunus knows, and no code that would be run."""
    from prunus.files.file import read
    from prunus.files.network import plan_of
    from prunus.models.userfile import is_file_name

    saved = read(path)
    content, longest = saved.content, max((n for t in saved.tensors.values() for n in t.shape), default=1)
    if "description" not in content:
        raise CheckpointError(
            f"{str(path)!r} says how its network was cut, not which network it was; give MODEL and --weights {path}"
        )
    try:
        description = _description(content["description"])
        sizes = (description.classes or 1, description.stem or 1)
        if (
            not isinstance(description.model, str)
            or max(sizes) > longest
            or math.prod(description.input or ()) > 1 << 28
        ):
            raise ValueError("it does not describe this network")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged: {error}") from error
    if is_file_name(description.model):
        raise CheckpointError(
            f"{str(path)!r} is of {description.model!r}, code that a file may not have run; give it as MODEL, and "
            f"--weights {path}"
        )
    return description, plan_of(content), path


def classes_for(model: str, data: Data) -> int | None:
    """The data's number of classes; None where it has none, and for a factory of the user's that cannot be told."""
    from prunus.models.userfile import is_file_name, takes_classes

    if is_file_name(model) and not takes_classes(model):
        return None
    return data.classes or None


def check_classes(description: Description, data: Data) -> None:
    """Raises InputError where the data gives a class another number than the network knows it by."""
    known, given = description.class_names or (), data.class_names
    for number, name in enumerate(given):
        if known.count(name) == given.count(name) == 1 and known.index(name) != number:
            raise InputError(
                f"{data.name} has {name!r} as class {number}, and the run of --from knows it as {known.index(name)}; "
                "give data with the same classes, or MODEL and --weights to begin with others"
            )


def build(description: Description) -> nn.Module:
    """The named network at full size, with random weights."""
    from prunus.models import resolve

    model = resolve(description.model, description.classes)
    if description.stem is not None:
        _replace_stem(model, description.stem)
    return model


def rebuild(description: Description, plan: Plan | None, weights: Path | None) -> nn.Module:
    """The named network, cut as `plan` says, with the weights of the file; each where it is given."""
    from prunus.api import apply
    from prunus.files.file import content_of
    from prunus.files.file import read as checked
    from prunus.models import load_weights

    model = build(description)
    if plan is not None:
        model = apply(model, plan)
    if weights is not None:
        if content_of(weights) is not None:
            checked(weights)
        load_weights(model, weights)
    return model


def stem_for(model: str, example: Tensor) -> int | None:
    """What `Description.stem` is for images like `example` (N, C, …) where C is not three.

    None for colour, for inputs that are no images, and for a user's own factory, which knows what it takes.
    """
    if ".py:" in model or example.ndim != 4 or example.shape[1] == 3:
        return None
    return example.shape[1]


def _replace_stem(model: nn.Module, channels: int) -> None:
    """Give the model's first convolution `channels` inputs (grey images for a net that was written for colour)."""
    from torch import nn

    for name, old in model.named_modules():
        if isinstance(old, nn.Conv2d):
            if old.in_channels == channels:
                return
            kernel, stride, padding = (cast("tuple[int, int]", x) for x in (old.kernel_size, old.stride, old.padding))
            bias = old.bias is not None
            model.set_submodule(name, nn.Conv2d(channels, old.out_channels, kernel, stride, padding, bias=bias))
            return
    raise ModelError("this model has no convolution to give another number of input channels")


def _describe(folder: Path, description: Description, results: Mapping[str, object]) -> None:
    content = {"format": _FORMAT, "description": asdict(description), "results": results}
    (folder / _RUN).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _description(content: Mapping[str, object]) -> Description:
    known = {name: content[name] for name in Description.__dataclass_fields__ if name in content}
    lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return Description(**{**known, **lists})  # type: ignore[arg-type]
