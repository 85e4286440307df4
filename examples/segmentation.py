"""Prune a small U-Net for segmentation: train, cut to half the multiply-accumulates, prove the cut, fine-tune.

    python examples/segmentation.py             a few minutes on one core
    python examples/segmentation.py --smoke     under a minute

The images are made in memory: circles, squares and triangles on noise, 64 x 64 pixels, with the class of each pixel.
`Segmentation` is the task: what Prunus' training loop asks of a batch. The same three names serve the command line as
`examples/segmentation.py:net`, `examples/segmentation.py:data` and `examples/segmentation.py:Segmentation`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus.engine.config import Fit
from prunus.engine.loop import evaluate, fit
from prunus.engine.runtime import Runtime

CLASSES = ("background", "circle", "square", "triangle")
Pairs = tuple[Tensor, Tensor]


# The data -------------------------------------------------------------------------------------------------------------
def shapes(n: int, seed: int, size: int = 64) -> Pairs:
    """n images (N, 1, size, size) and the class of each pixel, int64 (N, size, size). Each has one to three shapes."""
    draw = torch.Generator().manual_seed(seed)
    images = 0.5 * torch.randn(n, 1, size, size, generator=draw)
    labels = torch.zeros(n, size, size, dtype=torch.int64)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for image, label in zip(images, labels, strict=True):
        for _ in range(int(torch.randint(1, 4, (), generator=draw))):
            kind = int(torch.randint(1, 4, (), generator=draw))
            r = float(torch.rand((), generator=draw)) * size / 12 + size / 10
            cx, cy = (torch.rand(2, generator=draw) * (size - 2 * r) + r).tolist()
            dx, dy = (x - cx).abs(), (y - cy).abs()
            if kind == 1:
                inside = dx**2 + dy**2 <= r**2
            elif kind == 2:
                inside = torch.maximum(dx, dy) <= 0.85 * r
            else:
                inside = (dy <= r) & (2 * dx <= y - cy + r)
            image[0, inside] += float(torch.rand((), generator=draw)) * 0.7 + 0.8
            label[inside] = kind
    return images, labels


def data(
    train: int = 480, test: int = 96, size: int = 64, seed: int = 0
) -> tuple[DataLoader[Pairs], DataLoader[Pairs]]:
    """Loaders of batches (images, labels)."""
    parts: list[Any] = [TensorDataset(*shapes(n, s, size)) for n, s in ((train, 2 * seed), (test, 2 * seed + 1))]
    return DataLoader(parts[0], batch_size=8, shuffle=True, drop_last=True), DataLoader(parts[1], batch_size=32)


# The net --------------------------------------------------------------------------------------------------------------
class Twice(nn.Sequential):
    """Two 3 x 3 convolutions with batch norm."""

    def __init__(self, taken: int, made: int) -> None:
        parts: list[nn.Module] = []
        for width in (taken, made):
            parts += [nn.Conv2d(width, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU(inplace=True)]
        super().__init__(*parts)


class UNet(nn.Module):
    """Ronneberger et al. 2015 with two levels: each level of the way up also sees what the way down made there."""

    def __init__(self, classes: int = len(CLASSES), width: int = 16) -> None:
        super().__init__()
        self.down = nn.ModuleList([Twice(1, width), Twice(width, 2 * width)])
        self.middle = Twice(2 * width, 4 * width)
        self.rise = nn.ModuleList(
            [nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)]
        )
        self.up = nn.ModuleList([Twice(4 * width, 2 * width), Twice(2 * width, width)])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skipped = []
        for step in self.down:
            skipped.append(x := step(x))
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for rise, step in zip(self.rise, self.up, strict=True):
            x = step(torch.cat([skipped.pop(), rise(x)], dim=1))
        out: Tensor = self.head(x)
        return out


def net() -> UNet:
    """The net, with random weights."""
    return UNet()


# The task -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scores:
    """In percent: intersection over union of each class, nan where nothing has or is given that class."""

    iou: tuple[float, ...]
    loss: float
    n: int

    @property
    def goodness(self) -> float:
        """mIoU, the mean over the classes that occur."""
        known = [iou for iou in self.iou if iou == iou]
        return sum(known) / len(known)

    def __str__(self) -> str:
        each = ", ".join(f"{name} {iou:.1f}" for name, iou in zip(CLASSES, self.iou, strict=False))
        return f"mIoU {self.goodness:.2f} % ({each}), loss {self.loss:.4f} ({self.n} images)"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"miou": self.goodness}


@dataclass(frozen=True)
class Segmentation:
    """Cross-entropy of each pixel, on batches (images, labels). Intersections and unions are summed over all images."""

    classes: int = len(CLASSES)

    def forward(self, model: nn.Module, batch: Pairs) -> Tensor:
        """Scores (N, classes, H, W)."""
        scores: Tensor = model(batch[0])
        return scores

    def loss(self, output: Tensor, batch: Pairs) -> Tensor:
        """Mean over pixels."""
        return F.cross_entropy(output, batch[1])

    def size(self, batch: Pairs) -> int:
        """N."""
        return len(batch[1])

    def tally(self, output: Tensor, batch: Pairs) -> dict[str, Tensor]:
        """For each class the pixels that are both given and found, and those that are either."""
        labels, found = batch[1], output.argmax(dim=1)
        sums = {"loss": F.cross_entropy(output.float(), labels).double() * len(labels)}
        for c in range(self.classes):
            mine, his = found == c, labels == c
            sums |= {f"both {c}": (mine & his).sum(), f"either {c}": (mine | his).sum()}
        return sums

    def metrics(self, totals: Mapping[str, float], n: int) -> Scores:
        """See Scores."""
        pairs = [(totals[f"both {c}"], totals[f"either {c}"]) for c in range(self.classes)]
        return Scores(tuple(100 * b / e if e else float("nan") for b, e in pairs), totals["loss"] / n, n)


# The work -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Amount:
    """How much of everything."""

    train: int = 480
    test: int = 96
    size: int = 64
    epochs: int = 14
    tuning: int = 6
    target: str = "macs=50%"
    seed: int = 0


SMOKE = Amount(train=192, test=48, epochs=10, tuning=7, target="macs=70%")


@dataclass(frozen=True)
class Outcome:
    """Measured on the test part: before the cut, right after it, and after fine-tuning."""

    before: Scores
    cut: Scores
    after: Scores
    pruned: prunus.Pruned


def work(amount: Amount, *, progress: bool = False) -> Outcome:
    """Train, measure, prune, measure, fine-tune, measure."""
    task, runtime = Segmentation(), Runtime(seed=amount.seed)
    train, test = data(amount.train, amount.test, amount.size, amount.seed)
    with runtime.seeded():
        model = net()
    settings = Fit(epochs=amount.epochs, lr=5e-3, optimizer="adamw", weight_decay=1e-4, warmup=1)
    fit(model, train, settings, task=task, runtime=runtime, progress=progress)
    before = evaluate(model, test, task=task, runtime=runtime)
    pruned = prunus.prune(model.cpu(), next(iter(test))[0][:4], target=amount.target)
    cut = evaluate(pruned.model, test, task=task, runtime=runtime)
    settings = Fit(epochs=amount.tuning, lr=3e-3, optimizer="adamw", weight_decay=1e-4)
    fit(pruned.model, train, settings, task=task, runtime=runtime, progress=progress)
    return Outcome(before, cut, evaluate(pruned.model, test, task=task, runtime=runtime), pruned)


def main() -> None:
    """Do the work and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="fewer images and epochs")
    done = work(SMOKE if parser.parse_args().smoke else Amount(), progress=True)
    print(done.pruned)
    for name, scores in (("before", done.before), ("cut", done.cut), ("fine-tuned", done.after)):
        print(f"{name:<10}  {scores}")


if __name__ == "__main__":
    main()
