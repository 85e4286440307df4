"""What is exported: a copy of the network in eval mode on the CPU, its example, and which axis counts samples."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map

from ..errors import ExampleError, ExportError
from ..state import call_model, copied, example_tensors, fresh, plain_table

OTHER = (1, 3, 2)
"""Batch sizes that are checked beside the example's own; the first two that it does not have."""


@dataclass(frozen=True, eq=False)
class Given:
    """`model` is a copy, in eval mode, on the CPU. `samples` is the length of axis 0 that counts samples, None where
    there is none; `dynamic` says whether the exported network shall take any number of them."""

    model: nn.Module
    example: Any
    samples: int | None
    dynamic: bool
    note: str = ""

    @classmethod
    def of(cls, model: nn.Module, example: Any, dynamic: bool = True) -> Given:
        """Raises ExampleError where the network refuses the example."""
        twin = copied(model).to("cpu").eval()
        for parameter in twin.parameters():
            parameter.requires_grad_(False)
        example_tensors(example)
        sample = tree_map(lambda v: v.cpu() if isinstance(v, Tensor) else v, fresh(plain_table(example)))
        axes = [t.shape[0] for t in tensors(sample) if t.dim() > 1] or [t.shape[0] for t in tensors(sample) if t.dim()]
        found = cls(twin, sample, axes[0] if axes else None, dynamic)
        try:
            found.eager(sample)
        except ExportError:
            raise
        except Exception as error:  # the user's forward may raise anything
            raise ExampleError(f"the network does not run on the example: {short(error)}") from error
        return found.settled() if dynamic else replace(found, note="as asked")

    def settled(self) -> Given:
        """The same, static where the network itself takes no other number of samples."""
        if self.samples is None:
            return replace(self, dynamic=False, note="the example has no axis of samples")
        for size in self.others():
            try:
                rows = {t.shape[0] for t in self.eager(self.resized(size)) if t.dim()}
            except Exception as error:  # the user's forward may raise anything
                return replace(self, dynamic=False, note=f"the network itself refuses batch {size}: {short(error)}")
            if rows and size not in rows:
                return replace(self, dynamic=False, note=f"what it returns for batch {size} has no axis of samples")
        return self

    def static(self, why: str) -> Given:
        return replace(self, dynamic=False, note=why)

    def others(self) -> tuple[int, ...]:
        return tuple(size for size in OTHER if size != self.samples)[:2]

    def resized(self, size: int) -> Any:
        """The example with `size` samples: its own, again and again."""
        return tree_map(lambda v: repeated(v, size) if self.counts(v) else v, self.example)

    def counts(self, value: Any) -> bool:
        """Whether axis 0 of this value counts samples."""
        return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == self.samples

    def traced(self) -> Any:
        """The example to trace: a length of 1 would be taken for a constant."""
        return self.resized(max(2, self.samples or 0)) if self.dynamic else self.example

    def examples(self) -> list[Any]:
        """The inputs of the check: the example, another of its size, and where any batch goes two other sizes."""
        found = [self.example, varied(self.example, 1)]
        if self.dynamic:
            found += [varied(self.resized(size), 2 + i) for i, size in enumerate(self.others())]
        return found

    def eager(self, example: Any) -> list[Tensor]:
        """What the network returns, as a list of tensors, from the state in which it is exported."""
        return self.reference()(example)

    def reference(self) -> Callable[[Any], list[Tensor]]:
        """What the network returns call by call, from the state in which it is exported. What calls write goes into a
        copy, which shares the parameters: the file holds the buffers and numbers of the network as it was given."""
        twin = copied(self.model, {id(p): p for p in self.model.parameters()})

        def answer(example: Any) -> list[Tensor]:
            with torch.no_grad():
                found = tensors(call_model(twin, fresh(example)))
            if not found:
                raise ExportError(
                    "the network returns no tensors in tuples, lists or dicts, so nothing can be compared"
                )
            return found

        return answer


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor)]


def arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example if isinstance(example, tuple) else (example,)), {}


def arrays(example: Any, names: Sequence[str]) -> dict[str, Any]:
    """The tensors of an example as NumPy arrays under the names that a runtime gave to its inputs."""
    if isinstance(example, Mapping):
        given = {name: value for name, value in example.items() if isinstance(value, Tensor)}
        if set(given) == set(names):
            return {name: given[name].numpy() for name in names}
    return {name: t.numpy() for name, t in zip(names, tensors(example), strict=True)}


def repeated(tensor: Tensor, size: int) -> Tensor:
    return torch.cat([tensor] * -(-size // tensor.shape[0]))[:size].clone()


def varied(example: Any, seed: int) -> Any:
    """Other values of the same make: those of floating tensors in another order, with a tenth of their spread as noise.
    Whole numbers, which may index, change their order only where nothing else can vary."""
    generator = torch.Generator().manual_seed(seed)
    floats = any(t.is_floating_point() for t in tensors(example))

    def other(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dim() or value.is_floating_point() != floats:
            return value
        moved = value.reshape(-1)[torch.randperm(value.numel(), generator=generator)].reshape(value.shape)
        if not floats:
            return moved
        spread = float(value.double().std()) if value.numel() > 1 else 0.0
        noise = torch.randn(value.shape, generator=generator) * (0.1 * spread or 1.0)
        return moved + noise.to(value.dtype)

    return tree_map(other, example)


def short(error: BaseException) -> str:
    """The kind of an error and its first line, not too long."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What exporters warn and log about their own parts is no concern of the user's; errors pass."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
