"""The sections of the five published systems: which recipe with which changes, and what was published for it."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunus.errors import UnknownName
from prunus.lab.recipe import Recipe, load

HERE = Path(__file__).resolve().parent
RECIPES = HERE.parent / "recipes"
FIGURES = HERE / "published_figures.json"


@dataclass(frozen=True)
class Section:
    """One row of a published table: a recipe with changes, and what was published for it.

    published: dense, top1, best, sd, n (top-1 in percent), macs, params, and the convention that counts them. differs:
    what is otherwise than published even at full length.
    """

    id: str
    recipe: str
    row: str
    published: Mapping[str, Any]
    set: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()

    def load(self, overrides: Sequence[str] = (), *, smoke: bool = False) -> Recipe:
        """The recipe of this section; it has the section's name."""
        return load(RECIPES / self.recipe, [f"name={self.id}", *self.set, *overrides], smoke=smoke)


@dataclass(frozen=True)
class System:
    """A published system: its sections, and what all of them have in common."""

    title: str
    source: str
    differs: tuple[str, ...]
    sections: tuple[Section, ...]


def systems(file: Path = FIGURES) -> tuple[System, ...]:
    """The published systems, in order."""
    found = json.loads(file.read_text("utf-8"))["systems"]
    return tuple(
        System(one["title"], one["source"], tuple(one["differs"]), tuple(map(_section, one["sections"])))
        for one in found
    )


def _section(one: Mapping[str, Any]) -> Section:
    changes, differs = tuple(one.get("set", ())), tuple(one.get("differs", ()))
    return Section(one["id"], one["recipe"], one["row"], one["published"], changes, differs)


def chosen(names: Sequence[str]) -> list[Section]:
    """The sections that the names or patterns mean; all without any. Raises UnknownName for one that means none."""
    every = [section for system in systems() for section in system.sections]
    for name in names:
        if not any(fnmatch.fnmatchcase(section.id, name) for section in every):
            raise UnknownName.of("section", name, [section.id for section in every])
    return [s for s in every if not names or any(fnmatch.fnmatchcase(s.id, name) for name in names)]


def shortened(recipe: Recipe, epochs: int) -> Iterator[str]:
    """Overrides after which no training is longer than so many epochs; its steps, its warm-up and the epoch that gates
    are frozen at shrink with it."""
    for name, section in recipe.trainings.items():
        if section.epochs > epochs:
            share = epochs / section.epochs
            yield f"{name}.epochs={epochs}"
            if section.steps:
                yield f"{name}.steps={[round(step * share, 3) for step in section.steps]}"
            if section.warmup:
                yield f"{name}.warmup={round(section.warmup * share, 3)}"
            if freeze := getattr(section, "options", {}).get("freeze"):
                yield f"{name}.options.freeze={max(1, round(freeze * share))}"
