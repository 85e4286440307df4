"""Whether code asks a module for its mode: where none does, a forward in train mode is the one in eval mode.

Norms and dropout of torch ask, and do the same to channels in both modes, as do stochastic depth and what timm joins
of norm and activation.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

LOCK = threading.Lock()
LISTENERS: list[set[type]] = []
"""Who listens, whichever thread asks: one kind too many costs a forward."""


def ask(module: nn.Module) -> bool:
    for kinds in LISTENERS:
        kinds.add(type(module))
    if "training" not in vars(module):
        raise AttributeError(f"{type(module).__name__} has no mode yet")
    return vars(module)["training"]  # type: ignore[no-any-return]


def answer(module: nn.Module, mode: bool) -> None:
    vars(module)["training"] = mode


@contextmanager
def modes_asked() -> Iterator[set[type]]:
    """The classes of the modules whose `training` is read inside, those left out of which it is known what they do."""
    place: Any = nn.Module
    kinds: set[type] = set()
    with LOCK:
        if not LISTENERS:
            place.training = property(ask, answer)  # goes before the attribute of a module
        LISTENERS.append(kinds)
    try:
        yield kinds
    finally:
        with LOCK:
            LISTENERS[:] = [other for other in LISTENERS if other is not kinds]
            if not LISTENERS:
                del place.training
        kinds -= {kind for kind in kinds if alike_in_both(kind)}


OTHERS = frozenset({"torchvision.ops.stochastic_depth", "timm.layers.drop", "timm.layers.norm_act"})


def alike_in_both(kind: Any) -> bool:
    """Norms and dropouts whose forward is the library's own."""
    written = kind.forward.__module__
    return written in OTHERS or (issubclass(kind, (_NormBase, _DropoutNd)) and written.startswith("torch.nn.modules."))
