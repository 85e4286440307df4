"""The study of a search, opened by name, and the judge that gives up hopeless trials by their epochs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from prunus.engine.history import Epoch
from prunus.engine.task import goodness
from prunus.errors import InputError, MissingExtra

__all__ = ["DIRECTIONS", "Judge", "Stopped", "optuna", "sqlite", "study_of"]

DIRECTIONS = {"accuracy": "maximize", "macs": "minimize", "params": "minimize"}
"""What a search can aim at: accuracy on the validation part in percent, and the costs of the last network."""

PATIENCE = 60
"""Seconds to wait for another process that writes to an SQLite file."""


class Stopped(Exception):
    """The judge gives a training up."""


def optuna() -> Any:
    """The package. Raises MissingExtra."""
    try:
        import optuna as found
    except ImportError as error:
        raise MissingExtra.of("optuna", "lab") from error
    found.logging.set_verbosity(found.logging.WARNING)
    return found


def study_of(storage: str, name: str, objectives: Sequence[str], seed: int) -> Any:
    """The Optuna study, made where it is not there. storage: a URL of a database (sqlite:///study.db, mysql://…), or
    journal:FILE, for a drive that many machines share. Raises InputError for a storage that cannot be opened, and for a
    study with other objectives."""
    package, directions = optuna(), [DIRECTIONS[one] for one in objectives]
    kind = re.split(r"[:+]", storage)[0]
    try:
        study = package.create_study(
            storage=_storage(package, storage),
            study_name=name,
            load_if_exists=True,
            directions=directions,
            pruner=package.pruners.MedianPruner(),
        )
        begun = len(study.get_trials(deepcopy=False))
    except ImportError as error:
        raise InputError(f"the storage ({kind}) needs a package: {error}") from error
    except Exception as error:  # of the database's driver, whichever that is; its address may hold a password
        raise InputError(f"the storage ({kind}) cannot be opened: {type(error).__name__}") from error
    found = [direction.name.lower() for direction in study.directions]
    if found != directions:
        count = f"{len(found)} objective(s), {', '.join(found)}"
        raise InputError(f"the study {name!r} was begun with {count}; give another name with --study")
    study.sampler = package.samplers.TPESampler(seed=seed + begun)  # going on must not draw the same again
    return study


@dataclass(frozen=True)
class Judge:
    """Told of every epoch of a trial's last training. See `study_of`."""

    storage: str
    study: str
    trial: int
    objectives: Sequence[str]

    def epoch(self, done: Epoch, epochs: int) -> None:
        """Report the validation. Raises Stopped where the trial is below the median of the others."""
        if done.metrics is None or done.epoch == epochs:  # at the end nothing is left to be saved
            return
        trial = self._opened()
        if done.epoch not in trial.storage.get_trial(trial._trial_id).intermediate_values:
            trial.report(goodness(done.metrics), done.epoch)
        if trial.should_prune():
            raise Stopped(f"below the median of the other trials after epoch {done.epoch} of {epochs}")

    def _opened(self) -> Any:
        study = _known(self.storage, self.study, tuple(self.objectives))
        number = next(one._trial_id for one in study.get_trials(deepcopy=False) if one.number == self.trial)
        return optuna().trial.Trial(study, number)


def sqlite(folder: Path) -> str:
    """The address of the storage that lies in a folder."""
    return f"sqlite:///{(folder / 'study.db').resolve()}"


@lru_cache(maxsize=1)
def _known(storage: str, name: str, objectives: tuple[str, ...]) -> Any:
    return study_of(storage, name, objectives, 0)


def _storage(package: Any, address: str) -> Any:
    if address.startswith("journal:"):
        from optuna.storages.journal import JournalFileBackend

        return package.storages.JournalStorage(JournalFileBackend(address.partition(":")[2]))
    more = {"connect_args": {"timeout": PATIENCE}} if address.startswith("sqlite") else {}
    return package.storages.RDBStorage(address, engine_kwargs=more)
