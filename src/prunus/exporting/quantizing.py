"""The two ways to int8: ONNX Runtime's static quantization of a graph, and torchao's PT2E of an exported program.

ONNX Runtime: QuantizeLinear and DequantizeLinear around the ops (QDQ), weights in int8 by channel, activations in
uint8 between the smallest and the largest value seen. torchao: `X86InductorQuantizer` with its default settings, from
histograms of the activations. Batch norms are folded first, and both files hold the weights as int8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExportError, InputError
from .given import Given, arguments, arrays, quiet, short, tensors
from .int8 import Call, Int8, Piece, Quantized, measured, samples
from .onnx import needed
from .program import program


def quantized(given: Given, kind: str, files: Sequence[Path], path: Path, goal: Int8) -> Quantized:
    """Write the int8 network to `path`, from the float one in `files`, and measure it. Raises ExportError, InputError,
    ExampleError, MissingExtra."""
    ranges, others, held_out = samples(goal, given)
    size = sum(file.stat().st_size for file in files)
    if kind == "onnx":
        if len(files) > 1:
            raise InputError(f"int8 of an ONNX network with {size:,} bytes of weights beside it is not offered")
        tool, call = by_onnxruntime(files[0], ranges, path, goal.reduce_range)
    else:
        tool, call = by_torchao(given, ranges, path, goal.reduce_range)
    facts = measured(kind, given, call, others, goal.floor)
    return Quantized(
        tool=tool,
        calibrated=sum(piece.n for piece in ranges),
        held_out=held_out,
        floor=goal.floor,
        float_bytes=size,
        **facts,
    )


@dataclass
class Reader:
    """The samples as ONNX Runtime asks for them, one batch at a time, then None."""

    pieces: Sequence[Piece]
    names: Sequence[str]
    at: int = 0

    def get_next(self) -> dict[str, Any] | None:
        if self.at >= len(self.pieces):
            return None
        self.at += 1
        return arrays(self.pieces[self.at - 1].x, self.names)

    def __len__(self) -> int:
        return len(self.pieces)


def by_onnxruntime(graph: Path, ranges: Sequence[Piece], path: Path, reduce_range: bool) -> tuple[str, Call]:
    """The tool with its version, and what runs the file. Raises ExportError, MissingExtra."""
    needed("onnx", "onnxruntime")
    import onnx
    import onnxruntime

    prepared = path.with_name("prepared.onnx")
    try:
        with quiet():
            from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
            from onnxruntime.quantization.shape_inference import quant_pre_process

            quant_pre_process(str(graph), str(prepared))
            model = onnx.load(str(prepared))
            constant = {one.name for one in model.graph.initializer}
            names = [one.name for one in model.graph.input if one.name not in constant]
            quantize_static(
                str(prepared),
                str(path),
                Reader(ranges, names),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # both packages raise several kinds
        raise ExportError(f"onnx, int8 by ONNX Runtime: {short(error)}") from error
    finally:
        prepared.unlink(missing_ok=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = [one.name for one in session.get_inputs()]

    def call(example: Any) -> list[Tensor]:
        return [torch.as_tensor(out) for out in session.run(None, arrays(example, inputs))]

    return f"onnxruntime {onnxruntime.__version__}", call


def by_torchao(given: Given, ranges: Sequence[Piece], path: Path, reduce_range: bool) -> tuple[str, Call]:
    """The tool with its version, and what runs the file. Raises ExportError, MissingExtra."""
    needed("torchao", extra="int8")
    try:
        with quiet(), torch.no_grad():
            import torchao
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
            from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

            chosen = x86.X86InductorQuantizer()
            chosen.set_global(x86.get_default_x86_inductor_quantization_config(reduce_range=reduce_range))
            watched = prepare_pt2e(program(given).module(), chosen)
            for piece in ranges:
                args, kwargs = arguments(piece.x)
                watched(*args, **kwargs)
            made = slim(convert_pt2e(watched))
            torch.export.save(program(replace(given, model=made)), path)
            module = torch.export.load(path).module()
    except ExportError as error:
        raise ExportError(f"pt2, int8 by torchao: {error}") from error
    except Exception as error:  # of torch.export, of torchao, of what they meet in a graph
        raise ExportError(f"pt2, int8 by torchao: {short(error)}") from error

    def call(example: Any) -> list[Tensor]:
        args, kwargs = arguments(example)
        with torch.no_grad():
            return tensors(module(*args, **kwargs))

    return f"torchao {torchao.__version__}", call


def slim(converted: Any) -> nn.Module:
    """Without the float weights: the conversion leaves them beside the int8 ones, and a file would hold both."""
    used = {node.target for node in converted.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in converted.named_parameters(remove_duplicate=False)]:
        if name not in used:
            path, _, own = name.rpartition(".")
            delattr(converted.get_submodule(path), own)
    found: nn.Module = converted
    return found
