"""The ways of running a network that are timed: torch as it is, channels last, compiled, runtimes of exported files."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import InputError
from ..state import call_model, example_tensors

Call = Callable[[], object]


class Runner(Protocol):
    """Makes a call of a network on an example, ready to be timed."""

    def __call__(self, model: nn.Module, example: Any, threads: int) -> Call: ...


def eager(model: nn.Module, example: Any, threads: int) -> Call:
    """The module itself."""
    return lambda: call_model(model, example)


def channels_last(model: nn.Module, example: Any, threads: int) -> Call:
    """A copy with weights and images in NHWC."""
    changed = copy.deepcopy(model).to(memory_format=torch.channels_last)

    def laid(value: Any) -> Any:
        fits = isinstance(value, Tensor) and value.dim() == 4
        return value.contiguous(memory_format=torch.channels_last) if fits else value

    given = tree_map(laid, example)
    return lambda: call_model(changed, given)


def compiled(model: nn.Module, example: Any, threads: int) -> Call:
    """torch.compile of a copy, static shapes."""
    made: nn.Module = torch.compile(copy.deepcopy(model), dynamic=False)  # type: ignore[assignment]
    return lambda: call_model(made, example)


def onnxruntime(model: nn.Module, example: Any, threads: int) -> Call:
    """ONNX Runtime on the CPU, on the exported file."""
    needed("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        session = ort_session(str(_exported(model, example, Path(folder) / "model.onnx")), threads, in_turns=True)
    values = [t.detach().cpu().numpy() for t in example_tensors(example)]
    given = dict(zip((put.name for put in session.get_inputs()), values, strict=True))
    return lambda: session.run(None, given)


def ort_session(file: str | bytes, threads: int, *, in_turns: bool) -> Any:
    """An ONNX Runtime session on the CPU. in_turns: its threads rest between calls. By default they go on spinning for
    some tens of milliseconds, and the network that is timed next shares its cores with them."""
    ort = needed("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if in_turns:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def openvino(model: nn.Module, example: Any, threads: int) -> Call:
    """OpenVINO on the CPU, tuned for latency, in float32."""
    ov = needed("openvino")
    with tempfile.TemporaryDirectory() as folder:
        path = _exported(model, example, Path(folder) / "model.onnx")
        hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        ready = ov.Core().compile_model(str(path), "CPU", hints)
    values = [t.detach().cpu().numpy() for t in example_tensors(example)]
    request = ready.create_infer_request()
    return lambda: request.infer(values)


def _exported(model: nn.Module, example: Any, path: Path) -> Path:
    from ..exporting import export

    export(model, example, path, dynamic=False)
    return path


def needed(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise InputError(f'{name} is not installed: pip install "prunus[export]"') from None


RUNNERS: Mapping[str, tuple[Runner, str]] = MappingProxyType(
    {
        "eager": (eager, "torch, as it is"),
        "channels_last": (channels_last, "torch, NHWC"),
        "compiled": (compiled, "torch.compile"),
        "onnxruntime": (onnxruntime, "ONNX Runtime, CPU"),
        "openvino": (openvino, "OpenVINO, CPU"),
    }
)
