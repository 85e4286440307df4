"""Weights from a file into a model, without running anything the file says."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from prunus.errors import CheckpointError
from prunus.models.shortcut import Shortcut

__all__ = ["load_weights"]

NESTS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts put the weights."""
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes left by DataParallel (and DDP) and by torch.compile."""


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy the weights of a .pth, .th, .pt or .safetensors file into the model, on whatever device it is.

    Every tensor must fit. Only `num_batches_tracked` of batch norms and the maps of option-A shortcuts may be absent;
    they stay as they are. The model is not touched unless all of the file fits.

    Raises CheckpointError: no such file, damaged, a pickle that would run code, another architecture, NaN or infinite
    weights.
    """
    path = Path(path)
    state = _unnested(_read(path), path)
    expected = model.state_dict()
    weights, metadata = _unwrapped(state, expected)
    weights = _renamed(weights, expected, getattr(model, "published_key", None))

    absent_ok = {f"{name}.index" for name, module in model.named_modules() if isinstance(module, Shortcut)}
    absent_ok |= {key for key in expected if key.rpartition(".")[2] == "num_batches_tracked"}
    _check_fit(weights, expected, absent_ok, f"{path} does not fit {type(model).__name__}")
    _check_finite(weights, path)

    full = OrderedDict((key, weights.get(key, own)) for key, own in expected.items())
    full._metadata = metadata or getattr(expected, "_metadata", {})  # type: ignore[attr-defined]
    try:
        model.load_state_dict(full)
    except (RuntimeError, ValueError) as error:  # a module's own loading hook refuses
        raise CheckpointError(f"{path} cannot be loaded: {' '.join(str(error).split())}") from error


def _read(path: Path) -> object:
    if not path.exists():
        raise CheckpointError(f"there is no file {path}")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol; what cannot be read is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"{path} may not be read") from error
    except Exception as error:  # readers raise nearly anything on damaged bytes
        raise CheckpointError(_unreadable(path, str(error))) from error


def _unreadable(path: Path, reason: str) -> str:
    """One line for what kept a file from being read."""
    only = "only tensors are read, so save model.state_dict() with torch.save"
    if named := re.search(r"GLOBAL ([\w.]+)", reason):
        return f"{path} was refused: it is a pickle that would run code ({named[1]}); {only}"
    with path.open("rb") as file:
        is_pickle = file.read(4).startswith((b"\x80", b"PK\x03\x04"))
    if is_pickle and "Unsupported" in reason:
        return f"{path} was refused: it is a pickle that could run code; {only}"
    return f"{path} ({path.stat().st_size} bytes) is damaged, cut short, or no checkpoint"


def _unnested(content: object, path: Path) -> Mapping[str, object]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in NESTS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        keys = f" with the keys {', '.join(map(str, list(content)[:6]))}" if isinstance(content, Mapping) else ""
        raise CheckpointError(
            f"{path} holds no weights but a {type(content).__name__}{keys}; weights may lie under {', '.join(NESTS)}"
        )
    return content


def _unwrapped(
    state: Mapping[str, object], expected: Mapping[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """The weights and the versions of the modules that wrote them, without the prefixes of wrappers around them."""
    weights = {str(key): value for key, value in state.items()}
    metadata: dict[str, object] = dict(getattr(state, "_metadata", {}))
    while prefix := next((p for p in WRAPPERS if all(key.startswith(p) for key in weights)), None):
        if all(key.startswith(prefix) for key in expected):
            break
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
        metadata = {f"{key}.".removeprefix(prefix).removesuffix("."): value for key, value in metadata.items() if key}
    return weights, metadata


def _renamed(
    weights: dict[str, object], expected: Mapping[str, object], published_key: Callable[[str], str] | None
) -> dict[str, object]:
    """With the names that a bundled net has for those of another published line."""
    if published_key is None:
        return weights
    known = {key: published_key(key) for key in weights if key not in expected}
    return {known[key] if known.get(key) in expected else key: value for key, value in weights.items()}


def _check_fit(weights: Mapping[str, object], expected: Mapping[str, object], absent_ok: set[str], what: str) -> None:
    missing = [key for key in expected if key not in weights and key not in absent_ok]
    unexpected = [key for key in weights if key not in expected]
    reshaped = []
    for key, own in expected.items():
        given = weights.get(key, own)
        if isinstance(own, Tensor) and not (isinstance(given, Tensor) and given.shape == own.shape):
            reshaped.append(f"{key}: {_shape(given)} in the file, {_shape(own)} in the model")
    faults = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    if any(keys for _, keys in faults):
        counts = "; ".join(f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in faults if keys)
        raise CheckpointError(f"{what}: {counts}")


def _shape(value: object) -> str:
    return "x".join(map(str, value.shape)) or "scalar" if isinstance(value, Tensor) else type(value).__name__


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:2]) + (", …" if len(keys) > 2 else "")


def _check_finite(weights: Mapping[str, object], path: Path) -> None:
    for key, value in weights.items():
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
            bad = value.numel() - int(torch.isfinite(value).sum())
            if bad:
                raise CheckpointError(f"{path}: {key} has {bad} NaN or infinite values of {value.numel()}")
