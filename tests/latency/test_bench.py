"""`prunus.bench` on networks of which the slower one is known, and that it leaves models and threads as they were."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import ExampleError, InputError, ModelError, UnknownName
from prunus.latency import RUNNERS, Bench
from prunus.latency.layers import layers_of
from prunus.latency.measure import Row
from prunus.latency.memory import peak_bytes
from prunus.latency.pairs import Spread
from prunus.latency.verdict import helps, odd_widths, verdict_of, why

X = torch.randn(1, 3, 32, 32)


def net(width: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4),
    )  # fmt: skip


def test_the_wide_one_is_slower_and_the_machine_knows_it() -> None:
    dense, small = net(128).train(), net(16)
    threads = torch.get_num_threads()
    found = prunus.bench(dense, X, small, batches=(1, 4), threads=1, seconds=0.3)
    assert isinstance(found, Bench) and [row.batch for row in found.rows] == [1, 4]
    for row in found.rows:
        assert row.ratio is not None and row.pruned is not None
        assert row.ratio.high < 0.7 and row.told and 0.5 < row.noise.median < 2
        assert row.images_per_second[0] == pytest.approx(row.batch / row.dense.median)
        assert row.peak[0] > (row.peak[1] or 0) > 0
    assert found.macs == pytest.approx((16 * 27 + 16 * 16 * 9 + 64 / 1024) / (128 * 27 + 128 * 128 * 9 + 512 / 1024))
    assert dense.training and torch.get_num_threads() == threads
    assert found.layers[0].name == "3" and found.layers[0].ratio < 1
    assert "batch 4" in str(found) and "dense against itself" in str(found)


def test_one_network_alone_has_no_ratio() -> None:
    found = prunus.bench(net(8), X, seconds=0.1)
    (row,) = found.rows
    assert row.ratio is None and row.pruned is None and found.macs is None and found.verdict == ()


def test_channels_last_and_compiled_copies_leave_the_model() -> None:
    model = net(8)
    prunus.bench(model, X, runtimes=["channels_last"], seconds=0.1)
    assert model[0].weight.is_contiguous()


def test_peak_memory_counts_what_lives_at_once() -> None:
    class Chain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(5):
                x = x + 1
            return x

    x = torch.zeros(1000)
    assert peak_bytes(lambda: Chain()(x), torch.device("cpu")) == 2 * 4000  # one is read while the next is made
    assert peak_bytes(lambda: x.view(10, 100), torch.device("cpu")) == 0


def test_time_by_layer_adds_the_calls_of_a_module_that_is_used_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.once = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.once(self.a(self.a(x)))

    model = Twice()
    found = {layer.name: layer for layer in layers_of(model, model, torch.randn(512, 64), times=9)}
    assert set(found) == {"a", "once"} and 1.2 < found["a"].dense / found["once"].dense < 3.5


def row(ratio: float, noise: tuple[float, float] = (0.97, 1.03), runtime: str = "eager") -> Row:
    one = Spread(1e-2, 1e-2, 1e-2)
    return Row(runtime, 1, one, one, Spread(ratio, ratio - 0.02, ratio + 0.02), Spread(1, *noise), (1, 1))


def test_the_verdict_says_no_more_than_the_noise_allows() -> None:
    assert "no difference" in verdict_of([row(0.99)], [], 0.5, net(8))[0]
    assert "no difference" in verdict_of([row(0.8, (0.7, 1.4))], [], 0.5, net(8))[0]
    assert verdict_of([row(0.52)], [], 0.5, net(8)) == ["eager, batch 1: 50 % of the MACs take 52 % of the time"]
    more = verdict_of([row(0.8)], [], 0.5, net(7))
    assert "80 % of the time" in more[0] and any("round=8" in line for line in more)


def test_why_names_layers_and_odd_widths() -> None:
    model = net(7)
    layers = [layer for layer in layers_of(model, model, X, times=3) if layer.dense > 0]
    text = " ".join(why(layers, 0.3, model))
    assert "2 of 2 layers have widths that are no multiple of 8" in text
    assert odd_widths(net(8)) == (0, 2)
    assert not any("runtime" in line for line in helps([row(0.8, runtime="onnxruntime")], net(8)))


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        ({"runtimes": "onxruntime"}, UnknownName, "onnxruntime"),
        ({"batches": 0}, InputError, "at least 1"),
        ({"batches": (1.5,)}, InputError, "at least 1"),
        ({"threads": 0}, InputError, "at least 1"),
        ({"threads": 1.5}, InputError, "at least 1"),
        ({"seconds": "1"}, InputError, "a number above 0"),
        ({"seconds": float("inf")}, InputError, "a number above 0"),
        ({"runtimes": ()}, InputError, "no runtime is named; use one or more of eager"),
        ({"device": "cuba"}, InputError, "device='cuba' cannot be used"),
        ({"device": "meta"}, InputError, "computes nothing"),
        ({"pruned": "model"}, ModelError, "not str"),
        ({"pruned": nn.LazyLinear(3)}, ModelError, "has no shape yet"),
        (
            {"pruned": nn.Linear(5, 3)},
            ExampleError,
            r"Linear does not run on an example of \(1, 3, 32, 32\): RuntimeError",
        ),
    ],
)
def test_wrong_requests_are_refused(words: dict[str, object], error: type[Exception], told: str) -> None:
    model = net(4)
    with pytest.raises(error, match=told):
        prunus.bench(model, X, **words)  # type: ignore[arg-type]
    assert not model[0].weight.is_meta


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_runtimes_of_exported_files(runtime: str) -> None:
    for name in ("onnx", "onnxscript", runtime):
        pytest.importorskip(name, reason=f"{name} is not installed")
    found = prunus.bench(net(32), X, net(8), runtimes=runtime, batches=2, threads=1, seconds=0.2)
    (timed,) = found.rows
    assert timed.ratio is not None and timed.ratio.median < 1 and runtime in found.versions


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_network_that_is_not_called_leaves_the_cores_alone(runtime: str) -> None:
    """Threads that spin between calls would slow down the network whose turn is next."""
    for name in ("onnx", "onnxscript", runtime):
        pytest.importorskip(name, reason=f"{name} is not installed")
    call = RUNNERS[runtime][0](net(64).eval(), X, 2)
    spent = []
    for _ in range(5):
        call()
        time.sleep(0.005)
        start = time.process_time()
        time.sleep(0.02)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.005


def test_a_runtime_is_named() -> None:
    with pytest.raises(UnknownName, match="unknown runtime 3"):
        prunus.bench(nn.Linear(2, 2), torch.randn(1, 2), runtimes=3)  # type: ignore[arg-type]
