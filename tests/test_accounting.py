"""Every published count, to the unit, for networks that Prunus itself cut: by widths, by rates and by dropped blocks.

Plans are made on the CPU and replayed on meta copies, where counting at 224x224 costs no arithmetic.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

import prunus
from prunus.costs import cost
from prunus.models import build, resnet56
from prunus.models.rates import rate_order
from prunus.plan import Plan

THOP, MACS, PTFLOPS = "thop", "macs", "ptflops"


def net(name: str, classes: int, device: str = "cpu") -> nn.Module:
    import torchvision

    with torch.device("meta"):
        model: nn.Module = torchvision.models.get_model(name, num_classes=classes)
    if device == "cpu":  # counts do not depend on the weights, and zeros are made faster than random numbers
        model = model.to_empty(device="cpu")
        for tensor in model.state_dict().values():
            tensor.zero_()
    return model.eval()


@cache
def dense_plan(name: str, classes: int) -> Plan:
    """The plan that keeps all; rows are made by editing its kept lists. Plans do not depend on the input size."""
    model = net(name, classes)
    side = 64 if name != "alexnet" else 96
    return prunus.prune(model, torch.zeros(1, 3, side, side), widths={}, check=False).plan


def with_widths(plan: Plan, widths: dict[str, int]) -> Plan:
    """The plan with the leading channels of the group that each layer's output belongs to."""
    for name, width in widths.items():
        (group,) = (g for g in plan.groups if f"{name}.weight" in g.producers())
        plan = plan.keep(group.name, range(width))
    return plan


def counts(name: str, classes: int, plan: Plan, *conventions: str) -> list[int]:
    small = prunus.apply(net(name, classes, "meta"), plan)
    example = torch.empty(1, 3, 224, 224, device="meta")
    return [cost(small, example, kind).macs for kind in conventions] + [cost(small, example).params]


def convs(name: str, classes: int = 100) -> list[str]:
    return [n for n, m in net(name, classes, "meta").named_modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize(
    ("name", "classes", "thop", "macs", "params"),
    [
        ("vgg16_bn", 100, 15_507_270_656, 15_466_577_920, 134_678_692),
        ("resnet50", 100, 4_109_671_424, 4_087_341_056, 23_712_932),
        ("mobilenet_v2", 100, 312_978_496, 299_622_272, 2_351_972),
        ("alexnet", 1000, 714_691_904, 714_188_480, 61_100_840),
        ("resnet18", 1000, 1_819_066_368, 1_814_073_344, 11_689_512),
        ("resnet34", 1000, 3_671_263_232, 3_663_761_408, 21_797_672),
    ],
)
def test_a_plan_that_keeps_all_costs_what_the_baseline_costs(
    name: str, classes: int, thop: int, macs: int, params: int
) -> None:
    assert counts(name, classes, dense_plan(name, classes), THOP, MACS) == [thop, macs, params]


VGG_ROWS = [
    # thop, macs, params, output channels of the convolutions in module order
    (9574261280, 9543263488, 130526524, (24, 64, 104, 120, 216, 208, 208, 224, 336, 472, 504, 512, 512)),
    (7669823360, 7644239872, 130877116, (24, 48, 72, 96, 144, 152, 208, 280, 392, 488, 512, 512, 512)),
    (9199366592, 9168335872, 129510628, (40, 48, 104, 120, 240, 184, 240, 360, 200, 360, 504, 504, 512)),
    (10918001216, 10885885440, 69375228, (48, 56, 64, 96, 224, 248, 216, 504, 488, 424, 512, 328, 208)),
    (6746390528, 6734298112, 132216388, (8, 8, 16, 16, 32, 184, 240, 368, 504, 504, 512, 512, 512)),
    (13847257280, 13807433216, 55873940, (64, 64, 128, 128, 256, 256, 256, 512, 472, 352, 504, 272, 144)),
    (6415948640, 6387619584, 112468620, (40, 48, 104, 112, 224, 128, 192, 248, 72, 120, 392, 448, 448)),
    (4600185824, 4575086848, 74064076, (40, 40, 104, 104, 208, 96, 144, 168, 24, 32, 216, 296, 272)),
    (8363818592, 8335389184, 130309732, (24, 56, 96, 112, 168, 152, 216, 304, 344, 448, 496, 504, 512)),
    (4519959104, 4497038080, 125719276, (24, 48, 72, 96, 112, 88, 168, 192, 192, 240, 392, 424, 512)),
    (2450902352, 2432258048, 120726620, (24, 40, 56, 88, 72, 48, 120, 112, 104, 80, 248, 248, 504)),
]


@pytest.mark.parametrize(("thop", "macs", "params", "widths"), VGG_ROWS)
def test_vgg16_bn_by_widths(thop: int, macs: int, params: int, widths: tuple[int, ...]) -> None:
    plan = with_widths(dense_plan("vgg16_bn", 100), dict(zip(convs("vgg16_bn"), widths, strict=True)))
    assert counts("vgg16_bn", 100, plan, THOP, MACS) == [thop, macs, params]


def test_vgg16_bn_through_prune_at_224() -> None:
    thop, macs, params, widths = VGG_ROWS[-1]
    example = torch.zeros(1, 3, 224, 224)
    model = net("vgg16_bn", 100)
    small = prunus.prune(model, example, widths=dict(zip(convs("vgg16_bn"), widths, strict=True)), check=False)
    assert (small.before.macs, small.after.macs, small.after.params) == (15_466_577_920, macs, params)
    assert cost(small.model, example, THOP).macs == thop


def test_vgg_widths_are_proven_on_a_narrow_copy() -> None:
    """The same module sequence and the same widths at one eighth, in both modes."""
    from torchvision.models import vgg

    dense = (8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M")
    model = vgg.VGG(vgg.make_layers(list(dense), batch_norm=True), num_classes=10)
    model.get_submodule("classifier")[0] = nn.Linear(64 * 49, 32)  # type: ignore[index]
    model.get_submodule("classifier")[3] = nn.Linear(32, 32)  # type: ignore[index]
    model.get_submodule("classifier")[6] = nn.Linear(32, 10)  # type: ignore[index]
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    widths = {n: w // 8 for n, w in zip(names, VGG_ROWS[-1][3], strict=True)}
    small = prunus.prune(model, torch.randn(2, 3, 32, 32), widths=widths)
    assert small.proof is not None and small.proof.holds
    assert [small.model.get_submodule(n).out_channels for n in names] == list(widths.values())


def test_resnet50_with_one_narrow_layer() -> None:
    """Slimming asked for 20 % and got 0.09 %: one convolution at 104."""
    widths = [64, *[64, 64, 256, 256, 64, 64, 256, 64, 64, 256], *[128, 128, 512, 512, 104, 128, 512]]
    widths += [*[128, 128, 512] * 2, *[256, 256, 1024, 1024], *[256, 256, 1024] * 5]
    widths += [*[512, 512, 2048, 2048], *[512, 512, 2048] * 2]
    plan = with_widths(dense_plan("resnet50", 100), dict(zip(convs("resnet50"), widths, strict=True)))
    assert counts("resnet50", 100, plan, THOP, MACS) == [4_078_323_968, 4_056_031_232, 23_672_948]
    dense = sum(dense_plan("resnet50", 100).widths)
    # The published ratio counts every batch norm's channels (26 560), tied or not.
    assert dense - sum(plan.widths) == 24 and pytest.approx(0.0009036144578312699) == 24 / 26_560


@pytest.mark.parametrize(
    ("drop", "thop", "macs", "params"),
    [
        (("layer1.1",), 3_888_897_024, 3_868_975_104, 23_642_532),
        (("layer2.1", "layer3.1", "layer4.1", "layer4.2"), 3_233_799_168, 3_213_877_248, 13_390_500),
    ],
)
def test_resnet50_without_blocks(drop: tuple[str, ...], thop: int, macs: int, params: int) -> None:
    example = torch.zeros(1, 3, 224, 224)
    small = prunus.prune(net("resnet50", 100), example, drop=drop, check=False)
    assert (small.before.macs, small.after.macs, small.after.params) == (4_087_341_056, macs, params)
    assert cost(small.model, example, THOP).macs == thop
    assert tuple(d.name for d in small.plan.dropped) == drop


def test_dropped_blocks_are_proven() -> None:
    """Both published block lists in one, with a width beside them, on resnet50's narrow sister."""
    from torchvision.models.resnet import Bottleneck, ResNet

    model = ResNet(Bottleneck, [3, 4, 6, 3], num_classes=10, width_per_group=4)
    drop = ["layer1.1", "layer2.1", "layer3.1", "layer4.1", "layer4.2"]
    small = prunus.prune(model, torch.randn(1, 3, 32, 32), drop=drop, widths={"conv1": 40})
    assert small.proof is not None and small.proof.holds
    assert small.model.get_submodule("conv1").out_channels == 40


STAGES = (("layer1", 3), ("layer2", 4), ("layer3", 6), ("layer4", 3))


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
    widths = {"conv1": stem}
    for (stage, blocks), narrow, wide in zip(STAGES, inner, shared, strict=True):
        widths |= {f"{stage}.{b}.conv{c}": narrow for b in range(blocks) for c in (1, 2)}
        widths |= {f"{stage}.{b}.conv3": wide for b in range(blocks)}
    plan = with_widths(dense_plan("resnet50", 1000), widths)
    assert counts("resnet50", 1000, plan, MACS, PTFLOPS) == [macs, ptflops, params]


def test_resnet50_halved_through_prune_by_the_published_list() -> None:
    """37 rates of one half are the row "keep 1/2", counted by the forward that prune runs itself."""
    small = prunus.prune(net("resnet50", 1000), torch.zeros(1, 3, 224, 224), rates="[0.5]*37", check=False)
    assert (small.after.macs, small.after.params) == (1_052_311_552, 6_917_640)
    assert cost(small.model, torch.zeros(1, 3, 224, 224), PTFLOPS).macs == 1_068_682_472


def test_main_path_of_resnet50() -> None:
    """49 convolutions, without downsampling and the head: the T of the published budget loss."""
    small = prunus.apply(net("resnet50", 1000, "meta"), dense_plan("resnet50", 1000))
    by_module = cost(small, torch.empty(1, 3, 224, 224, device="meta")).by_module
    main = {n: macs for n, macs in by_module.items() if "downsample" not in n and n != "fc"}
    assert len(main) == 49 and sum(main.values()) == 3_727_474_688


RESNET56 = (
    "[0.6]+[0.7]+[0.5]+[0.5]+[0.4]+[0.2]+[0.3]+[0.4]+[0.8] + [0.7]+[0.6]+[0.9]+[0.8]+[0.9]+[0.8]+[0.4]+[0.2]+[0.2] "
    "+ [0.7]+[0.3]+[0.8]+[0.4]+[0.3]+[0.7]+[0.2]+[0.4]+[0.8] + [0.0]+[0.0]+[0.0]"
)
GOOGLENET = (
    "[0.0]*2+[0.8]+[0.0]+[0.8]*2+[0.0]*2+([0.0]+[0.9]+[0.0]+[0.9]*2+[0.0]*2)*3+([0.0]+[0.8]+[0.0]+[0.8]*2+[0.0]*2)*3"
    "+([0.0]+[0.9]+[0.0]+[0.9]*2+[0.0]*2)*2"
)


@pytest.mark.parametrize(
    ("name", "rates", "dense_thop", "dense_params", "thop", "macs", "params", "removed_macs", "removed_params"),
    [
        ("vgg16", "[0.45]*7+[0.78]*5+[0.0]",
         314_031_616, 14_728_266, 66_687_616, 66_258_944, 1_638_156, 78.764, 88.8775),
        ("googlenet", GOOGLENET,
         1_529_421_824, 6_166_250, 457_215_424, 451_471_104, 2_079_250, 70.1053, 66.2802),
    ],
)  # fmt: skip
def test_compact_nets_by_rates(
    name: str, rates: str, dense_thop: int, dense_params: int, thop: int, macs: int, params: int,
    removed_macs: float, removed_params: float,
) -> None:  # fmt: skip
    model, example = build(name), torch.randn(1, 3, 32, 32)
    small = prunus.prune(model, example, rates=rates, keep_rule="float-truncate", check=name == "vgg16")
    assert (cost(model, example, THOP).macs, small.before.params) == (dense_thop, dense_params)
    assert (cost(small.model, example, THOP).macs, small.after.macs, small.after.params) == (thop, macs, params)
    assert 100 * (1 - thop / dense_thop) == pytest.approx(removed_macs, abs=5e-5)
    assert 100 * (1 - params / dense_params) == pytest.approx(removed_params, abs=5e-5)


def test_compact_resnet56_by_rates() -> None:
    """The published compact form pools through a module, the full one by a function: 65 a channel in thop."""
    example = torch.randn(1, 3, 32, 32)
    small = prunus.prune(resnet56(pool="module"), example, rates=RESNET56, keep_rule="float-truncate", check=False)
    thop = cost(small.model, example, THOP).macs
    assert (thop, small.after.macs, small.after.params) == (57_539_904, 56_752_768, 398_744)
    full = cost(resnet56(), example, THOP)
    assert (full.macs, full.params) == (126_550_656, 853_018)
    assert 100 * (1 - thop / full.macs) == pytest.approx(54.5321, abs=5e-5)
    assert 100 * (1 - small.after.params / full.params) == pytest.approx(53.2549, abs=5e-5)


def test_exact_rates_are_not_float_truncation() -> None:
    """int(320·(1 − 0.9)) is 31 in float64 and 32 in decimals: the two rules differ in googlenet's fourth stage."""
    model, example = build("googlenet"), torch.randn(1, 3, 32, 32)
    wide = {}
    for rule in ("exact", "float-truncate"):
        small = prunus.prune(model, example, rates="[0.9]*64", keep_rule=rule, check=False)
        wide[rule] = small.model.get_submodule("e4.b2.3").out_channels
    assert wide == {"exact": 32, "float-truncate": 31}


@pytest.mark.parametrize(
    ("name", "macs", "conv_linear", "params"),
    [("resnet56", 125_485_696, 848_954, 853_018), ("resnet110", 252_887_680, 1_719_866, 1_727_962)],
)
def test_full_cifar_resnets_as_printed(name: str, macs: int, conv_linear: int, params: int) -> None:
    with torch.device("meta"):
        model = build(name)
    found = cost(model, torch.empty(1, 3, 32, 32, device="meta"))
    assert (found.macs, found.params_conv_linear, found.params) == (macs, conv_linear, params)


def test_hrank_vgg16() -> None:
    """12 rates, the last convolution whole. Of the printed numbers 313.46 M is macs, and 66.95 M is thop."""
    small = prunus.prune(
        build("vgg16-hrank"), torch.randn(1, 3, 32, 32), rates="[0.45]*7+[0.78]*5", keep_rule="float-truncate"
    )
    assert (round(small.before.macs / 1e6, 2), small.before.params_conv_linear) == (313.46, 14_982_474)
    thop = cost(small.model, torch.randn(1, 3, 32, 32), THOP).macs
    assert (small.after.macs, thop, small.after.params_conv_linear) == (66_521_088, 66_950_272, 1_897_408)


def test_published_lists_have_the_published_lengths() -> None:
    lengths = {n: sorted(rate_order(build(n)) or {}) for n in ("vgg16", "resnet56", "resnet110", "googlenet")}
    assert lengths == {"vgg16": [12, 13], "resnet56": [30], "resnet110": [57], "googlenet": [10, 64]}
    assert sorted(rate_order(net("resnet50", 10, "meta")) or {}) == [20, 21, 37]
    assert list(rate_order(net("mobilenet_v2", 10, "meta")) or {}) == [25]
    assert list(rate_order(build("mobilenetv1")) or {}) == [14]
