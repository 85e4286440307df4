"""Where the optional shared material lies, and the marks that skip what needs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("PRUNUS_SHARED", ROOT.parent / "shared"))


def needs(*parts: str) -> pytest.MarkDecorator:
    """Skip a test unless the path below the shared folder exists."""
    path = SHARED.joinpath(*parts)
    return pytest.mark.skipif(not path.exists(), reason=f"needs {'/'.join(('shared', *parts))}, which is not here")
