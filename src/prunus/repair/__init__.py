"""What can be done for a cut network without training: each repair is optional, works in place, and follows the proof.

    prunus.prune(model, example, "macs=50%", data=loader, repair=("reconstruct", "statistics"))

A repaired network no longer computes what the masked one does, which is the point; the proof belongs to the cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import nn

from ..errors import InputError, UnknownName
from ..methods.batches import Feed, checked_data
from ..result import Pruned
from ..state import as_found
from .fold import Fold
from .layers import Work
from .reconstruct import Reconstruct
from .statistics import Statistics

Repair = Fold | Reconstruct | Statistics

REPAIRS: Mapping[str, tuple[Repair, str]] = MappingProxyType(
    {
        "fold": (Fold(), "the mean of what removed channels gave is added to what read them"),
        "reconstruct": (Reconstruct(), "least squares: each reader of removed channels gives again what it gave"),
        "statistics": (Statistics(), "batch norms measure means and variances of the smaller network"),
    }
)


def repairs_of(given: str | Repair | Iterable[str | Repair]) -> tuple[Repair, ...]:
    """Repairs by name or as configured objects, in the order given. Raises UnknownName, InputError."""
    if isinstance(given, str | Fold | Reconstruct | Statistics):
        given = (given,)
    found: list[Repair] = []
    for one in given if isinstance(given, Iterable) else (given,):
        if isinstance(one, str):
            if one not in REPAIRS:
                raise UnknownName.of("repair", one, REPAIRS)
            one = REPAIRS[one][0]
        if not isinstance(one, Fold | Reconstruct | Statistics):
            raise InputError(f"a repair is a name ({', '.join(REPAIRS)}) or one of their objects, not {one!r:.80}")
        found.append(one)
    return tuple(found)


def check_repairs(given: Iterable[Repair], data: Iterable[Any] | None) -> None:
    """Data is there for those that need it. Raises InputError, before any work."""
    if data is not None:
        checked_data(data)
    for repair in given:
        if repair.needs_data and data is None:
            raise InputError(f"repair {name(repair)!r} needs data=: an iterable of batches, such as a DataLoader")


def mended(
    dense: nn.Module, pruned: Pruned, repairs: Sequence[Repair], data: Iterable[Any] | None, example: Any, seed: int
) -> Pruned:
    """Repair `pruned.model` in place, one repair after the other. What each could not do is added to the notes."""
    if not repairs:
        return pruned
    notes = [f"repaired after the proof: {', '.join(map(name, repairs))}"]
    for repair in repairs:
        batches = None if data is None else Feed(data, dense)
        with as_found(dense):
            notes += repair.mend(Work(dense, pruned.model, pruned.plan, pruned.coupling, batches, example, seed))
    return replace(pruned, notes=(*pruned.notes, *notes))


def name(repair: Repair) -> str:
    """The name of a repair, whatever its settings."""
    return type(repair).__name__.lower()


__all__ = ["REPAIRS", "Fold", "Reconstruct", "Repair", "Statistics", "check_repairs", "mended", "repairs_of"]
