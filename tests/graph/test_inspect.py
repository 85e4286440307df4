"""A coupling as people see it, in a terminal and in a notebook."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import prunus


class Tailed(nn.Module):
    """A convolution whose name would be markup, and one whose channels are sorted."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"a<b>": nn.Conv2d(3, 8, 3), "c": nn.Conv2d(8, 6, 3)})
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.net["c"](torch.relu(self.net["a<b>"](x)))
        found: Tensor = self.head(x.sort(dim=1).values.mean((2, 3)))
        return found


def test_a_coupling_prints_as_its_tree() -> None:
    found = prunus.trace(Tailed(), torch.randn(1, 3, 9, 9))
    assert repr(found) == str(found)
    assert repr(found).startswith("1 groups, 8 channels; ") and "array(" not in repr(found)


def test_a_coupling_in_a_notebook() -> None:
    page = prunus.trace(Tailed(), torch.randn(1, 3, 9, 9))._repr_html_()
    assert "<td>net.a&lt;b&gt;</td><td>8</td><td>made by net.a&lt;b&gt;; read by net.c</td>" in page
    assert "<li>pinned: net.c outputs (6): " in page and "a<b>" not in page
