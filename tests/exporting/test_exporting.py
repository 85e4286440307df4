"""Exported networks: equal to the eager one, run by what reads such files, and by nothing else of Prunus."""

from __future__ import annotations

import ast
import functools
import importlib.util
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import ExportError, InputError, MissingExtra
from prunus.exporting.changes import changes
from prunus.exporting.given import Given, varied
from prunus.exporting.origin import literal, origin
from prunus.exporting.parity import difference, parity
from prunus.exporting.program import program
from prunus.exporting.pyfile import write_python

HERE = Path(__file__).resolve().parent
EXAMPLE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}: pip install 'prunus[export]'")


ONNX = needs("onnx", "onnxscript", "onnxruntime")
OPENVINO = needs("onnx", "onnxscript", "openvino")


@pytest.fixture(scope="module")
def small(nets: ModuleType) -> Iterator[prunus.Pruned]:
    torch.manual_seed(0)
    dense = nets.Net()
    dense.blocks[0].bn1.running_mean.uniform_(-1, 1)
    found = prunus.prune(dense, EXAMPLE, "macs=50%", drop=["blocks.1"])
    found.model.train()
    yield found
    assert found.model.training and dense.training


WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "prunus": raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import torch
saved = torch.load("inputs.pt", weights_only=True)
"""
RUN = {
    ".pt2": "model = torch.export.load('net.pt2').module(); outs = [model(x) for x in saved]",
    ".py": "from net import load; model = load(); outs = [model(x) for x in saved]",
    ".onnx": "import onnxruntime as ort; s = ort.InferenceSession('net.onnx', providers=['CPUExecutionProvider']); "
    "outs = [torch.from_numpy(s.run(None, {s.get_inputs()[0].name: x.numpy()})[0]) for x in saved]",
}


def without_prunus(folder: Path, inputs: list[torch.Tensor], suffixes: list[str]) -> dict[str, list[torch.Tensor]]:
    """What the files net.* in `folder` compute in a process that cannot import Prunus."""
    torch.save(inputs, folder / "inputs.pt")
    words = [WITHOUT, *(f"{RUN[s]}\ntorch.save([o.detach() for o in outs], 'outputs{s}.pt')" for s in suffixes)]
    words.append("assert not any(name.split('.')[0] == 'prunus' for name in sys.modules)")
    (folder / "run.py").write_text("\n".join(words), "utf-8")
    done = subprocess.run(
        [sys.executable, "run.py"], cwd=folder, env={"PYTHONPATH": str(HERE)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {s: torch.load(folder / f"outputs{s}.pt", weights_only=True) for s in suffixes}


def close(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and float((a - b).abs().max()) <= 1e-4 * float(a.abs().max())


@ONNX
def test_files_run_without_prunus(small: prunus.Pruned, tmp_path: Path) -> None:
    for suffix, files in ((".pt2", 1), (".onnx", 1), (".py", 2)):
        done = prunus.export(small, EXAMPLE, tmp_path / f"net{suffix}", dense=suffix != ".onnx")
        assert done.batch is None and done.parity.batches == (1, 3, 2) and done.parity.inputs == 4
        assert len(done.files) == files and done.bytes == sum(f.stat().st_size for f in done.files)
        assert (done.dense_bytes or done.bytes + 1) > done.bytes and (done.dense_bytes is None) == (suffix == ".onnx")
        assert done.parity.relative <= 1e-6 and f"{done.bytes:,} bytes" in str(done)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["net.onnx", "net.pt2", "net.py", "net_weights.pt"]
    inputs = [EXAMPLE, torch.randn(5, 3, 8, 8)]
    eager = [small.model.eval()(x).detach() for x in inputs]
    small.model.train()
    found = without_prunus(tmp_path, inputs, [".pt2", ".onnx", ".py"])
    for theirs in found.values():
        close(eager, theirs)
    for name in ("net.pt2", "net.onnx"):  # nor does a file tell where the code lay
        assert str(HERE).encode() not in (tmp_path / name).read_bytes()


@OPENVINO
def test_openvino(small: prunus.Pruned, tmp_path: Path) -> None:
    done = prunus.export(small, EXAMPLE, tmp_path / "net", format="openvino")
    assert [f.name for f in done.files] == ["net.xml", "net.bin"] and done.path == tmp_path / "net.xml"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    assert done.parity.batches == (1, 3, 2) and 0 <= done.parity.relative <= 1e-4


def text_of(model: nn.Module, example: Any, folder: Path, build: Any = None) -> str:
    """The Python file that makes `model`, written and not run."""
    write_python(Given.of(model, example), folder / "net.py", origin(build, model))
    return (folder / "net.py").read_text("utf-8")


def test_the_python_file_is_plain(small: prunus.Pruned, tmp_path: Path) -> None:
    text = text_of(small.model, EXAMPLE, tmp_path)
    called = {
        node.func.id
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert text.isascii() and "prunus." not in text and not called & {"eval", "exec", "compile", "__import__"}
    width = small.model.get_submodule("blocks.0.conv1").out_channels
    assert f'    model.set_submodule("blocks.0.conv1", nn.Conv2d(16, {width}, 3, padding=1, bias=False))' in text
    assert f'    model.set_submodule("blocks.0.bn1", nn.BatchNorm2d({width}))' in text
    assert "from nets import Net as full" in text and "class Zero(nn.Module):" in text


def test_arguments_are_escaped(nets: ModuleType, tmp_path: Path) -> None:
    hostile = '\'); import os; os._exit(3) #"""\n\u2028\U0001f600\\'
    make = functools.partial(nets.Net, 7, word=hostile)
    text = text_of(make(), EXAMPLE, tmp_path, make)
    assert text.isascii() and f"    model = full(7, word={hostile!a})" in text
    assert not [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) and node.names[0].name == "os"
    ]
    assert literal((1, -2.5, float("inf"), ["a'b"], {"k": None})) == '(1, -2.5, float("inf"), ["a\'b"], {"k": None})'
    for value in (object(), torch.Size([1]), b"bytes"):
        with pytest.raises(InputError, match="cannot be written into a Python file"):
            literal(value)


def test_tensors_that_no_layer_makes(nets: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(1)
    x = torch.randn(4, 6)
    small = prunus.prune(nets.Scaled(), x, "params=60%")
    width = len(small.model.gain)
    assert width < 12
    text = text_of(small.model, x, tmp_path)
    assert f'    resize(model, "gain", {width})' in text
    assert '.weight = model.get_parameter("second.weight")' in text and 'tensors.pop("offset")' in text
    close([small.model.eval()(x).detach()], without_prunus(tmp_path, [x], [".py"])[".py"])


def test_what_stands_for_an_attention_goes_along(nets: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 5, 6)
    small = prunus.prune(nets.Encoder().eval(), x, drop=["body.layers.0#0", "body.layers.1#1"])
    text = text_of(small.model, x, tmp_path)
    assert "class ZeroAttention(Zero):" in text and '    model.get_submodule("body").use_nested_tensor = False' in text
    close([small.model(x).detach()], without_prunus(tmp_path, [x], [".py"])[".py"])


def test_what_else_may_differ(nets: ModuleType) -> None:
    cut = nets.Net()
    cut.blocks[0].conv1, cut.word, cut.depth = nn.Linear(16, 3), "other", (2, 3)
    cut.head.bias, cut.blocks[1].conv2.bias, cut.blocks[1].bn1 = None, None, nn.Identity()
    assert changes(nets.Net(), cut, "nets.Net()").lines == [
        'model.word = "other"',
        "model.depth = (2, 3)",
        'model.set_submodule("blocks.0.conv1", nn.Linear(16, 3))',
        'model.set_submodule("blocks.1.bn1", nn.Identity())',
        'model.set_submodule("blocks.1.conv2", nn.Conv2d(16, 16, 3, padding=1, bias=False))',
        'model.set_submodule("head", nn.Linear(16, 10, bias=False))',
    ]
    cut = nets.Net()
    cut.head.register_forward_hook(lambda *_: None)  # kept: a layer made anew would not have it
    cut.head.out_features, cut.head.weight, cut.head.bias = (
        4,
        nn.Parameter(torch.ones(4, 16)),
        nn.Parameter(torch.ones(4)),
    )
    whole = nets.Net()
    whole.head.register_forward_hook(lambda *_: None)
    lines = ['resize(model, "head.weight", 4, 16)', 'resize(model, "head.bias", 4)']
    assert changes(whole, cut, "").lines == [*lines, 'model.get_submodule("head").out_features = 4']
    cut.extra = nn.ReLU()
    with pytest.raises(InputError, match=r"nets.Net\(\) makes another network .*: it has no extra there"):
        changes(whole, cut, "nets.Net()")


def test_a_bundled_network_brings_its_source(tmp_path: Path) -> None:
    from prunus.models import resnet20

    torch.manual_seed(0)
    model, x = resnet20(widths=(5, 6, 7, 8, 9, 10, 11, 12, 13, 10, 20, 30)), torch.randn(2, 3, 8, 8)
    assert "Needs torch.\n" in text_of(model, x, tmp_path, resnet20)
    close([model.eval()(x).detach()], without_prunus(tmp_path, [x], [".py"])[".py"])


def test_the_map_of_channels_becomes_plain_ops() -> None:
    """`prunus.models.take` hands itself to torch function modes, and torch.export runs under one."""
    from prunus.models import Shortcut

    model, x = Shortcut(torch.tensor([2, -1, 0, 1]), stride=2), torch.randn(2, 3, 8, 8)
    found = program(Given.of(model, x))
    ops = [str(node.target) for node in found.graph.nodes if node.op == "call_function"]
    assert "aten.index_select.default" in ops and all(op.startswith("aten.") for op in ops), ops
    assert torch.equal(found.module()(x), model(x))


@ONNX
def test_several_inputs_and_outputs(nets: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    example = {"mask": torch.ones(2, 5), "ids": torch.randint(0, 20, (2, 5))}  # not in the order of the forward
    small = prunus.prune(nets.Several(), example, "params=70%")
    for name in ("net.pt2", "net.onnx"):
        done = prunus.export(small, example, tmp_path / name)
        assert done.batch is None and done.parity.batches == (2, 1, 3), name
    pair = (example["ids"], example["mask"])
    assert prunus.export(small.model, pair, tmp_path / "pair.pt2").batch is None


def test_a_network_for_one_batch_size(nets: ModuleType, tmp_path: Path) -> None:
    done = prunus.export(nets.OneBatch(), torch.randn(2, 6), tmp_path / "net.pt2")
    assert done.batch is not None and "refuses batch 1" in done.batch and done.parity.batches == (2,)
    assert "batch: the example's only" in str(done)
    done = prunus.export(nets.made(), torch.randn(1, 6), tmp_path / "net.pt2", dynamic=False)
    assert done.batch == "as asked" and done.parity.inputs == 2


def test_a_file_that_computes_something_else_is_not_written(nets: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_text("of before")
    with pytest.raises(ExportError, match=r"^pt2, parity: .*differs .* by \d.*limit 1e-04"):
        prunus.export(nets.Drifting(), torch.randn(2, 6), tmp_path / "net.pt2")
    assert [f.name for f in tmp_path.iterdir()] == ["net.pt2"] and (tmp_path / "net.pt2").read_text() == "of before"


def test_what_torch_cannot_export_is_told_in_a_line(nets: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^torch\.export: .*data-dependent") as caught:
        prunus.export(nets.Branching(), torch.randn(2, 6), tmp_path / "net.pt2")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_the_limit_is_the_users(nets: ModuleType, tmp_path: Path) -> None:
    model, x = nets.made().to(torch.bfloat16), torch.randn(2, 6, dtype=torch.bfloat16)
    assert prunus.export(model, x, tmp_path / "net.pt2", limit=0.05).parity.limit == 0.05
    assert "    model.to(torch.bfloat16)" in text_of(model, x, tmp_path, nets.made)


def test_the_model_is_left_as_found(nets: ModuleType, tmp_path: Path) -> None:
    model, calls = nets.Net(), list[int]()
    model.blocks[0].eval()
    model.head.register_forward_hook(lambda *_: calls.append(1) and None)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    modes, seed = [m.training for m in model.modules()], torch.get_rng_state()
    grads = [p.requires_grad for p in model.parameters()]
    prunus.export(model, EXAMPLE, tmp_path / "net.pt2")
    assert [m.training for m in model.modules()] == modes and torch.equal(torch.get_rng_state(), seed)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == grads and len(model.head._forward_hooks) == 1
    assert logging.root.manager.disable == 0 and warnings.filters[0][0] == "error"


@pytest.mark.parametrize(
    ("path", "options", "parts"),
    [
        ("net.onx", {}, ["net.onx", ".onnx (onnx)", "format="]),
        ("net.pt2", {"format": "onnx"}, ["onnx", ".onnx", "net.pt2"]),
        ("net", {"format": "onx"}, ["'onx'", "did you mean 'onnx'"]),
        ("no/folder/net.pt2", {}, ["no/folder"]),
        ("net.py", {"build": lambda: None}, ["<lambda>", "top of the module"]),
        ("net.py", {"build": "nets"}, ["'nets'", "package.module:factory"]),
        ("net.py", {"build": "nets:nett"}, ["factory", "nett"]),
        ("net.py", {"build": "nets:made"}, ["nets.made()", "another network", "Sequential"]),
        ("net-1.py", {}, ["net-1", "imported by its name"]),
        ("net.pt2", {"limit": 0.0}, ["limit=0.0"]),
        ("net.onnx", {"opset": 9}, ["opset=9", "18"]),
        ("net.pt2", {"dense": True}, ["dense=True"]),
    ],
)
def test_what_is_refused(path: str, options: dict[str, Any], parts: list[str], nets: Any, tmp_path: Path) -> None:
    target = path if "/" in path else tmp_path / path
    with pytest.raises(InputError) as caught:
        prunus.export(nets.Net(), EXAMPLE, target, **options)
    line = str(caught.value)
    assert [part for part in parts if part not in line] == [] and "\n" not in line, line
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(nets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", type(sys)("onnx"))
    with pytest.raises(MissingExtra, match=r'onnxscript is not installed; run: pip install "prunus\[export\]"'):
        prunus.export(nets.Net(), EXAMPLE, tmp_path / "net.onnx")


def test_differences() -> None:
    ours, theirs = torch.tensor([1.0, -4.0, float("inf")]), torch.tensor([1.5, -4.0, float("inf")])
    assert difference(ours, theirs) == (0.5, 0.125)
    assert difference(ours, ours) == (0.0, 0.0) and difference(torch.zeros(0), torch.zeros(0)) == (0.0, 0.0)
    assert difference(ours, torch.tensor([1.0, float("nan"), float("inf")]))[1] == float("inf")
    assert difference(torch.tensor([3, 4]), torch.tensor([3, 5])) == (1.0, 0.25)
    good = [[torch.ones(2, 3)]]
    assert parity("pt2", good, [[torch.ones(2, 3) + 5e-5]], [2], 1e-4).batches == (2,)
    for bad, part in (([torch.ones(2, 3) * 1.001], "relative"), ([torch.ones(3, 2)], r"\(3, 2\)"), ([], "0 tensors")):
        with pytest.raises(ExportError, match=part):
            parity("pt2", good, [bad], [2], 1e-4)


def test_other_inputs_are_of_the_same_make() -> None:
    example = {"x": torch.arange(12.0).reshape(3, 4), "ids": torch.arange(6).reshape(3, 2), "flag": True}
    other = varied(example, 1)
    assert torch.equal(other["ids"], example["ids"]) and other["flag"] is True
    assert not torch.equal(other["x"], example["x"]) and other["x"].std() == pytest.approx(3.6, rel=0.2)
    alone = varied(torch.arange(6), 1)
    assert sorted(alone.tolist()) == list(range(6)) and alone.tolist() != list(range(6))
    given = Given.of(nn.Identity(), torch.arange(6.0).reshape(3, 2))
    assert given.dynamic and given.resized(4)[:, 0].tolist() == [0, 2, 4, 0] and given.others() == (1, 2)
