"""What code reads of modules while it runs: their mode, and the widths that they remember.

Where none asks for a mode, a forward in train mode is the one in eval mode. Norms and dropout of torch ask, and do the
same to channels in both modes, as do stochastic depth and what timm joins of norm and activation.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

MODE = "training"
WATCHED: tuple[tuple[Any, str], ...] = (
    (nn.Module, MODE),
    (_ConvNd, "in_channels"),
    (_ConvNd, "out_channels"),
    (nn.Linear, "in_features"),
    (nn.Linear, "out_features"),
    (_NormBase, "num_features"),
)
"""What a cut changes, and no forward of torch's own reads, but for the mode."""
Reads = set[tuple[Any, str]]

LOCK = threading.Lock()
LISTENERS: list[Reads] = []
"""Who listens, whichever thread reads: one too many costs a forward."""


def shown(name: str) -> property:
    """An attribute of a module that tells who reads it."""

    def read(module: nn.Module) -> Any:
        for found in LISTENERS:
            found.add((type(module), name))
        if name not in vars(module):
            raise AttributeError(f"{type(module).__name__} has no {name} yet")
        return vars(module)[name]

    def write(module: nn.Module, value: Any) -> None:
        vars(module)[name] = value

    return property(read, write)


@contextmanager
def read_inside() -> Iterator[Reads]:
    """Which attributes of modules of which classes are read inside, the modes left out of those of which it is known
    what they do with them."""
    found: Reads = set()
    with LOCK:
        if not LISTENERS:
            for owner, name in WATCHED:
                setattr(owner, name, shown(name))  # a property goes before the attribute of a module
        LISTENERS.append(found)
    try:
        yield found
    finally:
        with LOCK:
            LISTENERS[:] = [other for other in LISTENERS if other is not found]
            if not LISTENERS:
                for owner, name in WATCHED:
                    delattr(owner, name)
        found -= {(kind, name) for kind, name in found if name == MODE and alike_in_both(kind)}


OTHERS = frozenset({"torchvision.ops.stochastic_depth", "timm.layers.drop", "timm.layers.norm_act"})


def alike_in_both(kind: Any) -> bool:
    """Norms and dropouts whose forward is the library's own."""
    written = kind.forward.__module__
    return written in OTHERS or (issubclass(kind, (_NormBase, _DropoutNd)) and written.startswith("torch.nn.modules."))
