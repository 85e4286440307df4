"""torch.export: the program that three formats start from, and .pt2, the one that is it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_map

from ..errors import ExportError
from .given import Given, arguments, quiet, short, tensors

Run = Callable[[list[Any]], list[list[Tensor]]]
"""What an exported network returns for each of several examples."""


def nameless(value: Any) -> Any:
    """The same with plain tuples for named ones, whose classes no other process has."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return tuple(map(nameless, value))
    if type(value) in (tuple, list):
        return type(value)(map(nameless, value))
    if type(value) in (dict, OrderedDict):
        return type(value)((key, nameless(one)) for key, one in value.items())
    return value


def program(given: Given, form: Callable[[Any], Any] = nameless) -> ExportedProgram:
    """The network as a graph of torch ops. form: of what it returns. Raises ExportError."""
    args, kwargs = arguments(given.traced())
    shapes = None
    if given.dynamic:
        batch = Dim("batch")
        free = tree_map(lambda v: {0: batch} if given.counts(v) else None, given.example)
        shapes = free if isinstance(free, tuple) or kwargs else (free,)
    handle = given.model.register_forward_hook(lambda _, __, returned: form(returned))
    try:
        with quiet():
            found = torch.export.export(given.model, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # the exporter runs the user's forward, which may raise anything
        raise ExportError(f"torch.export: {short(error)}") from error
    finally:
        handle.remove()
    forget(found)
    return found


def forget(found: ExportedProgram) -> None:
    """Drop the example, which is the user's data, and the lines of code with their paths."""
    found.example_inputs = None
    for module in found.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)


def write_pt2(given: Given, path: Path) -> tuple[tuple[Path, ...], Run]:
    """Write the program, and give what runs the file. Raises ExportError."""
    found = program(given)
    try:
        with quiet():
            torch.export.save(found, path)
    except Exception as error:  # whatever the serialiser meets in a graph
        raise ExportError(f"pt2, saving: {short(error)}") from error

    def run(examples: list[Any]) -> list[list[Tensor]]:
        with quiet():
            module = torch.export.load(path).module()
        results = []
        for example in examples:
            args, kwargs = arguments(example)
            results.append(tensors(module(*args, **kwargs)))
        return results

    return (path,), run
