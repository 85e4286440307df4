"""The worked examples: their metrics on cases worked out by hand, and a short run of each, training to proof."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from shared import ROOT
from torch import Tensor

from prunus.engine.loop import evaluate
from prunus.engine.sources import factory
from prunus.engine.task import goodness, task_of
from prunus.models import resolve
from prunus.userfile import module_of

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def segmentation() -> ModuleType:
    return module_of(EXAMPLES / "segmentation.py")


@pytest.fixture(scope="module")
def detection() -> ModuleType:
    return module_of(EXAMPLES / "detection.py")


# Segmentation


def scored(task: object, found: Tensor, labels: Tensor) -> object:
    """The metrics of two batches that are halves of `found` (N, H, W)."""
    totals: dict[str, float] = {}
    for part, given in zip(found.chunk(2), labels.chunk(2), strict=True):
        output = 20 * torch.nn.functional.one_hot(part, 4).movedim(-1, 1).float()
        for key, value in task.tally(output, (part, given)).items():
            totals[key] = totals.get(key, 0.0) + float(value)
    return task.metrics(totals, len(found))


def test_iou_by_hand(segmentation: ModuleType) -> None:
    task = segmentation.Segmentation()
    labels = torch.tensor([[[0, 0], [1, 1]], [[0, 0], [2, 2]]])
    perfect = scored(task, labels, labels)
    assert perfect.iou[:3] == (100.0, 100.0, 100.0) and np.isnan(perfect.iou[3])
    assert goodness(perfect) == 100.0 and perfect.loss < 1e-6
    found = torch.tensor([[[0, 1], [1, 1]], [[0, 0], [0, 0]]])  # 0: 3 of 6, 1: 2 of 3, 2: 0 of 2
    assert scored(task, found, labels).iou[:3] == pytest.approx((50.0, 200 / 3, 0.0))
    assert goodness(scored(task, found, labels)) == pytest.approx((50 + 200 / 3) / 3)


def test_the_shapes_of_segmentation(segmentation: ModuleType) -> None:
    images, labels = segmentation.shapes(40, seed=3)
    assert images.shape == (40, 1, 64, 64) and labels.unique().tolist() == [0, 1, 2, 3]
    assert torch.equal(images, segmentation.shapes(40, seed=3)[0])
    assert not torch.equal(images, segmentation.shapes(40, seed=4)[0])
    inside, outside = images[:, 0][labels > 0], images[:, 0][labels == 0]
    assert inside.mean() > 0.9 and abs(outside.mean()) < 0.02 and 0.02 < (labels > 0).float().mean() < 0.3


def test_segmentation_from_training_to_the_proof(segmentation: ModuleType) -> None:
    amount = segmentation.Amount(train=256, test=48, size=32, epochs=8, tuning=6, target="macs=70%")
    done = segmentation.work(amount)
    small = done.pruned
    assert done.before.goodness > 45  # everything called background: 24 %
    assert done.after.goodness > max(done.cut.goodness + 5, 0.75 * done.before.goodness)
    assert 0.68 * small.before.macs < small.after.macs <= 0.7 * small.before.macs
    assert small.proof.holds and small.proof.worst < 1e-10 and small.proof.notes == ()
    assert {"middle.0", "up.0.0", "down.0.3", "rise.0"} <= {name for name, was, now in small.rows() if now < was}
    skip, rise, reader = small.model.down[1][3], small.model.rise[0], small.model.up[0][0]
    assert reader.in_channels == skip.out_channels + rise.out_channels < 64


# Detection


def boxes(*corners: tuple[float, float, float, float], scores: tuple[float, ...] = ()) -> dict[str, Tensor]:
    its = {"boxes": torch.tensor(corners).reshape(-1, 4), "labels": torch.ones(len(corners), dtype=torch.int64)}
    return its | ({"scores": torch.tensor(scores)} if scores or not corners else {})


A, B, NOWHERE = (0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 30.0), (40.0, 0.0, 50.0, 10.0)


@pytest.mark.parametrize(
    ("found", "at_half", "over_all"),
    [
        (boxes(A, B, scores=(0.9, 0.8)), 1.0, 1.0),
        (boxes(A, scores=(0.9,)), 51 / 101, 51 / 101),  # recall .5 at most: 51 of the 101 recalls
        (boxes(A, B, NOWHERE, scores=(0.9, 0.8, 0.7)), 1.0, 1.0),  # a wrong box after all right ones costs nothing
        (boxes(NOWHERE, A, B, scores=(0.9, 0.8, 0.7)), 2 / 3, 2 / 3),  # precision 0, 1/2, 2/3
        (boxes(A, A, B, scores=(0.9, 0.8, 0.7)), (51 + 50 * 2 / 3) / 101, (51 + 50 * 2 / 3) / 101),  # found twice
        (boxes((0.0, 2.0, 10.0, 12.0), B, scores=(0.9, 0.8)), 1.0, None),  # overlap 80 of 120: right up to .65
        (boxes(NOWHERE, scores=(0.9,)), 0.0, 0.0),
        (boxes(), 0.0, 0.0),
    ],
)
def test_average_precision_by_hand(
    detection: ModuleType, found: dict[str, Tensor], at_half: float, over_all: float | None
) -> None:
    table = detection.precision_of([found], [boxes(A, B)], classes=2)
    assert table[0, 0] == pytest.approx(at_half) and np.isnan(table[1]).all()
    if over_all is None:  # from .7 on the first is wrong and the second right: precision 1/2 up to recall .5
        over_all = 0.4 * 1 + 0.6 * (51 * 0.5 / 101)
    assert table[0].mean() == pytest.approx(over_all)


def test_a_box_takes_the_given_box_it_covers_best(detection: ModuleType) -> None:
    given = torch.tensor([(0.0, 0.0, 10.0, 10.0), (3.0, 0.0, 13.0, 10.0)])
    hit = detection.hits(torch.tensor([(2.5, 0.0, 12.5, 10.0), (0.0, 0.0, 10.0, 10.0)]), given)
    assert hit[0].tolist() == [True, True]
    hit = detection.hits(torch.tensor([(0.0, 0.0, 10.0, 10.0), (1.0, 0.0, 11.0, 10.0)]), given)
    assert hit[0].tolist() == [True, True] and hit[5].tolist() == [True, False]  # 8 / 12 with what is left


def test_precision_is_ranked_over_all_images_and_each_image_matched_alone(detection: ModuleType) -> None:
    found = [boxes(A, scores=(0.6,)), boxes(A, scores=(0.9,))]
    table = detection.precision_of(found, [boxes(A), boxes(B)], classes=1)
    assert table[0, 0] == pytest.approx(51 * 0.5 / 101)  # wrong at .9, then right at .6: precision 1/2 at recall 1/2


def test_the_boxes_fit_their_shapes(detection: ModuleType) -> None:
    pairs = detection.shapes(30, seed=1)
    assert torch.equal(pairs[7][0], detection.shapes(30, seed=1)[7][0])
    assert {int(label) for _, target in pairs for label in target["labels"]} == {1, 2, 3}
    for image, target in pairs:
        assert image.shape == (3, 64, 64) and 1 <= len(target["labels"]) == len(target["boxes"]) <= 3
        for x1, y1, x2, y2 in target["boxes"].int().tolist():
            assert 0 <= x1 < x2 <= 64 and 0 <= y1 < y2 <= 64 and 10 <= x2 - x1 <= 32
            assert image[:, y1:y2, x1:x2].mean() > image.mean()


def test_detection_from_training_to_the_proof(detection: ModuleType) -> None:
    amount = detection.Amount(train=96, test=32, size=48, epochs=11, tuning=4, target="macs=60%")
    done = detection.work(amount)
    small = done.pruned
    assert done.before.map50 > 10 and done.after.map50 > max(done.cut.map50, 0.5 * done.before.map50)
    assert done.before.map50 > done.before.map > 0 and done.before.n == 32
    assert 0.58 * small.before.macs < small.after.macs <= 0.6 * small.before.macs
    assert small.proof.holds and small.proof.eval < 1e-10 and 0 < small.proof.gradients < 1e-10
    assert small.coupling.unknown_ops == () and (small.model.score_thresh, small.model.detections_per_img) == (
        0.05,
        300,
    )
    assert type(small.model).__module__ == "torchvision.models.detection.retinanet"
    widths = {name: (was, now) for name, was, now in small.rows()}
    assert all(widths[f"head.{head}_head.conv.3.0"][1] < 64 for head in ("classification", "regression"))


# Both by name


@pytest.mark.parametrize(("file", "task"), [("segmentation", "Segmentation"), ("detection", "Boxes")])
def test_the_three_names_of_an_example_work_together(file: str, task: str) -> None:
    path = EXAMPLES / f"{file}.py"
    torch.manual_seed(0)
    made = module_of(path).data(train=8, test=8)[1]
    scores = evaluate(resolve(f"{path}:net"), made, task=task_of(f"{path}:{task}"))
    assert scores.n == 8 and 0 <= goodness(scores) < 30
    assert len(factory(f"{path}:data").train) == (60 if file == "segmentation" else 50)
