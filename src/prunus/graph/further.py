"""Further examples: what other ways through a model demand is added to what the first one showed.

They take part in what is coupled and pinned. Costs, residual branches and splits of attention are those of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..state import as_found
from .forward import stored_statistics
from .record import Tracer
from .rules import table
from .splits import Splits
from .told import telling
from .trace import Traced, passed
from .whole import hold, shared_storage


def with_further(
    traced: Traced,
    examples: Sequence[Any],
    *,
    pin: Sequence[str | nn.Module] = (),
    splits: Splits | None = None,
) -> Traced:
    """The trace, with what the model's ops demand on these examples in eval and in train mode. Raises ExampleError
    where the model refuses one."""
    if not examples:
        return traced
    model, book = traced.model, traced.book
    unknown, passes = dict.fromkeys(traced.unknown), list(traced.passes)
    with as_found(model), telling(model), torch.no_grad():
        for example in examples:
            for training in (False, True):
                book.forward = len(passes)
                tracer = Tracer(model, book, table(), stored_statistics, splits or Splits())
                passes.append(passed(tracer, model, example, training)[1])
                unknown |= tracer.unknown
    hold(model, book, pin)  # once more: there may be tensors that the first example does not reach
    shared_storage(model, book)
    return replace(traced, unknown=tuple(unknown), passes=tuple(passes))
