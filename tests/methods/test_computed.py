"""Layers whose weight is computed from others: scored by what they compute with, and whole in trainings with masks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import prunus
from prunus.errors import ModelError
from prunus.methods import DCFF, FPGM, SSL, Gates, GroupFisher, HRank, Lamp, Magnitude, Slimming, Taylor, Weights
from prunus.methods.attach import Attached
from prunus.methods.score import Given, scores_of

Norm = Callable[[nn.Module], nn.Module]
EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])


def older(norm: Norm) -> Norm:
    def hooked(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and still in trained models
            return norm(module)

    return hooked


NORMS: dict[str, Norm] = {
    "weight norm": parametrizations.weight_norm,
    "weight norm by a hook": older(nn.utils.weight_norm),
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm by a hook": nn.utils.spectral_norm,
}
METHODS = [
    Magnitude(), Magnitude(scope="local"), Lamp(), Taylor(), GroupFisher(), HRank(), FPGM(), Slimming(), Gates(),
    DCFF(), SSL(), SSL(granularity="channel"),
]  # fmt: skip


def net(norm: Norm = lambda module: module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        norm(nn.Conv2d(1, 12, 3, padding=1)), nn.BatchNorm2d(12), nn.ReLU(),
        norm(nn.ConvTranspose2d(12, 16, 3)), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip


def plain_twin(model: nn.Sequential) -> nn.Sequential:
    """The same function without norms of weights."""
    twin = net()
    with torch.no_grad():
        for at in (0, 3, 8):
            twin[at].weight.copy_(model[at].weight)
            twin[at].bias.copy_(model[at].bias)
    return twin


@pytest.mark.parametrize("name", NORMS)
def test_the_same_function_has_the_same_scores(name: str) -> None:
    model = net(NORMS[name])
    model(EXAMPLE)
    twin, before = plain_twin(model), copy.deepcopy(model.state_dict())
    torch.testing.assert_close(model(EXAMPLE), twin(EXAMPLE))
    coupling, other = prunus.trace(model, EXAMPLE), prunus.trace(twin, EXAMPLE)
    given = Given([(EXAMPLE, LABELS)], example=EXAMPLE)
    for method in METHODS:
        found, want = (scores_of(method, m, c, 0, given) for m, c in ((model, coupling), (twin, other)))
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7, err_msg=f"{method}")
    model(EXAMPLE)  # as it was: the twin that is scored shares nothing with it
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("method", [FPGM(), DCFF(), Gates(), SSL(), Slimming()], ids=lambda m: type(m).__name__)
def test_masks_in_a_training_leave_such_layers_whole(name: str, method: FPGM) -> None:
    model = net(NORMS[name]).train()
    model[3] = nn.ConvTranspose2d(12, 16, 3)
    attached: Attached = method.attach(model, EXAMPLE, "macs=80%", 2)
    assert [group.name for group in attached.coupling.groups] == ["3"]
    assert any("weight or spectral norm" in pinned.reason for pinned in attached.coupling.pinned)
    optimizer = torch.optim.SGD([{"params": list(model.parameters())}, *attached.param_groups()], lr=0.01)
    for e in range(2):
        attached.epoch_start(e)
        optimizer.zero_grad()
        (model(EXAMPLE).square().mean() + attached.penalty()).backward()
        optimizer.step()
        attached.after_step()
    small = attached.finish()
    assert small.plan.widths[0] < 16 and small.proof is not None and bool(small.model(EXAMPLE).isfinite().all())

    with pytest.raises(ModelError, match="computed from others"):
        method.attach(net(NORMS[name])[:2], EXAMPLE, "macs=80%", 2)


@pytest.mark.parametrize("name", NORMS)
def test_their_weights_are_not_thinned(name: str) -> None:
    model = net(NORMS[name])
    small = prunus.prune(model, EXAMPLE, "weights=5%", Weights())
    assert small.masks.keys() == {"8.weight"} and int(small.masks["8.weight"].sum()) == 8
    assert "computed from other tensors, so none of their weights go: 0, 3" in small.notes
    assert bool(small.model(EXAMPLE).isfinite().all())
