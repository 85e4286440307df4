"""The exceptions of Prunus.

PrunusError
├── InputError (also ValueError)      what was passed is wrong; the CLI exits with 2
│   ├── UnknownName                   no model, method, data set, module or group of that name
│   ├── TargetError                   a target, rate list or width that does not parse or cannot be met
│   ├── ExampleError                  the example does not fit the model, or the model refuses it
│   ├── CheckpointError               a file of weights that cannot be used
│   ├── DataError                     a data set that cannot be read
│   ├── PlanError                     a plan that does not belong to the model
│   ├── ModelError                    a model that cannot be traced or has nothing to prune
│   └── MissingExtra                  an optional dependency is not installed
├── StorageError                      a file that could not be written: full disk, read-only folder; exit 1
├── ExportError                       a network that cannot be exported, or whose file computes something else; exit 1
├── ProcessError                      processes that should train together and cannot; exit 1
└── ProofError                        the cut network does not compute what the masked one computes; exit 1
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "DataError",
    "ExampleError",
    "ExportError",
    "InputError",
    "MissingExtra",
    "ModelError",
    "PlanError",
    "ProcessError",
    "ProofError",
    "PrunusError",
    "StorageError",
    "TargetError",
    "UnknownName",
    "nearest",
]


LONGEST = 200  # characters that a message repeats of a name


class PrunusError(Exception):
    """Whatever Prunus raises on purpose."""


class InputError(PrunusError, ValueError):
    """The input was wrong. One line: what was passed, what is allowed."""


class UnknownName(InputError):
    """A name that means nothing here. `UnknownName.of("model", "resnet65", names)` adds the nearest valid one."""

    @classmethod
    def of(cls, what: str, name: object, allowed: Iterable[str]) -> UnknownName:
        names, told = sorted(set(allowed)), repr(name)
        close = nearest(name, names) if isinstance(name, str) and len(name) <= LONGEST else None
        told = told if len(told) <= LONGEST else f"{told[:LONGEST]}…"
        hint = f"; did you mean {close!r}?" if close else ""
        shown = ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
        return cls(f"unknown {what} {told}{hint} (allowed: {shown})")


class TargetError(InputError):
    """A target, a rate list or a width that does not parse or cannot be met."""


class ExampleError(InputError):
    """The example input does not fit the model."""


class CheckpointError(InputError):
    """A file of weights that is damaged, unsafe, or of another architecture."""


class DataError(InputError):
    """A data set that cannot be found or read."""


class PlanError(InputError):
    """A plan that does not parse or does not belong to the model."""


class ModelError(InputError):
    """A model that cannot be traced, or that has nothing to prune."""


class MissingExtra(InputError):
    """An optional dependency is missing. `MissingExtra.of("timm", "timm")` gives the exact command."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtra:
        return cls(f'{package} is not installed; run: pip install "prunus[{extra}]"')


class StorageError(PrunusError):
    """A file could not be written: the disk is full, or the folder is read-only. What was there is untouched."""


class ExportError(PrunusError):
    """A network could not be exported, or the file computes something else. One line: format, stage, difference."""


class ProcessError(PrunusError):
    """Processes that were to train together did not meet, or one of them ended."""


class ProofError(PrunusError):
    """The cut network differs from the masked one by more than the tolerance. The model was left untouched."""


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name closest to `name`, or None if nothing is close. Upper and lower case count as alike, but between
    names that differ in nothing else."""
    names = list(allowed)
    close = difflib.get_close_matches(name.lower(), [known.lower() for known in names], n=1, cutoff=0.5)
    alike = [known for known in names if known.lower() in close]
    return max(alike, key=lambda known: difflib.SequenceMatcher(None, name, known).ratio(), default=None)
