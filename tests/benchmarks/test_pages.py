"""benchmarks/pages.py: what is written where, and what the records say together."""

from __future__ import annotations

import pytest

from prunus.errors import InputError


def test_only_what_is_between_the_markers_changes() -> None:
    from pages import between_markers

    page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n"
    assert between_markers(page, "x", "new") == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n"
    with pytest.raises(InputError, match="y: begin"):
        between_markers(page, "y", "new")


def test_what_records_say_is_said_once() -> None:
    from pages import made_on, seeds_of

    one = {"seed": 10, "hardware": "a box", "versions": {"Prunus": "1", "torch": "2"}}
    records = [one, {**one, "seed": 2}, {**one, "seed": 2, "versions": {"Prunus": "1", "torch": "3"}}]
    assert seeds_of(records) == "2, 10"
    assert made_on(records) == "- Hardware: a box. Versions: Prunus 1, torch 2; Prunus 1, torch 3"
