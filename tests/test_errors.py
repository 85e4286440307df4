"""The nearest valid name, whatever the case in which one was typed."""

from __future__ import annotations

import pytest

from prunus.errors import UnknownName, nearest


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("mac", "macs"),
        ("MACS", "macs"),
        ("L1", "l1"),
        ("fpgm2", "FPGM"),
        ("RESNET20", "resnet20"),
        ("quite another word", None),
        ("nett", "net"),
        ("Nett", "Net"),
    ],
)
def test_nearest(typed: str, found: str | None) -> None:
    assert nearest(typed, ["macs", "l1", "l2", "FPGM", "resnet20", "Net", "net"]) == found


def test_each_name_is_listed_once() -> None:
    error = UnknownName.of("layer", "D", ["b", "a", "b", "a"])
    assert str(error) == "unknown layer 'D' (allowed: a, b)"
