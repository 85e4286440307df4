"""What several tests of exports share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def nets() -> Iterator[Any]:
    """The networks, imported by their name as a user's would be."""
    sys.path.insert(0, str(HERE))
    try:
        import nets  # type: ignore[import-not-found]

        yield nets
    finally:
        sys.path.remove(str(HERE))
