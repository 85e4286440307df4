"""Prunus makes neural networks smaller: a budget, a cut, and a proof that the cut changed nothing else.

The names below load on first use, so that `import prunus` costs nothing and brings in no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prunus.api import Pruned, Steps, apply, cost, inspect, prune, trace
    from prunus.costs import Cost
    from prunus.engine.loop import evaluate
    from prunus.exporting import export
    from prunus.files import from_hub, load, push_to_hub, save
    from prunus.graph import Coupling
    from prunus.lab.compare import compare
    from prunus.lab.job import finetune
    from prunus.lab.report import report
    from prunus.lab.run import run, train
    from prunus.lab.sweep import sweep
    from prunus.latency import bench
    from prunus.methods.sensitivity import sensitivity
    from prunus.plan import Plan
    from prunus.result import Loaded
    from prunus.target import Target
    from prunus.transfer import transfer_

__version__ = "0.1.0"

__all__ = [
    "Cost",
    "Coupling",
    "Loaded",
    "Plan",
    "Pruned",
    "Steps",
    "Target",
    "__version__",
    "apply",
    "bench",
    "compare",
    "cost",
    "evaluate",
    "export",
    "finetune",
    "from_hub",
    "inspect",
    "load",
    "prune",
    "push_to_hub",
    "report",
    "run",
    "save",
    "sensitivity",
    "sweep",
    "trace",
    "train",
    "transfer_",
]

# Public name -> the module that defines it. A function may not bear the name of a module of this package: importing
# the module would set the attribute and hide the function (tests/test_repository.py keeps watch).
_HOME = {
    "Cost": "prunus.costs",
    "Coupling": "prunus.graph",
    "Loaded": "prunus.result",
    "Plan": "prunus.plan",
    "Pruned": "prunus.api",
    "Steps": "prunus.stepwise",
    "Target": "prunus.target",
    "apply": "prunus.api",
    "bench": "prunus.latency",
    "compare": "prunus.lab.compare",
    "cost": "prunus.api",
    "evaluate": "prunus.engine.loop",
    "export": "prunus.exporting",
    "finetune": "prunus.lab.job",
    "from_hub": "prunus.files",
    "inspect": "prunus.api",
    "load": "prunus.files",
    "prune": "prunus.api",
    "push_to_hub": "prunus.files",
    "report": "prunus.lab.report",
    "run": "prunus.lab.run",
    "save": "prunus.files",
    "sensitivity": "prunus.methods.sensitivity",
    "sweep": "prunus.lab.sweep",
    "trace": "prunus.api",
    "train": "prunus.lab.run",
    "transfer_": "prunus.transfer",
}
_MODULES = frozenset({"errors", "graph", "methods", "models", "repair", "surgery", "target", "testing"})


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"prunus.{name}")
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'prunus' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
