"""Tables of layers, against the prices that they were made from; and which layers a network is seen to call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clocks import Computed, X, net, padded, plain
from torch import Tensor, nn

from prunus.api import trace
from prunus.graph.coupling import Form, Work
from prunus.latency.model import calibrated
from prunus.latency.onelayer import one_layer, one_pass
from prunus.latency.settings import DEPTHWISE, Called, Layer, Setting, calls_of
from prunus.latency.tables import points_of, side, tables_of, vector_class, wanted

CONV = Setting("conv", 1, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1))


def layer(inner: int, outer: int, setting: Setting = CONV, free: tuple[bool, bool] = (True, True)) -> Layer:
    forms = [
        Form(0, ((g, 1),)) if may else Form(width)
        for g, (may, width) in enumerate(zip(free, (inner, outer), strict=True))
    ]
    return Layer(Called(setting, inner, outer, 16), Work("", 0, 144, (forms[1], forms[0])), *forms)


def test_what_is_timed() -> None:
    assert side(256, True).knots == (32, 64, 128, 192, 256) and side(256, True).beside == (127, 126, 124, 120, 113)
    assert side(32, True).knots == (8, 16, 24, 32) and side(32, True).beside == ()
    assert side(10, True).knots == (1, 2, 5, 8, 10)
    assert side(1000, False).knots == (1000,)
    assert side(96, True, 32).knots == (32, 64, 96)
    assert len(points_of(layer(256, 512))) == 35
    assert len(points_of(layer(3, 512, free=(False, True)))) == 10
    deep = Setting("conv", 1, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), DEPTHWISE)
    assert points_of(layer(128, 128, deep)) == [(w, w) for w in (16, 32, 64, 96, 128, 63, 62, 60, 56, 49)]
    assert points_of(layer(128, 256, deep)) == [(w // 2, w) for w in (32, 64, 128, 192, 256)]


def test_vector_classes() -> None:
    assert vector_class(np.array([1, 2, 3, 4, 8, 12, 16, 48, 1000])).tolist() == [0, 1, 0, 2, 3, 2, 4, 4, 3]


@pytest.mark.parametrize("price", [plain, padded])
def test_a_price_of_that_form_is_met_exactly_at_every_width(price: object) -> None:
    clock = Computed(price)  # type: ignore[arg-type]
    tables = tables_of([layer(128, 256)], clock.layer)
    widths = np.random.default_rng(0).integers(1, (129, 257), (200, 2))
    found = tables(widths[:, :1], widths[:, 1:])[:, 0]
    true = np.array([clock.layer(CONV, *map(int, w)) for w in widths])
    enough = true > 0.1 * tables.lowest[0]
    np.testing.assert_allclose(found[enough], true[enough], rtol=1e-9)


def test_slow_odd_widths_are_seen() -> None:
    """A kernel that is twice as slow for odd outputs."""
    tables = tables_of([layer(128, 128)], lambda s, i, o: i * o * (2.0 if o % 2 else 1.0))
    found = tables(np.array([[64], [64], [64]]), np.array([[64], [77], [78]]))[:, 0]
    assert found == pytest.approx([64 * 64, 2 * 64 * 77, 64 * 78], rel=1e-3)


def test_a_dense_width_that_is_no_multiple_is_what_was_measured() -> None:
    clock = Computed(padded)
    tables = tables_of([layer(100, 250)], clock.layer)
    assert tables(np.array([[100]]), np.array([[250]]))[0, 0] == pytest.approx(clock.layer(CONV, 100, 250))


class Varied(nn.Module):
    """Called twice, depthwise, grouped, functional, linear on tokens, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.twice = nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(32, 32, 1)
        self.deep, self.some = nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 64, 3, groups=4, bias=False)
        self.free = nn.Parameter(torch.randn(16, 64, 1, 1))
        self.up, self.head = nn.ConvTranspose2d(16, 16, 2), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.some(self.deep(self.twice(self.twice(self.one(x).relu()))))
        x = self.up(F.conv2d(x, self.free)).flatten(2).transpose(1, 2)
        return self.head(x @ torch.softmax(x.transpose(1, 2) @ x, -1)).mean(1)  # type: ignore[no-any-return]


def test_layers_are_matched_with_their_work() -> None:
    torch.manual_seed(0)
    model, x = Varied(), torch.randn(2, 3, 16, 16)
    calls = calls_of(model.train(), x, trace(model, x))
    told = [(str(one.called.setting), one.called.inner, one.called.outer) for one in calls.layers]
    same = "conv 2x8x8 kernel 1x1 stride 1x1 padding 0x0 dilation 1x1 groups 1 float32 bias"
    assert told == [
        ("conv 2x16x16 kernel 3x3 stride 2x2 padding 1x1 dilation 1x1 groups 1 float32 bias", 3, 32),
        (same, 32, 32),
        (same, 32, 32),
        ("conv 2x8x8 kernel 3x3 stride 1x1 padding 1x1 dilation 1x1 depthwise float32 bias", 32, 32),
        ("conv 2x8x8 kernel 3x3 stride 1x1 padding 0x0 dilation 1x1 groups 4 float32", 32, 64),
        ("conv 2x6x6 kernel 1x1 stride 1x1 padding 0x0 dilation 1x1 groups 1 float32", 64, 16),
        ("linear 98 rows float32 bias", 16, 5),
    ]
    widths = [group.width for group in trace(model, x).groups]
    assert [(one.inner(widths), one.outer(widths)) for one in calls.layers] == [pair[1:] for pair in told]
    assert len(calls.others) == 3 and model.training  # the transposed convolution and two products
    assert len(wanted(calls.layers)) == 6


@pytest.mark.parametrize(("dense", "passing"), [(1.0, 0.1), (1e-5, 0.0), (1e-7, 1.0)])
def test_the_dense_network_is_predicted_as_measured(dense: float, passing: float) -> None:
    torch.manual_seed(0)
    for model, x in ((net(), X), (Varied(), torch.randn(1, 3, 16, 16))):
        coupling = trace(model, x)
        made = calibrated(calls_of(model, x, coupling), coupling, Computed().layer, dense, 1e-3 * dense, passing)
        widths = np.array([coupling.widths, [max(g.step, g.width // 2 // g.step * g.step) for g in coupling.groups]])
        whole, half = made(widths)
        assert whole == pytest.approx(dense) and 0 < half < whole


def test_one_layer_runs_everywhere() -> None:
    for runtime in ("eager", "channels_last"):
        out = one_layer(runtime, CONV, 6, 9, 1)()
        assert isinstance(out, Tensor) and tuple(out.shape) == (1, 9, 4, 4)
    out = one_layer("eager", Setting("linear", 7), 6, 9, 1)()
    assert isinstance(out, Tensor) and tuple(out.shape) == (7, 9)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_one_layer_as_a_graph(runtime: str) -> None:
    for name in ("onnx", runtime):
        pytest.importorskip(name, reason=f"{name} is not installed")
    strided = Setting("conv", 2, (9, 7), (3, 1), (2, 1), (1, 0), (1, 1), 2)
    deep = Setting("conv", 1, (5,), (3,), (1,), (1,), (1,), DEPTHWISE)
    for setting, widths, shape in (
        (strided, (4, 6), (2, 6, 5, 7)),
        (deep, (4, 4), (1, 4, 5)),
        (Setting("linear", 3), (4, 6), (3, 6)),
    ):
        found: Any = one_layer(runtime, setting, *widths, 1)()
        assert found[0].shape == shape
    one_pass(runtime, 8, 1)()
