"""Many runs of one recipe: a grid of settings, or a search for good ones.

OUT/NAME/                 sweep.json: what was asked and what became of it; study.db of a search
OUT/NAME/POINT/seed-N/    an ordinary run folder for each point and seed
OUT/stages/               stages, which points with the same settings share
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from prunus.errors import InputError, UnknownName
from prunus.lab import folder
from prunus.lab.book import Book, Swept
from prunus.lab.crew import Carry, Crew, Here, cores, jobs_here, take_turns
from prunus.lab.environment import without_places
from prunus.lab.grid import Point, axes, points
from prunus.lab.recipe import Recipe, load, plain
from prunus.lab.repeat import repeated
from prunus.lab.run import of_one_seed
from prunus.lab.runs import read
from prunus.lab.stages import Place, claimed, digest

__all__ = ["PLACES", "sweep"]

PLACES = ("here", "ray")

Texts = Iterable[str]


def sweep(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    *,
    grid: Mapping[str, Sequence[Any]] | Texts = (),
    search: int | None = None,
    ranges: Mapping[str, str | Sequence[Any]] | Texts = (),
    choices: Mapping[str, Sequence[Any]] | Texts = (),
    objectives: Sequence[str] = ("accuracy", "macs"),
    repeat: int | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    on: Literal["here", "ray"] = "here",
    storage: str | None = None,
    study: str | None = None,
    smoke: bool = False,
    out: str | Path = "runs",
    say: Callable[[str], None] | None = None,
) -> Swept:
    """Carry out a recipe at each point of a grid, or at so many points that a search draws, below `out`/NAME.

    grid: {"train.lr": [0.1, 0.05]}, or texts as `--grid` takes them; the points are the cross product. search: so many
    trials in all, drawn by Optuna's TPE from ranges {"train.lr": "0.01..1:log"} and choices {"prune.method": ["l1",
    "fpgm"]}. objectives: accuracy (of the last network on the validation part; the test part chooses nothing), macs,
    params; with accuracy alone, trials below the median of the others are given up. repeat: so many seeds for each
    point. jobs: runs at once; threads: of each. on: "ray" for the machines of a cluster. storage: of the study, by
    default study.db beside the runs. study: its name, by default the recipe's.

    A run that fails is told of, and the rest go on. Run again, it does what is unfinished; a point whose folder has a
    finished run of other settings gets a folder of its own. Raises InputError for a
    point that cannot work, MissingExtra, StorageError; ProcessError where no cluster answers.
    """
    base = load(recipe, overrides, smoke=smoke)
    if on not in PLACES:
        raise UnknownName.of("place", on, PLACES)
    for name, number in (("search", search), ("jobs", jobs), ("threads", threads)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise InputError(f"{name}={number!r} must be a whole number of at least 1")
    found = axes(grid)
    given = bool(found), search is not None
    if given in ((True, True), (False, False)):
        raise InputError("give either a grid, as --grid train.lr=0.1,0.05, or a search, as --search 20 --range …")
    if search is None and (tuple(ranges) or tuple(choices) or storage or study):
        raise InputError("ranges, choices, storage and study belong to a search: --search N")
    seeds = repeated(base, repeat)
    base = replace(base, seeds=(), seed=seeds[0])
    root = folder.ready(str(out)).resolve()
    home = root / base.name
    tell = say or (lambda line: print(line, file=sys.stderr))
    if search is None:
        drawn = apart(points(base, found), home)
        most: int = len(drawn) * len(seeds)
    else:
        from prunus.lab.search import Search

        looked = Search.of(base, ranges, choices, objectives, search, storage, study or base.name)
        most = search
    with claimed(Place("sweep", "", home)):
        threads = threads or _threads(on, min(jobs or jobs_here(base.runtime.device), most))
        book = Book(base, root, home, seeds, threads, tell)
        if search is None:
            book.asked(drawn, grid={axis.name: list(axis.values) for axis in found})
            turn = _grid(book, drawn)
        else:
            turn = looked.turns(book)
        take_turns(_crew(on, jobs, threads, most, base, home), turn)
        return book.closed(() if search is None else looked.front())


def _grid(book: Book, drawn: Sequence[Point]) -> Callable[[Carry], bool]:
    """A turn: the next run."""
    waiting, lock = deque(arranged([(point, seed) for point in drawn for seed in book.seeds])), Lock()

    def turn(carry: Carry) -> bool:
        with lock:
            if not waiting:
                return False
            point, seed = waiting.popleft()
        book.ended(point, seed, carry(book.errand(point, seed)))
        return True

    return turn


def apart(drawn: Sequence[Point], home: Path) -> tuple[Point, ...]:
    """The points. One whose folder holds a finished run of other settings, as of another sweep whose setting has the
    same last name, gets a digest behind its name: nothing that is done is written over."""
    return tuple(
        replace(point, name=f"{point.name}-{digest(comparable(point.recipe))[:8]}")
        if taken(home / point.name, point)
        else point
        for point in drawn
    )


def taken(place: Path, point: Point) -> bool:
    """Whether a seed of the folder was finished with other settings."""
    mine = comparable(point.recipe)
    runs = (read(one) for one in sorted(place.glob("seed-*")) if one.is_dir())
    return any(run is not None and run.status == "done" and without_seed(run.settings) != mine for run in runs)


def comparable(recipe: Recipe) -> dict[str, Any]:
    """The settings as a run folder holds them, but for name and seed."""
    return without_seed(as_json(without_places(of_one_seed(plain(recipe), 0))))


def without_seed(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in ("name", "seed")}


def as_json(settings: Any) -> Any:
    return json.loads(json.dumps(settings))


def arranged(runs: Sequence[tuple[Point, int]]) -> list[tuple[Point, int]]:
    """The runs in an order in which neighbours train different networks at full size, as far as that goes: those that
    share one would wait for each other."""
    groups: dict[str, list[tuple[Point, int]]] = {}
    for point, seed in runs:
        recipe = point.recipe
        shared = [
            seed,
            *(repr(part) for part in (recipe.model, recipe.data, recipe.task, recipe.runtime, recipe.train)),
        ]
        groups.setdefault(digest(shared), []).append((point, seed))
    longest = max(map(len, groups.values()), default=0)
    return [group[k] for k in range(longest) for group in groups.values() if k < len(group)]


def _crew(on: str, jobs: int | None, threads: int, most: int, base: Recipe, home: Path) -> Crew:
    if on == "here":
        return Here(min(jobs or jobs_here(base.runtime.device), most), threads, home)
    from prunus.lab.cluster import Cluster

    return Cluster(None if jobs is None else min(jobs, most), threads, gpu=base.runtime.device != "cpu")


def _threads(on: str, size: int) -> int:
    """Of each run: the cores divided; one on a cluster, whose machines are of many kinds."""
    return 1 if on == "ray" else max(1, cores() // size)
