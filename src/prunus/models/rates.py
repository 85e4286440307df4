"""The published orders of per-layer rates: which convolutions each entry of a rate list means.

A net may have several published lists, told apart by their length. In each order, an entry names the convolutions whose
output width the rate sets: all of a tied group (a residual stream, a depthwise convolution with what feeds it), or
several layers that share one rate. The lists are those of DCFF (arXiv:2107.06916) and HRank (arXiv:2002.10179).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from prunus.models.densenet import DenseNet
from prunus.models.inception import INCEPTIONS, GoogLeNet
from prunus.models.mobilenet import MobileNetV1
from prunus.models.resnet import ResNet
from prunus.models.vgg import VGG

__all__ = ["Order", "rate_order"]

Order = tuple[tuple[str, ...], ...]
"""For each entry of a rate list, the names of the convolutions whose output width it sets."""


def rate_order(model: nn.Module) -> dict[int, Order] | None:
    """The orders of a bundled net, or of torchvision's resnet50 or mobilenet_v2, by length of the list; else None."""
    if isinstance(model, ResNet):
        return _by_length(_resnet(model))
    if isinstance(model, VGG):
        convs = _vgg(model)
        return _by_length(convs, convs[:-1])
    if isinstance(model, GoogLeNet):
        return _by_length(_googlenet_layers(), _googlenet_inceptions())
    if isinstance(model, DenseNet):
        return _by_length(_densenet(model))
    if isinstance(model, MobileNetV1):
        return _by_length(_mobilenetv1(model))
    if _comes_from(model, "torchvision.models.resnet", "ResNet") and _is_resnet50(model):
        return _by_length(*_resnet50(model))
    if _comes_from(model, "torchvision.models.mobilenetv2", "MobileNetV2"):
        return _by_length(_mobilenetv2(model))
    return None


def _by_length(*orders: Sequence[tuple[str, ...]]) -> dict[int, Order]:
    return {len(order): tuple(order) for order in orders}


def _comes_from(model: nn.Module, module: str, name: str) -> bool:
    return any(kind.__module__ == module and kind.__name__ == name for kind in type(model).__mro__)


def _children(model: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """The submodules of model.NAME with their full names."""
    return [(f"{name}.{child}", module) for child, module in model.get_submodule(name).named_children()]


def _resnet(model: ResNet) -> Order:
    """30 for ResNet-56, 57 for ResNet-110: first convolutions of the blocks, then stages; the stem follows stage 1."""
    stages = [[name for name, _ in _children(model, f"layer{stage}")] for stage in (1, 2, 3)]
    inner = tuple((f"{block}.conv1",) for blocks in stages for block in blocks)
    streams = [tuple(f"{block}.conv2" for block in blocks) for blocks in stages]
    return (*inner, ("conv1", *streams[0]), *streams[1:])


def _vgg(model: VGG) -> Order:
    """The 13 convolutions; in the list of 12 the last one stays whole."""
    return tuple((name,) for name, module in _children(model, "features") if isinstance(module, nn.Conv2d))


def _googlenet_layers() -> Order:
    """64: stem, then for each inception 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 a, 5x5 b, pool 1x1."""
    branches = ("b1.0", "b2.0", "b2.3", "b3.0", "b3.3", "b3.6", "b4.1")
    return (("pre_layers.0",), *((f"{name}.{conv}",) for name in INCEPTIONS for conv in branches))


def _googlenet_inceptions() -> Order:
    """10: stem, then of each inception 3x3, 5x5 a and 5x5 b; in the last inception only 5x5 a, as in HRank's tables."""
    *most, last = INCEPTIONS
    rates = (tuple(f"{name}.{conv}" for conv in ("b2.3", "b3.3", "b3.6")) for name in most)
    return (("pre_layers.0",), *rates, (f"{last}.b3.3",))


def _densenet(model: DenseNet) -> Order:
    """39: every convolution in forward order.

    A transition's rate is of its dense width. HRank takes it of what enters the transition after pruning.
    """
    return tuple((name,) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))


def _mobilenetv1(model: MobileNetV1) -> Order:
    """14: stem, then 13 pointwise convolutions, each with the depthwise convolution that follows it."""
    convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return tuple(tuple(convs[i : i + 2]) for i in range(0, len(convs), 2))


def _is_resnet50(model: nn.Module) -> bool:
    """ResNeXt and Wide-ResNet are the same class with other groups or base width."""
    depths = [len(_children(model, f"layer{stage}")) for stage in (1, 2, 3, 4)]
    bottlenecks = hasattr(model.get_submodule("layer1.0"), "conv3")
    return depths == [3, 4, 6, 3] and bottlenecks and bool(model.groups == 1) and bool(model.base_width == 64)


def _resnet50(model: nn.Module) -> tuple[Order, Order, Order]:
    """37: stem, 16 first and 16 second convolutions, 4 stages (DCFF). 21: stem, 16 blocks, 4 stages.

    20: stem, 3 stages (the fourth stays whole), 16 blocks (HRank). A block's rate is that of both inner convolutions.
    """
    stages = [_children(model, f"layer{stage}") for stage in (1, 2, 3, 4)]
    blocks = [name for stage in stages for name, _ in stage]
    stem: Order = (("conv1",),)
    first: Order = tuple((f"{block}.conv1",) for block in blocks)
    second: Order = tuple((f"{block}.conv2",) for block in blocks)
    both: Order = tuple((f"{block}.conv1", f"{block}.conv2") for block in blocks)
    streams: Order = tuple(
        (*(f"{block}.conv3" for block, _ in stage), f"layer{number}.0.downsample.0")
        for number, stage in enumerate(stages, 1)
    )
    return stem + first + second + streams, stem + both + streams, stem + streams[:3] + both


def _mobilenetv2(model: nn.Module) -> Order:
    """25: stem, then the expansion and the projection of each block where it is not tied, then the last 1x1 (DCFF).

    A depthwise convolution has the rate of what feeds it; a projection added to its block's input has the input's rate.
    """
    (stem, _), *blocks, (last, _) = _children(model, "features")
    entries = [[f"{stem}.0"]]
    stream = entries[0]
    for block, module in blocks:
        convs = [name for name, part in module.named_modules(prefix=block) if isinstance(part, nn.Conv2d)]
        *expansion, depthwise, projection = convs
        if expansion:
            entries.append([*expansion, depthwise])
        else:
            stream.append(depthwise)
        if module.use_res_connect:
            stream.append(projection)
        else:
            stream = [projection]
            entries.append(stream)
    entries.append([f"{last}.0"])
    return tuple(map(tuple, entries))
