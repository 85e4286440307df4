"""A recipe with several seeds: which they are, what they make together, and what happens when one fails."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunus.errors import InputError, PrunusError, StorageError
from prunus.lab.environment import without_places_in
from prunus.lab.figures import figures, spreads
from prunus.lab.recipe import Recipe

__all__ = ["SUMMARY", "Failed", "all_failed", "goes_on", "repeated", "summarised", "write_summary"]

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Failed:
    """A seed that ended in an error: at which stage, and one line that says why."""

    seed: int
    stage: str
    why: str

    def __str__(self) -> str:
        return f"seed {self.seed} failed at {self.stage}: {self.why}"


def repeated(recipe: Recipe, repeat: int | None) -> tuple[int, ...]:
    """The recipe's seeds; with `repeat` so many of them, and beyond those that it has the next whole numbers."""
    given = recipe.all_seeds
    if repeat is None:
        return given
    if isinstance(repeat, bool) or not isinstance(repeat, int) or repeat < 1:
        raise InputError(f"repeat={repeat!r} must be a whole number of at least 1")
    above = max(given) + 1
    return (*given, *range(above, above + max(0, repeat - len(given))))[:repeat]


def goes_on(error: Exception, finished: int, failed: int) -> bool:
    """Whether other seeds may fare better than one that ended in `error`: not where the first one finds that the recipe
    cannot work, nor where nothing can be written."""
    if isinstance(error, StorageError):
        return False
    return not isinstance(error, InputError) or finished + failed > 0


def all_failed(failed: Sequence[Failed]) -> PrunusError:
    """What to raise where no seed is left."""
    return PrunusError(f"all {len(failed)} seeds failed: " + "; ".join(map(str, failed)))


def summarised(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """n, best, mean, sd, low and high of every figure over the seeds (see `figures`, `Spread`)."""
    return {name: spread.as_dict() for name, spread in spreads([figures(one) for one in results]).items()}


def write_summary(folder: Path, content: Mapping[str, Any]) -> None:
    """Write summary.json, without places, into the folder of all seeds, which is made if it is not there."""
    runs = [{**one, "folder": Path(one["folder"]).name} for one in content["runs"]]
    failed = [{**one, "why": without_places_in(one["why"])} for one in content["failed"]]
    told = {**content, "folder": folder.name, "runs": runs, "failed": failed}
    part = folder / f".{SUMMARY}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        part.replace(folder / SUMMARY)
    except OSError as error:
        raise StorageError(f"cannot write {str(folder / SUMMARY)!r}: {error.strerror or error}") from error
