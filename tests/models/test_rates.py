"""The published orders of rate lists."""

from __future__ import annotations

import pytest
import torch
from models.counting import count
from torch import nn

from prunus.models import GOOGLENET_WIDTHS, build, googlenet, names, rate_order, resolve

LENGTHS = {
    "resnet20": [12],
    "resnet32": [18],
    "resnet44": [24],
    "resnet56": [30],
    "resnet110": [57],
    "vgg16": [13, 12],
    "vgg16-hrank": [13, 12],
    "googlenet": [64, 10],
    "densenet40": [39],
    "mobilenetv1": [14],
    "torchvision/resnet50": [37, 21, 20],
    "torchvision/mobilenet_v2": [25],
}


def meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return resolve(name)


def widths(model: nn.Module, order: tuple[tuple[str, ...], ...]) -> list[set[int]]:
    return [{model.get_submodule(name).out_channels for name in entry} for entry in order]


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_and_names(name: str) -> None:
    model = meta(name)
    orders = rate_order(model)
    assert orders is not None
    assert list(orders) == LENGTHS[name]
    for length, order in orders.items():
        assert len(order) == length
        flat = [conv for entry in order for conv in entry]
        assert len(set(flat)) == len(flat)
        assert all(isinstance(model.get_submodule(conv), nn.Conv2d) for conv in flat)
        assert all(len(found) == 1 for found in widths(model, order)) or length == 10  # googlenet: three of a branch


@pytest.mark.parametrize("name", [n for n in LENGTHS if n != "googlenet"])
def test_the_longest_order_covers_every_convolution(name: str) -> None:
    model = meta(name)
    orders = rate_order(model)
    assert orders is not None
    covered = {conv for entry in orders[max(orders)] for conv in entry}
    assert covered == {conv for conv, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def test_every_bundled_net_has_an_order() -> None:
    assert set(names()) <= LENGTHS.keys()


def test_resnet56_is_27_first_convolutions_then_the_stages() -> None:
    order = rate_order(meta("resnet56"))[30]
    assert order[0] == ("layer1.0.conv1",)
    assert order[26] == ("layer3.8.conv1",)
    assert order[27] == ("conv1", *(f"layer1.{i}.conv2" for i in range(9)))
    assert order[29] == tuple(f"layer3.{i}.conv2" for i in range(9))


def test_resnet50_has_three_orders() -> None:
    model = meta("resnet50")
    orders = rate_order(model)
    stage2 = (*(f"layer2.{i}.conv3" for i in range(4)), "layer2.0.downsample.0")
    assert orders[37][0] == orders[21][0] == orders[20][0] == ("conv1",)
    assert orders[37][1] == ("layer1.0.conv1",)
    assert orders[37][17] == ("layer1.0.conv2",)
    assert orders[37][34] == orders[21][18] == orders[20][2] == stage2
    assert orders[21][1] == orders[20][4] == ("layer1.0.conv1", "layer1.0.conv2")
    assert "layer4.0.conv3" not in {conv for entry in orders[20] for conv in entry}


def test_mobilenet_v2_lets_linked_projections_copy_their_partner() -> None:
    model = meta("mobilenet_v2")
    order = rate_order(model)[25]
    assert order[0] == ("features.0.0", "features.1.conv.0.0")
    assert order[3] == ("features.2.conv.2", "features.3.conv.2")
    assert order[24] == ("features.18.0",)
    stem, *_, last = (found.pop() for found in widths(model, order))
    assert (stem, last) == (32, 1280)


def test_mobilenetv1_ties_a_depthwise_convolution_to_what_feeds_it() -> None:
    order = rate_order(meta("mobilenetv1"))[14]
    assert order[0] == ("model.0.0", "model.1.0")
    assert order[13] == ("model.13.3",)


def test_googlenet_64_has_the_order_of_its_widths() -> None:
    model = meta("googlenet")
    order = rate_order(model)[64]
    assert [model.get_submodule(conv).out_channels for (conv,) in order] == list(GOOGLENET_WIDTHS)


def test_googlenet_10_gives_the_counts_of_the_hrank_table() -> None:
    """[0.3]+[0.6]*2+[0.7]*5+[0.8]*2 with a whole stem is the row of 2.85 M parameters."""
    order = rate_order(meta("googlenet"))[10]
    rates = [0.0] + [0.6] * 2 + [0.7] * 5 + [0.8] * 2
    rate_of = {conv: rate for entry, rate in zip(order, rates, strict=True) for conv in entry}
    convs = [conv for (conv,) in rate_order(meta("googlenet"))[64]]
    kept = [int(w * (1 - rate_of.get(conv, 0.0))) for conv, w in zip(convs, GOOGLENET_WIDTHS, strict=True)]
    with torch.device("meta"):
        counted = count(googlenet(widths=kept))
    assert counted.params_conv_linear == 2_846_636
    assert counted.macs == 643_804_480


@pytest.mark.parametrize("name", ["wide_resnet50_2", "resnext50_32x4d", "resnet18", "resnet101", "alexnet"])
def test_other_nets_have_no_published_order(name: str) -> None:
    assert rate_order(meta(name)) is None


def test_orders_of_a_bundled_net_hold_for_any_widths() -> None:
    assert rate_order(build("vgg16")) == rate_order(meta("vgg16"))
