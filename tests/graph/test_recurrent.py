"""Recurrent layers and cells: units, projections and what is read prune; masked == cut over all steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from zoo import head, image, net

import prunus
from prunus.methods import DCFF, FPGM, SSL, Gates

FIRST = {"batch_first": True}


class Case(NamedTuple):
    """r: the layer, of 12 features and 10 units. features: what `forward` gives the head."""

    r: Callable[[], nn.Module]
    features: int
    forward: Callable[[Any, Tensor], Tensor]
    groups: dict[str, int] = {"a": 12, "r": 10}  # noqa: RUF012
    pinned: str = ""


def mean(s: Any, x: Tensor) -> Tensor:
    return s.h(s.r(x)[0].mean(1))  # type: ignore[no-any-return]


def states(s: Any, x: Tensor) -> Tensor:
    _, (h, c) = s.r(x)
    return s.h(torch.cat([h[0], h[1], c[0], c[1]], -1))  # type: ignore[no-any-return]


def flat(s: Any, x: Tensor) -> Tensor:
    return s.h(s.r(x)[1].transpose(0, 1).reshape(len(x), -1))  # type: ignore[no-any-return]


def from_zeros(s: Any, x: Tensor) -> Tensor:
    return s.h(s.r(x, torch.zeros(2, len(x), s.r.hidden_size))[0].mean(1))  # type: ignore[no-any-return]


def from_written(s: Any, x: Tensor) -> Tensor:
    return s.h(s.r(x, torch.zeros(2, len(x), 10))[0].mean(1))  # type: ignore[no-any-return]


def from_learned(s: Any, x: Tensor) -> Tensor:
    return s.h(s.r(x, s.start.expand(-1, len(x), -1).contiguous())[0].mean(1))  # type: ignore[no-any-return]


def one_sequence(s: Any, x: Tensor) -> Tensor:
    return s.h(s.r(x[0])[0].mean(0))  # type: ignore[no-any-return]


def weighed(s: Any, x: Tensor) -> Tensor:
    o = s.r(x)[0]
    return s.h(((o @ o.mean(1, keepdim=True).transpose(1, 2)).softmax(1) * o).sum(1))  # type: ignore[no-any-return]


def packed(s: Any, x: Tensor) -> Tensor:
    several = pack_padded_sequence(x, torch.tensor([3, 4]), batch_first=True, enforce_sorted=False)
    o, h = s.r(several)
    longest = pad_packed_sequence(o, batch_first=True)[0].max(1).values
    return s.h(longest + torch.cat([h[0], h[1]], -1))  # type: ignore[no-any-return]


def stepwise(s: Any, x: Tensor) -> Tensor:
    state: Any = None
    for t in x.unbind(1):
        state = s.r(t, state)
    return s.h(state[0] if isinstance(s.r, nn.LSTMCell) else state)  # type: ignore[no-any-return]


def along_steps(s: Any, x: Tensor) -> Tensor:
    return s.h(s.r(x.transpose(1, 2))[0].mean(1))  # type: ignore[no-any-return]


CASES: dict[str, Case] = {
    "gru": Case(lambda: nn.GRU(12, 10, **FIRST), 10, mean),
    "lstm": Case(lambda: nn.LSTM(12, 10, 2, **FIRST), 10, mean),
    "rnn": Case(lambda: nn.RNN(12, 10, nonlinearity="relu", **FIRST), 10, mean),
    "no bias": Case(lambda: nn.LSTM(12, 10, bias=False, **FIRST), 10, mean),
    "both ways": Case(lambda: nn.GRU(12, 10, 2, bidirectional=True, **FIRST), 20, mean),
    "steps first": Case(lambda: nn.GRU(12, 10), 10, mean),
    "one sequence": Case(lambda: nn.GRU(12, 10), 10, one_sequence),
    "dropout between": Case(lambda: nn.GRU(12, 10, 3, dropout=0.5, **FIRST), 10, mean),
    "a projection": Case(
        lambda: nn.LSTM(12, 10, 2, proj_size=7, bidirectional=True, **FIRST),
        14,
        mean,
        {"a": 12, "r:0": 10, "r:1": 7},
    ),
    "both states": Case(lambda: nn.LSTM(12, 10, 2, **FIRST), 40, states),
    "states of all layers": Case(lambda: nn.GRU(12, 10, 2, **FIRST), 20, flat),
    "attention over steps": Case(lambda: nn.LSTM(12, 10, bidirectional=True, **FIRST), 20, weighed),
    "from zeros": Case(lambda: nn.GRU(12, 10, 2, **FIRST), 10, from_zeros),
    "from a learned state": Case(
        lambda: nn.GRU(12, 10, 2, **FIRST), 10, from_learned, pinned="the batch or the layers of a recurrent layer"
    ),
    "a written width": Case(
        lambda: nn.GRU(12, 10, 2, **FIRST), 10, from_written, {"a": 12}, "its width is written down in the code"
    ),
    "packed": Case(lambda: nn.GRU(12, 10, bidirectional=True, **FIRST), 20, packed),
    "lstm cell": Case(lambda: nn.LSTMCell(12, 10), 10, stepwise),
    "gru cell": Case(lambda: nn.GRUCell(12, 10), 10, stepwise),
    "rnn cell": Case(lambda: nn.RNNCell(12, 10), 10, stepwise),
    "channels as steps": Case(
        lambda: nn.GRU(4, 10, **FIRST), 10, along_steps, {"r": 10}, "it runs along the steps, the batch or the layers"
    ),
}


def made(case: Case) -> nn.Module:
    def forward(s: Any, x: Tensor) -> Tensor:
        return case.forward(s, s.a(x).relu())

    model = net(forward, a=head(6, 12), r=case.r(), h=head(case.features, 5))
    model.start = nn.Parameter(torch.randn(2, 1, 10))
    return model


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", CASES)
def test_units_prune_and_masked_is_cut(name: str) -> None:
    case, example = CASES[name], image(1 if name == "one sequence" else 2, 4, 6)
    model = made(case)
    coupling = prunus.trace(model, example)
    assert {g.name: g.width for g in coupling.groups if g.name != "start"} == case.groups
    assert not case.pinned or any(case.pinned in p.reason for p in coupling.pinned)
    assert coupling.macs() == prunus.cost(model, example).macs
    for seed in range(2):
        small = prunus.prune(model, example, "channels=50%", "random", seed=seed)
        assert small.proof is not None and small.proof.worst < 1e-10
        assert coupling.macs(small.plan.widths) == small.after.macs
        left = {g.name: len(k) for g, k in zip(small.plan.groups, small.plan.kept, strict=True)}
        layer: Any = small.model.r
        assert left.get("a", layer.input_size) == layer.input_size
        units = left.get("r", left.get("r:0", 10))
        assert units == layer.hidden_size and (units < 10 or "written" in name)
        assert getattr(layer, "proj_size", 0) == left.get("r:1", 0)


def test_all_layers_and_directions_lose_the_same_units() -> None:
    """Unit j goes with its rows of each gate, the columns that read it, in this layer and the next, and its entries of
    the output."""
    model: Any = made(CASES["both ways"])
    small: Any = prunus.prune(model, image(2, 4, 6), widths={"r": 4})
    kept = torch.tensor(next(k for g, k in zip(small.plan.groups, small.plan.kept, strict=True) if g.name == "r"))
    rows = torch.cat([kept, kept + 10, kept + 20])
    for end in ("l0", "l0_reverse", "l1", "l1_reverse"):
        dense, cut = (
            {n: getattr(m.r, f"{n}_{end}") for n in ("weight_ih", "weight_hh", "bias_ih")} for m in (model, small.model)
        )
        assert torch.equal(cut["weight_hh"], dense["weight_hh"][rows][:, kept])
        assert torch.equal(cut["bias_ih"], dense["bias_ih"][rows])
        read = torch.arange(12) if "l0" in end else torch.cat([kept, kept + 10])
        assert torch.equal(cut["weight_ih"], dense["weight_ih"][rows][:, read])
    assert torch.equal(small.model.h.weight, model.h.weight[:, torch.cat([kept, kept + 10])])


@pytest.mark.parametrize("method", [Gates(), SSL(), DCFF(), FPGM()], ids=lambda m: type(m).__name__)
def test_methods_that_train_take_recurrent_layers(method: Any) -> None:
    """Fewer units after the training, and of what masks in training the same function."""
    torch.manual_seed(0)
    model = made(CASES["lstm"])
    x, y = torch.randn(16, 4, 6), torch.randint(0, 5, (16,))
    attached = method.attach(model, x[:2], target="macs=50%", epochs=2)
    optimizer = torch.optim.SGD([{"params": model.parameters()}, *attached.param_groups(lr=0.05)], lr=0.05)
    for epoch in range(2):
        attached.epoch_start(epoch)
        for batch in (slice(0, 8), slice(8, 16)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model.train()(x[batch]), y[batch]) + attached.penalty()
            loss.backward()
            optimizer.step()
            attached.after_step()
    trained = model.eval()(x)
    small = attached.finish()
    assert small.proof is not None and small.proof.holds and small.after.macs <= 0.5 * small.before.macs
    assert small.model.r.hidden_size < 10
    if isinstance(method, (DCFF, FPGM)):
        assert torch.allclose(small.model.eval()(x), trained, atol=1e-5)
