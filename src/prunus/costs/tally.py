"""One forward, followed: which module is running, what it cost, and the model left exactly as it was found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.overrides import BaseTorchFunctionMode, TorchFunctionMode

from prunus.errors import ExampleError
from prunus.state import as_found, fresh, modules_of, same_draws, uncheckpointed

__all__ = ["Inputs", "Tally", "follow", "forward"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a forward."""

Leave = Callable[[nn.Module, Inputs, Any], None]
"""Called as a module returns, with its inputs and its output."""


@dataclass
class Tally:
    """Counts by module, and the stack of module calls that are open."""

    by_module: dict[str, int] = field(default_factory=dict)
    unsupported: dict[str, None] = field(default_factory=dict)
    calls: list[tuple[str, nn.Module, Inputs]] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The innermost running module; "" is the model itself."""
        return self.calls[-1][0] if self.calls else ""

    def add(self, count: int) -> None:
        self.by_module[self.path] = self.by_module.get(self.path, 0) + count

    def miss(self, what: str) -> None:
        self.unsupported[f"{what} in {self.path or 'the model itself'}"] = None


@contextmanager
def follow(model: nn.Module, tally: Tally, leave: Leave | None = None) -> Iterator[None]:
    """Keep `tally.calls` right while the model runs. Scripted modules take no hooks: their callers stand for them."""
    names = {module: name for name, module in model.named_modules() if not isinstance(module, torch.jit.ScriptModule)}

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tally.calls.append((names[module], module, (args, kwargs)))

    def returned(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        while tally.calls[-1][1] is not module:  # a call within that the model's own `except` cut short
            tally.calls.pop()
        if leave is not None:
            leave(module, (args, kwargs), output)
        tally.calls.pop()

    with ExitStack() as stack:
        for module in names:
            before = module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(module.register_forward_hook(returned, with_kwargs=True).remove)
        yield


@contextmanager
def passed(model: nn.Module, tally: Tally) -> Iterator[None]:
    """As `follow`, without what modules are given: for a copy that nobody else runs."""
    names = {id(module): (name, module, ((), dict[str, Any]())) for name, module in modules_of(model)}

    def enter(module: nn.Module, args: Any) -> None:
        if id(module) in names:
            tally.calls.append(names[id(module)])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if tally.calls and tally.calls[-1][1] is module:
            tally.calls.pop()

    before = module_hooks.register_module_forward_pre_hook(enter)
    after = module_hooks.register_module_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


def forward(model: nn.Module, inputs: Inputs, tally: Tally, mode: TorchFunctionMode | None = None) -> None:
    """Run the model in eval mode without gradients, under a function mode where it is an outline. ExampleError names
    the module that refused, with its shapes."""
    with as_found(model) if mode is None else same_draws(model), torch.no_grad(), ExitStack() as stack:
        for _, module in modules_of(
            model
        ):  # flag by flag: `model.eval()` may do more in a model that overrides `train`
            module.training = False
        # With a function mode active, attention and encoder layers take their ordinary path, not one fused operation.
        stack.enter_context(mode or BaseTorchFunctionMode())
        stack.enter_context(uncheckpointed())
        if "torch._dynamo" in sys.modules:  # parts of the model may be compiled; only eager calls can be followed
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if any(tensor.is_cuda for tensor in model.parameters()):
            # The flash kernels pad heads to multiples of 8 before they can be seen.
            from torch.nn.attention import SDPBackend, sdpa_kernel

            stack.enter_context(sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]))
        args, kwargs = fresh(inputs)
        try:
            model(*args, **kwargs)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            path, module, (args, kwargs) = tally.calls[-1] if tally.calls else ("", model, inputs)
            where = f"{path} ({type(module).__name__})" if path else type(module).__name__
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExampleError(f"{where} refuses the example: it got {_shapes(args, kwargs)}: {cause}") from error


def _shapes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    shown = [_shape(value) for value in args] + [f"{name}={_shape(value)}" for name, value in kwargs.items()]
    return " and ".join(shown) or "nothing"


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
