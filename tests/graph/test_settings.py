"""Widths that modules read from an object of settings: it follows, for the module that reads it and no other."""

from __future__ import annotations

import runpy
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import lively

import prunus
from prunus.configs import attributes, changed, entries, is_config
from prunus.exporting.given import Given
from prunus.exporting.origin import origin
from prunus.exporting.pyfile import write_python
from prunus.graph.told import Told, telling
from prunus.plan import Plan
from prunus.surgery import apply

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Config:
    n_head: int = 4
    n_embd: int = 32
    name: str = "small"
    hidden: tuple[int, int] = (64, 48)
    unread: int = 4


class OwnConfig:
    """Refuses what is set after it was made."""

    def __init__(self) -> None:
        vars(self).update(vars(Config()))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class Attention(nn.Module):
    """Heads and the stream's width are read from the settings, which all modules share."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        c, b, n = self.config, x.shape[0], x.shape[1]
        q, k, v = (t.view(b, n, c.n_head, c.n_embd // c.n_head).transpose(1, 2) for t in self.qkv(x).split(c.n_embd, 2))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, c.n_embd))  # type: ignore[no-any-return]


class Words(Attention):
    """The same with a dictionary."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, heads = x.shape[0], x.shape[1], self.config["n_head"]
        q, k, v = (t.view(b, n, heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, 2))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Former(nn.Module):
    def __init__(self, kind: type[Attention], config: Any) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.attentions = nn.ModuleList(kind(config) for _ in range(2))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for attention in self.attentions:
            x = x + attention(x)
        return self.head(x.mean(1))  # type: ignore[no-any-return]


def former() -> Former:
    torch.manual_seed(0)
    return Former(Attention, Config()).eval()


MADE = {
    "frozen dataclass": (Attention, Config()),
    "namespace": (Attention, SimpleNamespace(**vars(Config()))),
    "arguments": (Attention, Namespace(**vars(Config()))),
    "a class of its own": (Attention, OwnConfig()),
    "dictionary": (Words, dict(vars(Config()))),
}


@pytest.mark.parametrize("made", MADE)
def test_whole_heads_go_and_the_settings_of_each_attention_follow(made: str) -> None:
    kind, config = MADE[made]
    model = lively(Former(kind, config)).eval()
    before = dict(entries(config))
    coupling = prunus.trace(model, X)
    widths = {g.name: g.width for g in coupling.groups}
    assert widths == {"patches": 32, "attentions.0.qkv": 4, "attentions.1.qkv": 4}
    assert entries(config) == before and all(type(n) is int for n in entries(config).values() if isinstance(n, int))
    assert model.config is config and all(a.config is config for a in model.attentions)

    small = prunus.prune(
        model, X, rates={"patches": 0.0, "attentions.0.qkv": 0.25, "attentions.1.qkv": 0.75}, method="random"
    )
    assert small.proof is not None and small.proof.worst < 1e-12
    found = [entries(a.config) for a in small.model.attentions]
    assert [c["n_head"] for c in found] == [3, 1]
    assert [a.proj.weight.shape[1] for a in small.model.attentions] == [24, 8]
    if kind is Attention:
        assert [c["n_embd"] for c in found] == [24, 8]
    assert all(c["unread"] == 4 and c["name"] == "small" and c["hidden"] == (64, 48) for c in found)
    assert entries(small.model.config) == before == entries(config)  # that of the whole network stays
    assert type(small.model.attentions[0].config) is type(config)

    plan = Plan.from_json(small.plan.to_json())
    assert [entries(a.config)["n_head"] for a in apply(model, plan).attentions] == [3, 1]


class Reads(nn.Module):
    """An entry of a tuple in the settings."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.cfg, self.a, self.b = config, nn.Linear(16, 64), nn.Linear(16, 48)
        self.out = nn.Linear(112, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], -1)
        one, two = y.split(list(self.cfg.hidden), -1)
        return self.out(torch.cat([one.relu(), two.tanh()], -1))  # type: ignore[no-any-return]


def test_an_entry_of_a_tuple_in_the_settings_follows() -> None:
    model = lively(Reads(Config()))
    small = prunus.prune(model, torch.randn(3, 16), rates={"a": 0.5, "b": 0.25}, method="random").model
    assert small.cfg.hidden == (32, 36) and model.cfg.hidden == (64, 48)


def test_a_file_of_python_gives_each_module_settings_of_its_own(tmp_path: Path) -> None:
    model = former()
    rates = {"patches": 0.0, "attentions.0.qkv": 0.25, "attentions.1.qkv": 0.75}
    small = prunus.prune(model, X, rates=rates, method="random").model.eval()
    write_python(Given.of(small, X), tmp_path / "net.py", origin(former, small))
    again = runpy.run_path(str(tmp_path / "net.py"))["load"]()
    assert torch.equal(again(X), small(X))
    assert [a.config.n_head for a in again.attentions] == [3, 1] and again.config.n_head == 4


class Odd(dict[str, int]):
    pass


class StrictConfig:
    def __new__(cls, a: int) -> StrictConfig:
        return super().__new__(cls)


def test_what_counts_as_settings() -> None:
    assert is_config("anything", Config()) and is_config("c", SimpleNamespace(a=1))
    assert is_config("cfg", {"a": 1}) and is_config("model_args", OwnConfig()) and is_config("c", OwnConfig())
    for name, value in (
        ("cache", {"a": 1}),
        ("config", {1: 2}),
        ("config", Odd(a=1)),
        ("config", nn.Linear(1, 1)),
        ("config", Config),
        ("config", 3),
        ("config", StrictConfig(3)),
        ("_config", Config()),
        ("contents", object()),
    ):
        assert not is_config(name, value), (name, value)
    assert changed({"a": 1, "b": 2}, {"a": 3}) == {"a": 3, "b": 2}


class Nest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config, self.width = Config(), 5

    def forward(self, x: Tensor) -> Tensor:
        assert type(self.config.n_head) is Told and self.config.n_head.name == "config.n_head"
        assert self.config.hidden[1].place == 1  # type: ignore[attr-defined]
        assert isinstance(self.config, Config) and self.config == Config()
        return x


def test_settings_are_the_users_own_object_afterwards() -> None:
    model = Nest()
    mine = model.config
    with telling(model):
        model(torch.zeros(1))
    assert model.config is mine and type(mine.n_head) is int
    assert attributes(model)["config.n_embd"] == 32 and attributes(model)["width"] == 5
