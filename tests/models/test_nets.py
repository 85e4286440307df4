"""The bundled nets: shapes, published counts, published tensor names, compact forms."""

from __future__ import annotations

import pytest
import torch
from models.counting import Count, count
from torch import nn

from prunus.errors import TargetError, UnknownName
from prunus.models import (
    DENSENET40_WIDTHS,
    GOOGLENET_WIDTHS,
    MOBILENETV1_WIDTHS,
    VGG16_WIDTHS,
    build,
    densenet40,
    googlenet,
    mobilenetv1,
    names,
    resnet56,
    resnet110,
    resnet_widths,
    vgg16,
    vgg16_hrank,
)

DENSE = {
    "resnet20": Count(40_551_040, 40_927_872, 269_722, 268_346),
    "resnet32": Count(68_862_592, 69_468_800, 464_154, 461_882),
    "resnet44": Count(97_174_144, 98_009_728, 658_586, 655_418),
    "resnet56": Count(125_485_696, 126_550_656, 853_018, 848_954),
    "resnet110": Count(252_887_680, 254_984_832, 1_727_962, 1_719_866),
    "vgg16": Count(313_201_664, 314_031_616, 14_728_266, 14_719_818),
    "vgg16-hrank": Count(313_463_808, 314_294_272, 14_991_946, 14_982_474),
    "googlenet": Count(1_521_756_160, 1_529_421_824, 6_166_250, 6_150_442),
    "densenet40": Count(282_917_328, 287_710_104, 1_059_298, 1_040_578),
    "mobilenetv1": Count(568_740_352, 578_876_928, 4_231_976, 4_210_088),
}

CUT_VGG16 = [0.45] * 7 + [0.78] * 5 + [0.0]
CUT_RESNET56 = [
    *(0.6, 0.7, 0.5, 0.5, 0.4, 0.2, 0.3, 0.4, 0.8, 0.7, 0.6, 0.9, 0.8, 0.9, 0.8, 0.4, 0.2, 0.2),
    *(0.7, 0.3, 0.8, 0.4, 0.3, 0.7, 0.2, 0.4, 0.8),
    *(0.0, 0.0, 0.0),
]
CUT_RESNET110 = [
    *(0.2, 0.0, 0.2, 0.3, 0.6, 0.7, 0.1, 0.3, 0.3, 0.4, 0.7, 0.7, 0.5, 0.1, 0.3, 0.0, 0.6, 0.0),
    *(0.2, 0.5, 0.0, 0.6, 0.7, 0.5, 0.7, 0.7, 0.3, 0.4, 0.0, 0.3, 0.1, 0.5, 0.0, 0.1, 0.0, 0.7),
    *(0.0, 0.1, 0.3, 0.3, 0.3, 0.1, 0.2, 0.5, 0.7, 0.2, 0.4, 0.7, 0.5, 0.7, 0.7, 0.7, 0.5, 0.1),
    *(0.6, 0.2, 0.5),
]
CUT_GOOGLENET = (
    [0.0, 0.0, 0.8, 0.0, 0.8, 0.8, 0.0, 0.0]
    + [0.0, 0.9, 0.0, 0.9, 0.9, 0.0, 0.0] * 3
    + [0.0, 0.8, 0.0, 0.8, 0.8, 0.0, 0.0] * 3
    + [0.0, 0.9, 0.0, 0.9, 0.9, 0.0, 0.0] * 2
)


def cut(widths: tuple[int, ...], rates: list[float]) -> list[int]:
    """The reference nets truncate in float64: int(320 * (1 - 0.9)) is 31."""
    return [int(width * (1 - rate)) for width, rate in zip(widths, rates, strict=True)]


@pytest.mark.parametrize("name", names())
def test_dense_counts_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    assert count(model, 224 if name == "mobilenetv1" else 32) == DENSE[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vgg16", Count(66_258_944, 66_687_616, 1_638_156, 1_634_752)),
        ("vgg16-hrank", Count(66_521_088, 66_950_272, 1_901_836, 1_897_408)),
        ("resnet56", Count(56_752_768, 57_539_904, 398_744, 395_786)),
        ("resnet110", Count(87_397_952, 88_594_272, 584_595, 579_813)),
        ("googlenet", Count(451_471_104, 457_215_424, 2_079_250, 2_067_292)),
    ],
)
def test_compact_nets_have_the_published_counts(name: str, expected: Count) -> None:
    with torch.device("meta"):
        model = {
            "vgg16": lambda: vgg16(widths=cut(VGG16_WIDTHS, CUT_VGG16)),
            "vgg16-hrank": lambda: vgg16_hrank(widths=cut(VGG16_WIDTHS, CUT_VGG16)),
            "resnet56": lambda: resnet56(widths=cut(resnet_widths(56), CUT_RESNET56), pool="module"),
            "resnet110": lambda: resnet110(widths=cut(resnet_widths(110), CUT_RESNET110), pool="module"),
            "googlenet": lambda: googlenet(widths=cut(GOOGLENET_WIDTHS, CUT_GOOGLENET)),
        }[name]()
    assert count(model) == expected


@pytest.mark.parametrize("name", ["resnet20", "vgg16", "vgg16-hrank", "googlenet", "densenet40", "mobilenetv1"])
@pytest.mark.parametrize("size", [32, 48])
def test_forward_shape_and_finite_gradients(name: str, size: int) -> None:
    model = build(name, classes=7)
    x = torch.randn(2, 3, size, size, requires_grad=True)
    y = model(x)
    assert y.shape == (2, 7)
    y.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None for p in model.parameters())


def test_resnet_takes_small_and_oblong_inputs() -> None:
    model = build("resnet20").eval()
    assert model(torch.randn(1, 3, 8, 8)).shape == (1, 10)
    assert model(torch.randn(1, 3, 16, 40)).shape == (1, 10)


def test_both_pools_of_a_resnet_compute_the_same() -> None:
    functional, module = resnet56().double().eval(), resnet56(pool="module").double().eval()
    assert functional.state_dict().keys() == module.state_dict().keys()
    module.load_state_dict(functional.state_dict())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(module(x), functional(x))


def test_pool_term_of_the_module_form_is_65_per_channel() -> None:
    with torch.device("meta"):
        assert count(resnet56(pool="module")).thop - count(resnet56()).thop == 64 * 65


PUBLISHED = {
    "resnet20": ["conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer3.2.bn2.bias", "linear.weight"],
    "vgg16": ["features.0.weight", "features.1.running_mean", "features.40.bias", "classifier.weight"],
    "vgg16-hrank": [
        "features.conv0.weight",
        "features.norm16.bias",
        "classifier.linear1.weight",
        "classifier.linear2.bias",
    ],
    "googlenet": ["pre_layers.0.weight", "a3.b1.0.weight", "a3.b3.6.bias", "b5.b4.1.weight", "linear.weight"],
    "densenet40": [
        "conv1.weight",
        "dense1.0.bn1.weight",
        "dense3.11.conv1.weight",
        "trans2.conv1.weight",
        "bn.bias",
        "fc.bias",
    ],
    "mobilenetv1": ["model.0.0.weight", "model.13.3.weight", "model.13.4.running_var", "fc.weight"],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_tensor_names_are_the_published_ones(name: str) -> None:
    assert set(PUBLISHED[name]) <= build(name).state_dict().keys()


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("resnet56", "fc.weight", "linear.weight"),
        ("resnet56", "layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        ("googlenet", "inception_b4.branch5x5.6.bias", "b4.b3.6.bias"),
        ("googlenet", "inception_a3.branch_pool.1.weight", "a3.b4.1.weight"),
        ("mobilenetv1", "conv1.1.bias", "model.0.1.bias"),
        ("mobilenetv1", "features.12.3.weight", "model.13.3.weight"),
        ("mobilenetv1", "classifier.0.bias", "fc.bias"),
    ],
)
def test_names_of_the_hrank_line_have_a_counterpart(name: str, theirs: str, ours: str) -> None:
    model = build(name)
    assert model.published_key(theirs) == ours
    assert ours in model.state_dict()


@pytest.mark.parametrize(
    ("make", "widths"),
    [
        (vgg16, VGG16_WIDTHS),
        (vgg16_hrank, VGG16_WIDTHS),
        (resnet56, resnet_widths(56)),
        (googlenet, GOOGLENET_WIDTHS),
        (densenet40, DENSENET40_WIDTHS),
        (mobilenetv1, MOBILENETV1_WIDTHS),
    ],
)
def test_any_widths_build_a_net_that_runs(make, widths) -> None:  # type: ignore[no-untyped-def]
    with torch.device("meta"):
        model = make(widths=[1 + (3 * i) % width for i, width in enumerate(widths)]).eval()
        assert model(torch.empty(1, 3, 32, 32)).shape[0] == 1
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert convs[0].out_channels < 32


def test_wrong_widths_say_how_many_there_are_and_what_they_mean() -> None:
    with pytest.raises(TargetError) as error:
        resnet56(widths=[16] * 29)
    assert str(error.value) == "resnet56 takes 30 widths (27 first convolutions, then 3 stages), not 29"
    with pytest.raises(TargetError) as error:
        vgg16(widths=[*VGG16_WIDTHS[:-1], 0])
    assert str(error.value) == "width 12 of vgg16 is 0; it must be a whole number of at least 1 (dense: 512)"


def test_unknown_options_name_the_allowed_ones() -> None:
    with pytest.raises(UnknownName, match="unknown pool 'modul'; did you mean 'module'"):
        resnet56(pool="modul")
    with pytest.raises(UnknownName, match="allowed: centred, map"):
        resnet56(shortcut="pad")
