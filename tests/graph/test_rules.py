"""One row a rule: which widths come out, and that a random cut of them is exact."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import conv, head, image, net, pool, tokens

import prunus


class Row(NamedTuple):
    make: Callable[[], nn.Module]
    groups: dict[str, tuple[int, int]]  # name -> width, channels that go together
    example: tuple[int, ...] = (1, 3, 8, 8)
    shifted: bool = False  # an op counts channels: the plainly zeroed network is another one


def classifier(wide: int, after: Callable[..., Tensor], width: int = 16, **parts: object) -> Callable[[], nn.Module]:
    """conv a of `width` channels, then `after(self, activations)` of `wide` channels, pooled, linear h."""

    def make() -> nn.Module:
        return net(lambda s, x: s.h(pool(after(s, s.a(x)))), a=conv(3, width), h=head(wide), **parts)

    return make


def sequence(wide: int, after: Callable[..., Tensor], width: int = 16, **parts: object) -> Callable[[], nn.Module]:
    """The same for tokens (N, T, C)."""

    def make() -> nn.Module:
        return net(lambda s, x: s.h(after(s, tokens(s.a(x))).mean(1)), a=conv(3, width), h=head(wide), **parts)

    return make


def plain(**parts: nn.Module) -> Callable[[], nn.Module]:
    """Modules one after the other."""
    return lambda: net(lambda s, x: [x := getattr(s, name)(x) for name in parts][-1], **parts)


def halves(s: nn.Module, y: Tensor) -> Tensor:
    """Halves by Python arithmetic, each with an activation of its own, swapped."""
    c = y.shape[1] // 2
    return torch.cat([y[:, c:].sigmoid(), y[:, :c].relu()], 1)


def shuffled(s: nn.Module, y: Tensor) -> Tensor:
    """Channel shuffle of two blocks by view."""
    n, c, h, w = y.shape
    return s.g(y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


def implied(softmax: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """Over the axis that torch takes where none is said: the first of three, else the second; of which it warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return softmax(y)


def excited(s: nn.Module, y: Tensor) -> Tensor:
    """Squeeze and excite."""
    return y * s.up(s.down(pool(y)).relu()).sigmoid()[:, :, None, None]


def attended(s: nn.Module, t: Tensor) -> Tensor:
    """Attention without a width in its scale."""
    return (s.q(t) @ s.k(t).transpose(-1, -2)).softmax(-1) @ s.v(t)


def dotted(s: nn.Module, t: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(s.q(t), s.k(t), s.v(t))


def written(s: nn.Module, y: Tensor) -> Tensor:
    """The first half of the channels is overwritten by another conv of the same activations."""
    z = y.clone()
    z[:, : y.shape[1] // 2] = s.b(y)
    return z


def standardised(s: nn.Module, y: Tensor) -> Tensor:
    """Weight standardisation by mean and deviation."""
    w = s.b.weight
    w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
    return F.conv2d(y, w, s.b.bias, padding=1)


def summed(s: nn.Module, y: Tensor) -> Tensor:
    z = s.b(y)
    z += y
    return z.mul_(2).relu_()


ROWS: dict[str, Row] = {
    # sums over channels
    "conv1d": Row(
        plain(a=nn.Conv1d(3, 8, 3), b=nn.Conv1d(8, 6, 3), f=nn.Flatten(), h=head(24)),
        {"a": (8, 1), "b": (6, 1)}, (1, 3, 8),
    ),
    "conv2d": Row(plain(a=conv(3, 8), b=conv(8, 6), f=nn.Flatten(), h=head(384)), {"a": (8, 1), "b": (6, 1)}),
    "conv3d": Row(
        plain(a=nn.Conv3d(3, 8, 3), b=nn.Conv3d(8, 6, 2), f=nn.Flatten(), h=head(6)),
        {"a": (8, 1), "b": (6, 1)}, (1, 3, 4, 4, 4),
    ),
    "circular padding": Row(
        classifier(8, lambda s, y: s.b(y), b=conv(16, 8, padding_mode="circular")), {"a": (16, 1), "b": (8, 1)}
    ),
    "transposed 1d": Row(
        plain(a=nn.ConvTranspose1d(3, 8, 3), b=nn.ConvTranspose1d(8, 6, 3, stride=2), f=nn.Flatten(), h=head(6 * 13)),
        {"a": (8, 1), "b": (6, 1)}, (1, 3, 4),
    ),
    "transposed 2d": Row(
        classifier(6, lambda s, y: s.b(y), b=nn.ConvTranspose2d(16, 6, 2, stride=2)), {"a": (16, 1), "b": (6, 1)}
    ),
    "transposed 3d": Row(
        plain(a=nn.ConvTranspose3d(3, 8, 2), b=nn.Conv3d(8, 6, 3), f=nn.Flatten(), h=head(6)),
        {"a": (8, 1), "b": (6, 1)}, (1, 3, 2, 2, 2),
    ),
    # 16 inputs in 4 groups: slot j of every group goes together, 4 slots; 8 outputs in 4 blocks that keep equally many.
    "grouped": Row(classifier(8, lambda s, y: s.b(y), b=conv(16, 8, groups=4)), {"a": (4, 1), "b": (8, 4)}),
    # 16 inputs in 4 blocks that keep equally many; output slot j of every group goes together: 12 / 4 slots.
    "grouped transposed": Row(
        classifier(12, lambda s, y: s.b(y), b=nn.ConvTranspose2d(16, 12, 2, groups=4)), {"a": (16, 4), "b": (3, 1)}
    ),
    "depthwise": Row(classifier(16, lambda s, y: s.b(y), b=conv(16, 16, groups=16)), {"a": (16, 1)}),
    "depthwise with multiplier": Row(classifier(32, lambda s, y: s.b(y), b=conv(16, 32, groups=16)), {"a": (16, 1)}),
    "depthwise transposed": Row(
        classifier(16, lambda s, y: s.b(y), b=nn.ConvTranspose2d(16, 16, 2, groups=16)), {"a": (16, 1)}
    ),
    "functional depthwise": Row(
        classifier(16, lambda s, y: F.conv2d(y, s.w, groups=y.shape[1]), w=nn.Parameter(torch.ones(16, 1, 3, 3))),
        {"a": (16, 1)},
    ),
    "linear after flatten": Row(
        lambda: net(lambda s, x: s.h(s.b(s.a(x).flatten(1)).relu()), a=conv(3, 4), b=head(256, 7), h=head(7)),
        {"a": (4, 1), "b": (7, 1)},
    ),
    "linear after flatten, channels last": Row(
        lambda: net(lambda s, x: s.h(s.a(x).permute(0, 2, 3, 1).flatten(1)), a=conv(3, 4), h=head(256)), {"a": (4, 1)}
    ),
    "linear on tokens": Row(sequence(9, lambda s, t: s.b(t).relu(), b=head(16, 9)), {"a": (16, 1), "b": (9, 1)}),
    "addmm": Row(
        lambda: net(
            lambda s, x: s.h(torch.addmm(s.c, pool(s.a(x)), s.w)),
            a=conv(3, 8), w=nn.Parameter(torch.ones(8, 6)), c=nn.Parameter(torch.ones(6)), h=head(6),
        ),
        {"a": (8, 1), "w": (6, 1)},
    ),
    "matmul of activations": Row(
        sequence(12, attended, q=head(16, 10), k=head(16, 10), v=head(16, 12)),
        {"a": (16, 1), "q": (10, 1), "v": (12, 1)}, shifted=False,
    ),
    # the channels of q and k are pinned: the scale of the softmax follows their width
    "sdpa": Row(
        sequence(12, dotted, q=head(16, 10), k=head(16, 10), v=head(16, 12)),
        {"a": (16, 1), "q": (10, 1), "v": (12, 1)},
    ),
    "embedding": Row(
        lambda: net(lambda s, i: s.h(s.b(s.e(i)).relu().mean(1)), e=nn.Embedding(11, 8), b=head(8, 6), h=head(6)),
        {"e": (8, 1), "b": (6, 1)}, (1, 5),
    ),
    "weight times a parameter": Row(
        classifier(8, lambda s, y: F.conv2d(y, s.b.weight * s.g), b=conv(16, 8, bias=False),
        g=nn.Parameter(torch.ones(8, 1, 1, 1))),
        {"a": (16, 1), "b": (8, 1)},
    ),
    "weight standardisation": Row(
        classifier(8, standardised, b=conv(16, 8)), {"a": (16, 1), "b": (8, 1)}, shifted=True
    ),
    # norms
    "batch norm": Row(classifier(16, lambda s, y: s.n(y), n=nn.BatchNorm2d(16)), {"a": (16, 1)}),
    "batch norm of vectors": Row(
        lambda: net(lambda s, x: s.h(s.n(pool(s.a(x)))), a=conv(3, 8), n=nn.BatchNorm1d(8), h=head(8)), {"a": (8, 1)}
    ),
    "batch norm after flatten": Row(
        lambda: net(lambda s, x: s.h(s.n(s.a(x).flatten(1))), a=conv(3, 4), n=nn.BatchNorm1d(256), h=head(256)),
        {"a": (4, 1)},
    ),
    "batch norm without statistics": Row(
        classifier(16, lambda s, y: s.n(y).relu(), n=nn.BatchNorm2d(16, track_running_stats=False)), {"a": (16, 1)}
    ),
    "instance norm": Row(
        classifier(16, lambda s, y: s.n(y).relu(), n=nn.InstanceNorm2d(16, affine=True, track_running_stats=True)),
        {"a": (16, 1)},
    ),
    "layer norm": Row(sequence(16, lambda s, t: s.n(t), n=nn.LayerNorm(16)), {"a": (16, 1)}, shifted=True),
    "layer norm over C, H, W": Row(
        classifier(16, lambda s, y: s.n(y).relu(), n=nn.LayerNorm([16, 8, 8])), {"a": (16, 1)}, shifted=True
    ),
    "rms norm": Row(sequence(16, lambda s, t: s.n(t), n=nn.RMSNorm(16)), {"a": (16, 1)}, shifted=True),
    "group norm": Row(classifier(16, lambda s, y: s.n(y).relu(), n=nn.GroupNorm(4, 16)), {"a": (16, 4)}, shifted=True),
    "group norm of one group": Row(
        classifier(16, lambda s, y: s.n(y).relu(), n=nn.GroupNorm(1, 16)), {"a": (16, 1)}, shifted=True
    ),
    "softmax over channels": Row(
        classifier(5, lambda s, y: s.b(y.softmax(1)), b=conv(16, 5)), {"a": (16, 1), "b": (5, 1)}, shifted=True
    ),
    "normalize over channels": Row(
        classifier(5, lambda s, y: s.b(F.normalize(y, dim=1)), b=conv(16, 5)), {"a": (16, 1), "b": (5, 1)},
    ),
    "normalize over channels and positions": Row(
        classifier(5, lambda s, y: s.b(F.normalize(y, p=math.inf, dim=(1, 2, 3))), b=conv(16, 5)),  # type: ignore[arg-type]
        {"a": (16, 1), "b": (5, 1)},
    ),
    "softmax of no axis": Row(
        classifier(5, lambda s, y: s.b(implied(F.softmax, y)), b=conv(16, 5)), {"a": (16, 1), "b": (5, 1)}, shifted=True
    ),
    "softmin of no axis, of three": Row(
        sequence(16, lambda s, t: implied(F.softmin, t)), {"a": (16, 1)}
    ),
    "mean over channels": Row(
        classifier(5, lambda s, y: s.b(y - y.mean(1, keepdim=True)), b=conv(16, 5)),
        {"a": (16, 1), "b": (5, 1)}, shifted=True,
    ),
    "maximum over channels": Row(classifier(16, lambda s, y: y * y.amax(1, keepdim=True).sigmoid()), {"a": (16, 1)}),
    "windows": Row(
        classifier(5, lambda s, y: s.b(y.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))), b=conv(16, 5)),
        {"a": (16, 1), "b": (5, 1)},
    ),
    "columns": Row(
        classifier(5, lambda s, y: s.b(F.unfold(y, 3, padding=1).unflatten(2, y.shape[2:])), b=conv(16 * 9, 5)),
        {"a": (16, 1), "b": (5, 1)},
    ),
    "columns and back": Row(
        classifier(16, lambda s, y: F.fold(F.unfold(y, 3, padding=1).sigmoid(), y.shape[2:], 3, padding=1)),
        {"a": (16, 1)},
    ),
    "places from columns": Row(
        classifier(4, lambda s, y: F.fold(s.b(y).flatten(2), (16, 16), 2, stride=2), b=conv(16, 16)),
        {"a": (16, 1), "b": (4, 1)},
    ),
    "read at places": Row(
        classifier(16, lambda s, y: F.grid_sample(y, s.b(y).tanh().movedim(1, 3), align_corners=False), b=conv(16, 2)),
        {"a": (16, 1)},
    ),
    "tensordot": Row(
        classifier(
            5, lambda s, y: torch.tensordot(s.b.weight[..., 0, 0], y, ([1], [1])).movedim(0, 1), b=conv(16, 5)
        ),
        {"a": (16, 1), "b": (5, 1)},
    ),
    "tensordot of the last axes": Row(
        sequence(6, lambda s, t: torch.tensordot(t, s.b.weight.t(), 1), b=nn.Linear(16, 6)),
        {"a": (16, 1), "b": (6, 1)},
    ),
    "distances": Row(
        sequence(5, lambda s, t: torch.cdist(t, s.b.weight[None]), b=nn.Linear(16, 5)), {"a": (16, 1), "b": (5, 1)}
    ),
    "norm over channels": Row(
        classifier(16, lambda s, y: y / torch.linalg.vector_norm(y, dim=1, keepdim=True)), {"a": (16, 1)}
    ),
    "norm over positions": Row(
        classifier(16, lambda s, y: y * torch.linalg.norm(y, dim=(2, 3), keepdim=True)), {"a": (16, 1)}
    ),
    # the same ops, their input by keyword
    "mean of a keyword input": Row(
        classifier(5, lambda s, y: s.b(y - torch.mean(input=y, dim=1, keepdim=True)), b=conv(16, 5)),
        {"a": (16, 1), "b": (5, 1)}, shifted=True,
    ),
    "softmax of a keyword input": Row(
        classifier(5, lambda s, y: s.b(torch.softmax(input=y, dim=1)), b=conv(16, 5)),
        {"a": (16, 1), "b": (5, 1)}, shifted=True,
    ),
    "normalize of a keyword input": Row(
        classifier(5, lambda s, y: s.b(F.normalize(input=y, dim=1)), b=conv(16, 5)), {"a": (16, 1), "b": (5, 1)}
    ),
    "maximum of a keyword input": Row(
        classifier(16, lambda s, y: y * torch.amax(input=y, dim=1, keepdim=True)), {"a": (16, 1)}
    ),
    # pointwise
    "prelu": Row(classifier(16, lambda s, y: s.p(y), p=nn.PReLU(16)), {"a": (16, 1)}),
    "prelu with one slope": Row(classifier(16, lambda s, y: s.p(y), p=nn.PReLU()), {"a": (16, 1)}),
    # channel c and c + 8 are multiplied: 8 channels of two entries
    "glu": Row(classifier(8, lambda s, y: F.glu(y, 1)), {"a": (8, 1)}),
    "layer scale": Row(
        sequence(
            16, lambda s, t: t * s.g + s.o, g=nn.Parameter(torch.ones(16)), o=nn.Parameter(torch.ones(1, 1, 16))
        ),
        {"a": (16, 1)},
    ),
    "bag of embeddings": Row(
        classifier(
            5,
            lambda s, y: s.b(y * s.e(torch.arange(6).view(1, 6), per_sample_weights=s.w)[..., None, None]),
            e=nn.EmbeddingBag(6, 16, mode="sum"), w=nn.Parameter(torch.rand(1, 6)), b=conv(16, 5),
        ),
        {"a": (16, 1), "b": (5, 1)},
    ),
    "position embedding": Row(
        sequence(16, lambda s, t: t + s.p, p=nn.Parameter(torch.ones(1, 64, 16))), {"a": (16, 1)}
    ),
    "class token": Row(
        sequence(16, lambda s, t: torch.cat([s.c.expand(len(t), -1, -1), t], 1), c=nn.Parameter(torch.ones(1, 1, 16))),
        {"a": (16, 1)},
    ),
    "in place": Row(classifier(16, summed, b=conv(16, 16)), {"a": (16, 1)}),
    "in place before and after": Row(
        classifier(16, lambda s, y: s.b(y.relu_()).add_(1).relu_(), b=conv(16, 16)), {"a": (16, 1), "b": (16, 1)}
    ),
    # both halves keep equally many: channels j and j + 8 of a go with channel j of b
    "written into a part": Row(classifier(16, written, b=conv(16, 8)), {"a": (8, 1)}),
    "where": Row(classifier(16, lambda s, y: torch.where(y > 0, y, s.b(y)), b=conv(16, 16)), {"a": (16, 1)}),
    "squeeze and excite": Row(
        classifier(16, excited, down=head(16, 4), up=head(4, 16)), {"a": (16, 1), "down": (4, 1)}
    ),
    # layout
    "cat": Row(
        classifier(22, lambda s, y: torch.cat([y, s.b(y)], 1), b=conv(16, 6)), {"a": (16, 1), "b": (6, 1)}
    ),
    "cat of an activation with itself": Row(classifier(32, lambda s, y: torch.cat([y, y.relu()], 1)), {"a": (16, 1)}),
    "cat along axis=": Row(
        classifier(32, lambda s, y: torch.cat([y, y.relu()], axis=1)), {"a": (16, 1)}
    ),
    "stack and sum": Row(
        classifier(16, lambda s, y: torch.stack([y, s.b(y)]).sum(0), b=conv(16, 16)), {"a": (16, 1)}
    ),
    "stack into channels": Row(
        classifier(32, lambda s, y: torch.stack([y, s.b(y)], 2).flatten(1, 2), b=conv(16, 16)), {"a": (16, 1)}
    ),
    # halves keep equally many: two channels at a time
    "chunk": Row(classifier(16, lambda s, y: torch.cat([y.chunk(2, 1)[1], y.chunk(2, 1)[0]], 1)), {"a": (16, 2)}),
    "split by arithmetic": Row(
        classifier(16, lambda s, y: torch.cat([t.relu() for t in y.split(y.shape[1] // 4, 1)], 1)), {"a": (16, 4)}
    ),
    "chunks added": Row(classifier(4, lambda s, y: sum(y.chunk(4, 1))), {"a": (4, 1)}),
    "unbind of rows": Row(classifier(16, lambda s, y: sum(y.unbind(2))[:, :, None]), {"a": (16, 1)}),
    "channel shuffle": Row(classifier(16, shuffled, g=conv(16, 16, groups=2)), {"a": (4, 1), "g": (16, 2)}),
    "pixel shuffle": Row(classifier(4, lambda s, y: F.pixel_shuffle(y, 2)), {"a": (4, 1)}),
    "pixel unshuffle": Row(classifier(64, lambda s, y: F.pixel_unshuffle(y, 2)), {"a": (16, 1)}),
    "space to depth by view": Row(
        classifier(64, lambda s, y: y.unflatten(3, (4, 2)).unflatten(2, (4, 2)).permute(0, 1, 3, 5, 2,
        4).flatten(1, 3)),
        {"a": (16, 1)},
    ),
    "repeat": Row(classifier(32, lambda s, y: y.repeat(1, 2, 1, 1)), {"a": (16, 1)}),
    "pooling": Row(
        classifier(16, lambda s, y: F.interpolate(F.max_pool2d(y, 2) + F.avg_pool2d(y, 2), scale_factor=2)),
        {"a": (16, 1)}
    ),
}  # fmt: skip


def example(row: Row) -> Tensor:
    return torch.tensor([[1, 4, 2, 7, 3]]) if row.example == (1, 5) else image(*row.example)


@pytest.mark.parametrize("name", ROWS)
def test_rule(name: str) -> None:
    row = ROWS[name]
    model = row.make()
    coupling = prunus.trace(model, example(row))
    assert {g.name: (g.width, g.step) for g in coupling.groups} == row.groups
    assert coupling.unknown_ops == ()

    small = prunus.prune(model, example(row), target="channels=60%", method="random", seed=1)
    asked = 0.6 * sum(width for width, _ in row.groups.values())
    assert asked - max(step for _, step in row.groups.values()) < sum(small.plan.widths) <= asked
    assert small.proof is not None and small.proof.worst < 1e-12
    assert small.proof.notes == ()
    assert bool(small.proof.shifted_by) >= row.shifted
    assert (small.proof.statistics_shift > 1e-6) == row.shifted
