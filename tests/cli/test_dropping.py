"""Residual blocks from the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Ask = Callable[..., Any]
NET = ("resnet20", "--input", "3,8,8")


def test_prune_drops_blocks(ask: Ask) -> None:
    answer = ask("prune", *NET, "--target", "macs=50%,blocks=-2")
    assert len(answer["dropped"]) == 2
    shown = {w["group"] for w in answer["widths"]}
    # inner widths go; a stream stays, also where it is called after the first layer that wrote to it
    inner = {f"layer{stage}.{k}.conv1" for stage in (1, 2, 3) for k in range(3)}
    assert shown == {"conv1", "layer2.0.conv2", "layer3.0.conv2"} | inner - {
        f"{name}.conv1" for name in answer["dropped"]
    }


def test_more_blocks_than_there_are(refused: Callable[..., str]) -> None:
    line = refused("prune", *NET, "--target", "blocks=-99")
    assert line == "prunus prune: blocks=-99: 9 residual blocks can be dropped from this model"


def test_inspect_has_the_share_of_the_macs(ask: Ask) -> None:
    blocks = ask("inspect", *NET)["blocks"]
    assert [b["name"] for b in blocks] == [f"layer{stage}.{k}" for stage in (1, 2, 3) for k in range(3)]
    # 8 x 8 positions: conv1, then two convolutions a block; stages cost the same, but for the half where they widen
    unit = 9 * 16 * 16 * 64
    total = 27 * 16 * 64 + unit * (6 + 5.5 + 5.5) + 640
    shares = [2, 2, 2, 1.5, 2, 2, 1.5, 2, 2]
    assert all(abs(b["macs"] - share * unit / total) < 1e-12 for b, share in zip(blocks, shares, strict=True))
