"""The tables of `published.py`: our figures from run folders, the published ones beside them, and what differs."""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from published_sections import Section, System

from prunus.costs import cost
from prunus.errors import InputError, PrunusError
from prunus.lab import folder
from prunus.lab.columns import ended, filled, mean, of_runs
from prunus.lab.figures import number, table
from prunus.lab.formats import as_markdown, text_of
from prunus.lab.recipe import plain
from prunus.lab.runs import Entry, Run, entries, find, flat
from prunus.userfile import is_file_name

HEAD: tuple[str, ...] = (
    "section",
    "run",
    "seeds",
    "epochs",
    "published epochs",
    "dense",
    "published dense",
    "top-1",
    "sd",
    "best",
)
HEAD += ("published top-1", "published best", "published sd", "drop", "published drop", "MACs", "published MACs")
HEAD += ("parameters", "published parameters", "counted as", "budget met, k steps", "published budget met")
HEAD += ("minutes an epoch", "published minutes an epoch", "differs")
PENALISED = ("ssl", "group_l2", "slimming")
"""Methods whose training leaves the network at full size: what they trained is the dense one that papers print."""

_AS_IT_IS = re.compile(r"(name|seeds?|trackers|checkpoint_every|smoke\..*|data\.(workers|stream)|prune\.check)")
_NOT_RESULTS = ("runtime.device", "runtime.compile", "runtime.timeout")
_STAGES = ("train", "sparsity", "prune", "finetune")
_LENGTHS = (".epochs", ".steps", ".warmup", ".freeze")
_LARGEST = 1 << 26
"""Bytes that a packed file may become."""


@contextmanager
def found_in(places: Sequence[Path]) -> Iterator[list[Run]]:
    """The runs in folders and tar archives; files of a run folder may be packed by gzip. None where a folder is empty.

    Raises InputError for what is neither.
    """
    with tempfile.TemporaryDirectory() as spare:
        folders = [_folder(place, Path(spare) / str(n)) for n, place in enumerate(places)]
        try:
            yield find([place for place in folders if place.is_dir()])
        except InputError:
            yield []


def page_of(systems: Sequence[System], runs: Sequence[Run]) -> str:
    """All that stands on the page: conditions, and a table for each system with its notes."""
    parts, used = [], []
    for system in systems:
        lines, entries_used = _system(system, runs)
        used += entries_used
        parts.append(lines)
    return "\n".join((conditions(used), *parts)).rstrip("\n")


def conditions(used: Iterable[Entry]) -> str:
    """Hardware and versions of the runs in the tables."""
    told = [run.environment for entry in used for run in entry.done]
    hardware = {_words(table(one.get("hardware")), ("processor", "gpu")) for one in told}
    versions = {_words(table(one.get("versions")), ("prunus", "torch", "python"), named=True) for one in told}
    if not told:
        return "No section has been run."
    return f"- Hardware: {'; '.join(sorted(hardware))}\n- Versions: {'; '.join(sorted(versions))}"


def _words(given: Mapping[str, Any], names: Sequence[str], named: bool = False) -> str:
    return ", ".join(f"{name} {given[name]}" if named else str(given[name]) for name in names if given.get(name))


def _system(system: System, runs: Sequence[Run]) -> tuple[str, list[Entry]]:
    """The section of the page, and the entries in it."""
    notes: dict[str, int] = {}
    rows, used = [], []
    for section in system.sections:
        siblings = [other for other in system.sections if other.recipe == section.recipe]
        mine = entries([run for run in runs if belongs(run, section, siblings)])
        used += mine
        for entry in mine or (None,):
            row, differs = row_of(section, entry)
            for text in (*section.differs, *differs):
                notes.setdefault(text, len(notes) + 1)
            told = sorted(notes[text] for text in (*section.differs, *differs))
            rows.append(row | {"differs": ", ".join(map(str, told)) or None})
    head = filled(rows, ("section", "run", "top-1", "published top-1", "epochs", "differs"))
    every = [f"- {text}" for text in system.differs]
    told_below = [f"{n}. {text}" for text, n in notes.items()]
    lines = ["", f"## {system.title}", "", f"Published: {system.source}.", ""]
    if every:
        lines += ["In all rows:", "", *every, ""]
    return "\n".join((*lines, as_markdown([name for name in HEAD if name in head], rows), *told_below, "")), used


def belongs(run: Run, section: Section, siblings: Sequence[Section]) -> bool:
    """Whether a run is of this section: by its name, or by the recipe's and the settings that tell sections apart."""
    parts = re.fullmatch(r"(.*?)(-\d+-epochs)?(-smoke)?", run.name)
    assert parts is not None
    name, smoke, stem = parts[1], parts[3] is not None, section.recipe.removesuffix(".toml")
    if name != stem:
        return name == section.id
    keys = {text.partition("=")[0] for other in siblings for text in other.set}
    wanted = _settings(section, smoke)

    def chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
        under = tuple(f"{key}." for key in keys)
        return {k: v for k, v in settings.items() if (k in keys or k.startswith(under)) and not k.endswith(_LENGTHS)}

    return chosen(run.fields) == chosen(wanted)


def row_of(section: Section, entry: Entry | None) -> tuple[dict[str, Any], list[str]]:
    """The columns but the last, and what differs from the section at full length."""
    told, theirs = section.published, _settings(section, False)
    row: dict[str, Any] = dict.fromkeys(HEAD)
    row |= {"section": section.row, "run": "not run", "published epochs": _epochs(theirs)}
    row |= {"published dense": told.get("dense"), "published top-1": told.get("top1")}
    row |= {"published best": told.get("best"), "published sd": told.get("sd"), "counted as": told["convention"]}
    row |= {"published MACs": told.get("macs"), "published parameters": told.get("params")}
    row |= {"published budget met": told.get("iterations_k"), "published minutes an epoch": told.get("minutes_epoch")}
    if isinstance(told.get("dense"), float) and isinstance(told.get("top1"), float):
        row["published drop"] = told["dense"] - told["top1"]
    if entry is None:
        return row, []
    ours, changed = of_runs([entry])[0], apart(entry.first.fields, theirs)
    kind = "smoke" if entry.first.name.endswith("-smoke") else _length(entry.first.fields, theirs)
    row["run"] = kind if ours["status"] == "done" else f"{kind}, {ours['status']}"
    end, dense = ended(entry), _is_dense(entry.first)
    row |= {"seeds": ours["n"], "epochs": ours["epochs"], "top-1": None if end is None else mean(entry, end)}
    row |= {"sd": ours["sd"], "best": ours["best"] if ours["n"] and ours["n"] > 1 else None}
    row |= {name: ours.get(name) for name in ("budget met, k steps", "minutes an epoch")}
    if dense:
        row |= {"dense": mean(entry, "before"), "drop": ours["drop"]}
    row |= counts(entry, told["convention"])
    return row, [f"{kind}: {'; '.join(changed)}"] if changed else []


def counts(entry: Entry, convention: str) -> dict[str, Any]:
    """MACs and parameters of the last network by a convention, as means; of single weights what is not zero."""
    if not entry.done:
        return {}
    kinds = {"MACs": "macs", "parameters": "nonzero" if convention == "nonzero" else "params"}
    found: dict[str, Any] = {}
    for name, kind in kinds.items():
        values = [number(_after(run).get(kind)) for run in entry.done]
        found[name] = round(fmean(v for v in values if v is not None)) if any(v is not None for v in values) else None
    if convention in ("macs", "nonzero"):
        return found
    counted = [_told(run, convention) or counted_as(str(run.folder), convention) for run in entry.done]
    if any(value is None for value in counted):
        return found | {"counted as": "macs"}
    return found | {"MACs": round(fmean(value for value in counted if value is not None))}


def _told(run: Run, convention: str) -> int | None:
    """The count that the run itself noted; None for a run that noted none."""
    found = number(table(table(run.results.get("conventions")).get(convention)).get("after"))
    return None if found is None else int(found)


@cache
def counted_as(place: str, convention: str) -> int | None:
    """What the network of a run folder costs by a convention; None for one that only code in the folder's words makes.
    Without weights: counts do not depend on them."""
    try:
        description, plan, _ = folder.read(Path(place))
        if is_file_name(description.model) or description.input is None:
            return None
        with torch.device("meta"):
            model = folder.rebuild(description, plan, None).eval()
            example = torch.empty(1, *description.input[-3:])
            return cost(model, example, convention).macs
    except PrunusError:
        return None


def apart(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """`train.epochs 20 for 300`, for every setting that makes results and is otherwise."""
    stages = [{name.partition(".")[0] for name in settings} & set(_STAGES) for settings in (ours, theirs)]
    found = [f"with [{stage}]" for stage in _STAGES if stage in stages[0] - stages[1]]
    found += [f"without [{stage}]" for stage in _STAGES if stage in stages[1] - stages[0]]
    for name in dict.fromkeys((*theirs, *ours)):
        a, b = ours.get(name), theirs.get(name)
        if _AS_IT_IS.fullmatch(name) or name in _NOT_RESULTS or a == b:
            continue
        if name.partition(".")[0] in stages[0] ^ stages[1]:
            continue
        if name == "data.path" and str(a).rpartition("/")[2] == str(b).rpartition("/")[2]:
            continue
        found.append(f"`{name}` {_shown(a)} for {_shown(b)}")
    return found


def _shown(value: Any) -> str:
    text = "none" if value is None or value == [] else text_of(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _settings(section: Section, smoke: bool) -> dict[str, Any]:
    return _flat_of(section.recipe, section.id, section.set, smoke)


@cache
def _flat_of(recipe: str, name: str, changes: tuple[str, ...], smoke: bool) -> dict[str, Any]:
    return flat(plain(Section(name, recipe, "", {}, changes).load(smoke=smoke)))


def _epochs(settings: Mapping[str, Any]) -> str:
    stages = (settings.get(f"{stage}.epochs") for stage in ("train", "sparsity", "finetune"))
    return "+".join(str(number) for number in stages if number)


def _length(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    return "full length" if _epochs(ours) == _epochs(theirs) else "shortened"


def _is_dense(run: Run) -> bool:
    """Whether what the run measured first is the network at full size, trained as such."""
    return "before" in table(run.results.get("test")) or run.fields.get("sparsity.method") in PENALISED


def _after(run: Run) -> Mapping[str, Any]:
    return table(run.results.get("after")) or table(run.results.get("before"))


def _folder(place: Path, spare: Path) -> Path:
    """The place itself, or what an archive or packed files in it hold, unpacked into `spare`."""
    if place.is_dir():
        packed = [path for path in place.rglob("*.gz") if path.with_suffix("").suffix in (".json", ".jsonl", ".toml")]
        return _unpacked(place, packed, spare) if packed else place
    if not place.exists():
        return place
    if not tarfile.is_tarfile(place):
        raise InputError(f"{place} is neither a folder nor a tar archive of run folders")
    with tarfile.open(place) as archive:
        archive.extractall(spare, filter="data")
    return _folder(spare, spare.with_name(f"{spare.name}-unpacked"))


def _unpacked(place: Path, packed: Sequence[Path], spare: Path) -> Path:
    """A copy of the small files of all runs, those that are packed unpacked."""
    small = [path for kind in ("*.json", "*.jsonl", "*.toml") for path in place.rglob(kind) if path.is_file()]
    for path in (*small, *packed):
        to = spare / path.relative_to(place)
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".gz":
            shutil.copyfile(path, to)
            continue
        with gzip.open(path) as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise InputError(f"{path} holds more than {_LARGEST >> 20} MiB, which no run folder has")
        to.with_suffix("").write_bytes(content)
    return spare
