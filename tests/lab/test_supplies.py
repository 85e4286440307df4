"""What a data set gives to a method: batches of the train part, the task's loss, a measure on anything but the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.engine.data import Data, Split
from prunus.engine.loop import evaluate
from prunus.engine.runtime import Runtime
from prunus.engine.split import with_validation
from prunus.engine.task import Classification
from prunus.errors import InputError
from prunus.lab.job import Cut, checked, do
from prunus.lab.run import run
from prunus.lab.supplies import NOTHING, supplies, wants_data
from prunus.methods import Magnitude, Taylor

CPU = Runtime(device="cpu")


def images() -> Data:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (20, 3, 8, 8), generator=random).to(torch.uint8)
    train, test = Split(pixels, torch.arange(20) % 4), Split(pixels[:4] // 2, torch.arange(4))
    return Data(train, test, 4, (0.5,) * 3, (0.25,) * 3, "noise")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def test_batches_are_normalised_shuffled_by_the_seed_and_not_augmented() -> None:
    data = images()
    assert isinstance(data.train, Split)
    orders = {}
    for seed in (0, 1):
        given = supplies(Taylor(), data, runtime=Runtime(device="cpu", seed=seed), batch_size=8)
        assert given.data is not None
        first, again = (list(given.data) for _ in range(2))
        assert [len(y) for _, y in first] == [8, 8, 4]
        assert all(
            torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True)
        )
        x = torch.cat([x for x, _ in first])
        whole = (data.train.images.float() / 255 - 0.5) / 0.25
        assert sorted(x.sum((1, 2, 3)).tolist()) == pytest.approx(sorted(whole.sum((1, 2, 3)).tolist()), abs=1e-3)
        orders[seed] = x
    assert not torch.equal(orders[0], orders[1])


def test_the_loss_is_that_of_the_task_and_the_measure_spares_the_test_part() -> None:
    model, data = net().eval(), images()
    given = supplies(Taylor(), data, runtime=CPU, task=Classification(label_smoothing=0.1))
    assert given.loss is not None and given.evaluate is not None and given.data is not None
    x, y = next(iter(given.data))
    torch.testing.assert_close(given.loss(model, (x, y)), F.cross_entropy(model(x), y, label_smoothing=0.1))
    assert given.evaluate(model) == evaluate(model, data.train, mean=data.mean, std=data.std, runtime=CPU).top1
    held = with_validation(data, 0.2)
    given = supplies(Taylor(), held, runtime=CPU)
    assert given.evaluate is not None
    assert given.evaluate(model) == evaluate(model, held, part="validation", runtime=CPU).top1


def test_the_users_loaders_are_passed_on() -> None:
    loader: list[tuple[Tensor, Tensor]] = [(torch.randn(4, 3, 8, 8), torch.arange(4))]
    given = supplies(Taylor(), Data(loader, [], 0, (), (), "loaders"), runtime=CPU)
    assert given.data is loader and given.evaluate is not None and 0 <= given.evaluate(net()) <= 100


def test_what_needs_nothing_gets_nothing() -> None:
    assert not wants_data(Magnitude()) and supplies(Magnitude(), images(), runtime=CPU) is NOTHING
    with pytest.raises(InputError, match="Taylor reads data; give --data"):
        supplies(Taylor(), None, runtime=CPU)


def test_the_job_supplies_its_method_and_cuts_in_steps() -> None:
    cut = checked(Cut("channels=50%", method="taylor", options={"batches": 1}, steps=2, schedule="cubic"))
    outcome = do(net(), torch.randn(1, 3, 8, 8), cut, data=images(), runtime=CPU, batch_size=10)
    assert outcome.pruned.plan.widths == (4,) and outcome.accuracy.cut is not None
    for wrong, text in (({"steps": 0}, "steps=0 is no whole number"), ({"schedule": "cubik"}, "unknown schedule")):
        with pytest.raises(InputError, match=text):
            checked(Cut("channels=50%", **wrong))  # type: ignore[arg-type]


NET = """
from torch import nn

def small():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )
"""


def test_a_recipe_prunes_by_data(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NET, encoding="utf-8")
    recipe: dict[str, Any] = {
        "name": "tiny",
        "model": {"name": f"{tmp_path / 'nets.py'}:small"},
        "data": {"path": "digits", "limit": 60},
        "train": {"epochs": 1, "batch_size": 20},
        "prune": {"target": "channels=50%", "method": "taylor", "options": {"batches": 1}, "steps": 2},
    }
    finished = run(recipe, out=tmp_path / "runs", progress=False, say=lambda text: None)
    assert finished.results["method"] == "taylor" and finished.results["verified"]
    assert [width["kept"] for width in finished.results["widths"]] == [4]
