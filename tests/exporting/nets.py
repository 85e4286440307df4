"""Small networks that a written Python file can import: nothing here knows of Prunus."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

LONG = 'a "quoted" line\nand ünicode \\ back'


class Block(nn.Module):
    """A residual branch with a scale of its own and a width that it remembers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(width, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.bn1(self.conv1(x)))) * self.scale


class Net(nn.Module):
    def __init__(self, classes: int = 10, word: str = LONG) -> None:
        super().__init__()
        self.word = word
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(Block(16), Block(16))
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Scaled(nn.Module):
    """A parameter of the network's own, a weight that two layers hold, a buffer that no state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.gain = nn.Parameter(torch.rand(12))
        self.second = nn.Linear(12, 12)
        self.third = nn.Linear(12, 12, bias=False)
        self.third.weight = self.second.weight
        self.last = nn.Linear(12, 4)
        self.register_buffer("offset", torch.rand(12), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x)) * self.gain + self.get_buffer("offset")
        y = torch.relu(self.third(torch.relu(self.second(y))))
        return self.last(y)


class Several(nn.Module):
    """Two inputs by keyword, a dict of outputs, one of them a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.inner = nn.Linear(16, 24)
        self.head = nn.Linear(24, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        y = torch.relu(self.inner(self.words(ids))) * mask[..., None]
        pooled = y.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return {"logits": self.head(pooled), "more": (y.amax((1, 2)), mask.sum(1))}


class OneBatch(nn.Module):
    """Written for batches of two."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)).reshape(2, 16))


class Drifting(nn.Module):
    """What it computes depends on how often it was called: no export can do that."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.a(x) * float(self.calls)


class Branching(nn.Module):
    """Goes one way or another by what it reads."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if bool(x.sum() > 0) else x - 1


def made(width: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))


class Ticking(nn.Module):
    """Counts its calls in a buffer, and tells the count."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)
        self.calls = 0
        self.register_buffer("ticks", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.a(x) + self.get_buffer("ticks")
        self.get_buffer("ticks").add_(1)
        return y


class Answer(NamedTuple):
    logits: Tensor
    more: dict[str, object]


class Named(nn.Module):
    """Returns a named tuple with a number, a nothing and a tensor inside."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Answer:
        y = self.a(x)
        return Answer(y, {"count": 3, "none": None, "largest": y.amax(1)})


class Lazily(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.LazyLinear(8), nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """torch's own transformer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.body(self.stem(x))
        return self.head(h.mean(1))  # type: ignore[no-any-return]
