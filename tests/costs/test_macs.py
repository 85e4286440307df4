"""The `macs` convention against numbers worked out by hand, for modules and for functional calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, library, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prunus.costs import attention_macs, bilinear_macs, conv_macs, cost, linear_macs, matmul_macs
from prunus.outline import Shapes, outlined


class Calls(nn.Module):
    """A model whose forward is one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def macs(function: Callable[..., Any], *shapes: tuple[int, ...]) -> int:
    """On real tensors and on meta ones, with and without inference mode around: the count is the same."""
    counts = set()
    for device in ("cpu", "meta"):
        example = tuple(torch.zeros(shape, device=device) for shape in shapes)
        counts.add(cost(Calls(function), example).macs)
        with torch.inference_mode():
            counts.add(cost(Calls(function), example).macs)
    assert len(counts) == 1
    return counts.pop()


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (F.conv1d, [(1, 6, 10), (4, 6, 3)], 8 * 4 * 6 * 3),
        (F.conv2d, [(1, 6, 8, 10), (4, 6, 3, 5)], 6 * 6 * 4 * 6 * 15),
        (lambda x, w: F.conv2d(x, w, stride=2, padding=1), [(1, 6, 8, 8), (4, 6, 3, 3)], 16 * 4 * 6 * 9),
        (lambda x, w: F.conv2d(x, w, dilation=2), [(1, 6, 8, 8), (4, 6, 3, 3)], 16 * 4 * 6 * 9),
        (lambda x, w: F.conv2d(x, w, groups=3), [(1, 6, 8, 8), (9, 2, 3, 3)], 36 * 9 * 2 * 9),
        (lambda x, w: F.conv2d(x, w, groups=6), [(1, 6, 8, 8), (6, 1, 3, 3)], 36 * 6 * 9),
        (lambda x, w: F.conv2d(x, w, padding="same"), [(1, 6, 8, 8), (4, 6, 3, 3)], 64 * 4 * 6 * 9),
        (F.conv3d, [(1, 2, 4, 4, 4), (3, 2, 2, 2, 2)], 27 * 3 * 2 * 8),
        (lambda x, w: F.conv_transpose2d(x, w, stride=2), [(1, 6, 5, 5), (6, 4, 3, 3)], 25 * 6 * 4 * 9),
        (lambda x, w: F.conv_transpose2d(x, w, groups=2), [(1, 6, 5, 5), (6, 4, 3, 3)], 25 * 6 * 4 * 9),
        (lambda x, w: F.conv_transpose1d(x, w), [(1, 6, 5), (6, 4, 3)], 5 * 6 * 4 * 3),
        (F.linear, [(1, 7), (5, 7)], 35),
        (F.linear, [(1, 3, 7), (5, 7), (5,)], 3 * 35),
        (lambda a, b: a @ b, [(1, 3, 7), (7, 5)], 3 * 35),
        (lambda a, b: a @ b, [(1, 2, 3, 7), (2, 7, 5)], 2 * 3 * 35),
        (lambda a, b: a[0] @ b, [(1, 3, 7), (7,)], 21),
        (lambda a, b: a[0] @ b, [(1, 7), (7,)], 7),
        (torch.matmul, [(1, 3, 7), (1, 7, 5)], 3 * 35),
        (torch.bmm, [(1, 3, 7), (1, 7, 5)], 3 * 35),
        (lambda a, b: torch.mm(a[0], b), [(1, 3, 7), (7, 5)], 3 * 35),
        (lambda c, a, b: torch.addmm(c, a[0], b), [(1, 5), (1, 3, 7), (7, 5)], 3 * 35),
        (torch.baddbmm, [(1, 3, 5), (1, 3, 7), (1, 7, 5)], 3 * 35),
        (lambda c, a, b: torch.addbmm(c[0], a, b), [(1, 3, 5), (1, 3, 7), (1, 7, 5)], 3 * 35),
        (lambda x, w: x.add(0)[0].addmm_(x[0], w), [(1, 5, 5), (5, 5)], 125),
        (lambda a, b: torch.tensordot(a, b, dims=1), [(1, 3, 7), (7, 5)], 3 * 35),
        (lambda a, b: torch.einsum("bhqd,bhkd->bhqk", a, b), [(1, 2, 3, 8), (1, 2, 5, 8)], 2 * 3 * 5 * 8),
        (lambda a, b: torch.einsum("bchw,oc->bohw", a, b), [(1, 6, 4, 4), (5, 6)], 16 * 30),
        (lambda a, b: torch.einsum("bij,bij->bij", a, b), [(1, 3, 7), (1, 3, 7)], 0),
        (F.bilinear, [(1, 3), (1, 4), (5, 3, 4)], 60),
        (lambda x: x * 2 + x.mean(1, keepdim=True), [(1, 6, 4, 4)], 0),
        (lambda x: F.avg_pool2d(F.relu(x), 2), [(1, 6, 4, 4)], 0),
        (F.scaled_dot_product_attention, [(1, 2, 3, 8), (1, 2, 5, 8), (1, 2, 5, 6)], 2 * 3 * 5 * (8 + 6)),
        (
            lambda q, k: F.scaled_dot_product_attention(q, k, k, is_causal=True),
            [(1, 2, 5, 8), (1, 2, 5, 8)],
            2 * 25 * 16,
        ),
        (
            lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True),
            [(1, 4, 5, 8), (1, 2, 5, 8)],
            4 * 25 * 16,
        ),
    ],
)
def test_functional_calls(function: Callable[..., Any], shapes: list[tuple[int, ...]], expected: int) -> None:
    assert macs(function, *shapes) == expected


@pytest.mark.parametrize("weights", [True, False])
def test_multihead_attention(weights: bool) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    model = Calls(lambda x: attention(x, x, x, need_weights=weights))
    model.attention = attention
    found = cost(model, torch.randn(1, 5, 8))
    assert found.macs == 5 * 8 * 24 + 2 * 5 * 5 * (4 + 4) + 5 * 8 * 8
    assert found.by_module == {"attention": found.macs} and found.unsupported == ()


def test_an_encoder_layer_takes_no_fused_path() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    found = cost(layer, torch.randn(1, 5, 8))
    assert found.macs == (5 * 8 * 24 + 2 * 25 * 8 + 5 * 64) + 2 * 5 * 8 * 16
    assert found.by_module == {"self_attn": 5 * 8 * 24 + 2 * 25 * 8 + 5 * 64, "linear1": 640, "linear2": 640}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("kind", "more"), [(nn.LSTM, {}), (nn.LSTM, {"proj_size": 5}), (nn.GRU, {}), (nn.RNN, {})])
def test_an_outline_of_a_recurrent_layer_is_not_run_step_by_step(
    kind: type[nn.RNNBase], more: dict[str, int], both: bool, first: bool
) -> None:
    layer, x = kind(6, 8, 2, bidirectional=both, batch_first=first, **more).eval(), torch.randn(3, 7, 6)
    outline = outlined(layer, x)
    assert outline is not None
    seen: list[str] = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Seen(), Shapes():
        drawn = tree_leaves(outline.model(outline.example))
    assert sum("mm" in name for name in seen) == len([w for w in layer.parameters() if w.dim() > 1])
    real = tree_leaves(layer(x))
    assert [(t.shape, t.stride()) for t in drawn] == [(t.shape, t.stride()) for t in real]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("kind", "gates", "directions"), [(nn.LSTM, 4, 1), (nn.LSTM, 4, 2), (nn.GRU, 3, 2), (nn.RNN, 1, 1)]
)
def test_recurrent_layers(kind: type[nn.RNNBase], gates: int, directions: int, device: str) -> None:
    layer = kind(8, 6, num_layers=2, batch_first=True, bidirectional=directions == 2).to(device)
    first, second = gates * 6 * (8 + 6), gates * 6 * (6 * directions + 6)
    assert cost(layer, torch.zeros(1, 5, 8, device=device)).macs == 5 * directions * (first + second)


def test_a_recurrent_cell() -> None:
    assert cost(nn.LSTMCell(8, 6), torch.zeros(1, 8)).macs == 24 * (8 + 6)


def test_deformable_convolution() -> None:
    from torchvision.ops import DeformConv2d

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Conv2d(4, 18, 3)
            self.conv = DeformConv2d(4, 6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x, self.offset(x))  # type: ignore[no-any-return]

    assert cost(Net(), torch.zeros(1, 4, 8, 8)).by_module == {"offset": 36 * 18 * 36, "conv": 36 * 6 * 36}


def test_counts_belong_to_the_innermost_module() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.weight = nn.Parameter(torch.zeros(5, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean((2, 3)) @ self.weight.t()

    net = nn.Sequential(Block(), nn.Linear(5, 2))
    net.append(Calls(lambda x: net[1](x.new_zeros(1, 5))))
    found = cost(net, torch.zeros(1, 3, 2, 2))
    assert found.by_module == {"0.conv": 48, "0": 20, "1": 20}
    assert found.macs == 88
    assert cost(Calls(F.linear), (torch.zeros(1, 3), torch.zeros(2, 3))).by_module == {"": 6}


def test_a_failure_that_the_model_catches_ends_its_modules() -> None:
    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wrong = nn.Sequential(nn.Linear(4, 4))
            self.right = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.wrong(x)  # type: ignore[no-any-return]
            except RuntimeError:
                return self.right(x)  # type: ignore[no-any-return]

    assert cost(nn.Sequential(Tries(), nn.Linear(2, 2)), torch.zeros(1, 3)).by_module == {"0.right": 6, "1": 4}


def test_what_has_no_rule_is_named() -> None:
    found = cost(nn.Sequential(Calls(lambda x: torch.cdist(x, x))), torch.zeros(1, 3, 4))
    assert found.macs == 0 and found.unsupported == ("aten::_cdist_forward in 0",)
    assert cost(Calls(torch.fft.rfft), torch.zeros(1, 8)).unsupported == ("aten::_fft_r2c in the model itself",)
    solved = cost(Calls(torch.linalg.inv), torch.eye(3)[None])
    assert solved.unsupported == ("aten::linalg_inv_ex in the model itself",)


def test_what_mixes_nothing_is_not_named() -> None:
    def quiet(x: Tensor) -> Tensor:
        x = F.interpolate(F.normalize(x), scale_factor=2, mode="bilinear")
        return F.layer_norm(F.batch_norm(x, None, None, training=True), x.shape[1:]).softmax(1).norm(dim=1)

    assert cost(Calls(quiet), torch.zeros(1, 3, 4, 4)).unsupported == ()


def test_an_operation_of_another_library_is_named() -> None:
    @library.custom_op("prunus_tests::mix", mutates_args=())
    def mix(x: Tensor) -> Tensor:
        return x @ x.transpose(-1, -2)

    assert cost(Calls(mix), torch.zeros(1, 3, 4)).unsupported == ("prunus_tests::mix in the model itself",)


def test_formulas_take_soft_widths() -> None:
    gates = torch.full((16,), 0.75, dtype=torch.float64, requires_grad=True)
    width = gates.sum()
    total = conv_macs(64, width, 3, 9) + conv_macs(64, 8, width, 9) + linear_macs(width, 10)
    total = total + matmul_macs(5, width, 5) + attention_macs(2, 5, 5, width, width) + bilinear_macs(width, 2, 3)
    assert isinstance(total, Tensor)
    per_channel = 64 * 3 * 9 + 64 * 8 * 9 + 10 + 25 + 2 * 25 * 2 + 6
    assert total.item() == 12 * per_channel
    (gradient,) = torch.autograd.grad(total, gates)
    assert gradient.tolist() == [per_channel] * 16


def test_formulas_at_the_dense_width_are_the_count() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1, groups=4))
    found = cost(net, torch.zeros(1, 3, 8, 8))
    assert found.by_module == {"0": conv_macs(64, 16, 3, 9), "1": conv_macs(64, 8, 4, 9)}
