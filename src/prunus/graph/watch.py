"""What code reads of modules while it runs: their mode, and the widths that they remember.

Where none asks for a mode, a forward in train mode is the one in eval mode. What counts is who reads: the norms and
dropouts of torch ask for their own, and do the same to channels in both modes, as do stochastic depth and what timm
joins of norm and activation; a module that asks for the mode of a norm inside it may do anything.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

MODE = "training"
WATCHED: tuple[tuple[Any, str], ...] = (
    (nn.Module, MODE),
    (_ConvNd, "in_channels"),
    (_ConvNd, "out_channels"),
    (_ConvNd, "groups"),
    (nn.Linear, "in_features"),
    (nn.Linear, "out_features"),
    (_NormBase, "num_features"),
)
"""The mode, and what a cut changes."""
ALIKE = frozenset(
    """
    torch.nn.modules.batchnorm torch.nn.modules.instancenorm torch.nn.modules.dropout torchvision.ops.stochastic_depth
    timm.layers.drop timm.layers.norm_act
    """.split()
)
"""Files of code that asks for a mode and treats channels alike in both."""
Reads = set[tuple[str, str]]
"""The module of the code that reads, and the attribute."""

LOCK = threading.Lock()
LISTENERS: list[Reads] = []
"""Who listens, whichever thread reads: one too many costs a forward."""


def shown(name: str) -> property:
    """An attribute of a module that tells who reads it."""

    def read(module: nn.Module) -> Any:
        reader = sys._getframe(1).f_globals.get("__name__", "")
        for found in LISTENERS:
            found.add((reader, name))
        if name not in vars(module):
            raise AttributeError(f"{type(module).__name__} has no {name} yet")
        return vars(module)[name]

    def write(module: nn.Module, value: Any) -> None:
        vars(module)[name] = value

    return property(read, write)


@contextmanager
def read_inside() -> Iterator[Reads]:
    """Which attributes of modules are read inside by which code, without that of which it is known what it does."""
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
        found -= {(reader, name) for reader, name in found if expected(reader, name)}


def expected(reader: str, name: str) -> bool:
    return reader in ALIKE if name == MODE else reader.startswith("torch.nn.modules.")
