"""Whatever is wrong with the input gets one line, of the right kind, that says what was passed and what is allowed."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from zoo import EXAMPLE
from zoo import classifier as net

import prunus
from prunus.errors import ExampleError, InputError, ModelError, PlanError, PrunusError, TargetError, UnknownName


def refused(kind: type[PrunusError], text: str, *args: Any, **options: Any) -> None:
    with pytest.raises(kind, match=text) as error:
        prunus.prune(*args, **options)
    assert isinstance(error.value, InputError) and "\n" not in str(error.value) and len(str(error.value)) < 600


def test_unknown_names() -> None:
    refused(UnknownName, "unknown method 'magnitud'; did you mean 'magnitude'", net(), EXAMPLE, "macs=50%", "magnitud")
    refused(UnknownName, "unknown residual block 'layer9'", net(), EXAMPLE, drop=["layer9"])
    refused(UnknownName, "unknown layer or group '33'", net(), EXAMPLE, widths={"33": 4})
    refused(InputError, "a method is a name or an object", net(), EXAMPLE, "macs=50%", 3)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("macs", "not key=value"),
        ("macs=", "not key=value"),
        ("", "empty"),
        ("macs=fifty", "neither|not a percentage"),
        ("mac=50%", "did you mean 'macs'"),
        ("flops=50%", "use macs="),
        ("macs=120%", "above 100 %"),
        ("macs=1.01", "above 100 %"),
        ("macs=1G", "above 100 %: the dense model has"),
        ("macs=0%", "leaves nothing"),
        ("macs=-5%", "not a percentage"),
        ("macs=0.0001%", "the smallest possible is"),
        ("channels=2,min=4", "the smallest possible is 8"),
        ("latency=8", "needs a unit"),
        ("latency=50%,blocks=auto", "name a number, as blocks=-2"),
        ("weights=30%", "weights= counts single weights"),
        ("macs=50%,macs=40%", "given twice"),
        ("macs=50%,scope=globe", "did you mean 'global'"),
        ("round=8", "names no budget"),
    ],
)
def test_targets_that_are_refused(target: str, text: str) -> None:
    refused(TargetError, text, net(), EXAMPLE, target)


def test_the_smallest_budget_named_can_be_had() -> None:
    """One channel a group, on 64 and on 9 positions, then 4 outputs."""
    with pytest.raises(TargetError) as error:
        prunus.prune(net(), EXAMPLE, "macs=5")
    least = 64 * 27 + 9 * 9 + 4
    assert f"the smallest possible is {least:,}" in str(error.value)
    assert prunus.prune(net(), EXAMPLE, f"macs={least}").after.macs == least
    refused(TargetError, f"the smallest possible is {least:,}", net(), EXAMPLE, f"macs={least - 1}")


def test_what_to_keep_is_said_once() -> None:
    refused(InputError, "nothing says how much stays", net(), EXAMPLE)
    refused(InputError, "target and rates were given", net(), EXAMPLE, "macs=50%", rates="[0.5]*2")
    refused(InputError, "rates and widths were given", net(), EXAMPLE, rates="[0.5]*2", widths={"0": 3})
    refused(InputError, "target is text or a Target, not float", net(), EXAMPLE, 0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(bad: float) -> None:
    model = net()
    with torch.no_grad():
        model[3].weight[1, 2, 0, 0] = bad  # type: ignore[union-attr, index]
    refused(ModelError, r"3\.weight holds values that are not finite", model, EXAMPLE, "macs=50%")


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (torch.randn(1, 4, 8, 8), r"refuses the example \(1, 4, 8, 8\): in 0, .*conv2d"),
        (torch.randn(1, 3, 2, 2, 2), "refuses the example"),
        (torch.randn(1, 3, 2, 2), "refuses the example .*in 3, "),
        (EXAMPLE.double(), "refuses the example"),
        (EXAMPLE.long(), "refuses the example"),
        ({"image": EXAMPLE}, r"keys \(image\) are not the inputs of Sequential.forward \(input\); .* a tuple of one"),
        ((EXAMPLE, EXAMPLE), "refuses the example"),
        (None, "an example is a tensor"),
        (np.zeros((1, 3, 8, 8)), "an example is a tensor"),
    ],
)
def test_examples_that_do_not_fit(example: Any, text: str) -> None:
    refused(ExampleError, text, net(), example, "macs=50%")


def test_nothing_to_prune_says_why() -> None:
    refused(ModelError, "nothing to prune .*it is the model's output", nn.Linear(3, 2), torch.randn(1, 3), "macs=50%")
    refused(ModelError, "no convolution or linear layer was reached", nn.ReLU(), torch.randn(1, 3), "macs=50%")
    refused(ModelError, "asked by the user", net(), EXAMPLE, "macs=50%", pin=["*"])


def test_scripted_models_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(model, torch.randn(1, 4))
    refused(ModelError, "scripted modules cannot be cut", scripted, torch.randn(1, 4), "macs=50%")


@pytest.mark.parametrize("name", ["loss", "evaluate", "between"])
def test_functions_that_are_none(name: str) -> None:
    refused(InputError, f"{name} is a function of", net(), EXAMPLE, "macs=50%", **{name: 3})


# types and values that mean nothing
@pytest.mark.parametrize("rates", [0.5, {"0": "0.5"}, ["0.5", 0.1], [None, 0.1]])
def test_rates_of_the_wrong_type(rates: Any) -> None:
    refused(InputError, ".", net(), EXAMPLE, rates=rates)


@pytest.mark.parametrize("widths", [[3, 3], 3])
def test_widths_of_the_wrong_type(widths: Any) -> None:
    refused(InputError, ".", net(), EXAMPLE, widths=widths)


@pytest.mark.parametrize("model", [None, lambda x: x])
def test_no_model(model: Any) -> None:
    refused(InputError, ".", model, EXAMPLE, "macs=50%")


class Given:
    """A method that returns what it is given."""

    scope: str | None = None

    def __init__(self, scores: Any) -> None:
        self.scores = scores

    def score(self, model: nn.Module, coupling: prunus.Coupling, *, seed: int = 0) -> Any:
        return self.scores


@pytest.mark.parametrize("scores", [(np.ones(16),), (np.ones(16), np.ones(11)), (np.ones(16), np.full(12, np.nan))])
def test_scores_that_do_not_fit(scores: Any) -> None:
    refused(InputError, ".", net(), EXAMPLE, "macs=50%", Given(scores))


@pytest.mark.parametrize("drop", [5, None, [1], [None], b"x", nn.Linear(1, 1), [nn.Linear(1, 1)]])
def test_names_of_blocks_are_text(drop: Any) -> None:
    refused(InputError, "drop takes names, not", net(), EXAMPLE, "macs=50%", drop=drop)


@pytest.mark.parametrize("pin", [5, [1], b"x", [None]])
def test_pins_are_names_or_modules(pin: Any) -> None:
    refused(InputError, "pin takes names or modules, not", net(), EXAMPLE, "macs=50%", pin=pin)


def test_a_method_class_is_no_method() -> None:
    refused(InputError, ".", net(), EXAMPLE, "macs=50%", prunus.methods.Magnitude)
    refused(InputError, ".", net(), EXAMPLE, "macs=50%", "random", seed=-1)


@pytest.mark.parametrize("where", ["running_mean", "running_var"])
def test_statistics_that_are_not_finite(where: str) -> None:
    model = net()
    getattr(model[1], where)[2] = float("nan")
    refused(ModelError, where, model, EXAMPLE, "macs=50%")


def test_examples_without_a_sample_or_a_value() -> None:
    refused(ExampleError, ".", net(), torch.randn(0, 3, 8, 8), "macs=50%")
    refused(ExampleError, ".", net(), EXAMPLE * float("nan"), "macs=50%")
    refused(InputError, ".", net().to("meta"), EXAMPLE.to("meta"), "macs=50%")
    refused(InputError, "data", net(), EXAMPLE, "macs=50%", data=torch.zeros(3))


def test_what_prune_returned_is_no_model() -> None:
    small = prunus.prune(net(), EXAMPLE, "macs=50%")
    text = "a model is a torch.nn.Module, not Pruned; pass its .model"
    for call in (prunus.trace, prunus.cost, prunus.bench):
        with pytest.raises(ModelError, match=text):
            call(small, EXAMPLE)
    for use in (prunus.evaluate, prunus.train):
        with pytest.raises(ModelError, match=text):
            use(small, [(EXAMPLE, torch.zeros(len(EXAMPLE), dtype=torch.long))])
    with pytest.raises(ModelError, match=r"a model is a torch\.nn\.Module, not int$"):
        prunus.cost(3, EXAMPLE)  # type: ignore[arg-type]


def test_what_is_no_plan() -> None:
    small = prunus.prune(net(), EXAMPLE, "macs=50%")
    for given, text in ((small, "not Pruned; pass its .plan"), (small.plan.to_json(), "not dict; read one with Plan")):
        with pytest.raises(PlanError, match=text):
            prunus.apply(net(), given)  # type: ignore[arg-type]


def test_a_convention_is_text() -> None:
    with pytest.raises(UnknownName, match="unknown convention None"):
        prunus.cost(net(), EXAMPLE, None)  # type: ignore[arg-type]
