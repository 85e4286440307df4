"""The methods by name. One file a method; a line here makes it known."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..errors import InputError, UnknownName
from .attach import Attached
from .controls import Random, Uniform
from .magnitude import Magnitude
from .score import Method
from .slimming import Slimming

METHODS: Mapping[str, tuple[Method, str]] = MappingProxyType(
    {
        "magnitude": (Magnitude(), "L2 norm of the filters that make a channel"),
        "l1": (Magnitude(p=1), "magnitude with the L1 norm"),
        "l2": (Magnitude(p=2), "magnitude with the L2 norm"),
        "slimming": (Slimming(), "scale of the norms that a channel passes"),
        "random": (Random(), "control: by chance"),
        "uniform": (Uniform(), "control: the same fraction of every group, last channels first"),
    }
)


def method_of(given: str | Method) -> Method:
    """A method by name, or the configured object itself. Raises UnknownName, InputError."""
    if isinstance(given, str):
        if given not in METHODS:
            raise UnknownName.of("method", given, METHODS)
        return METHODS[given][0]
    if isinstance(given, type) or not callable(getattr(given, "score", None)):
        raise InputError(f"a method is a name or an object with a score() function, not {given!r:.80}")
    return given


__all__ = ["METHODS", "Attached", "Magnitude", "Method", "Random", "Slimming", "Uniform", "method_of"]
