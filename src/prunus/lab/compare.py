"""Two runs, with their seeds, or two plans, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from prunus.errors import InputError
from prunus.lab.figures import MEASURED, last, least, number, sequence, table
from prunus.lab.runs import Entry, Run, differences, entries, find
from prunus.lab.statistics import Pairing, Spread, paired
from prunus.student import LEVEL

if TYPE_CHECKING:
    from prunus.plan import Plan
    from prunus.result import Pruned

__all__ = ["Comparison", "Figure", "Group", "compare"]


@dataclass(frozen=True)
class Group:
    """One group: its dense width, the channels that a and b keep (means over the seeds), and how many of them are the
    same ones, where both have plans of the same network."""

    name: str
    dense: int | None
    a: float | None
    b: float | None
    shared: float | None = None


@dataclass(frozen=True)
class Figure:
    """One figure of both, over the seeds of each, and the paired test over those that both have."""

    name: str
    a: Spread | None
    b: Spread | None
    pairing: Pairing | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. settings: those that differ; verdict: in one sentence; notes: what keeps it from being a
    comparison of like with like."""

    names: tuple[str, str]
    verdict: str
    figures: tuple[Figure, ...]
    groups: tuple[Group, ...]
    settings: Mapping[str, tuple[Any, Any]]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join((self.verdict, *self.notes))


def compare(a: str | Path | Plan | Pruned, b: str | Path | Plan | Pruned) -> Comparison:
    """Compare two runs by figures and groups, or two plans by groups.

    a, b: run folders, with or without seeds below them; or plans, what `prune` returned, and files with a plan,
    plan.json or .safetensors; a folder beside one of these stands for its plan. The test is Student's, two-sided, on
    the differences between runs of one seed.
    Raises InputError where there is nothing to compare, PlanError for a damaged plan.
    """
    one, two = _given(a), _given(b)
    if not isinstance(one, Path) or not isinstance(two, Path):
        pair = (one.name if isinstance(one, Path) else "a", two.name if isinstance(two, Path) else "b")
        return _of_plans(pair, *(_plan(side) if isinstance(side, Path) else side for side in (one, two)))
    names = _labels(one, two)
    if one.is_file() or two.is_file():
        return _of_plans(names, _plan(one), _plan(two))
    return _of_runs(names, _entry(one), _entry(two))


def _given(side: object) -> Path | Mapping[str, Any]:
    """A path, or a plan as plain data. Raises InputError for anything else."""
    if isinstance(side, str | Path):
        return Path(side)
    from prunus.plan import Plan

    plan = getattr(side, "plan", side)  # of what prune, finish or load returned
    if not isinstance(plan, Plan):
        raise InputError(f"compare takes run folders, files with plans, or plans, not {type(side).__name__}")
    return plan.to_json()


def _of_runs(names: tuple[str, str], one: Entry, two: Entry) -> Comparison:
    found = tuple(_figures(one, two))
    notes = [
        f"{name}: {len(entry.runs) - len(entry.done)} of {len(entry.runs)} seeds are not done and do not count"
        for name, entry in zip(names, (one, two), strict=True)
        if len(entry.done) < len(entry.runs)
    ]
    for name, entry in zip(names, (one, two), strict=True):
        if str(entry.first.results.get("selection", "")).startswith("published"):
            notes.append(f"{name}: epochs were chosen on the test part")
    parts = [{str(key): entry.first.fields.get(key) for key in ("data.path", "data.limit")} for entry in (one, two)]
    if parts[0] != parts[1]:
        notes.append("the data differ, and so may the test parts")
    widths = _groups([_widths(run) for run in one.done], [_widths(run) for run in two.done])
    groups = _with_shared(widths, one, two)
    settings = {
        name: (values[0], values[1])
        for name, values in differences((one.first, two.first)).items()
        if name not in ("name", "seed")
    }
    return Comparison(names, _verdict(names, one, two, found), found, groups, settings, tuple(notes))


def _of_plans(names: tuple[str, str], one: Mapping[str, Any], two: Mapping[str, Any]) -> Comparison:
    a, b = _kept(one), _kept(two)
    same = _fingerprint(one) == _fingerprint(two)
    dense = {name: width for kept in (a, b) for name, (width, _) in kept.items()}
    groups = []
    for name, width in dense.items():
        mine, theirs = a.get(name), b.get(name)
        shared = len(mine[1] & theirs[1]) if same and mine and theirs else None
        groups.append(
            Group(
                name, width, None if mine is None else len(mine[1]), None if theirs is None else len(theirs[1]), shared
            )
        )
    notes = () if same else ("the plans are of different networks; groups are matched by name",)
    sums = [sum(len(ids) for _, ids in kept.values()) for kept in (a, b)]
    both = sum(int(group.shared or 0) for group in groups)
    alike = sum(group.a == group.b for group in groups)
    told = f"{names[0]} keeps {sums[0]:,} channels and {names[1]} {sums[1]:,}"
    told += f", {both:,} of them the same ones" if same else ""
    told += (
        f"; {alike} of {len(groups)} groups have the same width. Plans have no accuracy: nothing is better or worse."
    )
    return Comparison(names, told, (), tuple(groups), {}, notes)


def _figures(one: Entry, two: Entry) -> list[Figure]:
    rows = [list(dict.fromkeys(name for run in entry.done for name in run.figures)) for entry in (one, two)]
    found = []
    for name in dict.fromkeys((*rows[0], *rows[1])):
        values = one.by_seed(name), two.by_seed(name)
        a, b = (Spread.of(list(v.values()), least=least(name)) if v else None for v in values)
        found.append(Figure(name, a, b, paired(*values)))
    return found


def _verdict(names: tuple[str, str], one: Entry, two: Entry, found: Sequence[Figure]) -> str:
    """Better, worse or not distinguishable: the second against the first, by the last accuracy that both have."""
    name_a, name_b = names
    both = {figure.name: figure for figure in found if figure.a is not None and figure.b is not None}
    name = last(both)
    if name is None:
        return f"{name_b} and {name_a} cannot be compared: they have no accuracy in common."
    pairing = both[name].pairing
    if pairing is None:
        return f"{name_b} and {name_a} cannot be told apart: no seed is in both, so there is nothing to pair."
    n, mean = len(pairing.seeds), pairing.difference.mean
    what = f"{mean:+.2f} points of {MEASURED[name]} accuracy"
    cost = both.get("macs left")
    at = ""
    if cost is not None and cost.a is not None and cost.b is not None:
        at = f", at {cost.b.mean:.2f} % of the macs against {cost.a.mean:.2f} %"
    if pairing.p is None:
        return f"{name_b} against {name_a}: {what}{at}; from 1 seed nothing can be told, run more with --repeat."
    low, high = pairing.difference.low, pairing.difference.high
    how = f"({100 * LEVEL:g} % interval {low:+.2f} … {high:+.2f}, p = {_p(pairing.p)}, paired over {n} seeds)"
    if not pairing.told_apart:
        return f"{name_b} and {name_a} are not distinguishable: {what} {how}{at}."
    return f"{name_b} is {'better' if mean > 0 else 'worse'} than {name_a}: {what} {how}{at}."


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else "below 0.0001"


def _widths(run: Run) -> dict[str, tuple[int, int]]:
    """Dense and kept width of each group."""
    found = {}
    for row in map(table, sequence(run.results.get("widths"))):
        dense, kept = number(row.get("dense")), number(row.get("kept"))
        if dense is not None and kept is not None:
            found[str(row.get("group"))] = int(dense), int(kept)
    return found


def _groups(one: Sequence[Mapping[str, tuple[int, int]]], two: Sequence[Mapping[str, tuple[int, int]]]) -> list[Group]:
    dense = {name: pair[0] for widths in (*one, *two) for name, pair in widths.items()}

    def mean(widths: Sequence[Mapping[str, tuple[int, int]]], name: str) -> float | None:
        kept = [own[name][1] for own in widths if name in own]
        return fmean(kept) if kept else None

    return [Group(name, width, mean(one, name), mean(two, name)) for name, width in dense.items()]


def _with_shared(groups: Sequence[Group], one: Entry, two: Entry) -> tuple[Group, ...]:
    """The groups with the channels that both keep, from the plans of the seeds that both have."""
    plans = [{run.seed: run.folder / "plan.json" for run in entry.done} for entry in (one, two)]
    pairs = [(plans[0][seed], plans[1][seed]) for seed in plans[0] if seed in plans[1]]
    found: dict[str, list[int]] = {}
    for first, second in pairs:
        if first.is_file() and second.is_file():
            a, b = _plan(first), _plan(second)
            if _fingerprint(a) == _fingerprint(b):
                mine, theirs = _kept(a), _kept(b)
                for name in set(mine) & set(theirs):
                    found.setdefault(name, []).append(len(mine[name][1] & theirs[name][1]))
    return tuple(Group(g.name, g.dense, g.a, g.b, fmean(found[g.name]) if g.name in found else None) for g in groups)


def _plan(path: Path) -> Mapping[str, Any]:
    """A plan as plain data, checked: of a file, or of a run folder."""
    from prunus.lab.folder import plan_in
    from prunus.plan import Plan

    file = path / "plan.json" if path.is_dir() else path
    if file.suffix == ".safetensors":
        found = plan_in(file)
        if found is None:
            raise InputError(f"{str(file)!r} bears no plan: its network was not cut")
        return found.to_json()
    if not file.is_file():
        raise InputError(
            f"there is no plan {str(file)!r}; give a plan.json, or a run folder in which something was cut"
        )
    Plan.load(file)
    content: Mapping[str, Any] = json.loads(file.read_bytes())
    return content


def _kept(plan: Mapping[str, Any]) -> dict[str, tuple[int, set[int]]]:
    return {group["name"]: (group["width"], set(group["kept"])) for group in plan["groups"]}


def _fingerprint(plan: Mapping[str, Any]) -> Any:
    return plan["fingerprint"]


def _entry(path: Path) -> Entry:
    """The one run, with its seeds, of a folder."""
    found = entries(find([path]))
    if len(found) > 1:
        names = ", ".join(repr(str(entry.first.folder)) for entry in found[:6]) + (", …" if len(found) > 6 else "")
        raise InputError(f"{str(path)!r} holds {len(found)} runs with different settings; give one of {names}")
    (entry,) = found
    if not entry.done:
        raise InputError(f"{str(path)!r}: no run is done")
    return entry


def _labels(a: Path, b: Path) -> tuple[str, str]:
    """The shortest ends of the paths that tell them apart."""
    one, two = a.resolve().parts, b.resolve().parts
    for count in range(1, max(len(one), len(two)) + 1):
        if one[-count:] != two[-count:]:
            return "/".join(one[-count:]), "/".join(two[-count:])
    return f"{one[-1]} (first)", f"{two[-1]} (second)"
