"""The soft budget: the published counts and losses to the unit, the mixes by hand, and gradients by differences."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from shared import SHARED, needs
from torch import nn

import prunus
from prunus.errors import InputError
from prunus.graph.coupling import Coupling
from prunus.methods.budget import Budget, Soft, mac_loss, main_path, mixed, published_mac_loss
from prunus.select import Costs
from prunus.target import Target

CPU = torch.device("cpu")
T = 3_727_474_688


@pytest.fixture(scope="module")
def resnet50() -> tuple[nn.Module, Coupling]:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet50()
    return model, prunus.trace(model, torch.zeros(1, 3, 224, 224))


def kept(coupling: Coupling, row: dict[str, Any]) -> torch.Tensor:
    """The widths of a published row, group by group."""
    widths = []
    for group in coupling.groups:
        stage = next((int(t[5]) - 1 for t in group.producers() if t.startswith("layer")), None)
        shared = any("downsample" in t for t in group.producers())
        widths.append(row["stem"] if stage is None else row["shared" if shared else "inner"][stage])
    return torch.tensor(widths, dtype=torch.float64)


@needs("spec", "accounting.json")
@pytest.mark.parametrize("name", ["keep all", "keep 1/2", "keep shared only 3/4"])
def test_the_published_rows_of_resnet50(name: str, resnet50: tuple[nn.Module, Coupling]) -> None:
    rows = json.loads((SHARED / "spec" / "accounting.json").read_text("utf-8"))["rows"]
    row = next(r for r in rows if r["row"] == f"acceptance vector: {name}")
    model, coupling = resnet50
    widths = kept(coupling, row)
    true, proxy = Soft.of(coupling, CPU), Soft.of(main_path(model, coupling), CPU)
    assert float(true(widths, "macs")) == row["conv_linear_macs"]
    assert float(true(widths, "params")) == row["params"]
    assert float(proxy(widths, "macs")) == row["proxy_macs"]
    budget = Budget.of(model, coupling, Target(macs=0.7), "published", CPU)
    assert budget.dense["macs"] == T
    loss, c, t = budget.loss(widths, 1.0)
    assert float(loss) == pytest.approx(row["mac_loss_alpha1_p03"], rel=1e-8)
    assert 100 * float(c) == pytest.approx(row["proxy_ratio"], rel=1e-12)
    assert t == pytest.approx(0.7)


def test_the_two_forms_are_the_same_at_resnet50s_count() -> None:
    c = torch.tensor(float(T), dtype=torch.float64)
    assert float(published_mac_loss(c, 0.7 * T, 1.0)) == pytest.approx(1.250466, abs=5e-7)
    assert float(mac_loss(c, 0.7 * T, T, 1.0)) == pytest.approx(1.250466, rel=1e-5)
    assert float(mac_loss(c / 1000, 0.7 * T / 1000, T / 1000, 0.5)) == pytest.approx(1.250466 / 2, rel=1e-5)


def test_the_mixes_by_hand() -> None:
    nuc, mac = torch.tensor(2.0), torch.tensor(10.0)
    # c = .8, t = .6: r = .2 / .4 = .5
    near, far = math.exp(-0.5), math.exp(-0.5)
    assert float(mixed(1, nuc, mac, 0.8, 0.6)) == pytest.approx(2 * near + 10 * (1 - near))
    assert float(mixed(2, nuc, mac, 0.8, 0.6)) == pytest.approx(2 * (1 - far) + 10 * far)
    assert float(mixed(0, nuc, mac, 0.8, 0.6)) == 12.0
    assert float(mixed(2, nuc, mac, 0.1, 0.6)) == 10.0  # below 2t - 1: the budget alone, and L_nuc not turned around
    # below the budget by as much, and with λ = 2: e^{-1}
    assert float(mixed(1, nuc, mac, 0.4, 0.6, lam=2.0)) == pytest.approx(2 * math.exp(-1) + 10 * (1 - math.exp(-1)))
    # at the budget kind 1 is L_nuc alone, at full size kind 2 is L_mac alone
    assert float(mixed(1, nuc, mac, 0.6, 0.6)) == 2.0
    assert float(mixed(2, nuc, mac, 1.0, 0.6)) == pytest.approx(10.0)
    assert math.isfinite(float(mixed(1, nuc, mac, 1.0, 1.0)))


def small() -> tuple[nn.Module, Coupling]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1)
    )
    return model, prunus.trace(model, torch.zeros(2, 3, 8, 8))


def test_soft_costs_are_the_exact_ones_and_so_are_their_gradients() -> None:
    _, coupling = small()
    costs, soft = Costs.of(coupling), Soft.of(coupling, CPU)
    assert coupling.samples == 2
    for pair in ((8, 6), (3, 2), (1, 6)):
        exact = costs(np.array(pair, np.int64))
        widths = torch.tensor(pair, dtype=torch.float64, requires_grad=True)
        for kind in ("macs", "params", "channels"):
            cost = soft(widths, kind)
            assert float(cost.detach()) == exact[kind]
            (grad,) = torch.autograd.grad(cost, widths)
            for g in range(2):  # linear in each width: one channel more costs the derivative
                more = list(pair)
                more[g] += 1
                assert float(grad[g]) == costs(np.array(more, np.int64))[kind] - exact[kind]


def test_several_budgets_add_up_and_the_farthest_mixes() -> None:
    model, coupling = small()
    budget = Budget.of(model, coupling, Target(macs=0.5, params=0.9), "scaled", CPU)
    parts = [
        Budget.of(model, coupling, Target(macs=0.5), "scaled", CPU),
        Budget.of(model, coupling, Target(params=0.9), "scaled", CPU),
    ]
    widths = torch.tensor([8.0, 6.0])
    whole, c, t = budget.loss(widths, 1.0)
    alone = [part.loss(widths, 1.0) for part in parts]
    assert float(whole) == pytest.approx(sum(float(loss) for loss, _, _ in alone))
    assert abs(float(c) - t) / (1 - t) == pytest.approx(1.0)  # at full size r = 1 for every budget


def test_the_published_count_is_that_of_torchvisions_resnets() -> None:
    model, coupling = small()
    with pytest.raises(InputError, match="form='published' is the count of torchvision's ResNets"):
        main_path(model, coupling)
    with pytest.raises(InputError, match="form='published' knows a budget of macs alone, not params=50%"):
        Budget.of(model, coupling, Target(params=0.5), "published", CPU)
