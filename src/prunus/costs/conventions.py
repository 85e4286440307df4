"""The counting rules behind published tables, as rules for modules. Functional calls count 0 in all three.

`thop` is thop 0.0.31, `ptflops` is ptflops of June 2023, `thop-2020` is the thop before it.
For x and y the input and output of a module, in elements:

                      thop                       ptflops               thop-2020
    convolution       y·(Cin/g·k + bias)         the same              the same
    batch norm        2·x                        2·x                   4·x
    linear            in·y                       in·y + out (bias)     (2·in − 1)·y
    adaptive avg      y·(in/out sizes + 1)       x                     y·(in/out sizes + 1)
    avg pool          y                          x                     y·(kernel + 1)
    max pools         0                          x                     0
    ReLU and kin      0                          y                     0

The average pool of thop-2020 multiplies the kernel as it was written: kernel_size=7 is 7, kernel_size=(7, 7) is 49.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from prunus.costs.tally import Inputs, Leave, Tally

__all__ = ["CONVENTIONS", "leave_rule"]

CONVENTIONS = ("macs", "thop", "ptflops", "thop-2020")

Rule = Callable[[Any, Tensor, Tensor], int]
"""(module, input, output) -> count."""

Kinds = tuple[type[nn.Module], ...]
_CONVOLUTIONS: Kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: Kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS: Kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_ADAPTIVE: Kinds = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_AVERAGE: Kinds = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_MAX: Kinds = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)
_RELUS: Kinds = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU)


def _convolution(module: Any, x: Tensor, y: Tensor) -> int:
    per_output = prod(module.weight.shape[1:]) + (module.bias is not None)
    return y.numel() * int(per_output)


def _transposed(module: Any, x: Tensor, y: Tensor) -> int:
    channels, _, *kernel = module.weight.shape  # (Cin, Cout/g, kernel…)
    per_output = channels // module.groups * prod(kernel) + (module.bias is not None)
    return y.numel() * int(per_output)


def _norm(factor: int) -> Rule:
    return lambda module, x, y: factor * x.numel()


def _linear(module: Any, x: Tensor, y: Tensor) -> int:
    return x.shape[-1] * y.numel()


def _linear_with_bias(module: Any, x: Tensor, y: Tensor) -> int:
    return x.shape[-1] * y.numel() + (y.shape[-1] if module.bias is not None else 0)


def _linear_2020(module: Any, x: Tensor, y: Tensor) -> int:
    return (2 * x.shape[-1] - 1) * y.numel()


def _adaptive(axes: int) -> Rule:
    """For a pool over the last `axes` axes."""
    return lambda module, x, y: (
        y.numel() * (prod(a // b for a, b in zip(x.shape[-axes:], y.shape[-axes:], strict=True)) + 1)
    )


def _average_2020(module: Any, x: Tensor, y: Tensor) -> int:
    size = module.kernel_size
    return y.numel() * ((size if isinstance(size, int) else prod(size)) + 1)


def _inputs(module: Any, x: Tensor, y: Tensor) -> int:
    return x.numel()


def _outputs(module: Any, x: Tensor, y: Tensor) -> int:
    return y.numel()


_BASE: dict[type[nn.Module], Rule] = {
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    **dict.fromkeys(_TRANSPOSED, _transposed),
}
_POOLS: dict[type[nn.Module], Rule] = {kind: _adaptive(axes) for axes, kind in enumerate(_ADAPTIVE, start=1)}
RULES: Mapping[str, Mapping[type[nn.Module], Rule]] = {
    "thop": {
        **_BASE,
        **dict.fromkeys(_NORMS, _norm(2)),
        nn.Linear: _linear,
        **_POOLS,
        **dict.fromkeys(_AVERAGE, _outputs),
    },
    "ptflops": {
        **_BASE,
        **dict.fromkeys(_NORMS, _norm(2)),
        nn.Linear: _linear_with_bias,
        **dict.fromkeys(_ADAPTIVE + _AVERAGE + _MAX, _inputs),
        **dict.fromkeys(_RELUS, _outputs),
    },
    "thop-2020": {
        **_BASE,
        **dict.fromkeys(_NORMS, _norm(4)),
        nn.Linear: _linear_2020,
        **_POOLS,
        **dict.fromkeys(_AVERAGE, _average_2020),
    },
}
"""A subclass goes by its nearest base."""


def leave_rule(convention: str, tally: Tally) -> Leave:
    """What to do as a module returns: count it, or name it where it holds parameters and the convention has no rule."""
    rules = RULES[convention]

    def leave(module: nn.Module, inputs: Inputs, output: object) -> None:
        rule = next((rules[base] for base in type(module).__mro__ if base in rules), None)
        args, kwargs = inputs
        x = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if rule is not None and x is not None and isinstance(output, Tensor):
            tally.add(rule(module, x, output))
        elif next(module.parameters(recurse=False), None) is not None and not isinstance(module, nn.PReLU):
            tally.miss(type(module).__name__)
        for name, child in module.named_children():
            if isinstance(child, torch.jit.ScriptModule):
                tally.miss(f"the scripted {name}")

    return leave
