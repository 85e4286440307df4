"""Examples and batches as people have them: written into by the model, in tables of other kinds."""

from __future__ import annotations

import subprocess
import sys
from collections import UserDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from shared import ROOT
from torch import Tensor, nn

import prunus
from prunus.errors import ExampleError
from prunus.latency import RUNNERS
from prunus.state import example_tensors


class Writes(nn.Module):
    """Normalises its input in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.n, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3, padding=1)
        self.o = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).mul_(2.0)
        return self.o(F.relu(self.b(F.relu(self.n(self.a(x))))).mean((2, 3)))


def given() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(8, 3, 8, 8), torch.randint(0, 4, (8,))) for _ in range(3)]


@pytest.mark.parametrize(
    "words",
    [{"repair": name} for name in ("fold", "reconstruct", "statistics")]
    + [{"method": name} for name in ("taylor", "hrank", "group_fisher")],
    ids=lambda words: next(iter(words.values())),
)
def test_a_model_that_writes_into_its_input_leaves_examples_and_data(words: dict[str, Any]) -> None:
    data, example = given(), torch.randn(2, 3, 8, 8)
    before = example.clone()
    prunus.prune(Writes().eval(), example, "channels=60%", data=data, **words)
    assert torch.equal(example, before)
    assert all(torch.equal(x, y) for (x, _), (y, _) in zip(data, given(), strict=True))


def test_least_squares_sees_the_same_inputs_twice() -> None:
    net, x = Writes().eval(), torch.randn(64, 3, 8, 8)
    plain, better = (
        prunus.prune(net, x[:2], "channels=60%", method="random", data=given(), repair=repair).model
        for repair in ((), "reconstruct")
    )
    with torch.no_grad():
        want = net(x.clone())
        off = [float((small.eval()(x.clone()) - want).square().mean()) for small in (plain, better)]
    assert off[1] < 0.5 * off[0]


@pytest.mark.parametrize("runtime", ["eager", "channels_last"])
def test_a_network_is_timed_on_the_same_input_each_time(runtime: str) -> None:
    x = torch.randn(2, 3, 8, 8)
    before, seen = x.clone(), []

    class Seen(Writes):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(float(x.sum()))
            return super().forward(x)

    call = RUNNERS[runtime][0](Seen().eval(), x, 1)
    for _ in range(5):
        call()
    assert torch.equal(x, before) and len(set(seen)) == 1


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.u, self.d, self.o = nn.Embedding(20, 8), nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.e(ids)
        x = x + self.d(F.gelu(self.u(x)))
        return self.o((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def test_what_a_tokenizer_gives_is_an_example_and_a_batch(tmp_path: Path) -> None:
    def words() -> UserDict[str, Tensor]:
        return UserDict(ids=torch.randint(0, 20, (2, 5)), mask=torch.ones(2, 5))

    net, example = Words().eval(), words()
    assert prunus.cost(net, example).macs == prunus.cost(net, dict(example)).macs
    small = prunus.prune(net, example, "params=70%", data=[words(), words()], repair="fold", examples=[words()])
    assert small.proof is not None and small.proof.examples == 2
    assert len(prunus.trace(net, example).groups) == 2
    prunus.bench(net, example, seconds=0.01)
    prunus.export(small, example, tmp_path / "net.pt2")
    with pytest.raises(ExampleError, match=r"holds no tensor \(got UserDict\); pass dict\(example\)"):
        example_tensors(example)


def test_a_python_file_finds_the_class_that_the_working_folder_has(tmp_path: Path) -> None:
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n\n"
        "class Own(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))\n",
        encoding="utf-8",
    )
    words = (
        "import torch, mynets, prunus; x = torch.randn(2, 8); "
        "print(prunus.export(prunus.prune(mynets.Own(), x, 'params=60%'), x, 'net.py'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
