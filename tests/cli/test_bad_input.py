"""What is wrong gets one line that names it, says what is allowed, and exit code 2."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Refused = Callable[..., str]
SHAPE = ("--input", "1,8,8")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["cost", "resnet65", "--input", "3,32,32"], ["unknown model 'resnet65'", "did you mean 'resnet56'"]),
        (["cost", "torchvision/resnet19", "--input", "3,32,32"], ["torchvision/resnet19", "torchvision/resnet18"]),
        (["cost", "timm/resnet19", "--input", "3,32,32"], ["timm/resnet19", "did you mean 'timm/resnet18'"]),
        (["cost", "nowhere.py:net", "--input", "3,32,32"], ["nowhere.py"]),
        (["cost", "resnet20"], ["--input"]),
        (["cost", "--input", "3,32,32"], ["no model", "MODEL"]),
        (["cost", "resnet20", "--input", "3,32,32", "--convention", "tho"], ["convention", "'tho'", "'thop'"]),
        (["cost", "resnet20", "--input", "3,32,32", "--convention", "flops"], ["flops", "macs"]),
        (["cost", "resnet20", "--input", "3,32,32", "--rates", "[0.5]*3"], ["3 rates", "12"]),
        (["inspect", "resnet20", "--input", "1,32,32"], ["(1, 1, 32, 32)"]),
        (["eval", "resnet20"], ["no data", "--data"]),
        (["eval", "resnet20", "--data", "digit"], ["'digit'", "did you mean 'digits'"]),
        (["eval", "resnet20", "--data", "no/such/folder"], ["no/such/folder"]),
        (["eval", "resnet20", "--data", "digits", "--mean", ".1,.2,.3", "--std", "1,1,1"], ["mean", "3", "1"]),
        (["eval", "resnet20", "--data", "digits", "--device", "abacus"], ["'abacus'", "cpu"]),
        (["eval", "--from", "no/such/run", "--data", "digits"], ["no/such/run"]),
        (["eval", "resnet20", "--from", "run", "--data", "digits"], ["--from", "MODEL"]),
        (["finetune", "resnet20", "--data", "digits", "--epochs", "0"], ["--epochs 0"]),
    ],
)
def test_names_and_shapes(words: list[str], parts: list[str], refused: Refused) -> None:
    line = refused(*words)
    assert [part for part in parts if part not in line] == [], line


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["--target", "macs=50%"]),
        (["--target", "mac=50%"], ["'mac'", "did you mean 'macs'"]),
        (["--target", "macs=half"], ["macs", "'half'"]),
        (["--target", "macs=150%"], ["150%", "100 %"]),
        (["--target", "macs=10M"], ["100 %"]),
        (["--target", "flops=50%"], ["flops", "macs="]),
        (["--target", "latency=8ms", "--on", "onxruntime"], ["'onxruntime'", "did you mean 'onnxruntime'"]),
        (["--target", "latency=8ms", "--steps", "3"], ["latency=", "steps=1, not 3"]),
        (["--target", "latency=60%", "--method", "abc"], ["latency=", "rank channels"]),
        (["--target", "macs=60%", "--on", "eager"], ["--on eager", "latency="]),
        (["--target", "macs=0.01%"], ["macs", "smallest"]),
        (["--target", "macs=50%", "--widths", "0=4"], ["target and widths"]),
        (["--target", "macs=50%", "--method", "magnitud"], ["method", "'magnitud'", "did you mean 'magnitude'"]),
        (["--target", "macs=50%", "--pin", "9"], ["'9'"]),
        (["--target", "macs=50%", "--out", "nets.py/out"], ["nets.py/out", "cannot write"]),
        (["--target", "macs=50%", "--finetune-epochs", "1"], ["no data", "--data"]),
        (["--widths", "1.5=3"], ["'1.5'"]),
        (["--widths", "0=9"], ["9", "8"]),
        (["--drop", "layer9"], ["'layer9'"]),
        (["--rates", "[0.5]"], ["1 rates", "2 groups"]),
        (["--rates", "nothing.*=.5"], ["'nothing.*'"]),
    ],
)
def test_budgets(
    words: list[str], parts: list[str], file: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(file).parent)
    line = refused("prune", f"{file}:small", *SHAPE, *words)
    assert [part for part in parts if part not in line] == [], line


@pytest.mark.parametrize(
    ("factory", "parts"),
    [
        ("smal", ["'smal'", "did you mean 'small'"]),
        ("number", ["int"]),
        ("broken", ["no such thing"]),
        ("single", ["nothing", "output"]),
        ("not_finite", ["0.weight", "NaN"]),
        ("wants_two", ["argument"]),
    ],
)
def test_models_of_the_user(factory: str, parts: list[str], file: str, refused: Refused) -> None:
    line = refused("prune", f"{file}:{factory}", *SHAPE, "--target", "macs=50%")
    assert [part for part in parts if part not in line] == [], line


class Bomb:
    """Unpickling it would make a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


def test_checkpoints(file: str, tmp_path: Path, refused: Refused) -> None:
    words = ("prune", f"{file}:small", *SHAPE, "--target", "macs=50%", "--weights")
    other = tmp_path / "other.pt"
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(1, 9, 3)).state_dict(), other)
    assert "0.weight" in refused(*words, str(other))

    cut_short = tmp_path / "short.pt"
    cut_short.write_bytes(other.read_bytes()[:700])
    assert "short.pt" in refused(*words, str(cut_short))

    bomb, trace = tmp_path / "bomb.pt", tmp_path / "it ran"
    torch.save({"state_dict": Bomb(str(trace))}, bomb)
    assert "code" in refused(*words, str(bomb))
    bomb.write_bytes(pickle.dumps(Bomb(str(trace))))
    assert "bomb.pt" in refused(*words, str(bomb))
    assert not trace.exists()

    assert "nowhere.pt" in refused(*words, str(tmp_path / "nowhere.pt"))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": "prunus-run-9"}', '{"format": "prunus-run-1", "description": {"classes": "ten"}}'],
)
def test_a_damaged_run(content: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "run.json").write_text(content, encoding="utf-8")
    assert "run.json" in refused("eval", "--from", str(tmp_path), "--data", "digits")


def test_an_example_of_the_wrong_shape(file: str, refused: Refused) -> None:
    line = refused("prune", f"{file}:small", "--input", "3,8,8", "--target", "macs=50%")
    assert "(1, 3, 8, 8)" in line and "[8, 1, 3, 3]" in line
