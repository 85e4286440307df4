"""What one step of the optimizer sees: a batch, in the parts of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from prunus.engine.config import Augment, Fit
from prunus.engine.data import Data, Split, Stream, batches
from prunus.engine.processes import One
from prunus.engine.runtime import Runtime
from prunus.errors import DataError, InputError

__all__ = ["Part", "Steps", "check_batches", "size_of", "steps_of"]


@dataclass(frozen=True)
class Part:
    """A micro-batch. index: its number among the parts of the whole step; share: what its mean loss is multiplied by,
    so that gradients summed here and averaged over the processes are those of the mean over the whole batch."""

    index: int
    batch: Any
    size: int
    share: float


class Steps:
    """The parts of each step of one epoch after the other, from any step on."""

    def __init__(
        self, feed: Iterable[Any], own: bool, config: Fit, runtime: Runtime, processes: One, size: Any
    ) -> None:
        self.feed, self.own, self.config, self.runtime, self.processes = feed, own, config, runtime, processes
        self.size = size

    @property
    def length(self) -> int | None:
        """Steps an epoch, where that is known beforehand."""
        try:
            return len(self.feed)  # type: ignore[arg-type]
        except TypeError:  # a DataLoader over an iterable set has a length to ask for, and none to tell
            return None

    def epoch(self, e: int, start: int, before: int) -> Iterator[list[Part]]:
        """The steps of epoch e from `start` on; `before` is the number of steps in earlier epochs."""
        self.runtime.reseed(0, e)
        tell(self.feed, e)
        if self.own:
            self.feed.start_at(start)  # type: ignore[attr-defined]
            for i, mine in enumerate(self.feed, start=start):
                yield self._parts(mine, self.feed.total(i))  # type: ignore[attr-defined]
            return
        source = iter(self.feed)
        i = 0
        while True:
            self.runtime.reseed(2, before + i)  # a loader may draw; then a resumed epoch must draw the same
            batch = next(source, _END)
            if batch is _END:
                return
            if i >= start:
                mine = divided(batch, min(self.config.accumulate, max(1, self.size(batch))))
                yield self._parts(mine, None)
            i += 1

    def _parts(self, mine: Sequence[Any], total: int | None) -> list[Part]:
        sizes = [self.size(batch) for batch in mine]
        share = self.processes.world / total if total else 1 / sum(sizes)
        first = self.processes.rank * self.config.accumulate
        return [
            Part(first + k, batch, size, size * share) for k, (batch, size) in enumerate(zip(mine, sizes, strict=True))
        ]


_END = object()


def check_batches(data: Any) -> None:
    """Raises DataError for what gives no batches when it is iterated."""
    if isinstance(data, str):
        raise DataError(
            f"data is batches or a Data, not the name {data!r:.80}; prunus.engine.data has load(), which reads it"
        )
    if not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        kind = type(data).__name__
        raise DataError(f"data is a Data or an iterable of batches, such as a DataLoader or a list, not {kind}")


def steps_of(
    data: Data | Iterable[Any], config: Fit, runtime: Runtime, processes: One, size: Callable[[Any], int]
) -> Steps:
    """The steps of `Data`'s train part, or of the user's own batches. Raises InputError, DataError."""
    if isinstance(data, Split | Stream):
        raise InputError("fit needs a Data or batches, not a bare Split; see prunus.engine.data.batches")
    train: Split | Stream | Iterable[Any] = data.train if isinstance(data, Data) else data
    if not isinstance(train, Split | Stream):
        check_batches(train)
    if isinstance(data, Data) and isinstance(train, Split | Stream):
        if not len(train):
            raise DataError(f"{data.name} has no train part")
        k, of = config.accumulate, config.accumulate * processes.world
        if of > config.batch_size:
            raise InputError(f"a batch of {config.batch_size} cannot be divided into {of} parts")
        feed = batches(
            train,
            batch_size=config.batch_size,
            mean=data.mean,
            std=data.std,
            shuffle=True,
            seed=runtime.seed,
            augment=config.augment,
            classes=data.classes,
            drop_last=(config.drop_last or runtime.compile) and len(train) >= config.batch_size,
            shares=(processes.rank * k, k, of),
            device=runtime.torch_device,
            channels_last=runtime.channels_last,
        )
        return Steps(feed, True, config, runtime, processes, size)
    for name, given in (("augment", config.augment != Augment()), ("drop_last", config.drop_last)):
        if given:
            raise InputError(f"{name} is for images in memory or in files; batches of your own come as they are")
    if processes.world > 1 and isinstance(train, DataLoader):
        from accelerate.data_loader import prepare_data_loader

        train = prepare_data_loader(
            train, num_processes=processes.world, process_index=processes.rank, split_batches=True
        )
    assert not isinstance(train, Split | Stream)
    return Steps(train, False, config, runtime, processes, size)


def divided(batch: Any, parts: int) -> list[Any]:
    """A batch as `parts` micro-batches: what is in a dict, tuple or list is divided along its first axis.

    Raises InputError where it is smaller, or holds something that cannot be divided.
    """
    if parts == 1:
        return [batch]
    if isinstance(batch, dict):
        cut = {key: _sliced(value, parts) for key, value in batch.items()}
        return [{key: pieces[k] for key, pieces in cut.items()} for k in range(parts)]
    if isinstance(batch, list | tuple):
        pieces = [_sliced(value, parts) for value in batch]
        rows = [[piece[k] for piece in pieces] for k in range(parts)]
        if hasattr(batch, "_fields"):
            return [type(batch)(*row) for row in rows]
        return [type(batch)(row) for row in rows]
    return _sliced(batch, parts)


def _sliced(value: Any, parts: int) -> list[Any]:
    if not isinstance(value, Tensor | list | tuple) or (isinstance(value, Tensor) and not value.ndim):
        raise InputError(f"accumulate={parts} cannot divide a batch that holds {type(value).__name__}")
    if len(value) < parts:
        raise InputError(f"accumulate={parts} cannot divide a batch of {len(value)}")
    if isinstance(value, Tensor):
        return list(torch.tensor_split(value, parts))
    bounds = [round(k * len(value) / parts) for k in range(parts + 1)]
    return [value[a:b] for a, b in pairwise(bounds)]


def size_of(batch: Any) -> int:
    """How many samples a batch of unknown make has: the length of the first tensor or list in it; 1 without one."""
    while isinstance(batch, dict | list | tuple) and batch and not isinstance(batch, Tensor):
        first = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
        if not isinstance(first, Tensor | dict | list | tuple):
            return len(batch)
        batch = first
    return len(batch) if isinstance(batch, Tensor) and batch.ndim else 1


def tell(feed: object, e: int) -> None:
    """`set_epoch(e)` on a feed or on its sampler, where it has one."""
    for holder in (feed, getattr(feed, "sampler", None)):
        call = getattr(holder, "set_epoch", None)
        if callable(call):
            call(e)
            return
