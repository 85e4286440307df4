"""Filter fusion in a training and the cut after it; feature-map ranks and the bee colony on data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prunus.engine.data import Data, Split
from prunus.engine.runtime import Runtime
from prunus.lab.run import run
from prunus.lab.supplies import supplies
from prunus.methods import ABC

Ask = Callable[..., Any]
RATES = ("--method", "dcff", "--rates", "[0.5]+[0.3]", "--keep-rule", "float-truncate")
TRAINING = ("--data", "digits", "--batch-size", "128", "--lr", "0.05")


def test_a_training_with_fused_filters_and_its_cut(ask: Ask, file: str, tmp_path: Path) -> None:
    """Stopped after an epoch and gone on with; the cut network has the accuracy of the fused one: 8 to 4, 16 to 11."""
    out, small = str(tmp_path / "fused"), str(tmp_path / "small")
    schedule = ("--option", "temperature=1 - epoch / args.num_epochs")
    found = ask("train", f"{file}:small", *TRAINING, *RATES, *schedule, "--epochs", "3", "--out", out)
    assert found["method"] == "dcff" and len(found["epochs"]) == 3
    again = ask("train", f"{file}:small", *TRAINING, *RATES, *schedule, "--epochs", "3", "--out", out, "--resume")
    assert again["accuracy"] == found["accuracy"]
    cut = ask("prune", "--from", out, "--data", "digits", *RATES, "--out", small)
    assert [row["kept"] for row in cut["widths"]] == [4, 11] and cut["verified"]
    assert cut["accuracy"]["before"] == cut["accuracy"]["cut"] == found["accuracy"]["trained"]


def test_the_same_as_a_recipe(file: str, tmp_path: Path) -> None:
    given = {"method": "dcff", "rates": "[0.5]+[0.3]", "keep_rule": "float-truncate"}
    recipe = {
        "name": "fused",
        "model": {"name": f"{file}:small"},
        "data": {"path": "digits", "limit": 200},
        "runtime": {"device": "cpu"},
        "sparsity": {**given, "epochs": 2, "batch_size": 50, "lr": 0.05, "ema": 0.9},
        "prune": given,
    }
    found = run(recipe, out=tmp_path, progress=False, say=lambda line: None).results
    assert [row["kept"] for row in found["widths"]] == [4, 11]
    assert found["accuracy"]["sparse"] == found["accuracy"]["cut"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--method", "slimming", "--rates", "[0.5]*2"), "method 'slimming' does not train at given rates"),
        (("--rates", "[0.5]*2"), "--rates are widths that a method trains at; give --method too"),
        (("--method", "dcff"), "dcff trains at fixed widths"),
        ((*RATES, "--option", "temperature=open('x')"), "unknown name 'open'"),
    ],
)
def test_what_is_refused(refused: Callable[..., str], file: str, words: tuple[str, ...], why: str) -> None:
    assert why in refused("train", f"{file}:small", *TRAINING, *words, "--epochs", "1")


def test_ranks_and_the_colony_on_data(ask: Ask, file: str, tmp_path: Path) -> None:
    data, cache = ("--data", "digits", "--batch-size", "256"), tmp_path / "known.json"
    rates = ("--method", "hrank", "--option", "batches=1", "--rates", "[0.5]*2")
    assert [row["kept"] for row in ask("prune", f"{file}:small", *data, *rates)["widths"]] == [4, 8]
    options = [word for name in ("cycles=1", "sources=2", "epochs=1") for word in ("--option", name)]
    words = ("prune", f"{file}:small", *data, "--method", "abc", *options, "--option", f"cache={cache}")
    found = ask(*words, "--target", "macs=50%")
    assert found["left"]["macs"] <= 0.5 and len(json.loads(cache.read_text())["values"]) > 1
    assert ask(*words, "--target", "macs=50%")["widths"] == found["widths"]


def test_a_structure_is_trained_shortly_before_it_is_measured() -> None:
    """Of a copy: what is measured does not change. One bright half tells the class, which a few epochs learn."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    pixels = torch.randint(0, 60, (64, 1, 8, 8), generator=draw)
    pixels[labels == 1, :, :, 4:] += 180
    data = Data(
        Split(pixels.to(torch.uint8), labels),
        Split(pixels[:2].to(torch.uint8), labels[:2]),
        2,
        (0.3,),
        (0.3,),
        "halves",
    )
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))  # always class 0
    values = []
    for epochs in (0, 5):
        given = supplies(ABC(epochs=epochs), data, runtime=Runtime(device="cpu"), batch_size=16)
        assert given.evaluate is not None
        values.append(given.evaluate(model))
    assert values == [50.0, 100.0] and not model[1].weight.any()
