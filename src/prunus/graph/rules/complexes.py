"""Complex numbers and Fourier transforms: along other axes than those of the transform, channels pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..labels import resized, varying
from ..record import Call


def transform(call: Call, out: Tensor) -> list[Tensor]:
    """`torch.fft.*`: every place of the transformed axes is made of all of them."""
    x, name = call.get(0, "input"), call.func.__name__
    default: Any = -1 if name[-1] not in "2n" else (-2, -1) if name.endswith("2") else None
    default = None if "shift" in name else default
    dim = call.get(1 if "shift" in name else 2, "dim", default)
    dims = range(x.dim()) if dim is None else [d % x.dim() for d in ([dim] if isinstance(dim, int) else dim)]
    planes = []
    for plane in call.label(x).planes:
        if set(varying(plane)) & set(dims):
            call.book.pin(plane, f"the order of channels matters to {call.name}")
        else:
            planes.append(resized(plane, dims, out.shape))
    return planes


def as_complex(call: Call, out: Tensor) -> list[Tensor]:
    """`view_as_complex`: the last axis holds the two parts of a number."""
    planes = []
    for plane in call.label(call.get(0, "input")).planes:
        if plane.dim() - 1 in varying(plane):
            call.book.pin(plane, "it is the two parts of complex numbers")
        else:
            planes.append(plane.select(-1, 0))
    return planes


def as_real(call: Call, out: Tensor) -> list[Tensor]:
    """`view_as_real`: a last axis of two parts."""
    return [plane.unsqueeze(-1).expand(out.shape) for plane in call.label(call.get(0, "input")).planes]


TRANSFORMS = """
fft ifft rfft irfft hfft ihfft fft2 ifft2 rfft2 irfft2 hfft2 ihfft2 fftn ifftn rfftn irfftn hfftn ihfftn fftshift
ifftshift
""".split()
