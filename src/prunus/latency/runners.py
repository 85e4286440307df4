"""The ways of running a network that are timed: torch as it is, channels last, compiled, runtimes of exported files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import InputError
from ..state import call_model, copied, example_tensors, fresh

Call = Callable[[], object]
Array = npt.NDArray[Any]


class Runner(Protocol):
    """Makes a call of a network on an example, ready to be timed."""

    def __call__(self, model: nn.Module, example: Any, threads: int) -> Call: ...


def repeated(model: nn.Module, example: Any) -> Call:
    """A call on a copy of the example: the same one each time, or a new one where the model writes into it."""
    given, kept = fresh(example), fresh(example)
    versions = [t._version for t in example_tensors(given)]
    with torch.no_grad():
        call_model(model, given)
    if [t._version for t in example_tensors(given)] != versions:
        return lambda: call_model(model, fresh(kept))
    return lambda: call_model(model, given)


def eager(model: nn.Module, example: Any, threads: int) -> Call:
    """The module itself."""
    return repeated(model, example)


def channels_last(model: nn.Module, example: Any, threads: int) -> Call:
    """A copy with weights and images in NHWC."""
    changed = copied(model).to(memory_format=torch.channels_last)

    def laid(value: Any) -> Any:
        fits = isinstance(value, Tensor) and value.dim() == 4
        return value.contiguous(memory_format=torch.channels_last) if fits else value

    return repeated(changed, tree_map(laid, example))


def compiled(model: nn.Module, example: Any, threads: int) -> Call:
    """torch.compile of a copy, static shapes."""
    made: nn.Module = torch.compile(copied(model), dynamic=False)  # type: ignore[assignment]
    return repeated(made, example)


def onnxruntime(model: nn.Module, example: Any, threads: int) -> Call:
    """ONNX Runtime on the CPU, on the exported file."""
    return _exported("onnxruntime", model, example, threads)


def openvino(model: nn.Module, example: Any, threads: int) -> Call:
    """OpenVINO on the CPU, tuned for latency, in float32."""
    return _exported("openvino", model, example, threads)


def _exported(runtime: str, model: nn.Module, example: Any, threads: int) -> Call:
    from ..exporting import export

    needed(runtime)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(model, example, path, dynamic=False)
        return FILES[runtime](str(path), arrays_of(example), threads)


def arrays_of(example: Any) -> list[Array]:
    """The tensors of an example, in order, as the inputs of an exported file."""
    return [t.detach().cpu().numpy() for t in example_tensors(example)]


def in_onnxruntime(graph: str | bytes, values: Sequence[Array], threads: int, *, in_turns: bool = True) -> Call:
    """A call of a graph in ONNX Runtime."""
    session = ort_session(graph, threads, in_turns=in_turns)
    given = dict(zip((put.name for put in session.get_inputs()), values, strict=True))
    return lambda: session.run(None, given)


def ort_session(graph: str | bytes, threads: int, *, in_turns: bool) -> Any:
    """An ONNX Runtime session on the CPU. in_turns: its threads rest between calls. By default they go on spinning for
    some tens of milliseconds, and the network that is timed next shares its cores with them."""
    ort = needed("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if in_turns:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def in_openvino(graph: str | bytes, values: Sequence[Array], threads: int) -> Call:
    """A call of a graph in OpenVINO, tuned for latency, in float32."""
    core = needed("openvino").Core()
    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(graph), "CPU", hints).create_infer_request()
    return lambda: request.infer(list(values))


def needed(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise InputError(f'{name} is not installed: pip install "prunus[export]"') from None


FILES: Mapping[str, Callable[[str | bytes, Sequence[Array], int], Call]] = MappingProxyType(
    {"onnxruntime": in_onnxruntime, "openvino": in_openvino}
)
"""Runtimes that run a file: a call of one, by its path or its bytes."""

RUNNERS: Mapping[str, tuple[Runner, str]] = MappingProxyType(
    {
        "eager": (eager, "torch, as it is"),
        "channels_last": (channels_last, "torch, NHWC"),
        "compiled": (compiled, "torch.compile"),
        "onnxruntime": (onnxruntime, "ONNX Runtime, CPU"),
        "openvino": (openvino, "OpenVINO, CPU"),
    }
)
