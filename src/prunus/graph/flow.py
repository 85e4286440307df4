"""What reads what: the ops that a picture of the network needs, without those that only pass values on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .record import Op


@dataclass(frozen=True)
class Step:
    """An op with tensors of its own, with multiply-accumulates, or that brings several results together."""

    op: int  # its index in the forward, as in `Work`
    name: str  # of the torch function
    path: str  # the module in which it ran
    tensors: tuple[str, ...]
    inputs: tuple[int, ...]  # indices of the steps whose results it reads; none where it reads the model's input alone


def flow(ops: Sequence[Op], counted: Collection[int]) -> tuple[Step, ...]:
    """The steps of one forward in its order. counted: indices of the ops that have multiply-accumulates."""
    steps: list[Step] = []
    behind: list[tuple[int, ...]] = []  # by op: the steps that its result comes from
    for k, op in enumerate(ops):
        sources = tuple(dict.fromkeys(s for made in op.inputs if made is not None and made >= 0 for s in behind[made]))
        if op.tensors or k in counted or len(sources) > 1:
            steps.append(Step(k, op.name, op.path, op.tensors, sources))
            sources = (len(steps) - 1,)
        behind.append(sources)
    return tuple(steps)
