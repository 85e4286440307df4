"""Forwards that say no width by a number: whatever is cut, they run the same ops.

They call ops of which no number is a number of channels, modules of torch whose numbers a cut sets, and read no size.
A trial cut could not find anything in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..state import tensors_in
from .record import SIZES, Tracer

TOLD_BY = frozenset([Tensor.size, Tensor.numel, Tensor.shape.__get__])  # type: ignore[attr-defined]
"""Of what is no op, what tells widths."""
ANY = frozenset(
    """
    relu relu_ relu6 hardtanh hardtanh_ hardswish hardsigmoid sigmoid silu gelu mish elu selu celu leaky_relu softplus
    tanh dropout dropout1d dropout2d dropout3d batch_norm linear cat flatten permute transpose mean max_pool2d
    avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d
    """.split()
)
TENSORS = frozenset("add add_ __add__ __iadd__ __radd__ mul mul_ __mul__ __imul__ __rmul__".split())
CONVOLUTIONS = frozenset("conv1d conv2d conv3d".split())
"""Ops by name: whatever numbers they are given; given tensors alone; called by a module that keeps their numbers."""


@dataclass
class Plainly(Tracer):
    """Notes whether a forward is one of these."""

    plain: bool = True

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = super().__torch_function__(func, types, args, kwargs)
        self.plain = self.plain and self.says_nothing(func, args, kwargs or {}, out)
        return out

    def says_nothing(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> bool:
        """Of widths."""
        if func in SIZES:
            return func not in TOLD_BY
        name, module = getattr(func, "__name__", ""), self.stack[-1][0]
        if not tensors_in(out) or not (getattr(func, "__module__", None) or "torch").startswith("torch"):
            return False  # a number, or a function of the user's own
        if name in CONVOLUTIONS:
            own = isinstance(module, nn.modules.conv._ConvNd) and "forward" not in vars(module)
            return own and type(module).forward.__module__.startswith("torch.nn.modules.")
        if name == "layer_norm":
            return isinstance(module, nn.LayerNorm) and len(args) > 1 and args[1] is module.normalized_shape
        return name in ANY or (name in TENSORS and not kwargs and all(isinstance(x, Tensor) for x in args))
