"""int8 after the export: what is asked for, the samples it needs, and what it is measured by.

Rounding to 8 bits changes every output, so the limit of a float export means nothing here. What is held against the
float network instead is its first output's choice of class on samples, and the error of all outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import ExampleError, ExportError, InputError
from ..methods.batches import checked_data, inputs, is_pair
from .given import Given, short, tensors

Call = Callable[[Any], list[Tensor]]
"""What an exported network returns for one example."""

FORMATS = ("onnx", "pt2")
"""Those that int8 is written to: by ONNX Runtime, and by torchao."""


@dataclass(frozen=True, eq=False)
class Int8:
    """Static post-training quantization: weights in int8 by output channel, activations in uint8 by tensor.

    data: batches as they go into the network, x, (x, y) or a dict; the ranges of activations come from the first
    `calibrate` samples. held: batches that are measured before and after; None: what follows in `data`, or the
    calibration samples where nothing does. measure: at most so many samples of them; None: all.
    floor: the least agreement with the float network, a fraction, below which nothing is written. reduce_range: 7 bits
    for weights (ONNX Runtime) or activations (torchao), for x86 processors without VNNI, whose sums can overflow.
    """

    data: Iterable[Any]
    calibrate: int = 256
    held: Iterable[Any] | None = None
    measure: int | None = 1000
    floor: float = 0.8
    reduce_range: bool = False

    @classmethod
    def of(cls, given: Int8 | Iterable[Any]) -> Int8:
        """Settings, or the batches alone. Raises InputError."""
        found = given if isinstance(given, cls) else cls(given)  # type: ignore[arg-type]
        checked_data(found.data)
        if found.held is not None:
            checked_data(found.held)
        counts = [found.calibrate, *([] if found.measure is None else [found.measure])]
        if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in counts):
            raise InputError(
                f"int8 needs at least one sample: calibrate={found.calibrate!r}, measure={found.measure!r} (None: all)"
            )
        if not isinstance(found.floor, (int, float)) or not 0 <= found.floor <= 1:
            raise InputError(f"floor={found.floor!r}: the least agreement is a fraction from 0 to 1, such as 0.8")
        return found

    def check(self, kind: str, model: nn.Module) -> None:
        """Raises InputError for a format or a network that has no int8 here."""
        if kind not in FORMATS:
            raise InputError(f"int8 is written to .onnx (ONNX Runtime) and .pt2 (torchao), not to the format {kind}")
        for name, tensor in model.named_parameters():
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                kept = str(tensor.dtype).removeprefix("torch.")
                raise InputError(f"int8 starts from a network in float32, and {name} is in {kept}; call model.float()")


@dataclass(frozen=True)
class Quantized:
    """What int8 cost. agreement: the fraction of samples for which the first output's largest entry along axis 1 is the
    float network's; None where that output has no such axis, and then 1 − error is held to the floor. error: the root
    of the sum of squared differences of all outputs over that of the float outputs. top1: percent before and after,
    where the measured batches had labels. held_out: whether the ranges came from other samples."""

    tool: str
    calibrated: int
    measured: int
    held_out: bool
    agreement: float | None
    error: float
    floor: float
    top1: tuple[float, float] | None
    float_bytes: int

    def __str__(self) -> str:
        others = "others" if self.held_out else "of these"
        lines = [f"int8 by {self.tool}: ranges from {self.calibrated:,} samples, {self.measured:,} {others} measured"]
        agrees = "" if self.agreement is None else f"agreement with the float network {100 * self.agreement:.2f} %, "
        lines.append(f"{agrees}relative error {self.error:.1e} (floor {100 * self.floor:g} %)")
        if self.top1 is not None:
            lines.append(f"top-1: {self.top1[0]:.2f} % -> {self.top1[1]:.2f} %")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "top1": None if self.top1 is None else list(self.top1)}


@dataclass(frozen=True, eq=False)
class Piece:
    """Some samples: inputs in the form of the example, labels where there are any, how many."""

    x: Any
    y: Tensor | None
    n: int

    def part(self, start: int, stop: int) -> Piece:
        def rows(value: Any) -> Any:
            counts = isinstance(value, Tensor) and value.dim() and value.shape[0] == self.n
            return value[start:stop] if counts else value

        return Piece(tree_map(rows, self.x), None if self.y is None else self.y[start:stop], stop - start)


def samples(goal: Int8, given: Given) -> tuple[list[Piece], Iterable[Piece], bool]:
    """Those for the ranges, those to measure, and whether they are others. Raises InputError, ExampleError."""
    found = pieces(goal.data, given)
    ranges, rest = first(found, goal.calibrate, given.dynamic)
    if not ranges:
        size = "" if given.dynamic else f" of {given.samples} samples, as the example has"
        raise InputError(f"int8: the data gave no batch{size}")
    said(given.reference(), ranges[0].x)
    if goal.held is not None:
        found, rest = pieces(goal.held, given), None
    measured = itertools.chain([] if rest is None else [rest], found)
    head = next(measured, None)
    if head is None:
        if goal.held is not None:
            raise InputError("int8: held= gave no batch")
        return ranges, limited(iter(ranges), goal.measure, given.dynamic), False
    return ranges, limited(itertools.chain([head], measured), goal.measure, given.dynamic), True


def pieces(data: Iterable[Any], given: Given) -> Iterator[Piece]:
    """The batches on the CPU, in pieces of one size where the network takes no other. Empty ones are left out."""
    for batch in data:
        x = tree_map(lambda v: v.detach().cpu() if isinstance(v, Tensor) else v, inputs(batch))
        found = Piece(x, batch[1].cpu() if is_pair(batch) else None, length(x) if given.samples else 1)
        if given.dynamic or not given.samples:
            if found.n:
                yield found
            continue
        for start in range(0, found.n - given.samples + 1, given.samples):
            yield found.part(start, start + given.samples)


def first(found: Iterator[Piece], count: int, divisible: bool) -> tuple[list[Piece], Piece | None]:
    """Pieces with `count` samples, and what is left of the last one."""
    taken, left = list[Piece](), count
    for piece in found:
        if divisible and piece.n > left:
            taken.append(piece.part(0, left))
            return taken, piece.part(left, piece.n)
        taken.append(piece)
        left -= piece.n
        if left <= 0:
            break
    return taken, None


def limited(found: Iterable[Piece], count: int | None, divisible: bool) -> Iterator[Piece]:
    """Pieces with at most so many samples; with up to a piece more where they may not be divided."""
    left = count
    for piece in found:
        if left is not None and divisible and piece.n > left:
            yield piece.part(0, left)
            return
        yield piece
        if left is not None:
            left -= piece.n
            if left <= 0:
                return


def length(x: Any) -> int:
    """Samples of a batch."""
    every = [t for t in tensors(x) if t.dim()]
    return next((t.shape[0] for t in every if t.dim() > 1), every[0].shape[0] if every else 1)


def measured(kind: str, given: Given, call: Call, found: Iterable[Piece], floor: float) -> dict[str, Any]:
    """Measured, agreement, error and top1 of `Quantized`, over the pieces.

    Raises ExportError for values that are not finite, other shapes, or an agreement below the floor.
    """
    eager = given.reference()
    for example in given.examples():
        checked(kind, eager(example), answer(kind, call, example))
    count = votes = same = labelled = 0
    right, apart, whole = [0, 0], 0.0, 0.0
    for piece in found:
        want, got = said(eager, piece.x), answer(kind, call, piece.x)
        checked(kind, want, got)
        count += piece.n
        for a, b in zip(want, got, strict=True):
            if a.is_floating_point():
                apart += float((a.double() - b.double()).square().sum())
                whole += float(a.double().square().sum())
        if not chooses(want[0]):
            continue
        ours, theirs = want[0].argmax(1), got[0].argmax(1)
        votes, same = votes + ours.numel(), same + int((ours == theirs).sum())
        if piece.y is not None and piece.y.shape == ours.shape and not piece.y.is_floating_point():
            labelled += ours.numel()
            right = [right[0] + int((ours == piece.y).sum()), right[1] + int((theirs == piece.y).sum())]
    error = (apart / whole) ** 0.5 if whole else float(apart > 0)
    agreement = same / votes if votes else None
    held = 1 - error if agreement is None else agreement
    if not held >= floor:
        what = f"a relative error of {error:.2f}" if agreement is None else f"agreement on {100 * held:.2f} %"
        raise ExportError(
            f"{kind}, int8: {what} of {count:,} samples, and the floor is {100 * floor:g} %; nothing was written; "
            "calibrate on more samples, or give another floor"
        )
    top1 = (100 * right[0] / labelled, 100 * right[1] / labelled) if labelled else None
    return {"measured": count, "agreement": agreement, "error": error, "top1": top1}


def said(eager: Call, x: Any) -> list[Tensor]:
    """What the float network says. Raises ExampleError."""
    try:
        return eager(x)
    except Exception as error:  # the user's forward may raise anything
        raise ExampleError(f"int8: the network does not run on a batch of the data: {short(error)}") from error


def answer(kind: str, call: Call, example: Any) -> list[Tensor]:
    try:
        return call(example)
    except Exception as error:  # whatever a runtime raises
        raise ExportError(f"{kind}, int8, running the file: {short(error)}") from error


def checked(kind: str, want: Sequence[Tensor], got: Sequence[Tensor]) -> None:
    """Raises ExportError for other shapes, or values that are not finite where the float network's are."""
    shapes = [[tuple(t.shape) for t in found] for found in (want, got)]
    if shapes[0] != shapes[1]:
        raise ExportError(f"{kind}, int8: the file returned the shapes {shapes[1]}, not {shapes[0]}")
    for ours, theirs in zip(want, got, strict=True):
        if not bool(torch.isfinite(theirs[torch.isfinite(ours)]).all()):
            raise ExportError(f"{kind}, int8: the file returned values that are not finite; nothing was written")


def chooses(output: Tensor) -> bool:
    """Whether axis 1 is one of classes."""
    return output.dim() > 1 and output.shape[1] > 1 and output.is_floating_point()
