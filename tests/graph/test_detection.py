"""Detectors: places found by values, losses in the forward, boxes and regions; torchvision's detectors as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

import prunus

Read = Callable[[Tensor], object]


class Reading(nn.Module):
    """Two convolutions, and what `read` makes of the eight channels between them beside the output."""

    def __init__(self, read: Read) -> None:
        super().__init__()
        self.read = read
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        self.read(y)
        return self.b(y.relu())


def traced(read: Read) -> prunus.Coupling:
    return prunus.trace(Reading(read), torch.randn(1, 3, 12, 12))


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda y: torch.where(y > 0.5), "the places of its values are read"),
        (lambda y: (y > 0.5).nonzero(), "the places of its values are read"),
        (lambda y: torch.argwhere(y > 0.5), "the places of its values are read"),
        (lambda y: F.mse_loss(y, torch.zeros_like(y)), "a loss reads it"),
        (lambda y: F.l1_loss(input=y, target=torch.zeros_like(y)), "a loss reads it"),
        (lambda y: F.cross_entropy(y.flatten(2)[:, :, 0], torch.tensor([3])), "a loss reads it"),
        (lambda y: nms(torch.tensor([[0.0, 0, 1, 1]]).repeat(8, 1), y[0, :, 0, 0], 0.5), "boxes are chosen by it"),
        (lambda y: y[0][:, torch.zeros(0, dtype=torch.int64)], "nothing is taken of it"),
    ],
)
def test_what_reads_values_keeps_them_whole_and_has_a_rule(read: Read, reason: str) -> None:
    coupling = traced(read)
    assert coupling.groups == () and coupling.unknown_ops == ()
    assert reason in next(pin.reason for pin in coupling.pinned if pin.name == "a outputs")


def test_an_elementwise_where_ties_and_does_not_pin() -> None:
    coupling = traced(lambda y: torch.where(y > 0, y, y.exp()))
    assert [(group.name, group.width) for group in coupling.groups] == [("a", 8)]


class Regions(nn.Module):
    """A convolution read through regions of its map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        boxes = torch.tensor([[0.0, 0, 0, 8, 8], [0, 2, 2, 9, 9], [0, 1, 1, 7, 7]], dtype=x.dtype)
        return self.b(roi_align(self.a(x), boxes, (5, 5)))


def test_channels_pass_through_regions() -> None:
    small = prunus.prune(Regions(), torch.randn(1, 3, 16, 16), target="channels=50%")
    assert small.rows() == [("a", 8, 4)] and small.model.b.in_channels == 4
    assert small.coupling.unknown_ops == () and small.proof is not None and small.proof.holds


def body() -> nn.Module:
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.resnet import BasicBlock, ResNet

    return BackboneWithFPN(ResNet(BasicBlock, [1, 1, 1, 1]), {"layer2": "0", "layer3": "1"}, [128, 256], 64)


def retinanet() -> nn.Module:
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    anchors = AnchorGenerator(((12,), (24,), (48,)), ((0.5, 1.0, 2.0),) * 3)
    return RetinaNet(body(), 4, min_size=64, max_size=64, anchor_generator=anchors, score_thresh=0.0)


def fcos() -> nn.Module:
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    return FCOS(body(), 4, min_size=64, max_size=64, anchor_generator=anchors, score_thresh=0.0)


def pictures(n: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    boxes, labels = torch.tensor([[5.0, 5, 30, 30], [20, 20, 50, 60]]), torch.tensor([1, 2])
    draw = torch.Generator().manual_seed(0)
    return [torch.rand(3, 64, 64, generator=draw) for _ in range(n)], [{"boxes": boxes, "labels": labels}] * n


@pytest.mark.parametrize("make", [retinanet, fcos])
def test_a_detector_of_torchvision_is_cut_whole(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    example = pictures(2)
    small = prunus.prune(make(), example, target="macs=50%")
    assert small.coupling.unknown_ops == ()
    assert 0.49 * small.before.macs < small.after.macs <= 0.5 * small.before.macs
    assert small.proof is not None and small.proof.holds and 0 < small.proof.gradients < 1e-10
    found = small.model.eval()(example[0])
    assert [sorted(its) for its in found] == [["boxes", "labels", "scores"]] * 2 and len(found[0]["boxes"]) > 20
    losses = small.model.train()(*example)
    assert all(float(loss.detach()) > 0 for loss in losses.values())


def test_ssdlite_is_traced_whole() -> None:
    """Every width but those of the predictions: 33 groups, 12 layers of predictions, and the input."""
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    coupling = prunus.trace(model, pictures(1))
    assert coupling.unknown_ops == () and len(coupling.pinned) == 13
    assert {pin.name.split(".")[0] for pin in coupling.pinned} == {"head", "backbone"}
    assert sum(coupling.widths) > 6000
