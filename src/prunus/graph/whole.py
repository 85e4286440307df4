"""What stays whole whatever the ops demand: what the user asked for, and tensors on one piece of memory."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch import nn

from ..errors import UnknownName
from ..state import modules_of, tensors_of
from .coupling import layer
from .labels import Book


def hold(model: nn.Module, book: Book, pin: Sequence[str | nn.Module]) -> None:
    """Pin what the user asked to keep."""
    if not pin:
        return
    paths = {id(m): path for path, m in modules_of(model)}
    owners = sorted({axis.owner for axis in book.axes.values() if axis.kind == "tensor"})
    for wish in pin:
        if isinstance(wish, nn.Module) and id(wish) not in paths:
            raise UnknownName(f"pin: a {type(wish).__name__} that is no module of this model")
        pattern = paths[id(wish)] if isinstance(wish, nn.Module) else wish
        whole = isinstance(wish, nn.Module) and not pattern  # the model itself
        hit = [o for o in owners if whole or fnmatch.fnmatch(o, pattern) or under(o, pattern)]
        if not hit and (not pattern or pattern not in paths.values()):
            raise UnknownName.of("module or tensor to pin", pattern, [layer(o) for o in owners])
        for (kind, owner, _), axis in book.axes.items():
            if kind == "tensor" and owner in hit:
                book.pin(axis.ids, "asked by the user")


def under(tensor: str, pattern: str) -> bool:
    """Whether a tensor lies in a module that the pattern matches."""
    parts = tensor.split(".")
    return any(fnmatch.fnmatch(".".join(parts[:k]), pattern) for k in range(1, len(parts)))


def shared_storage(model: nn.Module, book: Book) -> None:
    """Different tensors on one piece of memory cannot be cut apart: pin them."""
    held: dict[int, set[int]] = {}
    names: dict[int, set[str]] = {}
    for name, tensor in tensors_of(model).items():
        where = tensor.untyped_storage().data_ptr()
        if where:
            held.setdefault(where, set()).add(id(tensor))
            names.setdefault(where, set()).add(name)
    crowded = {name for where, ids in held.items() if len(ids) > 1 for name in names[where]}
    for axis in list(book.axes.values()) if crowded else ():
        if axis.kind == "tensor" and axis.owner in crowded:
            book.pin(axis.ids, f"{axis.owner} shares its memory with another tensor")
