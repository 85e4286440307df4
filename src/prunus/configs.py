"""Objects of settings that modules keep and read their widths from: a dataclass, a namespace, a dictionary.

Modules that were made of one such object share it. A width of one module is no width of the others, so whatever
changes a number gives the module an object of its own.
"""

from __future__ import annotations

import dataclasses
import re
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

CALLED = re.compile(r"(^|_|[a-z])(config|conf|cfg|args|hparams|params|settings|options|opts?)$", re.IGNORECASE)
"""How users call such objects, or their classes."""

NO_CONFIGS = frozenset([type(None), bool, int, float, str, tuple, list, set, OrderedDict, torch.dtype])
"""Classes of most attributes of modules, their tables of hooks among them."""


def is_config(name: str, value: object) -> bool:
    """Whether an attribute of a module holds settings: a dataclass or a namespace; an object or a dictionary with
    words as keys whose class or own name says so. A class that makes no object without arguments is left alone."""
    if name.startswith("_") or isinstance(value, (nn.Module, Tensor, type)) or callable(value):
        return False
    if type(value) is dict:
        return CALLED.search(name) is not None and all(isinstance(key, str) for key in value)
    if isinstance(value, Mapping) or not isinstance(getattr(value, "__dict__", None), dict):
        return False
    if not (dataclasses.is_dataclass(value) or isinstance(value, (SimpleNamespace, Namespace))) and (
        type(value).__module__.startswith("torch.")
        or not any(CALLED.search(word) for word in (name, type(value).__name__))
    ):
        return False
    try:
        empty(value)
    except TypeError:
        return False
    return True


def empty(config: Any) -> Any:
    """An object of the same class, not initialised. Raises TypeError where the class makes none without arguments."""
    kind: Any = type(config)
    return kind.__new__(kind)


def entries(config: Any) -> dict[str, Any]:
    """What settings hold, by name; names that start with an underscore are the object's own."""
    held: dict[str, Any] = config if type(config) is dict else vars(config)
    return {name: value for name, value in held.items() if not name.startswith("_")}


def changed(config: Any, new: Mapping[str, Any]) -> Any:
    """The same settings with some entries changed, in an object of their own."""
    if type(config) is dict:
        return {**config, **new}
    twin = empty(config)
    vars(twin).update(vars(config))  # past what a frozen class or a setter of its own would say
    vars(twin).update(new)
    return twin


def attributes(module: nn.Module) -> dict[str, Any]:
    """What a module keeps beside tensors and modules, by name; an entry of its settings is named after them, as in
    `config.heads`."""
    found: dict[str, Any] = {}
    for name, value in vars(module).items():
        if value.__class__ not in NO_CONFIGS and is_config(name, value):
            found |= {f"{name}.{entry}": held for entry, held in entries(value).items()}
        else:
            found[name] = value
    return found
