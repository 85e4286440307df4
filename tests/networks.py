"""Random networks out of the blocks that people write, for property tests.

A network is a stem, a list of `(kind, a, b)` and a classifier; a and b are small integers that each kind reads as it
likes. Every block takes and gives (N, C, H, W) with H = W = 8 and any C that is a multiple of 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Spec = Sequence[tuple[str, int, int]]
SIDE = 8


def conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class Plain(nn.Module):
    """c -> another width."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.out = 4 * (1 + (a + b) % 6)
        self.body = conv(c, self.out, 1 + 2 * (b % 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x))


class Residual(nn.Module):
    """Two convolutions and a shortcut, which projects where the width changes."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.out = c if a % 2 else 4 * (1 + a % 5)
        self.first, self.second = conv(c, 4 * (1 + b % 4)), conv(4 * (1 + b % 4), self.out)
        self.shortcut = nn.Identity() if self.out == c else conv(c, self.out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class Concat(nn.Module):
    """Branches side by side, one of them the input itself where a is even."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.keep = a % 2 == 0
        self.left, self.right = conv(c, 4 * (1 + a % 3)), conv(c, 4 * (1 + b % 3), 1)
        self.out = 4 * (2 + a % 3 + b % 3) + (c if self.keep else 0)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.left(x), self.right(x)] + ([x] if self.keep else [])
        return torch.cat(parts, dim=1).relu()


class Split(nn.Module):
    """C2f: half goes on, half is worked on, all is joined."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        hidden = 4 * (1 + a % 3)
        self.enter, self.inner = conv(c, 2 * hidden, 1), conv(hidden, hidden)
        self.out = 4 * (1 + b % 5)
        self.leave = conv(3 * hidden, self.out, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, dim=1))
        parts.append(F.relu(self.inner(parts[-1])))
        return F.relu(self.leave(torch.cat(parts, 1)))


class Gated(nn.Module):
    """A gated linear unit along channels."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.out = 4 * (1 + (a + 2 * b) % 4)
        self.body = conv(c, 2 * self.out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.body(x), dim=1)


class Grouped(nn.Module):
    """A grouped convolution between two plain ones."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        hidden = 8 * (1 + a % 3)
        self.out = 4 * (1 + b % 4)
        self.body = nn.Sequential(
            conv(c, hidden, 1),
            nn.ReLU(),
            conv(hidden, hidden, 3, 2 + 2 * (b % 2)),
            nn.ReLU(),
            conv(hidden, self.out, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x))


class Depthwise(nn.Module):
    """An inverted residual with squeeze and excitation."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        hidden, self.out = 4 * (2 + a % 4), c
        self.enter, self.depth, self.leave = conv(c, hidden, 1), conv(hidden, hidden, 3, hidden), conv(hidden, c, 1)
        self.squeeze, self.excite = nn.Conv2d(hidden, 4, 1), nn.Conv2d(4, hidden, 1)
        self.add = b % 2 == 0

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.depth(F.hardswish(self.enter(x))))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return x + self.leave(y) if self.add else self.leave(y)


class Shuffled(nn.Module):
    """Channel shuffle by reshape, before a grouped convolution."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.groups, self.out = 2, 4 * (1 + b % 4)
        hidden = 8 * (1 + a % 3)
        self.enter, self.inner, self.leave = conv(c, hidden, 1), conv(hidden, hidden, 3, 2), conv(hidden, self.out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.enter(x))
        n, c, h, w = y.shape
        y = y.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        return F.relu(self.leave(self.inner(y)))


class Pixels(nn.Module):
    """Space to depth and back, or a transposed convolution after a pool."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.transposed, self.out = a % 2 == 0, 4 * (1 + b % 3)
        self.down = conv(4 * c, 4 * self.out, 1)
        self.up = nn.ConvTranspose2d(c, self.out, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if self.transposed:
            return F.relu(self.up(F.max_pool2d(x, 2)))
        return F.pixel_shuffle(F.relu(self.down(F.pixel_unshuffle(x, 2))), 2)


class Normed(nn.Module):
    """A convolution between norms that count channels."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.out = 4 * (1 + a % 5)
        self.group = nn.GroupNorm(2, c)
        self.body, self.layer = nn.Conv2d(c, self.out, 3, padding=1), nn.LayerNorm(self.out)
        self.scale = nn.Parameter(torch.full((self.out, 1, 1), 0.5 + 0.1 * b))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(F.gelu(self.group(x)))
        return self.layer(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * self.scale


class Attention(nn.Module):
    """Tokens of a 4 x 4 grid attend to each other: written out, by SDPA, or by nn.MultiheadAttention."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.out, self.heads, self.style = c, 2, a % 3
        self.norm = nn.LayerNorm(c)
        self.qkv, self.project = nn.Linear(c, 3 * c, bias=b % 2 == 0), nn.Linear(c, c)
        self.builtin = nn.MultiheadAttention(c, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        tokens = self.norm(F.avg_pool2d(x, 2).flatten(2).transpose(1, 2))
        if self.style == 2:
            made = self.builtin(tokens, tokens, tokens, need_weights=False)[0]
        else:
            width = self.qkv.out_features // 3 // self.heads
            q, k, v = self.qkv(tokens).reshape(n, -1, 3, self.heads, width).permute(2, 0, 3, 1, 4).unbind(0)
            if self.style == 1:
                made = F.scaled_dot_product_attention(q, k, v)
            else:
                made = (q @ k.transpose(-2, -1) * width**-0.5).softmax(-1) @ v
            made = self.project(made.transpose(1, 2).reshape(n, -1, self.heads * width))
        return x + F.interpolate(made.transpose(1, 2).reshape(n, -1, h // 2, w // 2), scale_factor=2.0)


class Recurrent(nn.Module):
    """The places of a 4 x 4 grid one after the other: an LSTM or a GRU, one way or both, of one layer or two."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        kind, both = (nn.LSTM, nn.GRU)[a % 2], b % 2 == 0
        width = 4 * (1 + a % 3)
        self.body = kind(c, width, 1 + b % 3 % 2, batch_first=True, bidirectional=both)
        self.out = width * (1 + both)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        steps = self.body(F.avg_pool2d(x, 2).flatten(2).transpose(1, 2))[0]
        return F.interpolate(steps.transpose(1, 2).reshape(n, -1, h // 2, w // 2), scale_factor=2.0)


class Twice(nn.Module):
    """One convolution that is called two times."""

    def __init__(self, c: int, a: int, b: int) -> None:
        super().__init__()
        self.out = c
        self.body, self.norms = (
            nn.Conv2d(c, c, 3, padding=1),
            nn.ModuleList(nn.BatchNorm2d(c) for _ in range(1 + b % 2)),
        )

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = F.relu(norm(self.body(x)))
        return self.body(x)


BLOCKS: dict[str, type[nn.Module]] = {
    block.__name__.lower(): block
    for block in (
        Plain,
        Residual,
        Concat,
        Split,
        Gated,
        Grouped,
        Depthwise,
        Shuffled,
        Pixels,
        Normed,
        Attention,
        Recurrent,
        Twice,
    )
}


class Network(nn.Module):
    """Stem, blocks, classifier."""

    def __init__(self, spec: Spec, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        c = 8
        self.stem, blocks = conv(3, c), []
        for kind, a, b in spec:
            blocks.append(BLOCKS[kind](c, a, b))
            c = int(blocks[-1].out)  # type: ignore[arg-type]
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(c, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]
