"""Least squares for the layers that read removed channels.

He, Zhang and Sun 2017 (arXiv:1707.06168), section 3.1, equation 1 with the channels given: after the cut, W of a layer
is chosen anew so that it makes of the inputs X that are left what the dense layer made, Y:

    min_W ‖Y − X W‖² + λ ‖W − W₀‖²,   W = W₀ + (XᵀX + λI)⁻¹ Xᵀ (Y − X W₀).

X comes from the small network as it is by then, layer after layer in the order of the forward, so that a layer also
mends what those before it left; Y comes from the dense one. W₀ are the inherited weights: the paper has no such term
(λ = 0), which leaves W undetermined where there are fewer rows than weights. λ is `ridge` times the mean of the
diagonal of XᵀX. A bias takes part. No labels are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..methods.batches import device_of, moved
from ..state import as_found
from .layers import Reader, Unreached, Work, passing, readers


@dataclass(frozen=True)
class Reconstruct:
    """images: samples that are looked at; positions: how many places of each image's feature map become rows of X;
    ridge: see the module."""

    images: int = 512
    positions: int = 16
    ridge: float = 1e-3
    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("images", "positions"):
            if getattr(self, name) < 1:
                raise InputError(f"reconstruct: {name}={getattr(self, name)} must be at least 1")
        if not self.ridge > 0:
            raise InputError(f"reconstruct: ridge={self.ridge} must be above 0")

    def mend(self, work: Work) -> list[str]:
        """Solve for each reader in turn; says which were left as they are."""
        work.dense.eval()
        found, left = readers(work)
        with as_found(work.small), torch.no_grad():
            work.small.eval()
            for reader in found:
                try:
                    matrix = self.solved(work, reader) if solvable(reader) else None
                except Unreached:
                    matrix = None
                if matrix is None:
                    left.append(reader.name)
                else:
                    write(reader, matrix)
        return [f"reconstruct: left as they are: {', '.join(left)}"] if left else []

    def solved(self, work: Work, reader: Reader) -> Tensor | None:
        """The new weights, with the bias as a last row where there is one: float64 (inputs of an output, outputs). None
        where the layer computes something else than its weights times its inputs, as one that pads in its forward."""
        old = inherited(reader)
        squares, cross = old.new_zeros(len(old), len(old)), torch.zeros_like(old)
        draw = torch.Generator().manual_seed(work.seed)
        place = device_of(work.small)
        for given in work.batches(self.images):
            x, own = (several(reader.small, t) for t in passing(work.small, reader.small, moved(given, place)))
            if not agrees(reader, x[:1], own[:1], old):
                return None
            y = several(reader.dense, passing(work.dense, reader.dense, given)[1])
            x, y = rows(reader, x, y.to(place), self.positions, draw)
            squares += x.T @ x
            cross += x.T @ (y - x @ old)
        weight = self.ridge * squares.diagonal().mean()
        squares.diagonal().add_(weight.clamp(min=torch.finfo(torch.float64).tiny))
        better: Tensor = old + torch.linalg.solve(squares, cross)
        return better


def solvable(reader: Reader) -> bool:
    """Linear layers and two-dimensional convolutions that pad by zeros of a stated number."""
    layer = reader.small
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return isinstance(layer, nn.Linear)


def inherited(reader: Reader) -> Tensor:
    """The weights of the small layer as a matrix, float64, with the bias as the last row."""
    layer = reader.small
    matrix = layer.weight.detach().double().flatten(1).T
    return matrix if layer.bias is None else torch.cat([matrix, layer.bias.detach().double()[None]])


def rows(reader: Reader, x: Tensor, y: Tensor, positions: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs of the small layer and kept outputs of the dense one at some positions of each image, float64."""
    x, y = columns(reader.small, x), positioned(reader.small, y)
    if x.shape[1] > positions:
        at = torch.randperm(x.shape[1], generator=draw)[:positions].to(x.device)
        x, y = x[:, at], y[:, at]
    kept = reader.made.to(y.device)
    return x.flatten(0, 1), y.flatten(0, 1)[:, kept].double() * reader.factor.to(y.device)


def several(layer: nn.Module, x: Tensor) -> Tensor:
    """An input or output of a layer with an axis of samples, which a single one may lack."""
    return x[None] if x.dim() == (3 if isinstance(layer, nn.Conv2d) else 1) else x


def columns(layer: nn.Module, x: Tensor) -> Tensor:
    """What each output position of a layer reads: float64 (samples, positions, inputs), a last 1 for the bias."""
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        x = F.unfold(x.double(), layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(1, 2)
    else:
        x = x.double().reshape(x.shape[0], -1, x.shape[-1])
    return x if getattr(layer, "bias", None) is None else torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2)


def positioned(layer: nn.Module, y: Tensor) -> Tensor:
    """An output of a layer as (samples, positions, outputs)."""
    return y.flatten(2).transpose(1, 2) if isinstance(layer, nn.Conv2d) else y.reshape(y.shape[0], -1, y.shape[-1])


def agrees(reader: Reader, x: Tensor, made: Tensor, matrix: Tensor) -> bool:
    """Whether the small layer made of x what its weights as a matrix make of it, to a thousandth or its rounding."""
    want, got = columns(reader.small, x) @ matrix, positioned(reader.small, made).double()
    limit = max(1e-3, 8 * torch.finfo(made.dtype).eps)
    return want.shape == got.shape and bool((want - got).abs().max() <= limit * got.abs().max())


def write(reader: Reader, matrix: Tensor) -> None:
    """Put a matrix of `solved` back into the small layer."""
    layer = reader.small
    if layer.bias is not None:
        layer.bias.copy_(matrix[-1])
        matrix = matrix[:-1]
    layer.weight.copy_(matrix.T.reshape(layer.weight.shape))
