"""Source text of Prunus's own that a file takes along, so that it needs no Prunus: bundled nets, dropped branches."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Carried:
    """Definitions in an order in which each finds what it uses, and the imports that they need."""

    text: dict[str, str] = field(default_factory=dict)
    imports: set[tuple[str, str, str]] = field(default_factory=set)
    seen: set[tuple[str, str]] = field(default_factory=set)

    def add(self, module: str, name: str) -> None:
        """Take `name` of a module of Prunus along, and what it uses."""
        if (module, name) in self.seen:
            return
        self.seen.add((module, name))
        source = inspect.getsource(importlib.import_module(module))
        tree = ast.parse(source)
        brought, made = imported(tree, module), defined(tree)
        if name not in made:
            self.bring(*brought[name])
            return
        node = made[name]
        used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - {name}
        for word in sorted(used & made.keys(), key=lambda w: made[w].lineno):
            self.add(module, word)
        for word in sorted(used & (brought.keys() - made.keys())):
            self.bring(*brought[word])
        assert name not in self.text, name  # two definitions of one name cannot share a file
        self.text[name] = segment(source, node)

    def bring(self, source: str, name: str, local: str) -> None:
        """An import: of Prunus, the definition itself; else that it is wanted."""
        if source.split(".")[0] == "prunus":
            assert name == local, (source, name, local)
            self.add(source, name)
        else:
            self.imports.add((source, name, local))

    def statements(self) -> list[str]:
        """The import statements, one a module."""
        whole, parts = list[str](), dict[str, list[str]]()
        for source, name, local in sorted(self.imports):
            known = name or source
            told = known if known == local else f"{known} as {local}"
            if name:
                parts.setdefault(source, []).append(told)
            else:
                whole.append(f"import {told}")
        return [*whole, *(f"from {source} import {', '.join(names)}" for source, names in parts.items())]


def carried(names: Iterable[tuple[str, str]]) -> Carried:
    """What these definitions, (module, name), need."""
    found = Carried()
    for module, name in names:
        found.add(module, name)
    return found


def defined(tree: ast.Module) -> dict[str, ast.stmt]:
    """Functions, classes and values at the top of a module."""
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


def imported(tree: ast.Module, module: str) -> dict[str, tuple[str, str, str]]:
    """Local name -> (module, name in it, local name); the name is empty where the module itself is meant."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name
                found[local] = (alias.name, "", local)
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            source = node.module or ""
            if node.level:
                source = importlib.util.resolve_name("." * node.level + source, module.rpartition(".")[0])
            for alias in node.names:
                local = alias.asname or alias.name
                found[local] = (source, alias.name, local)
    return found


def segment(source: str, node: ast.stmt) -> str:
    """The lines of a definition, with its decorators."""
    decorators = getattr(node, "decorator_list", [])
    start = min([node.lineno, *(one.lineno for one in decorators)])
    return "\n".join(source.splitlines()[start - 1 : node.end_lineno])
