"""Which layers a network calls, and with what settings: what a table of seconds is made for.

A layer is a call of a convolution or of `linear`, seen as the forward makes it, functional ones too. It is matched with
the work that the trace counted, by the module in which it ran and the order of the calls there. What has no match
(transposed convolutions, matrix products, attention) has no table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..costs.tally import Tally, follow
from ..graph.coupling import Coupling, Form, Work
from ..graph.opened import opened
from ..state import as_found, call_model, fresh, modules_of, tensors_in

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
FOLDED = frozenset({"batch_norm", "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "dropout", "dropout_"})
DEPTHWISE = 0
"""`Setting.groups` where every channel is a group of its own."""


@dataclass(frozen=True)
class Setting:
    """All of a layer but its widths.

    rows: samples of a convolution; of a linear layer all its rows. space: positions that a convolution reads.
    """

    kind: str  # "conv" | "linear"
    rows: int
    space: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = False
    dtype: str = "float32"

    def __str__(self) -> str:
        """One line, different for different settings: the key of a cache."""
        if self.kind == "linear":
            return f"linear {self.rows} rows {self.dtype}{' bias' if self.bias else ''}"
        k, s, p, d = ("x".join(map(str, v)) for v in (self.kernel, self.stride, self.padding, self.dilation))
        how = "depthwise" if self.groups == DEPTHWISE else f"groups {self.groups}"
        at = "x".join(map(str, (self.rows, *self.space)))
        return f"conv {at} kernel {k} stride {s} padding {p} dilation {d} {how} {self.dtype}" + (
            " bias" if self.bias else ""
        )


@dataclass(frozen=True)
class Called:
    """One call of a layer: its dense widths, and how many positions of one output channel it makes."""

    setting: Setting
    inner: int
    outer: int
    positions: int


@dataclass(frozen=True)
class Layer:
    """A call, the work of it, and its widths as forms of the kept widths of all groups."""

    called: Called
    work: Work
    inner: Form
    outer: Form


@dataclass(frozen=True, eq=False)
class Calls:
    """What one forward called: layers, works that have no layer, how many torch functions made a tensor, and how many
    entries those made that are no layer; `unfolded`: without norms and ReLUs, which runtimes fold into convolutions."""

    layers: tuple[Layer, ...]
    others: tuple[Work, ...]
    count: int
    entries: int
    unfolded: int


class Recorder(TorchFunctionMode):
    """Writes down calls of layers by (module, function), in order."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally, self.count, self.entries, self.unfolded = tally, 0, 0, 0
        self.found: dict[tuple[str, str], list[Called]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        inner = opened(func)
        if inner is not None:
            with self:
                return inner(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if not isinstance(out, Tensor):
            return out
        self.count += 1
        if name in CONVOLUTIONS or name == "linear":
            call = (convolution if name in CONVOLUTIONS else linear)(args, kwargs or {}, out)
            self.found.setdefault((self.tally.path, name), []).append(call)
        elif out.is_floating_point() and not out._is_view():
            self.entries += out.numel()
            self.unfolded += 0 if name in FOLDED else out.numel()
        return out


def convolution(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Called:
    """The setting of a convolution. Padding that differs at the two ends is taken to be alike."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    x, weight = given["input"], given["weight"]
    n, groups = weight.dim() - 2, given.get("groups", 1)
    kernel = tuple(weight.shape[2:])

    def spelled(name: str, default: int) -> tuple[int, ...]:
        value = given.get(name, default)
        return tuple(value) * (n if len(value) == 1 else 1) if isinstance(value, (tuple, list)) else (value,) * n

    dilation, padding = spelled("dilation", 1), given.get("padding", 0)
    if padding == "same":
        pads = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    else:
        pads = (0,) * n if padding == "valid" else spelled("padding", 0)
    outer, inner = weight.shape[0], weight.shape[1] * groups
    setting = Setting(
        "conv",
        rows=x.shape[0] if x.dim() == n + 2 else 1,
        space=tuple(x.shape[-n:]),
        kernel=kernel,
        stride=spelled("stride", 1),
        padding=pads,
        dilation=dilation,
        groups=DEPTHWISE if weight.shape[1] == 1 and groups == inner > 1 else groups,
        bias=given.get("bias") is not None,
        dtype=str(x.dtype).removeprefix("torch."),
    )
    return Called(setting, inner, outer, out.numel() // outer)


def linear(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Called:
    """The setting of a linear layer."""
    given = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
    x, weight = given["input"], given["weight"]
    outer = weight.shape[0] if weight.dim() > 1 else 1
    rows = prod(x.shape[:-1])
    dtype = str(x.dtype).removeprefix("torch.")
    return Called(
        Setting("linear", rows, bias=given.get("bias") is not None, dtype=dtype),
        x.shape[-1],
        outer,
        out.numel() // outer,
    )


def calls_of(model: nn.Module, example: Any, coupling: Coupling) -> Calls:
    """Run the model once in eval mode, and match its layers with the work of the coupling. Changes nothing."""
    tally = Tally()
    recorder = Recorder(tally)
    with as_found(model), torch.no_grad(), follow(model, tally):
        for _, module in modules_of(model):
            module.training = False
        with recorder:
            call_model(model, fresh(example))
    names = {step.op: step.name for step in coupling.steps}
    works: dict[tuple[str, str], list[Work]] = {}
    for work in sorted(coupling.work, key=lambda work: work.op):
        works.setdefault((work.path, names.get(work.op, "")), []).append(work)
    layers, others = [], []
    for place, mine in works.items():
        found = recorder.found.get(place, [])
        if len(found) == len(mine):
            layers += [layer(called, work) for called, work in zip(found, mine, strict=True)]
        else:
            others += mine
    return Calls(tuple(layers), tuple(others), recorder.count, recorder.entries, recorder.unfolded)


def layer(called: Called, work: Work) -> Layer:
    """The widths of a layer as forms. The factors of its work are what it makes, and the slots that a group reads."""
    outer = work.factors[0]
    groups = called.setting.groups
    if groups == DEPTHWISE:
        return Layer(called, work, Form(called.inner), outer)
    slots = work.factors[1]
    inner = Form(slots.fixed * groups, tuple((g, times * groups) for g, times in slots.terms))
    return Layer(called, work, inner, outer)


def batch_of(example: Any) -> int:
    """The length of the first axis of the example's first tensor."""
    tensors = tensors_in(example) if not isinstance(example, dict) else tensors_in(list(example.values()))
    return int(tensors[0].shape[0]) if tensors and tensors[0].dim() else 1
