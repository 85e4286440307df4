"""The table of rules, keyed by the function objects that torch calls, or by name where the op is a library's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..own import taught
from ..record import Rule
from . import complexes, detection, layout, mixing, norms, picked, pointwise, products, recurrent, written

PLACES = (torch, Tensor, F, torch._C._nn, torch.special, torch.linalg, torch.fft, torch._C._VariableFunctions)


def functions(names: Iterable[str]) -> dict[Any, str]:
    """Every function object torch calls by one of these names, in place or not, as a function or a method."""
    found: dict[Any, str] = {}
    for name in names:
        for variant in (name, name if name.startswith("__") else name + "_"):
            for place in PLACES:
                func = getattr(place, variant, None)
                if callable(func) and not isinstance(func, type):
                    found[func] = name
    return found


def table() -> Mapping[Any, Rule]:
    """The built-in rules, and those of the user's own that are in force."""
    own = taught()
    return {**built_in(), **own} if own else built_in()


@lru_cache(maxsize=1)
def built_in() -> Mapping[Any, Rule]:
    """The built-in rules. A function listed under two rules is a mistake and refused."""
    from ...models.shortcut import take

    rules: dict[Any, Rule] = {}
    families: list[tuple[Iterable[str], Rule]] = [
        (pointwise.ELEMENTWISE, pointwise.elementwise),
        (pointwise.LIKE, pointwise.like),
        (pointwise.DRAWN, pointwise.drawn),
        (pointwise.FRESH, pointwise.fresh),
        (["where"], detection.where),
        (["nonzero", "argwhere"], detection.places),
        (detection.LOSSES, detection.loss),
        (["new_zeros"], pointwise.new_zeros),
        (["prelu"], pointwise.prelu),
        (["glu"], pointwise.glu),
        (["copy"], pointwise.assign),
        (layout.REPLAY, layout.replay),
        (["pixel_shuffle"], layout.pixel_shuffle),
        (layout.PIECES, layout.pieces),
        (layout.INDEX, layout.index),
        (["cat", "concat", "concatenate", "stack"], layout.concatenated),
        (["pad"], layout.padded),
        (["__setitem__"], written.set_item),
        (["index_select"], picked.chosen),
        (["gather"], picked.gathered),
        (["index_add", "index_copy", "index_reduce"], picked.put),
        (["scatter", "scatter_add", "scatter_reduce"], picked.scattered),
        (complexes.TRANSFORMS, complexes.transform),
        (["view_as_complex"], complexes.as_complex),
        (["view_as_real"], complexes.as_real),
        (["real", "imag"], pointwise.like),
        (norms.SOFTMAX, norms.softmax),
        (norms.ORDERED, norms.ordered),
        (norms.REDUCE, norms.reduction),
        (["argmax", "argmin"], norms.numbered),
        (norms.POOL, norms.pooled),
        (["max_unpool1d", "max_unpool2d", "max_unpool3d"], norms.unpooled),
        *(([name], rule) for name, rule in norms.NORM_RULES.items()),
        *(([name], rule) for name, rule in mixing.mixing_table().items()),
        *(([name], rule) for name, rule in products.PRODUCTS.items()),
        *(([name], rule) for name, rule in recurrent.RECURRENT.items()),
    ]
    for names, rule in families:
        for func, name in functions(names).items():
            if rules.get(func, rule) is not rule:
                raise AssertionError(f"two rules for {name}")
            rules[func] = rule
    for name in layout.PROPERTIES:
        rules[getattr(Tensor, name).__get__] = layout.replay if name in {"T", "mT", "H", "mH"} else pointwise.like
    rules[Tensor.to] = pointwise.like
    rules[Tensor.unfold], rules[F.unfold], rules[F.fold] = layout.replay, layout.columns, layout.folded
    rules[F.grid_sample] = norms.sampled
    rules[take] = mixing.taken
    rules |= detection.BY_NAME
    return MappingProxyType(rules)
