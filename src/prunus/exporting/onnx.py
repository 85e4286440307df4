"""ONNX by the dynamo exporter, checked by onnx and run in ONNX Runtime; OpenVINO IR by way of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter

from ..errors import ExportError, MissingExtra
from .given import Given, arrays, quiet, short, tensors
from .program import Run, program

OPSET = 20
"""The version of the operators that is written unless another is asked for."""
LARGE = 1_500_000_000
"""Bytes of weights above which they lie in a file beside the graph: a protobuf ends at 2 GiB."""


def needed(*packages: str, extra: str = "export") -> None:
    """Raises MissingExtra with the command that installs what is not there."""
    for package in packages:
        try:
            with quiet():
                __import__(package)
        except ImportError as error:
            raise MissingExtra.of(package, extra) from error


def write_onnx(given: Given, path: Path, opset: int = OPSET) -> tuple[tuple[Path, ...], Run]:
    """Write the graph, check it, and give what runs the file. Raises ExportError, MissingExtra."""
    needed("onnx", "onnxscript", "onnxruntime")
    files = to_onnx(given, path, opset)
    return files, lambda examples: in_onnxruntime(path, examples)


def to_onnx(given: Given, path: Path, opset: int) -> tuple[Path, ...]:
    """The files: the graph, and the weights beside it where they are large."""
    import onnx

    found = program(given, without_numbers)
    large = sum(t.numel() * t.element_size() for t in found.state_dict.values()) > LARGE
    try:
        with quiet():
            written = torch.onnx.export(found, (), dynamo=True, verbose=False, opset_version=opset)
            assert written is not None  # None is for the old exporter
            forget(written.model)
            written.save(path, external_data=large)
    except Exception as error:  # an op that has no translation, and whatever else
        raise ExportError(f"onnx, translation to opset {opset}: {short(cause(error))}") from error
    try:
        with quiet():
            onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # onnx raises several kinds
        raise ExportError(f"onnx, onnx.checker: {short(error)}") from error
    return written_at(path)


def written_at(path: Path) -> tuple[Path, ...]:
    """The graph, and the weights beside it where there are some."""
    return tuple(sorted(file for file in path.parent.iterdir() if file.is_file() and file.name.startswith(path.name)))


def without_numbers(returned: Any) -> Any:
    """What a network returns; where that has numbers or text, the tensors alone: a graph returns nothing else."""
    plain = all(leaf is None or isinstance(leaf, Tensor) for leaf in tree_iter(returned))
    return returned if plain else tuple(tensors(returned))


def cause(error: BaseException) -> BaseException:
    """What the exporter met; the errors around it say which step that was in."""
    return error if error.__cause__ is None else cause(error.__cause__)


def forget(model: Any) -> None:
    """Drop what the exporter notes about the code that each node came from: its lines, classes and paths."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
        graph.metadata_props.clear()
    model.metadata_props.clear()


def in_onnxruntime(path: Path, examples: list[Any]) -> list[list[Tensor]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return [[torch.as_tensor(out) for out in session.run(None, arrays(example, names))] for example in examples]


def write_openvino(given: Given, path: Path, opset: int = OPSET) -> tuple[tuple[Path, ...], Run]:
    """Write the .xml and its .bin, in full precision, and give what runs them.

    The ONNX graph is read by OpenVINO's runtime and not by `openvino.convert_model`, which does the same and sends
    usage statistics without asking. Raises ExportError, MissingExtra.
    """
    needed("openvino", "onnx", "onnxscript")
    import openvino

    graph = path.with_suffix(".onnx")
    to_onnx(given, graph, opset)
    try:
        with quiet():
            found = openvino.Core().read_model(str(graph))
            openvino.save_model(found, str(path), compress_to_fp16=False)
            del found
    except Exception as error:  # OpenVINO raises RuntimeError and kinds of its own
        raise ExportError(f"openvino, conversion: {short(error)}") from error
    finally:
        for file in written_at(graph):
            file.unlink()
    return (path, path.with_suffix(".bin")), lambda examples: in_openvino(path, examples)


def in_openvino(path: Path, examples: list[Any]) -> list[list[Tensor]]:
    """On the CPU, in float32: some processors would round to bfloat16 by themselves."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    names = [one.get_any_name() for one in compiled.inputs]
    found = (compiled(arrays(example, names)) for example in examples)
    return [[torch.as_tensor(one[i].copy()) for i in range(len(compiled.outputs))] for one in found]
