"""`cost` itself: the batch, the forms of an example, errors, and the model left as found."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.costs import cost
from prunus.errors import ExampleError, ModelError


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))


MACS = 36 * 4 * 27 + 288


@pytest.mark.parametrize("convention", ["macs", "thop", "ptflops", "thop-2020"])
def test_batch_4_costs_what_batch_1_costs(convention: str) -> None:
    one, four = (cost(small(), torch.zeros(n, 3, 8, 8), convention) for n in (1, 4))
    assert one == four and one.per == "sample"


def test_what_is_computed_once_for_all_samples_is_not_divided() -> None:
    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(3, 5))
            self.project = nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.project(self.table).sum(0)

    assert cost(Bias(), torch.zeros(4, 4)).macs == 60


def test_a_model_with_its_batch_written_in_is_counted_on_the_whole_example() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.view(4, 6))  # type: ignore[no-any-return]

    found = cost(Fixed(), torch.zeros(4, 2, 3))
    assert (found.macs, found.per) == (48, "example")
    assert str(found).startswith("48 macs for the whole example, ")


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 5), nn.Linear(4, 5)

    def forward(self, a: Tensor, b: Tensor, *, scale: float = 1.0) -> dict[str, Tensor]:
        return {"sum": self.left(a) + self.right(b) * scale}


def test_forms_of_an_example() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(2, 4)
    for example in ((a, b), {"a": a, "b": b}, {"b": b, "a": a, "scale": 2.0}):
        assert cost(Pair(), example).by_module == {"left": 15, "right": 20}
    nested = cost(OneDict(), ({"a": a, "b": b},))
    assert (nested.macs, nested.per) == (35, "sample")
    with pytest.raises(ExampleError, match="not list"):
        cost(Pair(), [a, b])
    with pytest.raises(ExampleError, match="the batch, is 0"):
        cost(Pair(), (a[:0], b[:0]))


class OneDict(Pair):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        return super().forward(**batch)


def test_images_in_a_list_are_not_sliced() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, images: list[Tensor]) -> list[Tensor]:
            assert all(image.shape == (3, 8, 8) for image in images)
            return list(self.net(torch.stack(images)))

    found = cost(Detector(), ([torch.zeros(3, 8, 8)] * 2,))
    assert (found.macs, found.per) == (2 * MACS, "example")


def test_states_beside_a_batch_need_the_whole_example() -> None:
    found = cost(nn.LSTM(8, 6, batch_first=True), (torch.zeros(2, 5, 8), (torch.zeros(1, 2, 6), torch.zeros(1, 2, 6))))
    assert (found.macs, found.per) == (2 * 5 * 24 * 14, "example")


@pytest.mark.parametrize(
    ("model", "example", "says"),
    [
        (
            nn.Sequential(small()),
            torch.zeros(2, 4, 8, 8),
            r"^0\.0 \(Conv2d\) refuses the example: it got \(2, 4, 8, 8\)",
        ),
        (small(), torch.zeros(1, 3, 9, 9), r"^3 \(Linear\) refuses the example: it got \(1, 196\)"),
        (Pair(), torch.zeros(1, 3), r"^Pair refuses the example: it got \(1, 3\): .*missing 1 required"),
        (Pair(), (torch.zeros(1, 3), None), r"^right \(Linear\) refuses the example: it got NoneType"),
        (Pair(), {"x": torch.zeros(1, 3)}, r"^Pair refuses the example: it got x=\(1, 3\): .*unexpected keyword"),
        (nn.Embedding(4, 2), torch.tensor([[9]]), r"^Embedding refuses the example: it got \(1, 1\)"),
    ],
)
def test_a_wrong_example_is_refused_in_one_line(model: nn.Module, example: Any, says: str) -> None:
    with pytest.raises(ExampleError, match=says) as caught:
        cost(model, example)
    assert "\n" not in str(caught.value)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Untidy(nn.Module):
    """Draws random numbers, writes its buffers and replaces one, and overrides train."""

    steps: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("last", torch.zeros(4))
        self.trained: list[bool] = []

    def train(self, mode: bool = True) -> Untidy:
        self.trained.append(mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training and not self.norm.training and not torch.is_grad_enabled()
        self.steps += 1
        x = F.dropout(self.norm(self.conv(x)), random.random())
        self.last = x.mean((0, 2, 3))
        return x


@pytest.mark.parametrize("convention", ["macs", "thop"])
def test_the_model_is_left_as_found(convention: str) -> None:
    model = Untidy().train()
    model.norm.eval()
    model.conv.weight.requires_grad_(False)
    model.conv.register_forward_hook(lambda *_: None)
    model.trained.clear()
    modes = {name: module.training for name, module in model.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {name: id(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    example = torch.ones(2, 3, 8, 8, requires_grad=True)
    seeds = torch.get_rng_state(), random.getstate()
    cost(model, example, convention)
    assert torch.equal(torch.get_rng_state(), seeds[0]) and random.getstate() == seeds[1]
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.trained == []
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert {name: id(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())} == tensors
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert example.grad is None and all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()
    assert not model.conv.weight.requires_grad and model.norm.weight.requires_grad


def test_wrappers_are_looked_through() -> None:
    model = small()
    assert cost(nn.DataParallel(model), torch.zeros(1, 3, 8, 8)).by_module == {"0": MACS - 288, "3": 288}
    assert cost(torch.compile(model), torch.zeros(1, 3, 8, 8)).by_module == {"0": MACS - 288, "3": 288}
    # A compiled part stays where it is, and runs eagerly while it is counted.
    inside = nn.Sequential(torch.compile(model[0]), *model[1:])
    assert cost(inside, torch.zeros(1, 3, 8, 8)).macs == MACS


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_scripted_part_counts_for_its_caller() -> None:
    model = nn.Sequential(torch.jit.script(nn.Conv2d(3, 4, 3)), *small()[1:])
    assert cost(model, torch.zeros(1, 3, 8, 8)).by_module == {"": MACS - 288, "3": 288}
    found = cost(model, torch.zeros(1, 3, 8, 8), "thop")
    assert found.unsupported == ("the scripted 0 in the model itself",)


def test_other_dtypes_and_layouts() -> None:
    x = torch.zeros(1, 3, 8, 8)
    assert cost(small().double(), x.double()).macs == MACS
    assert cost(small().bfloat16(), x.bfloat16()).macs == MACS
    assert cost(small().to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)).macs == MACS


def test_a_parametrised_weight() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    found = cost(model, torch.zeros(1, 3))
    assert (found.macs, found.params, found.params_conv_linear) == (6, 2 + 6 + 2, 2 + 6 + 2)


def test_a_lazy_module_has_no_cost_yet() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ModelError, match=r"0\.weight has no shape yet"):
        cost(model, torch.zeros(1, 2))
    assert isinstance(model[0], nn.LazyLinear)
