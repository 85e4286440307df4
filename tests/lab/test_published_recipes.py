"""The recipes of published systems: their settings are those of the papers, and rates give the printed counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from shared import ROOT, SHARED, needs
from torch import nn

import prunus
from prunus.costs import cost
from prunus.lab.recipe import Recipe, load
from prunus.models import resolve
from prunus.rates import parse_rates

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.toml"))
LINES = {
    # ending: data, method, epochs, batch, rate, steps, weight decay
    "-dcff": ("cifar10", "dcff", {"sparsity": 300}, 256, 0.1, (150, 225), 5e-4),
    "-hrank": ("cifar10", "hrank", {"train": 300, "finetune": 150}, 256, 0.1, (150, 225), 5e-4),
    "-abc": ("cifar10", "abc", {"train": 300, "finetune": 150}, 256, 0.1, (150, 225), 5e-4),
    "-weights": ("cifar10", "weights", {"train": 30, "finetune": 30}, 256, 1e-3, (), 0.0),
    "-fpgm": ("cifar10", "fpgm", {"train": 30, "finetune": 30}, 256, 1e-3, (), 0.0),
    "-ssl": ("cifar100", "ssl", {"sparsity": 100, "finetune": 100}, 128, 0.05, (40, 60, 80), 1e-4),
    "-slimming": ("cifar100", "slimming", {"sparsity": 100, "finetune": 100}, 128, 0.05, (40, 60, 80), 1e-4),
}
NETWORKS = {
    "cifar10-{}-dcff": ("vgg16", "resnet56", "resnet110", "googlenet"),
    "cifar10-{}-hrank": ("vgg16", "resnet56", "resnet110", "googlenet"),
    "cifar10-{}-abc": ("vgg16", "resnet56", "resnet110", "googlenet"),
    "cifar10-{}-weights": ("alexnet", "resnet18", "resnet34"),
    "cifar10-{}-fpgm": ("alexnet", "resnet18", "resnet34"),
    "cifar100-{}-ssl": ("vgg16", "resnet50"),
    "cifar100-{}-slimming": ("vgg16", "resnet50", "mobilenet_v2"),
    "imagenet-{}-dcff": ("resnet50", "mobilenetv1"),
    "imagenet-{}-gates": ("resnet50",),
    "imagenet-{}": ("resnet50",),
}
EVERY = [pattern.format(network) for pattern, networks in NETWORKS.items() for network in networks]


def of(name: str) -> Recipe:
    return load(ROOT / "recipes" / f"{name}.toml")


def test_every_section_has_its_recipe() -> None:
    assert [name for name in EVERY if name not in RECIPES] == []


@pytest.mark.parametrize("name", [name for name in EVERY if name.startswith("cifar")])
def test_the_protocol_is_the_published_one(name: str) -> None:
    recipe, ending = of(name), f"-{name.rpartition('-')[2]}"
    data, method, epochs, batch, rate, steps, decay = LINES[ending]
    first = next(iter(recipe.trainings.values()))
    assert recipe.prune is not None and (recipe.data.path, recipe.prune.method) == (data, method)
    assert {stage: fit.epochs for stage, fit in recipe.trainings.items()} == epochs
    decay = 1e-5 if "mobilenet" in name else decay
    assert (first.batch_size, first.lr, first.steps, first.weight_decay) == (batch, rate, steps, decay)
    if data == "cifar100":
        assert recipe.data.resize == (256, 224) and recipe.data.mean == (0.45,) * 3 and recipe.data.std == (0.225,) * 3
        assert (first.label_smoothing, first.warmup, first.gamma) == (0.1, 5, 0.1)
        assert first.augment.policy == "autoaugment" and first.augment.jitter == 0.1
        assert recipe.model.classes == 100
    elif ending in ("-weights", "-fpgm"):
        assert (recipe.data.resize, recipe.model.classes, first.optimizer, first.schedule) == (
            224,
            1000,
            "adamw",
            "cosine",
        )
    else:
        assert recipe.data.mean == (0.4914, 0.4822, 0.4465) and recipe.data.std == (0.2023, 0.1994, 0.2010)
        assert (first.augment.crop, first.augment.flip, first.decay_norms) == (4, True, True)


@pytest.mark.parametrize("name", [name for name in EVERY if name.endswith(("-hrank", "-abc"))])
def test_what_is_cut_from_a_trained_network_is_trained_on_as_published(name: str) -> None:
    after = of(name).finetune
    assert after is not None and (after.lr, after.steps, after.gamma) == (0.01, (50, 100), 0.1)
    assert after.batch_size == (256 if name.endswith("-hrank") else 128)


@pytest.mark.parametrize("method", ["slimming", "ssl"])
def test_the_pool_of_vgg_is_that_of_its_convolutions(method: str) -> None:
    """The published shares are of 4 224 channels, and the classifier's 4096 + 4096 stay. At one eighth, same names."""
    from torchvision.models import vgg

    dense = (8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M")
    model = vgg.VGG(vgg.make_layers(list(dense), batch_norm=True), num_classes=10)
    for k, (wide, narrow) in {0: (64 * 49, 32), 3: (32, 32), 6: (32, 10)}.items():
        model.get_submodule("classifier")[k] = nn.Linear(wide, narrow)
    wanted = of(f"cifar100-vgg16-{method}").prune
    assert wanted is not None
    found = prunus.trace(model, torch.zeros(1, 3, 32, 32), pin=wanted.pin)
    assert found.widths == tuple(width for width in dense if width != "M") and 8 * sum(found.widths) == 4224


def test_googlenet_by_hrank_is_the_published_network() -> None:
    """649.19 M and 2.85 M parameters of convolutions and linear layers, as printed; the stem stays whole."""
    cut = of("cifar10-googlenet-hrank").prune
    assert cut is not None
    model = resolve("googlenet")
    plan = prunus.prune(
        model, torch.zeros(1, 3, 32, 32), rates=str(cut.rates), keep_rule=cut.keep_rule, check=False
    ).plan
    with torch.device("meta"):
        network = prunus.apply(resolve("googlenet"), plan).eval()
        counted = cost(network, torch.empty(1, 3, 32, 32), "thop")
    assert (counted.macs, counted.params - 11_124) == (649_193_408, 2_846_636)


def test_penalties_are_the_published_ones() -> None:
    wanted = {"vgg16": 1e-4, "resnet50": 1e-5, "mobilenet_v2": 1e-5}
    found = {name: of(f"cifar100-{name}-slimming").sparsity.options["lam"] for name in wanted}  # type: ignore[union-attr]
    assert found == wanted
    assert {of(f"cifar100-{name}-ssl").sparsity.options["lam"] for name in ("vgg16", "resnet50")} == {1e-5}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [name for name in EVERY if name.startswith("imagenet")])
def test_imagenet_runs_for_90_epochs(name: str) -> None:
    recipe = of(name)
    (fit,) = recipe.trainings.values()
    assert (fit.epochs, fit.batch_size, recipe.data.resize) == (90, 256, (256, 224))
    assert fit.warmup == (5 if name.endswith("dcff") else 8)
    if name.endswith("dcff"):
        assert (fit.lr, fit.steps, fit.weight_decay) == (0.1, (30, 60, 80), 1e-4)
    else:
        assert (fit.lr, fit.momentum, fit.weight_decay, fit.label_smoothing) == (0.256, 0.875, 2**-15, 0.1)
        assert fit.schedule == "cosine" and recipe.runtime.channels_last


@pytest.mark.parametrize("name", [name for name in EVERY if name.endswith("dcff")])
def test_what_is_trained_is_what_is_cut(name: str) -> None:
    recipe = of(name)
    assert recipe.sparsity is not None and recipe.prune is not None
    assert isinstance(recipe.prune.rates, str) and recipe.sparsity.rates == recipe.prune.rates
    assert recipe.sparsity.keep_rule == recipe.prune.keep_rule == "float-truncate"


@needs("spec", "accounting.json")
@pytest.mark.parametrize("network", ["vgg16", "resnet56", "googlenet"])
def test_rates_are_those_of_the_accounting(network: str) -> None:
    rows: list[dict[str, Any]] = json.loads((SHARED / "spec" / "accounting.json").read_text("utf-8"))["rows"]
    (row,) = (row for row in rows if row["row"] == f"{network} pruned")
    cut = of(f"cifar10-{network}-dcff").prune
    assert cut is not None and parse_rates(str(cut.rates)) == parse_rates(row["cprate"])


@pytest.mark.parametrize(
    ("name", "side", "millions", "params"),
    [
        # 88.59 M is printed with the pool as a module: 65 for each of 32 channels more
        ("cifar10-resnet110-dcff", 32, 88.59, 0.58),
        ("imagenet-resnet50-dcff", 224, 1310, 7.27),
    ],
)
def test_rates_give_the_printed_counts(name: str, side: int, millions: float, params: float) -> None:
    recipe = of(name)
    assert recipe.prune is not None
    model, small = resolve(recipe.model.name, recipe.model.classes), min(side, 64)
    plan = prunus.prune(
        model, torch.zeros(1, 3, small, small), rates=str(recipe.prune.rates), keep_rule="float-truncate", check=False
    ).plan
    with torch.device("meta"):
        network = prunus.apply(resolve(recipe.model.name, recipe.model.classes), plan).eval()
        counted = cost(network, torch.empty(1, 3, side, side), "thop")
    assert round(counted.macs / 1e6, 2 if millions < 1000 else -1) == millions
    assert round(counted.params / 1e6, 2) == params
