"""The rows of `protocol.py`: what is compared, and what makes two results results of one definition."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from prunus.errors import InputError
from prunus.methods import (
    FPGM,
    METHODS,
    SSL,
    Gates,
    GroupFisher,
    Lamp,
    Magnitude,
    Random,
    Sensitivity,
    Slimming,
    Taylor,
    Uniform,
    method_of,
)
from prunus.repair import REPAIRS

Kind = Literal["control", "scratch", "score", "search", "trained", "repair"]

CONTROL = "random"
"""The row that all others are compared with."""

LONGER = "small net from scratch, longer"

PLUMBING = frozenset({"attach", "batches", "blocks", "score"})
"""Modules that hand values over and compute none: a change of theirs makes no result another one's."""

BOUND = "max_rate=80%"
"""Of the rows that say so: a fifth of every group stays."""

SMALL = {"sources": 6, "limit": 3, "cycles": 5, "epochs": 0}
"""The budget of the search, by the names of its settings: about 70 networks, none of them trained."""


@dataclass(frozen=True)
class Row:
    """One line of the table. target: what is added to the budget. repair: what follows the cut."""

    name: str
    kind: Kind
    method: Any
    target: str = ""
    repair: tuple[str, ...] = ()

    def goal(self, percent: float) -> str:
        """The target at so many percent of the MACs."""
        return ",".join(part for part in (f"macs={percent:g}%", self.target) if part)

    def epochs(self, total: int, longer: int) -> tuple[int, int]:
        """Epochs before the cut and after it."""
        if self.kind == "trained":
            first = max(1, total // 2)
            return first, total - first
        return 0, longer if self.name == LONGER else total

    def definition(self) -> str:
        """The settings of the method and of its repairs, and the source of both without comments and docstrings."""
        base = getattr(self.method, "base", None)
        parts = [self.method, *(REPAIRS[name][0] for name in self.repair)]
        used = [*parts, *([method_of(base)] if isinstance(base, str) else [])]
        return f"{' + '.join(map(repr, parts))} {self.target} {digest(used)}".replace("  ", " ")


def rows() -> tuple[Row, ...]:
    """All rows, those of methods that this version lacks left out. Random comes first, since the others need it."""
    l2, lasso = Magnitude(p=2), SSL(lam=1e-2, solver="proximal", affine=True, keep_length=True)
    found = [
        Row(CONTROL, "control", Random(scope="local")),
        Row("uniform", "control", Uniform()),
        Row("small net from scratch", "scratch", Uniform()),
        Row(LONGER, "scratch", Uniform()),
        Row("l1, global", "score", Magnitude(p=1)),
        Row("l1, local", "score", Magnitude(p=1, scope="local")),
        Row("l2, global", "score", l2),
        Row("l2, local", "score", Magnitude(p=2, scope="local")),
        Row("l2, isomorphic", "score", Magnitude(p=2, scope="isomorphic")),
        Row("lamp", "score", Lamp()),
        Row("taylor", "score", Taylor()),
        Row("group fisher", "score", GroupFisher()),
        Row("group fisher, bounded", "score", GroupFisher(), target=BOUND),
        Row("fpgm", "score", FPGM()),
        Row("slimming, scores alone", "score", Slimming()),
        Row("sensitivity", "score", Sensitivity()),
        *known("hrank", "hrank", "score"),
        *known("abc", "abc", "search", **SMALL),
        Row("slimming", "trained", Slimming(lam=5e-3)),
        Row("slimming, bounded", "trained", Slimming(lam=5e-3), target=BOUND),
        Row("group lasso", "trained", lasso),
        Row("group lasso, bounded", "trained", lasso, target=BOUND),
        Row("gates, bounded", "trained", Gates(), target=BOUND),
        Row("soft fpgm", "trained", FPGM()),
        *known("dcff", "dcff", "trained", temperature="logistic"),
        *(Row(f"l2, global, then {name}", "repair", l2, repair=(name,)) for name in REPAIRS),
        Row("l2, global, then reconstruct and statistics", "repair", l2, repair=("reconstruct", "statistics")),
    ]
    return tuple(found)


def known(name: str, row: str, kind: Kind, **settings: Any) -> list[Row]:
    """The row of a method that only some versions have; of the settings those that it has."""
    if name not in METHODS:
        return []
    method: Any = METHODS[name][0]
    assert is_dataclass(method) and not isinstance(method, type)
    has = {field.name for field in fields(method)}
    return [Row(row, kind, replace(method, **{k: v for k, v in settings.items() if k in has}))]


def chosen(patterns: str) -> tuple[Row, ...]:
    """The rows whose names match one of the patterns, divided by semicolons. Raises InputError for one without any."""
    every = rows()
    wanted = [pattern.strip() for pattern in patterns.split(";")]
    for pattern in wanted:
        if not any(fnmatchcase(row.name, pattern) for row in every):
            raise InputError(f"no row is called {pattern!r} (rows: {'; '.join(row.name for row in every)})")
    return tuple(row for row in every if any(fnmatchcase(row.name, pattern) for pattern in wanted))


def digest(objects: Iterable[Any]) -> str:
    """Of the source of the objects' classes and of what it imports beside itself, comments and docstrings left out."""
    queue = sorted({type(one).__module__ for one in objects})
    seen: dict[str, str] = {}
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        tree = ast.parse(inspect.getsource(sys.modules.get(name) or importlib.import_module(name)))
        package = name.rpartition(".")[0]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module not in {None, *PLUMBING}:
                queue.append(f"{package}.{node.module}")
        seen[name] = ast.unparse(bare(tree))
    return hashlib.sha256("\n".join(seen[name] for name in sorted(seen)).encode()).hexdigest()[:8]


def bare(tree: ast.Module) -> ast.Module:
    """Without strings that stand alone."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _text(s)] or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
