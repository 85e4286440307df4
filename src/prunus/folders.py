"""A tree of folders, walked through links too."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["folders_below"]


def folders_below(root: Path, left_out: Callable[[str], bool]) -> Iterator[tuple[Path, list[str]]]:
    """Every folder of a tree, itself first, with the names of its files, in order. Each once, though links lead to it
    or back. Folders whose names are left out are not entered."""
    seen: set[str] = set()
    for place, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not left_out(name))
        yield Path(place), sorted(names)
