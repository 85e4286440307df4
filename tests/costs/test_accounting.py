"""The published counts, to the unit: baselines, and compact networks built at the published widths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunus.costs import Cost, cost
from prunus.rates import kept, parse_rates


def torchvision_net(name: str, classes: int) -> nn.Module:
    """On the meta device: shapes without arithmetic."""
    import torchvision

    with torch.device("meta"):
        net: nn.Module = torchvision.models.get_model(name, num_classes=classes)
    return net


def at(net: nn.Module, convention: str, side: int = 224) -> Cost:
    return cost(net, torch.empty(1, 3, side, side, device="meta"), convention)


@pytest.mark.parametrize(
    ("name", "classes", "macs", "thop", "params"),
    [
        ("vgg16_bn", 100, 15_466_577_920, 15_507_270_656, 134_678_692),
        ("resnet50", 100, 4_087_341_056, 4_109_671_424, 23_712_932),
        ("mobilenet_v2", 100, 299_622_272, 312_978_496, 2_351_972),
        ("alexnet", 1000, 714_188_480, 714_691_904, 61_100_840),
        ("resnet18", 1000, 1_814_073_344, 1_819_066_368, 11_689_512),
        ("resnet34", 1000, 3_663_761_408, 3_671_263_232, 21_797_672),
    ],
)
def test_baselines(name: str, classes: int, macs: int, thop: int, params: int) -> None:
    net = torchvision_net(name, classes)
    assert at(net, "macs").macs == macs
    assert at(net, "thop").macs == thop
    assert at(net, "macs").params == params


def test_resnet50_in_ptflops() -> None:
    assert at(torchvision_net("resnet50", 1000), "ptflops").macs == 4_121_925_096


def vgg16_bn(widths: list[int]) -> nn.Module:
    from torchvision.models import vgg

    cuts = (2, 4, 7, 10, 13)
    with torch.device("meta"):
        layers: list[str | int] = []
        for number, width in enumerate(widths, start=1):
            layers += [width, "M"] if number in cuts else [width]
        net: nn.Module = vgg.VGG(vgg.make_layers(layers, batch_norm=True), num_classes=100)
        net.get_submodule("classifier")[0] = nn.Linear(widths[-1] * 49, 4096)  # type: ignore[index]
    return net


@pytest.mark.parametrize(
    ("thop", "params", "macs", "widths"),
    [
        (9574261280, 130526524, 9543263488, (24, 64, 104, 120, 216, 208, 208, 224, 336, 472, 504, 512, 512)),
        (7669823360, 130877116, 7644239872, (24, 48, 72, 96, 144, 152, 208, 280, 392, 488, 512, 512, 512)),
        (9199366592, 129510628, 9168335872, (40, 48, 104, 120, 240, 184, 240, 360, 200, 360, 504, 504, 512)),
        (10918001216, 69375228, 10885885440, (48, 56, 64, 96, 224, 248, 216, 504, 488, 424, 512, 328, 208)),
        (6746390528, 132216388, 6734298112, (8, 8, 16, 16, 32, 184, 240, 368, 504, 504, 512, 512, 512)),
        (13847257280, 55873940, 13807433216, (64, 64, 128, 128, 256, 256, 256, 512, 472, 352, 504, 272, 144)),
        (6415948640, 112468620, 6387619584, (40, 48, 104, 112, 224, 128, 192, 248, 72, 120, 392, 448, 448)),
        (4600185824, 74064076, 4575086848, (40, 40, 104, 104, 208, 96, 144, 168, 24, 32, 216, 296, 272)),
        (8363818592, 130309732, 8335389184, (24, 56, 96, 112, 168, 152, 216, 304, 344, 448, 496, 504, 512)),
        (4519959104, 125719276, 4497038080, (24, 48, 72, 96, 112, 88, 168, 192, 192, 240, 392, 424, 512)),
        (2450902352, 120726620, 2432258048, (24, 40, 56, 88, 72, 48, 120, 112, 104, 80, 248, 248, 504)),
    ],
)
def test_vgg16_bn_at_published_widths(thop: int, params: int, macs: int, widths: tuple[int, ...]) -> None:
    net = vgg16_bn(list(widths))
    assert (at(net, "thop").macs, at(net, "macs").macs, at(net, "macs").params) == (thop, macs, params)


def resnet50(
    classes: int = 1000,
    stem: int = 64,
    inner: tuple[int, ...] = (64, 128, 256, 512),
    shared: tuple[int, ...] = (256, 512, 1024, 2048),
    first: dict[str, int] | None = None,
    dropped: tuple[str, ...] = (),
) -> nn.Module:
    """torchvision's resnet50 at other widths. `first` overrides the width after the first convolution of a block."""
    net = torchvision_net("resnet50", classes)

    def resize(conv: str, norm: str, entering: int, leaving: int) -> None:
        old = net.get_submodule(conv)
        assert isinstance(old, nn.Conv2d)
        new = nn.Conv2d(entering, leaving, old.kernel_size, old.stride, old.padding, bias=False, device="meta")  # type: ignore[arg-type]
        for path, module in ((conv, new), (norm, nn.BatchNorm2d(leaving, device="meta"))):
            parent, _, child = path.rpartition(".")
            setattr(net.get_submodule(parent), child, module)

    resize("conv1", "bn1", 3, stem)
    entering = stem
    for stage in range(4):
        blocks = net.get_submodule(f"layer{stage + 1}")
        for block, module in list(blocks.named_children()):
            path = f"layer{stage + 1}.{block}"
            one, two = (first or {}).get(path, inner[stage]), inner[stage]
            resize(f"{path}.conv1", f"{path}.bn1", entering, one)
            resize(f"{path}.conv2", f"{path}.bn2", one, two)
            resize(f"{path}.conv3", f"{path}.bn3", two, shared[stage])
            if module.downsample is not None:
                resize(f"{path}.downsample.0", f"{path}.downsample.1", entering, shared[stage])
            if path in dropped:
                setattr(blocks, block, nn.Identity())
            entering = shared[stage]
    net.fc = nn.Linear(entering, classes, device="meta")
    return net


@pytest.mark.parametrize(
    ("dropped", "thop", "params", "macs"),
    [
        (("layer1.1",), 3_888_897_024, 23_642_532, 3_868_975_104),
        (("layer2.1", "layer3.1", "layer4.1", "layer4.2"), 3_233_799_168, 13_390_500, 3_213_877_248),
    ],
)
def test_resnet50_with_dropped_blocks(dropped: tuple[str, ...], thop: int, params: int, macs: int) -> None:
    net = resnet50(100, dropped=dropped)
    assert (at(net, "thop").macs, at(net, "macs").macs, at(net, "macs").params) == (thop, macs, params)


def test_resnet50_with_one_narrow_layer() -> None:
    net = resnet50(100, first={"layer2.1": 104})
    assert at(net, "thop").macs == 4_078_323_968
    assert (at(net, "macs").macs, at(net, "macs").params) == (4_056_031_232, 23_672_948)


@pytest.mark.parametrize(
    ("stem", "inner", "shared", "macs", "ptflops", "params"),
    [
        (64, (64, 128, 256, 512), (256, 512, 1024, 2048), 4_089_184_256, 4_121_925_096, 25_557_032),
        (32, (32, 64, 128, 256), (128, 256, 512, 1024), 1_052_311_552, 1_068_682_472, 6_917_640),
        (64, (64, 128, 256, 512), (192, 384, 768, 1536), 3_504_222_208, 3_532_045_800, 21_488_424),
    ],
)
def test_resnet50_by_stage(
    stem: int, inner: tuple[int, ...], shared: tuple[int, ...], macs: int, ptflops: int, params: int
) -> None:
    net = resnet50(1000, stem, inner, shared)
    assert (at(net, "macs").macs, at(net, "ptflops").macs, at(net, "macs").params) == (macs, ptflops, params)


def test_main_path_of_resnet50_by_module() -> None:
    by_module = at(torchvision_net("resnet50", 1000), "macs").by_module
    main = {name: macs for name, macs in by_module.items() if "downsample" not in name and name != "fc"}
    assert len(main) == 49
    assert sum(main.values()) == 3_727_474_688


def cifar_vgg16(rates: tuple[float, ...]) -> nn.Module:
    """Thirteen biased convolutions, an AvgPool2d module, one linear layer."""
    full = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    layers: list[nn.Module] = []
    entering = 3
    for number, (width, rate) in enumerate(zip(full, rates, strict=True), start=1):
        leaving = kept(width, rate, "float-truncate")
        layers += [nn.Conv2d(entering, leaving, 3, padding=1), nn.BatchNorm2d(leaving), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2)] if number in (2, 4, 7, 10) else []
        entering = leaving
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(entering, 10)).to("meta")


@pytest.mark.parametrize(
    ("rates", "thop", "params", "macs"),
    [
        ("[0.0]*13", 314_031_616, 14_728_266, 313_201_664),
        ("[0.45]*7+[0.78]*5+[0.0]", 66_687_616, 1_638_156, 66_258_944),
    ],
)
def test_cifar_vgg16_at_published_rates(rates: str, thop: int, params: int, macs: int) -> None:
    net = cifar_vgg16(parse_rates(rates))
    assert (at(net, "thop", 32).macs, at(net, "macs", 32).macs, at(net, "macs", 32).params) == (thop, macs, params)
