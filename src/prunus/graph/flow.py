"""What reads what: the ops that a picture of the network needs, without those that only pass values on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .record import Op

NORMS = frozenset(("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"))


@dataclass(frozen=True)
class Step:
    """An op with tensors of its own, with multiply-accumulates, or that brings several results together."""

    op: int  # its index in the forward, as in `Work`
    name: str  # of the torch function
    path: str  # the module in which it ran
    tensors: tuple[str, ...]
    inputs: tuple[int, ...]  # indices of the steps whose results it reads; none where it reads the model's input alone
    direct: bool = False  # and it reads them as they are, with no op between


def flow(ops: Sequence[Op], counted: Collection[int]) -> tuple[Step, ...]:
    """The steps of one forward in its order. counted: indices of the ops that have multiply-accumulates."""
    steps: list[Step] = []
    behind: list[tuple[int, ...]] = []  # by op: the steps that its result comes from
    found: set[int] = set()  # ops that are steps
    for k, op in enumerate(ops):
        reads = [made for made in op.inputs if made is not None and made >= 0]
        sources = tuple(dict.fromkeys(s for made in reads for s in behind[made]))
        if op.tensors or k in counted or len(sources) > 1:
            steps.append(Step(k, op.name, op.path, op.tensors, sources, found.issuperset(reads)))
            found.add(k)
            sources = (len(steps) - 1,)
        behind.append(sources)
    return tuple(steps)


def norm_after(steps: Sequence[Step], op: int) -> Step | None:
    """The norm that reads the result of an op as it is, if nothing else reads that, and the norm nothing else."""
    at = next(k for k, step in enumerate(steps) if step.op == op)
    after = [step for step in steps if at in step.inputs]
    if len(after) != 1 or after[0].inputs != (at,) or not after[0].direct or after[0].name not in NORMS:
        return None
    own = set(after[0].tensors)
    return None if any(own & set(step.tensors) for step in steps if step is not after[0]) else after[0]
