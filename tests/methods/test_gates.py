"""Gates: the gated network and its gradients against activations that are multiplied, the budget, and what is left."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from engine.launch import ENVIRONMENT
from methods import gated
from methods.gated import EXAMPLE, Residual, batch, vectors
from torch import Tensor, nn

import prunus
from prunus.engine.config import Fit
from prunus.engine.loop import Checkpoints, fit
from prunus.errors import CheckpointError, InputError, TargetError
from prunus.methods import Gates
from prunus.methods.gating import Gating


def attached(model: nn.Module, target: str = "macs=60%", epochs: int | None = 3, **settings: Any) -> Gating:
    h = Gates(**settings).attach(model, EXAMPLE, target, epochs)
    assert isinstance(h, Gating)
    return h


def opened(h: Gating, seed: int = 0) -> Tensor:
    """Give the gates chance values around the threshold, and the model what they say. Some are off in every group."""
    w = torch.rand(h.w.numel(), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        h.w.copy_(w)
    h.after_step()
    assert all(0 < open_ < width for open_, width in zip(h.widths, h.coupling.widths, strict=True))
    return (w > 0.5).float()


@pytest.mark.parametrize("train", [False, True])
def test_the_gated_network_is_the_published_one_and_its_gates_learn_where_channels_are_read(train: bool) -> None:
    model = Residual().double()
    h = Gates(alpha_nuc=0).attach(model, EXAMPLE.double(), "macs=60%")
    assert isinstance(h, Gating)
    h.w.data = h.w.data.double()
    assert [(g.name, g.width) for g in h.coupling.groups] == [
        ("stem", 8),
        ("first.0", 6),
        ("first.1", 6),
        ("first.2", 6),
        ("second.2", 12),
    ]
    plain = copy.deepcopy(model).train(train)
    on = opened(h)
    x, y = batch(5, 1)
    model.train(train)
    out = model(x.double())
    F.cross_entropy(out, y).backward()
    for place in ("published", "reads"):
        gates = on.double().requires_grad_()
        plain.gates, plain.place = vectors(h, gates), place
        plain.zero_grad()
        explicit = plain(x.double())
        torch.testing.assert_close(out, explicit)
        F.cross_entropy(explicit, y).backward()
    # The last one: activations multiplied where they are read. The published product has the same values, and counts a
    # reader of the stream once for each block before it.
    assert h.w.grad is not None
    assert float(h.w.grad[on == 0].abs().max()) > 1e-4  # a gate that is off can come back
    torch.testing.assert_close(h.w.grad, gates.grad)
    for (name, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)


def test_gradients_of_gates_under_loss_scaling_and_accumulation() -> None:
    grads = []
    for factor, parts in ((1.0, 1), (65536.0, 2)):
        model = Residual().eval()
        h = attached(model, alpha_nuc=0.01)
        opened(h)
        x, y = batch(8, 2)
        for k, (a, b) in enumerate(zip(x.chunk(parts), y.chunk(parts), strict=True)):
            loss = F.cross_entropy(model(a), b) / parts
            (factor * (loss + (h.penalty() if k == parts - 1 else 0.0))).backward()
        assert h.w.grad is not None
        grads.append(h.w.grad / factor)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


def test_under_autocast_gates_learn_about_the_same() -> None:
    grads = []
    for low in (False, True):
        model = Residual().eval()
        h = attached(model)
        opened(h)
        x, y = batch(8, 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        assert h.w.grad is not None and h.w.grad.dtype == torch.float32
        grads.append(h.w.grad)
    assert float(F.cosine_similarity(*grads, dim=0)) > 0.99


def test_momentum_moves_what_is_behind_a_shut_gate_and_it_comes_back() -> None:
    model = Residual()
    h = attached(model, alpha_mac=0.0, alpha_nuc=0.0)
    weight = model.head.weight  # reads the last group
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    x, y = batch(8, 3)
    F.cross_entropy(model(x), y).backward()
    sgd.step()
    h.after_step()
    velocity = sgd.state[weight]["momentum_buffer"].clone()
    before = weight.detach().clone()
    with torch.no_grad():
        h.w[-12:-6] = 0.4
    h.after_step()
    assert (weight[:, :6] == 0).all() and torch.equal(weight[:, 6:], before[:, 6:])
    sgd.zero_grad()
    F.cross_entropy(model(x), y).backward()
    assert weight.grad is not None and (weight.grad[:, :6] == 0).all()
    sgd.step()
    h.after_step()
    with torch.no_grad():
        h.w.fill_(0.6)
    h.after_step()
    torch.testing.assert_close(weight[:, :6], before[:, :6] - 0.1 * 0.5 * velocity[:, :6])


def trained(h: Gating, model: nn.Module, sgd: torch.optim.Optimizer, steps: range, per_epoch: int = 10) -> None:
    for step in steps:
        if step % per_epoch == 0:
            h.epoch_start(step // per_epoch)
        x, y = batch(16, step)
        sgd.zero_grad()
        (F.cross_entropy(model(x), y) + h.penalty()).backward()
        sgd.step()
        h.after_step()


def optimizer(h: Gating, model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": list(model.parameters())}, *h.param_groups(lr=0.05)], lr=0.05, momentum=0.9)


@pytest.mark.parametrize(
    ("target", "slack"),
    [("macs=50%", 0.01), ("params=60%", 0.04), ("macs=60%,params=50%", 0.01)],  # 4 % is one channel of the stream
)
def test_a_training_reaches_its_budget_stays_there_and_is_cut_exactly(target: str, slack: float) -> None:
    model = Residual(wide=3)
    names = list(model.state_dict())
    h = attached(model, target, epochs=6, alpha_mac=0.2, lr_scale=0.2, refresh=5)
    assert h.freezes == 4 and not h.eligible()
    sgd = optimizer(h, model)
    trained(h, model, sgd, range(40))
    assert h.widths != h.coupling.widths and not h.frozen
    trained(h, model, sgd, range(40, 41))
    assert h.frozen and h.eligible()
    final, limits = h.widths, prunus.Target.parse(target).budgets
    room = [limits[kind] - left for kind, left in h.left().items()]  # type: ignore[operator]
    assert 0 <= min(room) <= slack
    trained(h, model, sgd, range(41, 60))
    assert h.widths == final
    x, _ = batch(8, 99)
    small = h.finish()
    assert small.proof is not None and small.proof.holds
    assert small.plan.widths == final
    small.model.eval()
    torch.testing.assert_close(small.model(x), model.eval()(x))  # the model that was trained is the gated one
    assert list(model.state_dict()) == names
    hooks = [*(m._forward_hooks for m in model.modules()), *(p._backward_hooks for p in model.parameters())]
    assert not any(hooks)
    again = prunus.prune(model, EXAMPLE, target, "gates")  # the gates travel in the weights
    assert again.plan.kept == small.plan.kept
    for other in (small.model, again.model):
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), small.model.parameters(), strict=True))


def test_a_training_resumes_to_the_same_gates_and_weights() -> None:
    def start() -> tuple[Residual, Gating, torch.optim.Optimizer]:
        model = Residual()
        h = attached(model, "macs=50%", epochs=3, alpha_mac=0.2, alpha_nuc=0.01, lr_scale=0.2, refresh=4, mix=1)
        return model, h, optimizer(h, model)

    whole, h, sgd = start()
    trained(h, whole, sgd, range(24))
    for at in (6, 22):  # in the middle of a refresh, and frozen
        first, one, its = start()
        trained(one, first, its, range(at))
        saved = copy.deepcopy((first.state_dict(), one.state_dict(), its.state_dict()))
        second, two, rest = start()
        second.load_state_dict(saved[0])
        rest.load_state_dict(saved[2])
        two.load_state_dict(saved[1])
        assert two.frozen == (at == 22)
        trained(two, second, rest, range(at, 24))
        assert torch.equal(two.w, h.w) and two.widths == h.widths
        for (name, value), other in zip(whole.state_dict().items(), second.state_dict().values(), strict=True):
            assert torch.equal(value, other), name
    other = Gates().attach(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), EXAMPLE, "macs=60%")
    with pytest.raises(CheckpointError, match="those of another network"):
        other.load_state_dict(saved[1])


def test_in_fit_with_an_average_best_epochs_and_checkpoints(tmp_path: Any) -> None:
    data = [batch(16, seed) for seed in range(6)]
    config = Fit(epochs=6, lr=0.05, ema=0.9, selection="best")
    settings: dict[str, Any] = {"alpha_mac": 0.2, "lr_scale": 0.2, "refresh": 3}

    def run(epochs_done: int | None, resume: bool) -> tuple[Residual, Gating, Any]:
        model = Residual()
        h = attached(model, "macs=50%", epochs=6, **settings)
        state = Checkpoints(tmp_path / ("two" if resume or epochs_done else "one"), resume=resume)

        class Stop(Exception):
            pass

        class Stopper:
            def epoch_start(self, e: int) -> None:
                if e == epochs_done:
                    raise Stop

        history = None
        try:
            history = fit(model, data, config, hooks=[h, Stopper()], validate=data, checkpoints=state, progress=False)
        except Stop:
            return model, h, None
        h.settle()
        return model, h, history

    model, h, history = run(None, False)
    assert history.best > 4  # counted from 1: none before the gates froze
    run(5, False)
    resumed, other, _ = run(None, True)
    assert h.chosen()[0].tolist() == other.chosen()[0].tolist()
    for (name, value), again in zip(model.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, again), name
    kept = prunus.prune(model, EXAMPLE, "macs=50%", "gates").plan.kept
    assert kept == h.finish().plan.kept == tuple(tuple(ids.tolist()) for ids in h.chosen())


def test_two_processes_train_the_gates_that_one_does(tmp_path: Any) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [sys.executable, *launch, gated.__file__, str(tmp_path / "two")]
    subprocess.run(words, env=ENVIRONMENT, check=True, timeout=180, capture_output=True)
    gated.main(str(tmp_path / "one"))
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    assert one["frozen"] and one["widths"] == two["widths"] != (8, 6, 6, 6, 12)
    torch.testing.assert_close(one["w"], two["w"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one["head"], two["head"], rtol=1e-4, atol=1e-5)


def test_compiled_it_is_the_same() -> None:
    found = []
    for compiled in (False, True):
        model = Residual()
        h = attached(model, "macs=50%", epochs=3, alpha_mac=0.2, lr_scale=0.5)
        net: Any = torch.compile(model, dynamic=False, backend="aot_eager") if compiled else model
        trained(h, net, optimizer(h, model), range(9), per_epoch=3)
        found.append((h.w.detach(), h.widths, model.head.weight.detach()))
    assert found[0][1] == found[1][1] != (8, 6, 6, 6, 12)
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0][2], found[1][2], rtol=1e-4, atol=1e-5)


def test_no_group_is_emptied_and_the_end_is_legal() -> None:
    model = Residual()
    h = attached(model, "macs=40%")
    with torch.no_grad():
        h.w.copy_(torch.linspace(0.1, 0.4, h.w.numel()))
    h.after_step()
    assert h.widths == (1, 1, 1, 1, 1)
    assert [int(part.nonzero()) for part in h.reads.open.split([8, 6, 6, 6, 12])] == [7, 5, 5, 5, 11]
    model = Residual()
    h = attached(model, "macs=40%,round=2,min=3,max_rate=60%")
    with torch.no_grad():
        h.w.copy_(torch.linspace(0.1, 0.4, h.w.numel()))
    h.after_step()
    assert h.widths == (4, 3, 3, 3, 5)  # 40 % of 8 and of 12, rounded up
    h.freeze()
    assert all(width % 2 == 0 and width >= 4 for width in h.widths)
    assert h.left()["macs"] <= 0.4
    with torch.no_grad():  # what was shut and is open again has its weights
        assert all(bool((p != 0).any()) for p in model.head.weight[:, h.reads.open[-12:]].unbind(1))


def test_of_equal_gates_the_first_stays_open() -> None:
    h = attached(Residual())
    with torch.no_grad():
        h.w.fill_(0.0)
    h.after_step()
    assert h.widths == (1, 1, 1, 1, 1)
    assert [int(part.nonzero()) for part in h.reads.open.split([8, 6, 6, 6, 12])] == [0] * 5


def test_exactly_the_open_channels_are_cut_where_the_budget_allows() -> None:
    model = Residual()
    h = attached(model, "channels=50%")
    with torch.no_grad():
        h.w.copy_(torch.tensor([0.9, 0.1] * 19))
    h.after_step()
    small = h.finish()
    assert small.plan.kept == tuple(tuple(range(0, width, 2)) for width in (8, 6, 6, 6, 12))
    wider = h.finish("channels=60%")  # 22 of 38: the three of the highest w come back, the first among equals last
    assert sum(wider.plan.widths) == 22 and not any("gates left" in note for note in (*small.notes, *wider.notes))
    assert all(set(a) <= set(b) for a, b in zip(small.plan.kept, wider.plan.kept, strict=True))


def test_gates_that_did_not_reach_their_budget_say_what_they_left() -> None:
    model = Residual()
    h = attached(model, "macs=50%", epochs=3)
    trained(h, model, optimizer(h, model), range(2))
    small = h.finish()
    (note,) = (note for note in small.notes if "gates left" in note)
    assert note.startswith("the open gates left 100.0 % of the macs when they became final; w chose the rest")
    other = attached(Residual(), "macs=50%", epochs=3)
    other.load_state_dict(h.state_dict())
    assert note in other.finish().notes


class Norms(nn.Module):
    """A stream with a layer norm, which counts channels, and keys that only a product reads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.up, self.norm, self.down = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.q, self.k = nn.Linear(3, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(self.norm(self.up(x)))
        return (self.q(y) @ self.k(y).mT) @ y


def test_a_norm_that_counts_is_named_and_products_are_gated_where_they_are_made() -> None:
    model, x = Norms(), torch.randn(2, 5, 3)
    h = Gates().attach(model, x, "channels=50%")
    assert isinstance(h, Gating)
    assert [(g.name, g.width) for g in h.coupling.groups] == [("up", 8), ("q", 6)]
    with torch.no_grad():
        h.w.copy_(torch.tensor([0.9] * 8 + [0.9, 0.1, 0.9, 0.1, 0.1, 0.1]))
    h.after_step()
    assert h.widths == (8, 2)
    assert (model.q.weight[[1, 3, 4, 5]] == 0).all() and (model.k.bias[[1, 3, 4, 5]] == 0).all()
    small = prunus.apply(Norms(), replace(plan_of(h), kept=(tuple(range(8)), (0, 2))))
    torch.testing.assert_close(model(x), small(x))
    with torch.no_grad():
        h.w[:4] = 0.1
    h.after_step()
    cut = h.finish("channels=43%")
    assert cut.proof is not None and cut.proof.holds and cut.plan.widths == (4, 2)
    assert "norm: counted the shut channels in training and does not after the cut; train on" in cut.notes


def plan_of(h: Gating) -> prunus.Plan:
    from prunus.plan import plan_for

    return plan_for(h.coupling, [range(g.width) for g in h.coupling.groups])


def test_of_a_model_without_gates_the_weights_that_read_decide() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[3.0, 1.0, 0.5, 2.0], [0.0, 1.0, 0.0, 2.0]]).view(2, 4, 1, 1))
    coupling = prunus.trace(model, EXAMPLE)
    (scores,) = Gates().score(model, coupling)
    assert scores.tolist() == [9.0, 2.0, 0.25, 8.0]
    assert prunus.prune(model, EXAMPLE, "channels=50%", "gates").plan.kept == ((0, 3),)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(TargetError, match="gates train towards a budget; attach them with target='macs=50%'"):
        Gates().attach(Residual(), EXAMPLE)
    with pytest.raises(TargetError, match="leave blocks= out of their target"):
        Gates().attach(Residual(), EXAMPLE, "macs=50%,blocks=-1")
    for target in ("macs=50%,blocks=-1", "blocks=-1", "macs=50%,blocks=auto"):
        with pytest.raises(TargetError, match="leave blocks= out of their target"):
            Gates().attach(Residual(), EXAMPLE, "macs=60%", 2).finish(target)
    for settings, text in (
        ({"mix": 3}, "gates: mix=3 is not 1, 2, or 0 for the plain sum"),
        ({"init": 0.5}, "gates: init=0.5 is not above 0.5"),
        ({"alpha_mac": -1.0}, "gates: alpha_mac=-1.0 must be at least 0"),
        ({"form": "true"}, "gates: form='true' is not scaled or published"),
        ({"refresh": 0}, "gates: refresh=0 is not a number of steps"),
    ):
        with pytest.raises(InputError, match=text):
            Gates(**settings)  # type: ignore[arg-type]
