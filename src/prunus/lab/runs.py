"""Run folders, found and read: what was asked, what came out, what is still to come.

A folder is read as it lies there, whoever wrote it: nothing in it is executed, and what it should hold and does not is
missing, not an error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from prunus.errors import InputError, UnknownName
from prunus.folders import folders_below
from prunus.lab.figures import figures, sequence, table
from prunus.lab.journal import ENVIRONMENT, NETWORKS, RECIPE, STATE
from prunus.lab.repeat import SUMMARY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Entry", "Run", "differences", "entries", "find", "flat", "read", "shown", "where"]

_DEEPEST = 8
_STAGES = ("train", "sparsity", "prune", "finetune")

Status = Literal["done", "pending", "failed", "stopped", "damaged"]


@dataclass(frozen=True)
class Run:
    """One run folder. pending: not begun yet, or not ended. stopped: given up by a search. why: of one that failed, was
    stopped or is damaged."""

    name: str
    seed: int | None
    folder: Path
    status: Status
    settings: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""

    @cached_property
    def figures(self) -> dict[str, float]:
        """See `prunus.lab.figures.figures`."""
        return figures(self.results)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """Every setting under its dotted name."""
        return flat(self.settings)

    @property
    def environment(self) -> Mapping[str, Any]:
        """Versions, hardware and git state; those of its last stage where the folder has no file of them."""
        stages = [table(stage) for stage in sequence(self.results.get("stages"))]
        return table(_json(self.folder / ENVIRONMENT)) or (stages[-1] if stages else {})

    def lines(self, name: str) -> list[Mapping[str, Any]]:
        """The objects of a file of JSON lines, such as metrics-finetune.jsonl; none where it is missing."""
        try:
            text = (self.folder / name).read_text(encoding="utf-8", errors="replace")
            return [table(json.loads(line)) for line in text.splitlines() if line.strip()]
        except (OSError, ValueError, RecursionError):
            return []

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "seed": self.seed,
            "folder": str(self.folder),
            "status": self.status,
            **({"why": self.why} if self.why else {}),
            "settings": self.fields,
            "figures": self.figures,
        }


@dataclass(frozen=True)
class Entry:
    """Runs with the same settings apart from the seed, by seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def done(self) -> tuple[Run, ...]:
        """Those that are whole."""
        return tuple(run for run in self.runs if run.status == "done")

    @property
    def first(self) -> Run:
        """One that stands for what all have in common: the first that is whole, or else the first."""
        return next(iter(self.done), self.runs[0])

    def by_seed(self, name: str) -> dict[int, float]:
        """A figure of each seed that has it."""
        return {run.seed or 0: run.figures[name] for run in self.done if name in run.figures}


def listed(folders: Any) -> list[str | Path]:
    """Raises InputError for what is no list of folders."""
    found = list(folders) if isinstance(folders, Iterable) else [folders]
    for one in found:
        if not isinstance(one, str | Path):
            raise InputError(f"runs are folders, as text or a pathlib.Path, not {type(one).__name__}")
    return found


def find(folders: Iterable[str | Path]) -> list[Run]:
    """The runs in these folders and below them, in the order of their paths; those of stages are left out.

    Raises InputError for a folder that is not there, or where there is none in all of them.
    """
    given = [Path(folder) for folder in listed(folders)]
    found: dict[Path, Run] = {}
    for folder in given:
        if not folder.is_dir():
            raise InputError(f"{str(folder)!r} is no folder; give run folders, or folders of them such as runs")
        for run in _below(folder):
            found.setdefault(run.folder.resolve(), run)
    if not found:
        raise InputError(f"no run in {', '.join(repr(str(folder)) for folder in given)}")
    return list(found.values())


def read(folder: Path) -> Run | None:
    """The run of one folder; None where it holds none."""
    state, content = _json(folder / STATE), _json(folder / "run.json")
    if state is None and content is None:
        return None
    if content is not None and "stage" in table(_json(folder / "done.json")) and folder.parent.name == "stages":
        return None
    results, why = table(table(content).get("results")), ""
    status: Status = "done" if content is not None else "pending"
    if content is not None and not isinstance(table(content).get("results"), Mapping):
        status, why = "damaged", "run.json does not hold a run"
    settings = table(results.get("settings"))
    said = table(state).get("status")
    if said in ("pending", "running", "failed", "stopped"):
        status = "failed" if said == "failed" else "stopped" if said == "stopped" else "pending"
        results, settings = {}, _toml(folder / RECIPE)
        if status != "pending":
            why = f"{table(state).get('stage', 'a stage')}: {table(state).get('error', 'no reason is given')}"
    seed = settings.get("seed", results.get("seed"))
    name = settings.get("name", results.get("recipe"))
    own = folder.resolve()
    return Run(
        name if isinstance(name, str) else own.parent.name if own.name.startswith("seed-") else own.name,
        seed if isinstance(seed, int) else None,
        folder,
        status,
        settings,
        results,
        why,
    )


def entries(runs: Iterable[Run]) -> list[Entry]:
    """Runs gathered by settings; of two runs of one seed, such as copies, the first that is whole counts."""
    groups: dict[str, dict[int | None, Run]] = {}
    for run in sorted(runs, key=lambda run: run.status == "pending" and not run.settings):
        settings = {key: value for key, value in run.settings.items() if key not in ("seed", "seeds", "smoke")}
        rest = flat(settings)
        told: Any = rest or {"folder": str(run.folder)}  # one that no recipe made stands alone
        if run.status == "pending" and not rest:  # announced and not begun: it belongs to the others of its folder
            told = _siblings(groups, run)
        seeds = groups.setdefault(json.dumps([run.name, told], sort_keys=True, default=str), {})
        if run.seed not in seeds or (seeds[run.seed].status != "done" and run.status == "done"):
            seeds[run.seed] = run
    order = [tuple(sorted(seeds.values(), key=lambda run: run.seed or 0)) for seeds in groups.values()]
    return [Entry(name, members) for name, members in zip(_names(order), order, strict=True)]


def where(runs: Iterable[Run], conditions: Sequence[str]) -> list[Run]:
    """The runs that meet all conditions, such as finetune.epochs=4, method = 'slimming' or finetuned>=90.

    The name is a setting's, a figure's, or name, seed, status. Raises InputError for what is no condition, UnknownName
    for a name that no run has.
    """
    found = list(runs)
    for text in conditions:
        name, sign, wanted = _parted(text)
        known(name, found)
        if sign not in ("=", "!=") and not _is_number(wanted):
            raise InputError(f"--where {text!r}: {sign} compares numbers, and {wanted!r} is none")
        found = [run for run in found if _holds(shown(run, name), sign, wanted)]
    return found


def shown(run: Run, name: str) -> Any:
    """A setting or a figure of a run by name; None where it has none. `macs-left` is `macs left`."""
    plain = {"name": run.name, "seed": run.seed, "status": run.status}
    if name in plain:
        return plain[name]
    if name in run.fields:
        return run.fields[name]
    return run.figures.get(name, run.figures.get(name.replace("-", " ").replace("_", " ")))


def known(name: str, runs: Sequence[Run]) -> None:
    """Raises UnknownName for a name that is neither a setting nor a figure of any of the runs."""
    if runs and all(shown(run, name) is None for run in runs):
        names = {key for run in runs for key in (*run.fields, *run.figures)} | {"name", "seed", "status"}
        if name not in names:
            raise UnknownName.of("setting or figure", name, names)


def differences(runs: Sequence[Run]) -> dict[str, tuple[Any, ...]]:
    """The settings in which the runs are not all alike, with the value of each run; None where one has none. Of a stage
    that some do not have, only what is not at its default, and always its method and epochs."""
    names = dict.fromkeys(name for run in runs for name in run.fields if not name.startswith("smoke."))
    rows = {name: tuple(run.fields.get(name) for run in runs) for name in names}
    found = {name: row for name, row in rows.items() if any(value != row[0] for value in row)}
    lacking = {name.partition(".")[0] for name in found} & set(_STAGES)
    lacking = {stage for stage in lacking if any(stage not in run.settings for run in runs)}
    usual = _defaults() if lacking else {}

    def tells(name: str, row: tuple[Any, ...]) -> bool:
        stage, _, rest = name.partition(".")
        if stage not in lacking or rest in ("method", "epochs"):
            return True
        return any(value is not None and value != usual.get(name) for value in row)

    return {name: row for name, row in found.items() if tells(name, row)}


def _defaults() -> dict[str, Any]:
    """The settings of every stage at their defaults."""
    from prunus.engine.config import Fit
    from prunus.lab.job import Cut
    from prunus.lab.recipe import Finetune, Sparsity, plain

    kinds: tuple[Any, ...] = (Fit(), Sparsity(), Cut(), Finetune())
    return flat({name: plain(kind) for name, kind in zip(_STAGES, kinds, strict=True)})


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names. Lists stay lists; what is nested deeper than settings can be is left out."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            if prefix.count(".") > _DEEPEST:
                continue
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _below(folder: Path) -> Iterator[Run]:
    """Runs in a folder's tree, through links too, and the seeds that a summary announces and nobody has begun."""
    for place, names in folders_below(folder, lambda name: name in ("stages", "checkpoints", NETWORKS)):
        own = read(place) if {"run.json", STATE} & set(names) else None
        if SUMMARY in names:
            yield from _announced(place)
        if own is not None and not _again(place, own):
            yield own


def _announced(place: Path) -> Iterator[Run]:
    told = table(_json(place / SUMMARY))
    name = told.get("recipe")
    for seed in sequence(told.get("seeds")):
        if isinstance(seed, int) and read(place / f"seed-{seed}") is None:
            yield Run(name if isinstance(name, str) else place.name, seed, place / f"seed-{seed}", "pending")


def _again(place: Path, own: Run) -> bool:
    """Whether the same run lies in a folder of its seed below: run alone first, and then with others."""
    mine = table(_json(place / "done.json")).get("key")
    below = table(_json(place / f"seed-{own.seed}" / "done.json")).get("key")
    return mine is not None and mine == below


def _siblings(groups: Mapping[str, Mapping[int | None, Run]], run: Run) -> Any:
    """The settings under which the other seeds of a run's folder are gathered."""
    for key, seeds in groups.items():
        if any(other.folder.parent == run.folder.parent and other.name == run.name for other in seeds.values()):
            return json.loads(key)[1]
    return {"folder": str(run.folder.parent)}


def _names(order: Sequence[Sequence[Run]]) -> list[str]:
    """A name for each entry; entries that share one are told apart by a number."""
    names: list[str] = []
    for members in order:
        taken = sum(name.partition(" #")[0] == members[0].name for name in names)
        names.append(members[0].name + (f" #{taken + 1}" if taken else ""))
    return names


def _parted(text: str) -> tuple[str, str, str]:
    """`finetune.lr<=.1` -> ("finetune.lr", "<=", ".1")."""
    for sign in ("<=", ">=", "!=", "=", "<", ">"):
        name, found, value = text.partition(sign)
        if found and not any(other in name for other in "<>!="):
            return name.strip(), sign, value.lstrip("=").strip()
    raise InputError(
        f"--where {text!r} is no condition, such as finetune.epochs=4, model.name!=resnet20, finetuned>=90"
    )


def _holds(value: Any, sign: str, wanted: str) -> bool:
    """Whether a value meets a condition: as numbers where both are some, else as words. What is missing meets none."""
    if value is None:
        return False
    if isinstance(value, bool):
        value, wanted = str(value).lower(), wanted.lower()
    with_numbers = False
    number = 0.0
    if isinstance(value, int | float) and _is_number(wanted):
        number, with_numbers = float(wanted), True
    if sign in ("=", "!="):
        same = value == number if with_numbers else str(value) == wanted.strip("\"'")
        return same if sign == "=" else not same
    if not with_numbers:
        return False
    return bool({"<": value < number, "<=": value <= number, ">": value > number, ">=": value >= number}[sign])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json(path: Path) -> Any:
    """What a file of JSON holds; an empty table where it is there and cannot be read, None where it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}


def _toml(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
