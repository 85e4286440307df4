"""The answer of `cost`: counts of one model, printed in human units."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import ModelError
from prunus.state import modules_of, tensors_of, uncollected

__all__ = ["Cost", "human", "weigh"]

_PREFIXES = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


@dataclass(frozen=True)
class Cost:
    """What a model costs. `macs` is for one sample in eval mode, counted by the rules of `convention`.

    params: all parameters, shared ones once, frozen included. nonzero: their entries that are not 0 (on the meta
    device, all). bytes: parameters and buffers in their dtypes. params_conv_linear: weights and biases of convolution
    and linear modules. by_module: macs by qualified module name, for what ran directly in it; "" is the model itself.
    unsupported: what may cost something and is not in `macs`. per: "sample", or "example" where the model would not run
    on the example's first sample alone.
    """

    macs: int
    params: int
    nonzero: int
    bytes: int
    params_trainable: int
    params_conv_linear: int
    convention: str = "macs"
    by_module: Mapping[str, int] = field(default_factory=dict, hash=False, repr=False)
    unsupported: tuple[str, ...] = ()
    per: str = "sample"

    def to_json(self) -> dict[str, Any]:
        """Every field, as JSON takes it."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return values | {"by_module": dict(self.by_module), "unsupported": list(self.unsupported)}

    def rows(self) -> Iterator[tuple[str, str]]:
        """What to print, as (label, text)."""
        rule = "" if self.convention == "macs" else f" ({self.convention})"
        yield "macs" + rule, human(self.macs) + (" for the whole example" if self.per == "example" else "")
        # Biases that start at 0 are not news; weights that were pruned are.
        share = f" ({self.nonzero / self.params:.1%} nonzero)" if self.nonzero < 0.95 * self.params else ""
        yield "parameters", human(self.params) + share
        yield "size", human(self.bytes, "B")
        if self.unsupported:
            yield "not counted", ", ".join(_grouped(self.unsupported))

    def __str__(self) -> str:
        (label, macs), (_, params), (_, size), *rest = self.rows()
        line = f"{macs.replace(' for', f' {label} for')}" if " for" in macs else f"{macs} {label}"
        number, _, share = params.partition(" (")
        line += f", {number} parameters{' (' + share if share else ''}, {size}"
        return "\n".join([line, *(f"{what}: {text}" for what, text in rest)])

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in self.rows())
        return f"<table>{cells}</table>"


def _grouped(places: tuple[str, ...]) -> Iterator[str]:
    """ "x in a", "x in b", "y in c" -> "x in 2 modules", "y in c"."""
    kinds = Counter(place.partition(" in ")[0] for place in places)
    for kind, count in kinds.items():
        yield next(p for p in places if p.partition(" in ")[0] == kind) if count == 1 else f"{kind} in {count} modules"


def human(number: float, unit: str = "") -> str:
    """Four digits and a prefix: 125485696 -> "125.5 M"; with unit="B", 3412072 -> "3.412 MB"."""
    for power, prefix in _PREFIXES:
        if float(f"{number / power:.4g}") >= 1:
            return f"{number / power:#.4g}".rstrip(".") + f" {prefix}{unit}"
    return f"{number:.4g} {unit}".rstrip()


@dataclass(frozen=True)
class Weights:
    """The part of a cost that needs no forward."""

    params: int
    nonzero: int
    bytes: int
    params_trainable: int
    params_conv_linear: int


@uncollected()
def weigh(model: nn.Module) -> Weights:
    """Count parameters and bytes. ModelError where a lazy module has no shape yet."""
    named = tensors_of(model, buffers=False)
    for name, parameter in named.items():
        if nn.parameter.is_lazy(parameter):
            raise ModelError(f"{name} has no shape yet: run the model once before it is counted")
    params = list(_once(named.values()))
    layers = (m for _, m in modules_of(model) if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear)))
    return Weights(
        params=sum(p.numel() for p in params),
        nonzero=sum(p.numel() if p.is_meta else int(torch.count_nonzero(p)) for p in params),
        bytes=sum(t.numel() * t.element_size() for t in _once([*params, *model.buffers()])),
        params_trainable=sum(p.numel() for p in params if p.requires_grad),
        params_conv_linear=sum(p.numel() for p in _once(p for layer in layers for p in layer.parameters())),
    )


def _once(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Each tensor the first time it occurs; two that view the same memory in the same way are one."""
    seen = set()
    for tensor in tensors:
        place: tuple[Any, ...] = (id(tensor),)
        if tensor.layout is torch.strided and not tensor.is_meta and tensor.data_ptr():
            place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in seen:
            seen.add(place)
            yield tensor
