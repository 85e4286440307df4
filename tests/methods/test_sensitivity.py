"""Sensitivity: curves against direct cuts, and rates that follow them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import InputError
from prunus.methods.sensitivity import Curve, Sensitivity, channel_macs, losses


def chain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 16, 3),
    )  # fmt: skip


EXAMPLE = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def by_widths(value: Callable[[int, int], float]) -> Callable[[nn.Module], float]:
    """A measure that knows how wide the two convolutions are, and nothing else."""
    return lambda net: value(net[0].out_channels, net[2].out_channels)  # type: ignore[index, arg-type]


def test_what_evaluate_does_to_a_network_stays_with_that_network() -> None:
    def trains(net: nn.Module) -> float:
        net(EXAMPLE).square().mean().backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
        return 0.0

    model = chain()
    before = [p.detach().clone() for p in model.parameters()]
    prunus.sensitivity(model, EXAMPLE, trains, rates=(0.5,))
    prunus.prune(model, EXAMPLE, "macs=50%", "sensitivity", evaluate=trains)
    for parameter, was in zip(model.parameters(), before, strict=True):
        assert parameter.grad is None and torch.equal(parameter, was)


def test_one_group_at_a_time_all_others_whole() -> None:
    seen: list[tuple[int, int]] = []

    def value(a: int, b: int) -> float:
        seen.append((a, b))
        return 10 * a + b

    found = prunus.sensitivity(chain(), EXAMPLE, by_widths(value), rates=(0.25, 0.5))
    assert seen == [(8, 8), (6, 8), (4, 8), (8, 6), (8, 4)]
    assert found.dense == 88 and [curve.group for curve in found.curves] == ["0", "2"]
    assert found.curves[0].widths == (8, 6, 4) and found.curves[0].values == (88, 68, 48)
    assert found.curves[1].rates == (0, 0.25, 0.5)
    assert [found.curves[0].near(rate) for rate in (0, 0.3, 0.9)] == [88, 68, 48]
    assert "6 68, 4 48" in str(found)


def test_the_measured_network_is_the_cut_one() -> None:
    net = chain()
    x = torch.randn(4, 3, 4, 4)

    def distance(small: nn.Module) -> float:
        with torch.no_grad():
            return -float((small(x) - net(x)).square().mean())

    found = prunus.sensitivity(net, EXAMPLE, distance, rates=(0.5,))
    small = prunus.prune(net, EXAMPLE, widths={"2": 4}).model
    assert found.curves[1].values[1] == pytest.approx(distance(small), rel=1e-6)


def test_losses_are_monotone_and_linear_between_points() -> None:
    curve = Curve("g", (8, 6, 4, 2), (90.0, 88.0, 89.0, 80.0))
    assert losses(curve).tolist() == [1, 1, 0, 0, 4, 4, 4]
    assert losses(Curve("g", (4,), (1.0,))).tolist() == [0, 0, 0]


def test_macs_of_a_channel_are_counted_on_both_sides() -> None:
    coupling = prunus.trace(chain(), EXAMPLE)
    assert channel_macs(coupling).tolist() == [16 * 27 + 16 * 8 * 9, 16 * 8 * 9 + 16 * 3]


def test_the_group_that_loses_little_gives_more() -> None:
    careless = prunus.prune(
        chain(), EXAMPLE, "macs=60%", "sensitivity", evaluate=by_widths(lambda a, b: 100 * a + b * 0.001)
    )
    assert careless.plan.widths[0] == 8 and careless.plan.widths[1] < 8
    other = prunus.prune(
        chain(), EXAMPLE, "macs=60%", "sensitivity", evaluate=by_widths(lambda a, b: a * 0.001 + 100 * b)
    )
    assert other.plan.widths[1] == 8 and other.plan.widths[0] < 8
    assert other.after.macs <= 0.6 * other.before.macs


def test_loss_per_mac_decides_and_not_loss_alone() -> None:
    # Both groups lose the same value per channel; a channel of the first saves more multiply-accumulates.
    found = prunus.prune(chain(), EXAMPLE, "macs=80%", "sensitivity", evaluate=by_widths(lambda a, b: a + b))
    assert found.plan.widths[0] < found.plan.widths[1] == 8


def test_linked_and_tied_groups_are_measured_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x) + self.b(x))

    count = []
    prunus.sensitivity(Tied(), EXAMPLE, lambda net: count.append(1) or 0.0, rates=(0.5,))
    assert len(count) == 2


def test_order_within_a_group_is_that_of_the_base() -> None:
    net = chain()
    scores = Sensitivity(base="l1", rates=(0.5,)).score(
        net, prunus.trace(net, EXAMPLE), evaluate=by_widths(lambda a, b: a * a + b)
    )
    norms = net[0].weight.abs().sum((1, 2, 3)).detach().numpy()  # type: ignore[union-attr, operator]
    assert (np.diff(scores[0][np.argsort(norms)]) > 0).all()


@pytest.mark.parametrize("rates", [(), (0.0,), (1.0,), (0.5, 2)])
def test_wrong_rates_are_refused(rates: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="fractions between 0 and 1"):
        prunus.sensitivity(chain(), EXAMPLE, lambda net: 0.0, rates=rates)
    with pytest.raises(InputError, match="fractions between 0 and 1"):
        Sensitivity(rates=rates)


def test_a_measure_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="no finite number"):
        prunus.sensitivity(chain(), EXAMPLE, lambda net: float("nan"))


def test_measuring_changes_no_mode_and_draws_nothing() -> None:
    net = chain().train()
    state = torch.get_rng_state()
    prunus.sensitivity(
        net, EXAMPLE, lambda small: float(small.eval()(torch.rand_like(EXAMPLE)).sum().detach()), rates=(0.5,)
    )
    assert all(module.training for module in net.modules())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("value", [{"top1": 0.5}, torch.ones(3), None])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="evaluate returns a number, the higher the better, not"):
        prunus.sensitivity(chain(), EXAMPLE, lambda net: value, rates=(0.5,))  # type: ignore[arg-type,return-value]
    with pytest.raises(InputError, match="evaluate returns a number, the higher the better, not"):
        prunus.prune(chain(), EXAMPLE, "macs=50%", "abc", evaluate=lambda net: value)  # type: ignore[arg-type,return-value]


def test_no_function_and_one_rate_are_refused() -> None:
    with pytest.raises(InputError, match="evaluate is a function of the model"):
        prunus.sensitivity(chain(), EXAMPLE, None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"rates=0\.5 are several fractions"):
        prunus.sensitivity(chain(), EXAMPLE, lambda net: 0.0, rates=0.5)  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers() -> None:
    rates = np.array([0.25, 0.5])
    curves = prunus.sensitivity(chain(), EXAMPLE, lambda net: 1.0, rates=rates, seed=np.int64(1))  # type: ignore[arg-type]
    assert len(curves.curves[0].widths) == 3
    small = prunus.prune(
        chain(), EXAMPLE, "macs=60%", Sensitivity(rates=rates), evaluate=lambda net: 1.0,  # type: ignore[arg-type]
        steps=np.int64(2), seed=np.int64(1),
    )  # fmt: skip
    assert small.proof is not None and small.proof.holds


@pytest.mark.parametrize("rates", [np.array(0.5), torch.tensor(0.5), np.array([[0.2, 0.5]]), ["a"], 0.5, None, "0.5"])
def test_what_is_no_list_of_fractions_is_refused(rates: object) -> None:
    with pytest.raises(InputError, match="fractions"):
        Sensitivity(rates=rates)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="fractions"):
        prunus.sensitivity(chain(), EXAMPLE, lambda net: 1.0, rates=rates)  # type: ignore[arg-type]
    assert Sensitivity(rates=torch.tensor([0.25, 0.5])).rates == (0.25, 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "method", [Sensitivity(base="taylor"), prunus.methods.ABC(base="taylor")], ids=["curves", "abc"]
)
def test_a_base_needs_weights_alone(method: object) -> None:
    data = [(EXAMPLE, torch.zeros(len(EXAMPLE), dtype=torch.int64))]
    with pytest.raises(InputError, match="base='taylor' needs data; a base ranks by weights alone"):
        prunus.prune(chain(), EXAMPLE, "macs=80%", method, evaluate=by_widths(lambda a, b: a), data=data)
