"""Fold the mean of removed channels into the layers that read them: bias folding.

A layer y = Σ_c W_c * x_c + b loses Σ_{c removed} W_c * x_c. Its mean over samples and positions, with the padding as it
is, goes into the bias, or into the running mean that the next batch norm takes off; the outputs then keep their means
(Nagel et al. 2019, arXiv:1906.04721, section 4.2, corrects quantised layers so). Where a removed channel is constant,
as after a batch norm with γ = 0, whose shift β is all that it gives, nothing is lost by it.

Without data only what is constant on the example is folded, which is exact. Where the example shows one value of each
channel, as a single sample behind a global pooling, nothing can be told constant, and nothing is folded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .layers import Reader, Unreached, Work, channel_axis, on_axis, passing, readers

PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

CONSTANT = 1e-6
"""What counts as constant: a range of a channel's contribution below this fraction of the layer's largest output."""


@dataclass(frozen=True)
class Fold:
    """images: how many samples of the data the means are taken over."""

    images: int = 512
    needs_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.images < 1:
            raise InputError(f"fold: images={self.images} must be at least 1")

    def mend(self, work: Work) -> list[str]:
        """Shift the readers of removed channels; says which could not be."""
        work.dense.eval()
        found, left = readers(work)
        stuck, single = [], []
        with torch.no_grad():
            for reader in found:
                try:
                    by = constants(work, reader) if work.data is None else means(work, reader, self.images)
                except Unreached:
                    left.append(reader.name)
                    continue
                if by is None:
                    single.append(reader.name)
                elif bool((by != 0).any()) and not reader.shift(by):
                    stuck.append(reader.name)
                elif not moved_by(work, reader, by):
                    reader.shift(-by)
                    left.append(reader.name)
        notes = [f"fold: {', '.join(stuck)} have neither bias nor batch norm of their own to shift"] if stuck else []
        if single:
            notes.append(
                f"fold: the example shows one value of each channel that {', '.join(single)} read, which tells none "
                "constant: give data, or an example of two samples"
            )
        return notes + ([f"fold: left as they are: {', '.join(left)}"] if left else [])


def lost(reader: Reader, x: Tensor, channels: Tensor) -> Tensor:
    """What the dense layer makes of these channels of its input alone, without its bias. A layer whose class has a
    forward of its own, as one that scales its weights or pads, runs with them and without."""
    layer = reader.dense
    mine = on_axis(channels.to(x.dtype), x, channel_axis(layer, x))
    if type(layer) not in PLAIN:
        return layer(x) - layer(x * (1 - mine))  # type: ignore[no-any-return]
    if isinstance(layer, nn.Linear):
        return F.linear(x * mine, layer.weight)
    return layer._conv_forward(x * mine, layer.weight, None)  # type: ignore[no-any-return]  # pads as the layer does


def moved_by(work: Work, reader: Reader, by: Tensor) -> bool:
    """Whether a shift of the bias moves the outputs as much: a class with a forward of its own may scale its bias."""
    layer = reader.small
    if type(layer) in PLAIN or layer.bias is None:
        return True
    given = work.example if work.data is None else next(work.batches(1))
    x, _ = passing(work.dense, reader.dense, given)
    axis = channel_axis(layer, x)
    x = x.index_select(axis, reader.read.nonzero().flatten().to(x.device)).to(layer.bias.device)
    shift = by[reader.made].to(layer.bias) * reader.factor.to(layer.bias)
    after = layer(x)
    layer.bias -= shift
    moved = after - layer(x)
    layer.bias += shift
    rows = moved.movedim(channel_axis(layer, moved), 0).flatten(1)
    largest = max(float(shift.abs().max()), float(after.abs().max()))
    return float((rows.mean(1) - shift).abs().max()) <= 1e-3 * largest


def means(work: Work, reader: Reader, images: int) -> Tensor:
    """The mean of what is lost, for each output of the dense layer."""
    total, count = torch.zeros(len(reader.made), dtype=torch.float64), 0
    for given in work.batches(images):
        x, _ = passing(work.dense, reader.dense, given)
        y = lost(reader, x, ~reader.read)
        rows = y.movedim(channel_axis(reader.dense, y), 0).flatten(1)
        total += rows.double().sum(1).cpu()
        count += rows.shape[1]
    return total / count


def constants(work: Work, reader: Reader) -> Tensor | None:
    """As `means`, on the example, for those removed channels whose contribution is constant there. None where it shows
    one value of each channel."""
    x, out = passing(work.dense, reader.dense, work.example)
    axis = channel_axis(reader.dense, x)
    rows = x.movedim(axis, 0).flatten(1)
    if rows.shape[1] < 2:
        return None
    flat = (rows.amax(1) - rows.amin(1) == 0).cpu() & ~reader.read
    y = lost(reader, x, flat)
    rows = y.movedim(channel_axis(reader.dense, y), 0).flatten(1)
    same = rows.amax(1) - rows.amin(1) <= CONSTANT * out.abs().max()
    return torch.where(same, rows.double().mean(1), 0.0).cpu()
