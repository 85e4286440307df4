"""Fused filters: the score against a direct evaluation, the training against the mathematics written out, the cut."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine.launch import ENVIRONMENT
from methods import fused
from methods.gated import EXAMPLE, Residual, batch
from torch import Tensor, nn

import prunus
from prunus.errors import CheckpointError, InputError, TargetError
from prunus.methods import DCFF
from prunus.methods.dcff import kl_scores, similarities
from prunus.methods.fusing import Fusing, ranks


def direct(w: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """P and the scores as the formulas have them, with an n³ tensor."""
    w = w.double().flatten(1)
    d = (w[:, None] - w[None]).square().sum(dim=2).sqrt()
    p = torch.exp(-d / t) / torch.exp(-d / t).sum(dim=1, keepdim=True)
    terms = p[:, None, :] * (p[:, None, :] / (p[None] + 1e-7)).log()  # [j, k, i]
    return p, terms.sum(dim=(1, 2))


@pytest.mark.parametrize("t", [1.0, 0.3])
@pytest.mark.parametrize("n", [7, 40])
def test_the_score_is_the_direct_one(n: int, t: float) -> None:
    w = torch.randn(n, 3, 3, 3, generator=torch.Generator().manual_seed(n))
    p, want = direct(w, t)
    found = similarities(w.flatten(1), t)
    torch.testing.assert_close(found, p, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(kl_scores(found), want, rtol=1e-11, atol=1e-11)


def test_two_filters_by_hand() -> None:
    """D = 5 at t = 5: P = (1, e⁻¹)/(1 + e⁻¹) and its mirror; KL = Σ P log P/P' = (1 − e⁻¹)/(1 + e⁻¹)."""
    found = kl_scores(similarities(torch.tensor([[0.0, 3.0], [4.0, 0.0]]), 5.0))
    assert found.tolist() == pytest.approx([0.4621171573] * 2, rel=2e-6)


def test_a_cold_layer_has_finite_scores_and_a_large_one_no_cube() -> None:
    rows = torch.randn(2048, 9, generator=torch.Generator().manual_seed(0))  # n³ would take 69 GB
    assert bool(torch.isfinite(kl_scores(similarities(rows, 1e-4))).all())


def test_equal_scores_leave_the_choice_as_it_was() -> None:
    score = np.array([2.0, 1.0, 2.0 + 1e-10, 3.0, 1.0])
    assert ranks(score, np.array([0, 4])).tolist() == [3.0, 0.0, 2.0, 4.0, 1.0]


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.na = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.nb = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)
        for norm in (self.na, self.nb):
            nn.init.uniform_(norm.bias, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.nb(self.b(F.relu(self.na(self.a(x))))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def attached(model: nn.Module, epochs: int = 4, method: DCFF | None = None, **given: Any) -> Fusing:
    given = given or {"rates": "[0.5]*2"}
    h = (method or DCFF()).attach(model, EXAMPLE.to(next(model.parameters()).dtype), epochs=epochs, **given)
    assert isinstance(h, Fusing)
    return h


def step(model: nn.Module, optimizer: torch.optim.Optimizer, n: int, *, closure: bool = False) -> None:
    x, y = batch(8, n)

    def backward() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x.to(next(model.parameters()).dtype)), y)
        loss.backward()
        return float(loss.detach())

    if closure:
        optimizer.step(backward)
        return
    backward()
    optimizer.step()


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_it_trains_the_originals_of_a_compact_network(holds: bool, kind: type[torch.optim.Optimizer]) -> None:
    """Against a compact network that is written out: autograd through P[kept]·W to all n filters, their weight decay
    and the optimizer's state. Without `hold` there is no decay here, and Adam's ε hides no difference."""
    decay = {"weight_decay": 0.01 if holds else 0.0}
    more: dict[str, Any] = decay | ({"momentum": 0.9} if kind is torch.optim.SGD else {"eps": 1e-4})
    model = Chain().double().train()
    own = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    h = attached(model)
    ours = kind(model.parameters(), lr=0.05, **more)
    if holds:
        h.hold(ours)
    h.epoch_start(0)
    assert h.kept is not None
    ka, kb = (torch.from_numpy(ids) for ids in h.kept)
    pa, want = direct(own["a.weight"].detach(), 1.0)
    assert ka.tolist() == sorted(torch.topk(want, 4).indices.tolist())
    pb, want = direct(own["b.weight"].detach()[:, ka], 1.0)  # over the inputs that are kept
    assert kb.tolist() == sorted(torch.topk(want, 3).indices.tolist())

    def compact(x: Tensor) -> Tensor:
        wb = torch.einsum("mn,nchw->mchw", pb[kb], own["b.weight"])[:, ka]
        x = F.conv2d(x, torch.einsum("mn,nchw->mchw", pa[ka], own["a.weight"]), pa[ka] @ own["a.bias"], padding=1)
        x = F.relu(F.batch_norm(x, None, None, own["na.weight"][ka], own["na.bias"][ka], True))
        x = F.conv2d(x, wb, pb[kb] @ own["b.bias"], padding=1)
        x = F.relu(F.batch_norm(x, None, None, own["nb.weight"][kb], own["nb.bias"][kb], True))
        return x.mean((2, 3)) @ own["head.weight"][:, kb].T + own["head.bias"]

    theirs = kind(own.values(), lr=0.05, **more)
    before = {name: site.behind.clone() for name, site in h.sites.items()}
    for n in range(3):
        step(model, ours, n)
        h.after_step()
        theirs.zero_grad()
        x, y = batch(8, n)
        F.cross_entropy(compact(x.double()), y).backward()
        theirs.step()
    assert set(h.sites) == {"a.weight", "a.bias", "b.weight", "b.bias", "head.weight"}
    for name, site in h.sites.items():
        torch.testing.assert_close(site.behind, own[name].detach(), rtol=1e-8, atol=1e-10)
    moved = (h.sites["a.weight"].behind - before["a.weight"]).flatten(1).abs().amax(dim=1)
    assert bool((moved > 1e-5).all())  # the gradient reaches removed filters
    torch.testing.assert_close(model(x.double()), compact(x.double()), rtol=1e-8, atol=1e-10)


def trained(model: nn.Module, h: Fusing, epochs: range, *, closure: bool = False, seed: int = 0) -> None:
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    h.hold(sgd)
    model.train()
    for e in epochs:
        h.epoch_start(e)
        for n in range(2):
            step(model, sgd, 2 * e + n + seed, closure=closure)
            h.after_step()


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("target", ["macs=50%", "channels=40%"])
def test_fused_is_compact(train: bool, target: str) -> None:
    """On residual streams and a shortcut map; outputs, and running statistics in train mode."""
    model = Residual()
    h = attached(model, target=target)
    trained(model, h, range(3))
    assert len({len(ids) for ids in (h.kept or ())}) > 1
    dense = copy.deepcopy(model).train(train)
    small = h.finish()
    assert small.proof is not None and small.proof.holds and small.plan.widths == tuple(h.widths)
    twin = copy.deepcopy(small.model).train(train)
    x, _ = batch(16, 9)
    torch.testing.assert_close(twin(x), dense(x), rtol=1e-6, atol=1e-6)
    assert [tuple(k) for k in small.plan.kept] == [tuple(k.tolist()) for k in h.kept or ()]
    kept = small.plan.masks()[("norms.2.weight", 0)]
    wide, narrow = (net.norms[2].running_mean for net in (dense, twin))  # type: ignore[union-attr,index]
    torch.testing.assert_close(wide[torch.from_numpy(kept)], narrow, rtol=1e-6, atol=1e-6)
    for source in (model, small.model):  # nothing is left behind
        assert not any(p._backward_hooks for p in source.parameters())


class Odd(nn.Module):
    """Two rows a channel (a gate), rows on axis 1 (transposed), a depthwise kernel, a flatten, a hidden linear layer,
    and halves of one layer that two layers read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up = nn.Conv2d(3, 16, 3, padding=1), nn.ConvTranspose2d(8, 6, 2)
        self.deep, self.hidden = nn.Conv2d(6, 6, 3, groups=6), nn.Linear(6 * 49, 10)
        self.both, self.left, self.right = nn.Linear(10, 12), nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.gate(x).chunk(2, dim=1)
        x = self.deep(F.silu(self.up(a * b.sigmoid())))
        x = self.both(F.silu(self.hidden(F.silu(x).flatten(1))))
        a, b = F.silu(x).chunk(2, dim=1)
        return self.left(a) + self.right(b)  # type: ignore[no-any-return]


def test_layers_of_every_kind_are_fused_exactly_and_learn() -> None:
    model = Odd().double()
    h = attached(model, target="channels=60%")
    assert {g.name: g.width for g in h.coupling.groups} == {"gate": 8, "up": 6, "hidden": 10, "both": 6}
    x, y = batch(8, 0)
    h.epoch_start(0)
    own = {name: site.behind.clone().requires_grad_() for name, site in h.sites.items()}
    F.cross_entropy(model(x.double()), y).backward()
    # The same gradient, by autograd through the fusion itself.
    for name, site in h.sites.items():
        site.behind = own[name]
    F.cross_entropy(
        torch.func.functional_call(model, {n: s.fused() for n, s in h.sites.items()}, x.double()), y
    ).backward()
    for name, parameter in model.named_parameters():
        if name in own:
            torch.testing.assert_close(parameter.grad, own[name].grad, rtol=1e-9, atol=1e-12)
    assert {"gate.bias", "up.weight", "up.bias", "deep.weight", "hidden.weight", "both.weight"} <= own.keys()
    rows = {"gate": (0, 16), "up": (1, 6), "deep": (0, 6), "hidden": (0, 10), "both": (0, 12)}
    for layer, (axis, n) in rows.items():  # every original has a gradient, removed or not
        grad = own[f"{layer}.weight"].grad
        assert grad is not None and int((grad.movedim(axis, 0).flatten(1).abs().amax(dim=1) > 0).sum()) == n
    small = h.finish()
    assert small.proof is not None and small.proof.holds
    torch.testing.assert_close(small.model(x.double()), model(x.double()), rtol=1e-10, atol=1e-12)


def test_producers_of_a_stream_keep_the_same_channels_by_the_sum_of_their_scores() -> None:
    model = Residual()
    h = attached(model, target="channels=50%")
    h.epoch_start(0)
    (stream,) = [g for g, group in enumerate(h.coupling.groups) if len(group.producers()) > 1]
    assert h.kept is not None
    weights = [h.sites[name].behind for name in h.coupling.groups[stream].producers()]
    assert len(weights) == 3
    want = torch.stack([direct(w, 1.0)[1] for w in weights]).sum(dim=0)  # inner channels are chosen later
    assert h.kept[stream].tolist() == sorted(torch.topk(want, len(h.kept[stream])).indices.tolist())
    gone = np.setdiff1d(np.arange(8), h.kept[stream])
    for conv in (model.stem, model.second[0], model.second[1]):
        assert bool((conv.weight[gone] == 0).all()) and bool((conv.weight[h.kept[stream]] != 0).any())


def test_widths_by_rates_and_by_keep_rule() -> None:
    model = nn.Sequential(nn.Conv2d(3, 320, 1), nn.ReLU(), nn.Conv2d(320, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    for rule, want in (("float-truncate", 31), ("exact", 32)):
        h = attached(model, rates="[0.9]+[0.0]", keep_rule=rule)
        assert h.widths == [want, 8]
        h.epoch_start(0)
        assert [len(ids) for ids in h.kept or ()] == [want, 8]
    assert attached(Chain(), rates={"b": 0.5}).widths == [8, 3]
    assert h.finish().after.macs == 64 * (3 * 32 + 32 * 8 + 8 * 2)


@pytest.mark.parametrize(
    ("given", "error", "why"),
    [
        ({}, TargetError, "fixed widths"),
        ({"rates": "[0.5]*2", "target": "macs=50%"}, TargetError, "fixed widths"),
        ({"rates": "[0.5]*3"}, TargetError, r"3 rates for a net with 2 groups \(0: a, 1: b\)"),
        ({"rates": "[0.5]*2", "epochs": None}, InputError, "attach it with epochs="),
        ({"target": "macs=50%,blocks=-1"}, TargetError, "drops no blocks"),
    ],
)
def test_what_attach_refuses(given: dict[str, Any], error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        DCFF().attach(Chain(), EXAMPLE, **{"epochs": 3, **given})


def test_settings() -> None:
    with pytest.raises(InputError, match="unknown name 'e'"):
        DCFF(temperature="1 - e")
    with pytest.raises(InputError, match="te=0"):
        DCFF(te=0)
    with pytest.raises(InputError, match="is 0 in epoch 3 of 4"):
        attached(Chain(), method=DCFF(temperature="1 - epoch / (epochs - 1)"))
    h = attached(Chain(), 300, DCFF(temperature="logistic"))
    assert h.method.at(0, 300) == 1.0 and h.method.at(299, 300) == pytest.approx(1e-4)


def test_scores_that_are_not_finite_keep_what_was_chosen() -> None:
    model = Chain()
    h = attached(model)
    trained(model, h, range(1))
    kept, p = h.kept, h.places.made()[0][1].p
    h.sites["a.weight"].behind[0, 0, 0, 0] = float("nan")
    h.epoch_start(1)
    assert kept is not None and h.kept is not None and h.kept[0].tolist() == kept[0].tolist()
    assert h.places.made()[0][1].p is p and h.epoch == 1


def test_a_closure_runs_on_the_fused_network() -> None:
    found = []
    for closure in (False, True):
        model = Chain()
        h = attached(model)
        trained(model, h, range(3), closure=closure)
        found.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(f.values() for f in found), strict=True))


def test_it_trains_under_a_loss_scale_and_compiled() -> None:
    """A scale that skips its first step, for which the weights stay fused; and the same steps through Dynamo."""
    model = Chain()
    h = attached(model)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    h.hold(sgd)
    h.epoch_start(0)
    before = copy.deepcopy(model.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    x, y = batch(8, 0)
    scaler.scale(F.cross_entropy(model.eval()(x), y) * 1e6).backward()
    scaler.step(sgd)
    scaler.update()
    h.after_step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    found = []
    for compiled in (False, True):
        net: Any = Chain()
        h = attached(net)
        trained(torch.compile(net, backend="aot_eager", dynamic=False) if compiled else net, h, range(2))
        found.append(h.sites["a.weight"].behind)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_a_training_goes_on_to_identical_weights() -> None:
    whole, half = Chain(), Chain()
    h = attached(whole)
    trained(whole, h, range(2))
    saved = copy.deepcopy((whole.state_dict(), h.state_dict()))
    trained(whole, h, range(2, 4))
    g = attached(half)
    half.load_state_dict(saved[0])
    g.load_state_dict(saved[1])
    assert all(torch.equal(a, b) for a, b in zip(half.state_dict().values(), saved[0].values(), strict=True))
    trained(half, g, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(half.parameters(), whole.parameters(), strict=True))
    assert all(torch.equal(g.sites[name].behind, site.behind) for name, site in h.sites.items())
    with pytest.raises(CheckpointError, match="of other widths"):
        attached(Chain(), rates="[0.25]*2").load_state_dict(saved[1])


def test_what_is_left_may_be_of_another_epoch_or_an_average() -> None:
    model = Chain()
    h = attached(model)
    trained(model, h, range(1))
    first, best = h.kept, copy.deepcopy(model.state_dict())
    with torch.no_grad():
        h.sites["a.weight"].behind[torch.from_numpy(first[0])] = 0.5  # type: ignore[index]
    trained(model, h, range(1, 2))
    assert first is not None and h.kept is not None and h.kept[0].tolist() != first[0].tolist()
    last = h.kept
    mean = {k: (v + best[k]) / 2 for k, v in model.state_dict().items()}
    model.load_state_dict(mean)
    h.settle()
    assert h.kept[0].tolist() == last[0].tolist()
    assert {c for c in range(8) if model.a.weight[c].abs().sum() > 0} == set(last[0].tolist())
    model.load_state_dict(best)
    small = h.finish()
    assert [list(k) for k in small.plan.kept] == [k.tolist() for k in first]
    x, _ = batch(4, 3)
    torch.testing.assert_close(small.model.eval()(x), model.eval()(x), rtol=1e-6, atol=1e-6)


def test_a_later_cut_finds_what_was_kept() -> None:
    """As `prunus prune --method dcff` does with the network that `prunus train` left."""
    model = Chain()
    h = attached(model)
    trained(model, h, range(2))
    h.settle()
    for given in ({"rates": "[0.5]*2"}, {"widths": {"a": 4, "b": 3}}):
        small = prunus.prune(model, EXAMPLE, method="dcff", **given)
        assert [list(k) for k in small.plan.kept] == [k.tolist() for k in h.kept or ()]
        x, _ = batch(4, 3)
        torch.testing.assert_close(small.model.eval()(x), model.eval()(x), rtol=1e-6, atol=1e-6)
    narrower = prunus.prune(model, EXAMPLE, method="dcff", rates="[0.75]*2")
    assert set(narrower.plan.kept[0]) < set((h.kept or ())[0].tolist())


def test_a_training_that_was_finished_is_over() -> None:
    model = Chain()
    h = attached(model)
    trained(model, h, range(1))
    h.finish()
    for call in (lambda: h.epoch_start(1), h.after_step):
        with pytest.raises(InputError, match=r"finish\(\) and settle\(\) end its training"):
            call()
    with pytest.raises(TargetError, match="more filters than dcff was trained with"):
        h.finish("channels=90%")
    assert h.finish("channels=40%").plan.widths < tuple(h.widths)


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [sys.executable, *launch, fused.__file__, str(tmp_path / "two")]
    subprocess.run(words, env=ENVIRONMENT, check=True, timeout=180, capture_output=True)
    fused.main(str(tmp_path / "one"))
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    assert one["kept"] == two["kept"]
    for name, value in one["behind"].items():
        torch.testing.assert_close(two["behind"][name], value, rtol=1e-4, atol=1e-6)
