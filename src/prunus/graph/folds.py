"""The rows that make up for softmax scales, as entries of tensors."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

import torch
from torch import Tensor

from .coupling import Fold, Solved, form_of
from .labels import Axis, Book


def folds_of(book: Book, solved: Solved) -> list[Fold]:
    """What is surely folded; the widths count all groups of the solution. What is added to the rows goes with them."""
    axes = [axis for axis in book.axes.values() if axis.kind == "tensor" and axis.ids.numel()]
    axes.sort(key=lambda axis: int(axis.ids[0]))
    starts = [int(axis.ids[0]) for axis in axes]

    def entries(rows: Tensor) -> Iterator[tuple[Axis, Tensor]]:
        """The axes that hold these ids, and where on them."""
        rows = torch.unique(rows)
        while rows.numel():
            axis = axes[bisect.bisect(starts, int(rows[0])) - 1]
            mine = rows < int(axis.ids[0]) + axis.ids.numel()
            yield axis, rows[mine] - int(axis.ids[0])
            rows = rows[~mine]

    found = []
    for factor in book.folds.values():
        width = form_of(Axis("fold", "", 0, "", factor.width), solved)
        if not factor.sure or not width.terms:
            continue
        for axis, positions in entries(factor.rows):
            found.append(Fold(axis.owner, axis.place, positions.numpy(), width))
            for other, places in entries(book.beside[axis.owner][positions]) if axis.owner in book.beside else ():
                found.append(Fold(other.owner, other.place, places.numpy(), width))
    return found
