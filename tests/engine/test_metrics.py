"""What is measured: labels as people have them, and metrics as their tasks give them."""

from __future__ import annotations

import json
import math
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine.training import PLAIN, one_batch, small
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

import prunus
from prunus.cli import main
from prunus.engine.checkpoint import Checkpoints
from prunus.engine.config import Augment, Fit
from prunus.engine.loop import evaluate, fit
from prunus.engine.task import Classification, goodness, plain_metrics, ranked
from prunus.errors import CheckpointError, DataError, InputError
from prunus.lab.run import one_chain  # noqa: F401  (the lab reads what is written here)
from prunus.lab.runs import read


# labels ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("classes", [3, 10])
def test_soft_labels_are_measured_by_their_largest_share(classes: int) -> None:
    y = torch.arange(12) % classes
    wrong = y.roll(1)
    shares = 0.6 * F.one_hot(y, classes) + 0.4 / classes
    for scores, top1 in ((F.one_hot(y, classes), 100.0), (F.one_hot(wrong, classes), 0.0)):
        found = evaluate(nn.Identity(), [(10.0 * scores, shares)])
        assert found.top1 == top1 and found.top5 <= 100 and found.n == 12
        assert found.loss == pytest.approx(float(F.cross_entropy(10.0 * scores, shares)))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_whole_numbers_of_any_size_are_labels(dtype: torch.dtype) -> None:
    ((x, y),) = one_batch()
    net = small()
    assert evaluate(net, [(x, y.to(dtype))]) == evaluate(net, [(x, y)])
    a, b = small(), small()
    assert fit(a, [(x, y.to(dtype))], PLAIN)[0].loss == fit(b, [(x, y)], PLAIN)[0].loss


def test_numbers_with_a_point_are_no_labels() -> None:
    ((x, y),) = one_batch()
    with pytest.raises(DataError, match="labels are float32; classes are whole numbers"):
        fit(small(), [(x, y.float())], PLAIN)


def test_mixed_labels_train_a_head_with_more_classes_than_the_data() -> None:
    scores = torch.randn(4, 12)
    shares = torch.rand(4, 10).softmax(1)
    padded = torch.cat([shares, torch.zeros(4, 2)], 1)
    task = Classification()
    torch.testing.assert_close(task.loss(scores, (scores, shares)), F.cross_entropy(scores, padded))


# metrics --------------------------------------------------------------------------------------------------------------
@dataclass
class Held:
    iou: float = 0.5

    @property
    def goodness(self) -> float:
        return 100 * self.iou


Pair = namedtuple("Pair", "top1 cost")


@pytest.mark.parametrize(
    ("metrics", "good", "plain"),
    [
        (3, 3.0, 3.0),
        (np.float32(0.5), 0.5, 0.5),
        (torch.tensor(0.25), 0.25, 0.25),
        (Held(), 50.0, {"iou": 0.5, "goodness": 50.0}),
        (Pair(90.0, 2), 90.0, {"top1": 90.0, "cost": 2}),
        (
            {"goodness": np.float64(7.0), "by class": [torch.tensor(1.0), 2]},
            7.0,
            {"goodness": 7.0, "by class": [1.0, 2]},
        ),
        (SimpleNamespace(goodness=4.0, told=object), 4.0, {"goodness": 4.0, "told": str(object)}),
        ({"loss": 1.5}, None, {"loss": 1.5}),
        ("fine", None, "fine"),
        (None, None, None),
    ],
)
def test_metrics_are_ranked_and_told(metrics: Any, good: float | None, plain: Any) -> None:
    assert ranked(metrics) == good and plain_metrics(metrics) == plain
    json.dumps(plain_metrics(metrics))
    if good is None:
        with pytest.raises(InputError, match="cannot be ranked"):
            goodness(metrics)


def test_an_epoch_without_a_number_is_not_the_best() -> None:
    found = iter([math.nan, 0.5, 0.9, 0.7])
    history = fit(small(), one_batch(), Fit(epochs=4, lr=0.01, selection="best"), validate=lambda net: next(found))
    assert history.best == 3


# batches of one's own -------------------------------------------------------------------------------------------------
class Endless(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        ((x, y),) = one_batch(20)
        return iter(zip(x, y, strict=True))


def test_a_loader_that_has_no_length_trains() -> None:
    history = fit(small(), DataLoader(Endless(), batch_size=8), Fit(epochs=2, lr=0.01))
    assert len(history) == 2


def test_a_last_batch_that_is_smaller_than_its_parts_is_taken_as_it_is() -> None:
    ((x, y),) = one_batch(18)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    steps = []
    loader = [(x[:8], y[:8]), (x[8:16], y[8:16]), (x[16:], y[16:])]
    hook = SimpleNamespace(after_step=lambda: steps.append(1))
    fit(model, loader, Fit(epochs=1, lr=0.01, accumulate=4), hooks=[hook])
    assert len(steps) == 3


@pytest.mark.parametrize("more", [{"augment": Augment(mixup=0.3)}, {"drop_last": True}])
def test_what_batches_of_ones_own_cannot_follow_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(more))} is for images"):
        fit(small(), one_batch(), Fit(epochs=1, **more))


def test_a_checkpoint_is_of_as_many_hooks(tmp_path: Path) -> None:
    hook = SimpleNamespace(after_step=lambda: None)
    fit(small(), one_batch(), Fit(epochs=1), hooks=[hook], checkpoints=Checkpoints(tmp_path))
    with pytest.raises(CheckpointError, match="written with 1 hooks, and now there are 2"):
        fit(small(), one_batch(), Fit(epochs=1), hooks=[hook, hook], checkpoints=Checkpoints(tmp_path))


# a task of one's own, in a recipe and by a verb -----------------------------------------------------------------------
TASK = """
from dataclasses import dataclass
from prunus.engine.task import Classification

@dataclass
class Found:
    share: float

    @property
    def goodness(self):
        return 10 * self.share

class Task(Classification):
    def metrics(self, totals, n):
        return Found(totals["top1"] / n)

class Odd(Classification):
    def metrics(self, totals, n):
        return {"acc": totals["top1"] / n}
"""
NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "task.py").write_text(TASK, encoding="utf-8")
    (tmp_path / "nets.py").write_text(NET, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_a_task_calls_good_reaches_the_run(files: Path) -> None:
    recipe = {
        "name": "own",
        "model": {"name": "nets.py:net"},
        "task": "task.py:Task",
        "data": {"path": "digits", "limit": 60},
        "train": {"epochs": 1},
        "prune": {"target": "macs=60%", "method": "l1"},
    }
    found = prunus.run(recipe, out=files, progress=False, say=lambda line: None).results
    for stage in ("before", "cut"):
        assert found["accuracy"][stage] == found["test"][stage]["goodness"] == 10 * found["test"][stage]["share"]
    run = read(files / "own")
    assert run is not None and run.figures["before"] == found["accuracy"]["before"]


def test_metrics_that_cannot_be_ranked_cost_no_training(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "nets.py:net", "--data", "digits", "--epochs", "1", "--device", "cpu"]
    assert main([*words, "--task", "task.py:Odd", "--out", "odd", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == {"trained": None}
    assert (files / "odd" / "model.safetensors").exists()
    assert main([*words, "--out", "usual", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    run = read(files / "usual")
    assert run is not None and run.figures["before"] == answer["accuracy"]["trained"]
    assert run.figures["before loss"] == answer["test"]["loss"]


def test_an_interrupted_training_is_not_begun_anew_unasked(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prunus.lab import folder

    words = ["train", "nets.py:net", "--data", "digits", "--epochs", "1", "--device", "cpu", "--out", "o", "--json"]

    def stop(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folder, "write", stop)
        assert main(words) == 130
    assert main(words) == 2
    assert "is of a training that was interrupted: --resume goes on with it" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert main(words) == 0  # it ended, and may be made again
