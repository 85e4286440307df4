"""What a file must not change: the state of the network, dtypes, structure, and files that others wrote."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import ExampleError, ExportError, InputError, ModelError, StorageError
from prunus.exporting import Int8
from prunus.exporting.changes import assigned, changes
from prunus.exporting.exported import placed
from prunus.exporting.given import Given, arrays, short
from prunus.exporting.int8 import measured, samples
from prunus.exporting.onnx import cause
from prunus.exporting.origin import origin
from prunus.exporting.parity import parity
from prunus.exporting.pyfile import write_python

HERE = Path(__file__).resolve().parent
MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
ONNX = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: pip install 'prunus[export]'")
X = torch.randn(2, 6, generator=torch.Generator().manual_seed(5))


def from_python(model: nn.Module, folder: Path, build: Any = None) -> nn.Module:
    """The network that a written Python file makes, in this process."""
    write_python(Given.of(model, X), folder / "net.py", origin(build, model))
    found: nn.Module = runpy.run_path(str(folder / "net.py"))["load"]()
    return found


# the state ------------------------------------------------------------------------------------------------------------
def test_what_the_check_runs_leaves_no_trace_in_the_file(nets: Any, tmp_path: Path) -> None:
    model = nets.Ticking()
    model.ticks.fill_(4)
    first = model.a(X) + 4
    prunus.export(model, X, tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2")
    assert program.state_dict["ticks"].tolist() == [4, 4, 4] and torch.equal(program.module()(X), first)
    written = from_python(model, tmp_path)
    assert written.ticks.tolist() == [4, 4, 4] and written.calls == 0  # type: ignore[operator, union-attr]
    assert torch.equal(written(X), first)
    assert model.ticks.tolist() == [4, 4, 4] and model.calls == 0


def test_dtypes_that_differ_within_a_network(nets: Any, tmp_path: Path) -> None:
    model = nets.made()
    model[2].bfloat16()
    model[1].register_forward_hook(lambda _, __, y: y.bfloat16())
    written = from_python(model, tmp_path, nets.made)
    assert {n: t.dtype for n, t in written.state_dict().items()} == {n: t.dtype for n, t in model.state_dict().items()}
    loose = nets.Scaled()
    loose.offset = loose.offset.half()
    assert changes(nets.Scaled(), loose, "").loose == ["offset"]  # equal values of another dtype are no equal buffer
    with pytest.raises(
        ExportError, match=r"^pt2, parity: the exported network returned float32, not bfloat16 on input 1"
    ):
        parity("pt2", [[torch.ones(2).bfloat16()]], [[torch.ones(2)]], [2], 1e-4)


# outputs --------------------------------------------------------------------------------------------------------------
def test_a_named_tuple_comes_back_as_a_tuple(nets: Any, tmp_path: Path) -> None:
    model = nets.Named()
    done = prunus.export(model, X, tmp_path / "net.pt2")
    logits, more = torch.export.load(done.path).module()(X)
    assert done.batch is None and torch.equal(logits, model(X).logits) and more["count"] == 3 and more["none"] is None
    assert torch.equal(more["largest"], logits.amax(1)) and not model._forward_hooks


@ONNX
def test_onnx_has_the_tensors_alone_at_any_name(nets: Any, tmp_path: Path) -> None:
    done = prunus.export(nets.Named(), X, tmp_path / "net[1].onnx")
    assert [f.name for f in done.files] == ["net[1].onnx"] == [f.name for f in tmp_path.iterdir()]
    assert done.bytes == done.path.stat().st_size > 0


def test_a_network_without_tensors_is_told_as_that(tmp_path: Path) -> None:
    class Three(nn.Module):
        def forward(self, x: torch.Tensor) -> int:
            return 3

    with pytest.raises(ExportError, match=r"^the network returns no tensors"):
        prunus.export(Three(), X, tmp_path / "net.pt2")


def test_inputs_go_by_their_names_beside_what_is_no_tensor() -> None:
    a, b = torch.zeros(1), torch.ones(1)
    found = arrays({"b": b, "flag": True, "a": a}, ["a", "b"])
    assert {name: value.tolist() for name, value in found.items()} == {"a": [0.0], "b": [1.0]}


def test_errors_of_exporters_are_told_by_their_cause_in_plain_text() -> None:
    outer = RuntimeError("This is step 3/3")
    outer.__cause__ = KeyError("no op")
    assert str(cause(outer)) == "'no op'"
    assert short(ValueError("\x1b[96mstep 1\x1b[0m of 3\nNext steps:")) == "ValueError: step 1 of 3"


# Python files ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "there", "told"),
    [
        ("torch.py", None, "torch.py would hide the module torch"),
        ("nets.py", None, "nets.py would hide the module nets"),
        ("random.py", None, "random.py would hide the module random"),
        ("mine.py", "mine.py", "mine.py is there and was not written by prunus.export"),
        ("mine.py", "mine_weights.pt", "mine_weights.pt is there and was not written by prunus.export"),
    ],
)
def test_what_a_python_file_may_not_replace(name: str, there: str | None, told: str, nets: Any, tmp_path: Path) -> None:
    if there is not None:
        (tmp_path / there).write_text("# of the user")
    with pytest.raises(InputError, match=told):
        prunus.export(nets.Named(), X, tmp_path / name)
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == (
        [] if there is None else [(there, "# of the user")]
    )


def test_an_earlier_export_is_replaced(nets: Any, tmp_path: Path) -> None:
    write_python(Given.of(nets.Net(), torch.randn(1, 3, 8, 8)), tmp_path / "net.py", origin(nets.Net, nets.Net()))
    (tmp_path / "net_weights.pt").write_bytes(b"torn")
    assert prunus.export(nets.Named(), X, tmp_path / "net.py").parity.absolute == 0


def test_either_all_files_are_replaced_or_none(tmp_path: Path) -> None:
    place = tmp_path / "new"
    place.mkdir()
    new = [place / name for name in ("net.xml", "net.bin", "net.txt")]
    for file in new:
        file.write_text("new")
    (tmp_path / "net.xml").write_text("old")
    (tmp_path / "net.txt").mkdir()  # cannot be written over
    with pytest.raises(StorageError, match=r"net\.txt: Is a directory; what was there is untouched"):
        placed(new, tmp_path / "net.xml", place / "before")
    assert (tmp_path / "net.xml").read_text() == "old" and not (tmp_path / "net.bin").exists()
    (tmp_path / "net.txt").rmdir()
    for file in new:
        file.write_text("new")
    assert [f.read_text() for f in placed(new, tmp_path / "net.xml", place / "before")] == ["new"] * 3


def test_lazy_layers(nets: Any, tmp_path: Path) -> None:
    model = nets.Lazily()
    with pytest.raises(ModelError, match=r"a\.weight has no shape yet, as lazy modules have"):
        prunus.export(model, X, tmp_path / "net.pt2")
    model(X)
    assert changes(nets.Lazily(), model, "").lines == [
        'model.set_submodule("a", nn.Linear(6, 8))',
        'model.set_submodule("b", nn.Linear(8, 3))',
    ]


def test_names_that_no_attribute_has() -> None:
    assert assigned("a.b", "3") == 'model.get_submodule("a").b = 3'
    assert assigned("a.class", "3") == 'setattr(model.get_submodule("a"), "class", 3)'
    assert assigned("gr\u00f6\u00dfe", "3") == "setattr(model, 'gr\\xf6\\xdfe', 3)"


def test_a_class_cannot_end_the_docstring(nets: Any, tmp_path: Path) -> None:
    model = nets.Named()
    model.__class__ = type('x"""; import os #', (nets.Named,), {"__qualname__": "Named"})
    write_python(Given.of(model, X), tmp_path / "net.py", origin(nets.Named, model))
    assert (tmp_path / "net.py").read_text().startswith('"""A network, cut: ')


# arguments ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "options", "kind", "told"),
    [
        (None, {}, InputError, "path is text or a pathlib.Path, not NoneType"),
        ("a\0b.pt2", {}, InputError, "names no file"),
        ("net.pt2", {"limit": "small"}, InputError, "limit='small': it must be a number above 0"),
        ("net.pt2", {"dense": "yes"}, ModelError, "a model is a torch.nn.Module, not str"),
    ],
)
def test_what_is_refused(path: Any, options: dict[str, Any], kind: type[Exception], told: str, nets: Any) -> None:
    with pytest.raises(kind, match=told):
        prunus.export(nets.made(), X, path, **options)


# int8 -----------------------------------------------------------------------------------------------------------------
def test_batches_without_samples_and_batches_that_do_not_fit(nets: Any) -> None:
    given = Given.of(nets.made(), X)
    with pytest.raises(InputError, match="the data gave no batch"):
        samples(Int8.of([torch.zeros(0, 6)]), given)
    ranges, others, _ = samples(Int8.of(Int8([torch.zeros(0, 6), X, torch.zeros(2, 5)], calibrate=2)), given)
    assert [piece.n for piece in ranges] == [2]
    with pytest.raises(ExampleError, match="int8: the network does not run on a batch of the data: RuntimeError"):
        measured("onnx", given, given.eager, others, 0.8)
    with pytest.raises(InputError, match="calibrate='8'"):
        Int8.of(Int8([X], calibrate="8"))  # type: ignore[arg-type]
