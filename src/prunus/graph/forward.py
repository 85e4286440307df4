"""One forward of a model under the tracer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from ..errors import ExampleError, ModelError, PrunusError
from ..outline import shape_of
from ..state import call_model, example_tensors, fresh, modules_of, uncheckpointed
from .record import Call, Tracer, op_name

BATCH_NORM_TRAINING = 5

FLOAT = frozenset({"FloatFunctional", "FXFloatFunctional"})
"""Modules that compute in float, in a namespace of quantised ones: they observe what is yet to be quantised."""


def stored_statistics(call: Call) -> Any:
    """Batch norm in train mode reads its stored statistics while a model is traced, so that one sample is enough."""
    if call.func is F.batch_norm and call.get(BATCH_NORM_TRAINING, "training", False):
        x, mean, var = call.args[0], call.get(1, "running_mean"), call.get(2, "running_var")
        if mean is None:
            shape = (1, x.shape[1])
            mean, var = x.new_zeros(shape[1]), x.new_ones(shape[1])
        return F.batch_norm(x, mean, var, call.get(3, "weight"), call.get(4, "bias"), False)
    return call.func(*call.args, **call.kwargs)


def shapes_alone(call: Call) -> Any:
    """The result of a call on an outline."""
    with torch._C._DisableTorchDispatch():  # the witness looks at what runs outside of calls
        found = shape_of(call.func, call.args, call.kwargs)
        return stored_statistics(call) if found is None else found


def run(tracer: Tracer, model: nn.Module, example: Any) -> Any:
    """One forward under the tracer. What goes wrong inside is told with the module, the op and the shapes."""
    at: list[str] = []
    tracer.failed = ()
    given_execute = tracer.execute
    inner = given_execute or (lambda call: call.func(*call.args, **call.kwargs))

    def execute(call: Call) -> Any:
        try:
            return inner(call)
        except PrunusError:
            raise
        except Exception:
            shapes = [tuple(t.shape) for t in tree_iter((call.args, call.kwargs)) if isinstance(t, Tensor)]
            tracer.failed = tuple(t for t in tree_iter((call.args, call.kwargs)) if isinstance(t, Tensor))
            tracer.failed_in = call.path
            at.append(f"in {call.path or 'forward'}, {op_name(call.func)} on {', '.join(map(str, shapes))}")
            raise

    tracer.execute = execute
    try:
        given = fresh(example)
        for tensor in example_tensors(given):
            tracer.mark(tensor, (), "it meets the model's input")
        with tracer.watching(), uncheckpointed():
            return call_model(model, given)
    except PrunusError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in example_tensors(example))
        where = f" {at[0]}:" if at else ""
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExampleError(f"the model refuses the example {shapes}:{where} {line}") from error
    finally:
        tracer.execute = given_execute  # the closure holds the tracer, which would outlive this call


def traceable(model: nn.Module) -> nn.Module:
    """The model itself; what cannot be traced is refused by name with a ModelError."""
    for path, module in modules_of(model):
        kind = type(module).__name__
        where = f"{path or 'the model'} is a {kind}"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{where}: scripted modules cannot be cut; pass the eager model")
        if "FullyShardedDataParallel" in kind or kind.startswith("FSDP"):
            raise ModelError(f"{where}: gather the parameters first, then prune the plain module")
        if (
            ".quantized" in type(module).__module__
            and type(module).__module__.startswith("torch.")
            and kind not in FLOAT
        ):
            raise ModelError(f"{where}: prune before quantising")
    return model


def outputs(tree: Any, depth: int = 4) -> Iterator[Tensor]:
    """Every tensor a model returned, inside containers, dataclasses and plain objects."""
    for leaf in tree_iter(tree):
        if isinstance(leaf, Tensor):
            yield leaf
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            yield from outputs([getattr(leaf, f.name) for f in fields(leaf)], depth - 1)
        elif depth and hasattr(leaf, "__dict__") and not isinstance(leaf, (type, nn.Module)):
            yield from outputs(list(vars(leaf).values()), depth - 1)
