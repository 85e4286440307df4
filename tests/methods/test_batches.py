"""How batches go into a model, what is refused in which words, and that the model is left as it was."""

from __future__ import annotations

import copy
from collections import UserDict
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from zoo import EXAMPLE, classifier

import prunus
from prunus.errors import DataError, ExampleError, InputError
from prunus.methods import Taylor
from prunus.methods.batches import Feed, cross_entropy, forward, inputs, moved, samples, some

X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(6) % 4
PAIRS = [(X[:4], Y[:4]), (X[4:], Y[4:])]


def test_what_of_a_batch_goes_into_the_model() -> None:
    table = {"a": X, "b": Y}
    for batch, want in ((X, X), ((X, Y), X), ([X, Y], X), ((X,), X)):
        assert inputs(batch) is want
    assert inputs(table) is table and inputs((table, Y)) is table
    assert inputs(([X, X], Y)) == (X, X)
    whole = ({"x": X},)  # for a model that takes the dict itself, as `example` says it
    assert inputs(whole) is whole and inputs((whole, Y)) is whole
    with pytest.raises(DataError, match="a batch of 3 parts does not say"):
        inputs((X, X, Y))
    with pytest.raises(DataError, match="a batch is a tensor, a pair"):
        inputs(3)


def test_cross_entropy_is_that_of_the_first_output() -> None:
    model = classifier().eval()
    want = F.cross_entropy(model(X), Y)
    torch.testing.assert_close(cross_entropy(model, (X, Y)), want)

    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return model(x), torch.zeros(1)

    torch.testing.assert_close(cross_entropy(Two(), [X, Y]), want)
    with pytest.raises(DataError, match="cross-entropy needs batches"):
        cross_entropy(model, X)
    with pytest.raises(ExampleError, match=r"the model gives \(6, 4\) for labels \(5,\) of torch.int64"):
        cross_entropy(model, (X, Y[:5]))
    with pytest.raises(ExampleError, match=r"the model refuses a batch of shape \(6, 2, 8, 8\): .*channels"):
        forward(model, (X[:, :2], Y))


def test_a_batch_divided_into_samples() -> None:
    parts = samples((X, {"y": Y, "name": "noise"}))
    assert len(parts) == 6
    assert torch.equal(parts[2][0], X[2:3]) and torch.equal(parts[2][1]["y"], Y[2:3]) and parts[2][1]["name"] == "noise"
    for bad in ((X, Y[:5]), (X, torch.tensor(1.0)), ("a", "b")):
        with pytest.raises(DataError, match="cannot be divided into samples"):
            samples(bad)


def test_batches_are_moved_and_begin_anew() -> None:
    feed = Feed(PAIRS, classifier().to("meta"))
    assert len(feed) == 2
    for _ in range(2):
        assert [part.device.type for batch in feed for part in batch] == ["meta"] * 4
    assert moved(UserDict(x=X, n=3), torch.device("meta"))["x"].is_meta
    assert [len(batch[1]) for batch in some(PAIRS, 1)] == [4]
    with pytest.raises(DataError, match="data gives no batch"):
        list(some([], 3))


class Spy:
    """Scores nothing, and notes what it was given."""

    scope = None
    needs: ClassVar[frozenset[str]] = frozenset({"data", "loss", "evaluate", "example"})

    def score(self, model: nn.Module, coupling: prunus.Coupling, *, seed: int, **given: Any) -> list[np.ndarray]:
        self.given = given
        self.labels = [[batch[1].tolist() for batch in given["data"]] for _ in range(2)]
        model.train()(X)  # careless: statistics, mode and dropout's draws
        return [np.arange(float(g.width)) for g in coupling.groups]


def test_a_method_gets_what_it_needs_and_the_model_is_left_as_it_was() -> None:
    model, spy = classifier().eval(), Spy()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    prunus.prune(model, EXAMPLE, "macs=50%", spy, data=PAIRS, evaluate=lambda net: 1.0)
    assert (
        spy.given["example"] is EXAMPLE and spy.given["loss"] is cross_entropy and spy.given["evaluate"](model) == 1.0
    )
    assert spy.labels == [[[0, 1, 2, 3], [0, 1]]] * 2
    assert not model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_loader_that_shuffles_follows_the_seed() -> None:
    def orders(seed: int) -> list[Any]:
        spy, loader = Spy(), DataLoader(TensorDataset(X, torch.arange(6)), batch_size=3, shuffle=True)
        prunus.prune(classifier(), EXAMPLE, "macs=50%", spy, data=loader, evaluate=float, seed=seed)
        return spy.labels

    torch.manual_seed(5)
    assert orders(1) == orders(1) != orders(2)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "^taylor needs data=: an iterable of batches"),
        ({"data": X}, "data is an iterable of batches.* not Tensor"),
        ({"data": iter(PAIRS)}, "data is a list_iterator, which gives its batches once"),
        ({"data": 3}, "not int"),
        ({"data": []}, "data gives no batch"),
        ({"data": [X]}, "taylor needs loss=: a function of the model and a batch.* no pairs"),
        ({"data": PAIRS, "loss": 3}, "loss is a function of the model and a batch.*, not int"),
        ({"data": PAIRS, "loss": lambda model, batch: 0.5}, "a loss is one finite number in a tensor, not 0.5"),
        ({"data": PAIRS, "loss": lambda model, batch: model(batch[0])}, r"in a tensor, not a tensor \(4, 4\)"),
        ({"data": PAIRS, "loss": lambda model, batch: model(batch[0]).sum() * float("nan")}, "one finite number"),
        ({"data": PAIRS, "loss": lambda model, batch: X.sum().requires_grad_()}, "does not depend on the model"),
    ],
)
def test_what_is_missing_or_wrong_is_said_in_one_line(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text) as error:
        prunus.prune(classifier(), EXAMPLE, "macs=50%", "taylor", **given)
    assert "\n" not in str(error.value)


def test_it_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunus import api

    monkeypatch.setattr(api, "trace", lambda *args, **options: pytest.fail("traced"))
    with pytest.raises(InputError, match="taylor needs data="):
        prunus.prune(classifier(), EXAMPLE, "macs=50%", Taylor())
    wishes = type("Wishes", (Taylor,), {"needs": frozenset({"date"})})
    with pytest.raises(InputError, match="wishes needs date; known: data, loss, evaluate, example"):
        prunus.prune(classifier(), EXAMPLE, "macs=50%", wishes(), data=PAIRS)


def test_frozen_weights_and_no_grad_are_no_obstacle() -> None:
    model, frozen = classifier(), classifier().requires_grad_(False)
    with torch.no_grad():
        plans = [prunus.prune(net, EXAMPLE, "macs=50%", "taylor", data=PAIRS).plan.kept for net in (model, frozen)]
    assert plans[0] == plans[1]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in frozen.parameters())


class Search:
    """Keeps the first channels: the widths that it was told to find."""

    def __init__(self, *widths: int) -> None:
        self.widths = widths

    def search(self, model: nn.Module, coupling: prunus.Coupling, goal: prunus.Target, *, seed: int) -> Any:
        return [np.arange(width) for width in self.widths]


def test_a_search_is_asked_for_channels_and_held_to_the_budget() -> None:
    small = prunus.prune(classifier(), EXAMPLE, "channels=50%", Search(8, 6))
    assert small.plan.kept == (tuple(range(8)), tuple(range(6))) and small.proof is not None and small.proof.holds
    with pytest.raises(InputError, match="search found channels=15, above the 14 that were asked for"):
        prunus.prune(classifier(), EXAMPLE, "channels=50%", Search(8, 7))
    for given in ({"steps": 2, "target": "macs=50%"}, {"rates": "[0.5]*2"}):
        with pytest.raises(InputError, match=r"Search (takes all that goes at once|finds widths itself)"):
            prunus.prune(classifier(), EXAMPLE, method=Search(8, 6), **given)
