"""Widths and rates as a user states them: by list, text, name and glob; what is refused, and in which words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import TargetError, UnknownName
from prunus.graph import Coupling
from prunus.models import build, rate_order
from prunus.widths import Rates, from_widths
from prunus.widths import from_rates as widths_and_notes


class Wide(nn.Module):
    """`two` feeds `three` alone with one half of its outputs, and a sum with the other: it spans two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 10, 1), nn.Conv2d(10, 16, 1)
        self.three, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.relu(self.two(torch.relu(self.one(x)))).chunk(2, 1)
        return self.head(torch.relu(b + self.three(a)))  # type: ignore[no-any-return]


def from_rates(model: nn.Module, coupling: Coupling, rates: Rates, layout: str, rule: str) -> list[int]:
    """The widths, where nothing had to be remarked."""
    widths, notes = widths_and_notes(model, coupling, rates, layout, rule)
    assert not notes
    return widths


def by_name(coupling: Coupling, widths: list[int]) -> dict[str, int]:
    return dict(zip((g.name for g in coupling.groups), widths, strict=True))


@pytest.fixture(scope="module")
def sequence() -> tuple[nn.Module, Coupling]:
    model = nn.Sequential(
        nn.Conv2d(3, 10, 1), nn.ReLU(), nn.Conv2d(10, 20, 1), nn.ReLU(),
        nn.Conv2d(20, 30, 1), nn.ReLU(), nn.Conv2d(30, 2, 1),
    )  # fmt: skip
    return model, prunus.trace(model, torch.randn(1, 3, 2, 2))


@pytest.fixture(scope="module")
def resnet() -> tuple[nn.Module, Coupling]:
    model = build("resnet20")
    return model, prunus.trace(model, torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("rates", "widths"),
    [
        ("[0.5]*3", [5, 10, 15]),
        ("[0.0]+[0.1,0.25]", [10, 18, 22]),
        ([0.1, 0.2, 0.3], [9, 16, 21]),
        ((0.99, 0.99, 0.99), [1, 1, 1]),
        ({"0": 0.5}, [5, 20, 30]),
        ({"[24]": 0.5}, [10, 10, 15]),
        ({"*": 0.1, "4": 0.9}, [9, 18, 3]),
        ({}, [10, 20, 30]),
    ],
)
def test_rates_give_widths(sequence: tuple[nn.Module, Coupling], rates: object, widths: list[int]) -> None:
    model, coupling = sequence
    assert from_rates(model, coupling, rates, "published", "exact") == widths  # type: ignore[arg-type]


def test_keep_rules(sequence: tuple[nn.Module, Coupling]) -> None:
    """10·(1 − 0.9) is 0.9999999999999998 in float64, yet at least one stays; 30·(1 − 0.9) is 2.9999…"""
    model, coupling = sequence
    assert from_rates(model, coupling, [0.9] * 3, "forward", "exact") == [1, 2, 3]
    assert from_rates(model, coupling, [0.9] * 3, "forward", "float-truncate") == [1, 1, 2]
    with pytest.raises(UnknownName, match="unknown keep rule 'exakt'; did you mean 'exact'"):
        from_rates(model, coupling, [0.9] * 3, "forward", "exakt")


@pytest.mark.parametrize("rates", ["[0.5]*2", "[0.5]*4", [], [0.1]])
def test_a_list_of_the_wrong_length_names_the_groups(sequence: tuple[nn.Module, Coupling], rates: object) -> None:
    model, coupling = sequence
    with pytest.raises(TargetError, match=r"rates for a net with 3 groups \(0: 0, 1: 2, 2: 4\)"):
        from_rates(model, coupling, rates, "published", "exact")  # type: ignore[arg-type]


def test_the_wrong_length_of_a_published_list(resnet: tuple[nn.Module, Coupling]) -> None:
    model, coupling = resnet
    with pytest.raises(TargetError) as error:
        from_rates(model, coupling, "[0.5]*11", "published", "exact")
    text = str(error.value)
    assert "11 rates for a net whose published lists have 12" in text
    assert "0: layer1.0.conv1" in text and "9: conv1" in text and "11: layer3.0.conv2" in text
    with pytest.raises(TargetError, match=r"12 or 13 .*0: features\.0"):
        vgg = build("vgg16")
        from_rates(vgg, prunus.trace(vgg, torch.randn(1, 3, 32, 32)), [0.1], "published", "exact")


def test_layouts(resnet: tuple[nn.Module, Coupling]) -> None:
    """Published: first convolutions, then stages. Forward: the order of each group's first producer."""
    model, coupling = resnet
    rates = [k / 20 for k in range(12)]
    published = by_name(coupling, from_rates(model, coupling, rates, "published", "exact"))
    order = rate_order(model)
    assert order is not None
    dense = {g.name: g.width for g in coupling.groups}
    for rate, entry in zip(rates, order[12], strict=True):
        name = next(n for n in entry if n in dense)
        assert published[name] == int(dense[name] * (1 - rate) + 1e-9)
    forward = from_rates(model, coupling, rates, "forward", "exact")
    assert forward == [int(g.width * (1 - r) + 1e-9) for g, r in zip(coupling.groups, rates, strict=True)]
    assert [g.name for g in coupling.groups][:3] == ["conv1", "layer1.0.conv1", "layer1.1.conv1"]
    with pytest.raises(UnknownName, match="unknown rates_layout 'foward'; did you mean 'forward'"):
        from_rates(model, coupling, rates, "foward", "exact")


def test_globs_reach_layers_that_are_not_first(resnet: tuple[nn.Module, Coupling]) -> None:
    """layer2.2.conv2 writes into stage 2, whose group is called after its first producer."""
    model, coupling = resnet
    widths = by_name(coupling, from_rates(model, coupling, {"layer2.2.*": 0.5}, "published", "exact"))
    assert {n for n, w in widths.items() if w != coupling[n].width} == {"layer2.2.conv1", "layer2.0.conv2"}
    with pytest.raises(UnknownName, match=r"unknown layer or group 'layer2\.9\.\*'"):
        from_rates(model, coupling, {"layer2.9.*": 0.5}, "published", "exact")


def test_a_layer_stands_for_its_group(resnet: tuple[nn.Module, Coupling]) -> None:
    _, coupling = resnet
    for layer in ("conv1", "layer1.0.conv2", "layer1.2.conv2"):
        widths = by_name(coupling, from_widths(coupling, {layer: 11}))
        assert widths.pop("conv1") == 11
        assert all(w == coupling[n].width for n, w in widths.items())


def test_two_layers_of_one_group_must_agree(resnet: tuple[nn.Module, Coupling]) -> None:
    _, coupling = resnet
    with pytest.raises(TargetError, match=r"layer1\.0\.conv2 shares a group with a layer that was given 11, not 12"):
        from_widths(coupling, {"conv1": 11, "layer1.0.conv2": 12})
    assert from_widths(coupling, {"conv1": 11, "layer1.0.conv2": 11})[0] == 11


@pytest.mark.parametrize("rates", [{"layer1.0.conv2": 0.25, "*": 0.5}, {"*": 0.5, "layer1.0.conv2": 0.25}])
def test_a_name_counts_before_a_glob(resnet: tuple[nn.Module, Coupling], rates: dict[str, float]) -> None:
    model, coupling = resnet
    found = by_name(coupling, from_rates(model, coupling, rates, "published", "exact"))
    assert found["conv1"] == 12 and found["layer1.0.conv1"] == 8


def test_rates_of_one_group_must_agree_and_those_of_a_pinned_layer_say_so(resnet: tuple[nn.Module, Coupling]) -> None:
    model, coupling = resnet
    with pytest.raises(
        TargetError, match=r"layer1\.0\.conv2 shares a group with conv1, which was given 0\.5, not 0\.25"
    ):
        from_rates(model, coupling, {"conv1": 0.5, "layer1.0.conv2": 0.25}, "published", "exact")
    agreed = from_rates(model, coupling, {"conv1": 0.5, "layer1.0.conv2": 0.5}, "published", "exact")
    assert by_name(coupling, agreed)["conv1"] == 8
    with pytest.raises(TargetError, match="linear is pinned: it is the model's output"):
        from_rates(model, coupling, {"linear": 0.5}, "published", "exact")


@pytest.mark.parametrize("width", [2.0, "3", True, None])
def test_widths_are_whole_numbers(resnet: tuple[nn.Module, Coupling], width: object) -> None:
    with pytest.raises(TargetError, match="widths: conv1 must be a whole number"):
        from_widths(resnet[1], {"conv1": width})  # type: ignore[dict-item]


@pytest.mark.parametrize("width", [0, -1, 17])
def test_widths_lie_within_the_group(width: int) -> None:
    with pytest.raises(TargetError, match=f"group conv1 has 16 channels and cannot keep {width}"):
        prunus.prune(build("resnet20"), torch.randn(1, 3, 32, 32), widths={"conv1": width})


def test_unknown_layers_get_the_nearest_name(resnet: tuple[nn.Module, Coupling]) -> None:
    with pytest.raises(UnknownName, match=r"unknown layer or group 'layer1\.0\.conv3'; did you mean 'layer1\.0\.conv"):
        from_widths(resnet[1], {"layer1.0.conv3": 4})


def test_a_pinned_layer_says_why(resnet: tuple[nn.Module, Coupling]) -> None:
    with pytest.raises(TargetError, match="linear is pinned: it is the model's output"):
        from_widths(resnet[1], {"linear": 4})


def test_an_output_that_spans_groups_names_them() -> None:
    model = build("densenet40")
    coupling = prunus.trace(model, torch.randn(1, 3, 32, 32))
    assert len({g.name for g in coupling.groups}) == len(coupling.groups)
    coupling = prunus.trace(Wide(), torch.randn(1, 3, 2, 2))
    names = [g.name for g in coupling.groups if g.name.startswith("two")]
    if len(names) > 1:
        with pytest.raises(TargetError, match=f"the output of two spans {len(names)} groups.*{names[0]}, {names[1]}"):
            from_widths(coupling, {"two": 4})
        assert 4 in from_widths(coupling, {names[1]: 4})
    small = prunus.prune(Wide(), torch.randn(1, 3, 2, 2), rates={"*": 0.5})
    assert small.proof is not None and small.proof.holds
    assert small.model.get_submodule("two").out_channels == 8
    assert small.model.get_submodule("three").in_channels == 4


def test_rates_honour_blocks() -> None:
    """15 channels in blocks of 3 at rate 0.3: 10.5 would stay, 9 do."""
    model = nn.Sequential(nn.Conv2d(3, 15, 1), nn.GroupNorm(3, 15), nn.ReLU(), nn.Conv2d(15, 2, 1))
    small = prunus.prune(model, torch.randn(1, 3, 4, 4), rates=[0.3])
    assert small.plan.widths == (9,)
    assert prunus.prune(model, torch.randn(1, 3, 4, 4), rates=[0.95]).plan.widths == (3,)


@pytest.mark.parametrize("rate", [1.0, -0.1, 2, float("nan")])
def test_rates_outside_0_to_1_are_refused(sequence: tuple[nn.Module, Coupling], rate: float) -> None:
    model, coupling = sequence
    for rates in ([rate, 0.0, 0.0], {"0": rate}):
        with pytest.raises(TargetError, match="a rate is the fraction removed"):
            from_rates(model, coupling, rates, "published", "exact")


def test_a_rate_for_a_pinned_layer_is_noted() -> None:
    """Entry 0 of the published list is layer1.0.conv1, which the user pinned: the others hold, and it is said."""
    small = prunus.prune(
        build("resnet20"), torch.randn(1, 3, 32, 32), rates="[0.5]*12", pin=["layer1.0.conv1"], check=False
    )
    assert any("rate 0 (0.5) found nothing to prune" in note for note in small.notes)
    assert ("layer1.1.conv1", 16, 8) in small.rows()


@pytest.mark.parametrize("rate", ["0.5", None, 1.5, float("nan")])
def test_a_rate_for_a_pinned_layer_is_a_rate(rate: Any) -> None:
    model = build("resnet20")
    coupling = prunus.trace(model, torch.randn(1, 3, 32, 32), pin=["layer1.0.conv1"])
    with pytest.raises(TargetError, match="a rate is"):
        from_rates(model, coupling, [rate] + [0.5] * 11, "published", "exact")


@pytest.mark.parametrize("name", [3, None, ("0",)])
def test_names_of_widths_are_text(sequence: tuple[nn.Module, Coupling], name: Any) -> None:
    with pytest.raises(UnknownName, match="unknown layer or group"):
        from_widths(sequence[1], {name: 4})


def test_a_name_without_end_is_not_repeated(sequence: tuple[nn.Module, Coupling]) -> None:
    with pytest.raises(UnknownName, match="unknown layer or group 'xxx") as refusal:
        from_widths(sequence[1], {"x" * 100_000: 4})
    assert len(str(refusal.value)) < 1000
