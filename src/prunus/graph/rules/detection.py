"""What detectors do beside convolutions: places found by values, losses in their forward, boxes, regions of a map."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_iter

from ..labels import resized, varying
from ..record import Call, Rule
from .pointwise import elementwise


def whole(why: str) -> Rule:
    """A rule for ops whose result has no channels: every operand stays whole."""

    def rule(call: Call, out: Any) -> Any:
        for tensor in tree_iter((call.args, call.kwargs)):
            if isinstance(tensor, Tensor):
                call.pin(tensor, why)
        return [] if isinstance(out, Tensor) else [[] for t in tree_iter(out) if isinstance(t, Tensor)]

    return rule


places = whole("the places of its values are read")
loss = whole("a loss reads it")


def where(call: Call, out: Any) -> Any:
    """`where(condition, a, b)` is elementwise; `where(condition)` gives the places where it holds."""
    return elementwise(call, out) if isinstance(out, Tensor) else places(call, out)


where.joins = True  # type: ignore[attr-defined]
where.computes = True  # type: ignore[attr-defined]


def regions(call: Call, out: Tensor) -> list[Tensor]:
    """`roi_align`, `roi_pool`: (N, C, H, W) to (boxes, C, h, w)."""
    x, boxes = call.args[0], call.args[1]
    call.pin(boxes, "it is read as boxes")
    planes = []
    for plane in call.label(x).planes:
        if set(varying(plane)) == {1}:
            planes.append(resized(plane, [0, 2, 3], out.shape))
        else:
            call.book.pin(plane, f"{call.name} mixes its neighbours")
    return planes


LOSSES = """
binary_cross_entropy binary_cross_entropy_with_logits cross_entropy cosine_embedding_loss gaussian_nll_loss
hinge_embedding_loss huber_loss kl_div l1_loss margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss
multilabel_soft_margin_loss nll_loss poisson_nll_loss smooth_l1_loss soft_margin_loss triplet_margin_loss
""".split()

BY_NAME: dict[Any, Rule] = {
    "torchvision.nms": whole("boxes are chosen by it"),
    "torchvision.roi_align": regions,
}
"""Ops of a library, by name: it need not be imported for its rules to be known."""
