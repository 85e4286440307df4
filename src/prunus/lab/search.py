"""Trials drawn by Optuna, as the turns of a sweep.

Every choice is made on the validation part: what a trial is worth is the accuracy of its last network there, as the
mean over the seeds. The test part is measured too, for the report, and chooses nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from threading import Lock
from typing import Any

from prunus.errors import InputError, UnknownName
from prunus.lab.book import Book
from prunus.lab.crew import Carry
from prunus.lab.errand import Ended
from prunus.lab.grid import Point, at
from prunus.lab.journal import Journal, reason
from prunus.lab.judge import DIRECTIONS, optuna, sqlite, study_of
from prunus.lab.recipe import Recipe
from prunus.lab.runs import read
from prunus.lab.space import Space

__all__ = ["Search"]

FIGURES = {"accuracy": "validation", "macs": "macs", "params": "params"}
"""The figure of a run that is an objective."""

OWNER = "prunus sweep"
"""The attribute of a trial that says which sweep's folder it belongs to."""


@dataclass
class Search:
    """So many trials, in all, of a study. storage: its address; None for a file in the sweep's folder."""

    base: Recipe
    space: Space
    objectives: tuple[str, ...]
    trials: int
    storage: str | None
    name: str
    study: Any = None

    @classmethod
    def of(
        cls,
        base: Recipe,
        ranges: Mapping[str, str | Sequence[Any]] | Iterable[str],
        choices: Mapping[str, Sequence[Any]] | Iterable[str],
        objectives: Sequence[str],
        trials: int,
        storage: str | None,
        name: str,
    ) -> Search:
        """Raises InputError for what cannot work: both ends of each range and every choice are looked at."""
        optuna()
        for one in objectives:
            if one not in DIRECTIONS:
                raise UnknownName.of("objective", one, DIRECTIONS)
        if not objectives or len(set(objectives)) < len(objectives):
            raise InputError(
                f"objectives {', '.join(objectives)}: one or more different ones of {', '.join(DIRECTIONS)}"
            )
        space = Space.of(ranges, choices)
        for corner in space.corners():
            recipe = at(base, "trial", corner)
            if recipe.data.published:
                raise InputError("a search chooses on the validation part: data.selection = 'published' has no place")
            if not recipe.data.validation and ".py:" not in recipe.data.path:
                raise InputError("a search chooses on the validation part; give one, such as --set data.validation=0.1")
        return cls(base, space, tuple(objectives), trials, storage, name)

    def turns(self, book: Book) -> Callable[[Carry], bool]:
        """A turn: the next trial, with all its seeds. Those that an earlier call left in the middle come first."""
        package = optuna()
        address = self.storage or sqlite(book.home)
        self.study = study = study_of(address, self.name, self.objectives, self.base.all_seeds[0])
        states, lock = package.trial.TrialState, Lock()
        self._same_space(package)
        own = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get(OWNER) == book.id]
        left = deque(trial for trial in own if trial.state == states.RUNNING)
        drawn: dict[str, Any] = {one.name: one.text for one in self.space.ranges}
        drawn |= {axis.name: list(axis.values) for axis in self.space.choices}
        book.asked([], search=self.trials, space=drawn, objectives=list(self.objectives))
        for trial in own:
            if trial.state == states.COMPLETE:
                self._recalled(book, trial)
        room = [max(0, self.trials - self._counted(states))]

        def draw() -> Any:
            if left:
                return left.popleft()
            if not room[0] or self._counted(states) >= self.trials:
                return None
            room[0] -= 1
            trial = study.ask(self.space.distributions(package))
            trial.set_user_attr(OWNER, book.id)
            return trial

        def turn(carry: Carry) -> bool:
            with lock:
                trial = draw()
            if trial is None:
                return False
            values = self.space.values(trial.params)
            name = self._called(trial)
            try:
                point = Point(name, values, at(self.base, name, values))
            except InputError as error:
                book.tell(f"{name}: failed, {reason(error)}")
                with lock:
                    study.tell(trial.number, state=states.FAIL)
                return True
            book.asked([point])
            ended = self._made(book, point, trial.number, address, carry)
            found = self._worth(book, point) if ended.status == "done" else None
            if found is not None:
                book.reached(point, found)
            with lock:
                if found is not None:
                    study.tell(trial.number, [found[one] for one in self.objectives])
                else:
                    study.tell(trial.number, state=states.PRUNED if ended.status == "stopped" else states.FAIL)
            return True

        return turn

    def front(self) -> tuple[str, ...]:
        """The names of the trials that no other beats."""
        return tuple(self._called(trial) for trial in self.study.best_trials)

    def _called(self, trial: Any) -> str:
        """The name of a trial's folder. Studies of another name than the recipe's count for themselves."""
        return ("" if self.name == self.base.name else f"{self.name}-") + f"trial-{trial.number:04d}"

    def _same_space(self, package: Any) -> None:
        """Raises InputError where the study has trials of other ranges or choices."""
        now = self.space.distributions(package)
        kind = package.distributions.CategoricalDistribution
        for trial in self.study.get_trials(deepcopy=False):
            was = trial.distributions
            wrong = sorted(was.keys() ^ now.keys()) if was else []
            wrong += [
                name for name in was.keys() & now.keys() if isinstance(now[name], kind) and was[name] != now[name]
            ]
            if wrong:
                raise InputError(
                    f"the study {self.name!r} was begun with other ranges or choices of {', '.join(wrong)}; "
                    "name another by --study, or give those"
                )

    def _made(self, book: Book, point: Point, number: int, address: str, carry: Carry) -> Ended:
        """Run the seeds, one after the other, as long as they end well. The first one is judged by its epochs."""
        judge = {"storage": address, "study": self.name, "trial": number, "objectives": list(self.objectives)}
        judged = judge if self.objectives == ("accuracy",) else None
        ended = Ended("done")
        for seed in book.seeds:
            ended = carry(book.errand(point, seed, judged))
            book.ended(point, seed, ended)
            judged = None
            if ended.status != "done":
                for other in book.seeds[book.seeds.index(seed) + 1 :]:
                    Journal(book.folder(point, other)).stopped(f"seed {seed} {ended.status}")
                break
        return ended

    def _worth(self, book: Book, point: Point) -> dict[str, float] | None:
        """The objectives as means over the seeds; None where a run lacks one."""
        runs = [read(book.folder(point, seed)) for seed in book.seeds]
        rows = [{one: run.figures.get(FIGURES[one]) for one in self.objectives} for run in runs if run is not None]
        if len(rows) < len(book.seeds) or any(value is None for row in rows for value in row.values()):
            book.tell(f"{point.name}: failed, its run has no {', '.join(self.objectives)}")
            return None
        return {one: fmean(row[one] or 0.0 for row in rows) for one in self.objectives}

    def _recalled(self, book: Book, trial: Any) -> None:
        """A trial that an earlier call has done."""
        name, values = self._called(trial), self.space.values(trial.params)
        point = Point(name, values, at(self.base, name, values))
        book.asked([point])
        for seed in book.seeds:
            run = read(book.folder(point, seed))
            if run is not None and run.status == "done":
                book.runs[name, seed] = Ended("done")
        book.reached(point, dict(zip(self.objectives, trial.values, strict=True)))

    def _counted(self, states: Any) -> int:
        """Trials that need not be drawn: all but those that failed."""
        return sum(trial.state != states.FAIL for trial in self.study.get_trials(deepcopy=False))
