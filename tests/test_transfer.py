"""State that follows the cut: training goes on as if the removed entries had never been there."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import prunus
from prunus.errors import InputError, PlanError
from prunus.models.shortcut import Shortcut, centred

EXAMPLE = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 3
SGD = lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True)  # noqa: E731
ADAM = lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True)  # noqa: E731


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, keep: Tensor | None = None) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(EXAMPLE), LABELS).backward()
        optimizer.step()


@pytest.mark.parametrize("make", [SGD, ADAM], ids=["sgd", "adamw"])
def test_state_of_the_kept_entries_is_that_of_before(make: Callable[..., torch.optim.Optimizer]) -> None:
    model = net()
    decay = [p for p in model.parameters() if p.dim() > 1]
    optimizer = make([{"params": decay}, {"params": [p for p in model.parameters() if p.dim() == 1], "lr": 0.5}])
    trained(model, optimizer, 3)
    before = {name: copy.deepcopy(optimizer.state[p]) for name, p in model.named_parameters()}
    small = prunus.prune(model, EXAMPLE, widths={"0": 4, "2": 5})
    prunus.transfer_(optimizer, small)
    kept = [list(ids) for ids in small.plan.kept]
    for name, value in small.model.named_parameters():
        for key, state in optimizer.state[value].items():
            wanted = before[name][key]
            if isinstance(state, Tensor) and state.dim():
                wanted = {
                    "0.weight": lambda t: t[kept[0]],
                    "0.bias": lambda t: t[kept[0]],
                    "2.weight": lambda t: t[kept[1]][:, kept[0]],
                    "2.bias": lambda t: t[kept[1]],
                    "4.weight": lambda t: t[:, kept[1]],
                    "4.bias": lambda t: t,
                }[name](wanted)
            assert torch.equal(torch.as_tensor(state), torch.as_tensor(wanted)), (name, key)
    assert [len(group["params"]) for group in optimizer.param_groups] == [3, 3]
    assert optimizer.param_groups[1]["lr"] == 0.5
    assert set(optimizer.state) == set(small.model.parameters())


@pytest.mark.parametrize("make", [SGD, ADAM], ids=["sgd", "adamw"])
def test_training_goes_on_as_with_the_dead_entries_still_there(make: Callable[..., torch.optim.Optimizer]) -> None:
    # Units that nothing reads get no gradient, and units that give nothing get none either.
    model = net()
    optimizer = make(list(model.parameters()))
    dead = [1, 4, 7]
    mask = torch.ones(10)
    mask[dead] = 0

    def hold() -> None:
        with torch.no_grad():
            model[0].weight.mul_(mask[:, None])
            model[0].bias.mul_(mask)
            model[2].weight.mul_(mask[None])

    hold()
    model[0].weight.register_hook(lambda g: g * mask[:, None])
    model[0].bias.register_hook(lambda g: g * mask)
    model[2].weight.register_hook(lambda g: g * mask[None])
    trained(model, optimizer, 3)
    small = prunus.prune(model, EXAMPLE, widths={"0": 7})
    assert small.plan.kept[0] == (0, 2, 3, 5, 6, 8, 9)
    other = copy.deepcopy(optimizer)
    prunus.transfer_(optimizer, small)
    trained(small.model, optimizer, 3)
    del other
    again = net()
    # The same six steps without a cut.
    mask_again = mask
    opt = make(list(again.parameters()))
    with torch.no_grad():
        again[0].weight.mul_(mask_again[:, None])
        again[0].bias.mul_(mask_again)
        again[2].weight.mul_(mask_again[None])
    again[0].weight.register_hook(lambda g: g * mask_again[:, None])
    again[0].bias.register_hook(lambda g: g * mask_again)
    again[2].weight.register_hook(lambda g: g * mask_again[None])
    trained(again, opt, 6)
    torch.testing.assert_close(small.model(EXAMPLE), again(EXAMPLE), rtol=1e-4, atol=1e-5)


def test_averaged_copies_follow() -> None:
    model = net()
    average = AveragedModel(model)
    table = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model[0].weight[:5] *= 3
    average.update_parameters(model)
    small = prunus.prune(model, EXAMPLE, widths={"0": 4})
    prunus.transfer_(average, small)
    prunus.transfer_(table, small)
    assert average.module[0].weight.shape == (4, 6) and average(EXAMPLE).shape == (8, 3)
    kept = list(small.plan.kept[0])
    assert torch.equal(table["2.weight"], net()[2].weight[:, kept])
    small.model.load_state_dict(table)


def test_what_goes_with_a_dropped_block_leaves_the_optimizer() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.two(self.one(x).relu())

    model = nn.Sequential(Block(), Block(), nn.Linear(6, 3))
    optimizer = SGD(model.parameters())
    trained(model, optimizer, 1)
    small = prunus.prune(model, EXAMPLE, drop=["0"])
    prunus.transfer_(optimizer, small)
    assert set(optimizer.param_groups[0]["params"]) == set(small.model.parameters())
    trained(small.model, optimizer, 1)


def test_others_in_the_optimizer_stay() -> None:
    model, other = net(), nn.Linear(2, 2)
    optimizer = SGD([*model.parameters(), *other.parameters()])
    small = prunus.prune(model, EXAMPLE, widths={"0": 4})
    prunus.transfer_(optimizer, small)
    assert [id(p) for p in optimizer.param_groups[0]["params"][-2:]] == [id(p) for p in other.parameters()]


def test_a_model_that_is_gone_must_be_passed() -> None:
    model = net()
    small = prunus.prune(model, EXAMPLE, widths={"0": 4})
    optimizer = SGD(nn.Linear(2, 2).parameters())
    with pytest.raises(InputError, match="holds no parameter"):
        prunus.transfer_(optimizer, small)
    del model
    gc.collect()
    with pytest.raises(InputError, match="is gone; pass it"):
        prunus.transfer_(optimizer, small)


def test_state_of_another_shape_is_refused_and_nothing_changes() -> None:
    model = net()
    optimizer = torch.optim.Adafactor(model.parameters())
    trained(model, optimizer, 1)
    small = prunus.prune(model, EXAMPLE, widths={"0": 4})
    with pytest.raises(InputError, match=r"row_var of shape .* for 0.weight"):
        prunus.transfer_(optimizer, small)
    assert optimizer.param_groups[0]["params"][0] is model[0].weight


@pytest.mark.parametrize("kept", [3, {"nothing": torch.ones(2)}, {"0.weight": torch.ones(2)}])
def test_what_does_not_belong_is_refused(kept: object) -> None:
    small = prunus.prune(net(), EXAMPLE, widths={"0": 4})
    with pytest.raises(InputError):
        prunus.transfer_(kept, small)  # type: ignore[arg-type]


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o, self.twin, self.f = nn.Linear(6, 10), nn.Linear(10, 6), nn.Linear(10, 6), nn.Linear(6, 3)
        self.twin.weight = self.o.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        return self.f(self.o(h) + self.twin(2 * h))


class Widened(nn.Module):
    """A shortcut that is an index of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 9, 1, 2), nn.Linear(9, 3)
        self.widen = Shortcut(centred(6, 9), 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((self.down(x) + self.widen(x)).relu().mean((2, 3)))


class Attention(nn.Module):
    """Two heads, whose queries are divided by the root of their width."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        heads = [layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)]
        return x + self.o(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("model", "example", "asked"),
    [
        (Tied, EXAMPLE, {"widths": {"i": 4, "o": 3}}),
        (Widened, torch.randn(1, 3, 4, 4), {"widths": {"stem": 4, "down": 7}}),
        (Attention, torch.randn(1, 5, 16), {"widths": {"q": 4, "v": 4}, "attention": "width"}),
    ],
)
def test_a_dict_of_the_dense_values_becomes_the_small_model(
    model: Callable[[], nn.Module], example: Tensor, asked: dict[str, object]
) -> None:
    torch.manual_seed(0)
    dense = model()
    small = prunus.prune(dense, example, **asked)  # type: ignore[arg-type]
    table = dense.state_dict()
    prunus.transfer_(table, small)
    want = small.model.state_dict()
    assert table.keys() == want.keys()
    assert [name for name in want if not torch.equal(table[name], want[name])] == []


def test_lbfgs_moves_the_small_model() -> None:
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1)
    small = prunus.prune(model, EXAMPLE, widths={"0": 4})
    prunus.transfer_(optimizer, small)
    before = small.model[4].bias.detach().clone()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(small.model(EXAMPLE), LABELS)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert not torch.equal(before, small.model[4].bias)


def test_a_wrapped_model_is_the_one_inside_and_another_is_refused() -> None:
    model = net()
    optimizer = SGD(model.parameters())
    small = prunus.prune(model, EXAMPLE, widths={"0": 4})
    with pytest.raises(PlanError, match="belongs to another model"):
        prunus.transfer_(optimizer, small, nn.Sequential(nn.Linear(6, 3)))
    prunus.transfer_(optimizer, small, nn.DataParallel(model))
    assert set(optimizer.param_groups[0]["params"]) == set(small.model.parameters())


def test_names_in_an_optimizer_follow() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.two(self.one(x).relu())

    model = nn.Sequential(Branch(), Branch(), nn.Linear(6, 3))
    optimizer = SGD(model.named_parameters())
    small = prunus.prune(model, EXAMPLE, drop=["0"])
    prunus.transfer_(optimizer, small)
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in small.model.named_parameters()]


def test_after_zeros_for_single_weights_too() -> None:
    model = net()
    optimizer = SGD(model.parameters())
    trained(model, optimizer, 1)
    before = optimizer.state[model[0].weight]["momentum_buffer"].clone()
    small = prunus.prune(model, EXAMPLE, "weights=50%", "weights")
    prunus.transfer_(optimizer, small)
    assert torch.equal(optimizer.state[small.model[0].weight]["momentum_buffer"], before)


def test_the_small_module_alone_does_not_say_how_it_was_cut() -> None:
    net = nn.Linear(2, 2)
    with pytest.raises(InputError, match="transfer_ needs what prune, finish or load returned, not Linear"):
        prunus.transfer_(torch.optim.SGD(net.parameters(), lr=0.1), net)  # type: ignore[arg-type]


def test_a_dict_keeps_buffers_that_no_state_dict_has() -> None:
    class Gained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)
            self.register_buffer("gain", torch.rand(16, 1, 1), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * self.gain)

    model, example = Gained(), torch.randn(2, 3, 8, 8)
    table = {name: t.clone() for name, t in [*model.named_parameters(), *model.named_buffers()]}
    small = prunus.prune(model, example, widths={"a": 9})
    prunus.transfer_(table, small)
    assert torch.equal(table["gain"], small.model.gain) and table["gain"].shape == (9, 1, 1)


@pytest.mark.parametrize("fits", [True, False])
def test_state_in_lists_is_cut_or_refused(fits: bool) -> None:
    model = net()
    optimizer = SGD(model.parameters())
    trained(model, optimizer, 1)
    weight = model[0].weight
    past = torch.randn_like(weight) if fits else torch.randn(3, 2)
    optimizer.state[weight]["past"] = [past, {"step": 1}]
    small = prunus.prune(model, EXAMPLE, "channels=60%")
    if not fits:
        with pytest.raises(InputError, match="keeps past of shape"):
            prunus.transfer_(optimizer, small)
        return
    prunus.transfer_(optimizer, small)
    (cut, rest) = optimizer.state[small.model[0].weight]["past"]
    assert torch.equal(cut, past[list(small.plan.kept[0])]) and rest == {"step": 1}
