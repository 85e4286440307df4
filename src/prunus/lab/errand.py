"""One run of a sweep as plain data, so that any process on any machine can make it, and what became of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from prunus.engine.data import Data

__all__ = ["Ended", "Errand", "carry_out", "given_up"]


@dataclass(frozen=True)
class Errand:
    """A run to be made. settings: the recipe as a table, of one seed. root: where stages lie. folder: of the run.
    place: the folder that relative paths of the recipe start from. threads: of the CPU. judge: see `Judge`."""

    settings: Mapping[str, Any]
    root: str
    folder: str
    place: str
    threads: int = 1
    judge: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Errand:
        """What `to_json` gave."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Ended:
    """How a run ended: stopped by the judge of a search, or failed, at which stage, and one line that says why."""

    status: Literal["done", "failed", "stopped"]
    stage: str = ""
    why: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Ended:
        """What `to_json` gave."""
        return cls(**json.loads(text))


def carry_out(errand: Errand) -> Ended:
    """Make the run in this process, from where it was left. An error of the run is an answer, not an error here."""
    import torch

    from prunus.engine.processes import One
    from prunus.lab import chain
    from prunus.lab.journal import Journal, reason
    from prunus.lab.judge import Judge, Stopped
    from prunus.lab.recipe import load
    from prunus.lab.run import one_chain

    journal = Journal(Path(errand.folder))
    try:
        if Path(errand.place).is_dir():
            os.chdir(errand.place)
        torch.set_num_threads(errand.threads)
        recipe = load(errand.settings)
        source = json.dumps(asdict(recipe.data), sort_keys=True)
        runtime = replace(recipe.runtime, seed=recipe.all_seeds[0])
        judges: tuple[Any, ...] = ()
        if errand.judge is not None:
            judges = (Judge(**errand.judge),)
        bench = chain.Bench(recipe, runtime, False, lambda: _data(source), judges)
        root, place = Path(errand.root), Path(errand.folder)
        one_chain(bench, root, place, frozenset(), None, One(), lambda line: None, journal, patient=True)
    except Stopped as stop:
        journal.stopped(str(stop))
        return Ended("stopped", journal.stage, str(stop))
    except Exception as error:
        journal.failed(error)
        return Ended("failed", journal.stage, reason(error))
    finally:
        torch.compiler.reset()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    return Ended("done")


def given_up(errand: Errand, why: str) -> Ended:
    """The answer where no process lived to give one; the run folder says so too."""
    from prunus.errors import PrunusError
    from prunus.lab.journal import Journal

    journal = Journal(Path(errand.folder))
    journal.failed(PrunusError(why))
    return Ended("failed", journal.stage, why)


@lru_cache(maxsize=1)
def _data(source: str) -> Data:
    """The data of the last errand, which the next one mostly shares."""
    from prunus.lab.chain import data_of
    from prunus.lab.recipe import Source
    from prunus.lab.schema import conform

    given = {key: value for key, value in json.loads(source).items() if value is not None}
    return data_of(conform(Source, given, "data"))
