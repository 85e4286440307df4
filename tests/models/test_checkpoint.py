"""Files of weights: what loads, and one clear line for what does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from shared import SHARED, needs
from torch import Tensor, nn

from prunus.errors import CheckpointError
from prunus.models import build, googlenet, load_weights, mobilenetv1, resnet20, resolve

PUBLISHED = {
    "resnet20": "resnet20-12fca82f.th",
    "resnet32": "resnet32-d509ac18.th",
    "resnet44": "resnet44-014dd654.th",
    "resnet56": "resnet56-4bfd9763.th",
}


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def equal(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[key]) for key, value in a.state_dict().items())


@needs("weights", "cifar10-resnet")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_load(name: str) -> None:
    path = SHARED / "weights" / "cifar10-resnet" / PUBLISHED[name]
    model = build(name)
    load_weights(model, path)
    content = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    own = model.state_dict()
    assert all(torch.equal(own[key.removeprefix("module.")], value) for key, value in content.items())
    stripped = {key.removeprefix("module."): value for key, value in content.items()}
    build(name).load_state_dict(stripped, strict=True)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s},
        lambda s: {"net": s, "acc": 90.0},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"module._orig_mod.{k}": v for k, v in s.items()}},
        lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".th", ".pt"])
def test_nested_and_prefixed_weights_load(tmp_path: Path, wrap: Callable[[object], object], suffix: str) -> None:
    source, model = small(), small()
    torch.save(wrap(source.state_dict()), tmp_path / f"w{suffix}")
    load_weights(model, tmp_path / f"w{suffix}")
    assert equal(source, model)


def test_safetensors_load(tmp_path: Path) -> None:
    source, model = resnet20(), resnet20()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(model, str(tmp_path / "w.safetensors"))
    assert equal(source, model)


def test_a_model_that_is_itself_a_wrapper_keeps_its_prefix(tmp_path: Path) -> None:
    source, model = nn.DataParallel(small()), nn.DataParallel(small())
    torch.save(source.state_dict(), tmp_path / "w.pth")
    load_weights(model, tmp_path / "w.pth")
    assert equal(source, model)


def test_module_versions_survive(tmp_path: Path) -> None:
    """MNASNet refuses weights that come without the version of the module that wrote them."""
    source, model = resolve("mnasnet0_5"), resolve("mnasnet0_5")
    torch.save({"state_dict": nn.DataParallel(source).state_dict()}, tmp_path / "w.pth")
    load_weights(model, tmp_path / "w.pth")
    assert equal(source, model)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(resolve("mnasnet0_5"), tmp_path / "w.safetensors")


def test_checkpoints_of_the_hrank_line_load(tmp_path: Path) -> None:
    def theirs(key: str) -> str:
        block, _, rest = key.partition(".")
        if block in ("pre_layers", "linear"):
            return key
        branch = {"b1": "branch1x1", "b2": "branch3x3", "b3": "branch5x5", "b4": "branch_pool"}[rest[:2]]
        return f"inception_{block}.{branch}{rest[2:]}"

    source, model = googlenet(), googlenet()
    torch.save({"state_dict": {theirs(key): value for key, value in source.state_dict().items()}}, tmp_path / "g.pth")
    load_weights(model, tmp_path / "g.pth")
    assert equal(source, model)


class RunsCode:
    """Unpickling makes a directory, here a harmless stand-in for anything at all."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.pth"
    content = {"state_dict": small().state_dict(), "more": RunsCode(tmp_path / "ran")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    says = refused(small(), path)
    assert f"{path} was refused: it is a pickle that would run code (" in says
    assert "mkdir)" in says
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_a_newer_protocol_is_refused_too(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.pth"
    torch.save(RunsCode(tmp_path / "ran"), path, pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    assert "was refused: it is a pickle that could run code" in refused(small(), path)
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_model_is_refused_with_the_remedy(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "w.pth")
    says = refused(small(), tmp_path / "w.pth")
    assert "(torch.nn.modules.container.Sequential)" in says
    assert says.endswith("only tensors are read, so save model.state_dict() with torch.save")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, zipped: bool, keep: float) -> None:
    path = tmp_path / "w.pth"
    torch.save(small().state_dict(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    says = refused(small(), path)
    assert says.startswith(str(path))
    assert says.endswith("bytes) is damaged, cut short, or no checkpoint")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello world\n", b"<!DOCTYPE html>", b"\x00" * 64])
def test_a_file_of_something_else(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "is damaged, cut short, or no checkpoint" in refused(small(), tmp_path / name)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert refused(small(), tmp_path / "no.pth") == f"there is no file {tmp_path / 'no.pth'}"
    assert refused(small(), tmp_path) == f"{tmp_path} is not a file"


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], torch.zeros(3), {"state_dict": {}}])
def test_a_file_without_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert "holds no weights but a" in refused(small(), tmp_path / "w.pth")


def test_another_architecture_is_counted_with_examples(tmp_path: Path) -> None:
    torch.save(resnet20(classes=7).state_dict(), tmp_path / "w.pth")
    says = refused(resnet20(), tmp_path / "w.pth")
    assert says == (
        f"{tmp_path / 'w.pth'} does not fit ResNet: 2 of another shape "
        "(linear.weight: 7x64 in the file, 10x64 in the model, linear.bias: 7 in the file, 10 in the model)"
    )
    says = refused(mobilenetv1(), tmp_path / "w.pth")
    assert says.endswith(
        "does not fit MobileNetV1: 137 missing (model.0.0.weight, model.0.1.weight, …); "
        "118 unexpected (conv1.weight, bn1.weight, …)"
    )


def test_nothing_is_loaded_from_a_file_that_does_not_fit(tmp_path: Path) -> None:
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    content = {**small().state_dict(), "3.bias": torch.zeros(5)}
    torch.save(content, tmp_path / "w.pth")
    refused(model, tmp_path / "w.pth")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("key", ["0.weight", "1.running_var"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, key: str, value: float) -> None:
    content: dict[str, Tensor] = small().state_dict()
    content[key].view(-1)[1] = value
    torch.save(content, tmp_path / "w.pth")
    says = refused(small(), tmp_path / "w.pth")
    assert says == f"{tmp_path / 'w.pth'}: {key} has 1 NaN or infinite values of {content[key].numel()}"


def refused(model: nn.Module, path: Path) -> str:
    """What the refusal says, in one line."""
    with pytest.raises(CheckpointError) as error:
        load_weights(model, path)
    assert type(error.value) is CheckpointError
    assert "\n" not in str(error.value)
    return str(error.value)
