"""The `macs` convention: every multiply-accumulate of convolutions, linear layers and matrix products, wherever called.

A dispatch mode sees the operations below the Python calls, so modules, functional calls, `@`, einsum, attention and
recurrent layers are counted by the same dozen rules. An operation that mixes channels and has no rule is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prunus.costs.formulas import Width, attention_macs, conv_macs, linear_macs, matmul_macs
from prunus.costs.tally import Tally

__all__ = ["MACS", "MacCounter"]

Rule = Callable[[tuple[Any, ...], Any], Width]
"""(positional arguments, result) -> macs."""


def _convolution(args: tuple[Any, ...], out: Tensor) -> Width:
    x, weight, transposed = args[0], args[1], args[6]
    return _convolved(weight, over=x if transposed else out)


def _deformable(args: tuple[Any, ...], out: Tensor) -> Width:
    return _convolved(args[1], over=out)


def _convolved(weight: Tensor, over: Tensor) -> Width:
    """A weight (C, C'/g, kernel…) used at every position of a tensor (N, channels, positions…)."""
    batch, _, *positions = over.shape
    channels, per_group, *kernel = weight.shape
    return conv_macs(batch * prod(positions), channels, per_group, prod(kernel))


def _conv_tbc(args: tuple[Any, ...], out: Tensor) -> Width:
    kernel, inner, channels = args[1].shape
    return conv_macs(out.shape[0] * out.shape[1], channels, inner, kernel)


def _linear(args: tuple[Any, ...], out: Tensor) -> Width:
    x, weight = args[0], args[1]
    return linear_macs(x.shape[-1], weight.shape[0], prod(x.shape[:-1]))


def _product(place: int) -> Rule:
    """A matrix product whose two operands begin at this place: vectors, matrices or batches of matrices."""

    def rule(args: tuple[Any, ...], out: Any) -> Width:
        left, right = args[place], args[place + 1]
        rows = left.shape[-2] if left.dim() > 1 else 1
        columns = right.shape[-1] if right.dim() > 1 else 1
        return matmul_macs(rows, left.shape[-1], columns, prod(left.shape[:-2]))

    return rule


def _attention(args: tuple[Any, ...], out: Any) -> Width:
    query, key, value = args[:3]
    heads = prod(query.shape[:-2])
    return attention_macs(heads, query.shape[-2], key.shape[-2], query.shape[-1], value.shape[-1])


def _trilinear(args: tuple[Any, ...], out: Tensor) -> Width:
    """The size of the space that the three operands, each unsqueezed at its own axes, span together."""
    shapes: list[list[int]] = []
    for tensor, expanded in zip(args[:3], args[3:6], strict=True):
        shape = list(tensor.shape)
        for axis in sorted(expanded):
            shape.insert(axis, 1)
        shapes.append(shape)
    space: int = prod(max(sizes) for sizes in zip(*shapes, strict=True))
    return space


def _recurrent(x: Tensor, weights: list[Tensor]) -> Width:
    """Each weight matrix of a fused recurrent layer is used once a step."""
    return prod(x.shape[:-1]) * sum(weight.numel() for weight in weights if weight.dim() > 1)


MACS: dict[str, Rule] = {
    "aten::convolution": _convolution,
    "aten::conv_tbc": _conv_tbc,
    "torchvision::deform_conv2d": _deformable,
    "aten::linear": _linear,
    "aten::mm": _product(0),
    "aten::bmm": _product(0),
    "aten::mv": _product(0),
    "aten::dot": _product(0),
    "aten::vdot": _product(0),
    "aten::addmm": _product(1),
    "aten::addmv": _product(1),
    "aten::addbmm": _product(1),
    "aten::baddbmm": _product(1),
    "aten::_addmm_activation": _product(1),
    "aten::_int_mm": _product(0),
    "aten::_scaled_mm": _product(0),
    "aten::_trilinear": _trilinear,
    "aten::_scaled_dot_product_flash_attention": _attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_efficient_attention": _attention,
    "aten::_scaled_dot_product_cudnn_attention": _attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": _attention,
    "aten::_scaled_dot_product_attention_math_for_mps": _attention,
    "aten::mkldnn_rnn_layer": lambda args, out: _recurrent(args[0], [args[1], args[2]]),
    "aten::_cudnn_rnn": lambda args, out: _recurrent(args[0], args[1]),
    "aten::miopen_rnn": lambda args, out: _recurrent(args[0], args[1]),
}
"""The rule of each operation, by schema name. In-place and `out=` forms share it."""

# Words in the name of an operation of torch that mixes channels. With a word and without a rule, it is reported.
_MIXES = re.compile(
    r"(^|_)(mm|bmm|mv|matmul|gemm|spmm|linear|conv(olution)?|conv\d?d|deform|attention|transformer|rnn|lstm|gru|cdist|pdist"
    r"|fft|linalg|trilinear|bilinear|solve|cholesky|inverse|qr|svd|lu)(_|$)"
)
_HARMLESS = frozenset(
    {"linalg_vector_norm", "linalg_cross", "_linalg_check_errors", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell"}
)
_TORCH = frozenset({"aten", "torchvision", "torchaudio"})
_SILENT = frozenset({"prim", "prims", "profiler", "rngprims", "c10d", "_c10d_functional"})


class MacCounter(TorchDispatchMode):
    """While active, adds the macs of every operation to `tally`, under the module that is running."""

    supports_higher_order_operators = True

    def __init__(self, tally: Tally) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tally = tally

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.name().split(".")[0]
        rule = MACS.get(name) or MACS.get(name.removesuffix("_"))
        if rule is None and torch.is_inference_mode_enabled() and hasattr(func, "decompose"):
            # Under inference_mode composite operations arrive whole; their parts come back through this method.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if rule is not None:
            self.tally.add(int(rule(args, result)))
        elif _mixes(name, args):
            self.tally.miss(name)
        return result


def _mixes(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an operation without a rule may hold multiply-accumulates."""
    namespace, _, base = name.rpartition("::")
    if namespace in _SILENT:
        return False
    if namespace in _TORCH:
        return base not in _HARMLESS and _MIXES.search(base) is not None
    return any(isinstance(arg, Tensor) and (arg.is_floating_point() or arg.is_complex()) for arg in args)
