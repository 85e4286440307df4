"""Accuracy and loss of outputs that can be counted by hand."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import nn

from prunus.engine.data import Data, Split
from prunus.engine.loop import evaluate, fit
from prunus.engine.runtime import Runtime
from prunus.engine.task import Classification, Metrics, logits
from prunus.errors import DataError, ExampleError, InputError


class Seven(nn.Module):
    """Gives back its input as the scores of 7 classes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


def ranked(*places: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One sample per place: the label 3 has that place among the scores 7 6 5 4 3 2 1."""
    x = torch.zeros(len(places), 7)
    for row, place in zip(x, places, strict=True):
        others = [c for c in range(7) if c != 3]
        others.insert(place - 1, 3)
        row[others] = torch.arange(7, 0, -1.0)
    return [(x[:2], torch.full((2,), 3)), (x[2:], torch.full((len(places) - 2,), 3))]


def test_top1_top5_and_loss_by_hand():
    result = evaluate(Seven(), ranked(1, 2, 5, 6, 7))
    # cross-entropy of the score s among 7..1: ln Σ e^k - s
    partition = math.log(sum(math.exp(k) for k in range(1, 8)))
    assert (result.top1, result.top5, result.n) == (20.0, 60.0, 5)
    assert result.loss == pytest.approx(partition - (7 + 6 + 3 + 2 + 1) / 5, rel=1e-6)
    assert str(result).startswith("top-1 20.00 %, top-5 60.00 %")


def test_fewer_than_five_classes():
    feed = [(torch.eye(3), torch.tensor([0, 1, 0]))]
    result = evaluate(Seven(), feed)
    assert result.top1 == pytest.approx(200 / 3) and result.top5 == 100


def test_modes_are_left_as_found_and_statistics_untouched():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.9), nn.Flatten())
    model.train()
    model[1].eval()
    feed = [(torch.randn(4, 1, 3, 3), torch.tensor([0, 1, 0, 1]))]
    first = evaluate(model, feed)
    assert [module.training for module in model] == [True, False, True, True] and model.training
    assert first == evaluate(model, feed), "no dropout"
    assert model[1].num_batches_tracked == 0 and all(p.grad is None for p in model.parameters())


def test_modes_are_put_back_after_an_error_too():
    model = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(ExampleError, match=r"refuses a batch of shape \(3, 5\)"):
        evaluate(model.train(), [(torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64))])
    assert model.training and model[0].training


def test_a_split_is_normalised_as_the_data_says():
    images = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8).view(2, 1, 1, 2)
    split = Split(images, torch.tensor([1, 1]))
    data = Data(Split.empty(1), split, 2, (0.5,), (0.25,), "two")
    # scores ±2, so the loss of the right one is ln(1 + e^-4)
    want = Metrics(50.0, 100.0, pytest.approx((math.log1p(math.exp(-4)) + math.log1p(math.exp(4))) / 2), 2)
    assert evaluate(Seven(), data) == want
    assert evaluate(Seven(), split, mean=(0.5,), std=(0.25,), batch_size=1) == want
    with pytest.raises(InputError, match="needs mean= and std="):
        evaluate(Seven(), split)


def test_nothing_to_evaluate_on():
    with pytest.raises(DataError, match="two has no test part"):
        evaluate(Seven(), Data(Split.empty(1), Split.empty(1), 2, (0.5,), (0.25,), "two"))
    with pytest.raises(DataError, match="gave no batches"):
        evaluate(Seven(), [])
    with pytest.raises(DataError, match="label 7 is out of range for a model with 7 outputs"):
        evaluate(Seven(), [(torch.zeros(1, 7), torch.tensor([7]))])


def test_auxiliary_outputs_count_in_the_loss_alone():
    class Outputs(NamedTuple):
        logits: torch.Tensor
        aux: torch.Tensor | None

    task, y = Classification(aux_weight=0.3), torch.tensor([0])
    main, extra = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    batch = (torch.zeros(1, 2), y)
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    assert task.loss(Outputs(main, extra), batch).item() == pytest.approx(right + 0.3 * wrong)
    assert task.loss(Outputs(main, None), batch).item() == pytest.approx(right)
    assert task.tally(Outputs(main, extra), batch)["top1"] == 1
    with pytest.raises(ExampleError, match="no logits"):
        logits({"out": main})


# The runtime


def test_precision_is_that_of_the_forward_pass():
    seen = []

    class Spy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            seen.append(y.dtype)
            return y

    feed = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))]
    for precision in ("fp32", "bf16", "fp16"):
        evaluate(Spy(3, 2), feed, runtime=Runtime(device="cpu", precision=precision))
    assert seen == [torch.float32, torch.bfloat16, torch.float16]


def test_channels_last_reaches_weights_and_batches():
    runtime, model = Runtime(device="cpu", channels_last=True), nn.Conv2d(3, 4, 3)
    assert runtime.place(model) is model and model.weight.is_contiguous(memory_format=torch.channels_last)
    x, rest = runtime.move((torch.zeros(2, 3, 4, 4), {"boxes": [torch.zeros(2, 4)], "id": 7}))
    assert x.is_contiguous(memory_format=torch.channels_last) and rest["id"] == 7


def test_compile_is_asked_for_static_shapes_and_shares_the_weights(monkeypatch):
    asked = {}

    def compile(model, **options):
        asked.update(options)
        return nn.Sequential(model)

    monkeypatch.setattr(torch, "compile", compile)
    model = nn.Linear(2, 2)
    assert Runtime(device="cpu", compile=True).place(model)[0] is model and asked == {"dynamic": False}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"precision": "fp8"}, "'fp8' is none of fp32, bf16, fp16"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_a_runtime_that_cannot_be(settings, says):
    with pytest.raises(InputError, match=says):
        Runtime(**settings)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("digits", "data is batches or a Data, not the name 'digits'"),
        (5, "such as a DataLoader or a list, not int"),
        (None, "such as a DataLoader or a list, not NoneType"),
        (lambda: [], "such as a DataLoader or a list, not function"),
    ],
)
def test_what_gives_no_batches(data, text):
    for use in (evaluate, fit):
        with pytest.raises(DataError, match=text):
            use(Seven(), data)


def test_settings_that_are_none():
    with pytest.raises(InputError, match=r"config is a Fit, such as Fit\(epochs=10\), not int"):
        fit(Seven(), ranked(1, 2), 3)
