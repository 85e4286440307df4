"""What networks of other widths were worth, by structure, in memory or in a JSON file that outlives the search."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..errors import InputError, StorageError
from .score import Floats, tensors_of

__all__ = ["Measured"]

FORMAT = "prunus-measured-1"


@dataclass(eq=False)
class Measured:
    """Values by widths, "6,12,8" -> 93.1. path: "" for memory alone; written whole after every new value."""

    path: str
    model: str
    values: dict[str, float]

    @classmethod
    def of(cls, path: str, model: nn.Module, ranks: Sequence[Floats]) -> Measured:
        """What the file has, if there is one. Raises InputError for a file that is none, or of another network or
        ranking."""
        if not path:
            return cls("", "", {})
        name = digest(model, ranks)
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls(path, name, {})
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the cache {path!r} cannot be read: {error}") from error
        try:
            data = json.loads(text)
            values = {str(key): float(value) for key, value in data["values"].items()}
            found, kind = data["model"], data["format"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path!r} is no cache of measured structures") from None
        if kind != FORMAT or found != name:
            raise InputError(f"the cache {path!r} is of other weights or another ranking of channels; use another file")
        return cls(path, name, values)

    def get(self, widths: Sequence[int], value: Callable[[], float]) -> float:
        """The known value, or what `value()` says now. Raises InputError where that is no finite number."""
        key = ",".join(map(str, widths))
        if key not in self.values:
            new = value()
            if not math.isfinite(new):
                raise InputError(f"evaluate gave {new} for the widths {key}, which is no finite number")
            self.values[key] = new
            self._write()
        return self.values[key]

    def _write(self) -> None:
        if not self.path:
            return
        path = Path(self.path)
        part = path.with_name(f".{path.name}.part")
        try:
            content = {"format": FORMAT, "model": self.model, "values": self.values}
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            part.replace(path)
        except OSError as error:
            raise StorageError(f"cannot write the cache {self.path!r}: {error.strerror or error}") from error


def digest(model: nn.Module, ranks: Sequence[Floats]) -> str:
    """A short name of a network with its weights, and of a ranking of its channels."""
    found = hashlib.sha256()
    for name, tensor in tensors_of(model).items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(tensor.detach().double().cpu().contiguous().numpy().tobytes())
    for score in ranks:
        found.update(score.tobytes())
    return found.hexdigest()[:16]
