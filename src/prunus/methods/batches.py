"""How a user's batch goes through a model: to its device, into its forward, into the default loss, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map

from ..errors import DataError, ExampleError, InputError
from ..state import call_model, fresh, plain_table

Loss = Callable[[nn.Module, Any], Tensor]
"""`loss(model, batch)`: a scalar, the mean over the batch."""


class Feed:
    """The user's batches, each brought to the device that `model` is on when it is asked for. Re-iterable."""

    def __init__(self, data: Iterable[Any], model: nn.Module) -> None:
        self.data, self.model = data, model

    def __iter__(self) -> Iterator[Any]:
        place = device_of(self.model)
        return (moved(plain_table(batch), place) for batch in self.data)

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]


def checked_data(data: Any) -> None:
    """Data is an iterable that starts anew each time. Raises InputError for a tensor, a table or an iterator."""
    if isinstance(data, (Tensor, str, bytes, Mapping)) or not isinstance(data, Iterable):
        raise InputError(f"data is an iterable of batches, such as a DataLoader or a list, not {type(data).__name__}")
    if isinstance(data, Iterator):
        raise InputError(f"data is a {type(data).__name__}, which gives its batches once; pass a DataLoader or a list")


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter is, or else the first buffer."""
    return next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on the device. Any mapping becomes a dict."""
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    return tree_map(lambda v: v.to(device) if isinstance(v, Tensor) else v, batch)


def is_pair(batch: Any) -> bool:
    """Whether a batch is (x, y) with a tensor y."""
    return isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor)


def inputs(batch: Any) -> Any:
    """What of a batch goes into the model, in the form that `example` has: x of a pair (x, y), the batch itself where
    it is a tensor, a table of keyword inputs, or a tuple of one table, which the model takes as it is. Raises DataError
    for anything else."""
    if isinstance(batch, tuple) and len(batch) == 1 and isinstance(batch[0], Mapping):
        return batch
    if is_pair(batch) or (isinstance(batch, (tuple, list)) and len(batch) == 1):
        batch = batch[0]
    elif isinstance(batch, (tuple, list)):
        raise DataError(
            f"a batch of {len(batch)} parts does not say what goes into the model; give x, (x, y) or a dict, or a loss"
        )
    if not isinstance(batch, (Tensor, tuple, list, Mapping)):
        raise DataError(f"a batch is a tensor, a pair (x, y) or a dict of keyword inputs, not {type(batch).__name__}")
    return tuple(batch) if isinstance(batch, list) else plain_table(batch)


def forward(model: nn.Module, batch: Any) -> Any:
    """The model's output for a batch. Raises ExampleError where it refuses the batch."""
    return called(model, inputs(batch))


def called(model: nn.Module, given: Any) -> Any:
    """The model's output for a copy of an input, which it may write into. Raises ExampleError where it refuses that."""
    try:
        return call_model(model, fresh(given))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tree_iter(given) if isinstance(t, Tensor))
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExampleError(f"the model refuses a batch of shape {shapes}: {line}") from error


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """The default loss: mean cross-entropy of the first output on batches (x, y). Raises DataError, ExampleError."""
    if not is_pair(batch):
        raise DataError("cross-entropy needs batches (x, y); give loss=, a function of the model and a batch")
    output = forward(model, batch)
    output = output[0] if isinstance(output, (tuple, list)) and output else output
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise ExampleError(f"the model gives {type(output).__name__}, which has no logits; give loss=")
    try:
        return F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), batch[1])
    except (RuntimeError, ValueError, IndexError) as error:
        given = f"{tuple(logits.shape)} for labels {tuple(batch[1].shape)} of {batch[1].dtype}"
        raise ExampleError(f"the model gives {given}, which cross-entropy does not take; give loss=") from error


def samples(batch: Any) -> list[Any]:
    """A batch divided into batches of one. Raises DataError where its tensors do not agree on how many there are."""
    sizes = {v.shape[0] if v.dim() else 0 for v in tree_iter(batch) if isinstance(v, Tensor)}
    if len(sizes) != 1 or 0 in sizes:
        raise DataError(f"a batch cannot be divided into samples: its tensors have {sorted(sizes) or 'no'} entries")
    return [
        tree_map(lambda v, n=n: v[n : n + 1] if isinstance(v, Tensor) else v, batch) for n in range(next(iter(sizes)))
    ]


def some(data: Iterable[Any], most: int) -> Iterator[Any]:
    """At most so many batches. Raises DataError where there is none."""
    found = False
    for batch in islice(data, most):
        found = True
        yield batch
    if not found:
        raise DataError("data gives no batch")
