"""int8 files: what they are measured by, counted by hand; both tools on a small network; what is refused."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import DataError, ExampleError, ExportError, InputError, MissingExtra
from prunus.exporting import Int8
from prunus.exporting.given import Given
from prunus.exporting.int8 import length, measured, samples

EXAMPLE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def needs(extra: str, *packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}: pip install 'prunus[{extra}]'")


ONNX = needs("export", "onnx", "onnxscript", "onnxruntime")
TORCHAO = needs("int8", "torchao")


class Net(nn.Module):
    """A stem with a norm, a residual block, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.one, self.two = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head((x + self.two(torch.relu(self.one(x)))).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def small() -> Iterator[prunus.Pruned]:
    torch.manual_seed(0)
    dense = Net()
    dense.norm.running_mean = torch.rand(16) - 0.5
    nn.init.normal_(dense.head.weight)
    yield prunus.prune(dense, EXAMPLE, "macs=60%", check=False)
    assert dense.training


def labelled(net: nn.Module, count: int, size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Batches whose labels are what the network says."""
    torch.manual_seed(seed)
    found = [torch.randn(size, 3, 8, 8) for _ in range(count)]
    with torch.no_grad():
        return [(x, net.eval()(x).argmax(1)) for x in found]


def check_file(done: Any, small: prunus.Pruned, again: list[Tensor], inputs: list[Tensor]) -> None:
    """The figures of the result are those of the file, run by itself."""
    with torch.no_grad():
        want = torch.cat([small.model.eval()(x) for x in inputs]).double()
    got = torch.cat(again).double()
    told = done.int8
    assert told.agreement == float((want.argmax(1) == got.argmax(1)).double().mean()) >= 0.9
    assert told.top1 == (100.0, 100 * told.agreement)
    assert told.error == pytest.approx(float((want - got).norm() / want.norm()), rel=1e-3) and 0 < told.error < 0.1
    assert (told.calibrated, told.measured, told.held_out) == (40, 24, True)


@ONNX
def test_onnx_runtime(small: prunus.Pruned, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    data = labelled(small.model, 4, 16, seed=1)
    done = prunus.export(small, EXAMPLE, tmp_path / "net.onnx", dense=True, int8=Int8(data, calibrate=40))
    assert [f.name for f in tmp_path.iterdir()] == ["net.onnx"] and done.files == (tmp_path / "net.onnx",)
    assert done.int8 is not None and done.dense_bytes is not None
    assert done.bytes == done.path.stat().st_size and done.parity.relative <= 1e-6
    file = onnx.load(str(done.path))
    kept = {tuple(one.dims): one.data_type for one in file.graph.initializer if len(one.dims) == 4}
    assert set(kept.values()) == {onnx.TensorProto.INT8}  # no convolution holds float weights
    scales = next(
        t for t in file.graph.initializer if t.name.endswith("_scale") and t.dims == [small.model.one.out_channels]
    )
    assert scales.data_type == onnx.TensorProto.FLOAT  # one scale for each output channel
    assert str(tmp_path).encode() not in done.path.read_bytes()
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    inputs = [data[2][0][8:], data[3][0]]
    again = [torch.as_tensor(session.run(None, {name: x.numpy()})[0]) for x in inputs]
    check_file(done, small, again, inputs)
    text = str(done)
    assert f"bytes: {done.dense_bytes:,} -> {done.int8.float_bytes:,} -> {done.bytes:,}" in text
    assert "onnx, int8: " in text and "before int8, exported == eager" in text and "floor 80 %" in text
    assert done.to_json()["int8"]["top1"] == list(done.int8.top1 or ()) and done.to_json()["int8"]["measured"] == 24


@TORCHAO
def test_torchao(small: prunus.Pruned, tmp_path: Path) -> None:
    data = labelled(small.model, 4, 16, seed=1)
    done = prunus.export(small, EXAMPLE, tmp_path / "net.pt2", int8=Int8(data, calibrate=40))
    assert [f.name for f in tmp_path.iterdir()] == ["net.pt2"] and done.int8 is not None
    kept = torch.export.load(done.path).state_dict
    assert {t.dtype for t in kept.values() if t.dim() == 4} == {torch.int8}  # none in float beside them
    inputs = [data[2][0][8:], data[3][0]]
    torch.save(inputs, tmp_path / "inputs.pt")
    words = (
        "import sys, torch\nsys.modules['prunus'] = sys.modules['torchao'] = None\n"
        "import torch.ao.quantization.fx._decomposed\n"
        f"model = torch.export.load({str(done.path)!r}).module()\n"
        f"outs = [model(x).detach() for x in torch.load({str(tmp_path / 'inputs.pt')!r})]\n"
        f"torch.save(outs, {str(tmp_path / 'outs.pt')!r})"
    )
    ran = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    check_file(done, small, torch.load(tmp_path / "outs.pt"), inputs)


@ONNX
def test_a_network_for_one_batch_size(small: prunus.Pruned, tmp_path: Path) -> None:
    """The batches are divided into pieces of two; what is left of one is not used."""
    data = labelled(small.model, 2, 7, seed=2)
    done = prunus.export(
        small, EXAMPLE.expand(2, -1, -1, -1), tmp_path / "net.onnx", dynamic=False, int8=Int8(data, calibrate=5)
    )
    assert done.int8 is not None and (done.int8.calibrated, done.int8.measured) == (6, 6)
    assert done.batch == "as asked"


@ONNX
def test_below_the_floor_nothing_is_written(small: prunus.Pruned, tmp_path: Path) -> None:
    """Ranges from faint images cut bright ones off: what comes out says little about them."""
    bright = [torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))]
    dark = [1e-3 * bright[0]]
    with pytest.raises(ExportError, match=r"^onnx, int8: agreement on \d.* of 64 samples, .* floor is 95 %; nothing"):
        prunus.export(small, EXAMPLE, tmp_path / "net.onnx", int8=Int8(dark, held=bright, floor=0.95))
    assert list(tmp_path.iterdir()) == []
    done = prunus.export(small, EXAMPLE, tmp_path / "net.onnx", int8=Int8(dark, held=bright, floor=0.0))
    assert done.int8 is not None and done.int8.agreement is not None and done.int8.agreement < 0.95
    assert done.int8.top1 is None


class Fixed(nn.Module):
    """Classes as they are given: the outputs are the inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.0


def facts(want: Tensor, got: Tensor, y: Tensor | None = None, floor: float = 0.0) -> dict[str, Any]:
    given = Given.of(Fixed(), want)
    data = want if y is None else (want, y)
    _, found, held_out = samples(Int8.of([data]), given)
    assert not held_out
    moved = {tuple(a.shape): b for a, b in ((want, got),)}

    def call(x: Tensor) -> list[Tensor]:
        return [moved[tuple(x.shape)] if torch.equal(x, want) else x]

    return measured("onnx", given, call, found, floor)


def test_figures_by_hand() -> None:
    """Four samples: one changes its class, labels were right for three and then for two; 2² + 2² over 4 · 5²."""
    want = torch.tensor([[3.0, 4.0], [3.0, 4.0], [4.0, 3.0], [4.0, 3.0]])
    got = want.clone()
    got[0] = torch.tensor([5.0, 2.0])
    y = torch.tensor([1, 1, 0, 1])
    found = facts(want, got, y)
    assert found == {"measured": 4, "agreement": 0.75, "error": (8 / 100) ** 0.5, "top1": (75.0, 50.0)}
    assert facts(want, got)["top1"] is None
    with pytest.raises(ExportError, match=r"agreement on 75.00 % of 4 samples, and the floor is 76 %"):
        facts(want, got, floor=0.76)
    one = torch.tensor([[3.0], [4.0]])  # no classes: 1 - error is held to the floor
    found = facts(one, one + 0.5)
    assert found["agreement"] is None and found["error"] == pytest.approx((0.5 / 25) ** 0.5)
    with pytest.raises(ExportError, match=r"a relative error of 0.14 of 2 samples"):
        facts(one, one + 0.5, floor=0.9)
    for bad, part in ((want * float("nan"), "not finite"), (want[:, :1], r"the shapes \[\(4, 1\)\]")):
        with pytest.raises(ExportError, match=part):
            facts(want, bad)


def test_which_samples_are_used() -> None:
    given = Given.of(Fixed(), torch.zeros(1, 2))
    data = [torch.arange(6.0).reshape(3, 2) + 10 * k for k in range(3)]
    ranges, rest, held_out = samples(Int8(data, calibrate=4, measure=3), given)
    assert torch.cat([p.x for p in ranges])[:, 0].tolist() == [0, 2, 4, 10] and held_out
    assert torch.cat([p.x for p in rest])[:, 0].tolist() == [12, 14, 20]
    _, rest, held_out = samples(Int8(data, calibrate=9), given)
    assert not held_out and sum(p.n for p in rest) == 9
    _, rest, held_out = samples(Int8(data, calibrate=2, held=data[2:], measure=None), given)
    assert held_out and torch.cat([p.x for p in rest])[:, 0].tolist() == [20, 22, 24]
    assert length({"a": torch.zeros(5), "b": torch.zeros(3, 2)}) == 3


def gone() -> Iterator[Tensor]:
    yield EXAMPLE


@pytest.mark.parametrize(
    ("kind", "given", "error", "parts"),
    [
        (".py", [EXAMPLE], InputError, ["onnx", "pt2", "python"]),
        (".xml", [EXAMPLE], InputError, ["openvino"]),
        (".onnx", [], InputError, ["no batch"]),
        (".onnx", EXAMPLE, InputError, ["iterable of batches"]),
        (".onnx", gone(), InputError, ["once"]),
        (".onnx", Int8([EXAMPLE], calibrate=0), InputError, ["calibrate=0"]),
        (".onnx", Int8([EXAMPLE], floor=80), InputError, ["floor=80", "0 to 1"]),
        (".onnx", Int8([EXAMPLE], held=[]), InputError, ["held="]),
        (".onnx", [torch.zeros(2, 4, 8, 8)], ExampleError, ["does not run on a batch"]),
        (".onnx", [(EXAMPLE, EXAMPLE, EXAMPLE)], DataError, ["3 parts"]),
    ],
)
@ONNX
def test_what_is_refused(
    kind: str, given: Any, error: type[Exception], parts: list[str], small: prunus.Pruned, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        prunus.export(small, EXAMPLE, tmp_path / f"net{kind}", int8=given)
    line = str(caught.value)
    assert [part for part in parts if part not in line] == [] and "\n" not in line, line
    assert list(tmp_path.iterdir()) == []


def test_only_from_float32(small: prunus.Pruned, tmp_path: Path) -> None:
    model = nn.Linear(3, 3).half()
    with pytest.raises(InputError, match="weight is in float16"):
        prunus.export(model, torch.ones(2, 3).half(), tmp_path / "net.onnx", int8=[torch.ones(2, 3).half()])


def test_a_missing_package_is_named(small: prunus.Pruned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(MissingExtra, match=r'torchao is not installed; run: pip install "prunus\[int8\]"'):
        prunus.export(small, EXAMPLE, tmp_path / "net.pt2", int8=[EXAMPLE])
    assert list(tmp_path.iterdir()) == []


def test_settings_do_not_change() -> None:
    first = Int8([EXAMPLE])
    assert Int8.of(first) is first and replace(first, floor=0.5).floor == 0.5
