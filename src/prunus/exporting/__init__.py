"""A network as a file that runs without Prunus: a torch.export program, ONNX, OpenVINO IR, or a plain Python module.

The folder is not called `export`, because `prunus.export` is the function: importing a submodule would hide it.
"""

from .exported import FORMATS, Exported, export, form
from .int8 import Int8, Quantized
from .onnx import OPSET
from .parity import LIMIT, Parity

__all__ = ["FORMATS", "LIMIT", "OPSET", "Exported", "Int8", "Parity", "Quantized", "export", "form"]
