"""A part of a data set."""

from __future__ import annotations

from typing import Any

from prunus.engine.data import Split, Stream
from prunus.engine.split import stratified

__all__ = ["limited"]


def limited(part: Any, limit: int) -> Any:
    """At most so many samples of a part, evenly of all classes, always the same ones."""
    if not isinstance(part, Split | Stream) or len(part) <= limit:
        return part
    return part.subset(stratified(part.labels, limit / len(part))[1])
