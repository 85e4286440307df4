"""What research code does: caches, constants, writes into its own tensors, numbers that only look like widths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import conv, head, image, lively, net, pool

import prunus
from prunus.surgery.proof import eval_gap
from prunus.testing import check_model


def widths(coupling: prunus.Coupling) -> dict[str, int]:
    return {group.name: group.width for group in coupling.groups}


# numbers --------------------------------------------------------------------------------------------------------------
class Limited(nn.Module):
    """feature_size is a size of images, and by chance the number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_size, self.out_dim, self.made_of = 16, 16, 3
        self.a, self.c = conv(3, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        b, c, height, width = h.shape
        h = h.view(b, c, height * width).view(b, c, height, width)
        if height > self.feature_size:
            h = F.interpolate(h, size=self.feature_size)
        out: Tensor = self.c(h.square().mean((2, 3)))
        return out


def test_a_number_that_the_code_reads_is_no_width_because_it_equals_one() -> None:
    model = lively(Limited())
    small = prunus.prune(model, image(), "macs=60%")
    assert small.model.feature_size == 16
    assert eval_gap(model, small.model, small.plan, image(1, 3, 20, 20)) < 1e-12


def test_a_number_that_nothing_reads_tells_the_width_where_no_other_can_mean_it() -> None:
    model = lively(Limited())
    assert prunus.prune(model, image(), "macs=60%").model.out_dim == 16
    model.feature_size = 15
    small = prunus.prune(model, image(), "macs=60%")
    assert small.model.out_dim == small.plan.widths[0] < 16 and small.model.made_of == 3


# values ---------------------------------------------------------------------------------------------------------------
TABLES: dict[Any, Tensor] = {}


class Shared(nn.Module):
    """A table for each shape, kept by the Python module and by this one."""

    def __init__(self) -> None:
        super().__init__()
        self.own: dict[Any, Tensor] = {}
        self.a, self.b, self.c = conv(3, 16), conv(18, 6), head(6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if x.shape not in TABLES:
            line = torch.linspace(-1, 1, x.shape[3], device=x.device)
            TABLES[x.shape] = line.expand(x.shape[0], 1, x.shape[2], -1)
        if x.shape not in self.own:
            self.own[x.shape] = torch.linspace(0, 1, x.shape[3]).expand(x.shape[0], 1, x.shape[2], -1).to(h)
        out: Tensor = self.c(pool(self.b(torch.cat([h, TABLES[x.shape], self.own[x.shape]], 1)).relu()))
        return out


@pytest.mark.parametrize("verb", [prunus.cost, prunus.trace, check_model])
def test_caches_of_the_code_stay_what_the_model_makes_them(verb: Callable[[nn.Module, Tensor], Any]) -> None:
    TABLES.clear()
    model, x = lively(Shared()), image()
    verb(model, x)
    assert model.own == {} and not any(table.is_meta for table in TABLES.values())
    model(x)


def constant(make: Callable[[], Any], use: Callable[[Any], Tensor]) -> nn.Module:
    model = net(lambda s, x: s.c(pool(s.b(F.relu(s.a(F.conv2d(x, use(s.kernel), padding=1)))))), a=conv(4, 16),
                b=conv(16, 6), c=head(6))  # fmt: skip
    model.kernel = make()
    return model


CONSTANT = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("make", "use"),
    [
        (CONSTANT.clone, lambda k: k),
        (lambda: [CONSTANT.clone()], lambda k: k[0]),
        (lambda: {"k": CONSTANT.clone()}, lambda k: k["k"]),
        (lambda: None, lambda k: CONSTANT),
        (lambda: None, lambda k: torch.tensor(CONSTANT.tolist())),
    ],
    ids=["attribute", "list", "dictionary", "of the Python module", "made in the forward"],
)
def test_constants_in_the_dtype_of_the_model(make: Callable[[], Any], use: Callable[[Any], Tensor]) -> None:
    model = lively(constant(make, use))
    assert widths(prunus.trace(model, image())) == {"a": 16, "b": 6}
    check_model(model, image())


def test_an_embedding_with_a_largest_norm_is_left_as_it_was_and_keeps_its_width() -> None:
    model = nn.Sequential(nn.Embedding(9, 16, max_norm=1.0), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
    with torch.no_grad():
        model[0].weight.mul_(3)
    before, words = model[0].weight.detach().clone(), torch.randint(0, 9, (2, 5))
    coupling = prunus.trace(model, words)
    assert widths(coupling) == {"1": 12}
    assert "its rows are held to a largest norm" in {p.reason for p in coupling.pinned}
    small = prunus.prune(model, words, "macs=70%")
    assert small.proof is not None and torch.equal(model[0].weight, before)


def test_a_deviation_over_channels_leaves_two() -> None:
    model = net(
        lambda s, x: s.o((h := s.a(x)) / (h.std(-1, keepdim=True) + torch.var_mean(h, -1, keepdim=True)[0])),
        a=nn.Linear(8, 16), o=nn.Linear(16, 4),
    )  # fmt: skip
    x = torch.randn(4, 8)
    assert [group.floor for group in prunus.trace(model, x).groups] == [2]
    assert bool(prunus.prune(model, x, "channels=2").model(x).isfinite().all())
    biased = net(lambda s, x: s.o(s.a(x) + s.a(x).std(-1, keepdim=True, correction=0)), a=nn.Linear(8, 16), o=head(16))
    assert [group.floor for group in prunus.trace(biased, x).groups] == [1]


def wrote(part: Any) -> Callable[[nn.Module, Tensor], Tensor]:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        h = s.a(x)
        h[part(h) if callable(part) else part] = 0.5
        return s.c(pool(F.relu(s.b(h))))  # type: ignore[no-any-return]

    return forward


@pytest.mark.parametrize(
    ("part", "free"),
    [
        ((slice(None), slice(0, 4)), {"b"}),
        ((slice(None), 2), {"b"}),
        ((slice(None), torch.tensor([0, 3])), {"b"}),
        ((slice(None), slice(None), slice(2, None)), {"a", "b"}),
        (torch.tensor([0]), {"a", "b"}),
        (lambda h: h < 0, {"a", "b"}),
    ],
    ids=["some channels", "a channel", "listed channels", "rows", "samples", "negative entries"],
)
def test_a_number_written_to_a_part(part: Any, free: set[str]) -> None:
    model = lively(net(wrote(part), a=conv(3, 16), b=conv(16, 8), c=head(8)))
    x = torch.cat([image(), image()])
    assert widths(prunus.trace(model, x)).keys() == free
    check_model(model, x)


# blame ----------------------------------------------------------------------------------------------------------------
def test_what_an_unknown_op_read_is_pinned_and_not_what_reads_its_result() -> None:
    model = net(
        lambda s, x: s.c(pool(F.relu(s.d(F.relu(s.b(torch.vmap(torch.sigmoid)(s.a(x)))))))),
        a=conv(3, 16), b=conv(16, 24), d=conv(24, 20), c=head(20),
    )  # fmt: skip
    assert widths(prunus.trace(lively(model), image())) == {"b": 24, "d": 20}


@dataclass
class Answer:
    scores: Tensor


def test_a_contract_of_a_model_that_returns_a_dataclass() -> None:
    check_model(net(lambda s, x: Answer(s.c(pool(F.relu(s.a(x))))), a=conv(3, 16), c=head(16)), image())


def test_the_note_of_a_budget_is_counted_on_the_cut_network() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        q, k, v = s.q(x), s.k(x), s.v(x)
        return s.o(torch.einsum("bnd,bnd,bne->be", q, k, v))  # type: ignore[no-any-return]

    model = net(forward, q=nn.Linear(4, 24), k=nn.Linear(4, 24), v=nn.Linear(4, 24), o=nn.Linear(24, 3))
    small = prunus.prune(model, torch.randn(2, 9, 4), "macs=50%")
    share = 100 * small.after.macs / small.before.macs
    assert [note for note in small.notes if note.startswith(f"macs: {share:.2f} % got, 50.00 % asked; since")]


# hooks ----------------------------------------------------------------------------------------------------------------
class Hooked(nn.Module):
    """Reads again what a hook kept, of a function that closes over the model or over what is the model's."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}
        self.a, self.b, self.c = conv(3, 16), conv(16, 16), head(16)
        store = self.kept

        def closing(_: nn.Module, __: Any, out: Tensor) -> None:
            store["a"] = out

        def given(_: nn.Module, __: Any, out: Tensor, where: dict[str, Tensor] = self.kept) -> None:
            where["a"] = out

        def named(_: nn.Module, __: Any, out: Tensor, *, where: Any = self) -> None:
            where.kept["a"] = out

        hooks: dict[str, Any] = {"closure": closing, "default": given, "keyword": named, "method": self.keep}
        hooks["model"] = lambda _, __, out: self.kept.__setitem__("a", out)
        self.a.register_forward_hook(hooks[how])

    def keep(self, _: nn.Module, __: Any, out: Tensor) -> None:
        self.kept["a"] = out

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.a(x).relu())
        out: Tensor = self.c(pool((h + self.kept["a"]).relu()))
        return out


@pytest.mark.parametrize("how", ["closure", "default", "keyword", "method", "model"])
def test_hooks_of_a_copy_mean_the_copy(how: str) -> None:
    model = lively(Hooked(how))
    small = prunus.prune(model, image(), "macs=60%")
    assert not model.kept and small.model.a.out_channels < 16
    assert small.model(image()).shape == (1, 5) and not model.kept
    assert small.model.kept["a"].shape[1] == small.model.a.out_channels
    assert eval_gap(model, small.model, small.plan, image()) < 1e-12


def test_a_forward_that_was_put_into_a_model_means_the_copy() -> None:
    model: Any = lively(nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 16), head(16)))
    layers, last = list(model)[:3], model[3]

    def forward(x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x)
        out: Tensor = last(pool(x))
        return out

    model.forward = forward
    small = prunus.prune(model, image(), "macs=60%")
    assert small.model[0].out_channels < 16 and model(image()).isfinite().all()
    assert eval_gap(model, small.model, small.plan, image()) < 1e-12


# tables for eval mode -------------------------------------------------------------------------------------------------
class Tabled(nn.Module):
    """Keeps in eval mode what it computes of a weight, until it is trained again."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.table = nn.Parameter(torch.randn(16)), dict[str, Tensor]()
        self.a, self.c = conv(3, 16), head(16)

    def train(self, mode: bool = True) -> nn.Module:
        if mode:
            self.table = {}
            self.c.bias.requires_grad_(False)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias.exp() if self.training else self.table.get("bias")
        if bias is None:
            bias = self.table["bias"] = self.bias.exp()
        out: Tensor = self.c(pool((self.a(x) + bias[:, None, None]).relu()))
        return out


def test_a_table_of_before_the_cut_is_none_of_the_cut_network() -> None:
    model = lively(Tabled()).eval()
    plan = prunus.prune(model, image(), "macs=60%").plan
    with torch.no_grad():
        model(image())
    was = model.table["bias"]
    small = prunus.apply(model, plan)
    assert model.table["bias"] is was and not small.training
    assert small.c.bias.requires_grad and model.c.bias.requires_grad
    assert small(image()).isfinite().all() and small.table["bias"].shape[0] < 16
