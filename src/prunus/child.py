"""A process of its own that runs a module of this package."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["command", "environment"]


def command(module: str, *words: str) -> list[str]:
    """What starts `prunus.<module>` with these words, in this interpreter."""
    return [sys.executable, "-m", f"prunus.{module}", *words]


def environment(**given: str) -> dict[str, str]:
    """That of this process with what is given, and PYTHONPATH with the folder of this package where it is not
    installed."""
    told = os.environ.get("PYTHONPATH", "")
    own = str(Path(__file__).resolve().parent.parent)
    path = told if "site-packages" in own else os.pathsep.join(filter(None, (told, own)))
    return {**os.environ, **given, "PYTHONPATH": path}
