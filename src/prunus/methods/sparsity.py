"""A network with zeros among its weights, and what the zeros are worth: per layer, and in bytes on the disk."""

from __future__ import annotations

import weakref
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from ..costs import cost
from ..costs.report import weigh
from ..cutting import trace
from ..plan import plan_for
from ..result import Pruned
from ..state import copied, unwrapped
from ..target import Target
from .computed import computing
from .masks import Masks, write_
from .patterns import holds, input_axis, largest

__all__ = ["SPEED", "Layer", "Sizes", "Thinned", "csr", "layers", "sizes", "thinned", "two_of_four"]

SPEED = (
    "zeros scattered over a weight do not speed up dense kernels: macs and latency are those of the dense network, and "
    "only sparse kernels (2:4 on tensor cores, CSR at very few weights) can turn them into time"
)


@dataclass(frozen=True)
class Layer:
    """A weight, its entries, and how many of them are not 0."""

    name: str
    weights: int
    nonzero: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of files that were written: the dense safetensors file, the same deflated in a zip, and safetensors files
    in which weights are CSR or 2:4 where that is smaller. two_four is None where no weight has the pattern."""

    dense: int
    deflated: int
    csr: int
    two_four: int | None


@dataclass(frozen=True, eq=False)
class Thinned(Pruned):
    """A network of the same widths with zeros. `masks` are True where a weight stayed; `plan` keeps every channel."""

    masks: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def layers(self) -> tuple[Layer, ...]:
        """Of the weights that were considered, as the model is now."""
        return layers(self.model, self.masks)

    def sizes(self) -> Sizes:
        """Write the model in each form, and measure; a few seconds for 100 MB."""
        return sizes(self.model, self.masks)

    def rows(self) -> list[tuple[str, int, int]]:
        """(weight, entries, entries that are not 0)."""
        return [(layer.name, layer.weights, layer.nonzero) for layer in self.layers()]

    def facts(self) -> list[str]:
        """Counts, what they are worth, and notes, a line each."""
        found = self.layers()
        considered, left = sum(x.weights for x in found), sum(x.nonzero for x in found)
        before, whole = self.before, weigh(self.model).nonzero
        lines = [
            f"weights: {considered:,} -> {left:,} ({100 * left / considered:.2f} %)",
            f"nonzero parameters: {before.nonzero:,} -> {whole:,} ({100 * whole / before.params:.2f} % of all)",
            "nothing was cut: the widths are those of the dense network",
            SPEED,
        ]
        return lines + [f"note: {note}" for note in self.notes]

    def __str__(self) -> str:
        wide = max((len(name) for name, _, _ in self.rows()), default=0)
        table = [
            f"{name:<{wide}}  {was:>11,} -> {now:>11,}  {100 * now / was:6.2f} %" for name, was, now in self.rows()
        ]
        return "\n".join([*table, *self.facts()])

    __repr__ = __str__


def thinned(
    model: nn.Module,
    example: Any,
    masks: Masks,
    goal: Target | None = None,
    notes: tuple[str, ...] = (),
    attention: str = "heads",
) -> Thinned:
    """A copy of `model` with the masks written into it."""
    coupling, dense = trace(model, example, attention=attention), unwrapped(model)
    small = copied(dense)
    write_(dict(small.named_parameters(remove_duplicate=False)), masks)
    before = cost(model, example)
    after = replace(before, nonzero=weigh(small).nonzero)
    plan = plan_for(coupling, [range(group.width) for group in coupling.groups])
    source = weakref.ref(dense)
    if whole := [path or "the model" for path, _ in computing(dense)]:
        notes += (f"computed from other tensors, so none of their weights go: {', '.join(whole)}",)
    return Thinned(small, plan, before, after, coupling, None, goal, notes, source, masks=masks)


def layers(model: nn.Module, names: Iterable[str]) -> tuple[Layer, ...]:
    """Nonzero entries of each named parameter."""
    own = dict(model.named_parameters(remove_duplicate=False))
    return tuple(Layer(name, own[name].numel(), int(own[name].count_nonzero())) for name in names)


def sizes(model: nn.Module, names: Iterable[str]) -> Sizes:
    """Write the model's state in each form into a temporary folder. names: the weights that may be stored sparse."""
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in names}
    state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    rows: dict[str, Tensor] = {}
    blocks: dict[str, Tensor] = {}
    patterns = False
    for name, tensor in state.items():
        axis = input_axis(owners[name], tensor) if name in owners else None
        packed = two_of_four(tensor, axis) if axis is not None and holds(tensor, 2, 4, axis) else None
        patterns = patterns or packed is not None
        blocks |= _named(name, packed) if packed else {name: tensor}
        sparse = csr(tensor) if name in owners and tensor.dim() > 1 else None
        rows |= _named(name, sparse) if sparse and _bytes(sparse) < _bytes({"": tensor}) else {name: tensor}
    with TemporaryDirectory() as folder:
        dense = _written(Path(folder) / "dense.safetensors", state)
        archive = Path(folder) / "dense.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.write(dense, "model.safetensors")
        found = Sizes(
            dense=dense.stat().st_size,
            deflated=archive.stat().st_size,
            csr=_written(Path(folder) / "csr.safetensors", rows).stat().st_size,
            two_four=_written(Path(folder) / "blocks.safetensors", blocks).stat().st_size if patterns else None,
        )
    return found


def csr(weight: Tensor) -> dict[str, Tensor]:
    """A weight as rows (axis 0) of nonzero values, their columns (16 bits where that is enough), and row starts."""
    flat = weight.detach().reshape(weight.shape[0], -1)
    at = flat.nonzero()
    starts = torch.zeros(flat.shape[0] + 1, dtype=torch.int32)
    starts[1:] = torch.bincount(at[:, 0], minlength=flat.shape[0]).cumsum(0)
    narrow = torch.uint16 if flat.shape[1] <= 1 << 16 else torch.int32
    return {"values": flat[at[:, 0], at[:, 1]], "columns": at[:, 1].to(narrow), "starts": starts}


def two_of_four(weight: Tensor, axis: int) -> dict[str, Tensor]:
    """A 2:4 weight as two values of every four along `axis`, and their places: 2 bits each, two blocks a byte."""
    moved = weight.detach().movedim(axis, -1)
    places = largest(moved, 2, 4, moved.dim() - 1).reshape(-1, 4).nonzero()[:, 1].reshape(-1, 2)
    values = moved.reshape(-1, 4).gather(1, places)
    bits = (places[:, 0] | places[:, 1] << 2).to(torch.uint8)
    if len(bits) % 2:
        bits = torch.cat([bits, bits.new_zeros(1)])
    return {"values": values, "places": bits[0::2] | bits[1::2] << 4}


def as_json(found: Thinned, measured: Sizes) -> dict[str, Any]:
    """The report as plain data."""
    return {"layers": [asdict(layer) for layer in found.layers()], "bytes_on_disk": asdict(measured), "speed": SPEED}


def _written(path: Path, tensors: dict[str, Tensor]) -> Path:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def _named(name: str, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{part}": tensor for part, tensor in parts.items()}


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())
