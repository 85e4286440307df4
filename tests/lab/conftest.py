"""What the tests of sweeps share: the smallest recipe, runs in this process, and a sweep below tmp_path/runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sweeps import Go, Inside, recipe

import prunus
from prunus.lab import sweep as sweeping
from prunus.lab.book import Swept


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    return recipe(tmp_path)


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Inside:
    """Runs are made in this process."""
    found = Inside()
    monkeypatch.setattr(sweeping, "_crew", lambda *words: found)
    return found


@pytest.fixture
def go(tmp_path: Path) -> Go:
    """Sweep a recipe in silence."""

    def call(raw: Any, *overrides: str, lines: list[str] | None = None, **more: Any) -> Swept:
        told: list[str] = [] if lines is None else lines
        return prunus.sweep(raw, overrides, out=tmp_path / "runs", threads=1, say=told.append, **more)

    return call
