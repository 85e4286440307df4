"""What a batch means: how it goes through the model, its loss, and what is measured. Classification is built in."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from numbers import Real
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.errors import DataError, ExampleError, InputError, UnknownName
from prunus.userfile import beside, first_line, is_file_name, locate, module_of, named

__all__ = ["Classification", "Metrics", "Task", "goodness", "logits", "plain_metrics", "ranked", "task_of"]


class Task(Protocol):
    """What the loop asks of a task. Segmentation or detection replace `Classification` by an object of this shape."""

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """The model's output for a batch."""

    def loss(self, output: Any, batch: Any) -> Tensor:
        """The mean loss over the batch, a scalar."""

    def size(self, batch: Any) -> int:
        """How many samples the batch has."""

    def tally(self, output: Any, batch: Any) -> Mapping[str, Tensor]:
        """Scalars to be summed over all batches."""

    def metrics(self, totals: Mapping[str, float], n: int) -> Any:
        """The sums over n samples, as what `evaluate` returns. A number, or an object or mapping whose first of the
        fields `goodness`, `top1` says how good it is: the larger the better."""


_METHODS = ("forward", "loss", "size", "tally", "metrics")


@dataclass(frozen=True)
class Metrics:
    """top1 and top5 in percent, the mean loss, and the number of samples."""

    top1: float
    top5: float
    loss: float
    n: int

    def __str__(self) -> str:
        return f"top-1 {self.top1:.2f} %, top-5 {self.top5:.2f} %, loss {self.loss:.4f} ({self.n} images)"

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Classification:
    """Cross-entropy on batches (x, y), y whole numbers (N,), or shares (N, classes) where labels are mixed or soft.

    aux_weight: weight of the outputs that a net gives beside the first in train mode (GoogLeNet's paper: 0.3).
    """

    label_smoothing: float = 0.0
    aux_weight: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing={self.label_smoothing} must be in [0, 1)")

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """`model(x)`. Raises ExampleError where the model refuses the batch, DataError where the batch is no (x, y)."""
        x, _ = _pair(batch)
        try:
            return model(x)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ExampleError(f"{type(model).__name__} refuses a batch of shape {tuple(x.shape)}: {reason}") from error

    def loss(self, output: Any, batch: Any) -> Tensor:
        """Mean cross-entropy of the first output, plus aux_weight times that of each auxiliary one."""
        _, y = _pair(batch)
        main = logits(output)
        y = _checked(main, y)
        loss = F.cross_entropy(main, y, label_smoothing=self.label_smoothing)
        for extra in output[1:] if isinstance(output, tuple | list) else ():
            if isinstance(extra, Tensor) and extra.shape == main.shape:
                loss = loss + self.aux_weight * F.cross_entropy(extra, y, label_smoothing=self.label_smoothing)
        return loss

    def size(self, batch: Any) -> int:
        """N."""
        return len(_pair(batch)[1])

    def tally(self, output: Any, batch: Any) -> dict[str, Tensor]:
        """Counts of right answers among the first 1 and 5, and the summed cross-entropy without smoothing. Of shares
        the largest is the right answer."""
        _, y = _pair(batch)
        scores = logits(output).float()
        y = _checked(scores, y)
        right = y.argmax(dim=1) if y.is_floating_point() else y
        best = scores.topk(min(5, scores.shape[1]), dim=1).indices == right[:, None]
        return {
            "top1": best[:, 0].sum(),
            "top5": best.any(dim=1).sum(),
            "loss": F.cross_entropy(scores, y, reduction="sum").double(),
        }

    def metrics(self, totals: Mapping[str, float], n: int) -> Metrics:
        """See Metrics."""
        return Metrics(100 * totals["top1"] / n, 100 * totals["top5"] / n, totals["loss"] / n, n)


def task_of(name: str) -> Task:
    """The task of that name: "classification", or "path/file.py:NAME" with a class or a function that needs no
    arguments, or an object. Raises InputError where it cannot be made, or lacks a method of `Task`.
    """
    if name == "classification":
        return Classification()
    if not is_file_name(name):
        raise UnknownName.of("task", name, ("classification", "path/file.py:Task"))
    path, wanted = locate(name, "Task")
    try:
        with beside(path):
            found = named(module_of(path), wanted, "task")
            made = found() if isinstance(found, type) or inspect.isroutine(found) else found
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"{name!r} cannot be used as a task: {first_line(error)}") from error
    missing = [method for method in _METHODS if not callable(getattr(made, method, None))]
    if missing:
        raise InputError(
            f"{name!r} gives {type(made).__name__}, which lacks {', '.join(missing)}; a task has {', '.join(_METHODS)}"
        )
    task: Task = made
    return task


def goodness(metrics: Any) -> float:
    """How good a model is by its metrics, the larger the better: themselves, or their `goodness` or `top1`.

    Raises InputError where they have none of these.
    """
    found = ranked(metrics)
    if found is None:
        raise InputError(
            f"metrics of type {type(metrics).__name__} cannot be ranked; give them a number named goodness, or keep "
            "the last epoch"
        )
    return found


def ranked(metrics: Any) -> float | None:
    """The same, None where they have none of these."""
    held = metrics if isinstance(metrics, Mapping) else {}
    for name in ("goodness", "top1"):
        found = _number(held.get(name, getattr(metrics, name, None)))
        if found is not None:
            return found
    return _number(metrics)


def plain_metrics(metrics: Any) -> Any:
    """Metrics as JSON has them: a number, or a table of what they hold, with their `goodness` where that is no `top1`.
    What is neither is told as text."""
    number = _number(metrics)
    if metrics is None or number is not None:
        return number
    if is_dataclass(metrics) and not isinstance(metrics, type):
        held: Mapping[Any, Any] = asdict(metrics)
    elif isinstance(metrics, Mapping):
        held = metrics
    elif hasattr(metrics, "_asdict"):
        held = metrics._asdict()
    else:
        held = {name: value for name, value in getattr(metrics, "__dict__", {}).items() if not name.startswith("_")}
    table = {str(name): _plain(value) for name, value in held.items()}
    good = ranked(metrics)
    if good is not None and table.get("top1") != good:
        table["goodness"] = good
    return table or str(metrics)


def _plain(value: Any) -> Any:
    """A number, a text, or a table or list of these."""
    if value is None or isinstance(value, str | int):
        return value
    if (number := _number(value)) is not None:
        return number
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value)


def _number(value: Any) -> float | None:
    """A number of Python or NumPy, or a tensor of one entry."""
    if isinstance(value, Real):
        return float(value)
    return float(value) if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex() else None


def logits(output: Any) -> Tensor:
    """The first output of a model: a tensor, the first of a tuple, or the field `logits`."""
    if isinstance(output, tuple | list) and output:
        output = output[0]
    found = getattr(output, "logits", output)
    if not isinstance(found, Tensor):
        raise ExampleError(f"the model gives {type(output).__name__}, which has no logits")
    return found


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        return batch[0], batch[1]
    held = f" of {', '.join(type(part).__name__ for part in batch)}" if isinstance(batch, tuple | list) else ""
    raise DataError(f"a batch must be the pair (x, y) of tensors, not a {type(batch).__name__}{held[:80]}")


def _checked(scores: Tensor, y: Tensor) -> Tensor:
    """The labels as the loss takes them: int64, or as many shares as the model has outputs."""
    if scores.ndim == 2 and scores.shape[1] == 1:
        raise ExampleError("the model gives one score; to classify it needs one for each of two classes or more")
    if scores.ndim == y.ndim == 2 and y.is_floating_point() and len(scores) == len(y) and y.shape[1] <= scores.shape[1]:
        return F.pad(y, (0, scores.shape[1] - y.shape[1]))  # a head may have more classes than the data
    if scores.ndim != 2 or y.ndim != 1 or len(scores) != len(y):
        raise ExampleError(f"the model gives {tuple(scores.shape)} for labels {tuple(y.shape)}; needed: (N, classes)")
    if y.is_floating_point() or y.is_complex():
        raise DataError(f"labels are {str(y.dtype).removeprefix('torch.')}; classes are whole numbers")
    y = y.long()
    if y.device.type == "cpu" and len(y):  # elsewhere the look would cost a synchronisation a step
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= scores.shape[1]:
            raise DataError(
                f"label {low if low < 0 else high} is out of range for a model with {scores.shape[1]} outputs"
            )
    return y
