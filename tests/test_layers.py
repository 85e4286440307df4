"""The import rule: graph ← surgery, select ← methods ← api ← lab, cli; engine knows none of graph, surgery, methods."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "prunus"

_BASE = {"errors"}
_STATE = _BASE | {"configs", "state", "outline"}
_WORDS = _BASE | {"rates", "target"}
_GRAPH = _WORDS | {"configs", "graph", "models", "state", "outline"}
_CUT = _GRAPH | {"costs", "memory", "plan", "planfile", "composed", "select", "surgery", "timing"}
_STEPS = {"asked", "cutting", "narrowing", "result", "stepwise", "widths"}
_CORE = _CUT | _STEPS | {"depth", "engine", "latency", "methods", "repair"}
_ALL = _CORE | {"files", "api", "transfer", "lab", "folders", "progress", "userfile", "exporting"}
_ALL |= {"child", "student"}
ALLOWED = {
    "errors": set[str](),
    "configs": set[str](),
    "memory": set[str](),
    "rates": _BASE,
    "target": _WORDS,
    "plan": _GRAPH | {"planfile", "composed"},
    "composed": _GRAPH | {"plan"},
    "planfile": _GRAPH | {"plan"},
    "userfile": _BASE,
    "folders": set[str](),
    "child": set[str](),
    "student": _BASE,
    "progress": set[str](),
    "models": _BASE | {"userfile"},
    "engine": _BASE | {"folders", "progress", "userfile"},
    "state": _BASE,
    "outline": _STATE | {"models"},
    "costs": _STATE | {"models"},
    "graph": _STATE | {"models"},
    "select": _CUT - {"surgery"},
    "surgery": _CUT,
    "depth": _CUT - {"surgery"},
    "methods": _CUT | {"depth", "asked", "cutting", "result", "widths"},
    "repair": _CUT | {"methods", "result"},
    "widths": _GRAPH,
    "asked": _GRAPH | {"widths"},
    "result": _CUT,
    "timing": _BASE,
    "latency": _CUT | {"asked", "child", "cutting", "exporting", "progress", "student"},
    "cutting": _CUT | {"asked", "result", "widths"},
    "narrowing": _CUT | {"methods"},
    "stepwise": _CORE,
    "api": _CORE,
    "transfer": _CUT | {"result"},
    "files": _CUT | {"engine", "result"},
    "exporting": _CUT | {"asked", "methods", "result", "userfile"},
    "testing": _CORE | {"api"},
    "lab": _ALL,
    "cli": _ALL,
}
"""What each unit may import of Prunus, itself apart. A new unit needs a line here."""

HEAVY = {"torchvision", "timm", "datasets", "rich", "pyarrow", "PIL", "onnx", "onnxruntime", "openvino"}
HEAVY |= {"pydantic", "plotly", "optuna", "ray", "accelerate", "torchao", "huggingface_hub"}
NO_TORCH = {"errors", "rates", "target", "cli", "__init__", "__main__"}
FREE = {"__init__", "__main__"}


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def module(path: Path) -> str:
    """`prunus.graph.record` for src/prunus/graph/record.py; a package's __init__ bears the package's name."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit(name: str) -> str:
    """The top-level unit of a dotted name: `graph` for prunus.graph.record, `__init__` for prunus itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(tree: ast.AST, name: str, *, package: bool) -> list[tuple[int, str]]:
    """Line and absolute dotted name of everything imported anywhere in `tree`, in functions too."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".") if package else name.split(".")[:-1]
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            # `from prunus import graph` imports the unit graph; `from prunus.graph import Group` does not import more.
            found += [(node.lineno, f"{base}.{alias.name}" if base == "prunus" else base) for alias in node.names]
    return found


def violations(source: str, name: str, *, package: bool = False) -> list[str]:
    """The lines of `source`, the module `name`, that break the rule."""
    here = unit(name)
    wrong = []
    for line, target in imports(ast.parse(source), name, package=package):
        there = unit(target)
        if (
            target.split(".")[0] == "prunus"
            and there in ALLOWED
            and there != here
            and there not in ALLOWED.get(here, _ALL)
        ):
            wrong.append(f"{name}:{line} imports {target}")
    return wrong


def test_every_unit_has_a_line_in_the_table() -> None:
    assert {unit(module(path)) for path in files()} - FREE <= set(ALLOWED)


def test_the_rule_holds() -> None:
    wrong = []
    for path in files():
        if unit(module(path)) not in FREE:
            wrong += violations(path.read_text(encoding="utf-8"), module(path), package=path.name == "__init__.py")
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "source", "broken"),
    [
        ("prunus.engine.loop", "from prunus.graph import trace", True),
        ("prunus.engine.loop", "def f():\n    import prunus.methods.magnitude", True),
        ("prunus.engine.loop", "from prunus import surgery", True),
        ("prunus.engine.loop", "from ..graph.record import x", True),
        ("prunus.engine.loop", "from .data import Split\nfrom prunus.errors import DataError", False),
        ("prunus.graph.record", "from prunus.plan import Plan", True),
        ("prunus.graph.record", "from prunus.surgery import apply", True),
        ("prunus.methods.magnitude", "from prunus.engine import fit", True),
        ("prunus.methods.magnitude", "from prunus.graph import Coupling\nimport prunus.select", False),
        ("prunus.api", "from prunus.cli import main", True),
        ("prunus.lab.demo", "from prunus.cli import main", True),
        ("prunus.cli.prune", "from prunus.api import prune\nimport prunus.lab.demo", False),
    ],
)
def test_the_check_finds_what_breaks_the_rule(name: str, source: str, broken: bool) -> None:
    assert bool(violations(source, name)) is broken


def at_the_top(tree: ast.Module) -> list[str]:
    """Top packages imported when the module is imported: outside functions and `if TYPE_CHECKING`."""
    found, rest = [], list[ast.AST](tree.body)
    while rest:
        node = rest.pop()
        if isinstance(node, ast.Import):
            found += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append((node.module or "").split(".")[0])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            rest += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            rest += ast.iter_child_nodes(node)
    return found


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    found = {module(path): set(at_the_top(ast.parse(path.read_text(encoding="utf-8")))) & HEAVY for path in files()}
    assert {name: heavy for name, heavy in found.items() if heavy} == {}


def test_the_light_modules_import_no_torch() -> None:
    light = [path for path in files() if unit(module(path)) in NO_TORCH]
    assert len(light) > 5
    heavy = [module(path) for path in light if "torch" in at_the_top(ast.parse(path.read_text(encoding="utf-8")))]
    assert heavy == []
