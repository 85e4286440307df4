"""Prune a detector of torchvision: train, cut to half the multiply-accumulates, prove the cut, fine-tune.

    python examples/detection.py             a few minutes on one core
    python examples/detection.py --smoke     under a minute

The detector is torchvision's own RetinaNet on a ResNet with ten layers and a feature pyramid, with random weights; it
goes into `prunus.prune` as it is, losses, anchors and non-maximum suppression included. The images are made in memory:
circles, squares and triangles on noise, 64 x 64 pixels, with their boxes. Average precision is that of COCO.

`Boxes` is the task: what Prunus' training loop asks of a batch. The same three names serve the command line as
`examples/detection.py:net`, `examples/detection.py:data` and `examples/detection.py:Boxes`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import box_iou

import prunus
from prunus.engine.config import Fit
from prunus.engine.loop import evaluate, fit
from prunus.engine.runtime import Runtime

CLASSES = ("circle", "square", "triangle")  # labels 1, 2, 3; the detectors of torchvision call the background 0
THRESHOLDS = np.linspace(0.5, 0.95, 10)
MOST = 100  # detections of one class in one image that count, the best ones, as in COCO
Found = dict[str, Tensor]
Batch = tuple[list[Tensor], list[Found]]


# The data -------------------------------------------------------------------------------------------------------------
def shapes(n: int, seed: int, size: int = 64) -> list[tuple[Tensor, Found]]:
    """n pairs of an image (3, size, size) and {boxes (M, 4) as x1 y1 x2 y2, labels (M,), image_id}, M one to three."""
    draw = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    made = []
    for number in range(n):
        image = 0.45 + 0.08 * torch.randn(3, size, size, generator=draw)
        boxes = torch.zeros(0, 4)
        labels: list[int] = []
        for _ in range(int(torch.randint(1, 4, (), generator=draw))):
            kind = int(torch.randint(1, 4, (), generator=draw))
            r = float(torch.rand((), generator=draw)) * size / 8 + size / 9
            cx, cy = (torch.rand(2, generator=draw) * (size - 2 * r - 2) + r + 1).tolist()
            dx, dy = (x - cx).abs(), (y - cy).abs()
            if kind == 1:
                inside = dx**2 + dy**2 <= r**2
            elif kind == 2:
                inside = torch.maximum(dx, dy) <= 0.9 * r
            else:
                inside = (dy <= r) & (2 * dx <= y - cy + r)
            rows, columns = inside.any(dim=1).nonzero(), inside.any(dim=0).nonzero()
            box = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dim=1).float()
            if len(boxes) and float(box_iou(box, boxes).max()) > 0.1:
                continue
            colour = 0.3 + 0.3 * torch.rand(3, generator=draw)
            image[:, inside] += colour[:, None]
            boxes, labels = torch.cat([boxes, box]), [*labels, kind]
        target = {"boxes": boxes, "labels": torch.tensor(labels), "image_id": torch.tensor(number)}
        made.append((image.clamp(0, 1), target))
    return made


def together(pairs: Sequence[tuple[Tensor, Found]]) -> Batch:
    """Images and boxes as the lists that detectors take."""
    return [image for image, _ in pairs], [target for _, target in pairs]


def data(train: int = 400, test: int = 80, size: int = 64, seed: int = 0) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Loaders of batches (images, targets)."""
    parts: list[Any] = [shapes(train, 2 * seed, size), shapes(test, 2 * seed + 1, size)]
    return (
        DataLoader(parts[0], batch_size=8, shuffle=True, drop_last=True, collate_fn=together),
        DataLoader(parts[1], batch_size=16, collate_fn=together),
    )


def net(size: int = 64) -> RetinaNet:
    """torchvision's RetinaNet with random weights."""
    body = ResNet(BasicBlock, [1, 1, 1, 1])
    backbone = BackboneWithFPN(body, {"layer2": "0", "layer3": "1"}, [128, 256], 64)  # strides 8, 16, and 32 by pooling
    anchors = AnchorGenerator(((12, 17), (24, 34), (48, 60)), ((0.5, 1.0, 2.0),) * 3)
    return RetinaNet(backbone, len(CLASSES) + 1, min_size=size, max_size=size, anchor_generator=anchors)


# Average precision ----------------------------------------------------------------------------------------------------
def hits(found: Tensor, given: Tensor, thresholds: np.ndarray[Any, Any] = THRESHOLDS) -> np.ndarray[Any, Any]:
    """For each threshold and each found box (T, M): does it take a given box? In the order of `found`, each takes the
    free given box with the largest intersection over union, where that reaches the threshold."""
    overlap = box_iou(found, given).numpy()
    free = np.ones((len(thresholds), len(given)), bool)
    hit = np.zeros((len(thresholds), len(found)), bool)
    for m, row in enumerate(overlap if len(given) else ()):
        open_to = np.where(free & (row >= thresholds[:, None]), row, -1.0)
        best = open_to.argmax(axis=1)
        hit[:, m] = open_to.max(axis=1) >= 0
        free[hit[:, m], best[hit[:, m]]] = False
    return hit


def average_precision(hit: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], given: int) -> np.ndarray[Any, Any]:
    """COCO's AP for each threshold, from hits (T, M) with their scores (M,), of `given` boxes: the mean over the
    recalls 0, .01, … 1 of the best precision at that recall or above."""
    hit = hit[:, np.argsort(-scores, kind="stable")]
    right = hit.cumsum(axis=1)
    recall, precision = right / given, right / np.arange(1, hit.shape[1] + 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    values = []
    for reached, height in zip(recall, best, strict=True):
        place = np.searchsorted(reached, np.linspace(0, 1, 101), side="left")
        values.append(np.append(height, 0.0)[place].mean())
    return np.array(values)


def precision_of(found: Sequence[Found], given: Sequence[Found], classes: int) -> np.ndarray[Any, Any]:
    """AP (classes, T) of detections {boxes, scores, labels} against {boxes, labels}, image by image; nan where a class
    is never given."""
    table = np.full((classes, len(THRESHOLDS)), np.nan)
    for c in range(classes):
        count, rows, scores = 0, [], []
        for its, target in zip(found, given, strict=True):
            mine = its["labels"] == c + 1
            best, order = (part[:MOST] for part in its["scores"][mine].sort(descending=True, stable=True))
            boxes = target["boxes"][target["labels"] == c + 1]
            rows.append(hits(its["boxes"][mine][order], boxes))
            scores.append(best.numpy())
            count += len(boxes)
        if count:
            table[c] = average_precision(np.concatenate(rows, axis=1), np.concatenate(scores), count)
    return table


# The task -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scores:
    """In percent: mean AP at an intersection over union of .5, and its mean from .5 to .95; detections, images."""

    map50: float
    map: float
    ap50: tuple[float, ...]
    detections: int
    n: int

    @property
    def goodness(self) -> float:
        """What choices are made by."""
        return self.map

    def __str__(self) -> str:
        each = ", ".join(f"{name} {ap:.1f}" for name, ap in zip(CLASSES, self.ap50, strict=False))
        return (
            f"mAP@.5 {self.map50:.2f} % ({each}), mAP@[.5:.95] {self.map:.2f} %, {self.detections} boxes found "
            f"({self.n} images)"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class Boxes:
    """The detectors of torchvision on batches (images, targets).

    Average precision is no sum over batches, so `tally` keeps what was found, by image_id, and `metrics` takes it away.
    """

    classes: int = len(CLASSES)
    seen: dict[int, tuple[Found, Found]] = field(default_factory=dict)

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """A dict of losses in train mode, the detections of each image in eval mode."""
        return model(*batch) if model.training else model(batch[0])

    def loss(self, output: dict[str, Tensor], batch: Batch) -> Tensor:
        """The sum of the detector's losses."""
        return torch.stack(list(output.values())).sum()

    def size(self, batch: Batch) -> int:
        """The number of images."""
        return len(batch[0])

    def tally(self, output: list[Found], batch: Batch) -> dict[str, Tensor]:
        """The number of boxes found."""
        for its, target in zip(output, batch[1], strict=True):
            pair = ({key: value.detach().float().cpu() for key, value in side.items()} for side in (its, target))
            self.seen[int(target["image_id"])] = (next(pair), next(pair))
        return {"detections": torch.tensor(sum(len(its["scores"]) for its in output))}

    def metrics(self, totals: Mapping[str, float], n: int) -> Scores:
        """See Scores."""
        pairs = list(self.seen.values())
        self.seen.clear()
        table = 100 * precision_of([its for its, _ in pairs], [target for _, target in pairs], self.classes)
        known = table[~np.isnan(table).any(axis=1)]
        detections = int(totals["detections"])
        return Scores(float(known[:, 0].mean()), float(known.mean()), tuple(table[:, 0].tolist()), detections, n)


# The work -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Amount:
    """How much of everything."""

    train: int = 400
    test: int = 80
    size: int = 64
    epochs: int = 24
    tuning: int = 10
    target: str = "macs=50%"
    seed: int = 0


SMOKE = Amount(train=160, test=48, epochs=16, tuning=6)


@dataclass(frozen=True)
class Outcome:
    """Measured on the test part: before the cut, right after it, and after fine-tuning."""

    before: Scores
    cut: Scores
    after: Scores
    pruned: prunus.Pruned


def work(amount: Amount, *, progress: bool = False) -> Outcome:
    """Train, measure, prune, measure, fine-tune, measure."""
    task, runtime = Boxes(), Runtime(seed=amount.seed)
    train, test = data(amount.train, amount.test, amount.size, amount.seed)
    with runtime.seeded():
        model = net(amount.size)
    settings = Fit(epochs=amount.epochs, lr=1e-3, optimizer="adamw", weight_decay=1e-4, warmup=1, clip=5.0)
    fit(model, train, settings, task=task, runtime=runtime, progress=progress)
    before = evaluate(model, test, task=task, runtime=runtime)
    images, targets = next(iter(test))
    # The proof compares what is found, and a detector that was just cut may find nothing above its threshold. So while
    # it is cut the 50 best boxes of each image count, whatever their scores.
    limits = model.score_thresh, model.detections_per_img
    model.score_thresh, model.detections_per_img = 0.0, 50
    pruned = prunus.prune(model.cpu(), (images[:4], targets[:4]), target=amount.target)
    for detector in (model, pruned.model):
        detector.score_thresh, detector.detections_per_img = limits
    cut = evaluate(pruned.model, test, task=task, runtime=runtime)
    settings = Fit(epochs=amount.tuning, lr=5e-4, optimizer="adamw", weight_decay=1e-4, clip=5.0)
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
