"""What a sweep has done so far: told as it happens, kept in sweep.json, and what it comes to."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from prunus.errors import StorageError
from prunus.lab.environment import without_places, without_places_in
from prunus.lab.errand import Ended, Errand
from prunus.lab.grid import Point
from prunus.lab.journal import Journal
from prunus.lab.recipe import Recipe, plain
from prunus.lab.repeat import Failed, summarised, write_summary
from prunus.lab.run import Chain, Finished, of_one_seed
from prunus.lab.runs import read

__all__ = ["BOOK", "Book", "Swept", "Tried"]

BOOK = "sweep.json"


@dataclass(frozen=True)
class Tried:
    """One point and its runs. values: of what is varied. stopped: why a search gave it up. objectives: of a trial, by
    name, on the validation part."""

    name: str
    values: Mapping[str, Any]
    finished: Finished
    stopped: str = ""
    objectives: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = self.finished
        return {
            "name": self.name,
            "values": without_places(dict(self.values)),
            "folder": found.folder.name,
            "done": [one.seed for one in found.chains],
            "failed": [{**vars(one), "why": without_places_in(one.why)} for one in found.failed],
            **({"stopped": self.stopped} if self.stopped else {}),
            **({"objectives": dict(self.objectives)} if self.objectives else {}),
            "summary": found.summary,
        }


@dataclass(frozen=True)
class Swept:
    """A sweep that was carried out. front: of a search, the names of the trials that no other beats, best first where
    there is one objective."""

    recipe: Recipe
    folder: Path
    seeds: tuple[int, ...]
    points: tuple[Tried, ...]
    front: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[tuple[str, Failed], ...]:
        """The points' names, and the seeds that failed there."""
        return tuple((point.name, one) for point in self.points for one in point.finished.failed)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "recipe": self.recipe.name,
            "folder": str(self.folder),
            "seeds": list(self.seeds),
            "points": [point.as_dict() for point in self.points],
            "front": list(self.front),
        }


class Book:
    """Of one sweep; the seats write into it in turns."""

    def __init__(
        self, base: Recipe, root: Path, home: Path, seeds: Sequence[int], threads: int, tell: Callable[[str], None]
    ) -> None:
        self.base, self.root, self.home, self.seeds, self.threads = base, root, home, tuple(seeds), threads
        self.tell, self.lock, self.begun = tell, Lock(), time.monotonic()
        self.known: dict[str, Point] = {}
        self.runs: dict[tuple[str, int], Ended] = {}
        self.objectives: dict[str, Mapping[str, float]] = {}
        self.question: dict[str, Any] = {}
        self.id = self._id()

    def asked(self, drawn: Sequence[Point], **question: Any) -> None:
        """Announce points: each gets its run folders, pending. question: what sweep.json says was asked."""
        with self.lock:
            self.question |= without_places(question)
            for point in drawn:
                self.known[point.name] = point
                for seed in self.seeds:
                    settings = without_places(of_one_seed(plain(point.recipe), seed))
                    Journal(self.folder(point, seed)).announce(settings)
            self._write()

    def folder(self, point: Point, seed: int) -> Path:
        """Of one run."""
        return self.home / point.name / f"seed-{seed}"

    def errand(self, point: Point, seed: int, judge: Mapping[str, Any] | None = None) -> Errand:
        """One run."""
        settings = of_one_seed(plain(point.recipe), seed)
        return Errand(settings, str(self.root), str(self.folder(point, seed)), os.getcwd(), self.threads, judge)

    def ended(self, point: Point, seed: int, ended: Ended) -> None:
        """A run ended."""
        with self.lock:
            self.runs[point.name, seed] = ended
            self._tell(f"{point.name}, seed {seed}: {ended.status}" + (f", {ended.why}" if ended.why else ""))
            if all((point.name, one) in self.runs for one in self.seeds):
                found = self._finished(point)
                write_summary(found.folder, found.as_dict())
            self._write()

    def reached(self, point: Point, objectives: Mapping[str, float]) -> None:
        """What a trial came to."""
        with self.lock:
            self.objectives[point.name] = objectives
            self._write()

    def closed(self, front: Sequence[str]) -> Swept:
        """All is done."""
        with self.lock:
            self.question["front"] = list(front)
            self._write()
            return Swept(self.base, self.home, self.seeds, tuple(map(self._tried, self.known.values())), tuple(front))

    def _tried(self, point: Point) -> Tried:
        ends = [self.runs[point.name, seed] for seed in self.seeds if (point.name, seed) in self.runs]
        stopped = next((one.why for one in ends if one.status == "stopped"), "")
        found = self._finished(point)
        return Tried(point.name, point.values, found, stopped, self.objectives.get(point.name, {}))

    def _finished(self, point: Point) -> Finished:
        """The runs of a point as `prunus run --repeat` has them."""
        chains, failed = [], []
        for seed in self.seeds:
            ended, place = self.runs.get((point.name, seed)), self.folder(point, seed)
            if ended is None:
                continue
            run = read(place) if ended.status == "done" else None
            if run is not None and run.status == "done":
                chains.append(Chain(seed, place, (), run.results))
            elif ended.status == "failed":
                failed.append(Failed(seed, ended.stage, ended.why))
        summary = summarised([one.results for one in chains])
        return Finished(point.recipe, self.home / point.name, tuple(chains), summary, self.seeds, tuple(failed))

    def _tell(self, line: str) -> None:
        points = max(len(self.known), self.question.get("search", 0))
        counted = f"{len(self.runs)} of {points * len(self.seeds)}"
        self.tell(f"{line}  ({counted}, {time.monotonic() - self.begun:.0f} s)")

    def _id(self) -> str:
        """Of this folder, as long as it is there: by it a search knows its own trials in a storage of many."""
        try:
            found = json.loads((self.home / BOOK).read_text(encoding="utf-8"))["id"]
        except (OSError, ValueError, KeyError, TypeError):
            found = None
        return found if isinstance(found, str) else secrets.token_hex(8)

    def _write(self) -> None:
        content = {
            "format": "prunus-sweep-1",
            "id": self.id,
            "recipe": self.base.name,
            "seeds": list(self.seeds),
            "asked": self.question,
            "points": [self._told(point) for point in self.known.values()],
        }
        part = self.home / f".{BOOK}.part"
        try:
            part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            part.replace(self.home / BOOK)
        except OSError as error:
            raise StorageError(f"cannot write {str(self.home / BOOK)!r}: {error.strerror or error}") from error

    def _told(self, point: Point) -> dict[str, Any]:
        """A point in sweep.json. The figures are in the run folders."""
        ends = {seed: self.runs.get((point.name, seed)) for seed in self.seeds}
        runs = {str(seed): "pending" if end is None else end.status for seed, end in ends.items()}
        told = {"name": point.name, "values": without_places(dict(point.values)), "runs": runs}
        return told | ({"objectives": self.objectives[point.name]} if point.name in self.objectives else {})
