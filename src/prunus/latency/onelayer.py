"""One layer alone, ready to be timed on a runtime: torch calls it, ONNX Runtime and OpenVINO get a graph of one node.

The graph is written with onnx.helper: exporting a module for every width would take longer than timing it. A
convolution is followed by a ReLU there, which these runtimes compute along with it, as they do in a network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import InputError
from .runners import FILES, in_onnxruntime
from .settings import DEPTHWISE, Setting

Call = Callable[[], object]

OPSET = 17
"""Of the graphs of one node: any that has these ops would do."""


def one_layer(
    runtime: str, setting: Setting, inner: int, outer: int, threads: int, device: str | torch.device = "cpu"
) -> Call:
    """A call of a layer with these widths on random values. Raises InputError."""
    if runtime in FILES:
        return in_runtime(runtime, graph(setting, inner, outer), threads)
    return in_torch(setting, inner, outer, torch.device(device), runtime == "channels_last")


def one_pass(runtime: str, entries: int, threads: int, device: str | torch.device = "cpu") -> Call:
    """One ReLU of so many numbers. Of one number it is what calling costs by itself, which torch pays for every op, and
    a file once."""
    if runtime not in FILES:
        x = torch.zeros(entries, device=device)
        return lambda: F.relu(x)
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    node = helper.make_node("Relu", ["x"], ["y"])
    ends = [value("x", TensorProto.FLOAT, [entries])], [value("y", TensorProto.FLOAT, [entries])]
    made = (helper.make_graph([node], "pass", *ends), {"x": np.zeros(entries, np.float32)})
    return in_runtime(runtime, made, threads)


def sizes(setting: Setting, inner: int, outer: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Shapes of input and weight, and the groups."""
    if setting.kind == "linear":
        return (setting.rows, inner), (outer, inner), 1
    groups = inner if setting.groups == DEPTHWISE else setting.groups
    return (setting.rows, inner, *setting.space), (outer, inner // groups, *setting.kernel), groups


def in_torch(setting: Setting, inner: int, outer: int, device: torch.device, last: bool) -> Call:
    """A torch function, which compiled networks call too where they do not fuse."""
    taken, shape, groups = sizes(setting, inner, outer)
    dtype = getattr(torch, setting.dtype)
    x, weight = (torch.rand(s, device=device).to(dtype) for s in (taken, shape))
    bias = torch.rand(outer, device=device).to(dtype) if setting.bias else None
    if setting.kind == "linear":
        return lambda: F.linear(x, weight, bias)
    if last and x.dim() == 4:
        x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    convolve: Callable[..., object] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(setting.kernel)]
    how = (setting.stride, setting.padding, setting.dilation, groups)
    return lambda: convolve(x, weight, bias, *how)


def graph(setting: Setting, inner: int, outer: int) -> tuple[Any, dict[str, Any]]:
    """The graph of one layer, and its input."""
    from onnx import TensorProto, helper, numpy_helper

    if setting.dtype != "float32":
        raise InputError(f"latency= on exported files is timed in float32, and the network runs in {setting.dtype}")
    taken, shape, groups = sizes(setting, inner, outer)
    draw = np.random.default_rng(0)
    weights = [numpy_helper.from_array(draw.random(shape, np.float32), "w")]
    # A network that is exported in eval mode has its norms folded into its convolutions, so there is a bias.
    weights.append(numpy_helper.from_array(draw.random(outer, np.float32), "b"))
    if setting.kind == "linear":
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
        given: list[int] = [setting.rows, outer]
    else:
        how: dict[str, Any] = {"kernel_shape": setting.kernel, "strides": setting.stride, "dilations": setting.dilation}
        made = helper.make_node("Conv", ["x", "w", "b"], ["c"], group=groups, pads=setting.padding * 2, **how)
        nodes = [made, helper.make_node("Relu", ["c"], ["y"])]
        given = [setting.rows, outer, *[0] * len(setting.space)]
        for axis, n in enumerate(setting.space):
            k, s, p, d = (v[axis] for v in (setting.kernel, setting.stride, setting.padding, setting.dilation))
            given[2 + axis] = (n + 2 * p - d * (k - 1) - 1) // s + 1
    ends = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, taken)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, given)],
    )
    return helper.make_graph(nodes, "layer", *ends, initializer=weights), {"x": draw.random(taken, np.float32)}


def in_runtime(runtime: str, made: tuple[Any, dict[str, Any]], threads: int) -> Call:
    """A graph on ONNX Runtime or OpenVINO, with the settings with which networks are timed."""
    from onnx import helper

    found, given = made
    whole = helper.make_model(found, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8).SerializeToString()
    values = list(given.values())
    if runtime == "onnxruntime":
        return in_onnxruntime(whole, values, threads, in_turns=False)  # in a network its threads are still awake
    return FILES[runtime](whole, values, threads)
