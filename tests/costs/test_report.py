"""What a Cost holds besides macs, and how it prints."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import Tensor, nn

from prunus.costs import Cost, cost, human


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.third = nn.Linear(4, 4, bias=False)
        self.third.weight = nn.Parameter(self.first.weight.data)  # another parameter, the same memory
        self.norm = nn.BatchNorm1d(4)
        self.norm.requires_grad_(False)
        self.register_buffer("buffer", torch.zeros(6, dtype=torch.float16))
        self.register_buffer("same", self.buffer, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.third(self.second(self.first(x))))  # type: ignore[no-any-return]


def test_shared_tensors_count_once() -> None:
    model = Tied()
    found = cost(model, torch.zeros(1, 4))
    assert found.params == 16 + 4 + 4 + 8
    assert found.params_trainable == 16 + 4 + 4
    assert found.params_conv_linear == 16 + 4 + 4
    assert found.bytes == 4 * 32 + (4 * 8 + 8) + 2 * 6
    assert found.macs == 48


def test_bytes_follow_the_dtype() -> None:
    assert cost(nn.Linear(4, 4).double(), torch.zeros(1, 4, dtype=torch.float64)).bytes == 160
    assert cost(nn.Linear(4, 4).bfloat16(), torch.zeros(1, 4, dtype=torch.bfloat16)).bytes == 40


def test_nonzero_counts_what_is_left() -> None:
    model = nn.Linear(10, 10)
    nn.init.ones_(model.bias)
    with torch.no_grad():
        model.weight.fill_(1)
        model.weight[:7] = 0
    found = cost(model, torch.zeros(1, 10))
    assert (found.params, found.nonzero) == (110, 40)
    assert str(found) == "100 macs, 110 parameters (36.4% nonzero), 440 B"
    assert cost(model.to("meta"), torch.zeros(1, 10, device="meta")).nonzero == 110


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (125_485_696, "", "125.5 M"),
        (57_539_904, "", "57.54 M"),
        (15_466_577_920, "", "15.47 G"),
        (853_018, "", "853.0 k"),
        (3_412_072, "B", "3.412 MB"),
        (999, "", "999"),
        (0, "B", "0 B"),
        (1000, "", "1.000 k"),
        (999_999, "", "1.000 M"),
        (9_999.4, "", "9.999 k"),
        (1_234_000_000_000, "", "1.234 T"),
    ],
)
def test_human_numbers(number: float, unit: str, text: str) -> None:
    assert human(number, unit) == text


def example(**changes: object) -> Cost:
    values: dict[str, object] = {
        "macs": 125_485_696,
        "params": 853_018,
        "nonzero": 853_018,
        "bytes": 3_428_640,
        "params_trainable": 853_018,
        "params_conv_linear": 848_954,
        "by_module": {"conv1": 442_368, "": 125_043_328},
    }
    return Cost(**(values | changes))  # type: ignore[arg-type]


def test_it_prints() -> None:
    assert str(example()) == "125.5 M macs, 853.0 k parameters, 3.429 MB"
    assert str(example(convention="thop")) == "125.5 M macs (thop), 853.0 k parameters, 3.429 MB"
    assert str(example(unsupported=("aten::_fft_r2c in mix",))).splitlines()[1:] == [
        "not counted: aten::_fft_r2c in mix"
    ]
    several = example(unsupported=("LayerNorm in a", "LayerNorm in b", "Other in the model itself"))
    assert str(several).endswith("not counted: LayerNorm in 2 modules, Other in the model itself")
    assert example(unsupported=("a<b>",))._repr_html_() == (
        "<table><tr><th>macs</th><td>125.5 M</td></tr><tr><th>parameters</th><td>853.0 k</td></tr>"
        "<tr><th>size</th><td>3.429 MB</td></tr><tr><th>not counted</th><td>a&lt;b&gt;</td></tr></table>"
    )


def test_it_is_json_and_survives_a_copy() -> None:
    one = example(unsupported=("x",))
    text = json.dumps(one.to_json())
    assert {"macs", "params", "bytes", "convention"} <= json.loads(text).keys()
    assert json.loads(text)["by_module"] == {"conv1": 442_368, "": 125_043_328}
    assert copy.deepcopy(one) == one == pickle.loads(pickle.dumps(one))
    assert hash(one) == hash(copy.deepcopy(one))
